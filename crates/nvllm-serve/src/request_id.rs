//! Ids that answers carry: the one in the body, else the HTTP request's, as in logs, else a new
//! one.

use uuid::Uuid;

use crate::context;

/// `PREFIX-` and the id.
pub(crate) fn request_id(prefix: &str, asked: Option<&str>) -> String {
    format!("{prefix}-{}", id(asked))
}

/// `PREFIX_` and the id, as newer routes write ids.
pub(crate) fn underscored_id(prefix: &str, asked: Option<&str>) -> String {
    format!("{prefix}_{}", id(asked))
}

fn id(asked: Option<&str>) -> String {
    let own = || context::current().map(|request| request.id.clone());
    asked.map(str::to_owned).or_else(own).unwrap_or_else(|| Uuid::new_v4().simple().to_string())
}
