//! Errors of evaluating a `--filter`, in words that are the same for equal errors.

use cel::{ExecutionError, Value};

/// What went wrong, without the values it went wrong with: they differ from line to line, and the
/// fields of a map have no order, while equal errors are counted as one.
pub(super) fn said(error: &ExecutionError) -> String {
    use ExecutionError as E;
    let kind = Value::type_of;
    match error {
        E::UnsupportedTargetType { target } => format!("no such function of a {}", kind(target)),
        E::NotSupportedAsMethod { method, target } => {
            format!("a {} has no method {method}", kind(target))
        }
        E::UnsupportedKeyType(key) => format!("a {} cannot be a key", kind(key)),
        // `got` is a type or a whole value.
        E::UnexpectedType { want, .. } => format!("a value is not of type {want}"),
        E::ValuesNotComparable(a, b) => {
            format!("{} and {} cannot be compared", kind(a), kind(b))
        }
        E::UnsupportedBinaryOperator(name, a, b) => {
            format!("no operator {name} for {} and {}", kind(a), kind(b))
        }
        E::UnsupportedIndex(index, of) => {
            format!("a {} is no index of a {}", kind(index), kind(of))
        }
        // The last line says what is wrong with a pattern, those before repeat it.
        E::FunctionError { function, message } if function == "matches" => {
            format!("matches: not a pattern: {}", message.lines().last().unwrap_or_default())
        }
        E::FunctionError { function, .. } => format!("{function}() cannot take a value"),
        E::DivisionByZero(_) => "division by zero".to_owned(),
        E::RemainderByZero(_) => "remainder of a division by zero".to_owned(),
        E::Overflow(name, ..) => format!("the result of {name} is out of range"),
        E::DuplicateKey(_) => "a map has a key twice".to_owned(),
        E::NoSuchOverload(_)
        | E::UndeclaredReference(_)
        | E::InvalidArgumentCount { .. }
        | E::MissingArgumentOrTarget => error.to_string(),
        _ => "a step of it is not supported".to_owned(),
    }
}
