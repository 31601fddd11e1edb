//! Headers that promise too much, or what cannot be.

use bytes::Bytes;
use nvllm_core::weight::Checkpoint as _;
use proptest::prelude::*;

use super::write::{File, array, entry, place, text};
use crate::Gguf;

/// A file of everything that the format has.
fn whole() -> File {
    File::new()
        .number("general.alignment", 32)
        .text("general.name", "a model")
        .with("texts", 9, &array(8, 2, &[text("ab"), text("c")].concat()))
        .with("nested", 9, &array(9, 1, &array(5, 2, &[0; 8])))
        .tensor("a", &[32, 64], 8, &[7; 64 * 34])
        .tensor("b", &[3], 0, &[9; 12])
}

#[test]
fn every_truncation_says_where_the_file_ends() {
    let bytes = whole().bytes();
    for len in 4..bytes.len() {
        let cut = Bytes::copy_from_slice(&bytes[..len]);
        let message = Gguf::from_bytes("cut.gguf", &cut).expect_err("a cut file is refused").to_string();
        assert!(message.starts_with("cut.gguf: the file ends"), "{len}: {message}");
        assert!(message.contains("download the file again"), "{message}");
    }
    assert!(whole().open().is_ok());
    let message = Gguf::from_bytes("b", &Bytes::copy_from_slice(&bytes[..bytes.len() - 1])).unwrap_err();
    assert!(message.to_string().contains("before tensor `b` of 12 bytes does"), "{message}");
}

#[test]
fn what_is_no_gguf_file_of_a_known_version_is_named() {
    let message =
        Gguf::from_bytes("x", &Bytes::from_static(b"GGML\0\0\0\0\0\0\0\0")).unwrap_err().to_string();
    assert!(message.contains("not a GGUF file"), "{message}");
    for (version, expected) in [(1, "version 1"), (4, "version 4"), (3_u32.swap_bytes(), "big-endian")] {
        let message = File { version, ..whole() }.refused();
        assert!(message.contains(expected) && !message.contains("download"), "{message}");
    }
}

#[test]
fn counts_and_lengths_beyond_the_file_end_at_its_end() {
    for count in [1 << 20, u64::MAX] {
        for at in [8, 16] {
            let mut bytes = whole().bytes();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let message = Gguf::from_bytes("x", &Bytes::from(bytes)).unwrap_err().to_string();
            assert!(message.starts_with("x: "), "{message}");
        }
        let long = |kind| File::new().with("k", 9, &array(kind, count, &[0; 64]));
        for kind in [0, 5, 8, 9, 12] {
            let message = long(kind).refused();
            assert!(message.contains("ends in its metadata"), "type {kind}: {message}");
        }
        let message = File::new().with("k", 8, &count.to_le_bytes()).refused();
        assert!(message.contains("ends in its metadata"), "{message}");
    }
    let message = File { values: vec![entry(&"k".repeat(70_000), 0, &[1])], ..File::new() }.refused();
    assert!(message.contains("a metadata key of 70000 bytes"), "{message}");
}

#[test]
fn arrays_nest_so_deep_and_no_deeper() {
    let nested = |depth: usize| (1..depth).fold(array(0, 1, &[1]), |inner, _| array(9, 1, &inner));
    assert!(File::new().with("k", 9, &nested(4)).open().is_ok());
    for depth in [5, 2000] {
        let message = File::new().with("k", 9, &nested(depth)).refused();
        assert!(message.contains("metadata `k` has arrays nested more than 4 deep"), "{message}");
    }
}

#[test]
fn values_that_cannot_be_are_refused_by_their_key() {
    let unknown = File::new().with("k", 13, &[]).refused();
    assert!(unknown.contains("metadata `k` has a value of the unknown type 13"), "{unknown}");
    let flag = File::new().with("k", 7, &[2]).refused();
    assert!(flag.contains("metadata `k` has a truth value 2"), "{flag}");
    let twice = File::new().number("k", 1).number("k", 1).refused();
    assert!(twice.contains("repeats metadata `k`"), "{twice}");
}

#[test]
fn an_alignment_is_a_power_of_two() {
    for alignment in [0, 3, 48] {
        let message = File::new().number("general.alignment", alignment).refused();
        let expected = format!("`general.alignment` is {alignment}; a power of two below 2^32 is needed");
        assert!(message.contains(&expected), "{message}");
    }
    let message = File::new().with("general.alignment", 10, &(1_u64 << 40).to_le_bytes()).refused();
    assert!(message.contains("a power of two"), "{message}");
}

#[test]
fn tensors_that_cannot_be_are_refused_by_their_name() {
    let half = 1 << 40;
    for (dims, kind, offset, expected) in [
        (&[1, 1, 1, 1, 1][..], 0, 0, "has 5 dimensions"),
        (&[4, 0], 0, 0, "has an extent that cannot be"),
        (&[half, half, half], 0, 0, "has extents that cannot be"),
        (&[u64::MAX], 0, 0, "has extents that cannot be"),
        (&[33], 8, 0, "has rows of 33 elements; Q8_0 has blocks of 32"),
        (&[128], 12, 0, "has rows of 128 elements; Q4_K has blocks of 256"),
        (&[1], 0, 16, "begins at 16, which is no multiple of 32"),
        (&[1], 0, 1 << 20, "the file ends, after"),
        (&[1], 0, u64::MAX - 31, "the file ends, after"),
        (&[1 << 40], 0, 0, "the file ends, after"),
        (&[1], 4, 0, "has the unknown type 4; F32, F16, BF16,"),
        (&[1], 9999, 0, "has the unknown type 9999"),
    ] {
        let message = File { tensors: vec![place("t", dims, kind, offset)], ..File::new() }.refused();
        assert!(message.contains("tensor `t`") && message.contains(expected), "{message}");
    }
    let places = (0..9).map(|i| place(&format!("t{i}"), &[32], 0, 0)).collect();
    let message = File { tensors: places, data: vec![0; 256], ..File::new() }.refused();
    assert!(message.contains("shares its bytes with others"), "{message}");
    let message = File::new().zeros("t", &[1]).zeros("t", &[1]).refused();
    assert!(message.contains("repeats tensor `t`"), "{message}");
}

proptest! {
    /// Whatever a byte is changed to, the file is read or refused, and what is read is there.
    #[test]
    fn a_changed_header_is_read_or_refused(at in 0_usize..400, byte: u8, more in 0_usize..400, other: u8) {
        let mut bytes = whole().bytes();
        let len = bytes.len();
        bytes[at % len] = byte;
        bytes[more % len] = other;
        if let Ok(gguf) = Gguf::from_bytes("x", &Bytes::from(bytes)) {
            for name in gguf.names() {
                let raw = gguf.raw(&name).unwrap();
                prop_assert!(raw.bytes.len() <= len && raw.shape.iter().product::<usize>() > 0);
            }
            let keys: Vec<_> = gguf.metadata().keys().map(str::to_owned).collect();
            for key in keys {
                let _ = (gguf.metadata().strings(&key), gguf.metadata().i32s(&key), gguf.metadata().f32s(&key));
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 24..300)) {
        bytes[..8].copy_from_slice(b"GGUF\x03\0\0\0");
        // Counts that let the walk begin.
        bytes[8..24].copy_from_slice(&[[1, 0, 0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0]].concat());
        let _ = Gguf::from_bytes("x", &Bytes::from(bytes));
    }
}
