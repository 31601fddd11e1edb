//! A conversation to a prompt: the checkpoint's own Jinja template.
//!
//! Templates are written for `jinja2` as Hugging Face's `apply_chat_template` sets it up, and a
//! prompt that differs from training by one character is a worse prompt. So the set-up is
//! reproduced: `trim_blocks`, `lstrip_blocks`, loop controls, Python's string methods, `tojson` as
//! `json.dumps`, `raise_exception`, `strftime_now`, the special tokens as variables, and `{%
//! generation %}` blocks (which mark an assistant's words for training) as plain text.
//!
//! A template comes with the model and is not trusted further than that: it can reach nothing but
//! its arguments, and a budget ("fuel": instructions and bytes) ends one that runs away.

use std::path::Path;
use std::time::SystemTime;

use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};

use super::contained::contained;
use super::jinja;
use crate::{EngineError, Result};

/// Instructions, or units of 64 bytes, that one rendering may use: several times what Qwen3's
/// template spends on 10,000 messages (5 MB), and a bound of about a second and 320 MB for a
/// template that runs away.
const FUEL: u64 = 5_000_000;

/// The template's name where the model has only one, and the one that is used unless another is
/// asked for.
const DEFAULT: &str = "default";

/// The template that models with several use for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// Fields of `tokenizer_config.json` that templates see as variables.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What a template is rendered with.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChatInput<'a> {
    /// The conversation: objects with `role`, `content` and whatever else the template knows
    /// (`tool_calls`, `reasoning_content`). Passed on as they are.
    pub messages: &'a [Json],
    /// Descriptions of tools, in `OpenAI`'s form; `None` and the empty list differ to some
    /// templates.
    pub tools: Option<&'a [Json]>,
    /// Documents for retrieval templates.
    pub documents: Option<&'a [Json]>,
    /// End the prompt with the opening of an assistant's turn.
    pub add_generation_prompt: bool,
    /// Which template, where the model has several; `None`: `tool_use` if there are tools and such
    /// a template, else `default`.
    pub template: Option<&'a str>,
    /// More variables, such as `enable_thinking`. They override special tokens, not the fields
    /// above.
    pub kwargs: Option<&'a Map<String, Json>>,
    /// The time that `strftime_now` tells, in UTC; `None`: the present, in local time.
    pub now: Option<SystemTime>,
}

/// A model's chat template (or its several named ones), compiled.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    special_tokens: Vec<(String, Value)>,
    origin: String,
}

impl ChatTemplate {
    /// Loads the template of a model from `chat_template.jinja` or else the field `chat_template`
    /// of `tokenizer_config.json`, which also names the special tokens. Further ones may lie beside
    /// them, as `additional_chat_templates/NAME.jinja`. `None` if there is no template: a base
    /// model.
    ///
    /// # Errors
    /// [`EngineError::ReadFile`], and those of [`from_parts`](Self::from_parts).
    pub fn load(template: Option<&Path>, tokenizer_config: Option<&Path>) -> Result<Option<Self>> {
        let read = |path: &Path| -> Result<Vec<u8>> {
            std::fs::read(path).map_err(|cause| EngineError::ReadFile { path: path.to_path_buf(), cause })
        };
        let dir = template.or(tokenizer_config).and_then(Path::parent);
        let named = dir.map(additional_templates).transpose()?.unwrap_or_default();
        let template = template.map(read).transpose()?.zip(template);
        let config = tokenizer_config.map(read).transpose()?.zip(tokenizer_config);
        Self::compile(
            template.as_ref().map(|(bytes, path)| (bytes.as_slice(), *path)),
            config.as_ref().map(|(bytes, path)| (bytes.as_slice(), *path)),
            named,
        )
    }

    /// As [`load`](Self::load), from the files' contents; the paths are for messages.
    ///
    /// # Errors
    /// [`EngineError::Json`] and [`EngineError::Field`] for `tokenizer_config.json`,
    /// [`EngineError::ChatTemplate`] for a template that does not parse.
    pub fn from_parts(
        template: Option<(&[u8], &Path)>,
        tokenizer_config: Option<(&[u8], &Path)>,
    ) -> Result<Option<Self>> {
        Self::compile(template, tokenizer_config, Vec::new())
    }

