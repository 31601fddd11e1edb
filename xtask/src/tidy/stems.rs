//! One name an op, in all its places: what `docs/add-an-op.md` promises.

use nvllm_core::Op;

use super::Violation;
use super::tree::{File, Tree};

/// A place in which every op, or every primitive, has its name.
struct Place {
    /// The file or folder.
    path: &'static str,
    /// What is missing there.
    what: &'static str,
    /// Whether `file` names the op.
    names: fn(file: &File, stem: &str) -> bool,
    /// Whether the op must be there at all.
    wants: fn(stem: &str) -> bool,
}

const PLACES: [Place; 5] = [
    Place {
        path: "crates/nvllm-core/src/program/recorder.rs",
        what: "builder method",
        names: has_fn,
        wants: all,
    },
    Place {
        path: "crates/nvllm-core/src/reference/ops.rs",
        what: "function",
        names: has_fn,
        wants: is_primitive,
    },
    Place { path: "crates/nvllm-conformance/src/ops.rs", what: "case", names: has_fn, wants: all },
    Place { path: "crates/nvllm-cpu/src/", what: "function", names: has_fn, wants: computes },
    Place { path: "docs/add-an-op.md", what: "mention", names: has_mention, wants: all },
];

fn all(_: &str) -> bool {
    true
}

/// Not fused: a fused op is its expansion.
fn is_primitive(stem: &str) -> bool {
    !Op::FUSED.contains(&stem)
}

/// What needs a kernel of its own on a host: not the copies that differ in their bounds only, nor a
/// fused op, which a backend may leave to its expansion.
fn computes(stem: &str) -> bool {
    is_primitive(stem) && !["slice_cols", "all_reduce", "all_gather"].contains(&stem)
}

/// Every op in every place.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    missing(tree, &Op::STEMS)
}

fn missing(tree: &Tree, stems: &[&str]) -> Vec<Violation> {
    let mut found = Vec::new();
    for place in &PLACES {
        let files: Vec<_> = tree.files.iter().filter(|file| file.path.starts_with(place.path)).collect();
        for stem in stems.iter().filter(|stem| (place.wants)(stem)) {
            if !files.iter().any(|file| (place.names)(file, stem)) {
                let at = files.first().map_or(place.path, |file| &file.path);
                let message =
                    format!("op `{stem}` has no {} in {}; see docs/add-an-op.md", place.what, place.path);
                found.push(Violation::new(at, 1, message));
            }
        }
    }
    found
}

/// `fn stem`.
fn has_fn(file: &File, stem: &str) -> bool {
    file.tokens.windows(2).any(|w| w[0].is("fn") && w[1].is(stem))
}

/// The name as code.
fn has_mention(file: &File, stem: &str) -> bool {
    file.text.contains(&format!("`{stem}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree in which `one` is complete.
    const WHOLE: [(&str, &str); 5] = [
        ("crates/nvllm-core/src/program/recorder.rs", "impl A { pub fn one() {} }\n"),
        ("crates/nvllm-core/src/reference/ops.rs", "fn one() {}\n"),
        ("crates/nvllm-conformance/src/ops.rs", "pub fn one() {}\n"),
        ("crates/nvllm-cpu/src/rows.rs", "fn one() {}\n"),
        ("docs/add-an-op.md", "`one`\n"),
    ];

    #[test]
    fn a_complete_op_passes() {
        assert_eq!(missing(&Tree::of(&WHOLE), &["one"]), []);
    }

    #[test]
    fn an_op_missing_in_any_one_place_is_caught() {
        for (index, (path, _)) in WHOLE.iter().enumerate() {
            let mut files = WHOLE;
            files[index].1 = "// `on`, \"on\"\nfn on() {}\n";
            let found = missing(&Tree::of(&files), &["one"]);
            assert!(!found.is_empty() && found.iter().all(|v| v.path == *path), "{path}: {found:?}");
        }
    }

    #[test]
    fn fused_ops_are_known() {
        assert!(Op::FUSED.iter().all(|fused| Op::STEMS.contains(fused) && !is_primitive(fused)));
        assert!(is_primitive("embed") && computes("linear") && !computes("slice_cols"));
    }
}
