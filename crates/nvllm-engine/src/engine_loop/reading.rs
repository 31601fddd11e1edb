//! Weights on their way to the backend: pages are read in, and counted for a progress bar.

use std::cell::Cell;

use nvllm_core::{CanonicalTensor, TensorInfo, WeightSource};

use crate::model::LoadedWeights;
use crate::{LoadProgress, Model, Result};

/// A source that reads each tensor's pages before it hands the tensor on, so that the time of a
/// cold disk is spent where a progress bar shows it and not in the first step.
pub(super) struct Reading<'a> {
    source: LoadedWeights<'a>,
    progress: &'a dyn Fn(LoadProgress),
    done: Cell<usize>,
    total: usize,
}

/// The smallest page of any platform.
const PAGE: usize = 4096;

impl<'a> Reading<'a> {
    pub(super) fn new(
        model: &'a Model,
        source: LoadedWeights<'a>,
        progress: &'a dyn Fn(LoadProgress),
    ) -> Result<Self> {
        let parts = model.spec.weights.iter().flat_map(|w| &w.parts);
        let total = parts.map(|part| Ok(source.info(&part.source)?.bytes())).sum::<Result<_>>()?;
        Ok(Self { source, progress, done: Cell::new(0), total })
    }
}

impl WeightSource for Reading<'_> {
    fn describe(&self) -> String {
        self.source.describe()
    }

    fn names(&self) -> Vec<String> {
        self.source.names()
    }

    fn info(&self, name: &str) -> nvllm_core::Result<TensorInfo> {
        self.source.info(name)
    }

    fn tensor(&self, name: &str) -> nvllm_core::Result<CanonicalTensor> {
        let tensor = self.source.tensor(name)?;
        for bytes in tensor.parts() {
            std::hint::black_box(bytes.iter().step_by(PAGE).fold(0, |all, byte| all ^ byte));
        }
        self.done.set(self.done.get() + tensor.bytes());
        (self.progress)(LoadProgress { done: self.done.get(), total: self.total });
        Ok(tensor)
    }
}
