//! A model as data: entry programs over one set of weights and one declaration of state.

use std::collections::HashSet;

use crate::program::Recorder;
use crate::weight::{AxisRole, WeightDecl, WeightInfo, WeightPart, WeightSource};
use crate::{CoreError, EntryId, HfConfig, KvLayer, Op, PagedKv, Program, Result, WeightId};

/// What a model crate makes from config.json.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// Model family, for messages.
    pub name: String,
    /// Weights, by id.
    pub weights: Vec<WeightDecl>,
    /// KV groups.
    pub kv: Vec<PagedKv>,
    /// Entry programs; `generate` first.
    pub programs: Vec<Program>,
    /// Programs that can be entries and are not: each takes memory and time to load. See
    /// [`with_entry`](Self::with_entry).
    pub optional: Vec<Program>,
    /// Rows of the vocabulary.
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub max_positions: usize,
    /// Checkpoint tensors that may be present and are not used (a tied head's copy).
    pub unused_tensors: Vec<String>,
    /// Weights that a checkpoint may hold as one tensor of the weight's shape instead of in parts,
    /// and that tensor's name.
    pub stacked: Vec<(String, WeightId)>,
    /// Stems of fused ops that are not to be made of what the programs record.
    pub unfused: Vec<&'static str>,
}

impl ModelSpec {
    /// The name of the program that hands out hidden states after the last norm.
    pub const HIDDEN: &'static str = "hidden";

    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Option<EntryId> {
        self.programs.iter().position(|program| program.name == name).map(|at| EntryId(at as u32))
    }

    /// The model with one of its optional programs as the last entry; `None` if it has none of that
    /// name. It stores the keys and values that the other entries store.
    pub fn with_entry(&self, name: &str) -> Option<Self> {
        let at = self.optional.iter().position(|program| program.name == name)?;
        let mut spec = self.clone();
        spec.programs.push(spec.optional.remove(at));
        Some(spec)
    }

    /// Columns of the rows that [`HIDDEN`](Self::HIDDEN) hands out, whether it is an entry or not.
    pub fn hidden_size(&self) -> Option<usize> {
        let mut all = self.programs.iter().chain(&self.optional);
        let program = all.find(|program| program.name == Self::HIDDEN)?;
        program.output.map(|output| program.value(output.value()).cols)
    }

    /// Parameters, tied weights counted once.
    pub fn num_parameters(&self) -> usize {
        self.weights.iter().map(WeightDecl::num_elements).sum()
    }

    /// Refuses a checkpoint with missing tensors, or with more layers, or more in a layer, than is
    /// declared (config.json is not its own), before anything is allocated.
    pub fn check_names(&self, source: &dyn WeightSource) -> Result<()> {
        let names = source.names();
        let present: HashSet<_> = names.iter().map(String::as_str).collect();
        if let Some(name) = self.sources().find(|name| !present.contains(name)) {
            return Err(CoreError::MissingTensor { name: name.into(), place: source.describe() });
        }
        let extra = self.extra_tensors(source);
        if extra.is_empty() {
            return Ok(());
        }
        let numberless: HashSet<_> = self.sources().map(without_numbers).collect();
        let modules: HashSet<_> =
            self.sources().filter_map(|name| name.rsplit_once('.')).map(|(module, _)| module).collect();
        let belongs = |name: &str| {
            numberless.contains(&without_numbers(name))
                || name.match_indices('.').any(|(at, _)| modules.contains(&name[..at]))
        };
        match extra.into_iter().find(|name| belongs(name)) {
            Some(name) => Err(CoreError::UnknownTensor { name, place: source.describe() }),
            None => Ok(()),
        }
    }

    /// Tensors of a checkpoint that nothing reads (buffers, heads of other tasks), and that are not
    /// expected there.
    pub fn extra_tensors(&self, source: &dyn WeightSource) -> Vec<String> {
        let known: HashSet<_> =
            self.sources().chain(self.unused_tensors.iter().map(String::as_str)).collect();
        source.names().into_iter().filter(|name| !known.contains(name.as_str())).collect()
    }

    /// The checkpoint tensors that are read.
    fn sources(&self) -> impl Iterator<Item = &str> {
        self.weights.iter().flat_map(|w| w.parts.iter().map(|p| p.source.as_str()))
    }

    /// Refuses a checkpoint whose tensors are not those that are declared: names, shapes and
    /// formats. Reads no weight.
    pub fn check_weights(&self, source: &dyn WeightSource) -> Result<()> {
        self.check_names(source)?;
        self.weights.iter().try_for_each(|decl| WeightInfo::of(decl, source).map(drop))
    }

