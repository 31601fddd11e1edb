//! Environment variables: read here and nowhere else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nvllm_engine::hub::HubOptions;

/// Where models are kept and fetched from: the variables of Hugging Face's own clients, read as
/// `huggingface_hub` reads them (but that an empty variable counts as none, where Python takes the
/// empty path).
///
/// - The cache: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `HF_HOME/hub`, else
///   `XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`. A leading `~`, `$NAME` and
///   `${NAME}` are replaced.
/// - The token: `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`, else the file `HF_TOKEN_PATH`, else
///   `HF_HOME/token`; none if `HF_HUB_DISABLE_IMPLICIT_TOKEN`.
/// - `HF_ENDPOINT`; `HF_HUB_OFFLINE`, else `TRANSFORMERS_OFFLINE`; `HF_HUB_ETAG_TIMEOUT` and
///   `HF_HUB_DOWNLOAD_TIMEOUT` in seconds; `HTTPS_PROXY`, `https_proxy` or `ALL_PROXY`.
///
/// # Errors
/// If no variable names the cache and the user has no home directory; if a timeout is no number.
pub(crate) fn hub_options() -> Result<HubOptions> {
    variables().hub_options()
}

/// The hub's cache, for commands that need no network: variables that only matter there are not
/// read.
pub(crate) fn hub_cache() -> Result<PathBuf> {
    variables().hub_cache()
}

fn variables() -> Variables<'static> {
    Variables { get: &|name| std::env::var(name).ok(), home: home_dir() }
}

/// Where this program keeps what it can make again: `XDG_CACHE_HOME/nvllm`, else `~/.cache/nvllm`.
/// `None` without a home.
pub(crate) fn cache_dir() -> Option<PathBuf> {
    Some(variables().cache_home().ok()?.join("nvllm"))
}

/// A model's name with a leading `~` replaced by the home directory, where no shell has done it
/// (`--model=~/m`).
pub(crate) fn expand_home(model: &str) -> String {
    Variables { get: &|_| None, home: home_dir() }.expand_user(model)
}

/// The user's home: `HOME`, else what the system's user database says.
fn home_dir() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| !home.as_os_str().is_empty())
}

struct Variables<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    home: Option<PathBuf>,
}

impl Variables<'_> {
    fn hub_cache(&self) -> Result<PathBuf> {
        let cache = self.path("HF_HUB_CACHE").or_else(|| self.path("HUGGINGFACE_HUB_CACHE"));
        cache.map_or_else(|| Ok(self.hf_home()?.join("hub")), Ok)
    }

    fn hub_options(&self) -> Result<HubOptions> {
        let mut options = HubOptions::new(self.hub_cache()?);
        if let Some(endpoint) = self.var("HF_ENDPOINT") {
            options.endpoint = endpoint.trim_end_matches('/').into();
        }
        (options.token, options.token_problem) = self.token();
        options.offline = self
            .var("HF_HUB_OFFLINE")
            .or_else(|| self.var("TRANSFORMERS_OFFLINE"))
            .is_some_and(|value| is_true(&value));
        if let Some(timeout) = self.seconds("HF_HUB_ETAG_TIMEOUT")? {
            options.answer_timeout = timeout;
        }
        if let Some(timeout) = self.seconds("HF_HUB_DOWNLOAD_TIMEOUT")? {
            options.stall_timeout = timeout;
        }
        options.proxy =
            ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"].into_iter().find_map(|name| self.var(name));
        Ok(options)
    }

    /// A variable that is set to something.
    fn var(&self, name: &str) -> Option<String> {
        (self.get)(name).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.var(name).map(|value| self.expand_variables(&self.expand_user(&value)).into())
    }

    fn hf_home(&self) -> Result<PathBuf> {
        self.path("HF_HOME").map_or_else(|| Ok(self.cache_home()?.join("huggingface")), Ok)
    }

    fn cache_home(&self) -> Result<PathBuf> {
        let xdg = self.var("XDG_CACHE_HOME").map(PathBuf::from);
        xdg.or_else(|| Some(self.home.as_ref()?.join(".cache"))).context(
            "there is no home directory to keep models in: set HF_HOME to a directory that can be written",
        )
    }

    /// The token, or why one that is kept in a file cannot be had.
    fn token(&self) -> (Option<String>, Option<String>) {
        if self.var("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
            return (None, None);
        }
        let clean = |token: String| {
            Some(token.replace(['\r', '\n'], "").trim().to_owned()).filter(|token| !token.is_empty())
        };
        let given = self.var("HF_TOKEN").or_else(|| self.var("HUGGING_FACE_HUB_TOKEN"));
        if let Some(token) = given.and_then(clean) {
            return (Some(token), None);
        }
        let path = self.path("HF_TOKEN_PATH").or_else(|| Some(self.hf_home().ok()?.join("token")));
        let Some(path) = path else { return (None, None) };
        match std::fs::read_to_string(&path) {
            Ok(token) => (clean(token), None),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => (None, None),
            Err(e) => (None, Some(format!("the access token in {} cannot be read ({e})", path.display()))),
        }
    }

    /// A number of seconds; 0 means the default.
    fn seconds(&self, name: &str) -> Result<Option<Duration>> {
        let Some(value) = self.var(name) else { return Ok(None) };
        let Ok(seconds) = value.trim().parse::<u32>() else {
            bail!("{name} is `{value}`; give a number of seconds, as in {name}=30");
        };
        Ok(Some(Duration::from_secs(seconds.into())).filter(|timeout| !timeout.is_zero()))
    }

    /// `~` and `~/...`; the homes of other users are left as they are.
    fn expand_user(&self, text: &str) -> String {
        let rest = text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
        match (rest, &self.home) {
            (Some(rest), Some(home)) => join(home, rest.trim_start_matches('/')).display().to_string(),
            _ => text.to_owned(),
        }
    }

    /// `$NAME` and `${NAME}`; unknown ones are left as they are.
    fn expand_variables(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out += before;
            let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let plain = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
            let (name, tail) = braced.unwrap_or_else(|| after.split_at(plain));
            if let Some(value) = (self.get)(name).filter(|_| !name.is_empty()) {
                out += &value;
                rest = tail;
            } else {
                out.push('$');
                rest = after;
            }
        }
        out + rest
    }
}

