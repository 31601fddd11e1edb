//! What stands where a model should be, in words: other formats, pointers instead of files, names
//! that are nearly right.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use super::file_names::{CONFIG, WEIGHT_INDEX, WEIGHTS};
use super::layout;
use super::name::HubId;
use super::options::HubOptions;
use crate::{EngineError, Result};

/// What to give as a model.
const WANTED: &str =
    "give a directory that holds config.json, a GGUF file, or a hub id as org/name[:TYPE][@revision]";

/// How a file in git's large-file storage begins before its content was fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Enough of a file to see what it is.
const HEAD_LEN: u64 = 512;

/// Whether a file's name says that it is GGUF.
pub(super) fn is_gguf(name: &str) -> bool {
    has_end(name, &[".gguf"])
}

fn has_end(name: &str, ends: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    ends.iter().any(|end| name.ends_with(end))
}

/// Whether a path is that of a GGUF file, by its name or by how it begins.
pub(super) fn is_gguf_file(path: &Path) -> bool {
    let begins = || {
        let mut magic = [0; 4];
        File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok() && &magic == b"GGUF")
    };
    path.is_file() && (is_gguf(&path.file_name().unwrap_or_default().to_string_lossy()) || begins())
}

/// The error for a name under which there is something that is no model.
pub(super) fn no_model(model: &str, path: &Path) -> EngineError {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let problem = if has_end(&name, &[".bin", ".pt", ".pth", ".ckpt"]) {
        format!("it is a file of pickled weights, which are not read; {WANTED}")
    } else {
        // A model's own file: its directory was meant.
        let dir = path.parent().filter(|dir| dir.join(CONFIG).is_file());
        match dir {
            Some(dir) if dir.as_os_str().is_empty() => {
                "it is one file of a model; give its directory: .".to_owned()
            }
            Some(dir) => format!("it is one file of a model; give its directory: {}", dir.display()),
            None => format!("it is a file, not a directory; {WANTED}"),
        }
    };
    EngineError::ModelName { model: model.into(), problem }
}

/// Whether a name can only be meant as a path.
pub(super) fn looks_like_path(model: &str) -> bool {
    let model = model.trim_end_matches('/');
    model.is_empty()
        || Path::new(model).is_absolute()
        || model.starts_with(['.', '~'])
        || model.contains('\\')
        || model.matches('/').count() > 1 && !model.contains(['@', ':'])
        || has_end(model, &[".safetensors", ".gguf", ".json", ".bin", ".pt", ".pth"]) && !model.contains(':')
}

/// The error for a path at which there is nothing.
pub(super) fn no_such_path(model: &str) -> EngineError {
    let path = Path::new(model);
    let problem = if model.trim().is_empty() {
        format!("it is empty; {WANTED}")
    } else if is_gguf(model) {
        "there is no such file".into()
    } else {
        // The part that is missing may be far up.
        let missing = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).last();
        match (nearest(path), missing.filter(|missing| *missing != path)) {
            (Some(near), _) => format!("there is no such directory; did you mean {}?", near.display()),
            (None, Some(missing)) => {
                format!("there is no such directory ({} does not exist)", missing.display())
            }
            (None, None) => format!("there is no such directory; {WANTED}"),
        }
    };
    EngineError::ModelName { model: model.into(), problem }
}

/// The error for one word that is no directory.
pub(super) fn no_such_word(model: &str, options: &HubOptions) -> EngineError {
    let near = nearest(Path::new(model)).map(|path| path.display().to_string());
    let near = near.or_else(|| nearest_in_cache(model, options));
    let problem = if let Some(near) = near {
        format!("there is no such directory; did you mean {near}?")
    } else if model.contains(':') {
        // Ollama's names, `family:tag`.
        "there is no such directory, and a hub id has the form org/name[:TYPE][@revision], as in \
         Qwen/Qwen3-0.6B-GGUF:Q8_0"
            .into()
    } else {
        format!("there is no such directory, and a hub id has the form org/name; {WANTED}")
    };
    EngineError::ModelName { model: model.into(), problem }
}

/// A directory beside the one that was asked for whose name is nearly the same.
fn nearest(path: &Path) -> Option<PathBuf> {
    let wanted = path.file_name()?.to_str()?;
    let parent = path.parent()?;
    let listed = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let entries = std::fs::read_dir(listed).ok()?.flatten().filter(|entry| entry.path().is_dir());
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    most_similar(wanted, names).map(|name| parent.join(name))
}

/// A directory that may have been meant by what reads as a hub id: `org` is a directory here, and
/// holds one of nearly that name.
pub(super) fn nearest_directory(id: &HubId) -> Option<String> {
    let path = PathBuf::from(id.repo());
    Path::new(id.org()).is_dir().then(|| nearest(&path))?.map(|near| near.display().to_string())
}

/// A model in the cache whose name, or whose name without its organisation, is nearly the one that
/// was asked for.
pub(super) fn nearest_in_cache(wanted: &str, options: &HubOptions) -> Option<String> {
    let ids: Vec<_> = layout::models(&options.cache_dir).into_keys().collect();
    if wanted.contains('/') {
        return most_similar(wanted, ids.into_iter());
    }
    let names = ids.iter().filter_map(|id| id.split_once('/').map(|(_, name)| name.to_owned()));
    let name = most_similar(wanted, names)?;
    ids.into_iter().find(|id| id.ends_with(&format!("/{name}")))
}

