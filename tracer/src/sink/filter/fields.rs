//! Which fields there are: every path of an expression is held against the contract's schema, so that
//! a mistyped one is an error and not an empty answer. Types of values are left to evaluation.

use std::collections::BTreeSet;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators as op,
};
use serde_json::Value;

use super::children;
use crate::sink::schema;

/// `$ref`s behind one another.
const REFS_MAX: usize = 8;

/// A path that leads nowhere.
#[derive(Debug)]
pub(super) struct Unknown {
    pub(super) what: String,
    /// Node to point at.
    pub(super) id: u64,
    /// The name in question.
    pub(super) name: String,
}

/// What a value can be, by the schema; `None`: anything.
type Shape<'a> = Option<Vec<&'a Value>>;

/// Variables of the comprehensions around, innermost last.
type Bound<'a> = Vec<(String, Shape<'a>)>;

/// The first path of `node` that is in no type of line; top-level fields go to `used`.
pub(super) fn check(node: &IdedExpr, used: &mut BTreeSet<String>) -> Result<(), Unknown> {
    let root = schema::schema().to_value();
    let mut fields = Fields { root: &root, used };
    fields.shape(node, &mut Vec::new()).map(|_| ())
}

struct Fields<'a, 'u> {
    root: &'a Value,
    used: &'u mut BTreeSet<String>,
}

impl<'a> Fields<'a, '_> {
    fn shape(&mut self, node: &IdedExpr, bound: &mut Bound<'a>) -> Result<Shape<'a>, Unknown> {
        match &node.expr {
            Expr::Ident(name) => {
                if let Some((_, shape)) = bound.iter().rev().find(|(own, _)| own == name) {
                    return Ok(shape.clone());
                }
                let lines = self.plain(vec![self.root]);
                let found = member(&lines, name).filter(|found| !found.is_empty());
                let Some(found) = found else {
                    let what = format!("no line has a field {name}");
                    return Err(Unknown { what, id: node.id, name: name.clone() });
                };
                self.used.insert(name.clone());
                Ok(Some(found))
            }
            Expr::Select(select) => {
                let of = self.shape(&select.operand, bound)?;
                self.field(of, &select.operand, &select.field, node.id)
            }
            Expr::Call(call) if call.func_name == op::INDEX => self.index(call, bound),
            Expr::Comprehension(all) => self.comprehension(all, bound),
            _ => {
                for child in children(node) {
                    self.shape(child, bound)?;
                }
                Ok(None)
            }
        }
    }

    fn index(&mut self, call: &CallExpr, bound: &mut Bound<'a>) -> Result<Shape<'a>, Unknown> {
        let [of, at] = call.args.as_slice() else { return Ok(None) };
        let shape = self.shape(of, bound)?;
        self.shape(at, bound)?;
        match &at.expr {
            Expr::Literal(LiteralValue::String(name)) => self.field(shape, of, name, at.id),
            _ => Ok(self.items(shape)),
        }
    }

    fn comprehension(
        &mut self,
        all: &ComprehensionExpr,
        bound: &mut Bound<'a>,
    ) -> Result<Shape<'a>, Unknown> {
        let range = self.shape(&all.iter_range, bound)?;
        let before = bound.len();
        bound.push((all.accu_var.clone(), None));
        match &all.iter_var2 {
            // Index or key first.
            Some(second) => {
                bound.push((all.iter_var.clone(), None));
                bound.push((second.clone(), self.items(range)));
            }
            None => bound.push((all.iter_var.clone(), self.items(range))),
        }
        for part in [&all.accu_init, &all.loop_cond, &all.loop_step, &all.result] {
            self.shape(part, bound)?;
        }
        bound.truncate(before);
        Ok(None)
    }

    fn field(
        &self,
        of: Shape<'a>,
        operand: &IdedExpr,
        name: &str,
        id: u64,
    ) -> Result<Shape<'a>, Unknown> {
        let Some(of) = of else { return Ok(None) };
        let of = self.plain(of);
        match member(&of, name) {
            None => Ok(None),
            Some(found) if !found.is_empty() => Ok(Some(found)),
            Some(_) => {
                let path = path(operand).unwrap_or_else(|| "it".to_owned());
                let list = of.iter().any(|schema| schema.get("items").is_some());
                let what = match list {
                    true => format!("{path} is a list; its parts have fields"),
                    false => format!("{path} has no field {name}"),
                };
                Err(Unknown { what, id, name: name.to_owned() })
            }
        }
    }

    fn items(&self, of: Shape<'a>) -> Shape<'a> {
        let items: Vec<_> = self.plain(of?).iter().filter_map(|s| s.get("items")).collect();
        (!items.is_empty()).then_some(items)
    }

    /// Schemas without references and alternatives.
    fn plain(&self, schemas: Vec<&'a Value>) -> Vec<&'a Value> {
        let mut all = Vec::new();
        let mut open: Vec<(&Value, usize)> = schemas.into_iter().map(|s| (s, 0)).collect();
        while let Some((schema, depth)) = open.pop() {
            let name = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
            let behind = name.map(|name| &self.root["$defs"][name]);
            let among =
                ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|k| schema[k].as_array());
            if depth < REFS_MAX {
                open.extend(among.flatten().chain(behind).map(|schema| (schema, depth + 1)));
            }
            all.push(schema);
        }
        all
    }
}

/// Schemas of the field in any of `schemas`; `None`: there may be any fields.
fn member<'a>(schemas: &[&'a Value], name: &str) -> Shape<'a> {
    if schemas.iter().any(|schema| schema.get("additionalProperties").is_some_and(is_open)) {
        return None;
    }
    Some(schemas.iter().filter_map(|schema| schema.get("properties")?.get(name)).collect())
}

fn is_open(additional: &Value) -> bool {
    additional != &Value::Bool(false)
}

/// `a.b.c` as typed.
fn path(node: &IdedExpr) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) => Some(format!("{}.{}", path(&select.operand)?, select.field)),
        _ => None,
    }
}
