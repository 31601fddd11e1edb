//! A layer's tensors, made by what its linear ops have seen.

use std::collections::BTreeMap;

use nvllm_core::{CanonicalTensor, CoreError, ModelSpec, Op, Result, ValueId, WeightId, WeightSource};
use nvllm_quant::make::{Format, GptqFactor, GptqOptions, Hessian, awq, awq_divided, awq_factors, gptq};

use super::calibration::SeenLayer;

/// Tensors by their names.
pub type Tensors = BTreeMap<String, CanonicalTensor>;

/// A linear op.
#[derive(Clone, Copy)]
struct Linear {
    weight: WeightId,
    bias: Option<WeightId>,
    input: ValueId,
}

/// By GPTQ.
///
/// Errors as [`gptq`] does.
pub fn by_gptq(
    source: &dyn WeightSource,
    seen: &SeenLayer,
    formats: &BTreeMap<String, Format>,
    options: GptqOptions,
) -> Result<Tensors> {
    let mut made = Tensors::new();
    for linear in linears(&seen.spec) {
        let parts = &seen.spec.weights[linear.weight.index()].parts;
        let named = parts.iter().filter_map(|part| Some((&part.source, *formats.get(&part.source)?)));
        let mut factor = None;
        for (name, format) in named {
            if factor.is_none() {
                factor = Some(GptqFactor::new(name, hessian(seen, linear)?, options)?);
            }
            if let Some(factor) = &factor {
                made.insert(name.clone(), gptq(name, &source.tensor(name)?, format, factor)?);
            }
        }
    }
    Ok(made)
}

/// By AWQ: factors of columns go into the norm, or into the rows of the linear layer, that makes
/// them.
///
/// Errors as [`awq`] does.
pub fn by_awq(
    source: &dyn WeightSource,
    seen: &SeenLayer,
    formats: &BTreeMap<String, Format>,
) -> Result<Tensors> {
    let spec = &seen.spec;
    let (mut made, mut rows) = (Tensors::new(), BTreeMap::new());
    let mut columns = Vec::new();
    for linear in linears(spec) {
        let parts = spec.weights[linear.weight.index()].parts.iter();
        let named: Vec<_> =
            parts.filter_map(|part| Some((&part.source, *formats.get(&part.source)?))).collect();
        let cols = spec.programs[0].value(linear.input).cols;
        let (Some((_, format)), Some(origin)) = (named.first(), origin(spec, linear)) else {
            columns.push((named, vec![1.0; cols]));
            continue;
        };
        let tensors = named.iter().map(|(name, _)| Ok((name.as_str(), source.tensor(name)?)));
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let factors = awq_factors(&tensors, *format, hessian(seen, linear)?)?;
        for name in &origin.vectors {
            made.insert(name.clone(), awq_divided(name, &source.tensor(name)?, &factors)?);
        }
        rows.extend(origin.rows.map(|name| (name, factors.clone())));
        columns.push((named, factors));
    }
    for (named, columns) in columns {
        for (name, format) in named {
            let rows = rows.get(name).map(Vec::as_slice);
            made.insert(name.clone(), awq(name, &source.tensor(name)?, format, &columns, rows)?);
        }
    }
    Ok(made)
}

/// The linear ops of a layer.
fn linears(spec: &ModelSpec) -> Vec<Linear> {
    let linear = |node: &nvllm_core::program::Node| match (&node.op, &node.inputs[..]) {
        (&Op::Linear { weight, bias }, &[input]) => Some(Linear { weight, bias, input }),
        _ => None,
    };
    spec.programs[0].nodes.iter().filter_map(linear).collect()
}

fn hessian(seen: &SeenLayer, linear: Linear) -> Result<&Hessian> {
    seen.inputs.get(&linear.input).ok_or_else(|| CoreError::BadProgram {
        program: seen.spec.name.clone(),
        problem: "has a linear layer that was not looked at".into(),
    })
}

/// What makes the columns of a linear op's input, each from one element of these.
#[derive(Default)]
struct Origin {
    /// Vectors that are multiplied in or added.
    vectors: Vec<String>,
    /// The matrix whose rows they are.
    rows: Option<String>,
}

/// The origin of a linear op's input; none if other ops read that too, or columns come of more than
/// one row.
fn origin(spec: &ModelSpec, linear: Linear) -> Option<Origin> {
    let program = &spec.programs[0];
    let maker = |id: ValueId| program.nodes.iter().find(|node| node.outputs.contains(&id));
    let num_readers = |id: ValueId| program.nodes.iter().filter(|node| node.inputs.contains(&id)).count();
    if num_readers(linear.input) != 1 {
        return None;
    }
    let node = maker(linear.input)?;
    let part = match &node.op {
        Op::RmsNorm { weight, .. } => {
            let [part] = &spec.weights[weight.index()].parts[..] else { return None };
            return Some(Origin { vectors: vec![part.source.clone()], rows: None });
        }
        // The second half is a factor.
        Op::SiluMul => 1,
        // Each head's output is a mean of its own values.
        Op::Attention { spec, .. } if spec.num_heads == spec.num_kv_heads => 2,
        _ => return None,
    };
    let &[before] = &node.inputs[..] else { return None };
    let before = linears(spec)
        .into_iter()
        .find(|linear| maker(before).is_some_and(|node| node.op.weights().first() == Some(&linear.weight)))?;
    let cols = program.value(linear.input).cols;
    let rows_of = |id: WeightId| {
        let parts = &spec.weights[id.index()].parts;
        parts.get(part).filter(|found| parts.len() == part + 1 && found.num_rows == cols)
    };
    let rows = rows_of(before.weight)?;
    let bias = match before.bias {
        Some(bias) => vec![rows_of(bias)?.source.clone()],
        None => Vec::new(),
    };
    Some(Origin { vectors: bias, rows: Some(rows.source.clone()) })
}
