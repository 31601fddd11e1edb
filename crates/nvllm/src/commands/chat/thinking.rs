//! Thoughts are dimmed: what a model writes between `<think>` and `</think>` before its answer.

use std::fmt::Write as _;

use anstyle::Style;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Where an answer stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing but white space has come. A tag later on is the answer's own text.
    Start,
    Thinking,
    Answer,
}

/// An answer as it is shown, piece by piece.
pub(super) struct Shown {
    stage: Stage,
    /// What may be the beginning of the tag that is waited for.
    held: String,
    dims: bool,
}

impl Shown {
    /// `dims` as the terminal allows; `inside` if the prompt has opened the thinking.
    pub(super) fn new(dims: bool, inside: bool) -> Self {
        let stage = if inside { Stage::Thinking } else { Stage::Start };
        Self { stage, held: String::new(), dims }
    }

    /// What to print now that `text` has come.
    pub(super) fn push(&mut self, text: &str) -> String {
        if !self.dims {
            return text.to_owned();
        }
        self.held += text;
        let mut shown = String::new();
        if self.stage == Stage::Start {
            let begun = self.held.trim_start();
            if OPEN.starts_with(begun) && begun != OPEN {
                return shown;
            }
            self.stage = if begun.starts_with(OPEN) { Stage::Thinking } else { Stage::Answer };
        }
        if self.stage == Stage::Thinking {
            if let Some(at) = self.held.find(CLOSE) {
                let answer = self.held.split_off(at + CLOSE.len());
                let thought = std::mem::replace(&mut self.held, answer);
                dim(&mut shown, &thought);
                self.stage = Stage::Answer;
            } else {
                let partial = (1..CLOSE.len()).rev().find(|&len| self.held.ends_with(&CLOSE[..len]));
                let held = self.held.split_off(self.held.len() - partial.unwrap_or(0));
                dim(&mut shown, &std::mem::replace(&mut self.held, held));
            }
        }
        if self.stage == Stage::Answer {
            shown += &std::mem::take(&mut self.held);
        }
        shown
    }

    /// What to print now that nothing more comes.
    pub(super) fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        let mut shown = String::new();
        if self.stage == Stage::Thinking {
            dim(&mut shown, &held);
        } else {
            shown = held;
        }
        shown
    }
}

/// Each piece for itself: a process that ends in between leaves no dim terminal behind.
fn dim(shown: &mut String, text: &str) {
    if !text.is_empty() {
        let style = Style::new().dimmed();
        let _ = write!(shown, "{style}{text}{style:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::Shown;

    /// What is shown of `pieces`, with the dim parts in brackets, neighbouring ones joined.
    fn shown(pieces: &[&str], inside: bool) -> String {
        let mut shown = Shown::new(true, inside);
        let mut text: String = pieces.iter().map(|piece| shown.push(piece)).collect();
        text += &shown.finish();
        text.replace("\x1b[0m\x1b[2m", "").replace("\x1b[2m", "[").replace("\x1b[0m", "]")
    }

    #[test]
    fn thoughts_are_dim_however_they_are_cut() {
        let text = "<think>\nHm < 3.\n</think>\n\nYes: </think> is a tag.";
        let expected = "[<think>\nHm < 3.\n</think>]\n\nYes: </think> is a tag.";
        assert_eq!(shown(&[text], false), expected);
        let letters: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(shown(&letters.iter().map(String::as_str).collect::<Vec<_>>(), false), expected);
        for at in 0..=text.len() {
            assert_eq!(shown(&[&text[..at], &text[at..]], false), expected, "{at}");
        }
    }

    #[test]
    fn only_thoughts_are_dim() {
        assert_eq!(shown(&["Hello <think> x </think>"], false), "Hello <think> x </think>");
        assert_eq!(shown(&["<thi", "s>"], false), "<this>");
        assert_eq!(shown(&["<thi"], false), "<thi");
        assert_eq!(shown(&["\n <think>a</th", "ink>b"], false), "[\n <think>a</think>]b");
        // A prompt that has opened the thinking, and one that ends inside it.
        assert_eq!(shown(&["a</think>b"], true), "[a</think>]b");
        assert_eq!(shown(&["a</thi"], true), "[a</thi]");
        let mut plain = Shown::new(false, false);
        assert_eq!(plain.push("<think>a</think>b") + &plain.finish(), "<think>a</think>b");
    }
}
