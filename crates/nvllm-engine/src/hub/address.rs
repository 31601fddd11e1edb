//! The address of a model's page on a hub, or of a GGUF file there: one of the things that a user
//! may call a model, beside a directory, a GGUF file and `org/name[:variant][@revision]`.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use ureq::http::Uri;

use super::name::{HubId, is_part};

/// Hosts whose pages are those of the public hub.
const PUBLIC_HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];

/// The scheme under which Hugging Face's own tools write a place on the hub.
const HF_SCHEME: &str = "hf://";

/// Parts of an address that stand before a repository which is no model.
const OTHER_KINDS: [&str; 5] = ["datasets", "spaces", "kernels", "buckets", "collections"];

/// Parts of an address after which a revision and a path in the repository follow.
const VIEWS: [&str; 5] = ["tree", "blob", "resolve", "raw", "blame"];

/// The repository that an address names, or `None` for a text that is no address. The error
/// continues a sentence.
///
/// Taken are `hf://[models/]org/name[@revision]` and the pages of the public hub and of `endpoint`,
/// with or without a scheme: `https://huggingface.co/org/name`, `hf.co/org/name/tree/revision`; and
/// of files there those that are GGUF. What follows `?` or `#` says nothing, but for
/// `show_file_info=FILE`, which is how a page shows a GGUF file.
pub(super) fn parse(text: &str, endpoint: &str) -> Option<Result<HubId, String>> {
    if let Some(place) = strip_prefix_ignoring_case(text, HF_SCHEME) {
        let place = place.trim_matches('/');
        return Some(from_hf_uri(place.strip_prefix("models/").unwrap_or(place)));
    }
    let hosts = || PUBLIC_HOSTS.into_iter();
    let has_scheme = ["https://", "http://"].iter().any(|s| strip_prefix_ignoring_case(text, s).is_some());
    let endpoint: Option<Uri> = endpoint.parse().ok();
    let endpoint_authority = endpoint.as_ref().and_then(Uri::authority).map(|a| a.as_str().to_lowercase());
    let text = if has_scheme {
        Cow::Borrowed(text)
    } else {
        let first = text.split('/').next().unwrap_or_default().to_lowercase();
        if !(hosts().any(|host| first == host) || Some(&first) == endpoint_authority.as_ref()) {
            return None;
        }
        Cow::Owned(format!("https://{text}"))
    };
    let Ok(uri) = text.split('#').next().unwrap_or_default().parse::<Uri>() else {
        return Some(Err("it is not an address that can be read".into()));
    };
    let authority = uri.authority().map(|a| a.as_str().to_lowercase()).unwrap_or_default();
    let mut path = uri.path();
    if Some(&authority) == endpoint_authority.as_ref() {
        // A hub that lives under a path of its host.
        let prefix = endpoint.as_ref().map_or("", |endpoint| endpoint.path().trim_end_matches('/'));
        path = path.strip_prefix(prefix).unwrap_or(path);
    } else if !hosts().any(|host| authority == host) {
        let known = endpoint_authority.filter(|a| !hosts().any(|host| a == host));
        let known = known.map_or_else(String::new, |a| format!(" and {a} (HF_ENDPOINT)"));
        return Some(Err(format!(
            "only addresses of huggingface.co{known} name models; a directory or a hub id (org/name) does too"
        )));
    }
    let id = from_page(path);
    match uri.query().and_then(shown_file) {
        Some(file) => Some(id.and_then(|id| id.with_variant(file))),
        None => Some(id),
    }
}

/// The GGUF file that a page shows the header of.
fn shown_file(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("show_file_info="))?.replace('+', " ");
    let file = percent_decode_str(&value).decode_utf8().ok()?.into_owned();
    super::diagnose::is_gguf(&file).then_some(file)
}

