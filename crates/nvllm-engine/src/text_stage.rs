//! The text stage: a thread beside the device thread that turns tokens into text and tells the
//! clients.
//!
//! It owns the clients. The device thread sends it what each step made and goes on; here tokens
//! become text, stop strings are found, logits are copied to the host, and events go to the sinks.
//! What ends here (a choice by a stop string, a request by an abort or a reader that is gone) is
//! over for its client at once; the device thread is told to [finish](Command::Finish) its sequence
//! and does so after the step that it runs. What that step still made for it is ignored, as nobody
//! owns it any more.
//!
//! Every client is told an end. A panic in one client's part (its sink, its text) ends that client;
//! a panic of the device thread, or of this one elsewhere, ends all with the reason.

mod client;
mod message;
mod output;
mod text_stream;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use nvllm_sched::FinishReason;

pub(crate) use self::client::Client;
use self::client::{Ending, Ends};
pub(crate) use self::message::Message;
pub(crate) use self::output::{NOT_NUMBERS, Output};
pub(crate) use self::text_stream::TextStream;
use crate::RequestId;
use crate::engine_loop::Command;
use crate::failure::panic_message;
use crate::shared::Shared;

/// The text thread's state.
pub(crate) struct TextStage {
    clients: HashMap<RequestId, Box<Client>>,
    /// To the device thread.
    commands: Sender<Command>,
    shared: Arc<Shared>,
}

impl TextStage {
    pub(crate) fn new(commands: Sender<Command>, shared: Arc<Shared>) -> Self {
        Self { clients: HashMap::new(), commands, shared }
    }

