//! The crate's one error type. As in every crate here, `Display` says all of it and there is no
//! `source()` (see `nvllm_core::error`).

use std::path::PathBuf;

use nvllm_core::CoreError;

/// Why the engine could not do what was asked. The message is one line and says what to do about
/// it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A file of the model could not be read.
    #[error("cannot read {}: {cause}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },

    /// A JSON file of the model is malformed.
    #[error("{} is not valid JSON ({cause}); the file is damaged or cut short: fetch it again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        cause: serde_json::Error,
    },

    /// A JSON file of the model is well-formed, but a field cannot be used.
    #[error("{}: field `{field}` {problem}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, as a dotted path.
        field: String,
        /// What is there and what is expected.
        problem: String,
    },

    /// A model lacks a part that is needed.
    #[error("{} has no {file}: {advice}", dir.display())]
    MissingFile {
        /// The model's directory, or its GGUF file.
        dir: PathBuf,
        /// The part, or the file that it would lie in.
        file: String,
        /// What to do.
        advice: String,
    },

    /// The model's tokenizer cannot be used here.
    #[error("{}: {problem}", path.display())]
    Tokenizer {
        /// The tokenizer's file, or the model's.
        path: PathBuf,
        /// What is wrong or unsupported, and what is supported.
        problem: String,
    },

    /// A file cannot be written.
    #[error("cannot write {}: {problem}", path.display())]
    WriteFile {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        problem: String,
    },

    /// The tokenizer refused a text.
    #[error("cannot tokenize a text of {text_len} bytes: {problem}")]
    Encode {
        /// Length of the text in bytes.
        text_len: usize,
        /// The tokenizer's reason.
        problem: String,
    },

    /// A stop string of a request cannot be used.
    #[error("stop string {index} is empty: an empty string would end every text at once; leave it out")]
    EmptyStopString {
        /// Its position in the request's list.
        index: usize,
    },

    /// The model's chat template does not parse or failed while rendering.
    #[error("chat template of {origin}: {problem}")]
    ChatTemplate {
        /// The file the template came from.
        origin: String,
        /// The template engine's reason, with the line where it is known.
        problem: String,
    },

    /// The model's chat template rejected the conversation through `raise_exception`.
    #[error("the model's chat template rejects this conversation: {message}")]
    ChatRejected {
        /// The template's own words.
        message: String,
    },

    /// `--model` names neither a directory nor a hub id.
    #[error("`{model}` is not a model: {problem}")]
    ModelName {
        /// What was asked for.
        model: String,
        /// Why it is neither, and what to give instead.
        problem: String,
    },

    /// What lies where a model's file should be is something else.
    #[error("{} {problem}", path.display())]
    WrongFile {
        /// The file.
        path: PathBuf,
        /// What it is instead, and what to do.
        problem: String,
    },

    /// What should be removed from the cache is not in it.
    #[error("{model} is not in the cache at {}: {problem}", cache_dir.display())]
    NothingToRemove {
        /// What was asked for.
        model: String,
        /// The cache that was searched.
        cache_dir: PathBuf,
        /// What is there, and what to give instead.
        problem: String,
    },

    /// A part of the cache could not be removed.
    #[error("cannot remove {}: {cause}", path.display())]
    RemoveFile {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },

    /// What should be removed from the cache is being fetched.
    #[error("{model} is being fetched by another process: wait for its end, then remove it")]
    CacheInUse {
        /// What was asked for.
        model: String,
    },

    /// The hub was reached and said no.
    #[error("{what}: {problem}")]
    HubRefused {
        /// What was asked for, with its address.
        what: String,
        /// The status in words, and what to do.
        problem: String,
    },

    /// The hub could not be reached, or the transfer broke more often than the retry policy allows.
    #[error("cannot fetch {what} ({attempts} attempts): {problem}")]
    HubUnreachable {
        /// What was asked for, with its address.
        what: String,
        /// How often it was tried.
        attempts: u32,
        /// The last failure.
        problem: String,
    },

    /// The proxy's address is malformed. It may hold a password, so it is not shown.
    #[error(
        "the proxy's address is not of the form http://[user:password@]host:port; correct or unset HTTPS_PROXY, \
         https_proxy or ALL_PROXY"
    )]
    BadProxy,

    /// The hub answered something that the protocol does not allow.
    #[error("{what}: {problem}; is the endpoint a Hugging Face hub?")]
    HubProtocol {
        /// What was asked for, with its address.
        what: String,
        /// What is wrong with the answer.
        problem: String,
    },

    /// A downloaded file does not have the checksum that the hub announced.
    #[error(
        "{what}: checksum mismatch after {attempts} downloads (expected {expected}, got {actual}); \
         nothing was kept: try again, and if it persists a proxy or the disk alters the data"
    )]
    Checksum {
        /// The file, with its address.
        what: String,
        /// How often it was downloaded.
        attempts: u32,
        /// The announced digest, hexadecimal.
        expected: String,
        /// The digest of what arrived, hexadecimal.
        actual: String,
    },

    /// The cache directory cannot be written.
    #[error("cannot write the model cache at {}: {cause}; set HF_HOME to a directory that can be written", path.display())]
    CacheUnwritable {
        /// The file or directory concerned.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },

    /// The disk that holds the cache is full.
    #[error(
        "no space left for {} ({needed} bytes still to come); free space or set HF_HOME to another disk: \
         the download continues where it stopped", path.display()
    )]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// Bytes of it that were still missing.
        needed: u64,
    },

    /// The model is not (completely) in the cache and the network may not be used.
    #[error("{model} is not in the cache at {} ({problem}); run once with network access to fetch it", cache_dir.display())]
    NotCached {
        /// The hub id with its revision.
        model: String,
        /// The cache that was searched.
        cache_dir: PathBuf,
        /// What is missing.
        problem: String,
    },

    /// The model's config or weights cannot be used.
    #[error("{}", located(dir, cause))]
    Model {
        /// The model's directory, or its GGUF file.
        dir: PathBuf,
        /// What is wrong.
        cause: nvllm_core::CoreError,
    },

    /// No crate of this build records this architecture.
    #[error("config.json: `architectures` names {architecture}; this build knows {supported}")]
    UnknownArchitecture {
        /// What was found.
        architecture: String,
        /// What is known.
        supported: String,
    },

    /// A load option that the model or the memory cannot meet.
    #[error("--{option} {problem}")]
    Option {
        /// The option, as on the command line and, with underscores, in
        /// [`LoadOptions`](crate::LoadOptions).
        option: &'static str,
        /// What was asked and what is possible.
        problem: String,
    },

    /// A field of a request that cannot be met.
    #[error("{field} {problem}")]
    RequestField {
        /// The field of [`Request`](crate::Request).
        field: &'static str,
        /// What it is and what it may be.
        problem: String,
    },

    /// A prompt with a token that the model does not have.
    #[error("the prompt holds token {token}; the model's vocabulary has tokens 0 to {}", vocab_size.saturating_sub(1))]
    PromptToken {
        /// The token.
        token: nvllm_core::TokenId,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },

    /// A request that cannot run.
    #[error(transparent)]
    Request(#[from] nvllm_sched::SchedError),

    /// A core operation failed.
    #[error(transparent)]
    Core(#[from] nvllm_core::CoreError),

    /// The backend cannot be had on this machine.
    #[error("{reason}")]
    Backend {
        /// Why, and what to do.
        reason: String,
    },

    /// A request was submitted before the model was there.
    #[error("the model is still being loaded; submit the request once it is")]
    Loading,

    /// A request was submitted to an engine that ends.
    #[error("the engine is draining: it runs the requests that it has to their end and takes no new ones")]
    Draining,

    /// A request was submitted while as many waited as may.
    #[error(
        "the queue is full: {requests} of {max_requests} requests and {tokens} of {max_tokens} prompt tokens wait \
         for a slot; try again later"
    )]
    QueueFull {
        /// Requests that wait.
        requests: usize,
        /// As many may:
        /// [`LoadOptions::max_queued_requests`](crate::LoadOptions::max_queued_requests).
        max_requests: usize,
        /// Tokens of their prompts.
        tokens: usize,
        /// As many may:
        /// [`LoadOptions::max_queued_prompt_tokens`](crate::LoadOptions::max_queued_prompt_tokens).
        max_tokens: usize,
    },

    /// A request failed while it ran.
    #[error("generation failed: {reason}")]
    Generation {
        /// What failed.
        reason: String,
    },

    /// The engine has failed: loading, the device, or one of its threads.
    #[error("the engine has stopped: {reason}; load the model again")]
    Stopped {
        /// Why, as far as is known.
        reason: String,
    },
}

