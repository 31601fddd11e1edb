//! Which crate may depend on which. An arrow that is not in the table is forbidden.

use toml::{Table, Value};

use super::Violation;
use super::tree::{File, Tree};

/// Crates that may depend on every crate of the workspace.
const ALL: &[&str] = &["*"];

/// Each crate with the crates it may depend on. `ARCHITECTURE.md` says why.
const TABLE: &[(&str, &[&str])] = &[
    ("nvllm-core", &[]),
    ("nvllm-conformance", &["nvllm-core"]),
    ("nvllm-cpu-kernels", &[]),
    ("nvllm-cpu", &["nvllm-core", "nvllm-cpu-kernels"]),
    ("nvllm-cuda", &["nvllm-core"]),
    ("nvllm-wgpu", &["nvllm-core"]),
    ("nvllm-gguf", &["nvllm-core"]),
    ("nvllm-quant", &["nvllm-core"]),
    ("nvllm-model-llama", &["nvllm-core"]),
    ("nvllm-model-qwen3", &["nvllm-core"]),
    ("nvllm-sched", &["nvllm-core"]),
    (
        "nvllm-engine",
        &["nvllm-core", "nvllm-gguf", "nvllm-model-llama", "nvllm-model-qwen3", "nvllm-quant", "nvllm-sched"],
    ),
    ("nvllm-bench", &["nvllm-core", "nvllm-engine", "nvllm-sched"]),
    ("nvllm-serve", &["nvllm-core", "nvllm-engine"]),
    ("nvllm", ALL),
    ("nvllm-tests", ALL),
    ("nvllm-fuzz", ALL),
    ("nvllm-model-template", &["nvllm-core"]),
    ("toy-backend", &["nvllm-core"]),
    // `golden` and `synth` drive models themselves.
    // `ops` runs the suite's cases.
    (
        "xtask",
        &[
            "nvllm-bench",
            "nvllm-conformance",
            "nvllm-core",
            "nvllm-cpu",
            "nvllm-cuda",
            "nvllm-engine",
            "nvllm-tests",
            "nvllm-wgpu",
        ],
    ),
];

/// A development dependency that any crate may have.
const FREE_FOR_TESTS: &str = "nvllm-conformance";

/// Every manifest's dependencies against the table.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    tree.files.iter().filter(|file| file.path.ends_with("/Cargo.toml")).flat_map(manifest).collect()
}

fn manifest(file: &File) -> Vec<Violation> {
    let table: Table = match file.text.parse() {
        Ok(table) => table,
        Err(error) => return vec![Violation::new(&file.path, 1, format!("is not TOML: {error}"))],
    };
    let Some(name) = table.get("package").and_then(|package| package.get("name")).and_then(Value::as_str)
    else {
        return Vec::new();
    };
    let Some((_, allowed)) = TABLE.iter().find(|(known, _)| *known == name) else {
        let message =
            format!("crate `{name}` is not in the table of xtask/src/tidy/arrows.rs; add its arrows");
        return vec![Violation::new(&file.path, line_of(file, name), message)];
    };
    let may = |kind: &str, to: &str| {
        *allowed == ALL || allowed.contains(&to) || (kind == "dev-dependencies" && to == FREE_FOR_TESTS)
    };
    arrows(&table)
        .filter(|(kind, to)| !may(kind, to))
        .map(|(kind, to)| {
            let message =
                format!("`{name}` may not depend on `{to}` ({kind}): the arrow is not in the table");
            Violation::new(&file.path, line_of(file, &to), message)
        })
        .collect()
}

/// Dependencies on crates of this project: kind and package name, those of `[target.*]` included.
fn arrows(table: &Table) -> impl Iterator<Item = (&'static str, String)> {
    let targets = table.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let tables: Vec<&Table> = std::iter::once(table).chain(targets.filter_map(Value::as_table)).collect();
    let mut found = Vec::new();
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let deps = table.get(kind).and_then(Value::as_table).into_iter().flatten();
            found.extend(deps.map(|(key, value)| {
                let renamed = value.get("package").and_then(Value::as_str);
                (kind, renamed.unwrap_or(key).to_owned())
            }));
        }
    }
    found.into_iter().filter(|(_, to)| to.starts_with("nvllm") || to == "xtask")
}

/// The first line that begins with or assigns `name`.
fn line_of(file: &File, name: &str) -> usize {
    let names =
        |line: &str| line.split(|c: char| !(c.is_alphanumeric() || "-_".contains(c))).any(|w| w == name);
    file.lines().find(|(_, line)| names(line)).map_or(1, |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(package: &str, rest: &str) -> Vec<Violation> {
        let text = format!("[package]\nname = \"{package}\"\n{rest}\n");
        check(&Tree::of(&[("crates/x/Cargo.toml", &text)]))
    }

    #[test]
    fn arrows_of_the_table_pass() {
        assert_eq!(of("nvllm-cpu", "[dependencies]\nnvllm-core.workspace = true\nlibc = \"1\""), []);
        assert_eq!(of("nvllm-cpu", "[dev-dependencies]\nnvllm-conformance.workspace = true"), []);
        assert_eq!(of("nvllm", "[dependencies]\nnvllm-cpu.workspace = true"), []);
    }

    #[test]
    fn every_kind_of_forbidden_arrow_is_caught() {
        for rest in [
            "[dependencies]\nnvllm-engine.workspace = true",
            "[build-dependencies]\nnvllm-engine.workspace = true",
            "[dev-dependencies]\nnvllm-engine.workspace = true",
            "[target.'cfg(unix)'.dependencies]\nnvllm-engine.workspace = true",
            "[dependencies]\ncore = { package = \"nvllm-engine\", path = \"..\" }",
            "[dependencies.nvllm-engine]\nworkspace = true",
        ] {
            let found = of("nvllm-core", rest);
            assert_eq!(found.len(), 1, "{rest}: {found:?}");
            assert!(found[0].message.contains("nvllm-engine") && found[0].line > 2, "{found:?}");
        }
        assert_eq!(of("nvllm-sched", "[dependencies]\nnvllm-conformance.workspace = true").len(), 1);
    }

    #[test]
    fn an_unknown_crate_and_a_broken_manifest_are_caught() {
        assert!(of("nvllm-extra", "")[0].message.contains("not in the table"));
        assert!(check(&Tree::of(&[("crates/x/Cargo.toml", "[package\n")]))[0].message.contains("not TOML"));
    }
}
