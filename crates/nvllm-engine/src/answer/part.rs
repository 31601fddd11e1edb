//! Parts of an answer.

/// What a piece of an answer's text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerPart {
    /// Thoughts.
    Reasoning(String),
    /// Words for the reader.
    Content(String),
    /// A call begins: its name is known. It comes before the call's arguments.
    ToolCall {
        /// Which call of the answer, counted from 0.
        index: usize,
        /// The tool's name, as the model writes it.
        name: String,
    },
    /// More of the JSON text of a call's arguments.
    Arguments {
        /// Which call of the answer.
        index: usize,
        /// The next piece of the text.
        text: String,
    },
}

/// Parts of an answer, in order. Those of one kind that follow each other are joined.
#[derive(Debug, Default)]
pub(super) struct Parts {
    list: Vec<AnswerPart>,
    /// Calls that have been told, in this answer.
    pub(super) num_calls: usize,
}

impl Parts {
    pub(super) fn reasoning(&mut self, text: &str) {
        match self.list.last_mut() {
            _ if text.is_empty() => {}
            Some(AnswerPart::Reasoning(last)) => last.push_str(text),
            _ => self.list.push(AnswerPart::Reasoning(text.into())),
        }
    }

    pub(super) fn content(&mut self, text: &str) {
        match self.list.last_mut() {
            _ if text.is_empty() => {}
            Some(AnswerPart::Content(last)) => last.push_str(text),
            _ => self.list.push(AnswerPart::Content(text.into())),
        }
    }

    /// A call begins, whose arguments follow.
    pub(super) fn call(&mut self, name: &str) {
        self.list.push(AnswerPart::ToolCall { index: self.num_calls, name: name.into() });
        self.num_calls += 1;
    }

    /// Arguments of the last call.
    pub(super) fn arguments(&mut self, text: &str) {
        match self.list.last_mut() {
            _ if text.is_empty() => {}
            Some(AnswerPart::Arguments { text: last, .. }) => last.push_str(text),
            _ => {
                let index = self.num_calls.saturating_sub(1);
                self.list.push(AnswerPart::Arguments { index, text: text.into() });
            }
        }
    }

    pub(super) fn take(&mut self) -> Vec<AnswerPart> {
        std::mem::take(&mut self.list)
    }
}
