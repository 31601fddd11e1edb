//! The description of all routes: made from the table of routes and from the types that they read
//! and write, so that it says what is true.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{Html, IntoResponse as _};
use utoipa::openapi::{Content, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, PartialSchema as _, ToSchema as _};

use crate::error::ErrorBody;
use crate::wire::messages::MessagesError;

/// The description of all routes.
#[derive(Clone)]
pub(crate) struct Document(Arc<OpenApi>);

impl Document {
    /// Of what the table of routes says of them.
    pub(crate) fn new(mut description: OpenApi) -> Self {
        let paths = &mut description.paths.paths;
        // Routes that take GET and POST alike have one handler, and so one id.
        for item in paths.values_mut().filter(|item| item.get.is_some()) {
            if let Some(id) = item.post.as_mut().and_then(|post| post.operation_id.as_mut()) {
                id.push_str("_post");
            }
        }
        // OpenAPI has no word for a parameter that takes the rest of a path.
        *paths =
            std::mem::take(paths).into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
        Self(Arc::new(description))
    }
}

/// What stands above the routes.
pub(crate) fn head() -> OpenApi {
    let info = InfoBuilder::new()
        .title("nvLLM")
        .description(Some("What OpenAI's and vLLM's clients expect, over one model."))
        .version(env!("CARGO_PKG_VERSION"));
    let mut schemas = Vec::new();
    ErrorBody::schemas(&mut schemas);
    MessagesError::schemas(&mut schemas);
    schemas.push((ErrorBody::name().into_owned(), ErrorBody::schema()));
    schemas.push((MessagesError::name().into_owned(), MessagesError::schema()));
    let components = utoipa::openapi::ComponentsBuilder::new().schemas_from_iter(schemas).build();
    OpenApiBuilder::new().info(info.build()).components(Some(components)).build()
}

/// This description, as OpenAPI 3.1.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi", tag = "server",
    responses((status = 200, description = "The description.", body = Object)),
)]
pub(crate) async fn document(State(document): State<Document>) -> axum::response::Response {
    Json(&*document.0).into_response()
}

/// Where the description is.
#[utoipa::path(
    get, path = "/docs", operation_id = "docs", tag = "server",
    responses((status = 200, description = "A page.", body = String, content_type = "text/html")),
)]
pub(crate) async fn docs() -> Html<&'static str> {
    Html(
        "<!doctype html><title>nvLLM</title>\n\
         <p>The API is described in <a href=\"openapi.json\">openapi.json</a> (OpenAPI 3.1).\n",
    )
}

/// The errors that any route may answer with.
pub(crate) struct Errors;

/// The same in Anthropic's form.
pub(crate) struct MessagesErrors;

impl IntoResponses for Errors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&ErrorBody::name())
    }
}

impl IntoResponses for MessagesErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&MessagesError::name())
    }
}

/// Every status of an error, with a body of this schema.
fn errors(schema: &str) -> BTreeMap<String, RefOr<Response>> {
    let error = |(status, description): (&str, &str)| {
        let content = Content::new(Some(Ref::from_schema_name(schema)));
        let response = ResponseBuilder::new().description(description).content("application/json", content);
        (status.to_owned(), RefOr::T(response.build()))
    };
    [
        ("400", "A parameter cannot be met; the message names it."),
        ("401", "The API key is missing or wrong."),
        ("404", "There is no such model."),
        ("408", "The body did not come in time."),
        ("413", "The body is too large."),
        ("429", "The queue is full; try again after `Retry-After` seconds."),
        ("500", "The server failed."),
        ("503", "The server takes no requests now; try again after `Retry-After` seconds."),
    ]
    .map(error)
    .into()
}
