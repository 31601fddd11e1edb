//! Lost connections, wrong bytes, servers that misbehave.

use std::time::{Duration, Instant};

use nvllm_engine::EngineError;
use nvllm_engine::hub::{HubOptions, RetryPolicy, resolve};

use crate::mock::{Fault, ID, MockHub, noise};
use crate::server::{Reply, Server};

const WEIGHTS: &str = "model.safetensors";

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let mock = MockHub::start();
    mock.resolve().unwrap(); // everything but the weights is there
    std::fs::remove_file(mock.blob(WEIGHTS)).unwrap();
    mock.cdn.take_log();
    // More cuts than attempts: bytes arrive in each one, so none counts as failed.
    for _ in 0..5 {
        mock.fault("CDN model.safetensors", Fault::CutAt(100_000));
    }
    let (files, events) = mock.resolve_with_events();
    mock.check_content(&[&files.unwrap().weights.paths()[0]]);
    let expected: Vec<_> = (0..6).map(|n| (n > 0).then(|| format!("bytes={}-", n * 100_000))).collect();
    assert_eq!(mock.cdn_ranges(), expected);
    let retries: Vec<_> = events.iter().filter(|event| event.starts_with("Retrying")).collect();
    assert!(
        retries.len() == 5 && retries[0].contains("model.safetensors of acme/tiny-1@main"),
        "{retries:?}"
    );
    assert!(!mock.blob(WEIGHTS).with_extension("incomplete").exists());
}

#[test]
fn a_cut_in_every_attempt_gives_up_and_keeps_what_came() {
    let mock = MockHub::start();
    mock.fault("CDN model.safetensors", Fault::CutAt(70_000));
    (0..2).for_each(|_| mock.fault("CDN model.safetensors", Fault::CutAt(0)));
    let error = mock.resolve().unwrap_err();
    assert!(matches!(&error, EngineError::HubUnreachable { attempts: 3, .. }), "{error}");
    let partial = std::path::PathBuf::from(format!("{}.incomplete", mock.blob(WEIGHTS).display()));
    assert_eq!(std::fs::metadata(&partial).unwrap().len(), 70_000);
    assert!(!mock.blob(WEIGHTS).exists());
    let refs = mock.cache.path().join("models--acme--tiny-1/refs/main");
    assert!(!refs.exists(), "an incomplete snapshot is not what main names");

    mock.cdn.take_log();
    let (files, events) = mock.resolve_with_events();
    mock.check_content(&[&files.unwrap().weights.paths()[0]]);
    assert_eq!(mock.cdn_ranges(), [Some("bytes=70000-".to_owned())]);
    assert!(
        events.contains(&"Progress { file: \"model.safetensors\", done: 70000, total: 1000003 }".to_owned())
    );
}

#[test]
fn wrong_bytes_are_fetched_again_once() {
    for file in [WEIGHTS, "config.json"] {
        let mock = MockHub::start();
        let request = if file == WEIGHTS { "CDN model.safetensors" } else { "GET config.json" };
        mock.fault(request, Fault::Corrupt);
        let (files, events) = mock.resolve_with_events();
        let files = files.unwrap();
        mock.check_content(&[&files.config, &files.weights.paths()[0]]);
        assert!(events.iter().any(|event| event.contains("the checksum is wrong")), "{events:?}");

        let mock = MockHub::start();
        (0..2).for_each(|_| mock.fault(request, Fault::Corrupt));
        let error = mock.resolve().unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, EngineError::Checksum { attempts: 2, .. }), "{message}");
        let etag = mock.repo.lock().unwrap().files[file].etag();
        assert!(message.contains(&format!("expected {etag}, got ")), "{message}");
        let left: Vec<_> = std::fs::read_dir(mock.blob(file).parent().unwrap())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(&etag)), "{left:?}");
        mock.resolve().unwrap();
    }
}

#[test]
fn leftovers_of_another_file_are_noticed() {
    for leftover in
        [noise(500_000).into_iter().rev().collect::<Vec<u8>>(), vec![7; 1_000_003], vec![7; 2_000_000]]
    {
        let mock = MockHub::start();
        let blob = mock.blob(WEIGHTS);
        std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
        std::fs::write(format!("{}.incomplete", blob.display()), &leftover).unwrap();
        let files = mock.resolve().unwrap();
        mock.check_content(&[&files.weights.paths()[0]]);
    }
}

#[test]
fn servers_without_ranges_start_from_the_beginning() {
    let mock = MockHub::start();
    mock.fault("CDN model.safetensors", Fault::CutAt(600_000));
    mock.fault("CDN model.safetensors", Fault::IgnoreRange);
    let (files, events) = mock.resolve_with_events();
    mock.check_content(&[&files.unwrap().weights.paths()[0]]);
    let done =
        |text: &str| text.split("done: ").nth(1).and_then(|t| t.split(',').next()?.parse::<u64>().ok());
    let done: Vec<u64> = events.iter().filter(|e| e.contains(WEIGHTS)).filter_map(|e| done(e)).collect();
    assert!(done.windows(2).any(|pair| pair[1] < pair[0]), "the bar goes back: {done:?}");

    // A range that the server cannot satisfy, or answers with another one.
    for reply in [Reply::new(416), Reply::new(206).header("content-range", "bytes 5-9/10").body("hello")] {
        let mock = MockHub::start();
        mock.fault("CDN model.safetensors", Fault::CutAt(600_000));
        mock.fault("CDN model.safetensors", Fault::Instead(reply));
        let (files, events) = mock.resolve_with_events();
        mock.check_content(&[&files.unwrap().weights.paths()[0]]);
        let noticed = |event: &&String| event.contains("cannot continue where the last download stopped");
        assert_eq!(
            events.iter().filter(noticed).count(),
            1,
            "noticed at once, not by the checksum: {events:?}"
        );
        assert!(!events.iter().any(|event| event.contains("checksum")), "{events:?}");
    }
}

