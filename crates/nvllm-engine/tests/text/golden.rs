//! Encodings and renderings recorded from `transformers`, byte for byte.

use std::path::Path;

use nvllm_engine::text::{
    BpeFiles, ChatInput, ChatTemplate, Detokenizer, EncodeOptions, SpecialText, TextStart, Tokenizer,
};
use serde_json::{Map, Value};

use crate::support::{json, qwen3, qwen3_bytes, repository, tiny};

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn prompt_ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, EncodeOptions::default()).unwrap()
}

#[test]
fn qwen3_encodes_and_decodes_the_32_strings() {
    let tokenizer = qwen3();
    let cases = json("tests/golden/qwen3-tokenizer/encode_golden.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 32);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        assert_eq!(prompt_ids(&tokenizer, text), expected, "{text:?}");
        let with_post_processor = EncodeOptions { add_special_tokens: true, ..EncodeOptions::default() };
        assert_eq!(
            tokenizer.encode(text, with_post_processor).unwrap(),
            expected,
            "Qwen3 adds nothing: {text:?}"
        );
        assert_eq!(tokenizer.decode(&expected, false), case["decoded"].as_str().unwrap(), "{text:?}");
        assert_eq!(
            tokenizer.decode(&expected, true),
            case["decoded_skip_special"].as_str().unwrap(),
            "{text:?}"
        );
        for (id, token) in expected.iter().zip(case["tokens"].as_array().unwrap()) {
            assert_eq!(tokenizer.token(*id).as_deref(), token.as_str());
            assert_eq!(tokenizer.token_id(token.as_str().unwrap()), Some(*id));
        }
        let bytes: Vec<u8> = expected.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap()).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), case["decoded"].as_str().unwrap(), "{text:?}");
    }
}

#[test]
fn qwen3_renders_the_64_conversations() {
    let tokenizer = qwen3();
    let config = repository("tests/golden/qwen3-tokenizer/tokenizer_config.json");
    let template = ChatTemplate::load(None, Some(&config)).unwrap().expect("the config holds a template");
    let cases = json("tests/golden/qwen3-tokenizer/chat_golden.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 64);
    for case in cases {
        let mut kwargs = Map::new();
        if let Some(thinking) = case["enable_thinking"].as_bool() {
            kwargs.insert("enable_thinking".into(), thinking.into());
        }
        let input = ChatInput {
            messages: case["messages"].as_array().unwrap(),
            tools: case["tools"].as_array().map(Vec::as_slice),
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
            kwargs: Some(&kwargs),
            ..ChatInput::default()
        };
        let rendered = template.render(&input).unwrap();
        assert_eq!(rendered, case["rendered"].as_str().unwrap(), "{}", case["name"]);
        assert_eq!(prompt_ids(&tokenizer, &rendered), ids(&case["ids"]), "{}", case["name"]);
    }
}

/// As clients send them: arguments as texts, thoughts as `reasoning`.
#[test]
fn what_clients_send_becomes_what_the_template_reads() {
    let tokenizer = qwen3();
    let config = repository("tests/golden/qwen3-tokenizer/tokenizer_config.json");
    let template = ChatTemplate::load(None, Some(&config)).unwrap().expect("the config holds a template");
    let cases = json("tests/golden/qwen3-tokenizer/chat_golden.json");
    let mut changed = 0;
    for case in cases.as_array().unwrap() {
        let mut messages = case["messages"].as_array().unwrap().clone();
        for message in messages.iter_mut().filter_map(Value::as_object_mut) {
            if let Some(thoughts) = message.remove("reasoning_content") {
                message.insert("reasoning".into(), thoughts);
                changed += 1;
            }
            for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
                let arguments = &mut call["function"]["arguments"];
                if arguments.is_object() {
                    *arguments = arguments.to_string().into();
                    changed += 1;
                }
            }
        }
        let thinking =
            case["enable_thinking"].as_bool().map(|on| ("enable_thinking".to_owned(), Value::from(on)));
        let kwargs: Map<String, Value> = thinking.into_iter().collect();
        let input = ChatInput {
            messages: &messages,
            tools: case["tools"].as_array().map(Vec::as_slice),
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
            kwargs: Some(&kwargs),
            ..ChatInput::default()
        };
        for special in [SpecialText::Parse, SpecialText::Literal] {
            // `<think>` in a message is a token that is not special.
            let got = template.encode(&input, false, special, &tokenizer).unwrap();
            assert_eq!(got, ids(&case["ids"]), "{}", case["name"]);
        }
    }
    assert!(changed >= 32, "{changed}");
}

