//! Small vocabularies, damaged ones, and what a model asks a vocabulary for.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::text::{ChatInput, ChatTemplate, EncodeOptions, SpecialText};

const PATH: &str = "dir/m.gguf";

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

/// `<unk>`, `<s>`, `</s>`, all bytes, then the pieces with their scores.
fn sentence_piece(pieces: &[(&str, f32)]) -> GgufVocabulary {
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let tokens: Vec<String> = texts(&["<unk>", "<s>", "</s>"])
        .into_iter()
        .chain(bytes)
        .chain(pieces.iter().map(|&(piece, _)| piece.to_owned()))
        .collect();
    let mut token_types = [vec![2, 3, 3], vec![6; 256]].concat();
    token_types.resize(tokens.len(), 1);
    let mut scores = vec![0.0; 259];
    scores.extend(pieces.iter().map(|&(_, score)| score));
    GgufVocabulary { model: "llama".into(), tokens, token_types, scores, ..GgufVocabulary::default() }
}

/// Letters, `ab`, a control and a user-defined token.
fn bytes() -> GgufVocabulary {
    GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens: texts(&["a", "b", "ab", "<|end|>", "<think>"]),
        token_types: vec![1, 1, 1, 3, 4],
        merges: texts(&["a b"]),
        ..GgufVocabulary::default()
    }
}

fn encode(vocabulary: &GgufVocabulary, text: &str, options: EncodeOptions) -> Vec<u32> {
    vocabulary.tokenizer(Path::new(PATH)).unwrap().encode(text, options).unwrap()
}

fn ids(vocabulary: &GgufVocabulary, text: &str) -> Vec<u32> {
    encode(vocabulary, text, EncodeOptions::default())
}

fn around(vocabulary: &GgufVocabulary, text: &str) -> Vec<u32> {
    encode(vocabulary, text, EncodeOptions { add_special_tokens: true, ..EncodeOptions::default() })
}

#[test]
fn pieces_are_joined_by_score_and_bytes_stand_for_the_rest() {
    let order = |ab, bc| {
        sentence_piece(&[("▁", -9.0), ("a", -8.0), ("b", -7.0), ("c", -6.0), ("ab", ab), ("bc", bc)])
    };
    let (ab_first, bc_first) = (order(-1.0, -2.0), order(-2.0, -1.0));
    assert_eq!(ids(&ab_first, "abc"), [259, 263, 262]);
    assert_eq!(ids(&bc_first, "abc"), [259, 260, 264]);
    assert_eq!(ids(&ab_first, " a"), [259, 259, 260], "a space goes before a text that has one");
    assert_eq!(ids(&ab_first, "é\n"), [259, 3 + 0xC3, 3 + 0xA9, 3 + 0x0A]);
    assert_eq!(ids(&ab_first, "a<s>a"), [259, 260, 1, 259, 260]);
    assert!(ids(&ab_first, "").is_empty());
    let without = GgufVocabulary { add_space_prefix: Some(false), ..ab_first.clone() };
    assert_eq!(ids(&without, "a"), [260]);
    for (vocabulary, text) in [(&ab_first, " é  a\n"), (&without, "é  a\n")] {
        let tokenizer = vocabulary.tokenizer(Path::new(PATH)).unwrap();
        assert_eq!(tokenizer.decode(&ids(vocabulary, text), false), text);
    }
}

/// Only pieces that texts are made of are joined: nobody writes a control token's name in parts.
#[test]
fn no_merge_makes_a_control_token() {
    let mut vocabulary = sentence_piece(&[("<", -1.0), ("s", -2.0), (">", -3.0), ("s>", -4.0), ("▁", -5.0)]);
    vocabulary.add_space_prefix = Some(false);
    let literal = EncodeOptions { special_text: SpecialText::Literal, ..EncodeOptions::default() };
    assert_eq!(encode(&vocabulary, "<s>", literal), [259, 262]);
    assert_eq!(ids(&vocabulary, "<s>"), [1]);
}

