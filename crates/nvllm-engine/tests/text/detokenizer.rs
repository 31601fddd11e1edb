//! The stream against decoding everything at once by the `tokenizers` crate, for every kind of
//! decoder.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use nvllm_engine::text::{Detokenizer, EncodeOptions, TextStart, Tokenizer};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::support::{qwen3, qwen3_bytes, repository, tiny};

/// A tokenizer as we load it and as the library loads it.
struct Pair {
    ours: Arc<Tokenizer>,
    reference: tokenizers::Tokenizer,
}

impl Pair {
    fn new(json: &Value) -> Self {
        let bytes = json.to_string();
        Self {
            ours: Arc::new(
                Tokenizer::from_bytes(bytes.as_bytes(), Path::new("test/tokenizer.json")).unwrap(),
            ),
            reference: tokenizers::Tokenizer::from_bytes(bytes).unwrap(),
        }
    }

    /// Streams the ids, checks every property, returns the text.
    fn check(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TestCaseError> {
        let expected = self.reference.decode(ids, skip_special_tokens).unwrap();
        prop_assert_eq!(&self.ours.decode(ids, skip_special_tokens), &expected);
        let mut detokenizer = Detokenizer::new(self.ours.clone(), skip_special_tokens, TextStart::Beginning);
        let mut text = String::new();
        for (at, &id) in ids.iter().enumerate() {
            let before = text.len();
            detokenizer.push(id, &mut text);
            prop_assert!(
                expected.starts_with(&text),
                "token {} changed shown text: {:?} / {:?}",
                at,
                text,
                expected
            );
            // U+FFFD comes out only where the full text has it too; `starts_with` has seen to that.
            // And pieces are `str`s, so that none can end inside a code point.
            prop_assert!(text.is_char_boundary(before));
        }
        detokenizer.finish(&mut text);
        prop_assert_eq!(&text, &expected);
        Ok(text)
    }
}

fn qwen3_pair() -> &'static Pair {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    PAIR.get_or_init(|| Pair {
        ours: qwen3(),
        reference: tokenizers::Tokenizer::from_bytes(qwen3_bytes()).unwrap(),
    })
}

fn tiny_pair() -> &'static Pair {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    PAIR.get_or_init(|| {
        let path = repository("models/nvllm-tiny/tokenizer.json");
        Pair { ours: tiny(), reference: tokenizers::Tokenizer::from_file(path).unwrap() }
    })
}

/// A `SentencePiece`-like vocabulary: `<unk>`, `<s>`, `</s>`, 256 byte tokens, pieces with and
/// without the space marker.
fn sentencepiece(decoder: &Value) -> Value {
    let mut vocab = Map::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.insert(token, id.into());
    };
    ["<unk>", "<s>", "</s>"].into_iter().for_each(|token| add(token.into()));
    (0..256).for_each(|byte| add(format!("<0x{byte:02X}>")));
    let pieces = [
        "▁", "▁▁", "▁Hello", "▁wor", "ld", "a", "é", "日", "🙂", "\u{FFFD}", "▁a▁b", "<0x4>", "<0xé>",
        "x<0x41>",
    ];
    pieces.into_iter().for_each(|token| add(token.into()));
    let added = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": [] },
    })
}

/// The decoders that models with such vocabularies have, and combinations that only a test makes.
fn sentencepiece_pairs() -> &'static [Pair] {
    static PAIRS: OnceLock<Vec<Pair>> = OnceLock::new();
    PAIRS.get_or_init(|| {
        let replace = json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " });
        let metaspace = |scheme: &str| {
            json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true })
        };
        let strip = |start: u32| json!({ "type": "Strip", "content": " ", "start": start, "stop": 0 });
        let (bytes, fuse) = (json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" }));
        let sequence = |decoders: Vec<&Value>| json!({ "type": "Sequence", "decoders": decoders });
        [
            sequence(vec![&replace, &bytes, &fuse, &strip(1)]), // Llama 2, Mistral
            sequence(vec![&replace, &bytes, &fuse]),            // Gemma
            metaspace("always"),
            metaspace("first"),
            metaspace("never"),
            sequence(vec![&metaspace("first"), &bytes]),
            sequence(vec![&replace, &strip(1), &bytes, &fuse, &strip(3)]),
            replace,
            bytes,
            Value::Null,
        ]
        .iter()
        .map(|decoder| Pair::new(&sentencepiece(decoder)))
        .collect()
    })
}

