//! `GET /`: the chat page, whose files are part of the program.
//!
//! It is a client like any other: it calls the routes that are here for all, with a key if one is
//! asked for. It comes without a key and before there is a model, to ask for the one and to show
//! how far the other is.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

use crate::error::{ApiError, ErrorBody};

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../page/", $name)))),+]
    };
}

/// Names and texts of the page's files.
const FILES: &[(&str, &str)] = files![
    "index.html",
    "icon.svg",
    "layout.css",
    "chat.css",
    "answer.js",
    "api.js",
    "app.js",
    "composer.js",
    "conversation.js",
    "dom.js",
    "markdown.js",
    "message.js",
    "panels.js",
    "run.js",
    "server.js",
    "settings.js",
    "sidebar.js",
    "sse.js",
    "store.js",
    "theme.js",
    "tokens.js",
    "transcript.js",
];

/// Where the files are, but for `index.html`, which is at `/`.
const FOLDER: &str = "/page/";

/// One tag for all files: they change together.
static ETAG: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    FILES.iter().for_each(|(_, text)| hash.update(text));
    hash.finalize()[..8].iter().fold(String::from("\""), |tag, byte| format!("{tag}{byte:02x}")) + "\""
});

/// What the page may do: run its own scripts and call its own server. No text becomes HTML or a
/// script, whatever a model says and whatever mistake is made in showing it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// What each of the files is sent with.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    // Kept, and asked for again each time: a server of another version has other files.
    (header::CACHE_CONTROL, "no-cache"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// Whether a path is the page's.
pub(crate) fn has(path: &str) -> bool {
    path == "/" || path.starts_with(FOLDER)
}

/// A file of the page, or that the client has it; nothing if there is none at this path.
pub(crate) fn file_at(path: &str, headers: &HeaderMap) -> Option<Response> {
    let name = if path == "/" { "index.html" } else { path.strip_prefix(FOLDER)? };
    let (name, text) = FILES.iter().find(|(other, _)| *other == name)?;
    let mut response =
        if is_known(headers) { StatusCode::NOT_MODIFIED.into_response() } else { (*text).into_response() };
    let own = response.headers_mut();
    own.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(name)));
    own.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    own.insert(header::ETAG, HeaderValue::from_static(&ETAG));
    Some(response)
}

/// Whether the client has the files as they are.
fn is_known(headers: &HeaderMap) -> bool {
    let tags = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == *ETAG)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "text/javascript; charset=utf-8",
    }
}

/// A page to talk to the model.
#[utoipa::path(
    get, path = "/", operation_id = "page", tag = "page",
    responses(
        (status = 200, description = "The page.", body = String, content_type = "text/html"),
        (status = 304, description = "The client has it."),
    ),
)]
pub(crate) async fn index(uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    file(uri, headers).await
}

/// Scripts and styles of the page.
#[utoipa::path(
    get, path = "/page/{file}", operation_id = "page_file", tag = "page",
    params(("file" = String, Path, description = "A file that the page names.")),
    responses(
        (status = 200, description = "The file.", content(
            (String = "text/javascript"), (String = "text/css"), (String = "image/svg+xml"), (String = "text/html"),
        )),
        (status = 304, description = "The client has it."),
        (status = 404, description = "There is no such file.", body = ErrorBody),
    ),
)]
pub(crate) async fn file(uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    file_at(uri.path(), &headers).ok_or_else(|| {
        let message = format!("the page has no file {}", uri.path());
        ApiError::new(StatusCode::NOT_FOUND, message)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Bytes of all files: they are in every binary, and are read over slow networks.
    const MOST: usize = 100_000;

    #[test]
    fn the_page_has_the_files_of_its_folder_and_is_small() {
        let folder = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("page")).unwrap();
        let there: BTreeSet<_> =
            folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let known: BTreeSet<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(known, there);
        let bytes: usize = FILES.iter().map(|(_, text)| text.len()).sum();
        assert!(bytes <= MOST, "{bytes} bytes");
    }

    #[test]
    fn what_a_file_names_is_there_and_nothing_is_elsewhere() {
        for (name, text) in FILES {
            for (before, after) in [("from \"./", "\""), ("href=\"page/", "\""), ("src=\"page/", "\"")] {
                for named in text.split(before).skip(1).filter_map(|rest| rest.split(after).next()) {
                    assert!(FILES.iter().any(|(file, _)| *file == named), "{name} names {named}");
                }
            }
            for forbidden in
                ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick=\""]
            {
                assert!(!text.contains(forbidden), "{name} has {forbidden}");
            }
            let named = ["http://www.w3.org/2000/svg", "https://html.spec.whatwg.org/"]
                .iter()
                .fold((*text).to_owned(), |text, known| text.replace(known, ""));
            assert!(!named.contains("://"), "{name} names a place that is not this server");
        }
    }
}
