//! The chat page's files, as a browser gets them.

use axum::body::Body;
use axum::http::{Method, Request as HttpRequest};
use nvllm_engine::Health;

use crate::support::{Script, call, get, server};

#[tokio::test]
async fn the_page_and_what_it_names_have_their_types() {
    let (router, _) = server(Script::default());
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/layout.css", "text/css; charset=utf-8"),
        ("/page/app.js", "text/javascript; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ] {
        let answer = get(&router, path).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.headers["content-type"]),
            (200, &content_type.parse().unwrap())
        );
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(answer.headers["cache-control"], "no-cache", "{path}");
        assert!(!answer.bytes.is_empty(), "{path}");
    }
    let missing = get(&router, "/page/none.js").await;
    assert_eq!((missing.status.as_u16(), &missing.json()["error"]["code"]), (404, &404.into()));
}

#[tokio::test]
async fn the_policy_lets_nothing_in_but_the_pages_own_scripts() {
    let (router, _) = server(Script::default());
    let answer = get(&router, "/").await;
    let policy = answer.headers["content-security-policy"].to_str().unwrap();
    for needed in [
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.contains(needed), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    // Scripts are files: the policy would not run others.
    let page = answer.text();
    assert!(
        page.split("<script")
            .skip(1)
            .all(|script| script.contains("></script>") && script.contains("src=\"page/"))
    );
}

#[tokio::test]
async fn a_browser_that_has_the_files_is_told_so() {
    let (router, _) = server(Script::default());
    let tag = get(&router, "/").await.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(get(&router, "/page/app.js").await.headers["etag"], *tag);
    let ask = |tag: String| {
        call(
            &router,
            HttpRequest::get("/page/app.js").header("if-none-match", tag).body(Body::empty()).unwrap(),
        )
    };
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
        let answer = ask(known).await;
        assert_eq!((answer.status.as_u16(), answer.bytes.len()), (304, 0));
        assert_eq!(answer.headers["etag"], *tag);
    }
    assert_eq!(ask("\"other\"".into()).await.status, 200);
}

#[tokio::test]
async fn the_head_is_that_of_the_page() {
    let (router, _) = server(Script::default());
    let head = HttpRequest::builder().method(Method::HEAD).uri("/").body(Body::empty()).unwrap();
    let (head, page) = (call(&router, head).await, get(&router, "/").await);
    assert_eq!((head.status.as_u16(), head.bytes.len()), (200, 0));
    assert_eq!(head.headers, page.headers);
}

#[tokio::test]
async fn the_page_comes_whatever_the_model_does() {
    for health in [Health::Loading, Health::Draining, Health::Failed("it broke".into())] {
        let (router, _) = server(Script { health, ..Script::default() });
        assert_eq!(get(&router, "/").await.status, 200);
    }
}
