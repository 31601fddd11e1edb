//! A checkpoint's tokenizer: `tokenizer.json` through the `tokenizers` crate.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::{AddedVocabulary, Encoding, Model as _, OffsetType, PreTokenizedString, PreTokenizer as _};

use super::added_matcher::AddedMatcher;
use super::contained::contained;
use super::decoder::{Scheme, Stream};
use super::special_names::{MarkedPlaces, Marks, SpecialNames};
use crate::{EngineError, Result};

/// What [`Tokenizer::encode`] does with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncodeOptions {
    /// Add what the tokenizer's post-processor puts around a text (Llama's `<s>`; nothing for
    /// Qwen3). Chat templates write such tokens themselves, so a rendered template is encoded
    /// without.
    pub add_special_tokens: bool,
    /// What a special token's name inside the text stands for.
    pub special_text: SpecialText,
}

/// How the name of a special token, found in a text, is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpecialText {
    /// As that token: for rendered chat templates and prompts by the operator.
    #[default]
    Parse,
    /// As the letters it is written with: for text by strangers. Added tokens that are not special
    /// (Qwen3's `<tool_call>`) are parsed all the same, as in Hugging Face's
    /// `split_special_tokens`.
    Literal,
}

/// A token that was added to the vocabulary, apart from the pieces that training found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// Whether it is control information, left out when special tokens are skipped.
    pub special: bool,
}

/// A loaded tokenizer. Shared between threads behind an `Arc`; every method takes `&self`.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The added vocabulary once more, told to leave special tokens alone.
    literal: AddedVocabulary,
    /// The added vocabulary once more, for texts in which some names are special and some are not.
    matcher: AddedMatcher,
    special_names: SpecialNames,
    scheme: Scheme,
    added: Vec<AddedToken>,
    num_ids: usize,
    path: PathBuf,
}

