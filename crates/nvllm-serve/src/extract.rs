//! What handlers ask of a request before they run, with errors in our form.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use crate::app::App;
use crate::error::ApiError;

/// That a request to generate would be taken now. Before the body among a handler's arguments:
/// nothing is read of what is refused, as routers send it again and again.
pub(crate) struct Ready;

impl FromRequestParts<App> for Ready {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, app: &App) -> Result<Self, ApiError> {
        app.check_ready().map(|()| Self)
    }
}

/// The text that stands in the path.
pub(crate) struct InPath(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Ok(Path(text)) = Path::from_request_parts(parts, state).await else {
            let message = format!("the path {} is not UTF-8 once it is decoded", parts.uri.path());
            return Err(ApiError::bad_request("path", message));
        };
        Ok(Self(text))
    }
}