#[test]
fn a_silent_connection_is_given_up() {
    let mock = MockHub::start();
    mock.fault("CDN model.safetensors", Fault::StallAt(300_000)); // for a minute
    let options = HubOptions { stall_timeout: Duration::from_millis(500), ..mock.options() };
    let start = Instant::now();
    let files = resolve(ID, &options, &mut |_| {}).unwrap();
    mock.check_content(&[&files.weights.paths()[0]]);
    assert!(start.elapsed() < Duration::from_secs(30), "it waited for the server: {:?}", start.elapsed());
    assert!(mock.cdn_ranges().contains(&Some("bytes=300000-".to_owned())));
}

#[test]
fn busy_servers_are_asked_again() {
    let mock = MockHub::start();
    mock.fault("GET", Fault::Instead(Reply::new(503)));
    mock.fault("GET", Fault::Instead(Reply::new(429).header("retry-after", "0")));
    mock.fault("HEAD model.safetensors", Fault::Instead(Reply::new(500)));
    mock.fault("CDN model.safetensors", Fault::Instead(Reply::new(502)));
    let (files, events) = mock.resolve_with_events();
    files.unwrap();
    assert_eq!(events.iter().filter(|event| event.starts_with("Retrying")).count(), 4, "{events:?}");

    for _ in 0..3 {
        mock.fault("GET", Fault::Instead(Reply::new(503).header("x-error-message", "maintenance")));
    }
    let empty = tempfile::tempdir().unwrap();
    let options = HubOptions { cache_dir: empty.path().into(), ..mock.options() };
    let message = resolve(ID, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(
        message.starts_with("cannot fetch acme/tiny-1@main (http://") && message.contains("(3 attempts)"),
        "{message}"
    );
    assert!(message.contains("503") && message.ends_with("(the hub says: maintenance)"), "{message}");
}

#[test]
fn answers_that_are_no_hubs() {
    let sha = "0123456789abcdef0123456789abcdef01234567";
    let info = |text: &str| Reply::new(200).body(text);
    for (reply, problem) in [
        (info("<html>"), "not JSON"),
        (info("{}"), "no commit in its field `sha`"),
        (info(r#"{"sha":"../../../../etc","siblings":[]}"#), "no commit in its field `sha`"),
        (info(&format!(r#"{{"sha":"{sha}"}}"#)), "no list `siblings`"),
        (Reply::new(302).header("location", "/loop"), "more than 8 redirects"),
        (Reply::new(302).header("location", "ftp://elsewhere/x"), "which is not an address"),
        (Reply::new(418), "unexpected answer 418"),
    ] {
        let server = Server::start(move |_| reply.clone());
        let cache = tempfile::tempdir().unwrap();
        let options = HubOptions { endpoint: server.url(), ..HubOptions::new(cache.path()) };
        let error = resolve(ID, &options, &mut |_| {}).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, EngineError::HubProtocol { .. }), "{message}");
        assert!(
            message.contains(problem) && message.ends_with("is the endpoint a Hugging Face hub?"),
            "{message}"
        );
    }
    for (headers, problem) in [
        (vec![("x-linked-etag", "../../x"), ("x-linked-size", "3")], "no usable ETag"),
        (vec![("x-linked-etag", ""), ("x-linked-size", "3")], "no usable ETag"),
        (vec![("x-linked-etag", "abc"), ("x-linked-size", "many")], "does not give the file's length"),
    ] {
        let mock = MockHub::start();
        let mut reply = Reply::new(302).header("location", "http://127.0.0.1:1/");
        for (name, value) in headers {
            reply = reply.header(name, value);
        }
        mock.fault("HEAD model.safetensors", Fault::Instead(reply));
        let message = mock.resolve().unwrap_err().to_string();
        assert!(message.contains(problem), "{message}");
    }
}

#[test]
fn endpoints_and_proxies_that_cannot_be() {
    let cache = tempfile::tempdir().unwrap();
    for endpoint in ["", "huggingface.co", "ftp://huggingface.co", "http://"] {
        let options = HubOptions { endpoint: endpoint.into(), ..HubOptions::new(cache.path()) };
        let message = resolve(ID, &options, &mut |_| {}).unwrap_err().to_string();
        assert!(
            message.contains("the endpoint is not an http:// or https:// address"),
            "{endpoint}: {message}"
        );
    }
    let options = HubOptions { proxy: Some("::".into()), ..HubOptions::new(cache.path()) };
    let message = resolve(ID, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("the proxy's address is not of the form"), "{message}");
    assert!(message.contains("HTTPS_PROXY") && !message.contains("is the endpoint"), "{message}");
}

#[test]
fn requests_go_through_the_proxy() {
    let mock = MockHub::start();
    let proxy = Server::start(|_| Reply::new(407));
    let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
    let options = HubOptions { proxy: Some(proxy.url()), retry, ..mock.options() };
    assert!(resolve(ID, &options, &mut |_| {}).is_err());
    assert!(mock.hub.take_log().is_empty() && proxy.take_log().len() == 1);
}
