//! A BPE tokenizer in the parts of a `tokenizer.json`, as that file and as the library's tokenizer.
//!
//! The short parts are JSON in both. The vocabulary and the merges are most of a tokenizer and are
//! handed to the library as they are: to write them as JSON and read that again takes several times
//! as long.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Result, Tokenizer,
};

use super::pieces::Pieces;

/// Pairs of pieces, first merges first.
pub(super) type Merges<'a> = Vec<[&'a str; 2]>;

pub(super) struct Parts<'a> {
    /// Null where there is none; so the next two.
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
    pub(super) pieces: Pieces<'a>,
    pub(super) merges: Merges<'a>,
    /// What stands for a text that no piece has.
    pub(super) unknown: Option<&'a str>,
    /// Whether bytes stand for it first.
    pub(super) byte_fallback: bool,
    /// A word that is in the vocabulary is that token, whatever the merges make of it.
    pub(super) ignore_merges: bool,
}

impl Parts<'_> {
    /// The `tokenizer.json`.
    pub(super) fn into_json(self) -> Value {
        let pieces = self.pieces.iter().map(|(id, piece)| (piece.to_owned(), id.into()));
        json!({
            "version": "1.0",
            "added_tokens": self.pieces.added_json(),
            "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer,
            "post_processor": self.post_processor,
            "decoder": self.decoder,
            "model": {
                "type": "BPE",
                "unk_token": self.unknown,
                "fuse_unk": self.byte_fallback,
                "byte_fallback": self.byte_fallback,
                "ignore_merges": self.ignore_merges,
                "vocab": pieces.collect::<Map<_, _>>(),
                "merges": self.merges,
            },
        })
    }

    /// What the library makes of that file.
    pub(super) fn build(self) -> Result<Tokenizer> {
        let added = self.pieces.added();
        let merges = self.merges.into_iter().map(|[left, right]| (left.to_owned(), right.to_owned()));
        let mut model = BPE::builder()
            .vocab_and_merges(self.pieces.into_vocab(), merges.collect())
            .fuse_unk(self.byte_fallback)
            .byte_fallback(self.byte_fallback)
            .ignore_merges(self.ignore_merges);
        if let Some(unknown) = self.unknown {
            model = model.unk_token(unknown.to_owned());
        }
        let mut tokenizer = Tokenizer::new(model.build()?);
        tokenizer.with_normalizer(read::<NormalizerWrapper>(self.normalizer)?)?;
        tokenizer.with_pre_tokenizer(read::<PreTokenizerWrapper>(self.pre_tokenizer)?);
        tokenizer.with_post_processor(read::<PostProcessorWrapper>(self.post_processor)?);
        tokenizer.with_decoder(read::<DecoderWrapper>(self.decoder)?);
        tokenizer.add_tokens(added)?;
        Ok(tokenizer)
    }
}

fn read<T: DeserializeOwned>(part: Value) -> Result<Option<T>> {
    Ok(serde_json::from_value(part)?)
}
