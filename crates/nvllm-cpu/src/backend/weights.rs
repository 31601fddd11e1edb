//! Weights as the kernels take them: matrices in place, vectors as f32.

use bytes::Bytes;
use nvllm_core::{
    CoreError, DType, ModelSpec, Plan, Result, Weight, WeightDecl, WeightId, WeightInfo, WeightSource,
};

use super::elem;
use crate::Elem;

/// A matrix, or a stack of expert matrices: row segments of one element type, where the checkpoint
/// has them.
pub(super) struct Matrix {
    pub segments: Vec<Bytes>,
    pub elem: Elem,
    pub cols: usize,
    /// Rows of all segments, per expert for a stack.
    pub num_rows: usize,
    pub num_experts: usize,
}

impl Matrix {
    /// The bytes from row `row` of an expert to the end of the segment that holds it.
    pub(super) fn run(&self, expert: usize, row: usize) -> &[u8] {
        let mut at = (expert * self.num_rows + row) * self.cols * self.elem.size();
        for segment in &self.segments {
            if at < segment.len() {
                return &segment[at..];
            }
            at -= segment.len();
        }
        &[]
    }

    /// Rows of an expert from `row` on that lie together. Parts are alike for all experts, so this
    /// holds for each.
    pub(super) fn run_len(&self, expert: usize, row: usize) -> usize {
        let rows = self.run(expert, row).len() / (self.cols * self.elem.size());
        rows.clamp(1, self.num_rows - row)
    }
}

enum Form {
    Matrix(Matrix),
    Vector(Vec<f32>),
}

/// All weights of a model, by id.
pub(super) struct Weights(Vec<Form>);

impl Weights {
    /// Takes every weight from `source`. Nothing is copied but vectors, and matrices whose parts
    /// differ in dtype.
    pub(super) fn load(spec: &ModelSpec, source: &dyn WeightSource) -> Result<Self> {
        let one = |decl| {
            let dtypes = WeightInfo::of(decl, source)?.plain();
            let dtypes = dtypes.map_err(|reason| decl.refused("cpu", reason))?;
            form(&Weight::load(decl, source)?, &dtypes)
        };
        spec.weights.iter().map(one).collect::<Result<_>>().map(Self)
    }

    /// Bytes that [`load`](Self::load) will hold.
    pub(super) fn bytes_for(plan: &Plan) -> Result<usize> {
        let one = |(decl, info): (&WeightDecl, &WeightInfo)| {
            let dtypes = info.plain().map_err(|reason| decl.refused("cpu", reason))?;
            Ok(held(decl, &dtypes).size() * decl.num_elements())
        };
        plan.spec.weights.iter().zip(&plan.weights).map(one).sum()
    }

    /// A matrix. The recorder has checked ranks.
    pub(super) fn matrix(&self, id: WeightId) -> &Matrix {
        match &self.0[id.index()] {
            Form::Matrix(matrix) => matrix,
            Form::Vector(_) => unreachable!("weight {id} is a vector"),
        }
    }

    /// A vector. The recorder has checked ranks.
    pub(super) fn vector(&self, id: WeightId) -> &[f32] {
        match &self.0[id.index()] {
            Form::Vector(vector) => vector,
            Form::Matrix(_) => unreachable!("weight {id} is a matrix"),
        }
    }

    /// Bytes, mapped or copied.
    pub(super) fn bytes(&self) -> usize {
        let one = |form: &Form| match form {
            Form::Matrix(matrix) => matrix.segments.iter().map(Bytes::len).sum(),
            Form::Vector(vector) => size_of_val(vector.as_slice()),
        };
        self.0.iter().map(one).sum()
    }
}

/// The dtype in which a weight is held: that of its parts, f32 where they differ, which is exact,
/// and for vectors.
fn held(decl: &WeightDecl, dtypes: &[DType]) -> DType {
    let alike = dtypes.windows(2).all(|pair| pair[0] == pair[1]);
    dtypes.first().copied().filter(|_| decl.shape.len() > 1 && alike).unwrap_or(DType::F32)
}

fn form(weight: &Weight, dtypes: &[DType]) -> Result<Form> {
    let decl = &weight.decl;
    if decl.shape.len() < 2 {
        return Ok(Form::Vector(weight.to_f32()?));
    }
    let dtype = held(decl, dtypes);
    let elem = elem(dtype).ok_or_else(|| CoreError::Unsupported {
        backend: "cpu".into(),
        op: format!("weight `{}` in {dtype}", decl.name),
        reason: "it runs dense weights in f32, f16 and bf16".into(),
    })?;
    let num_experts = if decl.shape.len() == 3 { decl.shape[0] } else { 1 };
    let num_rows = decl.num_rows() / num_experts;
    let segments = if dtypes.iter().all(|part| *part == dtype) {
        weight.segments.iter().map(|s| s.codes.clone()).collect()
    } else {
        // A checkpoint that stores q, k and v in different dtypes: one f32 copy is exact.
        let mut bytes = Vec::with_capacity(DType::F32.size() * decl.num_elements());
        weight.to_f32()?.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
        vec![Bytes::from(bytes)]
    };
    Ok(Form::Matrix(Matrix { segments, elem, cols: decl.num_cols(), num_rows, num_experts }))
}
