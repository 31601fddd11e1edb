//! Ids that answers carry.

use uuid::Uuid;

/// `PREFIX-` and the client's id, or a new one.
pub(crate) fn request_id(prefix: &str, asked: Option<&str>) -> String {
    match asked {
        Some(id) => format!("{prefix}-{id}"),
        None => format!("{prefix}-{}", Uuid::new_v4().simple()),
    }
}
