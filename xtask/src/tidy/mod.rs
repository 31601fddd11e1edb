//! The rules of the house, as code. They run as `cargo xtask tidy` and inside the tests.
//!
//! A rule that is only written down is broken within a month and argued about in every review. Each
//! check here takes the tree of files as a value and returns what it found, so that each has a test
//! with a planted fault. Rust is read as tokens, not as text: a rule neither trips over a string or
//! a comment nor misses code inside a macro.
//!
//! Deliberately absent: what rustfmt, clippy and the compiler check already.

mod arrows;
mod budgets;
mod circles;
mod comments;
mod confined;
mod noise;
mod stems;
mod tokens;
pub(crate) mod tree;
mod unsafety;
mod violation;
mod words;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use tree::Tree;
pub(crate) use violation::Violation;

type Check = fn(&Tree) -> Vec<Violation>;

/// All checks.
const CHECKS: [Check; 9] = [
    arrows::check,
    budgets::check,
    circles::check,
    unsafety::check,
    confined::check,
    comments::check,
    noise::check,
    stems::check,
    words::check,
];

/// Everything that is wrong with `tree`, in order of path and line.
fn violations(tree: &Tree) -> Vec<Violation> {
    let mut found = tree.lex_errors();
    found.extend(CHECKS.iter().flat_map(|check| check(tree)));
    found.sort();
    found.dedup();
    found
}

/// Prints every violation as `path:line: message`; the exit status says whether there was one.
pub(crate) fn command(root: &Path) -> Result<ExitCode> {
    let tree = Tree::read(root)?;
    let found = violations(&tree);
    found.iter().for_each(|violation| println!("{violation}"));
    if found.is_empty() {
        println!("tidy: {} files, {} checks, nothing found", tree.files.len(), CHECKS.len());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("tidy: {} violations", found.len());
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let found = violations(&Tree::read(&crate::repo_root()).unwrap());
        let lines: Vec<_> = found.iter().map(Violation::to_string).collect();
        assert!(found.is_empty(), "{} violations:\n{}", found.len(), lines.join("\n"));
    }

    #[test]
    fn a_file_that_does_not_lex_is_reported() {
        let found = violations(&Tree::of(&[("crates/nvllm-core/src/a.rs", "fn f( {\n")]));
        assert!(found.iter().any(|v| v.message.contains("does not lex")), "{found:?}");
    }
}
