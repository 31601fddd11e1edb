//! Which head an exact one is made of, what that takes, and which rows go through it.

use nvllm_core::host::BatchOutput;
use nvllm_core::program::{Node, ValueKind};
use nvllm_core::{CoreError, ExactHeadCounts, Op, Plan, Program, Result, ValueId, WeightId};

use super::ops::{self, Machine};
use super::weights::Weights;
use crate::{ExactHead, Pool};

/// A copy of the head, and what has come of it.
pub(super) struct Head {
    weight: WeightId,
    copy: ExactHead,
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
}

impl Machine<'_> {
    /// Makes logits of which the largest alone is looked at. False if these are others: then
    /// nothing is done.
    pub(super) fn exact_logits(&mut self, x: ValueId, weight: WeightId, out: ValueId) -> crate::Result<bool> {
        let (v, program) = (self.values, self.values.program());
        let [BatchOutput { largest_only: true, .. }] = self.batch.outputs[..] else { return Ok(false) };
        // Values that are kept are looked at.
        let is_head = |head: &&mut Head| head.weight == weight && program.logits() == Some(out);
        let head = self.head.as_mut().filter(|head| is_head(head) && !program.value(out).keep);
        let Some(head) = head else { return Ok(false) };
        let (dense, mode) = (v.weights.matrix(weight).dense(), ops::mode(v.limits.activations));
        let out = bytemuck::cast_slice_mut(v.bytes_mut(out));
        head.counts += self.cpu.exact_head(v.rows(x)?, dense, &head.copy, mode, out)?;
        Ok(true)
    }
}
