//! Weights as the kernels take them: matrices in place, vectors as f32.

use std::sync::Arc;

use bytes::Bytes;
use nvllm_core::weight::ActQuant;
use nvllm_core::{
    CanonicalTensor, Code, CoreError, DType, Plan, Reason, Result, TensorInfo, Weight, WeightDecl, WeightId,
    WeightInfo, WeightSource,
};

use super::coded;
use super::elem::elem;
use crate::{Coded, CodedForm, Elem, Pool, Segment};

/// A matrix, or a stack of expert matrices: row segments, where the checkpoint has them.
pub(super) struct Matrix {
    parts: Vec<Part>,
    pub cols: usize,
    /// Rows of all segments, per expert for a stack.
    pub num_rows: usize,
    pub num_experts: usize,
}

/// A run of rows in one form.
struct Part {
    num_rows: usize,
    form: Form,
    input: Input,
}

enum Form {
    Dense(Bytes, Elem),
    Coded(Coded),
}

/// What is done to a linear layer's input before it is multiplied.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Input {
    /// How it is rounded, and the scale of a static rounding.
    pub act: Option<(ActQuant, f32)>,
    /// Which column each stored one is.
    pub order: Option<Arc<[u32]>>,
}

impl Input {
    const AS_IT_IS: &Self = &Self { act: None, order: None };

    /// Whether there is nothing to do.
    pub(super) fn is_plain(&self) -> bool {
        self == Self::AS_IT_IS
    }
}

impl Part {
    /// What a linear layer has to do to its input: integer kernels round theirs themselves.
    fn linear_input(&self) -> &Input {
        match &self.form {
            Form::Coded(coded) if coded.is_int8() => Input::AS_IT_IS,
            _ => &self.input,
        }
    }

    /// Rows `row .. row + n`.
    fn segment(&self, cols: usize, row: usize, n: usize) -> Segment<'_> {
        match &self.form {
            Form::Dense(bytes, elem) => {
                let row_bytes = cols * elem.size();
                Segment::Dense(&bytes[row * row_bytes..(row + n) * row_bytes], *elem)
            }
            Form::Coded(coded) => Segment::Coded(coded, row, n),
        }
    }

    fn bytes(&self) -> usize {
        let order = self.input.order.as_ref().map_or(0, |order| size_of_val(&**order));
        order
            + match &self.form {
                Form::Dense(bytes, _) => bytes.len(),
                Form::Coded(coded) => coded.bytes(),
            }
    }
}

impl Matrix {
    /// All rows, in order.
    pub(super) fn segments(&self) -> Vec<Segment<'_>> {
        self.parts.iter().map(|part| part.segment(self.cols, 0, part.num_rows)).collect()
    }

    /// The bytes of a matrix that is planned as one dense part.
    pub(super) fn dense(&self) -> (&[u8], Elem) {
        match &self.parts[..] {
            [Part { form: Form::Dense(bytes, elem), .. }] => (bytes, *elem),
            _ => unreachable!("the matrix has other parts than one dense one"),
        }
    }

    /// The segments of consecutive parts that take the same input, with the number of their rows.
    pub(super) fn by_input(&self) -> impl Iterator<Item = (&Input, Vec<Segment<'_>>, usize)> {
        self.parts.chunk_by(|a, b| a.linear_input() == b.linear_input()).map(|parts| {
            let segments = parts.iter().map(|part| part.segment(self.cols, 0, part.num_rows)).collect();
            (parts[0].linear_input(), segments, parts.iter().map(|part| part.num_rows).sum())
        })
    }

    /// The part that holds row `row` of an expert, and which of its rows that is.
    fn part(&self, expert: usize, row: usize) -> (&Part, usize) {
        let mut at = expert * self.num_rows + row;
        for part in &self.parts {
            if at < part.num_rows {
                return (part, at);
            }
            at -= part.num_rows;
        }
        unreachable!("row {row} of expert {expert} is beyond the weight")
    }

    /// `n` rows of an expert from `row` on, which [`run_len`](Self::run_len) says lie together, and
    /// their input.
    pub(super) fn run(&self, expert: usize, row: usize, n: usize) -> (Segment<'_>, &Input) {
        let (part, at) = self.part(expert, row);
        (part.segment(self.cols, at, n), &part.input)
    }

    /// Rows of an expert from `row` on that lie together. Parts are alike for all experts, so this
    /// holds for each.
    pub(super) fn run_len(&self, expert: usize, row: usize) -> usize {
        let (part, at) = self.part(expert, row);
        (part.num_rows - at).clamp(1, self.num_rows - row)
    }
}

