//! The modules of a crate, and which file defines what a path names.

use std::collections::HashMap;

use super::source::{Path, Source};

/// Index of a module in [`Modules`].
type Id = usize;

struct Module {
    /// Path of the file that it stands in.
    file: String,
    parent: Option<Id>,
    children: HashMap<String, Id>,
    source: Source,
}

/// All modules of a crate; the first is its root.
#[derive(Default)]
pub(super) struct Modules {
    all: Vec<Module>,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Module(Id),
    /// Something that is defined in this module.
    Item(Id),
}

/// One file names something that another one defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrow {
    pub from: String,
    pub to: String,
    /// What is named.
    pub name: String,
    /// Where, in `from`, from 1.
    pub line: usize,
}

/// A chain of re-exports that is longer goes in circles itself.
const DEEPEST: usize = 16;

impl Modules {
    /// Adds the module that `source` is and those below it. `read` takes the path of a file
    /// without `.rs`, and gives its whole path and what it holds.
    pub(super) fn add(
        &mut self,
        (file, mut source): (&str, Source),
        (dir, parent): (&str, Option<Id>),
        read: &mut dyn FnMut(&str) -> Option<(String, Source)>,
    ) -> Id {
        let id = self.all.len();
        let names = source.files.clone();
        let inline = std::mem::take(&mut source.inline);
        self.all.push(Module { file: file.into(), parent, children: HashMap::new(), source });
        for name in names {
            let stem = format!("{dir}/{name}");
            if let Some((path, source)) = read(&stem) {
                let child = self.add((&path, source), (&stem, Some(id)), read);
                self.all[id].children.insert(name, child);
            }
        }
        for (name, source) in inline {
            let child = self.add((file, source), (&format!("{dir}/{name}"), Some(id)), read);
            self.all[id].children.insert(name, child);
        }
        id
    }

    /// Every arrow from one file to another, in order of modules and lines. A re-export is none
    /// unless the module uses the name itself; the arrow to what is re-exported begins where it is
    /// used.
    pub(super) fn arrows(&self) -> Vec<Arrow> {
        let mut found = Vec::new();
        for (id, module) in self.all.iter().enumerate() {
            let private = module.source.uses.iter().filter(|import| !import.is_public);
            let imported = private.map(|import| (&import.path, import.line));
            let named = module.source.paths.iter().map(|(path, line)| (path, *line));
            for (path, line) in imported.chain(named) {
                let Some(Target::Item(to)) = self.resolve(id, path, 0) else { continue };
                let (from, to) = (&module.file, &self.all[to].file);
                if from != to {
                    let name = path.last().cloned().unwrap_or_default();
                    found.push(Arrow { from: from.clone(), to: to.clone(), name, line });
                }
            }
        }
        found
    }

    /// What `path` means in the module `at`; none if it is another crate's.
    fn resolve(&self, at: Id, path: &Path, depth: usize) -> Option<Target> {
        if depth > DEEPEST {
            return None;
        }
        let mut here = at;
        let mut is_ours = false;
        for (place, name) in path.iter().enumerate() {
            let is_last = place + 1 == path.len();
            let next = match name.as_str() {
                "crate" => Some(Target::Module(0)),
                "self" => Some(Target::Module(here)),
                "super" => self.all[here].parent.map(Target::Module),
                name => self.lookup(here, name, is_last, depth),
            };
            // What a macro defines is not seen; what is asked of a module of ours is its own.
            let next = next.or(is_ours.then_some(Target::Item(here)))?;
            match next {
                Target::Module(id) => here = id,
                Target::Item(_) => return Some(next),
            }
            is_ours = true;
        }
        Some(Target::Module(here))
    }

    /// What `name` means in the module `at`: of a module and an item of the same name, the item if
    /// it ends a path.
    fn lookup(&self, at: Id, name: &str, is_last: bool, depth: usize) -> Option<Target> {
        let module = &self.all[at];
        let child = || module.children.get(name).map(|id| Target::Module(*id));
        let item = || module.source.items.contains(name).then_some(Target::Item(at));
        let import = || {
            let import = module.source.uses.iter().find(|import| import.name == name)?;
            // `use a::a` names the item of the module, not itself.
            let is_itself = import.path.len() == 1 && import.path[0] == name;
            if is_itself { None } else { self.resolve(at, &import.path, depth + 1) }
        };
        let named = if is_last {
            item().or_else(import).or_else(child)
        } else {
            child().or_else(import).or_else(item)
        };
        named.or_else(|| {
            module.source.globs.iter().find_map(|glob| match self.resolve(at, glob, depth + 1)? {
                Target::Module(id) if id != at && depth < DEEPEST => {
                    self.lookup(id, name, is_last, depth + 1)
                }
                _ => None,
            })
        })
    }
}
