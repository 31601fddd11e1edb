//! What a library does not do: print, or leave something undone.

use super::Violation;
use super::tree::Tree;

/// Only programs print, examples among them. The tests' library and xtask are programs' parts.
const MAY_PRINT: [&str; 4] = ["crates/nvllm", "examples", "tests", "xtask"];
const PRINTS: [&str; 4] = ["println", "eprintln", "print", "eprint"];
/// Nothing that is committed has these, except in tests.
const UNDONE: [&str; 3] = ["dbg", "todo", "unimplemented"];

/// Macro calls that print, outside programs; leftovers, outside tests.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in tree.rust() {
        let may_print = MAY_PRINT.contains(&file.crate_dir()) || file.path.ends_with("/build.rs");
        for pair in file.tokens.windows(2).filter(|w| !w[0].in_test && w[1].is_punct('!')) {
            let Some(name) = pair[0].ident() else { continue };
            let problem = if UNDONE.contains(&name) {
                "is for work in progress; finish it or return an error"
            } else if PRINTS.contains(&name) && !may_print {
                "does not belong in a library; return it, or use tracing"
            } else {
                continue;
            };
            found.push(Violation::new(&file.path, pair[0].line, format!("`{name}!` {problem}")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, text: &str) -> usize {
        check(&Tree::of(&[(path, text)])).len()
    }

    #[test]
    fn every_print_in_a_library_is_caught() {
        for name in PRINTS.iter().chain(&UNDONE) {
            let text = format!("fn f() {{ std::{name}!(\"x\"); }}\n");
            assert_eq!(of("crates/nvllm-core/src/a.rs", &text), 1, "{name}");
            assert_eq!(of("crates/nvllm-core/tests/a.rs", &text), 0, "{name}");
            assert_eq!(
                of("crates/nvllm-core/src/a.rs", &format!("#[cfg(test)] mod t {{ {text} }}")),
                0,
                "{name}"
            );
            assert_eq!(of("crates/nvllm-core/src/a.rs", &format!("/// {text}fn f() {{}}\n")), 0, "{name}");
        }
    }

    #[test]
    fn programs_print_but_leave_nothing_undone() {
        for path in ["crates/nvllm/src/a.rs", "xtask/src/a.rs", "crates/nvllm-cuda/build.rs"] {
            assert_eq!(of(path, "fn f() { println!(); }\n"), 0, "{path}");
            assert_eq!(of(path, "fn f() { todo!(); }\n"), 1, "{path}");
        }
    }
}
