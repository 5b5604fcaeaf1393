//! `--filter`: lets a sink see only the lines that a CEL expression over the contract's fields takes.
//! The summary always passes, and records do. A missing or null field makes what asks about it
//! false; other errors of evaluation leave the line out and are counted.

mod errors;
mod fields;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators as op};
use cel::{Context, Env, ExecutionError, Program, Value};
use unicode_width::UnicodeWidthStr;

use super::Sink;
use crate::record::Record;
use crate::report::Output;
use crate::text::visible;

/// Different messages kept.
const MESSAGES_MAX: usize = 3;
/// Stack that [`Filter::compile`] needs for the deepest expression it takes, in bytes: the parser
/// recurses, and deeply.
pub const COMPILE_STACK: usize = 64 << 20;
/// Longer or deeper expressions than anybody writes are refused.
const LENGTH_MAX: usize = 2048;
const DEPTH_MAX: usize = 32;
const TREE_DEPTH_MAX: usize = 48;
const COMPARISONS: [&str; 7] = [
    op::EQUALS,
    op::NOT_EQUALS,
    op::LESS,
    op::LESS_EQUALS,
    op::GREATER,
    op::GREATER_EQUALS,
    op::IN,
];
const PREDICATES: [&str; 4] = ["contains", "startsWith", "endsWith", "matches"];

/// An expression, compiled.
#[derive(Clone)]
pub struct Filter {
    text: Arc<str>,
    expression: Arc<IdedExpr>,
    fields: Arc<[String]>,
    env: Arc<Env>,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Filter {}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Filter").field(&self.text).finish()
    }
}

impl Filter {
    /// Compiles, or says in several lines what is wrong and where. Call it on a thread with
    /// [`COMPILE_STACK`].
    pub fn compile(text: &str) -> Result<Self, String> {
        refuse_absurd(text)?;
        let env = Env::stdlib();
        let program = env.compile(text).map_err(|errors| match errors.errors.first() {
            Some(error) => {
                // "mismatched input 'x' expecting {…}": the long list helps nobody.
                let what = error.msg.split(" expecting ").next().unwrap_or_default();
                pointed(text, error.pos, what)
            }
            None => "not an expression".to_owned(),
        })?;
        if depth(program.expression()) > TREE_DEPTH_MAX {
            return Err("more steps inside one another than anybody can follow".to_owned());
        }
        let mut fields = BTreeSet::new();
        if let Err(unknown) = fields::check(program.expression(), &mut fields) {
            let at = place(&program, text, unknown.id, &unknown.name);
            return Err(pointed(text, at, &unknown.what));
        }
        let expression = boolean(program.expression(), &[], true);
        Ok(Self {
            text: text.into(),
            expression: Arc::new(expression),
            fields: fields.into_iter().collect(),
            env: Arc::new(env),
        })
    }

    /// As typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `output` is wanted.
    pub fn takes(&self, output: &Output) -> Result<bool, String> {
        let mut line = serde_json::to_value(output).map_err(|error| error.to_string())?;
        let mut context = Context::with_env(Arc::clone(&self.env));
        for field in self.fields.iter() {
            let value = line.get_mut(field).map(serde_json::Value::take).unwrap_or_default();
            context.add_variable_from_value(field.as_str(), converted(value));
        }
        match Value::resolve(&self.expression, &context) {
            Ok(Value::Bool(wanted)) => Ok(wanted),
            Ok(Value::Null) => Ok(false),
            Ok(other) => Err(format!("it gives {:?}, not true or false", other.type_of())),
            // A place in a list or map that is not there is a missing field.
            Err(ExecutionError::NoSuchKey(_) | ExecutionError::IndexOutOfBounds(_)) => Ok(false),
            Err(ExecutionError::NoSuchOverload(error)) if error.function() == "_._" => Ok(false),
            Err(error) => Err(errors::said(&error)),
        }
    }
}

/// A sink behind a filter.
pub struct Filtered {
    inner: Box<dyn Sink>,
    filter: Filter,
    failed: u64,
    messages: BTreeMap<String, u64>,
}

impl Filtered {
    /// `inner` sees what `filter` takes.
    pub fn new(inner: Box<dyn Sink>, filter: Filter) -> Self {
        Self { inner, filter, failed: 0, messages: BTreeMap::new() }
    }
}

