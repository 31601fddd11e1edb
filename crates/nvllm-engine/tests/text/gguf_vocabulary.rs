//! Tokenizers from GGUF metadata against the `tokenizer.json` that the metadata was made from.

use std::path::Path;

use nvllm_engine::text::{ChatInput, ChatTemplate, EncodeOptions, GgufVocabulary, SpecialText, Tokenizer};
use serde_json::{Value, json};

use crate::support::{json, qwen3, qwen3_bytes, repository};

const ROWS: usize = 151_936;

fn load(vocabulary: &GgufVocabulary) -> Tokenizer {
    vocabulary.tokenizer(Path::new("m.gguf")).unwrap()
}

fn encode(tokenizer: &Tokenizer, text: &str, add_special_tokens: bool) -> Vec<u32> {
    tokenizer.encode(text, EncodeOptions { add_special_tokens, special_text: SpecialText::Parse }).unwrap()
}

/// The metadata that `tests/python/gguf_vocabularies.py` writes, by the names of the fields.
fn vocabulary(json: &Value) -> GgufVocabulary {
    let texts = |name: &str| -> Vec<String> {
        let list = json[name].as_array().into_iter().flatten();
        list.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let text = |name: &str| json[name].as_str().map(str::to_owned);
    let id = |name: &str| json[name].as_u64().map(|id| id as u32);
    let numbers = |name: &str| json[name].as_array().into_iter().flatten();
    GgufVocabulary {
        model: text("model").unwrap(),
        pre: text("pre"),
        tokens: texts("tokens"),
        scores: numbers("scores").map(|score| score.as_f64().unwrap() as f32).collect(),
        token_types: numbers("token_types").map(|kind| kind.as_i64().unwrap() as i32).collect(),
        merges: texts("merges"),
        bos_token_id: id("bos_token_id"),
        eos_token_id: id("eos_token_id"),
        unknown_token_id: id("unknown_token_id"),
        padding_token_id: id("padding_token_id"),
        add_bos_token: json["add_bos_token"].as_bool(),
        add_eos_token: json["add_eos_token"].as_bool(),
        add_space_prefix: json["add_space_prefix"].as_bool(),
        chat_template: text("chat_template"),
        ..GgufVocabulary::default()
    }
}

/// Compares ids and decoded text of recorded cases.
///
/// Errors with the first texts that differ.
fn compare(tokenizer: &Tokenizer, cases: &[Value]) -> Result<(), String> {
    let mut different = Vec::new();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids = json!(encode(tokenizer, text, false));
        let around = || json!(encode(tokenizer, text, true));
        let decoded = |ids: &Value| {
            let ids: Vec<u32> =
                ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            json!(tokenizer.decode(&ids, false))
        };
        if ids != case["ids"] {
            different.push(format!("{text:?}: {ids}, not {}", case["ids"]));
        } else if !case["around"].is_null() && around() != case["around"] {
            different.push(format!("{text:?}: {}, not {}", around(), case["around"]));
        } else if !case["decoded"].is_null() && decoded(&ids) != case["decoded"] {
            different.push(format!("{text:?}: {}, not {}", decoded(&ids), case["decoded"]));
        }
    }
    if different.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} of {} differ:\n{}",
        different.len(),
        cases.len(),
        different[..different.len().min(5)].join("\n")
    ))
}

/// Qwen3's `tokenizer.json` as llama.cpp's converter writes it: added tokens that look special are
/// control, the others user-defined, and the rows beyond are padding.
fn qwen3_metadata() -> GgufVocabulary {
    let whole: Value = serde_json::from_slice(qwen3_bytes()).unwrap();
    let mut tokens: Vec<String> = (0..ROWS).map(|id| format!("[PAD{id}]")).collect();
    let mut token_types = vec![5; ROWS];
    for (piece, id) in whole["model"]["vocab"].as_object().unwrap() {
        let id = id.as_u64().unwrap() as usize;
        piece.clone_into(&mut tokens[id]);
        token_types[id] = 1;
    }
    for token in whole["added_tokens"].as_array().unwrap() {
        let (id, content) = (token["id"].as_u64().unwrap() as usize, token["content"].as_str().unwrap());
        content.clone_into(&mut tokens[id]);
        token_types[id] = if content.starts_with("<|") { 3 } else { 4 };
    }
    let pair = |merge: &Value| format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
    let config = json("tests/golden/qwen3-tokenizer/tokenizer_config.json");
    GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("qwen2".into()),
        tokens,
        token_types,
        merges: whole["model"]["merges"].as_array().unwrap().iter().map(pair).collect(),
        bos_token_id: Some(151_643),
        eos_token_id: Some(151_645),
        padding_token_id: Some(151_643),
        add_bos_token: Some(false),
        chat_template: Some(config["chat_template"].as_str().unwrap().to_owned()),
        ..GgufVocabulary::default()
    }
}

