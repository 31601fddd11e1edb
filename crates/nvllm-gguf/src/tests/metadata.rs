//! What a sound file says, and questions that it cannot answer.

use nvllm_core::weight::Checkpoint as _;

use super::write::{File, array, text};

#[test]
fn a_file_of_either_version_is_read_whole() {
    for version in [2, 3] {
        let data: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let file = File { version, ..File::new().tensor("one", &[1], 0, &[0; 4]) };
        let gguf = file.tensor("a", &[2, 3, 2], 0, &data).number("n", 7).open().unwrap();
        assert_eq!(gguf.names(), ["a", "one"]);
        let raw = gguf.raw("a").unwrap();
        assert_eq!((raw.dtype.as_str(), &raw.shape[..], &raw.bytes[..]), ("F32", &[2, 3, 2][..], &data[..]));
        assert_eq!(gguf.metadata().u64_opt("n").unwrap(), Some(7));
        let missing = gguf.raw("b").unwrap_err().to_string();
        assert!(missing.contains("`b`") && missing.contains("mem.gguf"), "{missing}");
    }
}

#[test]
fn tensors_begin_where_the_alignment_says() {
    let file = File { alignment: 128, ..File::new() };
    let gguf =
        file.number("general.alignment", 128).tensor("a", &[1], 0, &[1; 4]).tensor("b", &[1], 0, &[2; 4]);
    let gguf = gguf.open().unwrap();
    assert_eq!(
        (&gguf.raw("a").unwrap().bytes[..], &gguf.raw("b").unwrap().bytes[..]),
        (&[1; 4][..], &[2; 4][..])
    );
}

#[test]
fn every_type_of_value_is_read() {
    let metadata = File::new()
        .with("u8", 0, &[255])
        .with("i8", 1, &[255])
        .with("u16", 2, &[0xfe, 0xff])
        .with("i16", 3, &[0xfe, 0xff])
        .with("u32", 4, &u32::MAX.to_le_bytes())
        .with("i32", 5, &(-5_i32).to_le_bytes())
        .with("f32", 6, &1.5_f32.to_le_bytes())
        .with("bool", 7, &[1])
        .with("text", 8, &text("π"))
        .with("u64", 10, &u64::MAX.to_le_bytes())
        .with("i64", 11, &7_i64.to_le_bytes())
        .with("f64", 12, &0.1_f64.to_le_bytes())
        .open()
        .unwrap();
    let metadata = metadata.metadata();
    let whole = ["u8", "u16", "u32", "u64", "i64"].map(|key| metadata.u64_opt(key).unwrap().unwrap());
    assert_eq!(whole, [255, 0xfffe, u64::from(u32::MAX), u64::MAX, 7]);
    let any = ["i8", "i16", "i32", "f32", "f64", "i64"].map(|key| metadata.f64_opt(key).unwrap().unwrap());
    assert_eq!(any, [-1.0, -2.0, -5.0, 1.5, 0.1, 7.0]);
    assert_eq!(metadata.bool_opt("bool").unwrap(), Some(true));
    assert_eq!(metadata.str_opt("text").unwrap(), Some("π"));
    assert_eq!(metadata.keys().count(), 12);
}

#[test]
fn arrays_are_read_as_what_they_are() {
    let texts = [text("a"), text(""), text("bc")].concat();
    let gguf = File::new()
        .with("texts", 9, &array(8, 3, &texts))
        .with("floats", 9, &array(6, 2, &[1.5_f32.to_le_bytes(), 2.5_f32.to_le_bytes()].concat()))
        .with("i32s", 9, &array(5, 2, &[(-1_i32).to_le_bytes(), 3_i32.to_le_bytes()].concat()))
        .with("u8s", 9, &array(0, 3, &[1, 2, 255]))
        .with("none", 9, &array(8, 0, &[]))
        .with("nested", 9, &array(9, 1, &array(5, 1, &[0; 4])))
        .open()
        .unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.strings("texts").unwrap(), ["a", "", "bc"]);
    assert_eq!(metadata.f32s("floats").unwrap(), [1.5, 2.5]);
    assert_eq!(metadata.i32s("i32s").unwrap(), [-1, 3]);
    assert_eq!(metadata.u32s("u8s").unwrap(), [1, 2, 255]);
    assert!(metadata.strings("none").unwrap().is_empty() && metadata.strings("absent").unwrap().is_empty());
    for (key, what) in [("texts", "an array of 3"), ("i32s", "an array of 2"), ("nested", "an array of 1")] {
        let message = metadata.u32s(key).unwrap_err().to_string();
        assert!(message.contains(&format!("`{key}` is {what}")), "{message}");
    }
}

#[test]
fn a_value_of_another_type_is_refused_by_its_key() {
    let not_utf8 = [&2_u64.to_le_bytes()[..], &[0xff, 0xfe]].concat();
    let gguf = File::new()
        .text("text", "much")
        .with("minus", 5, &(-1_i32).to_le_bytes())
        .float("nan", f32::NAN)
        .with("raw", 8, &not_utf8)
        .with("raws", 9, &array(8, 1, &not_utf8))
        .open()
        .unwrap();
    let metadata = gguf.metadata();
    let messages = [
        (metadata.u64_opt("text").map(drop), "`text` is \"much\"; a whole number of at least 0 is needed"),
        (metadata.u64_opt("minus").map(drop), "`minus` is -1; a whole number of at least 0 is needed"),
        (metadata.f64_opt("nan").map(drop), "`nan` is NaN; a finite number is needed"),
        (metadata.bool_opt("minus").map(drop), "`minus` is -1; true or false is needed"),
        (metadata.str_opt("raw").map(drop), "`raw` is \"\u{fffd}\u{fffd}\"; a text in UTF-8 is needed"),
        (metadata.strings("text").map(drop), "`text` is \"much\"; an array of texts is needed"),
        (metadata.strings("raws").map(drop), "`raws` has element 0, which is not UTF-8"),
    ];
    for (result, expected) in messages {
        assert_eq!(result.unwrap_err().to_string(), format!("mem.gguf: metadata {expected}"));
    }
    assert_eq!(metadata.u64_opt("absent").unwrap(), None);
}
