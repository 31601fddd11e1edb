//! Text to token ids and back: tokenizer, incremental detokenizer, stop strings, chat template,
//! generation defaults.
//!
//! Token ids are plain `u32` here, as the vocabulary files have them.

mod added_matcher;
mod bpe_files;
mod chat_messages;
mod chat_prompt;
mod chat_template;
mod contained;
mod decoder;
mod detokenizer;
mod end_token;
mod generation_config;
mod gguf_vocabulary;
mod jinja;
mod lazy_tokenizer;
mod special_names;
mod stop;
mod tokenizer;
mod tokenizer_json;

pub use bpe_files::BpeFiles;
pub use chat_template::{ChatInput, ChatTemplate};
pub(crate) use contained::contained;
pub use detokenizer::{Detokenizer, TextStart};
pub(crate) use end_token::end_token;
pub use generation_config::{GenerationConfig, Remark};
pub use gguf_vocabulary::GgufVocabulary;
pub(crate) use lazy_tokenizer::LazyTokenizer;
pub use stop::{StopMatcher, StopOutput};
pub use tokenizer::{AddedToken, EncodeOptions, SpecialText, Tokenizer};