/// `org/name[@revision]`, whatever path follows refused by name.
fn from_hf_uri(place: &str) -> Result<HubId, String> {
    let mut parts = place.splitn(3, '/');
    let (org, name, rest) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    refuse_other_kind(org)?;
    let Some(name) = name else { return Err(no_repository()) };
    match (name.split_once('@'), rest) {
        // A revision may hold a slash (refs/pr/1), and no file of a model's repository is run for
        // itself.
        (Some((name, revision)), Some(rest)) => repository(org, name, Some(&format!("{revision}/{rest}"))),
        (Some((name, revision)), None) => repository(org, name, Some(revision)),
        (None, Some(path)) => inside(org, name, None, path),
        (None, None) => repository(org, name, None),
    }
}

/// `/org/name` and its views.
fn from_page(path: &str) -> Result<HubId, String> {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.first() == Some(&"models") {
        parts.remove(0);
    }
    let [org, name, rest @ ..] = parts.as_slice() else {
        if let Some(first) = parts.first() {
            refuse_other_kind(first)?;
        }
        return Err(no_repository());
    };
    refuse_other_kind(org)?;
    let [view, rest @ ..] = rest else { return repository(org, name, None) };
    if !VIEWS.contains(view) {
        return Err(format!(
            "the page `{view}` of a repository is not a model; give {org}/{name}, or {org}/{name}@REVISION"
        ));
    }
    match rest {
        [] => repository(org, name, None),
        // A revision with slashes stands percent-encoded, but for those of pull requests.
        ["refs", "pr", number, file @ ..] => at_path(org, name, &format!("refs/pr/{number}"), file),
        [revision, file @ ..] => at_path(org, name, &percent_decode_str(revision).decode_utf8_lossy(), file),
    }
}

fn at_path(org: &str, name: &str, revision: &str, file: &[&str]) -> Result<HubId, String> {
    if file.is_empty() {
        repository(org, name, Some(revision))
    } else {
        let path = file.join("/");
        let decoded = percent_decode_str(&path).decode_utf8_lossy();
        if super::diagnose::is_gguf(&decoded) {
            return repository(org, name, Some(revision))?.with_variant(decoded.into_owned());
        }
        inside(org, name, Some(revision), &path)
    }
}

fn repository(org: &str, name: &str, revision: Option<&str>) -> Result<HubId, String> {
    let revision = revision.map_or_else(String::new, |revision| format!("@{revision}"));
    HubId::parse(&format!("{org}/{name}{revision}"))
}

fn refuse_other_kind(first: &str) -> Result<(), String> {
    match OTHER_KINDS.iter().find(|kind| **kind == first) {
        Some(kind) => Err(format!("it is an address under `{kind}`; models are at huggingface.co/org/name")),
        None => Ok(()),
    }
}

fn no_repository() -> String {
    "the address names no repository; give one as https://huggingface.co/org/name".into()
}

