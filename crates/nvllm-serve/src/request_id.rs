//! Ids that answers carry.

use uuid::Uuid;

use crate::context;

/// `PREFIX-` and the id in the body, else the HTTP request's, as in logs, else a new one.
pub(crate) fn request_id(prefix: &str, asked: Option<&str>) -> String {
    match asked {
        Some(id) => format!("{prefix}-{id}"),
        None => match context::current() {
            Some(request) => format!("{prefix}-{}", request.id),
            None => format!("{prefix}-{}", Uuid::new_v4().simple()),
        },
    }
}
