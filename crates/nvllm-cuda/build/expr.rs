//! Expressions of whole numbers and truth values, from C++ to Rust.

use std::collections::HashMap;

use super::lexer::Token;

/// A type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// `int`, which becomes `usize`: sizes and counts are never negative.
    Int,
    Bool,
}

impl Type {
    /// The type of this name.
    pub(crate) fn named(token: Option<&Token>) -> Option<Self> {
        match token? {
            Token::Name(name) if name == "int" => Some(Self::Int),
            Token::Name(name) if name == "bool" => Some(Self::Bool),
            _ => None,
        }
    }

    /// Its name in Rust.
    pub(crate) fn rust(self) -> &'static str {
        if self == Self::Int { "usize" } else { "bool" }
    }
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Value(Type),
    /// Parameters, and what comes back.
    Function(Vec<Type>, Type),
}

/// What names stand for.
pub(crate) type Names = HashMap<String, Known>;

/// Reads tokens one after another.
pub(crate) struct Reader<'a> {
    pub(crate) rest: &'a [Token],
}

impl<'a> Reader<'a> {
    pub(crate) fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// Takes the symbol if it comes next.
    pub(crate) fn takes(&mut self, symbol: &str) -> bool {
        let found = matches!(self.rest.first(), Some(Token::Symbol(next)) if *next == symbol);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    /// Takes the symbol, which must come next.
    pub(crate) fn expect(&mut self, symbol: &str) -> Option<()> {
        self.takes(symbol).then_some(())
    }

    pub(crate) fn name(&mut self) -> Option<&'a str> {
        match self.next()? {
            Token::Name(name) => Some(name),
            _ => None,
        }
    }

    /// An expression as Rust has it; None where it is of anything else, or of names that are not
    /// known.
    pub(crate) fn expression(&mut self, names: &Names) -> Option<(String, Type)> {
        let (condition, kind) = self.binary(names, 1)?;
        if !self.takes("?") {
            return Some((condition, kind));
        }
        let (yes, yes_kind) = self.expression(names)?;
        self.expect(":")?;
        let (no, no_kind) = self.expression(names)?;
        let alike = kind == Type::Bool && yes_kind == no_kind;
        alike.then(|| (format!("(if {condition} {{ {yes} }} else {{ {no} }})"), yes_kind))
    }

    /// Operators that bind at least as strongly as `least`.
    fn binary(&mut self, names: &Names, least: u8) -> Option<(String, Type)> {
        let (mut left, mut kind) = self.operand(names)?;
        while let Some(Token::Symbol(operator)) = self.rest.first()
            && let Some((strength, of, gives)) = binding(operator)
            && strength >= least
        {
            self.next();
            let (right, right_kind) = self.binary(names, strength + 1)?;
            if [kind, right_kind] != [of; 2] {
                return None;
            }
            (left, kind) = (format!("({left} {operator} {right})"), gives);
        }
        Some((left, kind))
    }

    fn operand(&mut self, names: &Names) -> Option<(String, Type)> {
        if self.takes("!") {
            let (of, kind) = self.operand(names)?;
            return (kind == Type::Bool).then(|| (format!("!{of}"), kind));
        }
        if self.takes("(") {
            let inside = self.expression(names)?;
            return self.takes(")").then_some(inside);
        }
        match self.next()? {
            Token::Number(number) => Some((number.to_string(), Type::Int)),
            Token::Name(name) if name == "true" || name == "false" => Some((name.clone(), Type::Bool)),
            Token::Name(name) => match names.get(name)? {
                Known::Value(kind) => Some((name.clone(), *kind)),
                Known::Function(of, gives) => Some((self.call(names, name, of)?, *gives)),
            },
            _ => None,
        }
    }

    fn call(&mut self, names: &Names, name: &str, of: &[Type]) -> Option<String> {
        self.expect("(")?;
        let mut arguments = Vec::new();
        for (at, kind) in of.iter().enumerate() {
            if at > 0 {
                self.expect(",")?;
            }
            let (argument, found) = self.expression(names)?;
            if found != *kind {
                return None;
            }
            arguments.push(argument);
        }
        self.takes(")").then(|| format!("{name}({})", arguments.join(", ")))
    }
}

/// How strongly an operator binds, of what it is and what it gives.
fn binding(operator: &str) -> Option<(u8, Type, Type)> {
    Some(match operator {
        "||" => (1, Type::Bool, Type::Bool),
        "&&" => (2, Type::Bool, Type::Bool),
        "==" | "!=" => (3, Type::Int, Type::Bool),
        "<" | "<=" | ">" | ">=" => (4, Type::Int, Type::Bool),
        "<<" | ">>" => (5, Type::Int, Type::Int),
        "+" | "-" => (6, Type::Int, Type::Int),
        "*" | "/" | "%" => (7, Type::Int, Type::Int),
        _ => return None,
    })
}
