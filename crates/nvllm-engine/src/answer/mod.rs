//! What a model's text means: thoughts, words for the reader, calls of tools.
//!
//! Models write all three into one text, with marks that their chat templates document. An
//! [`AnswerFormat`] says which marks a model uses, and an [`AnswerParser`] reads one answer as it
//! comes. Two properties hold:
//!
//! * **Chunking never shows.** The parts that a parser gives, those of one kind that follow each
//!   other joined, are a function of the whole text. Nothing is held back but what may turn out to
//!   be a mark (with the ends of line around it, which templates write with it) and a call until
//!   it is certain to be one.
//! * **Nothing is lost.** What looked like a call and is none is content, marks included. Once a
//!   call has been told, what follows is its arguments as the model writes them, whole or cut.
//!
//! How answers are made to follow a format is the matter of
//! [`StructuredOutput`](crate::grammar::StructuredOutput).

mod calls;
mod format;
pub(crate) mod kinds;
mod marks;
mod of_model;
mod parser;
mod part;
mod reasoning;
mod thinking;
mod tool;

pub use self::format::{AnswerFormat, ToolFormat, UnknownToolFormat};
pub use self::parser::AnswerParser;
pub use self::part::AnswerPart;
pub use self::reasoning::Reasoning;
pub use self::thinking::prompt_opens_thinking;
pub(crate) use self::thinking::{Thinking, ThinkingBudget};
pub use self::tool::Tool;

#[cfg(test)]
mod tests;
