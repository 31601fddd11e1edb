//! The files of the repository, as far as they could be committed.

use std::path::Path;

use anyhow::{Context, Result};

use super::Violation;
use super::tokens::{self, Token};

/// A text file.
pub(crate) struct File {
    /// Path from the root, with forward slashes.
    pub path: String,
    /// Its text.
    pub text: String,
    /// Its tokens, if it is Rust.
    pub(super) tokens: Vec<Token>,
    lex_error: Option<(usize, String)>,
}

impl File {
    fn new(path: &str, text: String) -> Self {
        let lexed = if has_extension(path, "rs") { tokens::lex(&text) } else { Ok(Vec::new()) };
        let (tokens, lex_error) = match lexed {
            Ok(tokens) => (tokens, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        Self { path: path.into(), text, tokens, lex_error }
    }

    /// Whether it is Rust.
    pub(super) fn is_rust(&self) -> bool {
        has_extension(&self.path, "rs")
    }

    /// Whether it is Rust that only tests compile.
    pub(crate) fn is_test(&self) -> bool {
        !self.tokens.is_empty() && self.tokens.iter().all(|token| token.in_test)
    }

    /// The crate's folder: `crates/nvllm-core`, `tests`, `xtask`.
    pub(super) fn crate_dir(&self) -> &str {
        let mut slashes = self.path.match_indices('/').map(|(at, _)| at);
        let end = if self.path.starts_with("crates/") { slashes.nth(1) } else { slashes.next() };
        &self.path[..end.unwrap_or(0)]
    }

    /// The file's text lines with numbers from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

/// Whether `path` ends in `.extension`.
pub(crate) fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|e| e == extension)
}

/// The repository's text files, in order of path.
pub(crate) struct Tree {
    /// The files.
    pub files: Vec<File>,
}

impl Tree {
    /// Reads what lies under `root`, except what `.gitignore` excludes and what is not UTF-8 text.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let walk = ignore::WalkBuilder::new(root)
            .hidden(false)
            .parents(false)
            .require_git(false)
            .git_global(false)
            .filter_entry(|entry| entry.file_name() != ".git")
            .sort_by_file_path(Path::cmp)
            .build();
        for entry in walk {
            let entry = entry.context("cannot list the repository")?;
            if !entry.file_type().is_some_and(|kind| kind.is_file()) {
                continue;
            }
            let path = entry.path();
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let Some(text) = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')) else {
                continue;
            };
            let relative = path.strip_prefix(root).unwrap_or(path);
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            files.push(File::new(&parts.join("/"), text));
        }
        Ok(Self::new(files))
    }

    /// A tree of given files: `(path, text)`.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self::new(files.iter().map(|(path, text)| File::new(path, (*text).into())).collect())
    }

    /// Marks the files that are test code as a whole: by place, or because a parent declares them
    /// under `cfg(test)`.
    fn new(mut files: Vec<File>) -> Self {
        let declared: Vec<String> = files
            .iter()
            .flat_map(|file| tokens::test_modules(&file.tokens).map(|name| module_stem(&file.path, name)))
            .collect();
        for file in &mut files {
            let path = &file.path;
            let by_place = path.starts_with("tests/")
                || ["/tests/", "/benches/", "/examples/"].iter().any(|dir| path.contains(dir));
            let by_parent = declared.iter().any(|stem| {
                path.strip_prefix(stem.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            });
            if by_place || by_parent {
                file.tokens.iter_mut().for_each(|token| token.in_test = true);
            }
        }
        Self { files }
    }

    /// Rust files.
    pub(super) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.is_rust())
    }

    /// Rust files whose text is not balanced, so that no other check saw them.
    pub(super) fn lex_errors(&self) -> Vec<Violation> {
        let error = |file: &File| {
            let (line, error) = file.lex_error.as_ref()?;
            Some(Violation::new(&file.path, *line, format!("does not lex as Rust: {error}")))
        };
        self.files.iter().filter_map(error).collect()
    }
}

/// Path, without `.rs`, of module `name` declared in the file at `path`.
fn module_stem(path: &str, name: &str) -> String {
    let (dir, file) = path.rsplit_once('/').unwrap_or(("", path));
    match file {
        "mod.rs" | "lib.rs" | "main.rs" => format!("{dir}/{name}"),
        _ => format!("{}/{name}", path.trim_end_matches(".rs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_code_is_known_by_place_and_by_declaration() {
        let tree = Tree::of(&[
            ("crates/a/src/lib.rs", "mod b; #[cfg(test)] mod c;\n"),
            ("crates/a/src/b.rs", "fn b() {}\n"),
            ("crates/a/src/c.rs", "fn c() {}\n"),
            ("crates/a/src/c/d.rs", "fn d() {}\n"),
            ("crates/a/tests/e.rs", "fn e() {}\n"),
        ]);
        let in_test: Vec<_> = tree.files.iter().map(|file| file.tokens[0].in_test).collect();
        assert_eq!(in_test, [false, false, true, true, true]);
        assert_eq!(tree.files[3].crate_dir(), "crates/a");
    }

    #[test]
    fn ignored_and_binary_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        write(".gitignore", b"/out\n");
        write("out", b"ignored\n");
        write("blob", b"\0\xff");
        write(".hidden", b"text\n");
        let tree = Tree::read(dir.path()).unwrap();
        let paths: Vec<_> = tree.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [".gitignore", ".hidden"]);
    }
}
