//! Rows of a step's output, from what it left on the host.

use nvllm_core::host::BatchOutput;
use nvllm_core::sampling::top_logprobs;
use nvllm_core::{HostTensor, RowOutput, Tensor, TokenId};

use crate::sampler::{MAX_TOP, NO_TOKEN, Results};

/// Row `at` of a matrix.
pub(crate) fn row_of(rows: &HostTensor, at: usize) -> Box<dyn Tensor> {
    let (cols, dtype) = (rows.shape()[1], rows.dtype());
    let len = cols * dtype.size();
    Box::new(HostTensor::from_bytes([cols], dtype, rows.bytes()[at * len..][..len].to_vec()))
}

/// What a step made of output row `at`.
pub(crate) fn row_output(
    results: &Results<'_>,
    at: usize,
    output: &BatchOutput,
    values: Option<&HostTensor>,
) -> RowOutput {
    let want = &output.want;
    let unusable =
        (want.sample && results.token(at) == NO_TOKEN) || (want.scored() && !results.scored(at).is_usable());
    let token = (want.sample && !unusable).then(|| TokenId(results.token(at)));
    let target = want.target.or(token).filter(|_| want.scored() && !unusable);
    let num_top = usize::from(want.top_logprobs.unwrap_or(0));
    let logprobs = target.map(|target| match values {
        Some(values) if num_top > MAX_TOP => {
            let cols = values.shape()[1];
            top_logprobs(&values.to_f32()[at * cols..][..cols], target, num_top)
        }
        _ => results.scored(at).logprobs(),
    });
    let values = values.filter(|_| want.values).map(|rows| row_of(rows, at));
    RowOutput { token, logprobs, values, unusable }
}