impl Tokenizer {
    /// Loads `tokenizer.json`.
    ///
    /// # Errors
    /// [`EngineError::ReadFile`], and those of [`from_bytes`](Self::from_bytes).
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).map_err(|cause| EngineError::ReadFile { path: path.to_path_buf(), cause })?;
        Self::from_bytes(&bytes, path)
    }

    /// Loads the content of a `tokenizer.json`; `path` is where it came from, for messages.
    ///
    /// Truncation and padding that the file may ask for are ignored: a prompt is never cut
    /// silently.
    ///
    /// # Errors
    /// [`EngineError::Json`] for malformed JSON, [`EngineError::Tokenizer`] for JSON that is no
    /// tokenizer or uses a decoder that is not supported.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        // Checked apart from building, where the library panics on files that end too early.
        let listed: Listed = serde_json::from_slice(bytes)
            .map_err(|cause| EngineError::Json { path: path.to_path_buf(), cause })?;
        let unusable = |problem: String| EngineError::Tokenizer { path: path.to_path_buf(), problem };
        let inner = call(|| tokenizers::Tokenizer::from_bytes(bytes))
            .map_err(|e| unusable(format!("not a tokenizer.json of the `tokenizers` library: {e}")))?;
        for token in listed.added_tokens {
            // The library renumbers what does not follow the vocabulary, and models would read
            // other tokens.
            let id = inner.token_to_id(&token.content);
            if id != Some(token.id) {
                let (content, listed) = (token.content, token.id);
                let got = id.map_or("none".into(), |id| id.to_string());
                return Err(unusable(format!(
                    "added token {content:?} has id {listed} in the file but would get {got}"
                )));
            }
        }
        Self::new(inner, path)
    }

    /// What `build` makes with the library; `path` is the file that it comes from, for messages.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`] if the library makes none, or one that is not supported.
    pub(super) fn from_library(
        build: impl FnOnce() -> tokenizers::Result<tokenizers::Tokenizer>,
        path: &Path,
    ) -> Result<Self> {
        let inner = call(build);
        Self::new(
            inner.map_err(|problem| EngineError::Tokenizer { path: path.to_path_buf(), problem })?,
            path,
        )
    }

    fn new(mut inner: tokenizers::Tokenizer, path: &Path) -> Result<Self> {
        let unusable = |problem: String| EngineError::Tokenizer { path: path.to_path_buf(), problem };
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| unusable(e.to_string()))?;

        let decoder = inner.get_decoder().map(serde_json::to_value).transpose();
        let scheme = decoder.map_err(|e| e.to_string()).and_then(|decoder| Scheme::compile(decoder.as_ref()));
        let scheme = scheme.map_err(unusable)?;

        let mut literal = inner.get_added_vocabulary().clone();
        literal.set_encode_special_tokens(true);
        let matcher = AddedMatcher::new(&literal).map_err(unusable)?;
        let special_names = SpecialNames::new(&literal).map_err(unusable)?;
        let mut added: Vec<AddedToken> = literal
            .get_added_tokens_decoder()
            .iter()
            .map(|(&id, token)| AddedToken { id, content: token.content.clone(), special: token.special })
            .collect();
        added.sort_unstable_by_key(|token| token.id);
        let num_ids = count_ids(&inner);
        if num_ids == 0 {
            return Err(unusable("the vocabulary is empty".into()));
        }
        Ok(Self { inner, literal, matcher, special_names, scheme, added, num_ids, path: path.to_path_buf() })
    }

    /// Token ids of a text.
    ///
    /// # Errors
    /// [`EngineError::Encode`] if the tokenizer's model cannot express the text (a vocabulary
    /// without an unknown token).
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        let add = options.add_special_tokens;
        ids(text, || match options.special_text {
            SpecialText::Parse => self.inner.encode_fast(text, add),
            SpecialText::Literal => {
                self.encode_split(self.literal.extract_and_normalize(self.inner.get_normalizer(), text), add)
            }
        })
    }

    /// Token ids of a text as [`encode`](Self::encode) gives them, but that special tokens' names
    /// are text in the places that are marked.
    pub(super) fn encode_marked(&self, text: &str, places: &MarkedPlaces) -> Result<Vec<u32>> {
        if places.is_empty() {
            return self.encode(text, EncodeOptions::default());
        }
        ids(text, || {
            let is_text = |name| places.is_text(&name);
            self.encode_split(self.matcher.split(text, self.inner.get_normalizer(), &is_text)?, false)
        })
    }

    /// The steps of the library's `encode_fast` after added tokens are found.
    fn encode_split(
        &self,
        mut text: PreTokenizedString,
        add_special_tokens: bool,
    ) -> tokenizers::Result<Encoding> {
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut text)?;
        }
        let model = self.inner.get_model();
        text.tokenize(|piece| model.tokenize(piece.get()))?;
        let encoding = text.into_encoding(None, 0, OffsetType::None)?;
        self.inner.post_process(encoding, None, add_special_tokens)
    }

    /// The text of a list of ids, as Hugging Face's `decode` without `clean_up_tokenization_spaces`
    /// gives it. Bytes that are not UTF-8 become U+FFFD; ids outside the vocabulary contribute
    /// nothing.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let mut text = String::new();
        let mut stream = Stream::new(&self.scheme, true);
        for piece in ids.iter().filter_map(|&id| self.visible_piece(id, skip_special_tokens)) {
            stream.push(&self.scheme, &piece, &mut text);
        }
        stream.finish(&self.scheme, &mut text);
        text
    }

    /// The bytes that a token adds to a text: those of its piece in byte-level vocabularies, the
    /// byte of `<0xNN>`, the text of a piece otherwise (with its leading space, whatever its
    /// place). Not necessarily UTF-8. `None` for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.token(id).map(|piece| self.scheme.bytes(&piece))
    }

    /// Whether texts are tokens joined with spaces, which belong to no token: so where a file has
    /// no decoder.
    pub fn joins_with_spaces(&self) -> bool {
        self.scheme.joins_with_spaces()
    }

    /// A token as the vocabulary spells it (`Ġworld`, `▁world`, `<0xE5>`, `<|im_end|>`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token spelled as the vocabulary has it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// One more than the highest id: what a model's vocabulary must at least hold. It may be padded
    /// beyond (Qwen3: 151,669 ids, 151,936 rows).
    pub fn num_ids(&self) -> usize {
        self.num_ids
    }

    /// How many tokens there are, added ones included. Less than [`num_ids`](Self::num_ids) where
    /// ids are left out.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Added tokens, special or not, in the order of their ids.
    pub fn added_tokens(&self) -> &[AddedToken] {
        &self.added
    }

    /// Whether a token is special, so that skipping special tokens leaves it out.
    pub fn is_special(&self, id: u32) -> bool {
        self.added.binary_search_by_key(&id, |token| token.id).is_ok_and(|at| self.added[at].special)
    }

    /// Where the tokenizer was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn special_names(&self) -> &SpecialNames {
        &self.special_names
    }

    /// Whether a text names a special token, or ends as if it began to.
    pub(super) fn names_special(&self, text: &str) -> bool {
        self.special_names.touch(text, self.inner.get_normalizer())
    }

    /// The text with marks in all names of special tokens.
    pub(super) fn mark_special(&self, text: &str, marks: &Marks) -> String {
        self.special_names.mark(text, self.inner.get_normalizer(), marks)
    }

    pub(super) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// The piece of an id, unless the id is unknown or a special token to be skipped.
    pub(super) fn visible_piece(&self, id: u32, skip_special_tokens: bool) -> Option<String> {
        if skip_special_tokens && self.is_special(id) { None } else { self.token(id) }
    }
}