    /// As [`from_parts`](Self::from_parts), with named templates in place of those of the same
    /// names in the config.
    fn compile(
        template: Option<(&[u8], &Path)>,
        tokenizer_config: Option<(&[u8], &Path)>,
        named: Vec<(String, String)>,
    ) -> Result<Option<Self>> {
        let mut special_tokens = Vec::new();
        let mut templates = Vec::new();
        let mut origin = String::new();
        if let Some((bytes, path)) = tokenizer_config {
            let config: Json = serde_json::from_slice(bytes)
                .map_err(|cause| EngineError::Json { path: path.to_path_buf(), cause })?;
            special_tokens = read_special_tokens(&config, path)?;
            templates = read_templates(&config["chat_template"], path)?;
            origin = path.display().to_string();
        }
        templates.retain(|(name, _)| named.iter().all(|(known, _)| known != name));
        templates.extend(named);
        if let Some((bytes, path)) = template {
            origin = path.display().to_string();
            let source = source_text(bytes, path)?;
            templates.retain(|(name, _)| name != DEFAULT);
            templates.push((DEFAULT.into(), source.into()));
        }
        if templates.is_empty() {
            return Ok(None);
        }
        let env = environment().map_err(|e| failure(&origin, &e))?;
        let mut compiled = Self { env, special_tokens, origin };
        for (name, source) in templates {
            compiled.add(name, &source)?;
        }
        Ok(Some(compiled))
    }

    /// Names of the model's templates, sorted; usually only `default`.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.env.templates().map(|(name, _)| name).collect();
        names.sort_unstable();
        names
    }

    /// Whether the source of one of the templates holds `text`.
    pub fn mentions(&self, text: &str) -> bool {
        self.env.templates().any(|(_, template)| template.source().contains(text))
    }

    /// The special tokens that templates see: their variables' names and their texts.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, &str)> {
        self.special_tokens.iter().filter_map(|(name, text)| Some((name.as_str(), text.as_str()?)))
    }

    /// The same model's, with `source` as its default template.
    ///
    /// Errors if it does not parse.
    pub fn with_default(mut self, source: &str, origin: &str) -> Result<Self> {
        origin.clone_into(&mut self.origin);
        self.add(DEFAULT.into(), source)?;
        Ok(self)
    }

    fn add(&mut self, name: String, source: &str) -> Result<()> {
        let source = jinja::prepare(source)
            .map_err(|problem| EngineError::ChatTemplate { origin: self.origin.clone(), problem })?;
        self.env.add_template_owned(name, source).map_err(|e| failure(&self.origin, &e))
    }

    /// Renders a conversation. The result holds special tokens as text and is encoded with
    /// [`SpecialText::Parse`](super::SpecialText::Parse), without adding special tokens.
    ///
    /// # Errors
    /// [`EngineError::ChatRejected`] if the template calls `raise_exception` (roles out of order,
    /// say); [`EngineError::ChatTemplate`] if it fails otherwise, runs away, or does not exist.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String> {
        let template = self.select(input)?;
        let mut variables: Vec<(String, Value)> = self.special_tokens.clone();
        for (name, value) in input.kwargs.into_iter().flatten() {
            if ["messages", "tools", "documents", "add_generation_prompt"].contains(&name.as_str()) {
                return Err(self.problem(format!("`{name}` cannot be given as an extra template argument")));
            }
            variables.push((name.clone(), Value::from(Serde(value))));
        }
        let now = input.now;
        let clock = Value::from_function(move |format: String| jinja::strftime(&format, now));
        variables.extend([
            ("messages".to_owned(), Value::from(Serde(input.messages))),
            ("tools".to_owned(), Value::from(Serde(input.tools))),
            ("documents".to_owned(), Value::from(Serde(input.documents))),
            ("add_generation_prompt".to_owned(), Value::from(input.add_generation_prompt)),
            ("strftime_now".to_owned(), clock),
        ]);
        let template = self.env.get_template(template).map_err(|e| failure(&self.origin, &e))?;
        contained(|| template.render(Value::from_pairs(variables)))
            .ok_or_else(|| self.problem("the template engine failed on it".to_owned()))?
            .map_err(|e| failure(&self.origin, &e))
    }

    fn select<'a>(&self, input: &ChatInput<'a>) -> Result<&'a str> {
        let has = |name: &str| self.env.get_template(name).is_ok();
        let chosen = match input.template {
            Some(name) => name,
            None if input.tools.is_some() && has(TOOL_USE) => TOOL_USE,
            None => DEFAULT,
        };
        if has(chosen) {
            Ok(chosen)
        } else {
            Err(self.problem(format!(
                "there is no template `{chosen}`; the model has {}",
                self.names().join(", ")
            )))
        }
    }

    fn problem(&self, problem: String) -> EngineError {
        EngineError::ChatTemplate { origin: self.origin.clone(), problem }
    }
}

