//! Lengths: a source file, a Rust function.

use super::Violation;
use super::tokens::{Kind, Token, closing};
use super::tree::{File, Tree, has_extension};

/// Lines of a source file, at most.
const FILE_LINES: usize = 600;
/// Lines of a Rust function from `fn` to its closing brace, at most.
const FUNCTION_LINES: usize = 80;
/// What counts as source.
const SOURCE: [&str; 6] = ["rs", "py", "sh", "cu", "cuh", "wgsl"];

/// Every source file and every Rust function, those inside macros included.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in &tree.files {
        let num_lines = file.lines().count();
        if SOURCE.iter().any(|extension| has_extension(&file.path, extension)) && num_lines > FILE_LINES {
            let message = format!("{num_lines} lines; a source file has at most {FILE_LINES}: split it");
            found.push(Violation::new(&file.path, FILE_LINES + 1, message));
        }
        found.extend(long_functions(file));
    }
    found
}

fn long_functions(file: &File) -> impl Iterator<Item = Violation> {
    let tokens = &file.tokens;
    (0..tokens.len()).filter(|&at| tokens[at].is("fn")).filter_map(|at| {
        let name = match tokens.get(at + 1)?.kind {
            Kind::Ident(ref name) => name.clone(),
            Kind::Punct('$') => format!("${}", tokens.get(at + 2)?.ident()?),
            _ => return None, // The type `fn(..)`.
        };
        let body = body(tokens, at)?;
        let num_lines = tokens[closing(tokens, body)].line - tokens[at].line + 1;
        let message =
            format!("function `{name}` has {num_lines} lines; {FUNCTION_LINES} are the most: split it");
        (num_lines > FUNCTION_LINES).then(|| Violation::new(&file.path, tokens[at].line, message))
    })
}

/// Index of the brace that opens the body of the function at `at`; none if it has only a signature.
fn body(tokens: &[Token], at: usize) -> Option<usize> {
    let mut angles = 0_i32;
    let mut i = at;
    loop {
        match tokens.get(i)?.kind {
            Kind::Punct('<') => angles += 1,
            Kind::Punct('>') if !tokens[i - 1].is_punct('-') => angles -= 1,
            Kind::Punct(';') | Kind::Close(_) => return None,
            Kind::Open('{') if angles <= 0 => return Some(i),
            Kind::Open(_) => i = closing(tokens, i),
            _ => {}
        }
        i += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, text: &str) -> Vec<Violation> {
        check(&Tree::of(&[(path, text)]))
    }

    fn function(head: &str, num_lines: usize) -> String {
        format!("// one\n{head} {{\n{}}}\n", "a();\n".repeat(num_lines - 2))
    }

    #[test]
    fn a_long_file_is_caught() {
        for path in ["a.rs", "k/a.cu", "a.py"] {
            assert_eq!(of(path, &"// x\n".repeat(600)), []);
            assert_eq!(of(path, &"// x\n".repeat(601)).len(), 1, "{path}");
        }
        assert_eq!(of("a.json", &"1\n".repeat(601)), []);
    }

    #[test]
    fn a_long_function_is_caught_wherever_it_stands() {
        for head in
            ["fn f()", "pub fn f<const N: usize>() -> A<{ N + 1 }> where B: Fn() -> C", "unsafe fn f()"]
        {
            assert_eq!(of("a.rs", &function(head, 80)), [], "{head}");
            let found = of("a.rs", &function(head, 81));
            assert!(found.len() == 1 && found[0].line == 2, "{head}: {found:?}");
        }
        let nested = format!("macro_rules! m {{ ($n:ident) => {{ {} }} }}\n", function("fn $n()", 90));
        assert!(of("a.rs", &nested)[0].message.contains("$n"));
        let method = format!("impl A {{ {} }}\n", function("fn long(&self)", 81));
        assert!(of("a.rs", &method)[0].message.contains("long"));
    }

    #[test]
    fn a_signature_and_a_function_type_have_no_length() {
        let text = format!("trait A {{ fn f(); }}\ntype B = fn(u8);\nfn g() {{}}\n{}", "// x\n".repeat(200));
        assert_eq!(of("a.rs", &text), []);
    }
}
