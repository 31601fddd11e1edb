//! What the metadata says: the vocabulary itself, and which of its tokens are special.

use serde_json::{Map, Value, json};

use super::kind::Kind;

/// What a GGUF's metadata says of the tokenizer, under `tokenizer.` and mostly `tokenizer.ggml.`.
/// A list that the file does not have is empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GgufVocabulary {
    /// `ggml.model`: the kind of tokenizer, `gpt2` or `llama`.
    pub model: String,
    /// `ggml.pre`: how a text is cut into words. Of no meaning to `llama`.
    pub pre: Option<String>,
    /// `ggml.tokens`: the text of each id. Of equal ones the first counts; empty ones and
    /// placeholders (`[PAD7]` at 7, unused or user-defined) are no tokens.
    pub tokens: Vec<String>,
    /// `ggml.scores`: a score for each token; higher ones are merged first. Of no meaning to
    /// `gpt2`.
    pub scores: Vec<f32>,
    /// `ggml.token_type`: a type for each token: 1 normal, 2 unknown, 3 control, 4 user-defined,
    /// 5 unused, 6 byte. Any other counts as normal. Without the list the tokens that the ids below
    /// name are control, and all others normal.
    pub token_types: Vec<i32>,
    /// `ggml.merges`: two pieces and a space between them, first merges first.
    pub merges: Vec<String>,
    /// `ggml.bos_token_id`. Here and below: an id outside the vocabulary counts as absent.
    pub bos_token_id: Option<u32>,
    /// `ggml.eos_token_id`.
    pub eos_token_id: Option<u32>,
    /// `ggml.eot_token_id`: ends a turn.
    pub eot_token_id: Option<u32>,
    /// `ggml.eom_token_id`: ends a message.
    pub eom_token_id: Option<u32>,
    /// `ggml.unknown_token_id`.
    pub unknown_token_id: Option<u32>,
    /// `ggml.seperator_token_id`, which is how writers spell it.
    pub separator_token_id: Option<u32>,
    /// `ggml.padding_token_id`.
    pub padding_token_id: Option<u32>,
    /// `ggml.mask_token_id`.
    pub mask_token_id: Option<u32>,
    /// `ggml.add_bos_token`; where absent true for `llama` and some of `pre`.
    pub add_bos_token: Option<bool>,
    /// `ggml.add_eos_token`; where absent false.
    pub add_eos_token: Option<bool>,
    /// `ggml.add_space_prefix`: put a space before a text; where absent true for `llama`. Of no
    /// meaning to `gpt2`, as in llama.cpp.
    pub add_space_prefix: Option<bool>,
    /// `chat_template`.
    pub chat_template: Option<String>,
    /// `chat_template.NAME`: more templates, by their names.
    pub named_chat_templates: Vec<(String, String)>,
}

/// Control tokens that end an answer whatever id the metadata names, as in llama.cpp: metadata has
/// room for one end token, where generation_config.json lists two or three.
const END_NAMES: [&str; 7] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
];

impl GgufVocabulary {
    /// What `tokenizer_config.json` would say: the special tokens by their names, and the chat
    /// templates. In the form that
    /// [`ChatTemplate::from_parts`](crate::text::ChatTemplate::from_parts) takes as bytes.
    pub fn tokenizer_config(&self) -> Value {
        let mut config = Map::new();
        for (name, id) in [
            ("bos_token", self.bos()),
            ("eos_token", self.eos()),
            ("unk_token", self.unknown()),
            ("sep_token", self.valid(self.separator_token_id)),
            ("pad_token", self.valid(self.padding_token_id)),
            ("mask_token", self.valid(self.mask_token_id)),
        ] {
            if let Some(id) = id {
                config.insert(name.into(), self.text(id).into());
            }
        }
        let template = |(name, template): (&str, &String)| json!({"name": name, "template": template});
        let default = self.chat_template.iter().map(|template| ("default", template));
        let named = self.named_chat_templates.iter().map(|(name, template)| (name.as_str(), template));
        if !self.named_chat_templates.is_empty() {
            config.insert("chat_template".into(), default.chain(named).map(template).collect());
        } else if let Some(template) = &self.chat_template {
            config.insert("chat_template".into(), template.as_str().into());
        }
        config.into()
    }

    /// The id that begins a text.
    pub fn begin_token_id(&self) -> Option<u32> {
        self.bos()
    }

    /// The ids that end an answer: those that the metadata names as end of text, turn and message,
    /// and the control tokens that are known to.
    pub fn end_token_ids(&self) -> Vec<u32> {
        let named = [self.eos(), self.valid(self.eot_token_id), self.valid(self.eom_token_id)];
        let mut known = [None; END_NAMES.len()];
        for (id, token) in (0..).zip(&self.tokens).filter(|(_, token)| token.starts_with('<')) {
            if let Some(at) = END_NAMES.iter().position(|name| name == token) {
                known[at].get_or_insert(id);
            }
        }
        let known = known.into_iter().flatten().filter(|&id| self.kind(id).is_special());
        let mut ids = Vec::new();
        for id in named.into_iter().flatten().chain(known) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// Errors if a list has not an entry for each token.
    pub(super) fn check_lengths(&self) -> Result<(), String> {
        let num_tokens = self.tokens.len();
        if num_tokens == 0 {
            return Err("tokenizer.ggml.tokens is empty or absent: the file has no vocabulary".into());
        }
        let lists = [("scores", self.scores.len()), ("token_type", self.token_types.len())];
        match lists.into_iter().find(|&(_, len)| len != 0 && len != num_tokens) {
            Some((list, len)) => Err(format!(
                "tokenizer.ggml.{list} has {len} entries and tokenizer.ggml.tokens {num_tokens}; the file is damaged"
            )),
            None => Ok(()),
        }
    }

    /// What the metadata call a token.
    pub(super) fn kind(&self, id: u32) -> Kind {
        match self.token_types.get(id as usize) {
            Some(2) => Kind::Unknown,
            Some(3) => Kind::Control,
            Some(4) => Kind::UserDefined,
            Some(5) => Kind::Unused,
            Some(6) => Kind::Byte,
            None if self.is_named(id) => Kind::Control,
            _ => Kind::Normal,
        }
    }

    /// Whether the metadata names an id as a special token.
    fn is_named(&self, id: u32) -> bool {
        [
            self.bos(),
            self.eos(),
            self.unknown(),
            self.eot_token_id,
            self.eom_token_id,
            self.separator_token_id,
            self.padding_token_id,
            self.mask_token_id,
        ]
        .contains(&Some(id))
    }

    /// An id of the vocabulary that names a token.
    fn valid(&self, id: Option<u32>) -> Option<u32> {
        id.filter(|&id| self.tokens.get(id as usize).is_some_and(|token| !token.is_empty()))
    }

    pub(super) fn bos(&self) -> Option<u32> {
        self.valid(self.bos_token_id.or(self.default_id(1)))
    }

    pub(super) fn eos(&self) -> Option<u32> {
        self.valid(self.eos_token_id.or(self.default_id(2)))
    }

    pub(super) fn unknown(&self) -> Option<u32> {
        self.valid(self.unknown_token_id.or(self.default_id(0)))
    }

    /// Where `SentencePiece` has its special tokens unless told otherwise. llama.cpp has a default
    /// for `gpt2` too, which is not followed: 11 begins and ends, a piece of text in most files.
    fn default_id(&self, id: u32) -> Option<u32> {
        (self.model == "llama").then_some(id)
    }

    pub(super) fn text(&self, id: u32) -> &str {
        self.tokens.get(id as usize).map_or("", String::as_str)
    }
}