fn ids(text: &str, encode: impl FnOnce() -> tokenizers::Result<Encoding>) -> Result<Vec<u32>> {
    let failed = |problem| EngineError::Encode { text_len: text.len(), problem };
    call(encode).map(|encoding| encoding.get_ids().to_vec()).map_err(failed)
}

/// Runs a call of the library; a panic inside it becomes an error. It indexes by what a file says,
/// and a file that is wrong in a way that its parser accepts must not take a server down.
fn call<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match contained(run) {
        Some(result) => result.map_err(|e| e.to_string()),
        None => Err("the library that reads it broke off; tokenizer.json is damaged: fetch it again".into()),
    }
}

/// The part of `tokenizer.json` that is checked against what the library makes of it.
#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    added_tokens: Vec<ListedToken>,
}

#[derive(Deserialize)]
struct ListedToken {
    id: u32,
    content: String,
}

/// One more than the highest id.
fn count_ids(tokenizer: &tokenizers::Tokenizer) -> usize {
    let model = tokenizer.get_model();
    let num_pieces = model.get_vocab_size();
    // Ids without gaps are the rule, and seeing that costs a tenth of copying the vocabulary.
    let dense = (0..num_pieces as u32).all(|id| model.id_to_token(id).is_some());
    let highest_piece = if dense {
        num_pieces
    } else {
        model.get_vocab().into_values().max().map_or(0, |id| id as usize + 1)
    };
    let added = tokenizer.get_added_vocabulary().get_vocab().values().max();
    highest_piece.max(added.map_or(0, |&id| id as usize + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(json: &str) -> Result<Tokenizer> {
        Tokenizer::from_bytes(json.as_bytes(), Path::new("dir/tokenizer.json"))
    }

    /// With a panic of our own: no file that makes the library panic is kept here.
    #[test]
    fn a_panic_of_the_library_is_one_line_in_our_words() {
        let message = call::<()>(|| panic!("index out of bounds")).unwrap_err();
        assert_eq!(message, "the library that reads it broke off; tokenizer.json is damaged: fetch it again");
    }

    #[test]
    fn damaged_files_give_one_line() {
        let cut =
            r#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[]},"decoder":{"type":"Byte"#;
        let message = load(cut).unwrap_err().to_string();
        assert!(message.starts_with("dir/tokenizer.json is not valid JSON"), "{message}");
        for (json, part) in [
            ("{}", "not a tokenizer.json"),
            (r#"{"version":"1.0","added_tokens":[],"model":{"type":"Quux"}}"#, "not a tokenizer.json"),
            (
                r#"{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{},"merges":[]}}"#,
                "vocabulary is empty",
            ),
            (
                r#"{"version":"1.0","added_tokens":[],"decoder":{"type":"CTC","pad_token":"p","word_delimiter_token":"|","cleanup":true},
                   "model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#,
                "decoder `CTC`",
            ),
            (
                r#"{"version":"1.0","added_tokens":[{"id":4,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,
                   "normalized":false,"special":true}],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#,
                "added token \"<s>\" has id 4 in the file but would get 1",
            ),
        ] {
            let message = load(json).unwrap_err().to_string();
            assert!(message.starts_with("dir/tokenizer.json: ") && message.contains(part), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
        let missing = Tokenizer::from_file(Path::new("/no/such/tokenizer.json")).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read /no/such/tokenizer.json: "), "{missing}");
    }
}
