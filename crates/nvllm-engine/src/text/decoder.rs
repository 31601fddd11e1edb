//! How a tokenizer's pieces become text: the `decoder` section of `tokenizer.json`, compiled for
//! streaming.
//!
//! The `tokenizers` crate decodes a whole list of ids. A stream needs the same text piece by piece,
//! and decoding prefixes again and again is both slow and wrong at the borders (a piece may change
//! how the one before it reads). So the decoder section is compiled into a [`Scheme`], and
//! [`Stream`] runs it one token at a time with the little state that it needs:
//!
//! * **byte-level** BPE (Qwen, Llama 3, `SmolLM2`): pieces are bytes; at most three bytes of an
//!   unfinished code point wait;
//! * **byte fallback** (Llama 2, Mistral, Gemma): pieces are text, and what the vocabulary lacks
//!   comes as `<0xNN>` tokens. The reference decodes a *run* of such tokens as a whole: valid UTF-8
//!   becomes text, anything else one U+FFFD per byte, also for the valid part. A run therefore
//!   waits until it ends or can no longer become valid;
//! * the optional **leading space** that `SentencePiece` adds to a text, removed once at its start.
//!
//! Decoders of other model families (`WordPiece`, CTC, suffix BPE) are rejected by name.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde_json::Value;

/// What a decoder section asks for, in the order in which it is applied.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scheme {
    /// Rewrites of single pieces.
    rewrites: Vec<Rewrite>,
    /// How a piece becomes bytes.
    pieces: Pieces,
    /// Up to this many of this character are removed from the start of the text.
    strip: Option<(char, usize)>,
    /// Without a decoder the reference joins pieces with spaces.
    joined_by_spaces: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Rewrite {
    /// Replace a string everywhere.
    Replace { from: String, to: String },
    /// `SentencePiece`'s space marker becomes a space; in the first piece of a text it vanishes if
    /// `drop_first`.
    Metaspace { marker: char, drop_first: bool },
    /// Remove up to `start` and `stop` of `content` at the ends of a piece.
    Strip { content: char, start: usize, stop: usize },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pieces {
    /// A piece spells bytes in GPT-2's alphabet of 256 printable characters.
    ByteLevel,
    /// A piece is text, except `<0xNN>`, which is one byte.
    ByteFallback,
    /// A piece is text.
    Text,
}

impl Scheme {
    /// Compiles a `decoder` section; `None` where the file has none. The error names what is not
    /// supported.
    pub(super) fn compile(decoder: Option<&Value>) -> Result<Self, String> {
        let mut scheme = Self {
            rewrites: Vec::new(),
            pieces: Pieces::Text,
            strip: None,
            joined_by_spaces: decoder.is_none(),
        };
        let mut stage = Stage::PerPiece;
        if let Some(decoder) = decoder {
            scheme.add(decoder, &mut stage)?;
        }
        Ok(scheme)
    }

    fn add(&mut self, decoder: &Value, stage: &mut Stage) -> Result<(), String> {
        let kind = decoder["type"].as_str().unwrap_or("(none)");
        match (kind, *stage) {
            ("Sequence", _) => {
                for part in decoder["decoders"].as_array().into_iter().flatten() {
                    self.add(part, stage)?;
                }
            }
            ("Replace", Stage::PerPiece) => {
                let from = decoder["pattern"]["String"].as_str().ok_or(
                    "decoder `Replace` has a regular expression as its pattern; only a plain string is supported",
                )?;
                let to = decoder["content"].as_str().unwrap_or_default();
                if !from.is_empty() {
                    self.rewrites.push(Rewrite::Replace { from: from.into(), to: to.into() });
                }
            }
            ("Metaspace", Stage::PerPiece) => self.rewrites.push(Rewrite::Metaspace {
                marker: single_char(&decoder["replacement"])?,
                drop_first: decoder["prepend_scheme"].as_str() != Some("never"),
            }),
            ("Strip", Stage::PerPiece) => {
                let (content, start, stop) = strip_fields(decoder)?;
                self.rewrites.push(Rewrite::Strip { content, start, stop });
            }
            ("ByteLevel", Stage::PerPiece) => {
                self.pieces = Pieces::ByteLevel;
                *stage = Stage::Fused;
            }
            ("ByteFallback", Stage::PerPiece) => {
                self.pieces = Pieces::ByteFallback;
                *stage = Stage::BytesDone;
            }
            ("Fuse", _) => *stage = Stage::Fused,
            ("Strip", Stage::Fused) if self.strip.is_none() => {
                let (content, start, stop) = strip_fields(decoder)?;
                if stop > 0 {
                    return Err(
                        "decoder `Strip` cuts the end of the whole text, which a stream cannot do".into()
                    );
                }
                self.strip = Some((content, start));
            }
            (kind, stage) => {
                return Err(format!(
                    "decoder `{kind}` {} is not supported; supported are ByteLevel, Metaspace, and sequences of \
                     Replace, Strip, ByteFallback, Fuse, Strip in this order",
                    if stage == Stage::PerPiece { "of this tokenizer" } else { "at this place" }
                ));
            }
        }
        Ok(())
    }

    pub(super) fn joins_with_spaces(&self) -> bool {
        self.joined_by_spaces
    }

    /// The bytes that a piece stands for, apart from its place in a text.
    pub(super) fn bytes(&self, piece: &str) -> Vec<u8> {
        let piece = self.rewrite(piece, false);
        match self.pieces {
            Pieces::ByteLevel => byte_level(&piece).unwrap_or_else(|| piece.into_owned().into_bytes()),
            Pieces::ByteFallback => match fallback_byte(&piece) {
                Some(byte) => vec![byte],
                None => piece.into_owned().into_bytes(),
            },
            Pieces::Text => piece.into_owned().into_bytes(),
        }
    }

    fn rewrite<'a>(&self, piece: &'a str, first: bool) -> Cow<'a, str> {
        let mut piece = Cow::Borrowed(piece);
        for rewrite in &self.rewrites {
            piece = Cow::Owned(match rewrite {
                Rewrite::Replace { from, to } if piece.contains(from.as_str()) => piece.replace(from, to),
                Rewrite::Metaspace { marker, drop_first } if piece.contains(*marker) => {
                    piece.replace(*marker, if first && *drop_first { "" } else { " " })
                }
                Rewrite::Strip { content, start, stop } => strip(&piece, *content, *start, *stop).to_owned(),
                _ => continue,
            });
        }
        piece
    }
}

