//! How the backend is set up.

use std::path::PathBuf;

/// What may be said of how the backend is set up.
#[derive(Clone, Debug, Default)]
pub struct WgpuOptions {
    /// The adapter, by its index or a part of its name; the first GPU if not given.
    pub adapter: Option<String>,
    /// Where compiled shaders are kept between runs; nowhere if not given.
    pub cache_dir: Option<PathBuf>,
    /// Bytes of the largest piece of a weight or of a layer's cache, if that is to be less than
    /// what a shader sees of a buffer: for tests.
    pub piece_bytes: Option<usize>,
}
