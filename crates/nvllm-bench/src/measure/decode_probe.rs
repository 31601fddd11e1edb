//! What a decode step takes on a backend, host and all, without a model: which of two backends is
//! the faster one for somebody who waits for tokens.

use std::time::Instant;

use bytes::Bytes;
use nvllm_core::weight::TensorInfo;
use nvllm_core::{Activations, Backend, CanonicalTensor, DType, ModelSpec, Result, WeightSource};

use super::layers;

/// Layers of `WIDTH` columns: 64 MiB in bf16, as a model has them in chunks of 8 MiB, more than
/// most caches hold.
const LAYERS: usize = 8;
const WIDTH: usize = 2048;

/// Steps of which the fastest counts, after one that warms up.
const STEPS: usize = 5;
/// Seconds of steps after which there are no more.
const ENOUGH: f64 = 0.04;

/// Bytes of weights that the step reads.
pub const PROBE_BYTES: usize = LAYERS * WIDTH * WIDTH * 2;

/// Seconds of a step of one token through linear layers of [`PROBE_BYTES`] in bf16, from its
/// submission to its result. Takes a tenth of a second where a step takes some milliseconds.
///
/// # Errors
/// If the backend cannot load or run them.
pub fn decode_seconds(backend: &dyn Backend) -> Result<f64> {
    let spec = layers::spec(WIDTH, &[WIDTH; LAYERS], 1)?;
    let source = Zeros::new(&spec);
    let mut exe = backend.plan_and_load(&spec, &source, &layers::limits(1, Activations::Bf16))?;
    let step = layers::step(1);
    let mut once = || {
        let began = Instant::now();
        let ticket = exe.submit(&step)?;
        exe.collect(ticket)?;
        Ok(began.elapsed().as_secs_f64())
    };
    let mut all = once()?;
    let mut best = f64::INFINITY;
    for _ in 0..STEPS {
        let seconds = once()?;
        (best, all) = (best.min(seconds), all + seconds);
        if all > ENOUGH {
            break;
        }
    }
    Ok(best)
}

/// Weights that take no time to make.
struct Zeros(Vec<(String, [usize; 2])>);

impl Zeros {
    fn new(spec: &ModelSpec) -> Self {
        let parts = spec.weights.iter().flat_map(|decl| {
            decl.parts.iter().map(|part| (part.source.clone(), [part.num_rows, decl.num_cols()]))
        });
        Self(parts.collect())
    }
}

impl WeightSource for Zeros {
    fn describe(&self) -> String {
        "weights of zero".into()
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        let missing = || nvllm_core::CoreError::MissingTensor { name: name.into(), place: self.describe() };
        let (_, shape) = self.0.iter().find(|(part, _)| part == name).ok_or_else(missing)?;
        Ok(TensorInfo::dense(DType::Bf16, shape.to_vec()))
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        let shape = self.info(name)?.shape;
        let len = shape.iter().product::<usize>() * DType::Bf16.size();
        Ok(CanonicalTensor::dense(DType::Bf16, shape, Bytes::from(vec![0; len])))
    }
}

#[cfg(test)]
mod tests {
    use nvllm_core::Reference;

    use super::*;

    #[test]
    fn a_step_reads_what_is_said_and_is_timed() {
        let spec = layers::spec(WIDTH, &[WIDTH; LAYERS], 1).unwrap();
        let source = Zeros::new(&spec);
        let layers = source.names().into_iter().filter(|name| name.starts_with("weight"));
        let bytes = |name: String| source.tensor(&name).unwrap().codes.len();
        assert_eq!(layers.map(bytes).sum::<usize>(), PROBE_BYTES);
        let seconds = decode_seconds(&Reference::default()).unwrap();
        assert!(seconds.is_finite() && seconds > 0.0, "{seconds}");
    }
}
