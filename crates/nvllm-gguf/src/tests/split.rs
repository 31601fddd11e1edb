//! Models in several files.

use std::path::{Path, PathBuf};

use nvllm_core::weight::Checkpoint as _;

use super::write::File;
use crate::Gguf;

/// File `no` of `count`, with the tensor `t{no}`.
fn part(no: u32, count: u32, total: u32) -> File {
    let file = File::new().number("split.no", no).number("split.count", count);
    let file = file.number("split.tensors.count", total).zeros(&format!("t{no}"), &[1]);
    if no == 0 { file.text("general.name", "split") } else { file }
}

fn path(dir: &Path, no: u32) -> PathBuf {
    dir.join(format!("m-{no:05}-of-00003.gguf"))
}

/// A directory with a model in three files.
fn three() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    (0..3).for_each(|no| write(dir.path(), no, &part(no, 3, 3)));
    dir
}

fn write(dir: &Path, no: u32, file: &File) {
    std::fs::write(path(dir, no + 1), file.bytes()).unwrap();
}

fn refused(dir: &Path, no: u32) -> String {
    Gguf::open(&path(dir, no)).expect_err("the model is refused").to_string()
}

#[test]
fn any_file_of_a_model_opens_all() {
    let dir = three();
    for no in 1..=3 {
        let gguf = Gguf::open(&path(dir.path(), no)).unwrap();
        assert_eq!(gguf.names(), ["t0", "t1", "t2"]);
        assert_eq!(gguf.metadata().str_opt("general.name").unwrap(), Some("split"));
        assert_eq!(gguf.describe(), path(dir.path(), 1).display().to_string());
    }
}

#[test]
fn a_missing_file_is_named() {
    let dir = three();
    std::fs::remove_file(path(dir.path(), 2)).unwrap();
    let message = refused(dir.path(), 1);
    assert!(message.contains("m-00002-of-00003.gguf: file 2 of 3 of the model is missing"), "{message}");
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let faults: [(u32, File, &str); 5] = [
        (1, part(2, 3, 3), "`split.no` is 2 where the file's name says 1"),
        (2, part(2, 4, 3), "`split.count` is 4 where the file's name says 3"),
        (2, File::new().zeros("t2", &[1]), "`split.no` is missing where the file's name says 2"),
        (0, part(0, 3, 4), "`split.tensors.count` is 4, and the 3 files have 3"),
        (1, part(1, 3, 3).zeros("t0", &[1]), "repeats tensor `t"),
    ];
    for (no, file, expected) in faults {
        let dir = three();
        write(dir.path(), no, &file);
        let message = refused(dir.path(), if no == 0 { 2 } else { 1 });
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn one_file_of_several_alone_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let renamed = dir.path().join("model.gguf");
    std::fs::write(&renamed, part(0, 3, 3).bytes()).unwrap();
    for message in [Gguf::open(&renamed).unwrap_err().to_string(), part(0, 3, 3).refused()] {
        assert!(message.contains("one of 3 files; name them NAME-00001-of-00003.gguf"), "{message}");
    }
    // A name that only looks like one of several, and a model split into one file.
    let single = dir.path().join("m-00001-of-00003.gguf");
    std::fs::write(&single, File::new().zeros("t", &[1]).bytes()).unwrap();
    assert!(Gguf::open(&single).is_ok());
    std::fs::write(&single, part(0, 1, 1).bytes()).unwrap();
    assert!(Gguf::open(&single).is_ok());
}
