//! A backend and the limits of its device, which it reaches itself.

use std::cell::RefCell;
use std::ops::Deref;

use nvllm_core::{Activations, Backend, DType, Result};

use super::{MatmulRates, Roof};

/// A backend whose device's limits are measured between its steps.
pub(crate) struct MeasuredBackend {
    rates: RefCell<MatmulRates>,
    backend: Box<dyn Backend>,
}

impl MeasuredBackend {
    pub(crate) fn new(backend: Box<dyn Backend>) -> Self {
        Self { rates: RefCell::default(), backend }
    }

    /// Measures the limits now, products in these dtypes. One that cannot be measured is infinite,
    /// and `warn` is told why.
    pub(crate) fn roof(&self, of: (DType, Activations), warn: impl Fn(&str)) -> Roof {
        let rate = |what: &str, measured: Result<Option<f64>>| {
            let measured = measured.unwrap_or_else(|error| {
                warn(&format!("warning: {what} cannot be measured: {error}"));
                None
            });
            measured.unwrap_or(f64::INFINITY)
        };
        let matmul = self.rates.borrow_mut().measure(self.as_ref(), of.0, of.1);
        Roof {
            read: rate("the memory's read bandwidth", self.measure_read_bandwidth()),
            matmul: rate("the rate of matrix products", matmul),
        }
    }
}

impl Deref for MeasuredBackend {
    type Target = dyn Backend;

    fn deref(&self) -> &Self::Target {
        self.backend.as_ref()
    }
}

impl AsRef<dyn Backend> for MeasuredBackend {
    fn as_ref(&self) -> &(dyn Backend + 'static) {
        self.backend.as_ref()
    }
}