    /// Keeps a labelled value alive in every program that has it. Errors if none has.
    pub fn keep(&mut self, label: &str) -> Result<()> {
        let all = self.programs.iter_mut().chain(&mut self.optional);
        let kept = all.map(|p| p.keep(label)).fold(false, |a, b| a | b);
        if kept {
            return Ok(());
        }
        let problem = format!("has no value labelled `{label}`");
        Err(CoreError::BadProgram { program: self.name.clone(), problem })
    }

    /// Disables the fused op `stem` in all programs, whether recorded or made by
    /// [`fuse`](Program::fuse): its primitive expansion runs instead. False if no program has one.
    pub fn expand(&mut self, stem: &str) -> Result<bool> {
        let Some(stem) = Op::FUSED.into_iter().find(|fused| *fused == stem) else { return Ok(false) };
        let mut found = false;
        for program in self.programs.iter_mut().chain(&mut self.optional) {
            found |= program.fuse(|_| true)?.nodes.iter().any(|node| node.op.stem() == stem);
            *program = program.expand(|op| op.stem() == stem)?;
        }
        self.unfused.push(stem);
        Ok(found)
    }
}

/// A tensor's name whatever its layer and its expert.
fn without_numbers(name: &str) -> String {
    let part = |part| if str::parse::<u32>(part).is_ok() { "" } else { part };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// What a model family exports to the registry.
#[derive(Clone, Copy)]
pub struct ModelFamily {
    /// Names of `architectures` in config.json.
    pub architectures: &'static [&'static str],
    /// Reads the config and records the model.
    pub build: fn(&HfConfig) -> Result<ModelSpec>,
}

/// Declares weights and state, then records programs over them.
#[derive(Default)]
pub struct SpecBuilder {
    weights: Vec<WeightDecl>,
    kv: Vec<PagedKv>,
    stacked: Vec<(String, WeightId)>,
}

impl SpecBuilder {
    /// Nothing declared.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares any weight.
    pub fn weight(&mut self, decl: WeightDecl) -> WeightId {
        self.weights.push(decl);
        WeightId(self.weights.len() as u32 - 1)
    }

    /// A replicated vector `[n]` from the checkpoint tensor `source`.
    pub fn vector(&mut self, name: impl Into<String>, source: impl Into<String>, n: usize) -> WeightId {
        let parts = vec![WeightPart { source: source.into(), num_rows: n, role: AxisRole::Replicated }];
        self.weight(WeightDecl { name: name.into(), shape: vec![n], parts, in_role: AxisRole::Replicated })
    }

    /// A matrix `[sum of part rows, k]` of the given parts.
    pub fn matrix(
        &mut self,
        name: impl Into<String>,
        k: usize,
        in_role: AxisRole,
        parts: impl IntoIterator<Item = (String, usize, AxisRole)>,
    ) -> WeightId {
        let parts: Vec<_> =
            parts.into_iter().map(|(source, num_rows, role)| WeightPart { source, num_rows, role }).collect();
        let n = parts.iter().map(|p| p.num_rows).sum();
        self.weight(WeightDecl { name: name.into(), shape: vec![n, k], parts, in_role })
    }

    /// Says that a checkpoint may hold all parts of `weight` in the tensor `source`, in order.
    pub fn or_stacked(&mut self, weight: WeightId, source: impl Into<String>) -> WeightId {
        self.stacked.push((source.into(), weight));
        weight
    }

    /// Declares the next KV group; its layers are then named by [`KvLayer`].
    pub fn paged_kv(&mut self, kv: PagedKv) -> impl Fn(usize) -> KvLayer + use<> {
        let group = self.kv.len();
        self.kv.push(kv);
        move |layer| KvLayer { group, layer }
    }

    /// Starts recording an entry program over what has been declared.
    pub fn program(&self, name: &str) -> Recorder {
        Recorder::new(name, &self.weights, &self.kv)
    }

    /// The finished spec.
    pub fn finish(
        self,
        name: &str,
        programs: Vec<Program>,
        vocab_size: usize,
        max_positions: usize,
    ) -> ModelSpec {
        ModelSpec {
            name: name.into(),
            weights: self.weights,
            kv: self.kv,
            programs,
            optional: Vec::new(),
            vocab_size,
            max_positions,
            unused_tensors: Vec::new(),
            stacked: self.stacked,
            unfused: Vec::new(),
        }
    }
}
