//! The constants of all files as one module of Rust.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::constants::{File, read};
use super::expr::Names;

/// Text of a module for each of `files`, paths below `kernels/` with their texts; of
/// `linear/small_m.cu` it is `linear::small_m`. What a file includes is visible in it.
///
/// # Errors
/// If two files would have one module or one name in an include.
pub(crate) fn module(files: &[(String, String)]) -> Result<String, String> {
    let mut all = All { files, done: BTreeMap::new() };
    let mut folders: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for (path, _) in files {
        let (folder, name) = path.split_once('/').ok_or_else(|| format!("{path} is in no folder"))?;
        let stem = name.split('.').next().unwrap_or(name);
        let modules = folders.entry(folder).or_default();
        if modules.iter().any(|(_, known)| *known == stem) {
            return Err(format!("two files are called {folder}/{stem}"));
        }
        modules.push((path, stem));
        all.read(path);
    }
    let (mut text, mut limits) = (String::new(), String::new());
    for (folder, modules) in folders {
        let mut inside = String::new();
        for (path, stem) in modules {
            let Some(file) = all.done.get(path).filter(|file| !file.items.is_empty()) else { continue };
            let _ = writeln!(inside, "pub(crate) mod {stem} {{");
            for visible in all.visible(path) {
                let _ = writeln!(inside, "use crate::kernels::{visible}::*;");
            }
            file.items.iter().for_each(|(_, line)| inside.extend([line, "\n"]));
            inside += "}\n";
            if file.names.contains_key("STATIC_SHARED") {
                let _ = writeln!(limits, "(\"{path}\", {folder}::{stem}::STATIC_SHARED),");
            }
        }
        if !inside.is_empty() {
            let _ = writeln!(text, "pub(crate) mod {folder} {{\n{inside}}}");
        }
    }
    let _ = writeln!(text, "pub(crate) const STATIC_SHARED: &[(&str, usize)] = &[{limits}];");
    Ok(text)
}

/// Files, read as they are needed.
struct All<'a> {
    files: &'a [(String, String)],
    done: BTreeMap<String, File>,
}

impl All<'_> {
    /// The file's path of a name in an include.
    fn path(&self, name: &str) -> Option<&str> {
        let files = self.files.iter().map(|(path, _)| path.as_str());
        files.into_iter().find(|path| path.split_once('/').is_some_and(|(_, file)| file == name))
    }

    /// Reads the file and what it includes; its names and theirs.
    fn read(&mut self, path: &str) -> Names {
        if !self.done.contains_key(path) {
            let text = self.files.iter().find(|(known, _)| known == path).map(|(_, text)| text.clone());
            self.done.insert(path.into(), File::default());
            let file = read(&text.unwrap_or_default(), |name| {
                self.path(name).map(str::to_owned).map(|path| self.read(&path)).unwrap_or_default()
            });
            self.done.insert(path.into(), file);
        }
        let mut names = self.done[path].names.clone();
        for other in self.included(path) {
            names.extend(self.done[&other].names.clone());
        }
        names
    }

    /// Paths of what a file includes, and of what that includes.
    fn included(&self, path: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut next = vec![path.to_owned()];
        while let Some(path) = next.pop() {
            for name in self.done.get(&path).map_or(&[][..], |file| &file.includes) {
                if let Some(included) = self.path(name)
                    && !found.iter().any(|known| known == included)
                {
                    found.push(included.into());
                    next.push(included.into());
                }
            }
        }
        found
    }

    /// Modules of what a file includes, if they hold anything.
    fn visible(&self, path: &str) -> Vec<String> {
        let holding = |path: &String| self.done.get(path).is_some_and(|file| !file.items.is_empty());
        let paths = self.included(path).into_iter().filter(holding);
        paths.filter_map(|path| Some(path.rsplit_once('.')?.0.replace('/', "::"))).collect()
    }
}
