//! Comments wrap where a reader's eye does: docs/style.md.

use super::Violation;
use super::tree::{Tree, has_extension};

/// Languages whose comments begin with two slashes.
const LANGUAGES: [&str; 4] = ["rs", "cu", "cuh", "wgsl"];

/// Columns of a line that is a comment.
const MOST: usize = 100;

/// Lines of comment that are too long. Tables and code stay as they are, and so do lines that are
/// aligned by hand: those with two spaces or more in them.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    let is_checked = |path: &str| LANGUAGES.iter().any(|language| has_extension(path, language));
    for file in tree.files.iter().filter(|file| is_checked(&file.path)) {
        let mut in_code = false;
        for (at, line) in file.text.lines().enumerate() {
            let Some(text) = line.trim_start().strip_prefix("//") else {
                in_code = false;
                continue;
            };
            let text = text.trim_start_matches(['/', '!']);
            in_code ^= text.trim_start().starts_with("```");
            let text = text.trim();
            let by_hand = in_code || text.starts_with('|') || text.contains("  ");
            let len = line.chars().count();
            if len > MOST && !by_hand {
                let message = format!("a comment of {len} columns; wrap it at {MOST}");
                found.push(Violation::new(&file.path, at + 1, message));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> usize {
        check(&Tree::of(&[("crates/nvllm-core/src/a.rs", text)])).len()
    }

    #[test]
    fn long_comments_are_caught_in_every_form() {
        for mark in ["//", "///", "//!", "    //"] {
            let fits = format!("{mark} {}\n", "a ".repeat(40));
            let long = format!("{mark} {}\n", "a ".repeat(50));
            assert_eq!((of(&fits), of(&long)), (0, 1), "{mark}");
        }
    }

    #[test]
    fn kernels_are_checked_too() {
        let long = format!("// {}\nvoid f() {{}}\n", "a ".repeat(50));
        let found = |path| check(&Tree::of(&[(path, &long)])).len();
        assert_eq!(["k/a.cu", "k/a.cuh", "k/a.wgsl", "k/a.c"].map(found), [1, 1, 1, 0]);
    }

    #[test]
    fn tables_code_and_drawings_stay() {
        let wide = "a ".repeat(50);
        assert_eq!(of(&format!("/// | {wide} |\n")), 0);
        assert_eq!(of(&format!("/// ```\n/// {wide}\n/// ```\n/// {wide}\n")), 1);
        assert_eq!(of(&format!("/// left    {wide}\n")), 0);
    }
}
