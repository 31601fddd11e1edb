//! How fast a backend multiplies matrices with the kernels of its own `linear` op: the limit that a
//! prefill is held against.
//!
//! It bounds what a prefill can reach with these kernels, not what the device could.

use nvllm_core::weight::SyntheticSource;
use nvllm_core::{Activations, Backend, BackendInfo, CoreError, DType, Executable, Result, Step};

use super::layers;

/// Products of a measurement, of which the fastest counts.
const PRODUCTS: usize = 5;
/// Seconds of products after which there are no more.
const ENOUGH: f64 = 0.5;

/// The extents of a product `[m, k] x [n, k]^T`.
#[derive(Clone, Copy)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
}

impl Shape {
    /// A shape that suits the device. On a GPU as many rows as a step has that suits it, many times
    /// what a tile covers, but fewer where operands are `wide` and do not go to tensor cores; on
    /// the host's processor, a driver's too, a layer's projection in a small model.
    fn of(info: &BackendInfo, wide: bool) -> Self {
        match (&info.driver, info.step_tokens) {
            (Some(_), m @ 0..256) => Self { m, n: 1024, k: 1024 },
            (Some(_), m) => Self { m: if wide { 256 } else { m }, n: 4096, k: 4096 },
            (None, _) => Self { m: 480, n: 2048, k: 1024 },
        }
    }

    /// Multiplications and additions.
    fn flops(self) -> f64 {
        2.0 * (self.m * self.n * self.k) as f64
    }
}

/// Measures rates of products. What was measured once stays loaded, so that measuring it again is a
/// few products.
#[derive(Default)]
pub struct MatmulRates {
    loaded: Vec<Product>,
}

impl MatmulRates {
    /// The rate in multiplications and additions a second at which `backend` multiplies weights of
    /// dtype `weights` under `activations` now; `None` if it does not time ops, or the dtype is
    /// none of numbers. Always asked with one backend.
    ///
    /// # Errors
    /// If the measurement fails: beside a large KV cache there may be no memory for it.
    pub fn measure(
        &mut self,
        backend: &dyn Backend,
        weights: DType,
        activations: Activations,
    ) -> Result<Option<f64>> {
        if matches!(weights, DType::I32 | DType::U8) {
            return Ok(None);
        }
        let wide = (weights, activations) != (DType::Bf16, Activations::Bf16);
        let known = self.loaded.iter().position(|product| product.of == (weights, activations));
        let at = match known {
            Some(at) => at,
            None => match Product::load(backend, (weights, activations), Shape::of(&backend.info(), wide))? {
                Some(product) => {
                    self.loaded.push(product);
                    self.loaded.len() - 1
                }
                None => return Ok(None),
            },
        };
        self.loaded[at].rate().map(Some)
    }
}

/// A model of one linear layer, loaded as any other.
struct Product {
    /// Dtype of the weights, and what values are stored as.
    of: (DType, Activations),
    shape: Shape,
    /// Of the backend, for messages.
    backend: String,
    exe: Box<dyn Executable>,
    step: Step,
}

impl Product {
    /// Nothing if the backend times whole steps only.
    fn load(
        backend: &dyn Backend,
        (weights, activations): (DType, Activations),
        shape: Shape,
    ) -> Result<Option<Self>> {
        let spec = layers::spec(shape.k, &[shape.n], shape.m)?;
        let limits = layers::limits(shape.m, activations);
        let source = SyntheticSource::new(&spec.weights, weights, 0);
        let mut exe = backend.plan_and_load(&spec, &source, &limits)?;
        match exe.set_profiling(true) {
            Err(CoreError::Unsupported { .. }) => return Ok(None),
            other => other?,
        }
        let (of, backend) = ((weights, activations), backend.info().name);
        Ok(Some(Self { of, shape, backend, exe, step: layers::step(shape.m) }))
    }

    /// Multiplications and additions a second, now.
    fn rate(&mut self) -> Result<f64> {
        let mut times = Vec::with_capacity(PRODUCTS);
        while times.len() < PRODUCTS && times.iter().sum::<f64>() < ENOUGH {
            let ticket = self.exe.submit(&self.step)?;
            self.exe.collect(ticket)?;
            let profiles = self.exe.take_profiles();
            let Some(product) = profiles.iter().filter_map(|profile| profile.ops.last()).next_back() else {
                let problem = "no product was timed".to_owned();
                return Err(CoreError::Device { backend: self.backend.clone(), problem });
            };
            times.push(product.seconds);
        }
        Ok(self.shape.flops() / times.into_iter().fold(f64::INFINITY, f64::min))
    }
}

#[cfg(test)]
mod tests {
    use nvllm_core::Reference;

    use super::*;

    const OF: (DType, Activations) = (DType::Bf16, Activations::Bf16);

    #[test]
    fn the_layer_is_timed_and_no_other_op() {
        let shape = Shape { m: 3, n: 64, k: 32 };
        let program = &layers::spec(shape.k, &[shape.n], shape.m).unwrap().programs[0];
        assert_eq!(program.nodes.last().map(|node| node.op.stem()), Some("linear"));
        let mut product = Product::load(&Reference::default(), OF, shape).unwrap().unwrap();
        let rate = product.rate().unwrap();
        assert!(rate.is_finite() && rate > 0.0, "{rate}");
    }

    #[test]
    fn a_shape_has_the_rows_of_a_step_that_suits_the_device() {
        let of = |driver: Option<&str>, step_tokens, wide| {
            let driver = driver.map(str::to_owned);
            let info = BackendInfo { driver, step_tokens, ..Reference::default().info() };
            let Shape { m, n, k } = Shape::of(&info, wide);
            [m, n, k]
        };
        assert_eq!(of(Some("CUDA 13.0"), 8192, false), [8192, 4096, 4096]);
        assert_eq!(of(Some("CUDA 13.0"), 8192, true), [256, 4096, 4096]);
        assert_eq!(of(Some("Vulkan"), 512, false), [512, 4096, 4096]);
        assert_eq!(of(Some("llvmpipe"), 64, false), [64, 1024, 1024]);
        assert_eq!(of(None, 512, false), [480, 2048, 1024]);
    }

    #[test]
    fn what_is_no_number_has_no_rate() {
        let mut rates = MatmulRates::default();
        let rate = rates.measure(&Reference::default(), DType::U8, Activations::F32).unwrap();
        assert!(rate.is_none() && rates.loaded.is_empty());
    }
}
