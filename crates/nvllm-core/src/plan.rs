//! How a backend will run a model, decided before it takes any memory.

use crate::program::MemoryPlan;
use crate::{
    Backend, CoreError, KvFormat, KvGeometry, Limits, MemoryReport, ModelSpec, Op, Program, Reason, Result,
    WeightId, WeightInfo, WeightSource,
};

/// What a backend is asked about one op: all that its choice of a kernel may depend on.
///
/// Dtypes of values follow from the op and from [`Limits::activations`], the format of the KV cache
/// is [`Limits::kv_format`].
#[derive(Clone, Copy, Debug)]
pub struct OpQuery<'a> {
    /// The op.
    pub op: &'a Op,
    /// Shapes and formats of the model's weights, by id.
    pub weights: &'a [WeightInfo],
    /// Dtypes, largest extents, and the promise on the order of sums.
    pub limits: &'a Limits,
}

impl<'a> OpQuery<'a> {
    /// The shape and format of a weight of the op.
    pub fn weight(&self, id: WeightId) -> &'a WeightInfo {
        &self.weights[id.index()]
    }

    /// What a backend without kernels for coded weights says of every op first, so that no codes
    /// are ever taken for numbers.
    ///
    /// Errors with the format of the first weight of the op that is coded or quantises its input.
    pub fn plain_weights(&self) -> Result<(), Reason> {
        self.op.weights().into_iter().try_for_each(|id| self.weight(id).plain().map(drop))
    }

    /// What a backend that has kernels for a KV cache in `formats` only says of every op first.
    ///
    /// Errors if the op reads or writes a cache in another one.
    pub fn kv_format_among(&self, formats: &[KvFormat]) -> Result<(), Reason> {
        let format = self.limits.kv_format;
        if self.op.kv().is_none() || formats.contains(&format) {
            return Ok(());
        }
        Err(Reason(format!("the KV cache is in {format}; {} are supported", listed(formats))))
    }

    /// The formats of the KV cache with which `backend` would run the op, the rest as it is; none
    /// if the op touches no cache.
    pub fn kv_formats<B: Backend + ?Sized>(&self, backend: &B) -> Vec<KvFormat> {
        let runs = |&kv_format: &KvFormat| {
            let limits = Limits { kv_format, ..self.limits.clone() };
            backend.supports(&OpQuery { limits: &limits, ..*self }).is_ok()
        };
        KvFormat::ALL.into_iter().filter(|_| self.op.kv().is_some()).filter(runs).collect()
    }
}

/// A model as one backend will run it. What is shown of a model (its programs, its memory) and what
/// [`Backend::load`] does are both read from here, so they cannot differ.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The model. Its programs are those that run: fused and expanded for the backend.
    pub spec: ModelSpec,
    /// Shapes and formats of its weights, by id.
    pub weights: Vec<WeightInfo>,
    /// The limits in force.
    pub limits: Limits,
    /// The KV cache, by group.
    pub kv: Vec<KvGeometry>,
    /// Where the values of each program lie.
    pub values: Vec<MemoryPlan>,
    /// Bytes that loading allocates.
    pub memory: MemoryReport,
}

impl Plan {
    /// The plan of a backend that keeps weights as the checkpoint has them and needs no scratch;
    /// other backends change [`memory`](Self::memory).
    ///
    /// Errors as [`Backend::plan`].
    pub fn new<B: Backend + ?Sized>(
        backend: &B,
        spec: &ModelSpec,
        source: &dyn WeightSource,
        limits: &Limits,
    ) -> Result<Self> {
        limits.check()?;
        spec.check_names(source)?;
        let weights =
            spec.weights.iter().map(|decl| WeightInfo::of(decl, source)).collect::<Result<Vec<_>>>()?;
        let programs = legalize(backend, spec, &weights, limits)?;
        let kv = KvGeometry::plan(&spec.kv, limits)?;
        let rules = backend.plan_rules();
        let values = programs
            .iter()
            .map(|program| MemoryPlan::new(program, limits, &rules))
            .collect::<Result<Vec<_>>>()?;
        let sum = |bytes: &mut dyn Iterator<Item = usize>| bytes.fold(0, usize::saturating_add);
        let memory = MemoryReport {
            weights: sum(&mut weights.iter().map(WeightInfo::bytes)),
            kv: sum(&mut kv.iter().map(KvGeometry::bytes)),
            arena: values.iter().map(MemoryPlan::bytes).max().unwrap_or(0),
            scratch: 0,
        };
        let spec = ModelSpec { programs, ..spec.clone() };
        Ok(Self { spec, weights, limits: limits.clone(), kv, values, memory })
    }

    /// The question about `op` of this model.
    pub fn query<'a>(&'a self, op: &'a Op) -> OpQuery<'a> {
        OpQuery { op, weights: &self.weights, limits: &self.limits }
    }
}

/// The programs of `spec` in ops that `backend` has kernels for: ops that it runs as one are fused,
/// fused ops that it lacks are expanded.
fn legalize<B: Backend + ?Sized>(
    backend: &B,
    spec: &ModelSpec,
    weights: &[WeightInfo],
    limits: &Limits,
) -> Result<Vec<Program>> {
    let supports = |op: &Op| backend.supports(&OpQuery { op, weights, limits });
    let unsupported = |op: &Op, reason: Reason| {
        let formats = OpQuery { op, weights, limits }.kv_formats(backend);
        let backend = backend.info().name;
        if !formats.is_empty() {
            let problem = format!("is {}; {} are supported on {backend}", limits.kv_format, listed(&formats));
            return CoreError::BadLimits { field: "kv_format", problem };
        }
        let coded = op.weights().into_iter().find(|id| weights[id.index()].plain().is_err());
        match coded {
            Some(id) => spec.weights[id.index()].refused(backend, reason),
            None => CoreError::Unsupported { backend, op: op.stem().into(), reason: reason.0 },
        }
    };
    spec.programs
        .iter()
        .map(|program| {
            let program = program
                .fuse(|op| !spec.unfused.contains(&op.stem()) && supports(op).is_ok())?
                .expand(|op| supports(op).is_err())?;
            for node in &program.nodes {
                supports(&node.op).map_err(|reason| unsupported(&node.op, reason))?;
            }
            Ok(program)
        })
        .collect()
}

/// `f32, bf16 and fp8`.
fn listed(formats: &[KvFormat]) -> String {
    let names: Vec<_> = formats.iter().map(|format| format.name()).collect();
    match names.split_last() {
        Some((last, [])) => (*last).into(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => "none".into(),
    }
}