impl Sink for Filtered {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.inner.record(record)
    }

    fn output(&mut self, output: &Output) -> io::Result<()> {
        if matches!(output, Output::Summary(_)) {
            return self.inner.output(output);
        }
        match self.filter.takes(output) {
            Ok(true) => self.inner.output(output),
            Ok(false) => Ok(()),
            Err(message) => {
                self.failed += 1;
                if self.messages.len() < MESSAGES_MAX || self.messages.contains_key(&message) {
                    *self.messages.entry(message).or_default() += 1;
                }
                Ok(())
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.inner.finish()?;
        if self.failed > 0 {
            let messages: Vec<String> =
                self.messages.iter().map(|(what, n)| format!("{} ({n})", visible(what))).collect();
            tracing::warn!(
                "--filter could not be evaluated on {} lines, which are left out: {}",
                self.failed,
                messages.join("; ")
            );
        }
        Ok(())
    }
}

/// JSON as CEL has it; integers are `int`, so that they can be computed with.
fn converted(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Bool(truth),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::Int(n),
            (None, Some(n)) => Value::UInt(n),
            (None, None) => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => text.into(),
        Json::Array(items) => items.into_iter().map(converted).collect::<Vec<_>>().into(),
        Json::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (key, converted(value)));
            fields.collect::<HashMap<String, Value>>().into()
        }
    }
}

fn refuse_absurd(text: &str) -> Result<(), String> {
    if text.len() > LENGTH_MAX {
        return Err(format!("longer than {LENGTH_MAX} bytes"));
    }
    let mut depth = 0usize;
    let mut column = (1, 0);
    for c in text.chars() {
        column = if c == '\n' { (column.0 + 1, 0) } else { (column.0, column.1 + 1) };
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(pointed(text, column, &format!("nested deeper than {DEPTH_MAX}")));
        }
    }
    Ok(())
}

fn depth(node: &IdedExpr) -> usize {
    let inner = match &node.expr {
        Expr::Comprehension(all) => depth(&all.loop_step),
        _ => 0,
    };
    1 + children(node).into_iter().map(depth).max().unwrap_or(0).max(inner)
}

/// Line and column, both from 1, of `name` in the node.
fn place(program: &Program, text: &str, id: u64, name: &str) -> (isize, isize) {
    let at = program.source_info().offset_for(id).map_or(0, |(start, _)| start as usize);
    // A node of a path may begin before the name that is meant.
    let skipped: usize = text.chars().take(at).map(char::len_utf8).sum();
    let rest = text.get(skipped..).unwrap_or_default();
    let ahead = rest.match_indices(name).find(|(found, _)| is_word(rest, *found, name.len()));
    let ahead = ahead.and_then(|(found, _)| rest.get(..found)).unwrap_or_default();
    let at = at + ahead.chars().count();
    let before: String = text.chars().take(at).collect();
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count());
    (line as isize + 1, column as isize + 1)
}

/// No letter or digit stands at either side.
fn is_word(text: &str, at: usize, len: usize) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let before = text.get(..at).and_then(|before| before.chars().next_back());
    let after = text.get(at + len..).and_then(|after| after.chars().next());
    !before.is_some_and(part) && !after.is_some_and(part)
}

/// `what`, the line it is about and a mark under the place.
fn pointed(text: &str, (line, column): (isize, isize), what: &str) -> String {
    let index = |n: isize| usize::try_from(n - 1).unwrap_or(0);
    let shown = visible(text.lines().nth(index(line)).unwrap_or_default());
    let before: String = shown.chars().take(index(column)).collect();
    format!("{}\n  {shown}\n  {}^", visible(what), " ".repeat(before.width()))
}

fn children(node: &IdedExpr) -> Vec<&IdedExpr> {
    use cel::common::ast::EntryExpr;
    match &node.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map
            .entries
            .iter()
            .flat_map(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
                EntryExpr::StructField(field) => vec![&field.value],
            })
            .collect(),
        Expr::Comprehension(all) => vec![&all.iter_range],
        _ => Vec::new(),
    }
}

