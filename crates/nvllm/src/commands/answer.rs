//! The events of an answer, as they come or until Ctrl-C.

use std::time::Duration;

use anyhow::{Result, bail};
use nvllm_engine::{Event, Finished, RequestStream};

use crate::interrupt::Listener;

/// How soon Ctrl-C is noticed while nothing comes, as in the reading of a long prompt.
const POLL: Duration = Duration::from_millis(20);

/// The next event; `None` if Ctrl-C was pressed before it came.
pub(super) fn next_event(stream: &mut RequestStream, interrupt: &Listener) -> Result<Option<Event>> {
    while !interrupt.is_pressed() {
        if let Some(event) = stream.next_event_timeout(POLL)? {
            if let Event::Finished(Finished { error: Some(error), .. }) = &event {
                bail!("generation failed: {error}");
            }
            return Ok(Some(event));
        }
    }
    Ok(None)
}

/// Prints text as it comes and appends it to `all`. `None` if interrupted: the request then ends with its stream.
pub(super) fn print_text(
    stream: &mut RequestStream,
    out: &mut impl std::io::Write,
    interrupt: &Listener,
    all: &mut String,
) -> Result<Option<Finished>> {
    while let Some(event) = next_event(stream, interrupt)? {
        let (text, finished) = match event {
            Event::Token { text, .. } => (text, None),
            Event::Finished(finished) => (finished.text.clone(), Some(finished)),
            Event::PromptRow { .. } => continue,
        };
        write!(out, "{text}")?;
        out.flush()?;
        *all += &text;
        if finished.is_some() {
            return Ok(finished);
        }
    }
    Ok(None)
}
