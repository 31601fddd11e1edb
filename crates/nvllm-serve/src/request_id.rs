//! Ids that answers carry.

use uuid::Uuid;

/// `PREFIX_` and the client's id, or a new one, as newer routes write ids.
pub(crate) fn underscored_id(prefix: &str, asked: Option<&str>) -> String {
    match asked {
        Some(id) => format!("{prefix}_{id}"),
        None => format!("{prefix}_{}", Uuid::new_v4().simple()),
    }
}

/// `PREFIX-` and the client's id, or a new one.
pub(crate) fn request_id(prefix: &str, asked: Option<&str>) -> String {
    match asked {
        Some(id) => format!("{prefix}-{id}"),
        None => format!("{prefix}-{}", Uuid::new_v4().simple()),
    }
}