/// How far the compiled sequence has come: single pieces, bytes resolved, one text.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    PerPiece,
    BytesDone,
    Fused,
}

/// The state of one text being decoded; see the module's description.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    /// No piece has been seen yet, and the text starts here (rather than continuing another).
    first: bool,
    /// How many characters may still be stripped from the start.
    strip_left: usize,
    /// Bytes that may still become a code point (byte-level), or a run of byte tokens (byte
    /// fallback).
    pending: Vec<u8>,
    /// Byte fallback: the current run is known not to be UTF-8, so that its bytes are U+FFFD each.
    run_is_invalid: bool,
    /// Byte fallback: so much of the run has been found valid.
    run_valid_len: usize,
}

impl Stream {
    /// Starts a text. `at_start` is false where the text continues one that was shown before.
    pub(super) fn new(scheme: &Scheme, at_start: bool) -> Self {
        Self {
            first: at_start,
            strip_left: if at_start { scheme.strip.map_or(0, |(_, count)| count) } else { 0 },
            pending: Vec::new(),
            run_is_invalid: false,
            run_valid_len: 0,
        }
    }

    /// Adds a piece; appends to `out` the text that no later piece can change.
    pub(super) fn push(&mut self, scheme: &Scheme, piece: &str, out: &mut String) {
        let first = std::mem::replace(&mut self.first, false);
        if scheme.joined_by_spaces && !first {
            out.push(' ');
        }
        let piece = scheme.rewrite(piece, first);
        match scheme.pieces {
            Pieces::ByteLevel => {
                match byte_level(&piece) {
                    Some(bytes) => self.pending.extend_from_slice(&bytes),
                    None => self.pending.extend_from_slice(piece.as_bytes()),
                }
                let text = self.take_complete();
                self.emit(scheme, &text, out);
            }
            Pieces::ByteFallback => {
                if let Some(byte) = fallback_byte(&piece) {
                    self.push_fallback(scheme, byte, out);
                } else {
                    self.end_run(scheme, out);
                    self.emit(scheme, &piece, out);
                }
            }
            Pieces::Text => self.emit(scheme, &piece, out),
        }
    }

