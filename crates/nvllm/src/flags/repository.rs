//! What only the repository knows of a measurement: `cargo xtask bench` says it.

use std::path::PathBuf;

use clap::Args;
use nvllm_bench::{Installation, installations, record};

#[derive(Args, Clone, Default)]
pub(crate) struct RepositoryArgs {
    /// The source's commit, with -dirty behind it if files differed.
    #[arg(long, hide = true)]
    pub commit: Option<String>,
    /// What was checked before, of the same source, and held.
    #[arg(long, hide = true, value_name = "TEXT")]
    pub checked: Option<String>,
    /// The demo model's folder, for a build that does not embed it.
    #[arg(long, hide = true, value_name = "DIR")]
    pub gate_model: Option<PathBuf>,
    /// The seed of a model with random weights.
    #[arg(long, hide = true, value_name = "N")]
    pub weights_seed: Option<u64>,
    /// The folder of the peers' adapters.
    #[arg(long, hide = true, value_name = "DIR")]
    pub peer_adapters: Option<PathBuf>,
    /// A Python in which peers may be installed; may be given several times.
    #[arg(long, hide = true, value_name = "FILE", requires = "peer_adapters")]
    pub peer_python: Vec<PathBuf>,
    /// Where peers keep converted weights and logs.
    #[arg(long, hide = true, value_name = "DIR")]
    pub peer_scratch: Option<PathBuf>,
}

impl RepositoryArgs {
    /// What this program was built from: as said, or a release.
    pub(crate) fn source(&self) -> record::Source {
        let Some(said) = &self.commit else {
            let commit = concat!("version ", env!("CARGO_PKG_VERSION")).into();
            return record::Source { commit, dirty: None };
        };
        let clean = said.strip_suffix("-dirty");
        record::Source { commit: clean.unwrap_or(said).into(), dirty: Some(clean.is_some()) }
    }

    /// Peers to look for.
    pub(crate) fn peers(&self, quick: bool) -> Vec<Installation> {
        match &self.peer_adapters {
            Some(adapters) => installations(adapters, &self.peer_python, quick),
            None => Vec::new(),
        }
    }

    /// A command line without what stands in the record elsewhere: what was checked.
    pub(crate) fn shown(&self, flags: impl Iterator<Item = String>) -> Vec<String> {
        let is_checked = |flag: &String| flag == "--checked" || Some(flag) == self.checked.as_ref();
        flags.filter(|flag| !is_checked(flag)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_says_whether_files_differed() {
        let of = |commit: Option<&str>| {
            RepositoryArgs { commit: commit.map(Into::into), ..Default::default() }.source()
        };
        assert_eq!(of(Some("abc")), record::Source { commit: "abc".into(), dirty: Some(false) });
        assert_eq!(of(Some("abc-dirty")), record::Source { commit: "abc".into(), dirty: Some(true) });
        assert!(of(None).commit.starts_with("version ") && of(None).dirty.is_none());
    }

    #[test]
    fn what_was_checked_is_no_flag() {
        let args = RepositoryArgs { checked: Some("16 of 16".into()), ..Default::default() };
        let flags = ["bench", "--checked", "16 of 16", "--quick"].map(String::from);
        assert_eq!(args.shown(flags.into_iter()), ["bench", "--quick"]);
    }
}
