//! `org/name[:variant][@revision]`.

use std::fmt;

/// A repository of a hub and a revision of it. Every part is safe as a path component and in an
/// address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    org: String,
    name: String,
    /// Which GGUF file of it: a type (`Q4_K_M`) or the file's name.
    variant: Option<String>,
    /// `None`: whatever `main` is.
    revision: Option<String>,
}

/// The branch that is meant where no revision is named.
const DEFAULT_REVISION: &str = "main";

impl HubId {
    /// Parses `org/name[:variant][@revision]`, where a variant is the type of a GGUF file or its
    /// name with folders, and a revision is a branch (`main` if none is given), a tag, a pull
    /// request (`refs/pr/1`) or a commit. The error says what is wrong in words that continue a
    /// sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (repo, revision) =
            text.split_once('@').map_or((text, None), |(repo, revision)| (repo, Some(revision)));
        let (repo, variant) =
            repo.split_once(':').map_or((repo, None), |(repo, variant)| (repo, Some(variant)));
        let Some((org, name)) = repo.split_once('/') else {
            return Err("a hub id has the form org/name".into());
        };
        if let Some(part) = [org, name].into_iter().find(|part| !is_part(part)) {
            return Err(format!("`{part}` cannot be part of a hub id"));
        }
        let known = |c: char| c.is_ascii_alphanumeric() || "._-+/".contains(c);
        let component = |part: &str| !part.is_empty() && !part.starts_with('.');
        let valid = |r: &str| r.chars().all(known) && r.split('/').all(component) && r.len() <= 200;
        if let Some(revision) = revision.filter(|revision| !valid(revision)) {
            return Err(format!("`{revision}` cannot be a revision"));
        }
        if let Some(variant) = variant.filter(|variant| !is_variant(variant)) {
            return Err(no_variant(variant));
        }
        let (org, name) = (org.into(), name.into());
        Ok(Self { org, name, variant: variant.map(str::to_owned), revision: revision.map(str::to_owned) })
    }

    /// The same repository, of which the GGUF file is meant that `variant` names.
    pub(super) fn with_variant(self, variant: String) -> Result<Self, String> {
        if !is_variant(&variant) {
            return Err(no_variant(&variant));
        }
        Ok(Self { variant: Some(variant), ..self })
    }

    /// Which GGUF file of the repository is meant, if one was named: a type or the file's name.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// `org/name`.
    pub fn repo(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }

    /// `org`.
    pub(super) fn org(&self) -> &str {
        &self.org
    }

    /// Branch, tag or commit; `main` where none was named.
    pub fn revision(&self) -> &str {
        self.named_revision().unwrap_or(DEFAULT_REVISION)
    }

    /// Branch, tag or commit, if one was named.
    pub fn named_revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// Whether the revision is a full commit, which always names the same files.
    pub fn is_commit(&self) -> bool {
        is_commit(self.revision())
    }

    /// The directory of the repository in the cache.
    pub(super) fn dir_name(&self) -> String {
        format!("models--{}--{}", self.org, self.name)
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = self.variant().map_or_else(String::new, |variant| format!(":{variant}"));
        write!(f, "{}/{}{variant}@{}", self.org, self.name, self.revision())
    }
}

/// Whether `org` or `name` can be one.
pub(super) fn is_part(part: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let bad_end = |c: char| ".-".contains(c);
    (1..=96).contains(&part.len())
        && part.chars().all(known)
        && !part.starts_with(bad_end)
        && !part.ends_with(bad_end)
        && !part.contains("--")
        && !part.contains("..")
}

/// Whether a text can be a type or the name of a file in a repository, with its folders. It is
/// compared with names and becomes no path, so that hardly anything is refused.
fn is_variant(text: &str) -> bool {
    let component = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains("..");
    text.len() <= 1024
        && text.split('/').all(component)
        && !text.chars().any(|c| c.is_control() || "\\:@".contains(c))
}

fn no_variant(text: &str) -> String {
    let shown = text.escape_debug();
    format!("`{shown}` cannot be the type or the name of a GGUF file, as in org/name:Q4_K_M")
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
        let id = HubId::parse("a/b:Q4_K_M@v1").unwrap();
        assert_eq!((id.repo().as_str(), id.variant(), id.revision()), ("a/b", Some("Q4_K_M"), "v1"));
        assert_eq!((id.to_string().as_str(), id.dir_name().as_str()), ("a/b:Q4_K_M@v1", "models--a--b"));
        for file in
            ["BF16/m-00001-of-00002.gguf", "m--x.gguf", "m-.gguf", "modèle (2).gguf", &"m".repeat(200)]
        {
            assert_eq!(HubId::parse(&format!("a/b:{file}")).unwrap().variant(), Some(file));
        }
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
            "a/b:",
            "a/b:../x",
            "a/b:/c",
            "a/b:c/",
            "a/b:c//d",
            "a/b:c/../d",
            "a/b:c..d",
            "a/b:c\\d",
            "a/b:c\nd",
            "a/b:.c",
            "a/b:c:d",
            "a\\b/c",
            "é/b",
        ] {
            assert!(HubId::parse(text).is_err(), "{text:?}");
        }
    }
}
