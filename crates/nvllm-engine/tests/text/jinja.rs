//! Chat templates as Jinja2 renders them, byte for byte but for a list of known differences:
//! `tests/golden/chat_templates.json`, which `tests/python/chat_templates.py` records.

use std::path::Path;
use std::time::{Duration, SystemTime};

use nvllm_engine::text::{ChatInput, ChatTemplate};
use serde_json::{Map, Value};

use crate::jinja_differences::{Difference, KNOWN_DIFFERENCES};
use crate::support::{json, repository};

/// What is refused on purpose and Jinja2 renders.
const REFUSED: [&str; 3] = ["{{ s.encode() }}", "{{ l|random }}", "{{ lipsum() }}"];

fn render(source: &str, context: &Value, now: SystemTime) -> Result<String, String> {
    let mut kwargs: Map<String, Value> = context.as_object().unwrap().clone();
    let mut list = |name: &str| kwargs.remove(name).and_then(|value| value.as_array().cloned());
    let (messages, tools, documents) =
        (list("messages").unwrap_or_default(), list("tools"), list("documents"));
    let add_generation_prompt = kwargs.remove("add_generation_prompt").is_some_and(|value| value == true);
    let input = ChatInput {
        messages: &messages,
        tools: tools.as_deref(),
        documents: documents.as_deref(),
        add_generation_prompt,
        kwargs: Some(&kwargs),
        now: Some(now),
        ..ChatInput::default()
    };
    let template = ChatTemplate::from_parts(Some((source.as_bytes(), Path::new("case.jinja"))), None);
    let template = template.map_err(|e| e.to_string())?.unwrap();
    template.render(&input).map_err(|e| e.to_string())
}

/// A case that differs: its template, how, and both results.
type Found<'a> = (&'a str, Difference, String);

/// Renders all cases and returns what differs.
fn differences(golden: &Value) -> Vec<Found<'_>> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(golden["now"].as_u64().unwrap());
    let mut differences = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str();
        let template = text("template").unwrap();
        let source = golden["families"][template].as_str().unwrap_or(template);
        let context = text("context").unwrap();
        let ours = render(source, &golden["contexts"][context], now);
        let theirs = text("text").filter(|_| !REFUSED.contains(&template));
        let difference = match (&ours, theirs) {
            (Ok(ours), Some(theirs)) if ours == theirs => continue,
            (Err(_), None) => continue,
            (Ok(_), Some(_)) => Difference::Different,
            (Ok(_), None) => Difference::Lenient,
            (Err(_), Some(_)) => Difference::Refused,
        };
        let theirs = text("text").or(text("error")).unwrap();
        let both =
            format!("{template}\n  [{context}] Jinja2: {theirs:?}\n  ours: {ours:?}\n  {difference:?}");
        differences.push((template, difference, both));
    }
    differences
}

#[test]
fn templates_render_as_in_jinja2() {
    let golden = json("tests/golden/chat_templates.json");
    assert!(golden["cases"].as_array().unwrap().len() > 800);
    let known: Vec<(&str, Difference)> = KNOWN_DIFFERENCES
        .iter()
        .flat_map(|(how, _, templates)| templates.iter().map(|template| (*template, *how)))
        .collect();
    let found = differences(&golden);
    let new: Vec<&str> = found
        .iter()
        .filter(|(template, how, _)| !known.contains(&(*template, *how)))
        .map(|(_, _, both)| both.as_str())
        .collect();
    assert!(new.is_empty(), "{} differ:\n{}", new.len(), new.join("\n"));
    let gone: Vec<_> = known
        .iter()
        .filter(|(template, how)| !found.iter().any(|(other, found, _)| other == template && found == how))
        .collect();
    assert!(gone.is_empty(), "these no longer differ, or in another way: {gone:#?}");
    let families = golden["families"].as_object().unwrap();
    assert!(!known.iter().any(|(template, _)| families.contains_key(*template)));
}

/// The budget of a rendering is several times what a long conversation needs.
#[test]
fn ten_thousand_messages_fit_the_budget() {
    let config = repository("tests/golden/qwen3-tokenizer/tokenizer_config.json");
    let template = ChatTemplate::load(None, Some(&config)).unwrap().unwrap();
    let turn = |at: usize| {
        let role = if at.is_multiple_of(2) { "user" } else { "assistant" };
        serde_json::json!({ "role": role, "content": "some words ".repeat(45) })
    };
    let messages: Vec<Value> = (0..10_000).map(turn).collect();
    let text = template.render(&ChatInput { messages: &messages, ..ChatInput::default() }).unwrap();
    assert!(text.len() > 5_000_000);
    let twice: Vec<Value> = messages.iter().chain(&messages).cloned().collect();
    template.render(&ChatInput { messages: &twice, ..ChatInput::default() }).unwrap();
}

/// For looking for differences by hand: reads the file named by the first line of standard input.
#[test]
#[ignore = "needs a recording of random expressions, see tests/python/chat_templates.py"]
fn random_expressions() {
    let mut path = String::new();
    std::io::stdin().read_line(&mut path).unwrap();
    let golden: Value = serde_json::from_slice(&std::fs::read(path.trim()).unwrap()).unwrap();
    let differences = differences(&golden);
    for (_, _, both) in &differences {
        println!("{both}");
    }
    println!("{} of {} differ", differences.len(), golden["cases"].as_array().unwrap().len());
}