enum Held {
    Matrix(Matrix),
    Vector(Vec<f32>),
}

/// All weights of a model, by id.
pub(super) struct Weights(Vec<Held>);

impl Weights {
    /// Takes every weight from `source`. Nothing is copied but vectors, codes that kernels have in
    /// another order, and dense matrices whose parts differ in dtype.
    ///
    /// Errors if they are not as planned.
    pub(super) fn load(pool: &Pool, plan: &Plan, source: &dyn WeightSource) -> Result<Self> {
        let one = |(decl, planned): (&WeightDecl, &WeightInfo)| {
            let info = WeightInfo::of(decl, source)?;
            if let Some((part, planned)) = info.parts.iter().zip(&planned.parts).find(|(a, b)| a != b) {
                let problem = format!("its format is {}; {} was planned", part.format, planned.format);
                return Err(decl.refused("cpu", Reason(problem)));
            }
            held(pool, &Weight::load(decl, source)?, &forms(decl, &info)?)
        };
        plan.spec.weights.iter().zip(&plan.weights).map(one).collect::<Result<_>>().map(Self)
    }

    /// Bytes that [`load`](Self::load) will hold.
    pub(super) fn bytes_for(plan: &Plan) -> Result<usize> {
        let one = |(decl, info): (&WeightDecl, &WeightInfo)| match forms(decl, info)? {
            Forms::One(dtype) => Ok(dtype.size() * decl.num_elements()),
            Forms::Each(forms) => {
                Ok(forms.iter().zip(&info.parts).map(|(form, part)| form.bytes_for(part)).sum())
            }
        };
        plan.spec.weights.iter().zip(&plan.weights).map(one).sum()
    }

    /// A matrix. The recorder has checked ranks.
    pub(super) fn matrix(&self, id: WeightId) -> &Matrix {
        match &self.0[id.index()] {
            Held::Matrix(matrix) => matrix,
            Held::Vector(_) => unreachable!("weight {id} is a vector"),
        }
    }

    /// A vector. The recorder has checked ranks.
    pub(super) fn vector(&self, id: WeightId) -> &[f32] {
        match &self.0[id.index()] {
            Held::Vector(vector) => vector,
            Held::Matrix(_) => unreachable!("weight {id} is a matrix"),
        }
    }

    /// Bytes, mapped or copied.
    pub(super) fn bytes(&self) -> usize {
        let one = |held: &Held| match held {
            Held::Matrix(matrix) => matrix.parts.iter().map(Part::bytes).sum(),
            Held::Vector(vector) => size_of_val(vector.as_slice()),
        };
        self.0.iter().map(one).sum()
    }
}

/// How a weight is held.
enum Forms {
    /// All parts in one dtype, and nothing done to the input: that of the parts, f32 where they
    /// differ, which is exact, and for vectors.
    One(DType),
    /// Each part in its own form.
    Each(Vec<PartForm>),
}

#[derive(Clone, Copy)]
enum PartForm {
    Dense(Elem),
    Coded(CodedForm),
}

impl PartForm {
    fn bytes_for(&self, info: &TensorInfo) -> usize {
        let [cols, rest @ ..] = &info.shape.iter().rev().copied().collect::<Vec<_>>()[..] else { return 0 };
        let order = if info.format.permuted { cols * size_of::<u32>() } else { 0 };
        order
            + match self {
                Self::Dense(elem) => elem.size() * cols * rest.iter().product::<usize>(),
                Self::Coded(form) => coded::bytes_for(info, form),
            }
    }
}