/// The templates of `additional_chat_templates` in a model's directory, by name: where transformers
/// since 5.0 saves all but the default one.
fn additional_templates(dir: &Path) -> Result<Vec<(String, String)>> {
    let dir = dir.join("additional_chat_templates");
    let failed = |path: &Path, cause| EngineError::ReadFile { path: path.to_path_buf(), cause };
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(failed(&dir, cause)),
    };
    let mut templates = Vec::new();
    for entry in entries {
        let path = entry.map_err(|cause| failed(&dir, cause))?.path();
        let is_template = path.extension().is_some_and(|extension| extension == "jinja");
        if let Some(name) = path.file_stem().and_then(|stem| stem.to_str()).filter(|_| is_template) {
            let bytes = std::fs::read(&path).map_err(|cause| failed(&path, cause))?;
            templates.push((name.to_owned(), source_text(&bytes, &path)?.to_owned()));
        }
    }
    Ok(templates)
}

/// A template file's text.
fn source_text<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|e| EngineError::ChatTemplate {
        origin: path.display().to_string(),
        problem: format!("not UTF-8 from byte {} on", e.valid_up_to()),
    })
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut env = jinja::environment()?;
    env.set_fuel(Some(FUEL));
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    Ok(env)
}

/// Marks an error as the template's own `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn failure(origin: &str, error: &Error) -> EngineError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut problem = String::new();
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return EngineError::ChatRejected { message: one_line(message) };
        }
        let text = current.to_string();
        if !problem.contains(&text) {
            if !problem.is_empty() {
                problem.push_str(": ");
            }
            problem.push_str(&text);
        }
        cause = current.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        problem = format!(
            "gave no end within {FUEL} steps; the template loops or the conversation is far too long"
        );
    }
    EngineError::ChatTemplate { origin: origin.to_owned(), problem: one_line(&problem) }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `bos_token` and the like: a string, or an object with the field `content`; `null` where the
/// model has none.
fn read_special_tokens(config: &Json, path: &Path) -> Result<Vec<(String, Value)>> {
    let mut tokens = Vec::new();
    for name in SPECIAL_TOKENS {
        if config[name].is_null() {
            continue;
        }
        let Some(text) = token_text(&config[name]) else {
            return Err(EngineError::field(
                path,
                name,
                "must be a string or an object with a string `content`",
            ));
        };
        tokens.push((name.to_owned(), Value::from(text)));
    }
    if let Some(list) = config["additional_special_tokens"].as_array() {
        let texts: Vec<Value> = list.iter().filter_map(token_text).map(Value::from).collect();
        tokens.push(("additional_special_tokens".to_owned(), Value::from(texts)));
    }
    Ok(tokens)
}