    /// Serves clients until told to stop, then tells those that are left.
    pub(crate) fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.serve(inbox))) {
                Ok(()) => return,
                Err(payload) => {
                    self.shared.failure.note_panic("text", &*payload);
                    self.end_all(FinishReason::Failed);
                }
            }
        }
    }

    fn serve(&mut self, inbox: &Receiver<Message>) {
        while let Ok(message) = inbox.recv() {
            match message {
                Message::Open(id, client) => self.open(id, client),
                Message::Outputs(outputs) => {
                    outputs.into_iter().for_each(|(id, choice, output)| self.take_in(id, choice, output));
                }
                Message::Abort(id) => self.end_early(id, None, &Ending::of(FinishReason::Aborted)),
                Message::Failed => self.end_all(FinishReason::Failed),
                Message::Stop => {
                    self.end_all(FinishReason::Aborted);
                    return;
                }
                #[cfg(test)]
                Message::Panic => panic!("index 7 is out of bounds"),
            }
        }
    }

    fn open(&mut self, id: RequestId, client: Box<Client>) {
        self.clients.insert(id, client);
        // The engine may have failed since the request was checked; then nobody else will end it.
        if let Some(reason) = self.shared.failure.reason() {
            self.end(id, None, &Ending::failed(reason));
        }
    }

    /// Takes in one output. Its choice may have ended meanwhile: then nobody wants it.
    fn take_in(&mut self, id: RequestId, choice: usize, output: Output) {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.is_open(choice)) else { return };
        if let Output::Finished { reason, error } = output {
            return self.end(id, Some(choice), &Ending { error, ..Ending::of(reason) });
        }
        match catch_unwind(AssertUnwindSafe(|| client.take_in(choice, output))) {
            Ok(None) => {}
            Ok(Some(Ends::Choice(ending))) => self.end_early(id, Some(choice), &ending),
            Ok(Some(Ends::Request(ending))) => self.end_early(id, None, &ending),
            Err(payload) => {
                client.lose_text();
                self.end_early(id, None, &Ending::panicked(panic_message(&*payload)));
            }
        }
    }

    /// Ends a choice, or all of a request, whose sequences the device thread still runs.
    fn end_early(&mut self, id: RequestId, choice: Option<usize>, ending: &Ending) {
        if self.clients.contains_key(&id) {
            // If the device thread is gone there is nothing to finish.
            let _ = self.commands.send(Command::Finish { id, choice, reason: ending.reason });
            self.end(id, choice, ending);
        }
    }

    /// Tells a client the end of a choice, or of all that have not ended.
    fn end(&mut self, id: RequestId, choice: Option<usize>, ending: &Ending) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        for choice in choice.map_or_else(|| client.open_choices(), |choice| vec![choice]) {
            // Counted first: whoever is told may look.
            self.shared.stats.count_end(ending.reason);
            if client.finish(choice, ending.clone()) {
                self.clients.remove(&id);
                self.shared.backlog.close();
                return;
            }
        }
    }

    fn end_all(&mut self, reason: FinishReason) {
        let all: Vec<RequestId> = self.clients.keys().copied().collect();
        for id in all {
            let failed = || Ending::failed(self.shared.failure.reason().unwrap_or("its thread has ended"));
            let ending = if reason == FinishReason::Failed { failed() } else { Ending::of(reason) };
            // The device thread may live on after a panic of this one, and would run for nobody.
            self.end_early(id, None, &ending);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use crossbeam_channel::unbounded;
    use nvllm_core::TokenId;

    use super::*;
    use crate::backlog::Backlog;
    use crate::{Event, Finished, LoadOptions};

    /// Runs the stage on `messages`, of clients 0 to 2; their events, what the device thread is
    /// told, and the failure.
    fn run(
        messages: impl Fn(u64, Box<Client>) -> Vec<Message>,
        after: Vec<Message>,
    ) -> (Vec<Vec<Event>>, Vec<Command>, Arc<Shared>) {
        let shared = Arc::new(Shared::new(Backlog::new(&LoadOptions::default()).unwrap()));
        let ((commands, told), (stage, inbox)) = (unbounded(), unbounded());
        let mut events = Vec::new();
        for id in 0..3 {
            let (sink, received) = unbounded();
            let client = Client::new(Box::new(sink), vec![None], 1, false, Instant::now());
            messages(id, Box::new(client)).into_iter().for_each(|message| stage.send(message).unwrap());
            events.push(received);
        }
        after.into_iter().for_each(|message| stage.send(message).unwrap());
        TextStage::new(commands, Arc::clone(&shared)).run(&inbox);
        let events = events.iter().map(|events| events.iter().collect()).collect();
        (events, told.iter().collect(), shared)
    }

    fn token(id: u64) -> Message {
        let token = Output::Token { token: TokenId(7), logprobs: None, logits: None, at: Instant::now() };
        Message::Outputs(vec![(RequestId(id), 0, token)])
    }

    #[test]
    fn a_panic_of_the_thread_ends_all_clients_with_its_reason() {
        // The last one comes after the panic.
        let messages = |id, client| {
            let mut messages = vec![Message::Open(RequestId(id), client)];
            messages.extend((id == 1).then_some(Message::Panic));
            messages
        };
        let (events, _, shared) = run(messages, vec![token(2), Message::Stop]);
        for events in events {
            let [Event::Finished(Finished { reason: FinishReason::Failed, error: Some(error), .. })] =
                &events[..]
            else {
                panic!("{events:?}")
            };
            assert!(error.contains("index 7 is out of bounds"), "{error}");
        }
        assert!(shared.loaded().err().unwrap().to_string().contains("index 7 is out of bounds"));
        assert_eq!(shared.stats.read((0, 0)).finished.failed, 3);
    }

    #[test]
    fn what_comes_after_the_end_is_ignored() {
        let messages = |id, client| {
            let abort = || Message::Abort(RequestId(id));
            vec![Message::Open(RequestId(id), client), token(id), abort(), token(id), abort()]
        };
        let (events, told, shared) = run(messages, vec![Message::Failed, Message::Stop]);
        for events in events {
            assert!(
                matches!(
                    &events[..],
                    [
                        Event::Token { .. },
                        Event::Finished(Finished { reason: FinishReason::Aborted, output_tokens: 1, .. })
                    ]
                ),
                "{events:?}"
            );
        }
        let finish =
            |command: &Command| matches!(command, Command::Finish { reason: FinishReason::Aborted, .. });
        assert!(told.len() == 3 && told.iter().all(finish));
        assert_eq!(shared.stats.read((0, 0)).finished.total(), 3);
    }
}