/// What the CPU runs a part as, whatever op reads it.
///
/// Errors with the part's format if there are no kernels for it.
fn part_form(info: &TensorInfo) -> Result<PartForm, Reason> {
    let Code::Dense(dtype) = info.format.code else { return coded::form(info).map(PartForm::Coded) };
    elem(dtype).map(PartForm::Dense).ok_or_else(|| Reason(format!("its format is {}", info.format)))
}

/// Errors unless an op can read every part of a weight: `ordered` says whether it can bring its
/// input into another order.
pub(super) fn check(info: &WeightInfo, ordered: bool) -> Result<(), Reason> {
    info.parts.iter().try_for_each(|part| {
        if part.format.permuted && !ordered {
            return Err(Reason(format!("its format is {}; linear layers run it", part.format)));
        }
        let vector = part.shape.len() < 2 && part.format.plain().is_none();
        if vector { Err(Reason(format!("its format is {}", part.format))) } else { part_form(part).map(drop) }
    })
}

fn forms(decl: &WeightDecl, info: &WeightInfo) -> Result<Forms> {
    if let Ok(dtypes) = info.plain() {
        let alike = dtypes.windows(2).all(|pair| pair[0] == pair[1]);
        let dtype = dtypes.first().copied().filter(|_| decl.shape.len() > 1 && alike);
        return Ok(Forms::One(dtype.unwrap_or(DType::F32)));
    }
    check(info, true).map_err(|reason| decl.refused("cpu", reason))?;
    let forms = info.parts.iter().map(part_form).collect::<Result<Vec<_>, _>>();
    Ok(Forms::Each(forms.map_err(|reason| decl.refused("cpu", reason))?))
}

fn held(pool: &Pool, weight: &Weight, forms: &Forms) -> Result<Held> {
    let decl = &weight.decl;
    if decl.shape.len() < 2 {
        return Ok(Held::Vector(weight.to_f32()?));
    }
    let parts = match forms {
        Forms::One(dtype) => one_dtype(weight, *dtype)?,
        Forms::Each(forms) => {
            let names = decl.parts.iter().map(|part| part.source.as_str());
            let part = |((form, segment), name): ((&PartForm, _), _)| each_form(pool, name, segment, *form);
            forms.iter().zip(&weight.segments).zip(names).map(part).collect::<Result<_>>()?
        }
    };
    let num_experts = if decl.shape.len() == 3 { decl.shape[0] } else { 1 };
    let num_rows = decl.num_rows() / num_experts;
    Ok(Held::Matrix(Matrix { parts, cols: decl.num_cols(), num_rows, num_experts }))
}

fn one_dtype(weight: &Weight, dtype: DType) -> Result<Vec<Part>> {
    let elem = elem(dtype).ok_or_else(|| CoreError::Unsupported {
        backend: "cpu".into(),
        op: format!("weight `{}` in {dtype}", weight.decl.name),
        reason: "it runs dense weights in f32, f16 and bf16".into(),
    })?;
    let part = |num_rows, bytes| Part { num_rows, form: Form::Dense(bytes, elem), input: Input::default() };
    if weight.segments.iter().all(|s| s.format.plain() == Some(dtype)) {
        return Ok(weight.segments.iter().map(|s| part(s.num_rows(), s.codes.clone())).collect());
    }
    // A checkpoint that stores q, k and v in different dtypes: one f32 copy is exact.
    let mut bytes = Vec::with_capacity(DType::F32.size() * weight.decl.num_elements());
    weight.to_f32()?.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
    Ok(vec![part(weight.decl.num_rows(), bytes.into())])
}

fn each_form(pool: &Pool, name: &str, tensor: &CanonicalTensor, form: PartForm) -> Result<Part> {
    let form = match form {
        PartForm::Dense(elem) => Form::Dense(tensor.codes.clone(), elem),
        PartForm::Coded(form) => Form::Coded(coded::load(pool, name, tensor, form)?),
    };
    let act = tensor.format.act.map(|act| (act, tensor.act_scale.unwrap_or(1.0)));
    let input = Input { act, order: tensor.k_perm.clone() };
    Ok(Part { num_rows: tensor.num_rows(), form, input })
}
