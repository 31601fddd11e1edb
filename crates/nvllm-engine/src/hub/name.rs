//! `org/name[@revision]`.

use std::fmt;

/// A repository of a hub and a revision of it. Every part is safe as a path component and in an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    org: String,
    name: String,
    revision: String,
}

impl HubId {
    /// Parses `org/name` or `org/name@revision`, where a revision is a branch (`main` if none is given), a tag, a pull
    /// request (`refs/pr/1`) or a commit. The error says what is wrong in words that continue a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
        let Some((org, name)) = repo.split_once('/') else {
            return Err("a hub id has the form org/name".into());
        };
        for part in [org, name] {
            let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            let bad_end = |c: char| ".-".contains(c);
            let valid = !part.is_empty()
                && part.len() <= 96
                && part.chars().all(known)
                && !part.starts_with(bad_end)
                && !part.ends_with(bad_end)
                && !part.contains("--")
                && !part.contains("..");
            if !valid {
                return Err(format!("`{part}` cannot be part of a hub id"));
            }
        }
        let known = |c: char| c.is_ascii_alphanumeric() || "._-+/".contains(c);
        let component = |part: &str| !part.is_empty() && !part.starts_with('.');
        if !revision.chars().all(known) || !revision.split('/').all(component) || revision.len() > 200 {
            return Err(format!("`{revision}` cannot be a revision"));
        }
        Ok(Self { org: org.into(), name: name.into(), revision: revision.into() })
    }

    /// `org/name`.
    pub fn repo(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }

    /// Branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Whether the revision is a full commit, which always names the same files.
    pub fn is_commit(&self) -> bool {
        is_commit(&self.revision)
    }

    /// The directory of the repository in the cache.
    pub(super) fn dir_name(&self) -> String {
        format!("models--{}--{}", self.org, self.name)
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.org, self.name, self.revision)
    }
}

/// 40 hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id = HubId::parse("Qwen/Qwen3-0.6B").unwrap();
        assert_eq!((id.repo().as_str(), id.revision(), id.is_commit()), ("Qwen/Qwen3-0.6B", "main", false));
        assert_eq!(id.dir_name(), "models--Qwen--Qwen3-0.6B");
        let id = HubId::parse("a/b@refs/pr/7").unwrap();
        assert_eq!((id.revision(), id.to_string().as_str()), ("refs/pr/7", "a/b@refs/pr/7"));
        assert!(HubId::parse(&format!("a/b@{}", "0a".repeat(20))).unwrap().is_commit());
    }

    #[test]
    fn nothing_that_could_leave_the_cache_or_the_address() {
        for text in [
            "",
            "model",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "../x",
            "a/..",
            "./a",
            "a/.hidden",
            "a/b--c",
            "a b/c",
            "a/b?x",
            "a/b#x",
            "a/b%2f",
            "~/b",
            "a/b@",
            "a/b@..",
            "a/b@x/../y",
            "a/b@/x",
            "a/b@x/",
            "a/b@x y",
            "a/b@x?y",
            "a/b@.x",
            "a\\b/c",
            "é/b",
        ] {
            assert!(HubId::parse(text).is_err(), "{text:?}");
        }
    }
}
