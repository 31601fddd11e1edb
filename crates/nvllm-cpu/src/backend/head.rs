//! Which head an exact one is made of, what that takes, and which rows go through it.

use nvllm_core::program::{Node, ValueKind};
use nvllm_core::{CoreError, ExactHeadCounts, Op, Plan, Program, Result, ValueId, WeightId};

use super::weights::Weights;
use crate::{ExactHead, Pool};

/// A copy of the head, and what has come of it.
pub(super) struct Head {
    weight: WeightId,
    pub copy: ExactHead,
    pub counts: ExactHeadCounts,
}

/// The weight of the head, if limits ask for an exact one.
///
/// Errors if there is none that can be copied.
fn weight(plan: &Plan) -> Result<Option<WeightId>> {
    let refused = |problem: String| CoreError::BadLimits { field: "exact_head", problem };
    let made_by = |program: &Program| -> Option<(ValueId, Op)> {
        let logits = program.logits()?;
        let makes = |node: &&Node| node.outputs.contains(&logits);
        Some((logits, program.nodes.iter().find(makes)?.op.clone()))
    };
    let mut heads = Vec::new();
    for program in plan.spec.programs.iter().filter(|_| plan.limits.exact_head) {
        match made_by(program) {
            None => {}
            Some((logits, Op::Linear { weight, bias: None }))
                if program.value(logits).kind == ValueKind::F32 =>
            {
                heads.push(weight);
            }
            Some((_, op)) => {
                let problem = format!("is for heads without a bias, and this model's is a `{}`", op.stem());
                return Err(refused(problem));
            }
        }
    }
    let Some(&head) = heads.first() else { return Ok(None) };
    let decl = &plan.spec.weights[head.index()];
    match &plan.weights[head.index()].parts[..] {
        [part] if part.format.plain().is_some() => Ok(Some(head)),
        parts => {
            let format = parts.first().map_or_else(String::new, |part| part.format.to_string());
            let problem = format!(
                "is for heads that are not quantised, and `{}` is in {format}: leave it out",
                decl.name
            );
            Err(refused(problem))
        }
    }
}

/// Bytes that [`Head::load`] will hold.
pub(super) fn bytes_for(plan: &Plan) -> Result<usize> {
    let bytes = |id: WeightId| {
        let decl = &plan.spec.weights[id.index()];
        ExactHead::bytes_for(decl.num_rows(), decl.num_cols())
    };
    Ok(weight(plan)?.map_or(0, bytes))
}

impl Head {
    /// Copies the head, if limits ask for an exact one.
    pub(super) fn load(pool: &Pool, plan: &Plan, weights: &Weights) -> Result<Option<Self>> {
        let Some(id) = weight(plan)? else { return Ok(None) };
        let matrix = weights.matrix(id);
        let (bytes, elem) = matrix.dense();
        let copy = ExactHead::new(pool, bytes, elem, matrix.cols)?;
        Ok(Some(Self { weight: id, copy, counts: ExactHeadCounts::default() }))
    }

    pub(super) fn bytes(&self) -> usize {
        self.copy.bytes()
    }

    /// Whether a product with `weight` makes the logits of `program` in `out` that nobody else
    /// looks at: values that are kept are looked at.
    pub(super) fn makes(&self, program: &Program, weight: WeightId, out: ValueId) -> bool {
        self.weight == weight && program.logits() == Some(out) && !program.value(out).keep
    }
}
