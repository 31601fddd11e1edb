use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nvllm-tiny/");

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_file(&Path::new(DEMO).join("tokenizer.json")).unwrap());
static TEMPLATE: LazyLock<ChatTemplate> = LazyLock::new(|| {
    ChatTemplate::load(None, Some(&Path::new(DEMO).join("tokenizer_config.json"))).unwrap().unwrap()
});

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::from_parts(Some((source.as_bytes(), Path::new("t.jinja"))), None).unwrap().unwrap()
}

/// A vocabulary of characters, with added tokens as `(name, fields)`; ids from 200.
fn characters(added: &[(&str, Json)], more: &Json) -> Tokenizer {
    let pieces = (b' '..=b'~').map(|c| char::from(c).to_string());
    let pieces = pieces.chain(["▁", "\n", "é"].map(str::to_owned));
    let mut pieces: Vec<String> = pieces.collect();
    pieces.extend((pieces.len()..200).map(|id| format!("unused {id}")));
    let vocab: Map<String, Json> = pieces.into_iter().zip((0..).map(Json::from)).collect();
    let tokens: Vec<Json> = (200..)
        .zip(added)
        .map(|(id, (name, fields))| {
            let mut token = json!({
                "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            });
            token.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            token
        })
        .collect();
    let mut file = json!({
        "version": "1.0", "added_tokens": tokens,
        "model": { "type": "BPE", "vocab": vocab, "merges": [], "unk_token": "?" },
    });
    file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Tokenizer::from_bytes(file.to_string().as_bytes(), Path::new("tokenizer.json")).unwrap()
}

fn plain_characters(names: &[&str]) -> Tokenizer {
    let added: Vec<_> = names.iter().map(|name| (*name, json!({}))).collect();
    characters(&added, &json!({}))
}

fn encode(template: &ChatTemplate, input: &ChatInput<'_>, tokenizer: &Tokenizer) -> Vec<u32> {
    template.encode(input, false, SpecialText::Literal, tokenizer).unwrap()
}

/// Ids of the added tokens in a prompt.
fn added(ids: &[u32]) -> Vec<u32> {
    ids.iter().copied().filter(|&id| id >= 200).collect()
}

fn continued(template: &ChatTemplate, content: &Json) -> Result<String> {
    let messages = [
        json!({"role": "user", "content": "Say <|im_end|>"}),
        json!({"role": "assistant", "content": content}),
    ];
    let input = ChatInput { messages: &messages, ..ChatInput::default() };
    let [literal, parsed] = [SpecialText::Literal, SpecialText::Parse].map(|special| {
        template.encode(&input, true, special, &TOKENIZER).map(|ids| TOKENIZER.decode(&ids, false))
    });
    assert_eq!(literal.as_ref().ok(), parsed.as_ref().ok());
    literal
}

#[test]
fn a_continued_prompt_ends_with_the_last_messages_text() {
    for prefill in ["<", "e", "", "end|>", "I think", "I think ", "a\n", "</think>", "<|im_", "<|im_end|>"] {
        let text = continued(&TEMPLATE, &json!(prefill)).unwrap();
        let kept = prefill.strip_prefix("</think>").unwrap_or(prefill);
        assert!(text.ends_with(&format!("</think>\n\n{kept}")), "{prefill:?}: {text:?}");
        assert!(text.matches("<|im_start|>assistant").count() == 1, "{text:?}");
    }
}

#[test]
fn a_continued_prompt_is_trimmed_if_the_template_trims() {
    let trims = template("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}");
    assert!(continued(&trims, &json!(" I think ")).unwrap().ends_with("][I think"));
    let keeps = template("{% for m in messages %}[{{ m.content }}]{% endfor %}");
    assert!(continued(&keeps, &json!(" I think ")).unwrap().ends_with("][ I think "));
    let twice = template("{% for m in messages %}[{{ m.content }}|{{ m.content }}]{% endfor %}");
    assert!(continued(&twice, &json!("ab")).unwrap().ends_with("][ab |ab"));
}

#[test]
fn the_last_part_with_text_is_continued() {
    let parts = template(
        "{% for m in messages %}[{% if m.content is string %}{{ m.content }}{% else %}\
         {% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}]{% endfor %}",
    );
    let content = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "image"}]);
    assert!(continued(&parts, &content).unwrap().ends_with("][ab"));
}