/// `node`, which is true or false, guarded against missing and null fields. `certain`: it is known
/// to be one of them; else what only may be is left alone.
fn boolean(node: &IdedExpr, accumulators: &[String], certain: bool) -> IdedExpr {
    let same = |expr| IdedExpr { id: node.id, expr };
    if let Expr::Call(call) = &node.expr {
        let name = call.func_name.as_str();
        if matches!(name, op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT) {
            let args = call.args.iter().map(|arg| boolean(arg, accumulators, true)).collect();
            return same(Expr::Call(CallExpr { args, ..call.clone() }));
        }
        if name == op::CONDITIONAL {
            let part = |(n, arg)| boolean(arg, accumulators, certain || n == 0);
            let args = call.args.iter().enumerate().map(part).collect();
            return same(Expr::Call(CallExpr { args, ..call.clone() }));
        }
    }
    let asks = match &node.expr {
        Expr::Call(call) => {
            let name = call.func_name.as_str();
            COMPARISONS.contains(&name) || PREDICATES.contains(&name)
        }
        Expr::Select(select) => select.test,
        _ => false,
    };
    let inner = inside(node, accumulators);
    if !(asks || certain) {
        return inner;
    }
    let (negate, nullable) = against_null(node);
    let mut chains = Vec::new();
    fields_of(node, accumulators, &mut chains);
    let mut guards: Vec<IdedExpr> = Vec::new();
    for chain in chains {
        guard(chain, nullable, &mut guards);
    }
    let all = guards.into_iter().reduce(|a, b| call(op::LOGICAL_AND, vec![a, b]));
    match all {
        None => inner,
        // What is missing is null.
        Some(all) => {
            let missing = Expr::Literal(LiteralValue::Boolean(negate.into()));
            let missing = IdedExpr { id: node.id, expr: missing };
            call(op::CONDITIONAL, vec![all, inner, missing])
        }
    }
}

/// The expressions inside `node` that are true or false themselves, guarded.
fn inside(node: &IdedExpr, accumulators: &[String]) -> IdedExpr {
    let mut node = node.clone();
    match &mut node.expr {
        Expr::Comprehension(all) => {
            let mut own = accumulators.to_vec();
            own.push(all.accu_var.clone());
            all.iter_range = inside(&all.iter_range, accumulators);
            all.loop_step = boolean(&all.loop_step, &own, false);
        }
        Expr::Call(call) => {
            for part in call.target.as_deref_mut().into_iter().chain(&mut call.args) {
                *part = inside(part, accumulators);
            }
        }
        Expr::Select(select) => *select.operand = inside(&select.operand, accumulators),
        _ => {}
    }
    node
}

/// `x == null` and `x != null` are about null: (true if missing, null is fine).
fn against_null(node: &IdedExpr) -> (bool, bool) {
    let Expr::Call(call) = &node.expr else { return (false, false) };
    let null = call.args.iter().any(|a| matches!(a.expr, Expr::Literal(LiteralValue::Null)));
    match call.func_name.as_str() {
        op::EQUALS if null => (true, true),
        op::NOT_EQUALS if null => (false, true),
        _ => (false, false),
    }
}

/// Longest chains of fields (`a.b.c`) in `node`, not those of other scopes.
fn fields_of<'a>(node: &'a IdedExpr, accumulators: &[String], chains: &mut Vec<&'a IdedExpr>) {
    match &node.expr {
        Expr::Ident(name) if accumulators.contains(name) => {}
        Expr::Ident(_) => chains.push(node),
        Expr::Select(select) if select.test => fields_of(&select.operand, accumulators, chains),
        Expr::Select(_) if is_chain(node) => chains.push(node),
        _ => {
            for child in children(node) {
                fields_of(child, accumulators, chains);
            }
        }
    }
}

fn is_chain(node: &IdedExpr) -> bool {
    match &node.expr {
        Expr::Ident(_) => true,
        Expr::Select(select) => !select.test && is_chain(&select.operand),
        _ => false,
    }
}

/// `a != null && has(a.b) && a.b != null && …`
fn guard(chain: &IdedExpr, nullable: bool, guards: &mut Vec<IdedExpr>) {
    if let Expr::Select(select) = &chain.expr {
        guard(&select.operand, false, guards);
        let test = SelectExpr { test: true, ..select.clone() };
        guards.push(IdedExpr { id: chain.id, expr: Expr::Select(test) });
    }
    if !nullable {
        let null = IdedExpr { id: chain.id, expr: Expr::Literal(LiteralValue::Null) };
        guards.push(call(op::NOT_EQUALS, vec![chain.clone(), null]));
    }
}

fn call(name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    let id = args.first().map_or(0, |arg| arg.id);
    let call = CallExpr { func_name: name.to_owned(), target: None, args };
    IdedExpr { id, expr: Expr::Call(call) }
}

#[cfg(test)]
mod tests;
