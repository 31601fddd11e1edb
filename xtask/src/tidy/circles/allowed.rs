//! Arrows that close a circle and stand for now. This list only gets shorter: the check fails on a
//! line that closes no circle any more.

/// From, to, and the names that go this way.
pub(super) const ALLOWED: &[(&str, &str, &str)] = &[
    ("crates/nvllm-engine/src/engine.rs", "crates/nvllm-engine/src/builder.rs", "EngineBuilder, new"),
    (
        "crates/nvllm-engine/src/engine_loop.rs",
        "crates/nvllm-engine/src/engine.rs",
        "EngineInfo, LoadProgress",
    ),
    (
        "crates/nvllm-engine/src/engine_loop.rs",
        "crates/nvllm-engine/src/engine_loop/reading.rs",
        "Reading, new",
    ),
    ("crates/nvllm-engine/src/engine_loop/masks.rs", "crates/nvllm-engine/src/engine_loop.rs", "EngineLoop"),
    (
        "crates/nvllm-engine/src/engine_loop/masks.rs",
        "crates/nvllm-engine/src/engine_loop/mask_workers.rs",
        "MaskWorkers, default",
    ),
    ("crates/nvllm-engine/src/gguf/mod.rs", "crates/nvllm-engine/src/model.rs", "Model"),
    (
        "crates/nvllm-engine/src/hub/diagnose.rs",
        "crates/nvllm-engine/src/hub/files.rs",
        "CONFIG, WEIGHTS, WEIGHT_INDEX",
    ),
    ("crates/nvllm-engine/src/hub/diagnose.rs", "crates/nvllm-engine/src/hub/mod.rs", "HubOptions"),
    ("crates/nvllm-engine/src/hub/mod.rs", "crates/nvllm-engine/src/hub/fetch.rs", "fetch"),
    (
        "crates/nvllm-engine/src/quantize/resume.rs",
        "crates/nvllm-engine/src/quantize/mod.rs",
        "QuantizeOptions",
    ),
    ("crates/nvllm-engine/src/shared.rs", "crates/nvllm-engine/src/engine.rs", "EngineInfo, LoadProgress"),
    (
        "crates/nvllm-engine/src/text/gguf_vocabulary/byte_bpe.rs",
        "crates/nvllm-engine/src/text/gguf_vocabulary/mod.rs",
        "GgufVocabulary",
    ),
    (
        "crates/nvllm-engine/src/text/gguf_vocabulary/pieces.rs",
        "crates/nvllm-engine/src/text/gguf_vocabulary/mod.rs",
        "GgufVocabulary",
    ),
    (
        "crates/nvllm-engine/src/text/gguf_vocabulary/sentence_piece.rs",
        "crates/nvllm-engine/src/text/gguf_vocabulary/mod.rs",
        "GgufVocabulary",
    ),
    ("crates/nvllm-engine/src/text_stage.rs", "crates/nvllm-engine/src/engine_loop.rs", "Command, Finish"),
    (
        "crates/nvllm-engine/src/text_stage/client.rs",
        "crates/nvllm-engine/src/text_stage.rs",
        "Admitted, EMBEDDING_NOT_NUMBERS, Finished, NOT_NUMBERS, Output, PromptRow, Token",
    ),
    ("crates/nvllm-engine/src/verify/cases.rs", "crates/nvllm-engine/src/verify/mod.rs", "VerifyOptions"),
    ("crates/nvllm-engine/src/verify/run.rs", "crates/nvllm-engine/src/verify/compare.rs", "num_tokens"),
    ("crates/nvllm-engine/src/verify/variation.rs", "crates/nvllm-engine/src/verify/mod.rs", "VerifyOptions"),
    ("crates/nvllm-serve/src/app.rs", "crates/nvllm-serve/src/metrics/http.rs", "count"),
    ("crates/nvllm-serve/src/limits.rs", "crates/nvllm-serve/src/server/mod.rs", "ServerOptions, default"),
    ("crates/nvllm-serve/src/metrics/engine.rs", "crates/nvllm-serve/src/metrics/mod.rs", "Labels, PREFIX"),
    (
        "crates/nvllm-serve/src/metrics/requests.rs",
        "crates/nvllm-serve/src/metrics/mod.rs",
        "Labels, Metrics, histogram",
    ),
    ("crates/nvllm-serve/src/openapi.rs", "crates/nvllm-serve/src/app.rs", "routes"),
    (
        "crates/nvllm-serve/src/server/connection.rs",
        "crates/nvllm-serve/src/server/mod.rs",
        "Closing, Draining, FINAL_WRITE_TIMEOUT, Phase, reached",
    ),
    ("crates/nvllm-serve/src/server/mod.rs", "crates/nvllm-serve/src/observe.rs", "REQUEST_ID, observe"),
    ("crates/nvllm-serve/src/work.rs", "crates/nvllm-serve/src/app.rs", "App"),
];
