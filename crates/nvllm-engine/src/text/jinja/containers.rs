//! Methods of dictionaries and lists. Those that would change one are not there, as in Jinja2's
//! sandbox.

use minijinja::value::Tuple;
use minijinja::{Error, ErrorKind, Value};

use super::values::{Result, bind, error};

pub(super) fn map(receiver: &Value, name: &str, args: &[Value]) -> Result<Value> {
    if name == "get" {
        let [key, default] = bind(name, args, ["", ""], 1)?;
        let found = receiver.get_item(&key.unwrap_or_default())?;
        return Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found });
    }
    if !["items", "keys", "values", "copy"].contains(&name) {
        return Err(Error::from(ErrorKind::UnknownMethod));
    }
    bind::<0>(name, args, [], 0)?;
    if name == "copy" {
        return Ok(receiver.clone());
    }
    let entry = |key: Value| -> Result<Value> {
        Ok(match name {
            "keys" => key,
            "values" => receiver.get_item(&key)?,
            _ => Value::from(Tuple::new(vec![key.clone(), receiver.get_item(&key)?])),
        })
    };
    let entries: Result<Vec<Value>> = receiver.try_iter()?.map(entry).collect();
    entries.map(Value::from)
}

pub(super) fn sequence(receiver: &Value, name: &str, args: &[Value]) -> Result<Value> {
    match name {
        "count" => {
            let [wanted] = bind(name, args, [""], 1)?;
            let wanted = wanted.unwrap_or_default();
            Ok(Value::from(receiver.try_iter()?.filter(|item| *item == wanted).count()))
        }
        "index" => {
            let [wanted] = bind(name, args, [""], 1)?;
            let wanted = wanted.unwrap_or_default();
            let at = receiver.try_iter()?.position(|item| item == wanted);
            at.map(Value::from).ok_or_else(|| error("the value is not in the list"))
        }
        "copy" if !receiver.is_tuple() => {
            bind::<0>(name, args, [], 0)?;
            Ok(receiver.clone())
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}
