//! No circle between the files of a crate.
//!
//! A file depends on the file that defines what it names, in `use` and in paths, whatever
//! re-exports lie between. A `mod` and a re-export are no dependencies, so a folder's `mod.rs` may
//! hand its children's names on; once it uses what a child defines, no child may use what it
//! defines. What two files need of each other belongs into a third one below both.
//!
//! What only tests compile is not looked at, and methods are not: a call does not say whose it is.

mod graph;
mod modules;
mod source;

use std::collections::BTreeMap;

use graph::Graph;
use modules::{Arrow, Modules};
use source::Source;

use super::Violation;
use super::tree::Tree;

/// Roots of crates, at the end of their paths.
const ROOTS: [&str; 2] = ["/src/lib.rs", "/src/main.rs"];

/// Circles of every crate.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let texts: BTreeMap<&str, &str> =
        tree.rust().map(|file| (file.path.as_str(), file.text.as_str())).collect();
    let mut found = Vec::new();
    let mut arrows = Vec::new();
    for root in texts.keys().filter(|path| ROOTS.iter().any(|root| path.ends_with(root))) {
        arrows.extend(of_crate(root, &texts, &mut found));
    }
    for circle in Graph::new(&arrows).circles() {
        let named = |arrow: &&Arrow| format!("{} -> ({}) ", arrow.from, arrow.name);
        let shown: String = circle.iter().map(named).collect();
        let message = format!("circle: {shown}{}; move what both need below them", circle[0].from);
        found.push(Violation::new(&circle[0].from, circle[0].line, message));
    }
    found
}

/// Arrows between the files of the crate whose root this is.
fn of_crate(root: &str, texts: &BTreeMap<&str, &str>, found: &mut Vec<Violation>) -> Vec<Arrow> {
    let mut read = |path: &str| match Source::read(texts.get(path)?) {
        Ok(source) => Some((path.to_owned(), source)),
        Err((line, error)) => {
            found.push(Violation::new(path, line, format!("does not parse as Rust: {error}")));
            None
        }
    };
    let mut modules = Modules::default();
    if let Some((path, source)) = read(root) {
        let dir = root.rsplit_once('/').map_or("", |(dir, _)| dir);
        let mut module = |stem: &str| read(&format!("{stem}.rs")).or_else(|| read(&format!("{stem}/mod.rs")));
        modules.add((&path, source), (dir, None), &mut module);
    }
    modules.arrows()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "crates/x/src/a.rs";
    const B: &str = "crates/x/src/b.rs";
    const LIB: &str = "crates/x/src/lib.rs";

    /// What is found in a crate of `lib.rs`, `a.rs` and `b.rs`.
    fn of(lib: &str, a: &str, b: &str) -> Vec<Violation> {
        check(&Tree::of(&[(LIB, &format!("mod a; mod b; {lib}")), (A, a), (B, b)]))
    }

    #[test]
    fn arrows_in_one_direction_pass() {
        assert_eq!(of("", "use crate::b::B; struct A(B);", "pub struct B;"), []);
        assert_eq!(of("use a::A;", "use super::b::B; struct A(B);", "pub struct B;"), []);
    }

    #[test]
    fn a_circle_is_caught_however_the_names_are_written() {
        let a = "pub struct A; pub fn f() {} use crate::b::B; fn g(_: B) {}";
        for b in [
            "pub struct B; use crate::a::A; fn g(_: A) {}",
            "pub struct B; use crate::a::{f, A as C}; fn g(_: C) {}",
            "pub struct B; fn g() { crate::a::f() }",
            "pub struct B; use super::a; fn g() { a::f() }",
            "pub struct B; use super::a::{self}; fn g() { a::f() }",
            "pub struct B; use crate::a::*; fn g() { f() }",
            "pub struct B; fn g() { println!(\"{}\", crate::a::f()) }",
            "pub struct B; macro_rules! m { () => { $crate::a::f() } }",
            "pub struct B; #[serde(with = crate::a::f)] struct C;",
            "pub struct B; mod c { use super::super::a::A; fn g(_: A) {} }",
            "pub struct B; impl B { fn g(&self) -> Vec<super::a::A> { vec![] } }",
            // Through what the root hands on.
            "pub struct B; use crate::A; fn g(_: A) {}",
            "pub struct B; use crate::all::A; fn g(_: A) {}",
        ] {
            let found = of("pub use a::A; mod all { pub use crate::a::*; }", a, b);
            assert_eq!(found.len(), 1, "{b}: {found:?}");
            assert_eq!(found[0].path, A);
            let circle = format!("{A} -> (B) {B} -> (");
            assert!(found[0].message.contains(&circle) && found[0].message.contains(&format!(") {A};")));
        }
    }

    #[test]
    fn a_root_may_hand_names_on_and_no_more() {
        let child = "use crate::Thing; pub struct A(Thing);";
        assert_eq!(of("pub use a::A; pub struct Thing;", child, ""), []);
        for uses in ["pub use a::A; pub struct Thing; fn f(_: A) {}", "use a::A as B; pub struct Thing;"] {
            let found = of(uses, child, "");
            assert!(
                found.len() == 1 && found[0].message.contains("(Thing) crates/x/src/lib.rs"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn longer_circles_and_folders_are_caught() {
        let found = check(&Tree::of(&[
            ("crates/x/src/main.rs", "mod a; mod d;"),
            ("crates/x/src/a/mod.rs", "mod b; mod c; pub use c::C;"),
            ("crates/x/src/a/b.rs", "pub fn f() { crate::d::f() }"),
            ("crates/x/src/a/c.rs", "pub struct C; fn f() { super::b::f() }"),
            ("crates/x/src/d.rs", "use crate::a::C; pub fn f() { C; }"),
        ]));
        assert!(found.len() == 1 && found[0].message.matches(" -> ").count() == 3, "{found:?}");
    }

    #[test]
    fn tests_and_visibilities_are_no_arrows() {
        let b = "pub struct B; #[cfg(test)] mod tests { use crate::a::A; fn g(_: A) {} }
            #[cfg(test)] fn h() { crate::a::f() } impl B { #[test] fn i() { crate::a::f() } }
            pub(in crate::a) struct C; use a::a; mod self_named { fn f(a: u8) -> u8 { a } }";
        assert_eq!(of("", "pub struct A; pub fn f() {} use crate::b::B; fn g(_: B) {}", b), []);
    }

    #[test]
    fn a_file_that_does_not_parse_is_caught() {
        let found = of("", "fn f() {\n fn }", "");
        assert!(found.len() == 1 && found[0].path == A && found[0].line == 2, "{found:?}");
    }
}
