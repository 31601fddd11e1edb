//! Constants of a kernel file as Rust has them.
//!
//! Read are, outside of all braces: `constexpr int NAME = ..;`, `constexpr int name(int a, bool b)
//! { return ..; }` (`bool` likewise), `#define NAME ..`, and the members of an `enum`. What says
//! anything else, or names what is not read, is left out: the crate does not compile where it uses
//! such a name.

use super::expr::{Known, Names, Reader, Type};
use super::lexer::{Token, lex};

/// A file's constants.
#[derive(Default)]
pub(crate) struct File {
    /// Names in `#include ".."`.
    pub(crate) includes: Vec<String>,
    /// Its own names.
    pub(crate) names: Names,
    /// Its own constants and functions, each a line of Rust behind its name.
    pub(crate) items: Vec<(String, String)>,
}

/// The constants of `text`; `included` finds the names of a file that it includes, and of those
/// that this one includes.
pub(crate) fn read(text: &str, mut included: impl FnMut(&str) -> Names) -> File {
    let (tokens, mut file, mut known) = (lex(text), File::default(), Names::new());
    let mut reader = Reader { rest: &tokens };
    while let Some(first) = reader.rest.first() {
        let item = Reader { rest: reader.rest };
        match first {
            Token::Include(name) => {
                known.extend(included(name));
                file.includes.push(name.clone());
                reader.next();
            }
            Token::Define(name) => {
                let found = define(item, &known, name);
                skip_define(&mut reader);
                add(&mut file, &mut known, found.into_iter().collect());
            }
            Token::Name(name) => {
                let found = match name.as_str() {
                    "constexpr" => constants(item, &known)
                        .or_else(|| function(Reader { rest: reader.rest }, &known).map(|one| vec![one])),
                    "enum" => members(item, &known),
                    _ => None,
                };
                add(&mut file, &mut known, found.unwrap_or_default());
                skip(&mut reader);
            }
            _ => skip(&mut reader),
        }
    }
    file
}

/// A name, what it stands for, and its line.
type Item = (String, Known, String);

fn add(file: &mut File, known: &mut Names, items: Vec<Item>) {
    for (name, of, line) in items {
        known.insert(name.clone(), of.clone());
        if file.names.insert(name.clone(), of).is_none() {
            file.items.push((name, line));
        } else {
            // Which of two values it has, only the compiler knows.
            file.items.retain(|(known, _)| *known != name);
        }
    }
}

fn constant(name: &str, value: &str, kind: Type) -> Item {
    let line = format!("pub(crate) const {name}: {} = {value};", kind.rust());
    (name.into(), Known::Value(kind), line)
}

/// `constexpr int A = .., B = ..;`
fn constants(mut item: Reader<'_>, known: &Names) -> Option<Vec<Item>> {
    item.next();
    let (kind, mut known) = (Type::named(item.next())?, known.clone());
    let mut found = Vec::new();
    loop {
        let name = item.name()?;
        item.expect("=")?;
        let (value, of) = item.expression(&known)?;
        if of != kind {
            return None;
        }
        known.insert(name.into(), Known::Value(kind));
        found.push(constant(name, &value, kind));
        if item.takes(";") {
            return Some(found);
        }
        item.expect(",")?;
    }
}

/// `constexpr int f(int a, bool b) { return ..; }`
fn function(mut item: Reader<'_>, known: &Names) -> Option<Item> {
    item.next();
    let (gives, mut known) = (Type::named(item.next())?, known.clone());
    let name = item.name()?;
    item.expect("(")?;
    let (mut of, mut parameters) = (Vec::new(), Vec::new());
    while !item.takes(")") {
        if !of.is_empty() {
            item.expect(",")?;
        }
        let (kind, parameter) = (Type::named(item.next())?, item.name()?);
        known.insert(parameter.into(), Known::Value(kind));
        parameters.push(format!("{parameter}: {}", kind.rust()));
        of.push(kind);
    }
    item.expect("{")?;
    if item.name()? != "return" {
        return None;
    }
    let (value, found) = item.expression(&known)?;
    item.expect(";")?;
    item.expect("}")?;
    let line =
        format!("pub(crate) const fn {name}({}) -> {} {{ {value} }}", parameters.join(", "), gives.rust());
    (found == gives).then(|| (name.into(), Known::Function(of, gives), line))
}

/// `#define NAME ..` of a whole number.
fn define(mut item: Reader<'_>, known: &Names, name: &str) -> Option<Item> {
    item.next();
    let (value, kind) = item.expression(known)?;
    (item.next()? == &Token::DefineEnd && kind == Type::Int).then(|| constant(name, &value, kind))
}

/// `enum Name { A = .., B };`
fn members(mut item: Reader<'_>, known: &Names) -> Option<Vec<Item>> {
    item.next();
    item.name()?;
    item.expect("{")?;
    let (mut found, mut next): (Vec<Item>, _) = (Vec::new(), "0".to_owned());
    while !item.takes("}") {
        let name = item.name()?;
        let value = if item.takes("=") { item.expression(known)?.0 } else { next };
        next = format!("{name} + 1");
        found.push(constant(name, &value, Type::Int));
        if !item.takes(",") {
            item.expect("}")?;
            break;
        }
    }
    Some(found)
}

fn skip_define(reader: &mut Reader<'_>) {
    while reader.next().is_some_and(|token| *token != Token::DefineEnd) {}
}

/// To the end of what begins here: behind its semicolon or its braces, or before a directive.
fn skip(reader: &mut Reader<'_>) {
    let mut depth = 0;
    while let Some(token) = reader.rest.first() {
        if depth == 0 && matches!(token, Token::Include(_) | Token::Define(_)) {
            return;
        }
        reader.next();
        match token {
            Token::Symbol("{") => depth += 1,
            Token::Symbol("}") if depth <= 1 => return,
            Token::Symbol("}") => depth -= 1,
            Token::Symbol(";") if depth == 0 => return,
            _ => {}
        }
    }
}