    /// Ends the text; appends what was held back, U+FFFD where bytes are missing.
    pub(super) fn finish(&mut self, scheme: &Scheme, out: &mut String) {
        match scheme.pieces {
            Pieces::ByteLevel => {
                let rest = std::mem::take(&mut self.pending);
                self.emit(scheme, &String::from_utf8_lossy(&rest), out);
            }
            Pieces::ByteFallback => self.end_run(scheme, out),
            Pieces::Text => {}
        }
    }

    /// Takes the pending bytes whose reading is settled: whole code points, and U+FFFD for bytes
    /// that cannot become one.
    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                break;
            }
            let at_end = done + invalid.len() == self.pending.len();
            if at_end && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none()) {
                break; // the start of a code point: wait for the rest
            }
            text.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
        self.pending.drain(..done);
        text
    }

    fn push_fallback(&mut self, scheme: &Scheme, byte: u8, out: &mut String) {
        self.pending.push(byte);
        if !self.run_is_invalid {
            match std::str::from_utf8(&self.pending[self.run_valid_len..]) {
                Ok(valid) => self.run_valid_len += valid.len(),
                Err(e) => {
                    self.run_valid_len += e.valid_up_to();
                    self.run_is_invalid = e.error_len().is_some();
                }
            }
        }
        if self.run_is_invalid {
            for _ in self.pending.drain(..) {
                emit(scheme, &mut self.strip_left, "\u{FFFD}", out);
            }
        }
    }

    fn end_run(&mut self, scheme: &Scheme, out: &mut String) {
        let run = std::mem::take(&mut self.pending);
        match String::from_utf8(run) {
            Ok(text) => self.emit(scheme, &text, out),
            Err(e) => e.as_bytes().iter().for_each(|_| self.emit(scheme, "\u{FFFD}", out)),
        }
        self.run_is_invalid = false;
        self.run_valid_len = 0;
    }

    fn emit(&mut self, scheme: &Scheme, text: &str, out: &mut String) {
        emit(scheme, &mut self.strip_left, text, out);
    }
}

/// Appends text, less what is still to be stripped from the start.
fn emit(scheme: &Scheme, strip_left: &mut usize, mut text: &str, out: &mut String) {
    if let Some((content, _)) = scheme.strip {
        while *strip_left > 0 && !text.is_empty() {
            match text.strip_prefix(content) {
                Some(rest) => {
                    text = rest;
                    *strip_left -= 1;
                }
                None => *strip_left = 0,
            }
        }
    }
    out.push_str(text);
}

/// The byte of a `<0xNN>` piece.
fn fallback_byte(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// The bytes that a byte-level piece spells; `None` if a character is outside the alphabet (an
/// added token with a space, say), which the reference then reads as plain text.
fn byte_level(piece: &str) -> Option<Vec<u8>> {
    piece.chars().map(|c| BYTE_OF_CHAR.get(c as usize).copied().flatten()).collect()
}

/// GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other bytes for U+0100,
/// U+0101, ... in ascending order.
static BYTE_OF_CHAR: LazyLock<Vec<Option<u8>>> = LazyLock::new(|| {
    let mut table = vec![None; 0x144];
    let mut next = 0x100;
    for byte in 0..=255_u8 {
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            table[byte as usize] = Some(byte);
        } else {
            table[next] = Some(byte);
            next += 1;
        }
    }
    table
});

