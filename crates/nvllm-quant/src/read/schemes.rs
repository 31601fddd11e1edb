//! Which coded module lies in which layout: one for all, or one for each group of modules.

use std::collections::BTreeSet;

use fancy_regex::Regex;
use nvllm_core::{CoreError, Result};

use super::excluded::pattern;
use super::fields::Fields;
use super::layout::Layout;

/// The layouts of a checkpoint.
#[derive(Debug)]
pub(super) struct Schemes(Vec<Group>);

/// Modules that are coded alike.
#[derive(Debug)]
struct Group {
    layout: Box<dyn Layout>,
    targets: Vec<Target>,
}

/// What names the modules of a group.
#[derive(Debug)]
pub(super) struct Target {
    /// Where config.json has it.
    field: String,
    /// As it is there.
    text: String,
    /// What `re:` is followed by.
    pattern: Option<Regex>,
}

/// How a target names a module, the more specific first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    Name,
    Pattern,
    Class,
}

impl Target {
    /// The `targets` of a group of config.json.
    ///
    /// Errors if they are no list of names and patterns.
    pub(super) fn all_of(group: &Fields<'_>) -> Result<Vec<Self>> {
        const FIELD: &str = "targets";
        let target = |text: String| {
            let pattern = text.strip_prefix("re:").map(pattern).transpose();
            let pattern = pattern.map_err(|why| group.error(FIELD, why))?;
            Ok(Self { field: group.path_of(FIELD), text, pattern })
        };
        group.texts(FIELD)?.into_iter().map(target).collect()
    }

    /// compressed-tensors' rule (`match_targets`): the module's name, a pattern from its start, or
    /// the name of its class. All coded modules are linear layers but embeddings.
    fn matches(&self, module: &str) -> Option<Match> {
        if let Some(pattern) = &self.pattern {
            return pattern.is_match(module).unwrap_or(false).then_some(Match::Pattern);
        }
        let class = if module.rsplit('.').next() == Some("embed_tokens") { "Embedding" } else { "Linear" };
        match &*self.text {
            text if text == module => Some(Match::Name),
            text if text == class => Some(Match::Class),
            _ => None,
        }
    }
}

impl Group {
    /// The most specific target that matches a module, and how.
    fn best(&self, module: &str) -> Option<(Match, &Target)> {
        let matches = self.targets.iter().filter_map(|target| Some((target.matches(module)?, target)));
        matches.min_by_key(|(how, _)| *how)
    }
}

impl Schemes {
    /// One layout for all coded modules.
    pub(super) fn one(layout: Box<dyn Layout>) -> Self {
        Self::of_groups([(layout, Vec::new())])
    }

    /// A layout for the modules that match targets. Of one group are all coded modules, whatever
    /// its targets.
    pub(super) fn of_groups(groups: impl IntoIterator<Item = (Box<dyn Layout>, Vec<Target>)>) -> Self {
        Self(groups.into_iter().map(|(layout, targets)| Group { layout, targets }).collect())
    }

    /// All layouts.
    pub(super) fn layouts(&self) -> impl Iterator<Item = &dyn Layout> {
        self.0.iter().map(|group| &*group.layout)
    }

    /// The layout of group `at`.
    pub(super) fn layout(&self, at: usize) -> &dyn Layout {
        &*self.0[at].layout
    }

    /// The group of a module: the one with the most specific of the targets that match it.
    ///
    /// Errors, in words about the module, if there is none, or more than one.
    pub(super) fn group_of(&self, module: &str) -> Result<usize, String> {
        if self.0.len() == 1 {
            return Ok(0);
        }
        let mut matches = Vec::new();
        for (at, group) in self.0.iter().enumerate() {
            matches.extend(group.best(module).map(|(how, target)| (how, at, target)));
        }
        matches.sort_by_key(|(how, ..)| *how);
        match matches[..] {
            [] => Err("is coded, and no target of `config_groups` is its name, pattern or class".into()),
            [(how, _, a), (other, _, b), ..] if how == other => Err(format!(
                "is of two groups: `{}` in `{}` and `{}` in `{}` match it alike",
                a.text, a.field, b.text, b.field
            )),
            [(_, at, _), ..] => Ok(at),
        }
    }

    /// Errors if a target is that of no module.
    pub(super) fn check_targets(&self, modules: &BTreeSet<&str>) -> Result<()> {
        if self.0.len() == 1 {
            return Ok(());
        }
        let unused = |target: &&Target| !modules.iter().any(|module| target.matches(module).is_some());
        match self.0.iter().flat_map(|group| &group.targets).find(unused) {
            Some(Target { field, text, .. }) => {
                let problem = format!("has `{text}`, which no module of the checkpoint matches");
                Err(CoreError::config(field, problem))
            }
            None => Ok(()),
        }
    }
}