/// The name that was probably meant: the same but for case, hyphens and a slip or two.
pub fn most_similar(wanted: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let plain = |name: &str| name.to_lowercase().replace(['_', ' ', ':'], "-");
    let wanted = plain(wanted);
    // A slip for every four letters, two at most: short names are all alike.
    let most = (wanted.chars().count() / 4).min(2);
    let distances = names.map(|name| (strsim::osa_distance(&wanted, &plain(&name)), name));
    distances.filter(|(distance, _)| *distance <= most).min().map(|(_, name)| name)
}

/// Why a place without config.json is no model; `names` are its files.
pub(super) fn no_config(names: &BTreeSet<String>) -> String {
    if names.contains("adapter_config.json") {
        "it holds an adapter (adapter_config.json), which is not supported yet; merge it into its base model"
            .into()
    } else {
        "a model has the layout of a Hugging Face repository, or is a GGUF file".into()
    }
}

/// Why a place without the expected weights is no model; `names` are its files.
pub(super) fn no_weights(names: &BTreeSet<String>) -> String {
    let find = |ends: &[&str]| names.iter().find(|name| has_end(name, ends));
    let wanted = format!("weights are read from {WEIGHTS} or {WEIGHT_INDEX} and its shards");
    if names.contains("adapter_model.safetensors") {
        format!("{wanted}, not from an adapter (adapter_model.safetensors); merge it into its base model")
    } else if let Some(file) = find(&[".bin", ".pt", ".pth", ".ckpt"]) {
        format!(
            "{wanted}, not from pickled files ({file}); take a repository or a revision with safetensors, or let \
             transformers' save_pretrained write them"
        )
    } else if let Some(file) = find(&[".safetensors", ".onnx", ".h5", ".msgpack"]) {
        format!("{wanted}, not from {file}")
    } else {
        format!("there is no {WEIGHT_INDEX} either")
    }
}

/// A file of a model, if it is there: not a link to nothing, a directory, or a stand-in for the
/// file.
///
/// # Errors
/// [`EngineError::WrongFile`] for such; [`EngineError::ReadFile`] if it cannot be looked at.
pub(super) fn present(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    let path = dir.join(name);
    let unreadable = |cause| EngineError::ReadFile { path: path.clone(), cause };
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(metadata) => {
            let what = if metadata.is_dir() { "a directory" } else { "a device or a pipe" };
            return Err(EngineError::WrongFile { path, problem: format!("is {what}, not a file") });
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let Ok(target) = std::fs::read_link(&path) else { return Ok(None) };
            let problem = format!(
                "is a link to {}, which does not exist: the download is incomplete or its cache was cleared; fetch it again",
                target.display()
            );
            return Err(EngineError::WrongFile { path, problem });
        }
        Err(e) => return Err(unreadable(e)),
    }
    let mut head = Vec::new();
    File::open(&path).and_then(|file| file.take(HEAD_LEN).read_to_end(&mut head)).map_err(unreadable)?;
    match stand_in(&head) {
        Some(problem) => Err(EngineError::WrongFile { path, problem: problem.into() }),
        None => Ok(Some(path)),
    }
}

/// What a file is that a failed download or a clone without large files left in the place of
/// another.
fn stand_in(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(LFS_POINTER) {
        return Some(
            "is a Git LFS pointer, not the file itself: run `git lfs pull` in its directory, or fetch the model with \
             `nvllm pull`",
        );
    }
    let text = head.trim_ascii_start();
    let begins = |with: &[u8]| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    if begins(b"<!doctype") || begins(b"<html") || begins(b"<?xml") {
        return Some("is a web page, not the file itself: the download met an error page; fetch it again");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_names() {
        let names = || ["Qwen3-0.6B", "Qwen3-8B", "nvllm-tiny", "a"].map(str::to_owned).into_iter();
        for (wanted, found) in [
            ("qwen3-0.6b", Some("Qwen3-0.6B")),
            ("Qwen3_0.6B", Some("Qwen3-0.6B")),
            ("qwen3:8b", Some("Qwen3-8B")),
            ("nvlm-tiny", Some("nvllm-tiny")),
            ("nvllm_tnii", Some("nvllm-tiny")),
            ("b", None),
            ("Llama-3", None),
            ("", None),
        ] {
            assert_eq!(most_similar(wanted, names()).as_deref(), found, "{wanted}");
        }
    }

    #[test]
    fn stand_ins() {
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        assert!(stand_in(lfs).unwrap().contains("git lfs pull"));
        for page in ["<!DOCTYPE html>", "\n <html lang=en>", "<?xml version=\"1.0\"?><Error>"] {
            assert!(stand_in(page.as_bytes()).unwrap().contains("web page"), "{page}");
        }
        for file in [&b"{}"[..], b"", b"{% for m in messages %}<html>", b"version 2", b"\x80\0\0\0\0\0\0\0{"]
        {
            assert_eq!(stand_in(file), None);
        }
    }
}