fn strip(piece: &str, content: char, start: usize, stop: usize) -> &str {
    let mut piece = piece;
    for _ in 0..start {
        piece = piece.strip_prefix(content).unwrap_or(piece);
    }
    for _ in 0..stop {
        piece = piece.strip_suffix(content).unwrap_or(piece);
    }
    piece
}

fn strip_fields(decoder: &Value) -> Result<(char, usize, usize), String> {
    let count = |name: &str| decoder[name].as_u64().map_or(0, |n| n as usize);
    Ok((single_char(&decoder["content"])?, count("start"), count("stop")))
}

fn single_char(value: &Value) -> Result<char, String> {
    let text = value.as_str().unwrap_or_default();
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok(c),
        _ => Err(format!("the decoder names {text:?} where one character is expected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_gpt2s() {
        let spelled: usize = BYTE_OF_CHAR.iter().flatten().count();
        assert_eq!(spelled, 256);
        assert_eq!(byte_level("Ġ"), Some(vec![b' ']));
        assert_eq!(byte_level("Ċ"), Some(vec![b'\n']));
        assert_eq!(byte_level("Ń"), Some(vec![0xAD]));
        assert_eq!(byte_level("ðŁĻĤ"), Some("🙂".as_bytes().to_vec()));
        assert_eq!(byte_level("a b"), None);
        assert_eq!(byte_level("日"), None);
        let all: std::collections::HashSet<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        for (code, byte) in BYTE_OF_CHAR.iter().enumerate() {
            let c = char::from_u32(code as u32).unwrap();
            assert_eq!(all.contains(&c), byte.is_some(), "U+{code:04X}");
        }
    }

    #[test]
    fn other_families_are_rejected_by_name() {
        for kind in ["WordPiece", "CTC", "BPEDecoder"] {
            let message = Scheme::compile(Some(&serde_json::json!({ "type": kind }))).unwrap_err();
            assert!(message.contains(kind) && message.contains("supported are"), "{message}");
        }
        let regex = serde_json::json!({ "type": "Replace", "pattern": { "Regex": "a+" }, "content": "" });
        assert!(Scheme::compile(Some(&regex)).unwrap_err().contains("regular expression"));
        let tail = serde_json::json!({ "type": "Sequence", "decoders": [
            { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 0, "stop": 1 }] });
        assert!(Scheme::compile(Some(&tail)).unwrap_err().contains("end of the whole text"));
        let late = serde_json::json!({ "type": "Sequence", "decoders": [
            { "type": "ByteLevel" }, { "type": "ByteFallback" }] });
        assert!(Scheme::compile(Some(&late)).unwrap_err().contains("at this place"));
    }

    #[test]
    fn a_byte_run_is_released_once_it_cannot_become_valid() {
        let scheme = Scheme::compile(Some(&serde_json::json!({ "type": "ByteFallback" }))).unwrap();
        let mut stream = Stream::new(&scheme, true);
        let mut out = String::new();
        for (piece, seen) in [("<0x41>", ""), ("<0xE5>", ""), ("<0xE5>", "\u{FFFD}\u{FFFD}\u{FFFD}")] {
            stream.push(&scheme, piece, &mut out);
            assert_eq!(out, seen, "after {piece}");
        }
        stream.push(&scheme, "<0x41>", &mut out);
        stream.push(&scheme, "b", &mut out);
        assert_eq!(out, "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}b");
        stream.push(&scheme, "<0x41>", &mut out);
        stream.finish(&scheme, &mut out);
        assert_eq!(out, "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}bA");
    }
}
