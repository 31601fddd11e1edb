//! The marked block of README.md, made from the newest run on record: nobody types a figure.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use nvllm_bench::{record, table};

const START: &str = "<!-- bench:cpu -->\n";
const END: &str = "<!-- /bench:cpu -->";

/// Rewrites the block; with `check` only says whether it is what the records give.
pub(super) fn command(root: &Path, check: bool) -> Result<ExitCode> {
    let path = root.join("README.md");
    let text = std::fs::read_to_string(&path).context("cannot read README.md")?;
    let wanted = with_block(&text, &block(root)?)?;
    if wanted == text {
        return Ok(ExitCode::SUCCESS);
    }
    if check {
        bail!(
            "README.md: the block bench:cpu is not what bench/records gives; run `cargo xtask bench readme`"
        );
    }
    std::fs::write(&path, wanted).context("cannot write README.md")?;
    Ok(ExitCode::SUCCESS)
}

/// Conditions and table of the newest run.
fn block(root: &Path) -> Result<String> {
    let path = root.join("bench/records/cpu.jsonl");
    let run = record::newest_run(&path)?.with_context(|| format!("{} holds no record", path.display()))?;
    let records = record::read_run(&path, &run)?;
    Ok(format!("{}\n```text\n{}run {run}\n```\n", table::figures(&records), table::conditions(&records)))
}

fn with_block(text: &str, block: &str) -> Result<String> {
    let parts = text.split_once(START).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.context("README.md has no block bench:cpu")?;
    Ok(format!("{before}{START}{block}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_what_the_records_give() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        command(root, true).unwrap();
    }

    #[test]
    fn an_edited_figure_is_noticed() {
        let text = format!("a\n{START}| 12.5 |\n{END}\nb\n");
        let made = with_block(&text, "| 12.4 |\n").unwrap();
        assert_ne!(made, text);
        assert_eq!(with_block(&made, "| 12.4 |\n").unwrap(), made);
        assert!(with_block("no markers", "").is_err());
    }
}