/// Among equal scores the lower id, then the parts' ids: a run is joined in pairs from its start.
#[test]
fn equal_scores_are_joined_by_id() {
    let vocabulary = sentence_piece(&[("▁", 0.0), ("▁▁", -0.0), ("▁▁▁▁", 0.0), ("▁▁▁", 0.0)]);
    assert_eq!(ids(&vocabulary, &" ".repeat(6)), [261, 262]);
}

#[test]
fn a_text_begins_with_one_token_where_the_kind_or_the_file_says_so() {
    let mut vocabulary = sentence_piece(&[("▁", 0.0), ("a", 0.0)]);
    assert_eq!(around(&vocabulary, "a"), [1, 259, 260]);
    assert_eq!(ids(&vocabulary, "a"), [259, 260], "as rendered chat templates are encoded");
    assert_eq!(ids(&vocabulary, "<s>a"), [1, 259, 260]);
    vocabulary.add_eos_token = Some(true);
    assert_eq!(around(&vocabulary, "a"), [1, 259, 260, 2]);
    vocabulary.add_bos_token = Some(false);
    assert_eq!(around(&vocabulary, "a"), [259, 260, 2]);

    let named = GgufVocabulary { bos_token_id: Some(3), ..bytes() };
    assert_eq!(around(&named, "ab"), [2], "not by default");
    let llama3 = GgufVocabulary { pre: Some("llama-bpe".into()), ..named.clone() };
    assert_eq!(around(&llama3, "ab"), [3, 2]);
    let unnamed = GgufVocabulary { bos_token_id: None, ..llama3 };
    assert_eq!(around(&unnamed, "ab"), [2]);
    assert_eq!(around(&GgufVocabulary { add_bos_token: Some(true), ..named }, "ab"), [3, 2]);
}

#[test]
fn types_say_what_is_special() {
    let tokenizer = bytes().tokenizer(Path::new(PATH)).unwrap();
    assert_eq!(ids(&bytes(), "ab<|end|><think>ab"), [2, 3, 4, 2]);
    assert!(tokenizer.is_special(3) && !tokenizer.is_special(4));
    assert_eq!(tokenizer.decode(&[2, 3, 4], true), "ab<think>");
    // Without types the named ids are control.
    let untyped = GgufVocabulary { token_types: Vec::new(), eos_token_id: Some(3), ..bytes() };
    let tokenizer = untyped.tokenizer(Path::new(PATH)).unwrap();
    assert_eq!(tokenizer.added_tokens().iter().map(|token| token.id).collect::<Vec<_>>(), [3]);
}

#[test]
fn repeated_empty_and_placeholder_tokens_are_no_tokens() {
    let mut vocabulary = bytes();
    vocabulary.tokens.extend(texts(&["a", "", "[PAD7]", "[PAD8]", "[PAD0]"]));
    vocabulary.token_types.extend([1, 1, 5, 4, 4]);
    let tokenizer = vocabulary.tokenizer(Path::new(PATH)).unwrap();
    assert_eq!(ids(&vocabulary, "ab"), [2]);
    assert_eq!((5..9).filter_map(|id| tokenizer.token(id)).count(), 0);
    assert_eq!((tokenizer.token(9).as_deref(), tokenizer.vocab_size()), (Some("[PAD0]"), 6));
}

#[test]
fn a_merge_parts_at_the_space_after_its_first_character() {
    let mut vocabulary = bytes();
    vocabulary.tokens.extend(texts(&[" ", " b"]));
    vocabulary.token_types.extend([1, 1]);
    vocabulary.merges.push("  b".into());
    vocabulary.tokenizer(Path::new(PATH)).unwrap();
}

