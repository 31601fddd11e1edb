//! Jinja2 as `apply_chat_template` sets it up, by way of `minijinja`.
//!
//! The library parses and runs templates. Chat templates are written for Jinja2 though, that is for
//! Python, and a prompt that differs from training by one character is a worse prompt. What is ours
//! is therefore the difference that can be made up for from outside: a rewriting of the few
//! constructs that its grammar lacks (`source`), Python's methods of strings and formats
//! (`methods`, `braces`, `spec`), texts of values (`repr`, `number`), `json.dumps` (`tojson`), and
//! the filters, tests and globals that it lacks or has differently. Where Python would raise, an
//! error is preferred to a prompt that may be wrong. The differences that remain are listed, with
//! their reasons, in `tests/text/jinja_differences.rs`.

mod braces;
mod containers;
mod filters;
mod html;
mod is_tests;
mod methods;
mod number;
mod numbers;
mod objects;
mod repr;
mod source;
mod spec;
mod split;
mod strftime;
mod strings;
mod tojson;
mod url;
mod values;
mod wrap;

pub(super) use source::prepare;
pub(super) use strftime::strftime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, Output, State, Value, escape_formatter};

/// The environment of `apply_chat_template`, without `raise_exception` and `strftime_now`.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(methods::call);
    env.set_formatter(print);
    filters::add(&mut env);
    is_tests::add(&mut env);
    objects::add(&mut env);
    Ok(env)
}

/// Prints `{{ value }}`.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            out.write_str(&repr::to_repr(state, value)?).map_err(Error::from)
        }
        _ => escape_formatter(out, state, value),
    }
}
