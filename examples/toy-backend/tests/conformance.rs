//! The whole suite, with less to draw than a real backend's: `PROPTEST_CASES=24` draws as much.

nvllm_conformance::conformance!(toy, || toy_backend::ToyBackend);
