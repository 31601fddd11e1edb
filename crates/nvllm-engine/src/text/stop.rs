//! Stop strings in a streamed text.

use super::AddedToken;
use crate::{EngineError, Result};

/// Watches a growing text for stop strings.
///
/// The text ends at the first place where any stop string is *complete*: at the smallest prefix of
/// the text that ends with one. If several are complete there, the longest counts, so that the text
/// is cut at the earliest start. The rule looks at prefixes only, so the result is the same however
/// the text was cut into pieces, and generation can stop the moment a stop string is complete.
///
/// Only text that may still turn out to be the beginning of a stop string is held back.
///
/// A stop string may hold the names of special tokens that the text hides (`<|im_end|>`): such a
/// name stands for the token, and for its letters where a model spells it. Stop strings without one
/// see the visible text only, as if hidden tokens were not there.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<Progress>,
    include_stop: bool,
    /// The end of the visible text so far that may belong to a stop string; the longest match in
    /// progress.
    held: String,
    stopped: Option<usize>,
}

/// What [`StopMatcher::push`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOutput {
    /// The text goes on.
    Running,
    /// The text has ended with the stop string of this index; everything after it was dropped.
    Stopped(usize),
}

/// What a text is made of here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symbol {
    Byte(u8),
    /// A token that is not shown.
    Hidden(u32),
}

/// One stop string and how much of it the end of the text matches (Knuth, Morris and Pratt 1977).
#[derive(Debug, Clone)]
struct Progress {
    /// Which of the request's stop strings it is.
    index: usize,
    needle: Vec<Symbol>,
    /// `failure[n]`: the longest proper prefix of the stop string with which its first n + 1
    /// symbols end.
    failure: Vec<usize>,
    matched_len: usize,
}

impl StopMatcher {
    /// Prepares for stop strings, which may be none. With `include_stop`, the stop string itself is
    /// part of the text. `hidden` are the tokens that the text does not show: their names in stop
    /// strings stand for them.
    ///
    /// # Errors
    /// [`EngineError::EmptyStopString`].
    pub fn new<S: AsRef<str>>(stops: &[S], include_stop: bool, hidden: &[&AddedToken]) -> Result<Self> {
        let mut prepared = Vec::new();
        for (index, stop) in stops.iter().map(AsRef::as_ref).enumerate() {
            if stop.is_empty() {
                return Err(EngineError::EmptyStopString { index });
            }
            let spelled = Progress::new(index, symbols(stop, &[]));
            let named = Progress::new(index, symbols(stop, hidden));
            prepared.extend(named.sees_hidden().then_some(named));
            prepared.push(spelled);
        }
        let stops = prepared;
        Ok(Self { stops, include_stop, held: String::new(), stopped: None })
    }

    /// Adds text; appends to `out` what is now known to be shown. After a stop nothing is appended
    /// any more.
    pub fn push(&mut self, text: &str, out: &mut String) -> StopOutput {
        if let Some(index) = self.stopped {
            return StopOutput::Stopped(index);
        }
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            for stop in &mut self.stops {
                stop.advance(Symbol::Byte(byte));
            }
            if let Some(stop) = self.complete() {
                self.held.push_str(&text[..=at]);
                return self.stop(stop, out);
            }
        }
        self.held.push_str(text);
        self.release(out);
        StopOutput::Running
    }

    /// Adds a token that the text does not show; as [`push`](Self::push) otherwise.
    pub fn push_hidden(&mut self, id: u32, out: &mut String) -> StopOutput {
        if let Some(index) = self.stopped {
            return StopOutput::Stopped(index);
        }
        for stop in self.stops.iter_mut().filter(|stop| stop.sees_hidden()) {
            stop.advance(Symbol::Hidden(id));
        }
        if let Some(stop) = self.complete() {
            return self.stop(stop, out);
        }
        self.release(out);
        StopOutput::Running
    }

    /// The longest stop string that is complete now: which one, and its bytes of visible text. The
    /// first of equals: the same string given twice reports its first place.
    fn complete(&self) -> Option<(usize, usize)> {
        let complete = self.stops.iter().filter(|stop| stop.is_complete());
        let longest = complete.rev().max_by_key(|stop| stop.num_bytes(stop.needle.len()))?;
        Some((longest.index, longest.num_bytes(longest.needle.len())))
    }

    /// Ends the text with a stop string, which ends where `held` does.
    fn stop(&mut self, (index, num_bytes): (usize, usize), out: &mut String) -> StopOutput {
        let cut_len = if self.include_stop { 0 } else { num_bytes };
        out.push_str(&self.held[..self.held.len() - cut_len]);
        self.held.clear();
        self.stopped = Some(index);
        StopOutput::Stopped(index)
    }

    /// Shows what no stop string can claim any more.
    fn release(&mut self, out: &mut String) {
        let held = self.stops.iter().map(|stop| stop.num_bytes(stop.matched_len));
        let hold_len = held.max().unwrap_or(0);
        out.extend(self.held.drain(..self.held.len() - hold_len));
    }

    /// Ends the text; appends what was held back, which no stop string claimed after all.
    pub fn finish(self, out: &mut String) {
        out.push_str(&self.held);
    }
}

