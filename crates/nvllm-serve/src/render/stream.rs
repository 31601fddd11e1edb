//! An answer as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, StreamExt as _, unfold};
use serde::Serialize;

use crate::error::ApiError;
use crate::submission::{ChoiceEvent, Submission};

/// After so long without a chunk a comment line is sent, so that nobody between takes the
/// connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Frames that are ready to be sent.
#[derive(Default)]
pub(crate) struct Frames(VecDeque<Frame>);

impl Frames {
    /// `data: JSON`, and a blank line as after every frame: clients drop what has none.
    pub(crate) fn data(&mut self, data: &impl Serialize) {
        self.push(Frame::default().json_data(data));
    }

    /// The same with an event's name.
    pub(crate) fn event(&mut self, name: &str, data: &impl Serialize) {
        self.push(Frame::default().event(name).json_data(data));
    }

    /// Exactly `data: [DONE]`.
    pub(crate) fn done(&mut self) {
        self.0.push_back(Frame::default().data("[DONE]"));
    }

    fn push(&mut self, frame: Result<Frame, axum::Error>) {
        match frame {
            Ok(frame) => self.0.push_back(frame),
            // Nothing that is sent has keys or numbers that JSON cannot write.
            Err(error) => tracing::error!("a chunk cannot be written: {error}"),
        }
    }
}

/// How a route writes its stream.
pub(crate) trait StreamRenderer: Send + 'static {
    /// What comes before the first event.
    fn begin(&mut self, _frames: &mut Frames) {}
    /// What an event makes. Errors end the stream.
    fn news(&mut self, news: ChoiceEvent, frames: &mut Frames) -> Result<(), ApiError>;
    /// What comes after the end of the last choice.
    fn end(&mut self, frames: &mut Frames);
    /// What comes in place of the rest. Named `error`, as some clients look at nothing else, with
    /// the object that others read.
    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        frames.event("error", &error.body());
    }
}

struct State<R> {
    /// `None` once there is nothing more to come.
    submission: Option<Submission>,
    renderer: R,
    frames: Frames,
}

impl<R: StreamRenderer> State<R> {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.frames.0.pop_front() {
                return Some(frame);
            }
            let submission = self.submission.as_mut()?;
            let frames = &mut self.frames;
            let Some(news) = submission.next().await else {
                self.renderer.end(frames);
                self.submission = None;
                continue;
            };
            if let Err(error) = self.renderer.news(news, frames) {
                self.renderer.error(&error, frames);
                self.submission = None;
            }
        }
    }
}

/// The answer to a request that streams. If the client goes, the submission is dropped with the
/// body, and with it what the engine still does for it.
pub(crate) fn stream<R: StreamRenderer>(submission: Submission, mut renderer: R) -> Response {
    let mut frames = Frames::default();
    renderer.begin(&mut frames);
    let state = State { submission: Some(submission), renderer, frames };
    let frames = unfold(state, |mut state| async {
        let frame = state.next().await?;
        Some((frame, state))
    });
    respond(frames, KEEP_ALIVE)
}

/// An answer of these frames, with a comment after each `silence`.
fn respond(frames: impl Stream<Item = Frame> + Send + 'static, silence: Duration) -> Response {
    let keep_alive = KeepAlive::new().interval(silence).text("ping");
    let mut response = Sse::new(frames.map(Ok::<_, Infallible>)).keep_alive(keep_alive).into_response();
    // nginx would gather chunks otherwise.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response.headers_mut().extend([
        (Some(unbuffered.0), unbuffered.1),
        (Some(header::CACHE_CONTROL), HeaderValue::from_static("no-cache")),
    ]);
    response
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn silence_is_filled_with_comments() {
        let frames = stream::once(async { Frame::default().data("a") }).chain(stream::pending());
        let mut body = respond(frames, Duration::from_millis(1)).into_body();
        // What is no comment is a chunk to clients.
        for expected in ["data: a\n\n", ": ping\n\n", ": ping\n\n"] {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), expected);
        }
        assert!(KEEP_ALIVE <= Duration::from_secs(30), "proxies close a silent connection after a minute");
    }
}
