//! Distance of logits to transformers' in fp32, from the records of
//! `tests/python/logits_distance.py`, whose rule is held here again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use super::section::distinct;
use crate::{BenchError, Result};

/// Name of the block.
pub(super) const NAME: &str = "logits";

/// The peer in bf16, whose distance is the measure.
const PEER: &str = "transformers bf16";
/// Ours, with the share of the peer's largest error and mean divergence that the rule allows.
const ALLOWED: [(&str, f64, f64); 2] = [("nvllm bf16", 1.0, 1.0), ("nvllm f32", 1e-2, 1e-4)];

/// One prompt's record; the fields' meaning is in `docs/parity.md`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Row {
    run: String,
    commit: String,
    backend: String,
    device: String,
    model: String,
    sha256: String,
    peer: String,
    seed: u64,
    prompt_len: usize,
    largest_logit: f64,
    distances: BTreeMap<String, Distance>,
}

/// Of one engine's logits, over the rows of a prompt.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Distance {
    kl_sum: f64,
    max_error: f64,
    argmax_equal: usize,
}

/// What a row of the table shows of an engine.
struct Total {
    mean_kl: f64,
    max_error: f64,
    argmax_equal: f64,
}

/// The newest run of the file at `path`.
///
/// Errors if it cannot be read, a line is no record, or the run breaks the rule.
pub(super) fn read(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).map_err(BenchError::io("read", path))?;
    let bad = |line, problem| BenchError::BadLine { path: path.into(), line, problem };
    let prompt = |(line, text)| serde_json::from_str(text).map_err(|e| bad(line, e.to_string()));
    let mut prompts: Vec<Row> = (1..).zip(text.lines()).map(prompt).collect::<Result<_>>()?;
    if let Some(newest) = prompts.last().map(|prompt| prompt.run.clone()) {
        prompts.retain(|prompt| prompt.run == newest);
        fault(&prompts).map_or(Ok(()), |problem| Err(bad(text.lines().count(), problem)))?;
    }
    Ok(prompts)
}

/// What breaks the rule.
fn fault(prompts: &[Row]) -> Option<String> {
    let engines = [PEER].into_iter().chain(ALLOWED.map(|(name, ..)| name));
    let missing = engines.clone().find(|name| prompts.iter().any(|p| !p.distances.contains_key(*name)));
    if let Some(name) = missing {
        return Some(format!("the distance of {name} is missing"));
    }
    let peer = total(prompts, PEER);
    ALLOWED.into_iter().find_map(|(name, error, kl)| {
        let ours = total(prompts, name);
        let holds = ours.max_error <= error * peer.max_error && ours.mean_kl <= kl * peer.mean_kl;
        (!holds)
            .then(|| format!("{name} is farther from fp32 than the rule allows: no figure may rest on it"))
    })
}

/// Of all rows of `prompts` together.
fn total(prompts: &[Row], engine: &str) -> Total {
    let rows: usize = prompts.iter().map(|prompt| prompt.prompt_len).sum();
    let of = || prompts.iter().filter_map(|prompt| prompt.distances.get(engine));
    Total {
        mean_kl: of().map(|d| d.kl_sum).sum::<f64>() / rows as f64,
        max_error: of().map(|d| d.max_error).fold(0.0, f64::max),
        argmax_equal: of().map(|d| d.argmax_equal).sum::<usize>() as f64 / rows as f64,
    }
}

/// Tables and conditions of every file's newest run.
pub(super) fn block(runs: &[Vec<Row>]) -> String {
    let text = runs.iter().filter(|run| !run.is_empty()).map(|run| table(run)).collect::<Vec<_>>().join("\n");
    if text.is_empty() {
        return "Nothing is on record yet: `tests/python/logits_distance.py` measures.\n".into();
    }
    text
}