/// A stop string with the names of hidden tokens read as those tokens, the longest name first.
fn symbols(stop: &str, hidden: &[&AddedToken]) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    // By bytes: a symbol may end inside a character.
    let mut rest = stop.as_bytes();
    while let Some(&byte) = rest.first() {
        let named = hidden.iter().filter(|token| rest.starts_with(token.content.as_bytes()));
        let named = named.max_by_key(|token| token.content.len()).filter(|token| !token.content.is_empty());
        let (symbol, len) = match named {
            Some(token) => (Symbol::Hidden(token.id), token.content.len()),
            None => (Symbol::Byte(byte), 1),
        };
        symbols.push(symbol);
        rest = &rest[len..];
    }
    symbols
}

impl Progress {
    fn new(index: usize, needle: Vec<Symbol>) -> Self {
        let mut failure = vec![0; needle.len()];
        let mut len = 0;
        for at in 1..needle.len() {
            while len > 0 && needle[at] != needle[len] {
                len = failure[len - 1];
            }
            if needle[at] == needle[len] {
                len += 1;
            }
            failure[at] = len;
        }
        Self { index, needle, failure, matched_len: 0 }
    }

    /// Adds a symbol of the text. Not called again once complete.
    fn advance(&mut self, symbol: Symbol) {
        while self.matched_len > 0 && self.needle[self.matched_len] != symbol {
            self.matched_len = self.failure[self.matched_len - 1];
        }
        if self.needle[self.matched_len] == symbol {
            self.matched_len += 1;
        }
    }

    /// Whether hidden tokens are part of the text that it is looked for in.
    fn sees_hidden(&self) -> bool {
        self.needle.iter().any(|symbol| matches!(symbol, Symbol::Hidden(_)))
    }

    /// Bytes of visible text in the first `len` symbols.
    fn num_bytes(&self, len: usize) -> usize {
        self.needle[..len].iter().filter(|symbol| matches!(symbol, Symbol::Byte(_))).count()
    }

