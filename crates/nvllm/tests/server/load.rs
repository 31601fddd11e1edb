//! Many clients, clients that go away, and a server that is told to end.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};

use crate::support::{Ended, Server, read, request, stream};

/// Clients that ask again and again for so long.
async fn soak(server: &Server, num_clients: usize, length: usize, time: Duration) -> usize {
    let until = Instant::now() + time;
    let client = async |number: usize| {
        let mut answers = 0;
        while Instant::now() < until {
            let ended = stream(server, &request(number * 1000 + answers, length)).await;
            assert_eq!(ended, Ended::Done, "client {number}, answer {answers}");
            answers += 1;
        }
        answers
    };
    join_all((0..num_clients).map(client)).await.into_iter().sum()
}

/// Clients of whom each goes away at a time of its own: while it waits, in its prompt, or in its
/// answer.
async fn storm(server: &Server, num_requests: usize, at_once: usize) {
    let one = async |number: usize| {
        // Spread evenly over a second and a half, in no order.
        let patience = Duration::from_millis((number as u64 * 7919) % 1500);
        let gone = tokio::time::timeout(patience, stream(server, &request(number, 256))).await;
        if let Ok(ended) = gone {
            assert_eq!(ended, Ended::Done, "request {number}");
        }
    };
    let mut running = FuturesUnordered::new();
    for number in 0..num_requests {
        if running.len() == at_once {
            running.next().await;
        }
        running.push(one(number));
    }
    while running.next().await.is_some() {}
}

/// Tells a busy server to end: every stream that began must end with a word, every other request
/// be answered or find nobody.
async fn end_under_load(num_clients: usize, length: usize, flags: &[&str]) -> (usize, usize) {
    let mut server = Server::start(flags).await;
    let begun: Vec<_> = {
        let ask = async |number: usize| server.post("/v1/completions", &request(number, length)).await;
        join_all((0..num_clients).map(ask)).await
    };
    assert!(begun.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.status() == 200)));
    server.terminate();
    let reading = join_all(begun.into_iter().map(async |answer| read(answer, &mut 0).await));
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream(&server, &request(0, 4)).await
    };
    let (ended, late) = futures_util::future::join(reading, late).await;
    // Refused, or the socket is closed already; never taken and left alone.
    assert!(matches!(late, Ended::Refused(503) | Ended::BrokeOff(_)), "{late:?}");
    let done = ended.iter().filter(|ended| **ended == Ended::Done).count();
    let told = ended.iter().filter(|ended| matches!(ended, Ended::Told(_))).count();
    assert_eq!(done + told, num_clients, "{ended:?}");
    assert!(server.exit_status().await.success());
    (done, told)
}

#[tokio::test]
async fn many_streams_at_once_leave_nothing_behind() {
    let server = Server::start(&["--max-num-seqs", "8"]).await;
    assert!(soak(&server, 32, 16, Duration::from_secs(2)).await >= 32);
    server.wait_until_idle().await;
}

#[tokio::test]
async fn clients_that_go_away_leave_nothing_behind() {
    let server = Server::start(&["--max-num-seqs", "8"]).await;
    storm(&server, 60, 24).await;
    server.wait_until_idle().await;
    assert_eq!(stream(&server, &request(1, 4)).await, Ended::Done);
}

#[tokio::test]
async fn a_server_that_is_told_to_end_finishes_what_it_began() {
    let (done, told) = end_under_load(8, 32, &[]).await;
    assert_eq!((done, told), (8, 0));
}

#[tokio::test]
async fn a_server_whose_time_is_up_tells_every_client() {
    let (_, told) = end_under_load(16, 1500, &["--shutdown-timeout", "0"]).await;
    assert!(told > 0);
}

#[tokio::test]
#[ignore = "takes two minutes"]
async fn two_minutes_of_256_streams() {
    let server = Server::start(&["--max-queued-requests", "1024"]).await;
    soak(&server, 256, 64, Duration::from_secs(10)).await;
    server.wait_until_idle().await;
    let before = server.resident_bytes();
    let answers = soak(&server, 256, 64, Duration::from_mins(2)).await;
    server.wait_until_idle().await;
    let after = server.resident_bytes();
    println!(
        "{answers} answers of 64 tokens, no error; resident {before} bytes after the first round, {after} at the end"
    );
    assert!(after as f64 <= 1.05 * before as f64, "{before} bytes became {after}");
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_storm_of_1000_cancelled_requests() {
    let server = Server::start(&[]).await;
    storm(&server, 1000, 128).await;
    server.wait_until_idle().await;
    println!("1,000 requests, whose clients went away within 1.5 s: nothing runs, waits or holds a KV block");
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn ending_under_the_load_of_256_streams() {
    let (done, told) = end_under_load(256, 64, &[]).await;
    println!("SIGTERM with 256 streams: {done} ended normally, {told} were told");
    assert_eq!(done, 256);
}
