//! What no committed text holds: one machine's paths and hosts. And every text ends with a newline.

use super::Violation;
use super::tree::{File, Tree, has_extension};

/// Files whose bytes others fixed: checkpoints as published, fixtures as computed.
const AS_GIVEN: [&str; 2] = ["models/nvllm-tiny/", "tests/golden/"];

/// Beginnings of paths and hosts that exist on one machine only. Cut in two, so that this file
/// passes.
const PRIVATE: [(&str, &str); 10] = [
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
    ("/Us", "ers/"),
    ("C:\\Us", "ers"),
    ("//10", "."),
    ("//192.", "168."),
    (".inter", "nal/"),
    ("arti", "factory"),
    ("pypi.or", "g/simple"),
];

/// The one registry that a lock file may name.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Words, registries, last lines.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let ours = tree.files.iter().filter(|file| !AS_GIVEN.iter().any(|dir| file.path.starts_with(dir)));
    ours.flat_map(in_file).collect()
}

fn in_file(file: &File) -> Vec<Violation> {
    let mut found = Vec::new();
    for (line, text) in file.lines() {
        for (a, b) in PRIVATE {
            let word = format!("{a}{b}");
            if text.contains(&word) {
                let message =
                    format!("`{word}` exists on one machine only; write what holds for every reader");
                found.push(Violation::new(&file.path, line, message));
            }
        }
        if has_extension(&file.path, "lock")
            && let Some(source) = text.strip_prefix("source = ")
            && source.trim_matches('"') != REGISTRY
        {
            let message = format!("{source} is not crates.io; only what everyone can fetch is locked");
            found.push(Violation::new(&file.path, line, message));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        found.push(Violation::new(&file.path, file.lines().count(), "the last line does not end"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, text: &str) -> Vec<Violation> {
        check(&Tree::of(&[(path, text)]))
    }

    #[test]
    fn private_paths_and_hosts_are_caught() {
        for (a, b) in PRIVATE {
            let found = of("docs/a.md", &format!("one\nsee {a}{b}x\n"));
            assert!(found.len() == 1 && found[0].line == 2, "{found:?}");
        }
        assert_eq!(
            of("docs/a.md", "https://huggingface.co/Qwen, target/release/nvllm, http://127.0.0.1:8000\n"),
            []
        );
    }

    #[test]
    fn a_lock_file_names_crates_io_only() {
        assert_eq!(of("Cargo.lock", &format!("source = \"{REGISTRY}\"\n")), []);
        for other in ["registry+https://mirror.example/index", "git+https://github.com/a/b#c"] {
            assert_eq!(of("Cargo.lock", &format!("source = \"{other}\"\n")).len(), 1);
        }
    }

    #[test]
    fn a_last_line_without_end_is_caught() {
        assert!(of("docs/a.md", "one\ntwo")[0].line == 2);
        assert_eq!(of("docs/a.md", ""), []);
        assert_eq!(of("tests/golden/a/config.json", "{}"), []);
    }
}
