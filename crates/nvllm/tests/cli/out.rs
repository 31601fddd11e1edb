//! Where `logits --out` writes.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use safetensors::SafeTensors;

use super::support::{command, fixture, nvllm, refuses};

fn args(out: &str) -> Vec<String> {
    let model = fixture("a_qwen3_tied_gqa");
    ["logits", "-m", model.to_str().unwrap(), "--ids", "1,2,3", "--out", out].map(String::from).into()
}

fn write_to(out: &Path) -> Vec<u8> {
    let args = args(out.to_str().unwrap());
    let output = nvllm(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn check(bytes: &[u8]) {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensor = file.tensor("logits").unwrap();
    assert_eq!(tensor.shape(), [3, 320]);
    assert!(tensor.data().iter().any(|byte| *byte != 0));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_dash_and_dev_stdout_are_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    for out in ["-", "/dev/stdout", "/proc/self/fd/1"] {
        let args = args(out);
        let run = || {
            let mut command = command(&args.iter().map(String::as_str).collect::<Vec<_>>());
            command.current_dir(dir.path());
            command
        };
        check(&run().output().unwrap().stdout);
        // What stands before it in a file stays.
        let path = dir.path().join("all");
        fs::write(&path, "before").unwrap();
        let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        assert!(run().stdout(file).status().unwrap().success());
        let all = fs::read(&path).unwrap();
        assert!(all.starts_with(b"before"), "{out}");
        check(&all[6..]);
    }
    assert!(!dir.path().join("-").exists());
    assert!(fs::metadata("/dev/stdout").is_ok());
}

#[test]
fn a_device_is_written_and_not_replaced() {
    let device = |path: &str| fs::metadata(path).unwrap().file_type().is_char_device();
    write_to(Path::new("/dev/null"));
    assert!(device("/dev/null"));
    let full = args("/dev/full");
    refuses(
        &full.iter().map(String::as_str).collect::<Vec<_>>(),
        &["cannot write /dev/full", "No space left"],
    );
    assert!(device("/dev/full"));
}

#[test]
fn a_pipe_with_a_name_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    write_to(&pipe);
    check(&reader.join().unwrap());
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn links_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (target, link, dangling) =
        (dir.path().join("target"), dir.path().join("link"), dir.path().join("dangling"));
    fs::write(&target, "old").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o604)).unwrap();
    symlink("target", &link).unwrap();
    write_to(&link);
    check(&fs::read(&target).unwrap());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(mode(&target), 0o604);
    symlink(dir.path().join("new"), &dangling).unwrap();
    write_to(&dangling);
    check(&fs::read(dir.path().join("new")).unwrap());
    assert!(fs::symlink_metadata(&dangling).unwrap().is_symlink());
    // Nothing else is left beside them.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
}

#[test]
fn a_new_file_has_the_rights_that_the_umask_leaves() {
    let dir = tempfile::tempdir().unwrap();
    for (umask, expected) in [("022", 0o644), ("077", 0o600), ("002", 0o664)] {
        let out = dir.path().join(umask);
        let status = Command::new("sh")
            .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_nvllm")])
            .args(args(out.to_str().unwrap()))
            .status();
        assert!(status.unwrap().success());
        assert_eq!(mode(&out), expected, "umask {umask}");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_refused_before_the_model_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let inside = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    symlink("circle", dir.path().join("circle")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for out in [inside("none/file"), inside(""), inside("circle"), inside("file/under"), inside("new/")] {
        let args = ["logits", "-m", "no/such", "--ids", "1", "--out", &out];
        refuses(&args, &["cannot write "]);
    }
}