fn token_text(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// The field `chat_template`: a string, or a list of objects with `name` and `template`.
fn read_templates(field: &Json, path: &Path) -> Result<Vec<(String, String)>> {
    let wrong =
        || EngineError::field(path, "chat_template", "must be a string or a list of {name, template}");
    match field {
        Json::Null => Ok(Vec::new()),
        Json::String(source) => Ok(vec![(DEFAULT.into(), source.clone())]),
        Json::Array(list) => list
            .iter()
            .map(|entry| match (&entry["name"], &entry["template"]) {
                (Json::String(name), Json::String(source)) => Ok((name.clone(), source.clone())),
                _ => Err(wrong()),
            })
            .collect(),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PATH: &str = "m/tokenizer_config.json";

    fn from_config(config: &Json) -> Result<Option<ChatTemplate>> {
        ChatTemplate::from_parts(None, Some((config.to_string().as_bytes(), Path::new(PATH))))
    }

    fn render(source: &str, input: &ChatInput<'_>) -> Result<String> {
        from_config(&json!({ "chat_template": source })).and_then(|t| t.unwrap().render(input))
    }

    #[test]
    fn special_tokens_are_strings_or_objects() {
        let config = json!({
            "bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null,
            "additional_special_tokens": ["<a>", {"content": "<b>"}],
            "chat_template": "{{ bos_token }}|{{ eos_token }}|{{ pad_token is defined }}|{{ additional_special_tokens|join }}",
        });
        let rendered = from_config(&config).unwrap().unwrap().render(&ChatInput::default()).unwrap();
        assert_eq!(rendered, "<s>|</s>|False|<a><b>");
        let message = from_config(&json!({ "bos_token": 3 })).unwrap_err().to_string();
        assert!(message.starts_with("m/tokenizer_config.json: field `bos_token` must be"), "{message}");
    }

    #[test]
    fn templates_have_names() {
        let config = json!({ "chat_template": [
            {"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}, {"name": "rag", "template": "R"}] });
        let template = from_config(&config).unwrap().unwrap();
        let tools = [json!({})];
        let with =
            |template_name, tools| ChatInput { template: template_name, tools, ..ChatInput::default() };
        assert_eq!(template.render(&with(None, None)).unwrap(), "D");
        assert_eq!(template.render(&with(None, Some(&tools))).unwrap(), "T");
        assert_eq!(template.render(&with(Some("rag"), Some(&tools))).unwrap(), "R");
        let message = template.render(&with(Some("x"), None)).unwrap_err().to_string();
        assert!(
            message.ends_with("there is no template `x`; the model has default, rag, tool_use"),
            "{message}"
        );
        let message =
            from_config(&json!({ "chat_template": [{"name": "default"}] })).unwrap_err().to_string();
        assert!(message.contains("field `chat_template` must be a string or a list"), "{message}");
    }

    #[test]
    fn the_jinja_file_goes_before_the_config() {
        let config = json!({ "chat_template": "config", "bos_token": "<s>" }).to_string();
        let load = |jinja: Option<&'static str>| {
            let jinja = jinja.map(|text| (text.as_bytes(), Path::new("m/chat_template.jinja")));
            ChatTemplate::from_parts(jinja, Some((config.as_bytes(), Path::new(PATH)))).unwrap().unwrap()
        };
        assert_eq!(load(None).render(&ChatInput::default()).unwrap(), "config");
        assert_eq!(load(Some("{{ bos_token }}jinja")).render(&ChatInput::default()).unwrap(), "<s>jinja");
        assert!(from_config(&json!({})).unwrap().is_none());
        assert!(ChatTemplate::from_parts(None, None).unwrap().is_none());
    }

    #[test]
    fn further_templates_lie_in_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let config = json!({ "chat_template": [
            {"name": "default", "template": "D"}, {"name": "rag", "template": "old"}, {"name": "x", "template": "X"}] });
        let config = write("tokenizer_config.json", config.to_string().as_bytes());
        let jinja = write("chat_template.jinja", b"J");
        std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
        write("additional_chat_templates/rag.jinja", b"R");
        write("additional_chat_templates/notes.txt", b"\xFF");
        let template = ChatTemplate::load(Some(&jinja), Some(&config)).unwrap().unwrap();
        assert_eq!(template.names(), ["default", "rag", "x"]);
        for (name, text) in [(None, "J"), (Some("rag"), "R"), (Some("x"), "X")] {
            let input = ChatInput { template: name, ..ChatInput::default() };
            assert_eq!(template.render(&input).unwrap(), text);
        }
        let bad = write("additional_chat_templates/bad.jinja", b"a\xFF");
        let message = ChatTemplate::load(Some(&jinja), None).unwrap_err().to_string();
        assert!(message.contains(&bad.display().to_string()) && message.contains("UTF-8"), "{message}");
    }

    #[test]
    fn a_templates_own_error_is_told_in_its_words() {
        let source = "{% for m in messages %}{{ raise_exception('roles must\nalternate') }}{% endfor %}";
        let messages = [json!({"role": "user"})];
        let error = render(source, &ChatInput { messages: &messages, ..ChatInput::default() }).unwrap_err();
        let expected = "the model's chat template rejects this conversation: roles must alternate";
        assert_eq!(error.to_string(), expected);
        assert!(matches!(error, EngineError::ChatRejected { .. }));
    }

    #[test]
    fn broken_templates_name_their_line() {
        let message = render("a\n{% if %}", &ChatInput::default()).unwrap_err().to_string();
        assert!(message.starts_with("chat template of m/tokenizer_config.json: syntax error"), "{message}");
        assert!(message.contains("default:2"), "{message}");
        let message =
            render("\n\n{{ messages[0].content.nope() }}", &ChatInput::default()).unwrap_err().to_string();
        assert!(message.contains("default:3"), "{message}");
        let not_text = ChatTemplate::from_parts(Some((b"a\xFF", Path::new("t.jinja"))), None).unwrap_err();
        assert_eq!(not_text.to_string(), "chat template of t.jinja: not UTF-8 from byte 1 on");
    }

    #[test]
    fn a_runaway_template_ends() {
        for source in [
            "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
            "{% set ns = namespace(x='abcdefgh') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "{{ 'a' * 100000000000 }}",
        ] {
            let message = render(source, &ChatInput::default()).unwrap_err().to_string();
            assert!(message.contains("gave no end within"), "{message}");
        }
    }

    #[test]
    fn variables_and_whitespace_are_those_of_apply_chat_template() {
        let kwargs = json!({ "enable_thinking": false, "bos_token": "<x>" });
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_750_000_000);
        let input = ChatInput { kwargs: kwargs.as_object(), now: Some(now), ..ChatInput::default() };
        let source =
            "{% if true %}\n  {%- set x = 1 %}\n    {% if x %}\na\n    {% endif %}\n{% endif %}\nb\n";
        assert_eq!(render(source, &input).unwrap(), "a\nb");
        assert_eq!(
            render("{{ enable_thinking }}{{ none }}{{ [1.0, 'a', {'k': none}] }}", &input).unwrap(),
            "FalseNone[1.0, 'a', {'k': None}]"
        );
        assert_eq!(
            render("{{ tools is none }}{{ nope is defined }}{{ nope }}", &input).unwrap(),
            "TrueFalse"
        );
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}", &input).unwrap(), "15 Jun 2025");
        assert_eq!(
            render("{% for i in [1,2,3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", &input)
                .unwrap(),
            "1"
        );
        assert_eq!(render("{{ ' a '.strip().upper().startswith('A') }}", &input).unwrap(), "True");
        let taken = json!({ "messages": [] });
        let message = render("", &ChatInput { kwargs: taken.as_object(), ..input }).unwrap_err().to_string();
        assert!(message.contains("`messages` cannot be given"), "{message}");
    }

    #[test]
    fn generation_blocks_are_plain_text() {
        let source = "{%- for i in [1, 2] -%} <{% generation %}a {{- i }} {%- endgeneration -%} > {%- endfor %}{{ '{%' }}";
        assert_eq!(render(source, &ChatInput::default()).unwrap(), "<a1><a2>{%");
    }
}