#[test]
fn a_text_that_is_not_in_the_prompt_is_not_continued() {
    let silent =
        template("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}");
    for (template, content) in [(&silent, json!("x")), (&*TEMPLATE, json!(null)), (&*TEMPLATE, json!([]))] {
        let message = continued(template, &content).unwrap_err().to_string();
        assert!(message.ends_with("so an answer cannot go on with it"), "{message}");
    }
}

#[test]
fn all_that_a_client_gives_is_text() {
    let template = template(
        "<s>{{ bos_token }}{% for m in messages %}{{ m.content }}{{ m.extra | tojson }}{% endfor %}\
         {% for d in documents %}{{ d.text }}{{ d | tojson(ensure_ascii=True) }}{% endfor %}\
         {% for t in tools %}{{ t | tojson }}{% endfor %}{{ note }}{{ deep.x[0] }}</s>",
    );
    let tokenizer = plain_characters(&["<s>", "</s>", "◁"]);
    let messages = [json!({"role": "user", "content": "a</s>◁", "extra": {"</s>": ["<s>", {"k</s>": 1}]}})];
    let documents = [json!({"text": "<s>x", "</s>": "◁"})];
    let tools = [json!({"name": "</s>"})];
    let kwargs = json!({"bos_token": "<s>", "note": "</s>", "deep": {"x": ["◁"]}});
    let input = ChatInput {
        messages: &messages,
        tools: Some(&tools),
        documents: Some(&documents),
        kwargs: kwargs.as_object(),
        ..ChatInput::default()
    };
    let ids = encode(&template, &input, &tokenizer);
    assert_eq!(added(&ids), [200, 201]);
    assert_eq!((ids[0], ids.last()), (200, Some(&201)));
    // The text itself is the one that is rendered without marks.
    let rendered = template.render(&input).unwrap();
    let decoded: String = ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
    assert_eq!(decoded, rendered.replace('◁', "?"));
    let parsed = template.encode(&input, false, SpecialText::Parse, &tokenizer).unwrap();
    assert_eq!(parsed, tokenizer.encode(&rendered, EncodeOptions::default()).unwrap());
}

#[test]
fn a_name_put_together_from_parts_is_text() {
    let template = template(
        "<s>{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}</s>{% endfor %}",
    );
    let tokenizer = plain_characters(&["<s>", "</s>"]);
    for parts in [vec!["<", "/s>"], vec!["</", "s>"], vec!["</s", ">"], vec!["<", "/", "s", ">"]] {
        let content: Vec<Json> = parts.iter().map(|text| json!({"type": "text", "text": text})).collect();
        let messages = [json!({"role": "user", "content": content})];
        let ids = encode(&template, &ChatInput { messages: &messages, ..ChatInput::default() }, &tokenizer);
        assert_eq!(added(&ids), [200, 201], "{parts:?}");
    }
}

#[test]
fn overlapping_names_are_text_and_the_templates_own_survive() {
    let template = template("{% for m in messages %}x{{ m.content }}<|end|>{% endfor %}");
    let tokenizer = plain_characters(&["ab", "bc", "xa", "<<", "<|end|>"]);
    for (content, expected) in
        [("abc", vec![202, 204]), ("bc", vec![204]), ("q<", vec![204]), ("q<<", vec![204])]
    {
        let messages = [json!({"role": "user", "content": content})];
        let ids = encode(&template, &ChatInput { messages: &messages, ..ChatInput::default() }, &tokenizer);
        assert_eq!(added(&ids), expected, "{content}");
    }
}

#[test]
fn a_template_may_build_special_tokens_from_roles() {
    let template = template("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}");
    let tokenizer = plain_characters(&["<|user|>", "user"]);
    let messages =
        [json!({"role": "user", "content": "<|user|>"}), json!({"role": "<|user|>", "content": "x"})];
    let ids = encode(&template, &ChatInput { messages: &messages, ..ChatInput::default() }, &tokenizer);
    assert_eq!(added(&ids), [200]);
}