const SENTENCEPIECE_IDS: u32 = 3 + 256 + 14;

/// Ids of texts that need several tokens per code point, mixed with random ids and runs of byte
/// tokens.
fn byte_level_ids(pair: &'static Pair, num_ids: u32) -> impl Strategy<Value = Vec<u32>> {
    let encode = |text: String| pair.ours.encode(&text, EncodeOptions::default()).unwrap();
    let single_bytes: Vec<u32> = (0..num_ids)
        .filter(|&id| pair.ours.token_bytes(id).is_some_and(|b| b.len() == 1 && !b.is_ascii()))
        .collect();
    assert_eq!(single_bytes.len(), 128, "every byte has a token of its own");
    let part = prop_oneof![
        3 => "[a-z 🙂👩‍👦日本語한국é\u{301}\n]{1,12}".prop_map(encode),
        3 => prop::collection::vec(0..num_ids + 8, 1..6),
        2 => prop::collection::vec(prop::sample::select(single_bytes), 1..7),
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn qwen3_streams_what_it_decodes(ids in byte_level_ids(qwen3_pair(), 151_669), skip: bool) {
        qwen3_pair().check(&ids, skip)?;
    }

    #[test]
    fn the_demo_tokenizer_streams_what_it_decodes(ids in byte_level_ids(tiny_pair(), 8_192), skip: bool) {
        tiny_pair().check(&ids, skip)?;
    }

    /// Half of the ids are byte tokens, so that runs of them form, break and complete code points.
    #[test]
    fn sentencepiece_streams_what_it_decodes(
        which in 0..10_usize,
        ids in prop::collection::vec(
            prop_oneof![
                2 => (0..SENTENCEPIECE_IDS + 2).prop_map(|id| vec![id]),
                1 => (0..3_u32).prop_map(|id| vec![id]),
                2 => (259..SENTENCEPIECE_IDS).prop_map(|id| vec![id]),
                2 => any::<char>().prop_map(|c| c.to_string().bytes().map(|b| 3 + u32::from(b)).collect()),
                1 => prop::collection::vec((0x80..=0xFF_u32).prop_map(|byte| 3 + byte), 1..4),
            ],
            0..12,
        ),
        skip: bool,
    ) {
        sentencepiece_pairs()[which].check(&ids.concat(), skip)?;
    }
}

/// A token is shown as soon as nothing can change it: text at once, a code point with its last
/// byte.
#[test]
fn nothing_waits_longer_than_it_must() {
    let pair = tiny_pair();
    let ids = pair.ours.encode("naïve 🙂👩‍👩‍👧 日本", EncodeOptions::default()).unwrap();
    let mut detokenizer = Detokenizer::new(pair.ours.clone(), false, TextStart::Beginning);
    let (mut text, mut bytes) = (String::new(), Vec::new());
    for id in ids {
        detokenizer.push(id, &mut text);
        bytes.extend(pair.ours.token_bytes(id).unwrap());
        let complete = std::str::from_utf8(&bytes).map_or_else(|e| e.valid_up_to(), str::len);
        assert_eq!(text.len(), complete);
    }
    assert_eq!(text, "naïve 🙂👩‍👩‍👧 日本");
}

/// What follows a prompt keeps the space that a text of its own loses.
#[test]
fn a_continuation_keeps_its_leading_space() {
    let hello = 3 + 256 + 2;
    for (which, beginning) in
        [(0, "Hello Hello"), (1, " Hello Hello"), (2, "Hello Hello"), (4, " Hello Hello")]
    {
        let pair = &sentencepiece_pairs()[which];
        for (start, expected) in
            [(TextStart::Beginning, beginning), (TextStart::Continuation, " Hello Hello")]
        {
            let mut detokenizer = Detokenizer::new(pair.ours.clone(), true, start);
            let mut text = String::new();
            [1, hello, hello, 2].into_iter().for_each(|id| detokenizer.push(id, &mut text));
            detokenizer.finish(&mut text);
            assert_eq!(text, expected, "decoder {which}");
        }
        assert_eq!(pair.ours.token_bytes(hello).as_deref(), Some(&b" Hello"[..]));
        let byte = pair.ours.token_bytes(3 + 0xE5).unwrap();
        assert_eq!(byte, if which < 2 { vec![0xE5] } else { b"<0xE5>".to_vec() });
    }
}

/// What is left over at the end becomes U+FFFD, once per broken code point (byte level) or byte
/// (byte fallback).
#[test]
fn unfinished_bytes_at_the_end() {
    let stream = |pair: &Pair, ids: &[u32]| {
        let mut detokenizer = Detokenizer::new(pair.ours.clone(), false, TextStart::Beginning);
        let mut text = String::new();
        ids.iter().for_each(|&id| detokenizer.push(id, &mut text));
        let before = text.clone();
        detokenizer.finish(&mut text);
        (before, text)
    };
    let llama = &sentencepiece_pairs()[0];
    assert_eq!(stream(llama, &[264, 3 + 0xF0, 3 + 0x9F]), ("a".into(), "a\u{FFFD}\u{FFFD}".into()));
    let hangul = 10_764; // " \xED"
    assert_eq!(stream(qwen3_pair(), &[64, hangul]), ("a ".into(), "a \u{FFFD}".into()));
}

/// A small file with one of everything that tokenizers of language models have.
const SMALL: &str = r#"{"version":"1.0","truncation":null,"padding":null,
    "added_tokens":[{"id":3,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
    "normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Prepend","prepend":"_"}]},
    "pre_tokenizer":{"type":"Sequence","pretokenizers":[
        {"type":"Split","pattern":{"Regex":"a+|[^a]"},"behavior":"Isolated","invert":false},
        {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]},
    "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
        "pair":[{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[3],"tokens":["<s>"]}}},
    "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"_"},"content":" "},{"type":"ByteFallback"},
        {"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
    "model":{"type":"BPE","dropout":null,"unk_token":null,"byte_fallback":false,"vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]}}"#;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Whatever is cut from, pasted into or renamed in a tokenizer file: an error or a tokenizer,
    /// never a panic.
    #[test]
    fn damaged_tokenizer_files_do_not_panic(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..12_usize, prop::sample::select(vec![
                "", "null", "0", "-1", "\"\"", "[]", "{}", "\"a\"", "\"Strip\"", "\"Metaspace\"", "9", ",", "é",
            ])),
            1..4,
        ),
    ) {
        let mut text = SMALL.to_owned();
        for (at, len, insert) in edits {
            let start = at.index(text.len());
            let end = (start + len).min(text.len());
            if text.is_char_boundary(start) && text.is_char_boundary(end) {
                text.replace_range(start..end, insert);
            }
        }
        if let Ok(tokenizer) = Tokenizer::from_bytes(text.as_bytes(), Path::new("t.json")) {
            let _ = tokenizer.encode("abab <s> c é", EncodeOptions { add_special_tokens: true, ..EncodeOptions::default() });
            let _ = tokenizer.decode(&[0, 1, 2, 3, 4, u32::MAX], true);
        }
    }
}

#[test]
fn the_small_file_is_one_that_loads() {
    Tokenizer::from_bytes(SMALL.as_bytes(), Path::new("t.json")).unwrap();
}
