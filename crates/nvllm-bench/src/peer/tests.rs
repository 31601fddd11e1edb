//! Adapters' answers as they were recorded, and peers that are not there.

use super::protocol::Scores;
use super::*;

/// Lines as the adapters write them. Those of engines that cannot be installed everywhere follow
/// their adapters' code.
const HELLOS: &str = include_str!("../../peers/recorded/hello.jsonl");
const ANSWERS: &str = include_str!("../../peers/recorded/answers.jsonl");

#[test]
fn recorded_hellos_are_understood() {
    let hellos: Vec<_> = HELLOS.lines().map(|line| Hello::parse(line).unwrap().ready()).collect();
    let ready: Vec<_> = hellos.iter().filter_map(|hello| hello.as_ref().ok()).collect();
    let missing: Vec<_> = hellos.iter().filter_map(|hello| hello.as_ref().err()).collect();
    assert!(ready.len() >= 5 && missing.len() >= 2);
    for ready in ready {
        assert!(!ready.version.is_empty() && ready.ops.iter().any(|op| op == "prefill"), "{ready:?}");
    }
    assert!(missing.iter().all(|reason| reason.starts_with("not installed: ")), "{missing:?}");
    assert!(Hello::parse("Traceback (most recent call last):").unwrap_err().contains("Traceback"));
}

#[test]
fn recorded_answers_are_understood() {
    let mut kinds = [0; 5];
    for line in ANSWERS.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        if value.get("error").is_some() {
            assert!(!Answer::<Decoded>::parse(line).unwrap_err().is_empty());
            kinds[0] += 1;
        } else if value.get("token_seconds").is_some() {
            let run: SetRun = Answer::parse(line).unwrap();
            let lens: Vec<usize> = run.token_seconds.iter().map(Vec::len).collect();
            let times = run.times(lens.len(), &lens).unwrap();
            assert!(times.e2el.iter().all(|e2el| *e2el <= times.seconds + 1e-3), "{line}");
            assert_eq!(times.itl.len(), lens.iter().map(|len| len - 1).sum::<usize>());
            kinds[1] += 1;
        } else if value.get("seconds").is_some_and(Value::is_array) {
            let decoded: Decoded = Answer::parse(line).unwrap();
            assert!(decoded.seconds.iter().all(|seconds| *seconds > 0.0));
            kinds[2] += 1;
        } else {
            let prefilled: Prefilled = Answer::parse(line).unwrap();
            assert!(prefilled.seconds > 0.0);
            kinds[if matches!(prefilled.scores, Scores::Chosen(_)) { 3 } else { 4 }] += 1;
        }
    }
    assert!(kinds.iter().all(|num| *num > 0), "{kinds:?}");
}

#[test]
fn a_run_with_other_tokens_than_asked_for_is_refused() {
    let run = || SetRun { seconds: 1.0, token_seconds: vec![vec![0.5, 1.0], vec![0.7]] };
    assert!(run().times(2, &[2, 1]).is_ok());
    assert!(run().times(2, &[2, 2]).is_err() && run().times(3, &[2, 1, 0]).is_err());
}

fn setup(scratch: &Path) -> PeerSetup {
    PeerSetup {
        dir: "no-such-model".into(),
        sha256: "00".into(),
        threads: 1,
        device: "cpu".into(),
        scratch: scratch.into(),
        weights: "bf16".into(),
    }
}

#[test]
fn what_is_not_installed_is_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let installation = Installation {
        name: "x",
        pythons: vec!["no-such-python".into()],
        script: dir.path().join("x.py"),
        args: &[],
    };
    let reason = Peer::start(&installation, &setup(dir.path())).err().unwrap();
    assert!(reason.contains("no-such-python"), "{reason}");
    let none = Installation { pythons: Vec::new(), ..installation };
    assert!(Peer::start(&none, &setup(dir.path())).err().unwrap().contains("no Python"));
}

/// A peer made of a shell script: the whole exchange, with an answer that is an error and one that
/// does not come.
#[cfg(unix)]
#[test]
fn a_peer_takes_its_turns() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("peer.sh");
    let text = r#"
        echo '{"version": "1", "detail": "d", "activations": "f32", "kv": "f32", "ops": ["prefill", "decode"]}'
        read line; echo '{"seconds": 0.5, "logits": [[1, 2.0]]}'
        read line; echo '{"seconds": [0.25, 0.25]}'
        read line; echo '{"error": "out of memory"}'
    "#;
    std::fs::write(&script, text).unwrap();
    let installation = Installation { name: "x", pythons: vec!["/bin/sh".into()], script, args: &["a"] };
    let mut peer = Peer::start(&installation, &setup(dir.path())).unwrap();
    assert_eq!(peer.engine.command.as_deref(), Some("sh peer.sh a no-such-model 00 1 cpu"));
    assert!(!peer.agreement.passed, "before the comparison");
    peer.agree(&[TokenId(0)], &[0.0, 2.01]).unwrap();
    assert!(peer.agreement.passed && peer.can("decode").is_ok() && peer.can("set").is_err());
    assert_eq!(peer.decode(2).unwrap(), [0.25, 0.25]);
    assert_eq!(peer.decode(2).unwrap_err(), "out of memory");
    assert!(peer.decode(2).is_err(), "it has ended");
}
