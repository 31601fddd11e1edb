//! `/v1/models`.

use serde::Serialize;
use utoipa::ToSchema;

/// The models that are served: one, by all of its names.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// `list`.
    pub(crate) object: &'static str,
    pub(crate) data: Vec<ModelCard>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelCard {
    pub(crate) id: String,
    /// `model`.
    pub(crate) object: &'static str,
    /// When it was loaded, in seconds since 1970.
    pub(crate) created: u64,
    /// `nvllm`.
    pub(crate) owned_by: &'static str,
    /// The model's directory or hub id.
    pub(crate) root: String,
    pub(crate) parent: Option<String>,
    /// Tokens of prompt and answer together; absent until it is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_model_len: Option<usize>,
}