#[test]
fn the_demo_models_prompts_and_outputs() {
    let tokenizer = tiny();
    let config = repository("models/nvllm-tiny/tokenizer_config.json");
    let template = ChatTemplate::load(None, Some(&config)).unwrap().expect("the config holds a template");
    let golden = json("tests/golden/nvllm-tiny.json");
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 16);
    let mut num_chats = 0;
    for case in cases {
        let prompt = if case["kind"] == "chat" {
            num_chats += 1;
            let mut kwargs = Map::new();
            if let Some(thinking) = case["enable_thinking"].as_bool() {
                kwargs.insert("enable_thinking".into(), thinking.into());
            }
            let input = ChatInput {
                messages: case["input"].as_array().unwrap(),
                tools: case["tools"].as_array().map(Vec::as_slice),
                add_generation_prompt: true,
                kwargs: Some(&kwargs),
                ..ChatInput::default()
            };
            template.render(&input).unwrap()
        } else {
            case["prompt"].as_str().unwrap().to_owned()
        };
        assert_eq!(prompt, case["prompt"].as_str().unwrap());
        assert_eq!(prompt_ids(&tokenizer, &prompt), ids(&case["prompt_ids"]), "{prompt:?}");

        let output = ids(&case["output_ids"]);
        assert_eq!(tokenizer.decode(&output, false), case["output_text"].as_str().unwrap());
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), false, TextStart::Continuation);
        let mut streamed = String::new();
        output.iter().for_each(|&id| detokenizer.push(id, &mut streamed));
        detokenizer.finish(&mut streamed);
        assert_eq!(streamed, case["output_text"].as_str().unwrap());
    }
    assert!(num_chats >= 8, "only {num_chats} chats among the golden runs");
}

#[test]
fn vocabulary_tables() {
    let tokenizer = qwen3();
    assert_eq!((tokenizer.num_ids(), tokenizer.vocab_size()), (151_669, 151_669));
    assert_eq!(tokenizer.token_bytes(151_668).as_deref(), Some(&b"</think>"[..]));
    assert_eq!((tokenizer.token(151_669), tokenizer.token_bytes(151_935)), (None, None));
    assert_eq!(tokenizer.decode(&[9707, 151_935, 0], false), "Hello!");
    let added = tokenizer.added_tokens();
    assert_eq!((added.len(), added[0].id, added[0].content.as_str()), (26, 151_643, "<|endoftext|>"));
    assert_eq!(added.iter().filter(|token| token.special).count(), 14);
    assert!(tokenizer.is_special(151_645) && !tokenizer.is_special(151_667) && !tokenizer.is_special(0));
    assert_eq!(tokenizer.token_bytes(10_764).as_deref(), Some(&b" \xED"[..]), "part of a Hangul syllable");
}

#[test]
fn special_text_is_parsed_or_spelled_out() {
    let tokenizer = qwen3();
    let literal = EncodeOptions { special_text: SpecialText::Literal, ..EncodeOptions::default() };
    let text = "a<|im_end|>\nb";
    assert!(prompt_ids(&tokenizer, text).contains(&151_645));
    let spelled = tokenizer.encode(text, literal).unwrap();
    assert!(!spelled.iter().any(|&id| tokenizer.is_special(id)), "{spelled:?}");
    assert_eq!(tokenizer.decode(&spelled, true), text);
    // Where no special token occurs, both ways agree on all 32 strings.
    for case in json("tests/golden/qwen3-tokenizer/encode_golden.json").as_array().unwrap() {
        let expected = ids(&case["ids"]);
        if !expected.iter().any(|&id| tokenizer.is_special(id)) {
            assert_eq!(tokenizer.encode(case["text"].as_str().unwrap(), literal).unwrap(), expected);
        }
    }
}

