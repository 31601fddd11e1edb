//! `nvllm eval`: its figures, and what is refused.

use serde_json::Value;

use crate::support::{fixture, refuses, stdout};

fn text(content: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    file
}

const STORY: &[u8] =
    b"Once upon a time there was a king who had three daughters. The youngest was so beautiful \
that the sun himself, who had seen so much, wondered whenever he shone upon her face.";

#[test]
fn a_text_is_scored_and_the_model_compared_with_itself() {
    let file = text(STORY);
    let path = file.path().to_str().unwrap();
    let args = ["eval", "--backend", "cpu", "--text", path, "--window", "20", "--reference", "nvllm-tiny"];
    let lines = stdout(&args);
    for line in [
        "model       nvllm-tiny, ",
        "KL          0.000000 nats, 0.0000 at most",
        "top-1       100.00 % equal",
    ] {
        assert!(lines.contains(line), "{lines}");
    }
    let report: Value = serde_json::from_str(&stdout(&[&args[..], &["--json"]].concat())).unwrap();
    let (nll, perplexity) = (report["nll"].as_f64().unwrap(), report["perplexity"].as_f64().unwrap());
    assert!((nll.exp() - perplexity).abs() < 1e-9 && (2.0..200.0).contains(&perplexity), "{report}");
    assert_eq!(report["reference"]["nll"], report["nll"]);
    assert_eq!((&report["window"], &report["stride"]), (&20.into(), &10.into()));
    assert!(report["tokens"].as_u64().unwrap() > 30 && report["weight_bytes"].as_u64().unwrap() > 1 << 23);

    let first = stdout(&["eval", "--backend", "cpu", "--text", path, "--tokens", "9", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&first).unwrap()["tokens"], 8);
}

#[test]
fn what_cannot_be_scored_is_refused_by_name() {
    let (one, bytes, story) = (text(b"a"), text(&[0xff, 0xfe, 0x00]), text(STORY));
    let path = |file: &tempfile::NamedTempFile| file.path().to_str().unwrap().to_owned();
    let other = fixture("a_qwen3_tied_gqa");
    let eval =
        |more: &[&str], words: &[&str]| refuses(&[&["eval", "--backend", "cpu"], more].concat(), words);
    eval(&["--text", "no/such/file"], &["--text no/such/file"]);
    eval(&["--text", &path(&bytes)], &["--text", "is not UTF-8"]);
    eval(&["--text", &path(&one)], &["shorter than two tokens"]);
    eval(
        &["--text", &path(&story), "--window", "8", "--stride", "8"],
        &["window has 8 tokens at a stride of 8"],
    );
    let args = ["--text", &path(&story), "--reference", other.to_str().unwrap()];
    eval(&args, &["--reference", "320 tokens", "8192"]);
}