fn table(prompts: &[Row]) -> String {
    let first = &prompts[0];
    let engines: Vec<&str> = [PEER].into_iter().chain(ALLOWED.map(|(name, ..)| name)).collect();
    let mut text = String::from("| prompt | largest logit |");
    for engine in &engines {
        let _ = write!(text, " {engine}: mean KL | largest error | argmax equal |");
    }
    let _ = writeln!(text, "\n|---|---|{}", "---|---|---|".repeat(engines.len()));
    let lens = distinct(prompts.iter().map(|prompt| prompt.prompt_len));
    let of_len = |len: &usize| prompts.iter().filter(|p| p.prompt_len == *len).cloned().collect();
    let rows = lens.iter().map(|len| (format!("{len} tokens"), of_len(len)));
    for (label, prompts) in rows.chain([("**all**".into(), prompts.to_vec())]) {
        let largest = prompts.iter().map(|prompt: &Row| prompt.largest_logit).fold(0.0, f64::max);
        let _ = write!(text, "| {label} | {largest:.2} |");
        for engine in &engines {
            let Total { mean_kl, max_error, argmax_equal } = total(&prompts, engine);
            let _ = write!(text, " {mean_kl:.2e} | {max_error:.2e} | {:.1} % |", 100.0 * argmax_equal);
        }
        text.push('\n');
    }
    let short = |text: &str| text.chars().take(12).collect::<String>();
    let dirty = if first.commit.ends_with("-dirty") { " with local changes" } else { "" };
    let _ = write!(
        text,
        "\n```text\n{} (sha256 {}) on {}, backend {}, commit {}{dirty}\n{}\nrun {}, token ids of seed {}\n```\n",
        first.model,
        short(&first.sha256),
        first.device,
        first.backend,
        short(&first.commit),
        first.peer,
        first.run,
        first.seed,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prompt of `len` tokens with these distances of the peer, our bf16 and our f32.
    fn line(run: &str, len: usize, [peer, bf16, f32]: [f64; 3]) -> String {
        let distance = |x: f64| {
            format!(
                r#"{{"kl_sum":{},"kl_max":1.0,"max_error":{x},"argmax_equal":{len}}}"#,
                len as f64 * x * x
            )
        };
        let (peer, bf16, f32) = (distance(peer), distance(bf16), distance(f32));
        format!(
            r#"{{"schema":1,"run":"{run}","time":"t","commit":"abc","backend":"cuda","device":"d","model":"m","sha256":"00","vocab_size":9,"peer":"p","seed":0,"prompt_len":{len},"largest_logit":4.5,"distances":{{"transformers bf16":{peer},"nvllm bf16":{bf16},"nvllm f32":{f32}}}}}"#
        )
    }

    fn of(lines: &[String]) -> Result<Vec<Row>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cuda.jsonl");
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        read(&path)
    }

    #[test]
    fn the_newest_run_is_shown_with_a_row_for_all_prompts() {
        let lines = [
            line("r1", 1, [0.9, 0.1, 1e-5]),
            // One prompt does not decide.
            line("r2", 1, [0.1, 0.15, 1e-5]),
            line("r2", 3, [0.2, 0.1, 1e-5]),
        ];
        let text = block(&[of(&lines).unwrap()]);
        assert!(
            text.contains("| 1 tokens | 4.50 | 1.00e-2 | 1.00e-1 | 100.0 % | 2.25e-2 | 1.50e-1 |"),
            "{text}"
        );
        // (0.01 + 3 * 0.04) / 4 and (0.0225 + 3 * 0.01) / 4.
        assert!(
            text.contains("| **all** | 4.50 | 3.25e-2 | 2.00e-1 | 100.0 % | 1.31e-2 | 1.50e-1 |"),
            "{text}"
        );
        assert!(text.contains("run r2") && !text.contains("r1"), "{text}");
    }

    #[test]
    fn a_run_that_breaks_the_rule_is_refused() {
        for bad in [[0.1, 0.11, 1e-5], [0.1, 0.1, 2e-3]] {
            let message = of(&[line("r", 2, bad)]).unwrap_err().to_string();
            assert!(message.contains("cuda.jsonl:1") && message.contains("farther"), "{message}");
        }
        let without = line("r", 2, [0.1, 0.1, 1e-5]).replace("nvllm f32", "other");
        assert!(of(&[without]).unwrap_err().to_string().contains("nvllm f32 is missing"));
        assert!(of(&["{}".into()]).is_err());
    }
}
