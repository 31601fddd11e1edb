//! Environment variables: read here and nowhere else.

use std::path::PathBuf;

use nvllm_engine::hub::HubOptions;

/// Where models are kept and fetched from: the variables of Hugging Face's own clients.
///
/// `HF_HUB_CACHE`, else `HF_HOME/hub`, else `XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`;
/// `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`, and `HTTPS_PROXY`, `https_proxy` or `ALL_PROXY`.
pub(crate) fn hub_options() -> HubOptions {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let home = || var("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let cache_home = || var("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    let hf_home = || var("HF_HOME").map_or_else(|| cache_home().join("huggingface"), PathBuf::from);
    let mut options =
        HubOptions::new(var("HF_HUB_CACHE").map_or_else(|| hf_home().join("hub"), PathBuf::from));
    if let Some(endpoint) = var("HF_ENDPOINT") {
        options.endpoint = endpoint;
    }
    options.token = var("HF_TOKEN");
    options.offline =
        var("HF_HUB_OFFLINE").is_some_and(|value| !matches!(value.as_str(), "0" | "false" | "FALSE" | "no"));
    options.proxy = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"].into_iter().find_map(var);
    options
}

/// Where this program keeps what it can make again: `XDG_CACHE_HOME/nvllm`, else `~/.cache/nvllm`.
pub(crate) fn cache_dir() -> PathBuf {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let home = || var("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    var("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from).join("nvllm")
}