#[test]
fn names_in_other_letters_are_text() {
    let tokenizer =
        characters(&[("<s>", json!({"normalized": true}))], &json!({"normalizer": {"type": "Lowercase"}}));
    let template = template("<S>{% for m in messages %}{{ m.content }}{% endfor %}");
    let messages = [json!({"role": "user", "content": "a<S>b"})];
    let ids = encode(&template, &ChatInput { messages: &messages, ..ChatInput::default() }, &tokenizer);
    assert_eq!(added(&ids), [200]);
    assert_eq!(ids[0], 200);
}

#[test]
fn a_conversation_of_noncharacters_is_encoded() {
    let all: String = ('\u{FDD0}'..='\u{FDEF}').collect();
    let messages = [json!({"role": "user", "content": format!("<\u{FDD0}|im_end|>{all}<|im_end|>")})];
    let ids = encode(&TEMPLATE, &ChatInput { messages: &messages, ..ChatInput::default() }, &TOKENIZER);
    let end = TOKENIZER.token_id("<|im_end|>").unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == end).count(), 1);
}

/// Of 2 MB, with 2,000 messages: a scan of the rest at every special token would read 8 GB for each
/// name.
#[test]
fn a_long_conversation_is_read_once() {
    let mut messages: Vec<Json> =
        (0..1000).map(|at| json!({"role": "user", "content": format!("{at}")})).collect();
    messages.push(json!({"role": "user", "content": "to be <|im_end|> or not ".repeat(80_000)}));
    let ids = encode(&TEMPLATE, &ChatInput { messages: &messages, ..ChatInput::default() }, &TOKENIZER);
    let end = TOKENIZER.token_id("<|im_end|>").unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == end).count(), 1001);
}

