//! Encodings and renderings recorded from `transformers`, byte for byte.

use std::path::Path;

use nvllm_engine::text::{
    ChatInput, ChatTemplate, Detokenizer, EncodeOptions, SpecialText, TextStart, Tokenizer,
};
use serde_json::{Map, Value};

use crate::support::{json, qwen3, repository, tiny};

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