impl EngineError {
    /// An error about one field of a JSON file.
    pub(crate) fn field(
        path: &std::path::Path,
        field: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self::Field { path: path.to_path_buf(), field: field.into(), problem: problem.into() }
    }
}

/// What is wrong with a model, with its directory said once.
fn located(dir: &std::path::Path, cause: &CoreError) -> String {
    match cause {
        CoreError::Io { .. }
        | CoreError::BadCheckpoint { .. }
        | CoreError::UnsupportedCheckpoint { .. }
        | CoreError::BadMetadata { .. }
        | CoreError::MissingTensor { .. }
        | CoreError::UnknownTensor { .. } => cause.to_string(),
        CoreError::BadConfig { field, problem } => {
            format!("{}: `{field}` {problem}", dir.join("config.json").display())
        }
        _ => format!("{}: {cause}", dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn io() -> std::io::Error {
        std::io::ErrorKind::NotFound.into()
    }

    fn of_files() -> Vec<EngineError> {
        let text = String::from;
        let json = || serde_json::from_str::<u8>("{").expect_err("not a number");
        let model = |cause| EngineError::Model { dir: "/models/m".into(), cause };
        vec![
            EngineError::ReadFile { path: "/models/m/config.json".into(), cause: io() },
            EngineError::Json { path: "/models/m/tokenizer.json".into(), cause: json() },
            EngineError::field(std::path::Path::new("/m/generation_config.json"), "top_p", "is 2"),
            EngineError::MissingFile {
                dir: "/m".into(),
                file: text("tokenizer.json"),
                advice: text("add one"),
            },
            EngineError::Tokenizer { path: "/m/tokenizer.json".into(), problem: text("has no vocabulary") },
            EngineError::WriteFile { path: "/m".into(), problem: text("it is not empty") },
            EngineError::Encode { text_len: 3, problem: text("is empty") },
            EngineError::EmptyStopString { index: 1 },
            EngineError::ChatTemplate { origin: text("/m/chat_template.jinja"), problem: text("line 1") },
            EngineError::ChatRejected { message: text("no system role") },
            EngineError::UnknownArchitecture {
                architecture: text("Gpt"),
                supported: text("Qwen3ForCausalLM"),
            },
            model(CoreError::Io { path: "/models/m/model.safetensors".into(), cause: io() }),
            model(CoreError::BadCheckpoint {
                path: "/models/m/a.safetensors".into(),
                problem: text("is short"),
            }),
            model(CoreError::UnsupportedCheckpoint { path: "/models/m".into(), problem: text("is GGUF 1") }),
            model(CoreError::BadMetadata {
                path: "/models/m".into(),
                key: text("llama.block_count"),
                problem: text("is missing"),
            }),
            model(CoreError::MissingTensor { name: text("norm"), place: text("/models/m") }),
            model(CoreError::UnknownTensor { name: text("norm"), place: text("/models/m") }),
            model(CoreError::BadTensor { name: text("norm"), problem: text("has shape [1]") }),
            model(CoreError::config("hidden_size", "is missing")),
        ]
    }

    fn of_hub_and_device() -> Vec<EngineError> {
        let text = String::from;
        let what = || text("config.json of org/name at http://hub/org/name");
        vec![
            EngineError::ModelName { model: text("x"), problem: text("there is no such directory") },
            EngineError::HubRefused { what: what(), problem: text("it does not exist (404)") },
            EngineError::HubUnreachable { what: what(), attempts: 5, problem: text("timed out") },
            EngineError::HubProtocol { what: what(), problem: text("sent no checksum") },
            EngineError::BadProxy,
            EngineError::Checksum { what: what(), attempts: 2, expected: text("aa"), actual: text("bb") },
            EngineError::CacheUnwritable { path: "/cache".into(), cause: io() },
            EngineError::DiskFull { path: "/cache/x".into(), needed: 7 },
            EngineError::NotCached {
                model: text("o/n"),
                cache_dir: "/cache".into(),
                problem: text("no ref"),
            },
            EngineError::WrongFile { path: "/m/model.safetensors".into(), problem: text("is a web page") },
            EngineError::NothingToRemove {
                model: text("o/n"),
                cache_dir: "/cache".into(),
                problem: text("it holds a/b"),
            },
            EngineError::RemoveFile { path: "/cache/x".into(), cause: io() },
            EngineError::CacheInUse { model: text("o/n") },
            EngineError::Option { option: "max-model-len", problem: text("is 0; give at least 1") },
            EngineError::RequestField {
                field: "tenant",
                problem: text("is \"x\"; those that are known: default"),
            },
            EngineError::PromptToken { token: nvllm_core::TokenId(400), vocab_size: 320 },
            EngineError::Request(nvllm_sched::SchedError::EmptyPrompt),
            EngineError::Core(CoreError::Io { path: "/m/model.safetensors".into(), cause: io() }),
            EngineError::Backend { reason: text("no NVIDIA driver") },
            EngineError::Stopped { reason: text("its thread has ended") },
            EngineError::Loading,
            EngineError::Draining,
            EngineError::QueueFull { requests: 2, max_requests: 2, tokens: 7, max_tokens: 9 },
            EngineError::Generation { reason: text("an illegal address was read") },
        ]
    }

    /// A new variant does not compile until it is named here, and fails until there is one of it
    /// above.
    fn number(error: &EngineError) -> usize {
        match error {
            EngineError::ReadFile { .. } => 0,
            EngineError::Json { .. } => 1,
            EngineError::Field { .. } => 2,
            EngineError::MissingFile { .. } => 3,
            EngineError::Tokenizer { .. } => 4,
            EngineError::Encode { .. } => 5,
            EngineError::EmptyStopString { .. } => 6,
            EngineError::ChatTemplate { .. } => 7,
            EngineError::ChatRejected { .. } => 8,
            EngineError::ModelName { .. } => 9,
            EngineError::HubRefused { .. } => 10,
            EngineError::HubUnreachable { .. } => 11,
            EngineError::HubProtocol { .. } => 12,
            EngineError::Checksum { .. } => 13,
            EngineError::CacheUnwritable { .. } => 14,
            EngineError::DiskFull { .. } => 15,
            EngineError::NotCached { .. } => 16,
            EngineError::Model { .. } => 17,
            EngineError::UnknownArchitecture { .. } => 18,
            EngineError::Option { .. } => 19,
            EngineError::PromptToken { .. } => 20,
            EngineError::Request(_) => 21,
            EngineError::Core(_) => 22,
            EngineError::Backend { .. } => 23,
            EngineError::Stopped { .. } => 24,
            EngineError::WrongFile { .. } => 25,
            EngineError::WriteFile { .. } => 26,
            EngineError::NothingToRemove { .. } => 27,
            EngineError::RemoveFile { .. } => 28,
            EngineError::CacheInUse { .. } => 29,
            EngineError::Loading => 30,
            EngineError::Draining => 31,
            EngineError::QueueFull { .. } => 32,
            EngineError::Generation { .. } => 33,
            EngineError::BadProxy => 34,
            EngineError::RequestField { .. } => 35,
        }
    }

    #[test]
    fn a_message_is_whole_and_says_nothing_twice() {
        let mut seen = [false; 36];
        for error in of_files().into_iter().chain(of_hub_and_device()) {
            seen[number(&error)] = true;
            assert!(error.source().is_none(), "{error}");
            let text = error.to_string();
            assert_eq!(text.matches("/models/m").count().max(1), 1, "{text}");
            for cause in ["not found", "EOF"] {
                assert!(text.matches(cause).count() <= 1, "{text}");
            }
        }
        assert_eq!(seen, [true; 36]);
    }
}
