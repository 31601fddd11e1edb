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

/// Where this program keeps what it was told: `XDG_STATE_HOME/nvllm`, else `~/.local/state/nvllm`. None without a home.
pub(crate) fn state_dir() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state_home = var("XDG_STATE_HOME").or_else(|| Some(var("HOME")?.join(".local/state")))?;
    Some(state_home.join("nvllm"))
}

/// Whether a terminal may be sent colours: `NO_COLOR` (<https://no-color.org>) and a plain terminal say no.
pub(crate) fn allows_color() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !is_plain_terminal()
}

/// Whether the terminal can do nothing but print (`TERM`).
pub(crate) fn is_plain_terminal() -> bool {
    std::env::var("TERM").is_ok_and(|term| matches!(term.as_str(), "dumb" | "cons25" | "emacs"))
}
