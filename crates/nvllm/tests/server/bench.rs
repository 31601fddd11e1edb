//! `nvllm bench` of a server, and of the engine alone with the same requests.

use std::path::Path;
use std::process::Command;

use nvllm_bench::record::{self, Record, names};

use crate::support::Server;

/// The records of `nvllm bench` with these arguments.
async fn bench(records: &Path, args: &[&str]) -> Vec<Record> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvllm"));
    command.arg("bench").args(args).arg("--records").arg(records);
    // The server's socket is read on this thread's runtime meanwhile.
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    record::read(records).unwrap()
}

/// Tokens of every request's prompt and answer, in no order of time.
fn tokens(record: &Record) -> Vec<(u64, u64)> {
    let of = |name| record.series(name).into_iter().map(|tokens| tokens as u64);
    let mut tokens: Vec<_> = of(names::PROMPT_TOKENS).zip(of(names::OUTPUT_TOKENS)).collect();
    tokens.sort_unstable();
    tokens
}

#[tokio::test]
async fn a_server_and_the_engine_alone_answer_the_same_requests() {
    let server = Server::start(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let load = ["serve", "--quick", "--concurrency", "1,4", "--lengths", "24,12"];
    let over_http = bench(&dir.path().join("http"), &[&load[..], &["--url", &server.url]].concat()).await;
    let alone = bench(&dir.path().join("alone"), &[&load[..], &["--backend", "cpu"]].concat()).await;
    assert_eq!((over_http.len(), alone.len()), (2, 2));
    for (served, engine) in over_http.iter().zip(&alone) {
        assert_eq!(
            (&served.workload, &served.case, &served.model.name),
            (&engine.workload, &engine.case, &engine.model.name)
        );
        assert_eq!(tokens(served), tokens(engine));
        assert!(
            tokens(served)
                .iter()
                .all(|&(prompt, output)| (20..=24).contains(&prompt) && (10..=12).contains(&output))
        );
        assert_eq!((served.device.backend.as_str(), engine.device.backend.as_str()), ("http", "cpu"));
        let tells = |record: &Record, name| record.values.contains_key(name);
        assert!(tells(served, names::CLIENT_CPU_SECONDS) && !tells(engine, names::CLIENT_CPU_SECONDS));
        let memory = [names::SERVER_REST_BYTES, names::SERVER_PEAK_BYTES].map(|name| served.values[name]);
        assert!(0.0 < memory[0] && memory[0] <= memory[1], "{memory:?}");
    }
    server.wait_until_idle().await;
}

#[tokio::test]
async fn a_soak_leaves_nothing_behind() {
    let server = Server::start(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let args = ["soak", "--quick", "--case-seconds", "0.1", "--url", &server.url];
    let records = bench(&dir.path().join("soak"), &args).await;
    let [soak] = records.as_slice() else { panic!("{} records", records.len()) };
    // The first round is not in it.
    assert!(soak.series(names::OUTPUT_TOKENS).len() >= soak.case.concurrency.unwrap());
    assert!(soak.values[names::SERVER_FIRST_BYTES] > 0.0 && soak.values[names::SERVER_LAST_BYTES] > 0.0);
    server.wait_until_idle().await;
}