/// A path inside a repository: a GGUF file is a model, and otherwise the repository is meant.
fn inside(org: &str, name: &str, revision: Option<&str>, path: &str) -> Result<HubId, String> {
    if super::diagnose::is_gguf(path) {
        return repository(org, name, revision)?.with_variant(path.to_owned());
    }
    let revision = revision.filter(|_| is_part(org) && is_part(name));
    let revision = revision.map_or_else(String::new, |revision| format!("@{revision}"));
    Err(format!(
        "it is the address of `{path}` inside a repository; give the repository: {org}/{name}{revision}"
    ))
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = "https://huggingface.co";

    fn id(text: &str, endpoint: &str) -> String {
        parse(text, endpoint).expect(text).expect(text).to_string()
    }

    #[test]
    fn pages_of_a_model_name_it() {
        for (text, expected) in [
            ("https://huggingface.co/Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B@main"),
            ("HTTPS://HuggingFace.co/Qwen/Qwen3-0.6B/", "Qwen/Qwen3-0.6B@main"),
            ("http://www.huggingface.co/Qwen/Qwen3-0.6B?library=vllm#top", "Qwen/Qwen3-0.6B@main"),
            ("https://huggingface.co/models/Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B@main"),
            ("huggingface.co/Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B@main"),
            ("hf.co/Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B@main"),
            ("https://hf.co/a/b/tree/main", "a/b@main"),
            ("https://huggingface.co/a/b/tree", "a/b@main"),
            ("https://huggingface.co/a/b/tree/v1.0/", "a/b@v1.0"),
            ("https://huggingface.co/a/b/tree/refs%2Fpr%2F3", "a/b@refs/pr/3"),
            ("https://huggingface.co/a/b/tree/refs/pr/3", "a/b@refs/pr/3"),
            ("hf://a/b", "a/b@main"),
            ("hf://models/a/b@v2", "a/b@v2"),
            ("hf://a/b@refs/pr/3", "a/b@refs/pr/3"),
            ("hf.co/a/b:Q4_K_M", "a/b:Q4_K_M@main"),
            ("https://huggingface.co/a/b/resolve/main/x-Q4_K_M.gguf", "a/b:x-Q4_K_M.gguf@main"),
            (
                "https://huggingface.co/a/b/blob/v1/BF16/x-00001-of-00002.gguf",
                "a/b:BF16/x-00001-of-00002.gguf@v1",
            ),
            ("https://hf.co/a/b/blob/main/x%20y%2Fz%2D1.gguf?download=true", "a/b:x y/z-1.gguf@main"),
            ("https://hf.co/a/b?show_file_info=x-Q8_0.gguf", "a/b:x-Q8_0.gguf@main"),
            ("https://hf.co/a/b/tree/v1?a=b&show_file_info=x%2Fy+z.gguf#top", "a/b:x/y z.gguf@v1"),
            ("https://hf.co/a/b?show_file_info=model.safetensors", "a/b@main"),
        ] {
            assert_eq!(id(text, PUBLIC), expected, "{text}");
        }
    }

    #[test]
    fn pages_of_the_configured_hub_name_models_too() {
        assert_eq!(id("http://localhost:8080/a/b", "http://localhost:8080"), "a/b@main");
        assert_eq!(id("localhost:8080/a/b", "http://localhost:8080"), "a/b@main");
        assert_eq!(id("https://hub.example/hf/a/b/tree/x", "https://hub.example/hf/"), "a/b@x");
        assert_eq!(id("https://huggingface.co/a/b", "https://hub.example"), "a/b@main");
    }

    #[test]
    fn other_texts_are_no_addresses() {
        for text in
            ["Qwen/Qwen3-0.6B", "models/mine", "/srv/huggingface.co/a/b", "huggingface.com/a/b", "", "hf:/a"]
        {
            assert!(parse(text, PUBLIC).is_none(), "{text}");
        }
    }

    #[test]
    fn what_is_no_model_is_named() {
        for (text, words) in [
            ("https://example.com/a/b", "only addresses of huggingface.co name models"),
            ("https://huggingface.co.example.com/a/b", "only addresses of huggingface.co"),
            ("https://user@huggingface.co/a/b", "only addresses of huggingface.co"),
            ("https://huggingface.co", "names no repository"),
            ("https://huggingface.co/Qwen", "names no repository"),
            ("https://huggingface.co/datasets/a/b", "under `datasets`"),
            ("hf://spaces/a/b", "under `spaces`"),
            ("https://huggingface.co/a/b/discussions/4", "the page `discussions`"),
            ("https://huggingface.co/a/b/blob/v1/config.json", "give the repository: a/b@v1"),
            ("hf://a/b/model.safetensors", "give the repository: a/b"),
            ("https://huggingface.co/../b", "cannot be part of a hub id"),
            ("https://huggingface.co/a/b/tree/..", "cannot be a revision"),
            ("https://huggingface.co/a/b/tree/%2e%2e%2Fx", "cannot be a revision"),
            ("https://huggingface.co/a/b/blob/main/%2e%2e/x.gguf", "cannot be the type or the name"),
            ("https://huggingface.co/a/b/blob/main/x%0Ay.gguf", "cannot be the type or the name"),
            ("https://huggingface.co/a/b?show_file_info=%2Fx.gguf", "cannot be the type or the name"),
            ("hf://", "names no repository"),
        ] {
            let message = parse(text, PUBLIC).expect(text).expect_err(text);
            assert!(message.contains(words), "{text}: {message}");
        }
        let message = parse("https://x.org/a/b", "http://localhost:1/").unwrap().unwrap_err();
        assert!(message.contains("localhost:1 (HF_ENDPOINT)"), "{message}");
    }
}