/// As [`Path::join`], without a slash at the end for an empty rest.
fn join(home: &Path, rest: &str) -> PathBuf {
    if rest.is_empty() { home.to_path_buf() } else { home.join(rest) }
}

/// The values that Hugging Face's clients take for "yes".
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

/// Where this program keeps what it was told: `XDG_STATE_HOME/nvllm`, else `~/.local/state/nvllm`.
/// None without a home.
pub(crate) fn state_dir() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    Some(named.or_else(|| Some(home_dir()?.join(".local/state")))?.join("nvllm"))
}

/// Whether a terminal may be sent colours: `NO_COLOR` (<https://no-color.org>) and a plain terminal
/// say no.
pub(crate) fn allows_color() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !is_plain_terminal()
}

/// Whether the terminal can do nothing but print (`TERM`).
pub(crate) fn is_plain_terminal() -> bool {
    std::env::var("TERM").is_ok_and(|term| matches!(term.as_str(), "dumb" | "cons25" | "emacs"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::Value;

    use super::*;

    fn options(env: &HashMap<String, String>, home: Option<&Path>) -> Result<HubOptions> {
        Variables { get: &|name| env.get(name).cloned(), home: home.map(Path::to_path_buf) }.hub_options()
    }

    /// What tests/python/hub_environment.py recorded of `huggingface_hub`.
    #[test]
    fn variables_are_read_as_huggingface_hub_reads_them() {
        let recorded: Value =
            serde_json::from_str(include_str!("../../../tests/golden/hub_environment.json")).unwrap();
        let rows = recorded["rows"].as_array().unwrap();
        assert!(rows.len() > 30);
        for row in rows {
            let dir = tempfile::tempdir().unwrap();
            let home = dir.path().to_str().unwrap();
            let place = |text: &Value| text.as_str().unwrap().replace("{home}", home);
            for (name, content) in row["files"].as_object().unwrap() {
                let path = PathBuf::from(name.replace("{home}", home));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content.as_str().unwrap()).unwrap();
            }
            let mut env: HashMap<_, _> = row["env"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| (name.clone(), place(value)))
                .collect();
            env.insert("HOME".into(), home.to_owned());
            let options = options(&env, Some(dir.path())).unwrap();
            let read = &row["read"];
            assert_eq!(options.cache_dir, PathBuf::from(place(&read["cache_dir"])), "{row}");
            assert_eq!(options.endpoint, read["endpoint"].as_str().unwrap(), "{row}");
            assert_eq!(options.offline, read["offline"].as_bool().unwrap(), "{row}");
            assert_eq!(options.token.as_deref(), read["token"].as_str(), "{row}");
            assert_eq!(options.token_problem, None, "{row}");
            // Where nothing is asked for the defaults are our own.
            let defaults = HubOptions::new("");
            for (timeout, name, default) in [
                (options.answer_timeout, "etag_timeout", defaults.answer_timeout),
                (options.stall_timeout, "download_timeout", defaults.stall_timeout),
            ] {
                let expected = match read[name].as_u64().unwrap() {
                    10 => default,
                    seconds => Duration::from_secs(seconds),
                };
                assert_eq!(timeout, expected, "{row}");
            }
        }
    }

    #[test]
    fn without_a_home_the_cache_must_be_named() {
        let env = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<HashMap<_, _>>()
        };
        let message = options(&env(&[]), None).unwrap_err().to_string();
        assert!(message.contains("no home directory") && message.contains("HF_HOME"), "{message}");
        assert_eq!(options(&env(&[("HF_HOME", "/h")]), None).unwrap().cache_dir, Path::new("/h/hub"));
        assert_eq!(options(&env(&[("HF_HUB_CACHE", "/c")]), None).unwrap().cache_dir, Path::new("/c"));
        let empty = env(&[("HF_HOME", ""), ("HF_HUB_CACHE", ""), ("XDG_CACHE_HOME", "")]);
        let cache = options(&empty, Some(Path::new("/users/u"))).unwrap().cache_dir;
        assert_eq!(cache, Path::new("/users/u/.cache/huggingface/hub"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let env = HashMap::from([("HF_HUB_DOWNLOAD_TIMEOUT".to_owned(), "soon".to_owned())]);
        let message = options(&env, Some(Path::new("/h"))).unwrap_err().to_string();
        assert!(message.contains("HF_HUB_DOWNLOAD_TIMEOUT is `soon`"), "{message}");
        let dir = tempfile::tempdir().unwrap();
        let env = HashMap::from([("HF_TOKEN_PATH".to_owned(), dir.path().display().to_string())]);
        let options = options(&env, Some(Path::new("/h"))).unwrap();
        assert!(options.token.is_none() && options.token_problem.unwrap().contains("cannot be read"));
    }

    #[test]
    fn homes() {
        let home = Variables { get: &|_| None, home: Some("/users/u".into()) };
        for (text, expanded) in [
            ("~", "/users/u"),
            ("~/", "/users/u"),
            ("~/m/x", "/users/u/m/x"),
            ("~other/m", "~other/m"),
            ("a/~", "a/~"),
            ("org/name", "org/name"),
        ] {
            assert_eq!(home.expand_user(text), expanded);
        }
    }
}
