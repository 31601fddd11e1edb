//! What only one file of the binary may do: choose features, read the environment.
//!
//! A library whose behaviour hangs on features or on the environment cannot be reasoned about from
//! its signature.

use super::Violation;
use super::tokens::{Kind, Token, closing};
use super::tree::Tree;

/// The crate that may.
const BINARY: &str = "crates/nvllm/";

/// Cargo tells it by the environment where it writes what; it is part of no library.
const BUILD_SCRIPT: &str = "/build.rs";

/// `cfg(feature ..)` and reads of environment variables: in one file each, of the binary.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = one_file(tree, "cfg(feature ..)", features);
    found.extend(one_file(tree, "reading the environment", environment));
    found
}

/// Lines that `uses` finds outside the binary, and in any second file of it.
fn one_file(tree: &Tree, what: &str, uses: fn(&[Token]) -> Vec<usize>) -> Vec<Violation> {
    let mut home: Option<&str> = None;
    let mut found = Vec::new();
    let part_of_program = |path: &str| !path.starts_with("xtask/") && !path.ends_with(BUILD_SCRIPT);
    for file in tree.rust().filter(|file| part_of_program(&file.path)) {
        for line in uses(&file.tokens) {
            let problem = if !file.path.starts_with(BINARY) {
                format!("{what} belongs to the binary; take it as a parameter here")
            } else if *home.get_or_insert(&file.path) != file.path {
                format!("{what} stands in {} already; keep it in one file", home.unwrap_or_default())
            } else {
                continue;
            };
            found.push(Violation::new(&file.path, line, problem));
        }
    }
    found
}

/// `cfg`, `cfg!` or `cfg_attr` with `feature` inside.
fn features(tokens: &[Token]) -> Vec<usize> {
    let is_cfg = |token: &Token| token.is("cfg") || token.is("cfg_attr");
    let mut found = Vec::new();
    for at in (0..tokens.len()).filter(|&at| is_cfg(&tokens[at])) {
        let open = at + 1 + usize::from(tokens.get(at + 1).is_some_and(|next| next.is_punct('!')));
        if tokens.get(open).is_some_and(|token| token.kind == Kind::Open('('))
            && tokens[open..closing(tokens, open)].iter().any(|token| token.is("feature"))
        {
            found.push(tokens[at].line);
        }
    }
    found
}

/// `env::var`, `env::var_os`, `env::vars`, `env::vars_os`; tests may.
fn environment(tokens: &[Token]) -> Vec<usize> {
    const READS: [&str; 4] = ["var", "var_os", "vars", "vars_os"];
    tokens
        .windows(4)
        .filter(|w| {
            !w[0].in_test
                && w[0].is("env")
                && w[1].is_punct(':')
                && (READS.iter().any(|read| w[3].is(read)) || w[3].kind == Kind::Open('{'))
        })
        .map(|w| w[0].line)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "crates/nvllm-engine/src/a.rs";
    const USES: [&str; 7] = [
        "#[cfg(feature = \"cuda\")]\nfn f() {}\n",
        "fn f() { if cfg!(feature = \"cuda\") {} }\n",
        "#[cfg_attr(all(unix, feature = \"cuda\"), allow(x))]\nfn f() {}\n",
        "fn f() { std::env::var(\"A\"); }\n",
        "fn f() { env::var_os(\"A\"); }\n",
        "use std::env::vars;\n",
        "use std::env::{args, var};\n",
    ];

    #[test]
    fn every_use_in_a_library_is_caught() {
        for text in USES {
            assert_eq!(check(&Tree::of(&[(LIB, text)])).len(), 1, "{text}");
        }
    }

    #[test]
    fn the_binary_has_one_file_for_it() {
        for text in USES {
            assert_eq!(check(&Tree::of(&[("crates/nvllm/src/a.rs", text)])), [], "{text}");
            let two = [("crates/nvllm/src/a.rs", text), ("crates/nvllm/src/b.rs", text)];
            let found = check(&Tree::of(&two));
            assert!(found.len() == 1 && found[0].path.ends_with("b.rs"), "{found:?}");
        }
    }

    #[test]
    fn a_build_script_is_told_by_the_environment() {
        let text = "fn main() { std::env::var_os(\"OUT_DIR\"); }\n";
        assert_eq!(check(&Tree::of(&[("crates/nvllm-engine/build.rs", text)])), []);
        assert_eq!(check(&Tree::of(&[("crates/nvllm-engine/src/build.rs.rs", text)])).len(), 1);
    }

    #[test]
    fn neighbours_pass() {
        for text in [
            "#[cfg(target_feature = \"avx2\")]\nfn f() {}\n",
            "fn f() { std::env::args(); env!(\"A\"); }\n",
            "#[cfg(test)]\nmod t { fn f() { std::env::var(\"A\"); } }\n",
        ] {
            assert_eq!(check(&Tree::of(&[(LIB, text)])), [], "{text}");
        }
    }
}