/// A post-processor as Llama has it, and truncation that the file asks for.
#[test]
fn beginning_of_text_and_no_silent_truncation() {
    let json = r#"{"version":"1.0",
        "truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0},
        "padding":{"strategy":{"Fixed":9},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"a"},
        "added_tokens":[{"id":7,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
        "normalizer":null,"pre_tokenizer":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
        "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
            "pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],
            "special_tokens":{"<s>":{"id":"<s>","ids":[7],"tokens":["<s>"]}}},
        "model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2,"<s>":7},"merges":[]}}"#;
    let tokenizer = Tokenizer::from_bytes(json.as_bytes(), Path::new("t.json")).unwrap();
    for special_text in [SpecialText::Parse, SpecialText::Literal] {
        let encode = |add_special_tokens| {
            tokenizer.encode("abcab", EncodeOptions { add_special_tokens, special_text }).unwrap()
        };
        assert_eq!(encode(false), [0, 1, 2, 0, 1]);
        assert_eq!(encode(true), [7, 0, 1, 2, 0, 1]);
    }
    assert_eq!((tokenizer.num_ids(), tokenizer.vocab_size()), (8, 4), "ids 3 to 6 are left out");
    assert_eq!(tokenizer.decode(&[7, 0, 3], true), "a");
}

/// `tokenizer.json` taken apart into the files that it was once converted from.
fn taken_apart(bytes: &[u8], dir: &Path, legacy: bool) -> BpeFiles {
    let whole: Value = serde_json::from_slice(bytes).unwrap();
    let merges = whole["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
        Value::Array(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        line => line.as_str().unwrap().to_owned(),
    });
    let lines: Vec<_> = std::iter::once("#version: 0.2".to_owned()).chain(merges).collect();
    let (vocab, path) = (whole["model"]["vocab"].to_string(), dir.join("vocab.json"));
    std::fs::write(&path, vocab).unwrap();
    std::fs::write(dir.join("merges.txt"), lines.join("\n") + "\n").unwrap();
    let added = whole["added_tokens"].as_array().unwrap();
    let ids: Map<_, _> =
        added.iter().map(|token| (token["content"].as_str().unwrap().into(), token["id"].clone())).collect();
    let added_tokens = legacy.then(|| dir.join("added_tokens.json"));
    if let Some(path) = &added_tokens {
        std::fs::write(path, Value::Object(ids).to_string()).unwrap();
    }
    BpeFiles { vocab: path, merges: dir.join("merges.txt"), added_tokens, special_tokens_map: None }
}

/// Both tokenizers make the same of texts with everything in them.
fn same(got: &Tokenizer, want: &Tokenizer) {
    assert_eq!(got.added_tokens(), want.added_tokens());
    assert_eq!((got.num_ids(), got.vocab_size()), (want.num_ids(), want.vocab_size()));
    let mut texts: Vec<String> = json("tests/golden/qwen3-tokenizer/encode_golden.json")
        .as_array()
        .unwrap()
        .iter()
        .map(|case| case["text"].as_str().unwrap().to_owned())
        .collect();
    let chats = json("tests/golden/qwen3-tokenizer/chat_golden.json");
    let rendered = |case: &Value| case["rendered"].as_str().unwrap().to_owned();
    texts.extend(chats.as_array().unwrap().iter().map(rendered));
    assert_eq!(texts.len(), 32 + 64);
    // Not normalised, added tokens inside words, digits, blanks before lines.
    texts.push(
        "e\u{301} I'LL 12345 <tool_call><|im_end|>a  \n\n\t b\u{a0}c <think> \u{1f469}\u{200d}\u{1f4bb}"
            .into(),
    );
    for text in texts {
        for special_text in [SpecialText::Parse, SpecialText::Literal] {
            let options = EncodeOptions { add_special_tokens: true, special_text };
            let ids = got.encode(&text, options).unwrap();
            assert_eq!(ids, want.encode(&text, options).unwrap(), "{text:?}");
            for skip in [false, true] {
                assert_eq!(got.decode(&ids, skip), want.decode(&ids, skip), "{text:?}");
            }
        }
    }
}

#[test]
fn vocab_and_merges_are_the_tokenizer_that_they_are_converted_into() {
    let dir = tempfile::tempdir().unwrap();
    let config = repository("tests/golden/qwen3-tokenizer/tokenizer_config.json");
    let files = taken_apart(qwen3_bytes(), dir.path(), false);
    let loaded = files.load(Some(&config), None).unwrap().expect("its class is known");
    assert_eq!(loaded.path(), files.vocab);
    same(&loaded, &qwen3());
    // Without a class the model's type tells.
    let read = |name: &str| std::fs::read(repository(name)).unwrap();
    let mut named: Value = serde_json::from_slice(&read("models/nvllm-tiny/tokenizer_config.json")).unwrap();
    named.as_object_mut().unwrap().remove("tokenizer_class");
    let config = dir.path().join("tokenizer_config.json");
    std::fs::write(&config, named.to_string()).unwrap();
    let files = taken_apart(&read("models/nvllm-tiny/tokenizer.json"), dir.path(), false);
    same(&files.load(Some(&config), Some("qwen3")).unwrap().expect("qwen3's is known"), &tiny());
    assert_eq!(
        files.load(Some(&config), Some("llama")).unwrap().unwrap_err(),
        "the tokenizer of model type llama"
    );
}

/// Checkpoints from before `added_tokens_decoder`: ids in added_tokens.json, special ones by name.
#[test]
fn added_tokens_of_older_files_are_found_and_missing_ones_numbered() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(repository("models/nvllm-tiny/tokenizer.json")).unwrap();
    let want = tiny();
    let special: Vec<_> =
        want.added_tokens().iter().filter(|token| token.special).map(|token| &token.content).collect();
    let config = dir.path().join("tokenizer_config.json");
    let text = serde_json::json!({"tokenizer_class": "Qwen2Tokenizer", "additional_special_tokens": special});
    std::fs::write(&config, text.to_string()).unwrap();
    let loaded = taken_apart(&bytes, dir.path(), true).load(Some(&config), None).unwrap().unwrap();
    let ids = |tokenizer: &Tokenizer| -> Vec<_> {
        tokenizer
            .added_tokens()
            .iter()
            .map(|token| (token.id, token.content.clone(), token.special))
            .collect()
    };
    assert_eq!(ids(&loaded), ids(&want));
    // Of nothing at all the class has its one token, behind the vocabulary.
    let mut files = taken_apart(&bytes, dir.path(), false);
    let loaded = files.load(None, Some("qwen3")).unwrap().unwrap();
    let first = want.added_tokens()[0].id;
    assert_eq!(ids(&loaded), [(first, "<|endoftext|>".to_owned(), true)]);
    // special_tokens_map.json names what the config leaves out; a token of the vocabulary keeps its
    // id.
    let piece = want.token_id("the").expect("a common word");
    let map =
        serde_json::json!({"eos_token": {"content": "<|im_end|>"}, "pad_token": "the", "unk_token": null});
    let path = dir.path().join("special_tokens_map.json");
    std::fs::write(&path, map.to_string()).unwrap();
    files.special_tokens_map = Some(path);
    let loaded = files.load(None, Some("qwen3")).unwrap().unwrap();
    assert_eq!(ids(&loaded), [(piece, "the".to_owned(), true), (first, "<|im_end|>".to_owned(), true)]);
}

#[test]
fn damaged_vocab_and_merges_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(repository("models/nvllm-tiny/tokenizer.json")).unwrap();
    let files = taken_apart(&bytes, dir.path(), false);
    let [vocab, merges] = [&files.vocab, &files.merges].map(|path| std::fs::read_to_string(path).unwrap());
    let problem = |vocab: &str, merges: &str| {
        std::fs::write(&files.vocab, vocab).unwrap();
        std::fs::write(&files.merges, merges).unwrap();
        files
            .load(None, Some("qwen3"))
            .unwrap_err()
            .to_string()
            .replace(&dir.path().display().to_string(), "DIR")
    };
    assert!(problem(&vocab[..100], &merges).starts_with("DIR/vocab.json is not valid JSON"));
    assert_eq!(problem("[1]", &merges), "DIR/vocab.json: is not a JSON object");
    let text = problem(&vocab, "#version: 0.2\na b c\n");
    assert_eq!(text, "DIR/merges.txt: line 2 is not two pieces and a space between them");
    assert!(problem(&vocab, "h\u{2603} e\n").starts_with("DIR/vocab.json: "));
}
