//! The tokenizers that the tests share, each loaded once per process.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use nvllm_engine::text::Tokenizer;
use sha2::{Digest, Sha256};

/// A path from the root of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A JSON file of the repository.
pub(crate) fn json(path: &str) -> serde_json::Value {
    let bytes = std::fs::read(repository(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The file that Qwen3 ships, unpacked.
pub(crate) fn qwen3_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let packed = std::fs::read(repository("tests/golden/qwen3-tokenizer/tokenizer.json.xz")).unwrap();
        let mut bytes = Vec::with_capacity(11_422_654);
        lzma_rs::xz_decompress(&mut packed.as_slice(), &mut bytes).unwrap();
        let digest = format!("{:x}", Sha256::digest(&bytes));
        assert_eq!(digest, "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4");
        bytes
    })
}

/// The real Qwen3 tokenizer.
pub(crate) fn qwen3() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let load =
        || Arc::new(Tokenizer::from_bytes(qwen3_bytes(), &PathBuf::from("qwen3/tokenizer.json")).unwrap());
    TOKENIZER.get_or_init(load).clone()
}

/// The demo model's tokenizer.
pub(crate) fn tiny() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let load = || Arc::new(Tokenizer::from_file(&repository("models/nvllm-tiny/tokenizer.json")).unwrap());
    TOKENIZER.get_or_init(load).clone()
}
