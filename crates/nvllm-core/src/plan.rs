//! How a backend will run a model, decided before it takes any memory.

use crate::kv_format::listed;
use crate::program::MemoryPlan;
use crate::{
    KvFormat, KvGeometry, Limits, MemoryReport, ModelSpec, Op, Reason, Result, WeightId, WeightInfo,
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
}

/// A model as one backend will run it. What is shown of a model (its programs, its memory) and what
/// [`Backend::load`](crate::Backend::load) does are both read from here, so they cannot differ.
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
    /// The question about `op` of this model.
    pub fn query<'a>(&'a self, op: &'a Op) -> OpQuery<'a> {
        OpQuery { op, weights: &self.weights, limits: &self.limits }
    }
}
