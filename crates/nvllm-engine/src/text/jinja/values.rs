//! What Python's rules ask of minijinja's values, and how arguments meet parameters.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

pub(super) type Result<T> = std::result::Result<T, Error>;

pub(super) fn error(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail.into())
}

/// An integer or a boolean, which Python takes for one.
pub(super) fn as_int(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(value.is_true().into()),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

pub(super) fn as_number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Number if !value.is_integer() => f64::try_from(value.clone()).ok(),
        _ => as_int(value).map(|value| value as f64),
    }
}

pub(super) fn is_float(value: &Value) -> bool {
    value.kind() == ValueKind::Number && !value.is_integer()
}

/// `namespace()`, which is an object and no dictionary in Jinja2.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"))
}

/// An integer argument.
pub(super) fn int(value: &Value) -> Result<i128> {
    as_int(value).ok_or_else(|| error(format!("{} cannot be taken for an integer", value.kind())))
}

/// A string argument.
pub(super) fn text(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| error(format!("expected a string, not {}", value.kind())))
}

/// An integer argument that is a size: negative counts as zero, and beyond what memory holds is
/// beyond every budget.
pub(super) fn size(value: &Value) -> Result<usize> {
    Ok(usize::try_from(int(value)?.max(0)).unwrap_or(usize::MAX))
}

/// An optional size.
#[expect(clippy::needless_pass_by_value, reason = "as the arguments come")]
pub(super) fn size_or(value: Option<Value>, default: usize) -> Result<usize> {
    value.as_ref().map_or(Ok(default), size)
}

/// An argument that `None` and absence leave at its default.
pub(super) fn given(value: Option<Value>) -> Option<Value> {
    value.filter(|value| !value.is_none())
}

/// Whether an optional flag is set.
pub(super) fn flag(value: Option<Value>) -> bool {
    given(value).is_some_and(|value| value.is_true())
}

/// A value that is used and so must exist.
pub(super) fn defined(value: &Value) -> Result<&Value> {
    if value.is_undefined() { Err(Error::from(ErrorKind::UndefinedError)) } else { Ok(value) }
}

/// Takes text that is about to be made out of the budget.
pub(super) fn charge(state: &State<'_, '_>, bytes: usize) -> Result<()> {
    state.consume_fuel(bytes as u64 / 64)
}

/// Positional and named arguments.
#[expect(clippy::type_complexity, reason = "positional and named arguments")]
pub(super) fn split(args: &[Value]) -> Result<(&[Value], Vec<(String, Value)>)> {
    let Some((last, positional)) = args.split_last().filter(|(last, _)| last.is_kwargs()) else {
        return Ok((args, Vec::new()));
    };
    let kwargs = Kwargs::try_from(last.clone())?;
    let named = kwargs.args().map(|name| Ok((name.to_owned(), kwargs.get::<Value>(name)?)));
    Ok((positional, named.collect::<Result<_>>()?))
}

/// Values for `names`, of which the first `required` must be there; an empty name is only
/// positional. `what` is the function's name.
pub(super) fn bind<const N: usize>(
    what: &str,
    args: &[Value],
    names: [&str; N],
    required: usize,
) -> Result<[Option<Value>; N]> {
    let (positional, named) = split(args)?;
    if positional.len() > N {
        return Err(error(format!("{what}() takes at most {N} arguments ({} given)", positional.len())));
    }
    let mut bound = [const { None }; N];
    for (slot, value) in bound.iter_mut().zip(positional) {
        *slot = Some(value.clone());
    }
    for (name, value) in named {
        let Some(at) = names.iter().position(|known| *known == name && !name.is_empty()) else {
            return Err(error(format!("{what}() got an unexpected keyword argument '{name}'")));
        };
        if bound[at].replace(value).is_some() {
            return Err(error(format!("{what}() got multiple values for argument '{name}'")));
        }
    }
    match bound.iter().take(required).position(Option::is_none) {
        Some(at) => Err(error(format!("{what}() misses its argument {} ({})", at + 1, names[at]))),
        None => Ok(bound),
    }
}

/// A string as safe as the one that it was made of.
pub(super) fn like(source: &Value, text: impl Into<String>) -> Value {
    if source.is_safe() { Value::from_safe_string(text.into()) } else { Value::from(text.into()) }
}