#[test]
fn damaged_metadata_is_one_line_in_plain_words() {
    let with = |change: fn(&mut GgufVocabulary)| {
        let mut vocabulary = bytes();
        change(&mut vocabulary);
        vocabulary
    };
    for (vocabulary, problem) in [
        (GgufVocabulary::default(), "tokenizer.ggml.tokens is empty"),
        (
            with(|v| v.model = "bert".into()),
            "tokenizer.ggml.model is \"bert\", which is not supported; gpt2 and llama are",
        ),
        (with(|v| v.pre = Some("viking".into())), "tokenizer.ggml.pre is \"viking\""),
        (with(|v| v.pre = None), "tokenizer.ggml.pre is absent"),
        (
            with(|v| v.token_types.truncate(4)),
            "tokenizer.ggml.token_type has 4 entries and tokenizer.ggml.tokens 5",
        ),
        (
            with(|v| v.scores = vec![0.0; 6]),
            "tokenizer.ggml.scores has 6 entries and tokenizer.ggml.tokens 5",
        ),
        (with(|v| v.merges[0] = "ab".into()), "entry 0 of tokenizer.ggml.merges, \"ab\", is not two pieces"),
        (with(|v| v.merges[0] = String::new()), "entry 0 of tokenizer.ggml.merges, \"\", is not two pieces"),
        (with(|v| v.merges[0] = "é ".into()), "needs \"é\", which tokenizer.ggml.tokens has not"),
        (with(|v| v.merges.push("a a".into())), "entry 1 of tokenizer.ggml.merges, \"a a\", needs \"aa\""),
        (with(|v| v.merges.push("a b b".into())), "needs \"b b\", which"),
        (with(|v| v.add_bos_token = Some(true)), "tokenizer.ggml.add_bos_token is true and no token"),
        (
            with(|v| (v.add_eos_token, v.eos_token_id) = (Some(true), Some(5))),
            "tokenizer.ggml.add_eos_token is true and no token",
        ),
        (with(|v| (v.model, v.merges) = ("llama".into(), Vec::new())), "tokenizer.ggml.scores is absent"),
        (
            GgufVocabulary {
                scores: vec![f32::NAN; 5],
                model: "llama".into(),
                merges: Vec::new(),
                ..bytes()
            },
            "entry 0 of tokenizer.ggml.scores is not a number",
        ),
    ] {
        let message = vocabulary.tokenizer(Path::new(PATH)).unwrap_err().to_string();
        assert!(message.starts_with("dir/m.gguf: ") && message.contains(problem), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn ids_outside_the_vocabulary_name_nothing() {
    let vocabulary = GgufVocabulary {
        bos_token_id: Some(5),
        eos_token_id: Some(u32::MAX),
        eot_token_id: Some(3),
        eom_token_id: Some(9),
        padding_token_id: Some(5),
        ..bytes()
    };
    assert_eq!(vocabulary.tokenizer_config(), json!({}));
    assert_eq!(vocabulary.end_token_ids(), [3]);
    vocabulary.tokenizer(Path::new(PATH)).unwrap();
}

#[test]
fn end_tokens_are_the_named_and_the_known_control_tokens() {
    let mut vocabulary = bytes();
    vocabulary.tokens.extend(texts(&["<|eot_id|>", "<|im_end|>", "<|endoftext|>"]));
    vocabulary.token_types.extend([3, 3, 1]);
    (vocabulary.eos_token_id, vocabulary.eot_token_id) = (Some(5), Some(5));
    assert_eq!(vocabulary.end_token_ids(), [5, 6], "a piece of text ends nothing");
}

#[test]
fn chat_templates_see_the_special_tokens() {
    let mut vocabulary = sentence_piece(&[("▁", 0.0), ("a", 0.0)]);
    vocabulary.padding_token_id = Some(2);
    vocabulary.chat_template = Some("{{ bos_token }}a{{ eos_token }}".into());
    let config = vocabulary.tokenizer_config();
    let expected = json!({
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>",
        "chat_template": "{{ bos_token }}a{{ eos_token }}",
    });
    assert_eq!(config, expected);
    let load = |config: &Value| {
        ChatTemplate::from_parts(None, Some((config.to_string().as_bytes(), Path::new(PATH))))
            .unwrap()
            .unwrap()
    };
    let rendered = load(&config).render(&ChatInput::default()).unwrap();
    assert_eq!(ids(&vocabulary, &rendered), [1, 259, 260, 2], "one beginning");
    vocabulary.named_chat_templates = vec![("tool_use".into(), "T".into())];
    assert_eq!(load(&vocabulary.tokenizer_config()).names(), ["default", "tool_use"]);
}

fn any_vocabulary() -> impl Strategy<Value = GgufVocabulary> {
    let token = || proptest::string::string_regex("[ab▁<>0x\\[PAD\\]1 é]{0,6}").unwrap();
    let id = || proptest::option::of(0_u32..8);
    let flag = || proptest::option::of(any::<bool>());
    let lists = (vec(token(), 0..8), vec(any::<f32>(), 0..8), vec(-1_i32..8, 0..8), vec(token(), 0..3));
    let names = (
        prop::sample::select(vec!["gpt2", "llama"]),
        prop::sample::select(vec!["qwen2", "llama-bpe", "smollm", "default"]),
    );
    (lists, names, id(), id(), id(), flag(), flag()).prop_map(
        |(
            (tokens, mut scores, mut token_types, merges),
            (model, pre),
            bos,
            eos,
            unknown,
            add_bos,
            add_space,
        )| {
            // Mostly as long as they must be.
            if tokens.len() % 4 != 3 {
                scores.resize(tokens.len(), 0.0);
                token_types.resize(tokens.len(), 1);
            }
            GgufVocabulary {
                model: model.into(),
                pre: Some(pre.into()),
                tokens,
                scores,
                token_types,
                merges,
                bos_token_id: bos,
                eos_token_id: eos,
                unknown_token_id: unknown,
                add_bos_token: add_bos,
                add_space_prefix: add_space,
                ..GgufVocabulary::default()
            }
        },
    )
}

/// The library's tokenizer, as the file that it would write.
fn handed(vocabulary: &GgufVocabulary) -> Option<Value> {
    let parts = vocabulary.parts().ok()?;
    Some(serde_json::to_value(parts.build().unwrap()).unwrap())
}

fn read(vocabulary: &GgufVocabulary) -> Option<Value> {
    let file = vocabulary.tokenizer_json(Path::new(PATH)).ok()?.to_string();
    Some(serde_json::to_value(tokenizers::Tokenizer::from_bytes(file).unwrap()).unwrap())
}

#[test]
fn added_tokens_and_merges_are_handed_to_the_library_as_the_file_has_them() {
    let byte_level = GgufVocabulary { bos_token_id: Some(3), add_bos_token: Some(true), ..bytes() };
    for vocabulary in [byte_level, sentence_piece(&[("a", -1.0), ("b", -2.0), ("ab", -3.0)])] {
        let tokenizer = handed(&vocabulary).unwrap();
        assert_eq!(tokenizer["model"]["merges"], json!([["a", "b"]]));
        assert_eq!(
            tokenizer["added_tokens"].as_array().unwrap().len(),
            if vocabulary.model == "gpt2" { 2 } else { 3 }
        );
        assert_eq!(Some(tokenizer), read(&vocabulary));
    }
}

// About a fifth of these are tokenizers.
proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_metadata_is_a_tokenizer_or_an_error(vocabulary in any_vocabulary(), text in "[ab▁<>é0 x]{0,12}") {
        vocabulary.tokenizer_config();
        vocabulary.end_token_ids();
        if let Ok(tokenizer) = vocabulary.tokenizer(Path::new(PATH)) {
            let options = EncodeOptions { add_special_tokens: true, ..EncodeOptions::default() };
            for id in tokenizer.encode(&text, options).unwrap() {
                prop_assert!((id as usize) < vocabulary.tokens.len());
            }
        }
    }

    #[test]
    fn what_the_library_is_handed_is_what_it_reads_from_the_file(vocabulary in any_vocabulary()) {
        prop_assert_eq!(handed(&vocabulary), read(&vocabulary));
    }
}
