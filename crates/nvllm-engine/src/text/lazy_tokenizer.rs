//! A tokenizer that is made while other things are done: what a large vocabulary takes passes while
//! weights are read.

use std::sync::{Arc, LazyLock};

use super::Tokenizer;
use crate::{EngineError, Result};

/// A tokenizer, if there is one; `Err` with why what there is cannot be used.
type Made = Result<Option<Arc<Tokenizer>>, String>;

type Make = Box<dyn FnOnce() -> Made + Send>;

/// A tokenizer that perhaps nobody has waited for yet.
#[derive(Clone)]
pub(crate) struct LazyTokenizer(Arc<LazyLock<Made, Make>>);

impl LazyTokenizer {
    /// A tokenizer that is there; or none, and perhaps why one cannot be used.
    pub(crate) fn made(tokenizer: Option<Tokenizer>, problem: Option<String>) -> Self {
        let made = problem.map_or_else(|| Ok(tokenizer.map(Arc::new)), Err);
        Self(Arc::new(LazyLock::new(Box::new(move || made))))
    }

    /// The tokenizer that `make` makes, on a thread of its own. Where none can be started whoever
    /// asks first makes it.
    pub(crate) fn start(make: impl FnOnce() -> Result<Tokenizer> + Send + 'static) -> Self {
        let made = move || match make() {
            Ok(tokenizer) => Ok(Some(Arc::new(tokenizer))),
            Err(EngineError::Tokenizer { problem, .. }) => Err(problem),
            Err(other) => Err(other.to_string()),
        };
        let lazy = Self(Arc::new(LazyLock::new(Box::new(made))));
        let maker = lazy.clone();
        let thread = std::thread::Builder::new().name("nvllm-tokenizer".into());
        let _ = thread.spawn(move || {
            let _ = maker.get();
        });
        lazy
    }

    /// Waits for it.
    pub(crate) fn get(&self) -> Result<Option<&Arc<Tokenizer>>, &str> {
        match &**self.0 {
            Ok(tokenizer) => Ok(tokenizer.as_ref()),
            Err(problem) => Err(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const JSON: &[u8] =
        br#"{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;

    #[test]
    fn who_asks_waits_and_all_get_one() {
        let (go, wait) = std::sync::mpsc::channel();
        let lazy = LazyTokenizer::start(move || {
            let _ = wait.recv();
            Tokenizer::from_bytes(JSON, Path::new("t"))
        });
        let asks = |lazy: &LazyTokenizer| Arc::clone(lazy.get().unwrap().unwrap());
        let other = lazy.clone();
        let waiting = std::thread::spawn(move || asks(&other));
        go.send(()).unwrap();
        assert!(Arc::ptr_eq(&asks(&lazy), &waiting.join().unwrap()));
    }

    #[test]
    fn none_and_why_one_cannot_be_used_are_told_apart() {
        assert!(LazyTokenizer::made(None, None).get().unwrap().is_none());
        assert_eq!(LazyTokenizer::made(None, Some("is odd".into())).get().unwrap_err(), "is odd");
        let damaged = || Tokenizer::from_bytes(br#"{"model":{"type":"Quux"}}"#, Path::new("t"));
        let problem = LazyTokenizer::start(damaged).get().unwrap_err().to_owned();
        assert!(problem.starts_with("not a tokenizer.json"), "{problem}");
    }
}
