//! Objects that minijinja lacks: `cycler`, `joiner`, and macros that take more arguments than they
//! name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::source::OPEN_MACRO;
use super::values::{Result, bind, error, split};

pub(super) fn add(env: &mut Environment<'static>) {
    env.add_function("cycler", |items: Rest<Value>| -> Result<Value> {
        if items.is_empty() {
            return Err(error("cycler() needs at least one item"));
        }
        Ok(Value::from_object(Cycler { items: items.0, at: AtomicUsize::new(0) }))
    });
    env.add_function("joiner", |args: Rest<ValueOrKwargs>| -> Result<Value> {
        let [separator] = bind("joiner", &args.into_values(), ["sep"], 0)?;
        let separator = separator.unwrap_or_else(|| Value::from(", "));
        Ok(Value::from_object(Joiner { separator, used: AtomicBool::new(false) }))
    });
    env.add_function("dict", |args: Rest<ValueOrKwargs>| dict(&args.into_values()));
    env.add_function(OPEN_MACRO, |inner: Value, names: Vec<String>, varargs: bool, kwargs: bool| {
        Value::from_object(OpenMacro { inner, names, varargs, kwargs })
    });
}

/// `dict(mapping or pairs, name=value, ..)`
fn dict(args: &[Value]) -> Result<Value> {
    let (positional, named) = split(args)?;
    let mut entries: Vec<(Value, Value)> = Vec::new();
    for source in positional.iter().take(1) {
        for item in source.try_iter()? {
            if source.kind() == ValueKind::Map {
                entries.push((item.clone(), source.get_item(&item)?));
                continue;
            }
            let [key, value] = <[Value; 2]>::try_from(item.try_iter()?.collect::<Vec<_>>())
                .map_err(|_| error("dict() needs pairs of a key and a value"))?;
            entries.push((key, value));
        }
    }
    if positional.len() > 1 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    entries.extend(named.into_iter().map(|(name, value)| (Value::from(name), value)));
    Ok(Value::from_pairs(entries))
}

#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.items[self.at.load(Ordering::Relaxed)].clone())
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value> {
        bind::<0>(method, args, [], 0)?;
        match method {
            "next" => {
                let at = self.at.load(Ordering::Relaxed);
                self.at.store((at + 1) % self.items.len(), Ordering::Relaxed);
                Ok(self.items[at].clone())
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

#[derive(Debug)]
struct Joiner {
    separator: Value,
    used: AtomicBool,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value> {
        bind::<0>("joiner", args, [], 0)?;
        Ok(if self.used.swap(true, Ordering::Relaxed) { self.separator.clone() } else { Value::from("") })
    }
}

/// A macro that looks at `varargs` or `kwargs`.
#[derive(Debug)]
struct OpenMacro {
    inner: Value,
    names: Vec<String>,
    varargs: bool,
    kwargs: bool,
}

impl Object for OpenMacro {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value> {
        let (positional, named) = split(args)?;
        let (own, more) = positional.split_at(positional.len().min(self.names.len()));
        let known = |name: &String| name == "caller" || self.names.contains(name);
        let (mut named, unknown): (Vec<_>, Vec<_>) = named.into_iter().partition(|(name, _)| known(name));
        if !more.is_empty() && !self.varargs {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        if let Some((name, _)) = unknown.first().filter(|_| !self.kwargs) {
            return Err(error(format!("the macro has no argument `{name}`")));
        }
        if self.varargs {
            named.push(("varargs".to_owned(), Value::from(Tuple::new(more.to_vec()))));
        }
        if self.kwargs {
            named.push(("kwargs".to_owned(), Value::from_pairs(unknown)));
        }
        let mut args = own.to_vec();
        args.push(Value::from(named.into_iter().collect::<Kwargs>()));
        self.inner.call(state, &args)
    }
}
