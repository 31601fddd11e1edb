//! Where unsafe code may stand, and that each use of it says why it is sound.

use super::Violation;
use super::tokens::{Kind, Token};
use super::tree::{File, Tree};

/// Crates and files that may hold unsafe code: kernels work on raw memory, and a mapped file is
/// one.
const ALLOWED: [&str; 5] = [
    "crates/nvllm-cpu/",
    "crates/nvllm-cpu-kernels/",
    "crates/nvllm-cuda/",
    "crates/nvllm-wgpu/",
    "crates/nvllm-core/src/weight/mapped.rs",
];

/// Every `unsafe` token: its place, and the comment above blocks and impls.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    tree.rust().flat_map(in_file).collect()
}

fn in_file(file: &File) -> Vec<Violation> {
    let lines: Vec<&str> = file.text.lines().collect();
    let allowed = ALLOWED.iter().any(|place| file.path.starts_with(place));
    let mut found = Vec::new();
    for (at, token) in file.tokens.iter().enumerate().filter(|(_, token)| token.is("unsafe")) {
        if !allowed {
            let message =
                "unsafe code stands only in the cpu, cuda and wgpu crates and in core's file mapping";
            found.push(Violation::new(&file.path, token.line, message));
        } else if needs_comment(&file.tokens, at) && !has_comment(&lines, token.line) {
            let message = "say why this is sound: a comment `// SAFETY: ..` right above";
            found.push(Violation::new(&file.path, token.line, message));
        }
    }
    found
}

/// Blocks and impls assert soundness; functions and traits only demand it, in their documentation.
fn needs_comment(tokens: &[Token], at: usize) -> bool {
    tokens.get(at + 1).is_some_and(|next| next.kind == Kind::Open('{') || next.is("impl"))
}

/// Whether the line holds the comment, or the nearest comment above does, with only attributes and
/// the beginning of the same statement in between.
fn has_comment(lines: &[&str], line: usize) -> bool {
    const MARK: &str = "SAFETY:";
    if lines[line - 1].contains(MARK) {
        return true;
    }
    let mut above = lines[..line - 1].iter().rev().map(|text| text.trim()).peekable();
    while let Some(text) = above.next() {
        if text.starts_with("//") {
            return text.contains(MARK)
                || above.take_while(|text| text.starts_with("//")).any(|text| text.contains(MARK));
        }
        let continues = !text.is_empty() && !text.ends_with([';', '{', '}', ',']);
        if !(continues || text.starts_with("#[")) {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, text: &str) -> usize {
        check(&Tree::of(&[(path, text)])).len()
    }

    const CPU: &str = "crates/nvllm-cpu/src/a.rs";

    #[test]
    fn unsafe_code_elsewhere_is_caught() {
        let text = "fn f() {\n    // SAFETY: none needed\n    unsafe { g() }\n}\n";
        assert_eq!(of(CPU, text), 0);
        assert_eq!(of("crates/nvllm-core/src/weight/mapped.rs", text), 0);
        assert_eq!(of("crates/nvllm-core/src/weight/decl.rs", text), 1);
        assert_eq!(of("crates/nvllm-engine/src/a.rs", "#[unsafe(no_mangle)]\nfn f() {}\n"), 1);
        assert_eq!(of("xtask/src/a.rs", "unsafe extern \"C\" {}\n"), 1);
    }

    #[test]
    fn an_unsafe_block_or_impl_without_its_comment_is_caught() {
        assert_eq!(of(CPU, "fn f() {\n    unsafe { g() }\n}\n"), 1);
        assert_eq!(of(CPU, "fn f() {\n    // It is fine.\n    unsafe { g() }\n}\n"), 1);
        assert_eq!(of(CPU, "// SAFETY: another\nfn f() {\n    unsafe { g() }\n}\n"), 1);
        assert_eq!(of(CPU, "// SAFETY: another\nlet a = 1;\nlet b = unsafe { g() };\n"), 1);
        assert_eq!(of(CPU, "unsafe impl Send for A {}\n"), 1);
        assert_eq!(of(CPU, "macro_rules! m { () => {\n    unsafe { g() }\n} }\n"), 1);
    }

    #[test]
    fn a_comment_above_attributes_or_the_statement_counts() {
        assert_eq!(of(CPU, "// SAFETY: a\n// and b\n#[allow(x)]\nlet c =\n    unsafe { g() };\n"), 0);
        assert_eq!(of(CPU, "let a = unsafe { g() }; // SAFETY: a\n"), 0);
        assert_eq!(of(CPU, "// SAFETY: a\nunsafe impl Send for A {}\n"), 0);
        assert_eq!(of(CPU, "/// # Safety\n/// x\nunsafe fn f() {}\n"), 0);
    }
}
