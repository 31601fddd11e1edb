//! `cargo xtask new-model NAME`: a crate for a model family, from the template, and its lines in
//! the manifests, the registry and the table of arrows.
//!
//! The template, `examples/model-template`, is a crate that compiles and is tested as it is: what
//! comes out here differs in names.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

/// What to make.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The crate becomes nvllm-model-NAME: lower case, digits, hyphens between
    name: String,
    /// The architecture that config.json names, as in `GemmaForCausalLM`
    #[arg(long)]
    architecture: String,
}

const TEMPLATE: &str = "examples/model-template";
const FILES: [&str; 4] = ["Cargo.toml", "src/lib.rs", "src/config.rs", "tests/program.rs"];

/// The manifest's head in the workspace, in place of the template's.
const MANIFEST: &str = r#"[package]
name = "nvllm-model-NAME"
description = "nvLLM: TITLE"
version.workspace = true
edition.workspace = true
rust-version.workspace = true
license.workspace = true
publish.workspace = true

[lib]
# No example is compiled from its documentation.
doctest = false

[lints]
workspace = true

[dependencies]
nvllm-core.workspace = true

[dev-dependencies]
serde_json.workspace = true
"#;

/// Where a line goes: the file, and the text before which it is put, with the line. A space of the
/// text stands for any space: rustfmt breaks a list where it gets too long.
const LINES: [(&str, &str, &str); 5] = [
    ("Cargo.toml", "nvllm-model-qwen3 = {", "nvllm-model-NAME = { path = \"crates/nvllm-model-NAME\" }\n"),
    (
        "crates/nvllm-engine/Cargo.toml",
        "nvllm-model-qwen3.workspace = true",
        "nvllm-model-NAME.workspace = true\n",
    ),
    ("crates/nvllm-engine/src/registry.rs", "nvllm_model_qwen3::FAMILY,", "nvllm_model_SNAKE::FAMILY,\n    "),
    (
        "xtask/src/tidy/arrows.rs",
        "(\"nvllm-model-qwen3\",",
        "(\"nvllm-model-NAME\", &[\"nvllm-core\"]),\n    ",
    ),
    ("xtask/src/tidy/arrows.rs", "\"nvllm-model-qwen3\", \"nvllm-quant\"", "\"nvllm-model-NAME\", "),
];

/// Makes the crate and says what is left to do.
pub(crate) fn command(root: &Path, args: &Args) -> Result<ExitCode> {
    let names = Names::of(args)?;
    names.write(root)?;
    let name = &args.name;
    println!(
        "crates/nvllm-model-{name} is made and registered. Left to do (docs/add-a-model.md):\n\
         1. src/config.rs: what of config.json changes the model; src/lib.rs: what a layer is made of\n\
         2. tests/golden/NAME: a small random checkpoint with what transformers computes\n   \
            (tests/python/llama_fixtures.py shows how), and its line in tests/src/golden.rs\n\
         3. cargo fmt; cargo test -p nvllm-model-{name}; cargo test --workspace --test golden_fixtures"
    );
    Ok(ExitCode::SUCCESS)
}

/// The words that take the template's place.
struct Names {
    name: String,
    title: String,
    architecture: String,
}