/// Tokenizers whose ids depend on what is beside a piece.
fn contextual() -> [Tokenizer; 3] {
    let tokens = [
        ("<s>", json!({})),
        ("<l>", json!({"lstrip": true})),
        ("<r>", json!({"rstrip": true})),
        ("<w>", json!({"single_word": true})),
        ("<n>", json!({"normalized": true})),
        ("<t>", json!({"special": false, "lstrip": true, "rstrip": true})),
    ];
    let metaspace =
        |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    let llama = json!({"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}});
    [
        characters(&tokens, &json!({"pre_tokenizer": metaspace("first")})),
        characters(
            &tokens,
            &json!({"pre_tokenizer": metaspace("always"), "normalizer": {"type": "Lowercase"}}),
        ),
        characters(&tokens, &llama),
    ]
}

fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop::sample::select(vec![
        "<s>", "<l>", "<r>", "<w>", "<n>", "<t>", " ", "  ", "a", "B", "\n", "é", "<", "s>", "N>", "<N>",
    ]);
    prop::collection::vec(fragment, 0..12).prop_map(|list| list.concat())
}

proptest! {
    /// The matcher finds what the library finds: all names, or those of no special token.
    #[test]
    fn splitting_agrees_with_the_library(text in fragments()) {
        static TOKENIZERS: LazyLock<[Tokenizer; 3]> = LazyLock::new(contextual);
        let marks = Marks::unused(&[]);
        for tokenizer in &*TOKENIZERS {
            // A mark that is in no name.
            let (_, unused) = marks.remove("\u{FDD0}");
            prop_assert!(!unused.is_empty());
            let parsed = tokenizer.encode_marked(&text, &unused).unwrap();
            prop_assert_eq!(parsed, tokenizer.encode(&text, EncodeOptions::default()).unwrap());

            let (plain, places) = marks.remove(&format!("{}\u{FDD0}", tokenizer.mark_special(&text, &marks)));
            prop_assert_eq!(&plain, &text);
            let literal = EncodeOptions { special_text: SpecialText::Literal, ..EncodeOptions::default() };
            let marked = tokenizer.encode_marked(&plain, &places).unwrap();
            prop_assert_eq!(marked, tokenizer.encode(&text, literal).unwrap());
        }
    }

    /// Also beside tokens that strip blanks, and where a text's first word is encoded otherwise.
    #[test]
    fn what_is_not_marked_keeps_its_ids(texts in prop::collection::vec("[a-c \n]{0,6}", 3)) {
        static TOKENIZERS: LazyLock<[Tokenizer; 3]> = LazyLock::new(contextual);
        let template = template("{% for m in messages %}<s>{{ m.content }}<l> {{ m.role }} <r>{% endfor %}");
        let messages: Vec<Json> = texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
        for tokenizer in &*TOKENIZERS {
            let segments = |second: &str| {
                let mut messages = messages.clone();
                messages[1]["content"] = json!(second);
                let ids = encode(&template, &ChatInput { messages: &messages, ..ChatInput::default() }, tokenizer);
                ids.split(|id| *id == 200).map(<[u32]>::to_vec).collect::<Vec<_>>()
            };
            let (marked, plain) = (segments("a<l>b<s>c<r>d"), segments("abcd"));
            prop_assert_eq!(marked.len(), 4);
            for at in [0, 1, 3] {
                prop_assert_eq!(&marked[at], &plain[at]);
            }
            prop_assert_eq!(added(&marked[2]), added(&plain[2]));
        }
    }

    #[test]
    fn a_message_cannot_change_another_ones_ids(
        texts in prop::collection::vec("[a-z <|>\n0-9é▁]{0,12}", 2..5),
        at in any::<prop::sample::Index>(),
        hostile in "(<\\|im_end\\|>|<\\|im_start\\|>|[a-z <|>\n]{0,3}){1,5}",
    ) {
        let messages: Vec<Json> = texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
        let at = at.index(messages.len());
        let special = ["<|im_start|>", "<|im_end|>"].map(|name| TOKENIZER.token_id(name).unwrap());
        let segments = |content: &str| {
            let mut messages = messages.clone();
            messages[at]["content"] = json!(content);
            let input = ChatInput { messages: &messages, add_generation_prompt: true, ..ChatInput::default() };
            let ids = encode(&TEMPLATE, &input, &TOKENIZER);
            let decoded = TOKENIZER.decode(&ids, false);
            assert_eq!(decoded, TEMPLATE.render(&input).unwrap());
            ids.split(|id| special.contains(id)).map(<[u32]>::to_vec).collect::<Vec<_>>()
        };
        let (marked, plain) = (segments(&hostile), segments("name"));
        prop_assert_eq!(marked.len(), plain.len());
        for (segment, (marked, plain)) in marked.iter().zip(&plain).enumerate() {
            // Each message is `<|im_start|>user\n..<|im_end|>\n`.
            prop_assert!(segment == 2 * at + 1 || marked == plain);
        }
    }
}

#[test]
fn names_of_special_tokens_in_calls_and_their_results_are_letters() {
    let prompt = |name: &str| {
        let arguments = json!({"q": name, (name): [name]}).to_string();
        let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}});
        let messages = [
            json!({"role": "user", "content": "go"}),
            json!({"role": "assistant", "content": name, "reasoning": name, "tool_calls": [call]}),
            json!({"role": "tool", "tool_call_id": "1", "content": name}),
        ];
        let input = ChatInput { messages: &messages, add_generation_prompt: true, ..ChatInput::default() };
        TEMPLATE.encode(&input, false, SpecialText::Literal, &TOKENIZER).unwrap()
    };
    let special =
        |ids: &[u32]| ids.iter().filter(|id| TOKENIZER.is_special(**id)).copied().collect::<Vec<_>>();
    let named = prompt("<|im_end|>");
    assert_eq!(special(&named), special(&prompt("harmless")));
    // The answer, its thoughts, three in the arguments, and the result.
    let end = TOKENIZER.token_id("<|im_end|>").unwrap();
    let ends = named.iter().filter(|id| **id == end).count();
    assert_eq!(TOKENIZER.decode(&named, false).matches("<|im_end|>").count(), ends + 6);
}
