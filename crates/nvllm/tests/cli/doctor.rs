//! `nvllm doctor`: what it says, and the rates that it keeps.

use std::path::Path;

use crate::support::command;

/// What doctor prints with its cache, and a hub's, in `home`.
fn doctor(home: &Path, args: &[&str]) -> String {
    let output = command(&[&["doctor"], args].concat())
        .env("XDG_CACHE_HOME", home)
        .env("HF_HOME", home.join("hf"))
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn doctor_begins_with_a_verdict_and_says_what_is_there() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join("hf/hub/models--a--b/blobs")).unwrap();
    std::fs::write(home.path().join("hf/hub/models--a--b/blobs/x"), vec![0; 3 << 20]).unwrap();
    let report = doctor(home.path(), &[]);
    let lines: Vec<&str> = report.lines().collect();
    assert!(lines[0].starts_with("nvllm "), "{report}");
    assert!(
        lines[1].starts_with("This machine runs models on the ") && lines[1].contains("iB of memory"),
        "{report}"
    );
    for start in ["cpu ", "gpu ", "auto ", "model ", "hub cache ", "cache "] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "{start}: {report}");
    }
    assert!(report.contains("GB/s, ") && report.contains("FLOP/s in bf16 products"), "{report}");
    assert!(report.contains("3.0 MiB") && !report.contains("scalar"), "{report}");
    if let Some(line) = lines.iter().find(|line| line.starts_with("gpu       none")) {
        let of_cuda =
            |line: &&&str| ["kernels", "nvrtc", "cublaslt"].iter().any(|word| line.starts_with(word));
        assert_eq!(
            lines.iter().filter(of_cuda).count(),
            0,
            "one line of CUDA without a GPU, not {line} and: {report}"
        );
    }
}

#[test]
fn doctor_keeps_rates_by_device_and_replaces_a_damaged_file() {
    let home = tempfile::tempdir().unwrap();
    let json = || serde_json::from_str::<serde_json::Value>(&doctor(home.path(), &["--json"])).unwrap();
    let first = json();
    assert_eq!(first["devices"][0]["kept"], serde_json::Value::Null);
    assert!(first["devices"][0]["memory_bytes"].is_u64() && first["hub_cache"]["bytes"] == 0, "{first}");
    let second = json();
    assert_eq!(second["devices"][0]["kept"], first["devices"][0]["rates"]);
    let file = home.path().join("nvllm/rates.json");
    std::fs::write(&file, "{\"").unwrap();
    assert_eq!(json()["devices"][0]["kept"], serde_json::Value::Null);
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let device = first["devices"][0]["device"].as_str().unwrap();
    assert!(kept[device]["read_bandwidth_bytes_per_second"].as_f64().unwrap() > 0.0, "{kept}");
    assert!(doctor(home.path(), &[]).contains(" (20"), "the last time, with its date");
}

#[test]
fn doctor_reports_a_cache_that_cannot_be_written_and_goes_on() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("nvllm"), "a file").unwrap();
    let output = command(&["doctor"]).env("XDG_CACHE_HOME", home.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stderr.contains("warning: the measured rates cannot be kept in "),
        "{stderr}"
    );
}
