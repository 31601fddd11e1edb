//! Ids that answers carry.

use uuid::Uuid;

use crate::context;

/// `PREFIX-` and the id in the body, else the HTTP request's, as in logs, else a new one.
pub(crate) fn request_id(prefix: &str, asked: Option<&str>) -> String {
    format!("{prefix}-{}", own(asked))
}

/// The same after `PREFIX_`, as newer routes write ids.
pub(crate) fn underscored_id(prefix: &str, asked: Option<&str>) -> String {
    format!("{prefix}_{}", own(asked))
}

fn own(asked: Option<&str>) -> String {
    match asked {
        Some(id) => id.to_owned(),
        None => context::current()
            .map_or_else(|| Uuid::new_v4().simple().to_string(), |request| request.id.clone()),
    }
}
