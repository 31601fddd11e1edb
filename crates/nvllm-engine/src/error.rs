//! The crate's one error type.

use std::path::PathBuf;

/// Why the engine could not do what was asked. The message is one line and says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A file of the model could not be read.
    #[error("cannot read {}: {source}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A JSON file of the model is malformed.
    #[error("{} is not valid JSON ({source}); the file is damaged or cut short: fetch it again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
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

    /// A model directory lacks a file that is needed.
    #[error("{} has no {file}: {advice}", dir.display())]
    MissingFile {
        /// The directory.
        dir: PathBuf,
        /// The file, relative to the directory.
        file: String,
        /// What to do.
        advice: String,
    },

    /// `tokenizer.json` is valid JSON but not a tokenizer that can be used here.
    #[error("{}: {problem}", path.display())]
    Tokenizer {
        /// The tokenizer file.
        path: PathBuf,
        /// What is wrong or unsupported, and what is supported.
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

    /// A checkpoint whose weights are quantised.
    #[error(
        "{}: the checkpoint is quantised ({method}), which is not supported yet; take the original, in bf16, f16 or f32",
        path.display()
    )]
    Quantized {
        /// The file that says so.
        path: PathBuf,
        /// How, as the file calls it.
        method: String,
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
    #[error("cannot remove {}: {source}", path.display())]
    RemoveFile {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
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
    #[error("cannot write the model cache at {}: {source}; set HF_HOME to a directory that can be written", path.display())]
    CacheUnwritable {
        /// The file or directory concerned.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
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
    #[error("{}: {source}", dir.display())]
    Model {
        /// The model's directory.
        dir: PathBuf,
        /// What is wrong.
        source: nvllm_core::CoreError,
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
    #[error("option `{option}` {problem}")]
    Option {
        /// The option, as on the command line.
        option: &'static str,
        /// What was asked and what is possible.
        problem: String,
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

    /// The thread that owns the device is gone.
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