    fn is_complete(&self) -> bool {
        self.matched_len == self.needle.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, read off the whole text.
    fn oracle(text: &str, stops: &[String], include_stop: bool) -> (String, Option<usize>) {
        for end in 1..=text.len() {
            let here =
                stops.iter().enumerate().filter(|(_, s)| text.as_bytes()[..end].ends_with(s.as_bytes()));
            if let Some((index, stop)) = here.rev().max_by_key(|(_, s)| s.len()) {
                let shown = if include_stop { end } else { end - stop.len() };
                return (text[..shown].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    fn run(pieces: &[&str], stops: &[String], include_stop: bool) -> (Vec<String>, Option<usize>) {
        let mut matcher = StopMatcher::new(stops, include_stop, &[]).unwrap();
        let mut seen = Vec::new();
        let mut stopped = None;
        for piece in pieces {
            let mut out = String::new();
            if let StopOutput::Stopped(index) = matcher.push(piece, &mut out) {
                stopped = Some(index);
            }
            seen.push(out);
        }
        let mut out = String::new();
        matcher.finish(&mut out);
        seen.push(out);
        (seen, stopped)
    }

    /// Cuts a text at the given characters.
    fn cut<'a>(text: &'a str, cuts: &[usize]) -> Vec<&'a str> {
        let mut at: Vec<usize> = cuts.iter().map(|c| c % (text.chars().count() + 1)).collect();
        at.sort_unstable();
        let byte = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(b, _)| b);
        let mut start = 0;
        let mut pieces = Vec::new();
        for n in at {
            pieces.push(&text[start..byte(n)]);
            start = byte(n);
        }
        pieces.push(&text[start..]);
        pieces
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn every_chunking_gives_what_the_whole_text_gives(
            text in "[abé🙂]{0,24}",
            stops in prop::collection::vec("[abé🙂]{1,5}", 0..4),
            cuts in prop::collection::vec(0..64_usize, 0..8),
            include_stop: bool,
        ) {
            let (seen, stopped) = run(&cut(&text, &cuts), &stops, include_stop);
            prop_assert_eq!((seen.concat(), stopped), oracle(&text, &stops, include_stop));
        }

        /// Nothing is held back that no continuation could make part of a stop string.
        #[test]
        fn only_beginnings_of_stop_strings_wait(
            text in "[abc]{0,24}",
            stops in prop::collection::vec("[abc]{1,5}", 1..4),
        ) {
            let mut matcher = StopMatcher::new(&stops, false, &[]).unwrap();
            let mut shown = String::new();
            for (at, c) in text.char_indices() {
                if matcher.push(c.encode_utf8(&mut [0; 4]), &mut shown) != StopOutput::Running {
                    break;
                }
                let so_far = &text[..=at];
                let longest = (0..=so_far.len())
                    .filter(|&n| stops.iter().any(|s| n < s.len() && so_far.ends_with(&s[..n])))
                    .max().unwrap_or(0);
                prop_assert_eq!(&shown, &so_far[..so_far.len() - longest]);
            }
        }
    }

    #[test]
    fn stops_across_token_borders() {
        let stops = ["</end>".to_owned()];
        let (seen, stopped) = run(&["one <", "/e", "ven> </", "en", "d> two"], &stops, false);
        assert_eq!(seen, ["one ", "", "</even> ", "", "", ""]);
        assert_eq!(stopped, Some(0));
        let (seen, _) = run(&["x</", "end> two"], &stops, true);
        assert_eq!(seen.concat(), "x</end>");
        let (seen, stopped) = run(&["x</en"], &stops, true);
        assert_eq!((seen.concat().as_str(), stopped), ("x</en", None));
    }

    #[test]
    fn the_first_complete_string_ends_the_text() {
        let stops = ["abcd".to_owned(), "bc".to_owned(), "xabc".to_owned()];
        assert_eq!(run(&["zabcd"], &stops, false), (vec!["za".into(), String::new()], Some(1)));
        assert_eq!(run(&["zxabcd"], &stops, false), (vec!["z".into(), String::new()], Some(2)));
    }

    /// A piece of text, or a hidden token.
    type Come<'a> = Result<&'a str, u32>;

    #[test]
    fn a_special_token_in_a_stop_string_is_the_token() {
        let token = |id, content: &str| AddedToken { id, content: content.into(), special: true };
        let (end, longer) = (token(7, "<end>"), token(8, "<end>>"));
        // A stop string, what comes (a number is a hidden token), what is shown before it stops.
        let cases: [(&str, &[Come], Option<&str>); 9] = [
            ("<end>", &[Ok("a b"), Err(7)], Some("a b")),
            ("<end>", &[Ok("a <en"), Ok("d> b")], Some("a ")),
            ("<end>>", &[Ok("a"), Err(7), Ok(">")], None),
            ("<end>", &[Ok("a<e"), Err(7)], Some("a<e")),
            ("<end>>", &[Ok("a"), Err(8)], Some("a")),
            ("b<end>", &[Ok("ab"), Err(7)], Some("a")),
            ("<end>\n", &[Ok("ab"), Err(7), Ok("\nc")], Some("ab")),
            ("b<end>", &[Ok("ab"), Err(8), Err(7)], None),
            // Without one, hidden tokens are not there.
            ("abc", &[Ok("xab"), Err(7), Ok("cd")], Some("x")),
        ];
        for (stop, pieces, expected) in cases {
            let mut matcher = StopMatcher::new(&[stop], false, &[&end, &longer]).unwrap();
            let mut shown = String::new();
            let stopped = pieces.iter().any(|piece| {
                let found = match piece {
                    Ok(text) => matcher.push(text, &mut shown),
                    Err(id) => matcher.push_hidden(*id, &mut shown),
                };
                found != StopOutput::Running
            });
            assert_eq!(stopped.then_some(shown.as_str()), expected, "{stop:?} in {pieces:?}");
        }
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let message = StopMatcher::new(&["a", ""], false, &[]).unwrap_err().to_string();
        assert!(message.starts_with("stop string 1 is empty"), "{message}");
    }
}
