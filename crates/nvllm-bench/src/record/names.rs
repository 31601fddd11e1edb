//! Names of a record's series and values, with their definitions. A name's meaning never changes;
//! `bench/README.md` lists them.

/// Series: seconds of each step (decode) or of each prompt's step (prefill), sampling included.
pub const STEP_SECONDS: &str = "step_seconds";
/// Series: bytes a second at which the same threads read memory, one beside each group of steps.
pub const READ_BANDWIDTH: &str = "read_bandwidth";
/// Series: operations a second of the backend's own matrix product, one beside each group of steps.
pub const MATMUL_RATE: &str = "matmul_rate";
/// Series: TTFT of each request, in seconds.
pub const TTFT_SECONDS: &str = "ttft_seconds";
/// Series: E2EL of each request, in seconds.
pub const E2EL_SECONDS: &str = "e2el_seconds";
/// Series: seconds of a decode step of each request, from its first token to its last, the mean
/// over its answers.
pub const TOKEN_SECONDS: &str = "token_seconds";
/// Series: all ITLs of all requests, ascending, to the microsecond.
pub const ITL_SECONDS: &str = "itl_seconds";
/// Series: prompt tokens of each request.
pub const PROMPT_TOKENS: &str = "prompt_tokens";
/// Series: output tokens of each request.
pub const OUTPUT_TOKENS: &str = "output_tokens";
/// Series: seconds of each whole run over the request set, from the first submission to the last
/// token.
pub const RUN_SECONDS: &str = "run_seconds";
/// Series: seconds from the start of a process until it is ready for a request.
pub const READY_SECONDS: &str = "ready_seconds";
/// Series: seconds from the start of a process until its first token.
pub const FIRST_TOKEN_SECONDS: &str = "first_token_seconds";
/// Series: seconds of the same prompt again in the same process.
pub const AGAIN_SECONDS: &str = "again_seconds";

/// Series: seconds of host time to plan a step and to commit it.
pub const HOST_SECONDS: &str = "host_seconds";
/// Series: seconds of host time to plan a step.
pub const PLAN_SECONDS: &str = "plan_seconds";
/// Series: seconds of host time to commit a step's results.
pub const COMMIT_SECONDS: &str = "commit_seconds";

/// Value: tokens of each prompt that were computed, and not found in the KV cache.
pub const COMPUTED_TOKENS: &str = "computed_tokens";
/// Value: share of the time between the first and the last step in which the device waited for the
/// host.
pub const DEVICE_WAIT_SHARE: &str = "device_wait_share";
/// Value: bytes of inputs that the last step copied to the device.
pub const INPUT_BYTES: &str = "input_bytes";
/// Value: logits that an exact head computed again for a row, on average over the rows for which it
/// found candidates.
pub const HEAD_CANDIDATES: &str = "head_candidates";
/// Value: share of the greedy rows for which an exact head multiplied the whole head.
pub const HEAD_DENSE_SHARE: &str = "head_dense_share";
/// Value: bytes of weights, KV cache, arena and scratch that the backend reports.
pub const PLANNED_BYTES: &str = "planned_bytes";
/// Value: of those, bytes of weights.
pub const WEIGHT_BYTES: &str = "weight_bytes";
/// Value: of those, bytes of KV cache.
pub const KV_BYTES: &str = "kv_bytes";
/// Value: resident bytes of the process before loading.
pub const RESIDENT_BEFORE_BYTES: &str = "resident_before_bytes";
/// Value: resident bytes of the process under full load.
pub const RESIDENT_BYTES: &str = "resident_bytes";
/// Value: bytes that are free on the device before loading.
pub const DEVICE_FREE_BEFORE_BYTES: &str = "device_free_before_bytes";
/// Value: bytes that are free on the device under full load.
pub const DEVICE_FREE_BYTES: &str = "device_free_bytes";
/// Value: bytes of KV cache of one token.
pub const KV_TOKEN_BYTES: &str = "kv_token_bytes";
/// Value: tokens that the loaded KV cache holds.
pub const KV_TOKENS: &str = "kv_tokens";
/// Value: tokens of KV cache that fit beside the rest in the device's memory.
pub const MOST_TOKENS: &str = "most_tokens";
/// Value: exp of the mean negative log-likelihood of a token.
pub const PERPLEXITY: &str = "perplexity";
/// Value: mean negative log-likelihood a byte of text, in bits.
pub const BITS_PER_BYTE: &str = "bits_per_byte";
/// Value: tokens that were scored.
pub const SCORED_TOKENS: &str = "scored_tokens";
/// Value: greedy runs equal to the golden ones.
pub const GOLDEN_EQUAL: &str = "golden_equal";
/// Value: greedy runs compared.
pub const GOLDEN_RUNS: &str = "golden_runs";
/// Value: 1 if every token and log-probability that was compared is equal, bit for bit, else 0.
pub const EQUAL: &str = "equal";
/// Value: tokens that were compared with their log-probabilities.
pub const COMPARED_TOKENS: &str = "compared_tokens";
/// Value: median bytes that a start read from storage and not from the page cache.
pub const STORAGE_BYTES: &str = "storage_bytes";
/// Value: requests that the server had no room for.
pub const REFUSED: &str = "refused";
/// Value: requests whose clients went away, as they were told to.
pub const CANCELLED: &str = "cancelled";
/// Value: requests that failed otherwise.
pub const FAILED: &str = "failed";
/// Value: requests sent a second, on average.
pub const REQUEST_RATE: &str = "request_rate";
/// Value: requests that the server ended a second with 64 at once.
pub const MAX_REQUEST_RATE: &str = "max_request_rate";
/// Value: requests a second with at most two seconds to the first token and a tenth of one a token
/// after it.
pub const GOODPUT: &str = "goodput";
/// Value: 99th percentile of TTFT, in seconds.
pub const TTFT_P99_SECONDS: &str = "ttft_p99_seconds";
/// Value: CPU time that the client took, in seconds.
pub const CLIENT_CPU_SECONDS: &str = "client_cpu_seconds";
/// Value: resident bytes of the server's process with its model loaded, before the measurements.
pub const SERVER_REST_BYTES: &str = "server_rest_bytes";
/// Value: resident bytes of the server's process after the first round of a soak.
pub const SERVER_FIRST_BYTES: &str = "server_first_bytes";
/// Value: resident bytes of the server's process after the last round of a soak.
pub const SERVER_LAST_BYTES: &str = "server_last_bytes";
/// Value: the most resident bytes of the server's process, looked at every second of the
/// measurement and right after it.
pub const SERVER_PEAK_BYTES: &str = "server_peak_bytes";