#[test]
fn qwen3_is_the_tokenizer_of_its_file() {
    let metadata = qwen3_metadata();
    let (got, want) = (load(&metadata), qwen3());
    assert_eq!((got.num_ids(), got.vocab_size()), (want.num_ids(), want.vocab_size()), "padding is no token");
    let contents = |tokenizer: &Tokenizer| -> Vec<_> {
        tokenizer.added_tokens().iter().map(|token| (token.id, token.content.clone())).collect()
    };
    assert_eq!(contents(&got), contents(&want));
    let think = got.token_id("<think>").unwrap();
    assert!(!got.is_special(think) && got.is_special(151_645));

    let cases = json("tests/golden/qwen3-tokenizer/encode_golden.json");
    let chats = json("tests/golden/qwen3-tokenizer/chat_golden.json");
    compare(&got, cases.as_array().unwrap()).unwrap();
    let config = metadata.tokenizer_config().to_string();
    let template = ChatTemplate::from_parts(None, Some((config.as_bytes(), Path::new("m.gguf"))));
    let template = template.unwrap().expect("the metadata has a template");
    for case in chats.as_array().unwrap() {
        let text = case["rendered"].as_str().unwrap();
        assert_eq!(json!(encode(&got, text, false)), case["ids"], "{text:?}");
    }
    let messages = [json!({"role": "user", "content": "hi"})];
    let rendered = template.render(&ChatInput { messages: &messages, ..ChatInput::default() }).unwrap();
    assert_eq!(rendered, "<|im_start|>user\nhi<|im_end|>\n");
    assert_eq!(metadata.end_token_ids(), [151_645, 151_643], "as generation_config.json lists them");
}

/// SmolLM2's vocabulary as its GGUF has it. The repository keeps no pieces that merges give.
fn smollm2_metadata() -> GgufVocabulary {
    let packed = std::fs::read(repository("tests/golden/gguf/smollm2.json.xz")).unwrap();
    let mut bytes = Vec::new();
    lzma_rs::xz_decompress(&mut packed.as_slice(), &mut bytes).unwrap();
    let mut metadata = vocabulary(&serde_json::from_slice(&bytes).unwrap());
    let joined = metadata.merges.iter().map(|merge| merge.replacen(' ', "", 1));
    metadata.tokens.extend(joined);
    metadata.token_types.resize(metadata.tokens.len(), 1);
    metadata
}

#[test]
fn smollm2_is_the_tokenizer_of_its_file() {
    let metadata = smollm2_metadata();
    assert_eq!(metadata.tokens.len(), 49_152);
    let cases = json("tests/golden/gguf/smollm2_cases.json");
    compare(&load(&metadata), cases.as_array().unwrap()).unwrap();
    assert_eq!(metadata.end_token_ids(), [2, 0]);
    let config = metadata.tokenizer_config();
    assert_eq!((&config["bos_token"], &config["eos_token"]), (&json!("<|im_start|>"), &json!("<|im_end|>")));
}

#[test]
fn default_words_are_those_of_llama_cpp() {
    let metadata = GgufVocabulary { pre: Some("default".into()), ..smollm2_metadata() };
    let cases = json("tests/golden/gguf/default_cases.json");
    compare(&load(&metadata), cases.as_array().unwrap()).unwrap();
}

/// A file of words cut otherwise has other ids, so the cases can fail.
#[test]
fn words_decide_ids() {
    let cases = json("tests/golden/gguf/smollm2_cases.json");
    for pre in ["gpt-2", "qwen2", "llama-bpe", "default"] {
        let metadata = GgufVocabulary { pre: Some(pre.into()), ..smollm2_metadata() };
        assert!(compare(&load(&metadata), cases.as_array().unwrap()).is_err(), "{pre}");
    }
}

/// Vocabularies of packages, a file each, as `tests/python/gguf_vocabularies.py` leaves them.
#[test]
#[ignore = "needs vocabularies of packages: python tests/python/gguf_vocabularies.py"]
fn packages() {
    let folder = std::env::var("NVLLM_GGUF_VOCABULARIES").expect("NVLLM_GGUF_VOCABULARIES names a folder");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no vocabulary could be had");
    let mut failed = false;
    for file in files {
        let whole: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let cases = whole["cases"].as_array().unwrap();
        let result = compare(&load(&vocabulary(&whole["vocabulary"])), cases);
        failed |= result.is_err();
        let problem = result.map_or_else(|problem| problem, |()| "equal".into());
        println!("{:28} {:5} strings  {problem}", file.file_stem().unwrap().display(), cases.len());
    }
    assert!(!failed);
}