impl Names {
    fn of(args: &Args) -> Result<Self> {
        let name = &args.name;
        let parts = || name.split('-');
        let part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase())
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        ensure!(
            parts().all(part),
            "{name} cannot be a crate's name: use lower case, digits and hyphens between"
        );
        let architecture = args.architecture.clone();
        let mut known = nvllm_engine::registry::FAMILIES.iter().flat_map(|family| family.architectures);
        ensure!(!known.any(|known| *known == architecture), "{architecture} is recorded already");
        ensure!(
            !architecture.is_empty() && architecture.chars().all(|c| c.is_ascii_alphanumeric()),
            "{architecture} cannot be an architecture: give what config.json names, as in GemmaForCausalLM"
        );
        let capital = |part: &str| part[..1].to_ascii_uppercase() + &part[1..];
        Ok(Self { name: name.clone(), title: parts().map(capital).collect(), architecture })
    }

    fn fill(&self, text: &str) -> String {
        let snake = self.name.replace('-', "_");
        text.replace("TemplateForCausalLM", &self.architecture)
            .replace("nvllm_model_template", &format!("nvllm_model_{snake}"))
            .replace("Template", &self.title)
            .replace("TITLE", &self.title)
            .replace("NAME", &self.name)
            .replace("SNAKE", &snake)
    }

    fn write(&self, root: &Path) -> Result<()> {
        let dir = root.join(format!("crates/nvllm-model-{}", self.name));
        if dir.exists() {
            bail!("{} is there already", dir.display());
        }
        // All of it is read and checked before any of it is written.
        let mut files = Vec::new();
        for file in FILES {
            let template = read(&root.join(TEMPLATE).join(file))?;
            let text = if file == "Cargo.toml" { self.fill(MANIFEST) } else { self.fill(&template) };
            files.push((dir.join(file), text));
        }
        for (file, before, line) in LINES {
            let path = root.join(file);
            let at = files.iter().position(|(known, _)| *known == path);
            let text = match at {
                Some(at) => files.remove(at).1,
                None => read(&path)?,
            };
            let Some(at) = find(&text, before) else {
                bail!("{file} has no `{before}`, before which a line of the new model goes");
            };
            let (head, tail) = text.split_at(at);
            files.push((path, format!("{head}{}{tail}", self.fill(line))));
        }
        for (path, text) in files {
            let parent = path.parent().unwrap_or(root);
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// Where `wanted` begins in `text`, a space of it standing for any.
fn find(text: &str, wanted: &str) -> Option<usize> {
    let (first, rest) = wanted.split_once(' ').unwrap_or((wanted, ""));
    let follows = |at: &usize| text[at + first.len()..].trim_start().starts_with(rest);
    text.match_indices(first).map(|(at, _)| at).find(follows)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `new-model` reads of the repository, in a place of its own.
    fn copy() -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        let template = FILES.map(|file| format!("{TEMPLATE}/{file}"));
        let files = LINES.iter().map(|(file, ..)| (*file).to_owned()).chain(template);
        for file in files {
            let to = copy.path().join(&file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(crate::repo_root().join(&file), to).unwrap();
        }
        copy
    }

    fn args(name: &str, architecture: &str) -> Args {
        Args { name: name.into(), architecture: architecture.into() }
    }

    /// It compiles because the template does: here, that only names differ, and that all lines that
    /// name a family name this one.
    #[test]
    fn a_model_is_the_template_under_its_name_and_is_registered() {
        let root = copy();
        command(root.path(), &args("gem-ma2", "Gemma2ForCausalLM")).unwrap();
        let text = |file: &str| fs::read_to_string(root.path().join(file)).unwrap();
        for file in &FILES[1..] {
            let made = text(&format!("crates/nvllm-model-gem-ma2/{file}"));
            assert!(!made.to_lowercase().contains("template"), "{file}: {made}");
            let back = made.replace("Gemma2ForCausalLM", "TemplateForCausalLM").replace("GemMa2", "Template");
            let back = back.replace("nvllm_model_gem_ma2", "nvllm_model_template");
            assert_eq!(back, text(&format!("{TEMPLATE}/{file}")), "{file}");
        }
        assert!(text("crates/nvllm-model-gem-ma2/src/lib.rs").contains("&[\"Gemma2ForCausalLM\"]"));
        let count = |file: &str, of: &str| text(file).matches(of).count();
        assert_eq!(
            count("Cargo.toml", "\nnvllm-model-gem-ma2 = { path = \"crates/nvllm-model-gem-ma2\" }\n"),
            1
        );
        assert_eq!(count("crates/nvllm-engine/Cargo.toml", "\nnvllm-model-gem-ma2.workspace = true\n"), 1);
        assert_eq!(count("crates/nvllm-engine/src/registry.rs", "\n    nvllm_model_gem_ma2::FAMILY,\n"), 1);
        assert_eq!(
            count("xtask/src/tidy/arrows.rs", "\n    (\"nvllm-model-gem-ma2\", &[\"nvllm-core\"]),\n"),
            1
        );
        assert_eq!(count("xtask/src/tidy/arrows.rs", "\"nvllm-model-gem-ma2\", \"nvllm-model-qwen3\""), 1);
        let again = command(root.path(), &args("gem-ma2", "X")).unwrap_err().to_string();
        assert!(again.contains("is there already"), "{again}");
    }

    #[test]
    fn a_list_may_be_broken_into_lines() {
        let row = "(\"b\", &[]), &[\n    \"a\",\n    \"b\",\n]";
        assert_eq!(find(row, "\"a\", \"b\""), row.find("\"a\""));
        assert_eq!(find("\"a\", \"c\", \"a\", \"b\"", "\"a\", \"b\""), Some(10));
        assert_eq!(find(row, "\"a\", \"c\""), None);
    }

    #[test]
    fn names_that_cannot_be_change_nothing() {
        let root = copy();
        let before = fs::read_to_string(root.path().join("Cargo.toml")).unwrap();
        for (name, architecture) in [
            ("", "X"),
            ("Gemma", "X"),
            ("a/b", "X"),
            ("a--b", "X"),
            ("2a", "X"),
            ("a", ""),
            ("a", "A B"),
            ("a", "LlamaForCausalLM"),
        ] {
            assert!(command(root.path(), &args(name, architecture)).is_err(), "{name} {architecture}");
        }
        assert_eq!(fs::read_to_string(root.path().join("Cargo.toml")).unwrap(), before);
        assert!(!root.path().join("crates/nvllm-model-a").exists());
    }
}
