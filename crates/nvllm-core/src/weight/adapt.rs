//! Other layouts of the same checkpoint, brought under the names that a model declares. No byte is
//! copied.

use std::collections::HashSet;

use super::{Arranged, Place, WeightDecl};
use crate::{CoreError, ModelSpec, Result, WeightSource as _};

/// What encoder-style exports of a model (embedding models) leave out in front of its tensors.
const PREFIX: &str = "model.";

impl Arranged {
    /// Gives the tensors the names that `spec` declares: adds a prefix `model.` that was left out,
    /// and splits what the checkpoint holds stacked.
    ///
    /// Errors if a stacked tensor has not the shape of its parts.
    pub fn adapt(&mut self, spec: &ModelSpec) -> Result<()> {
        let parts = spec.weights.iter().flat_map(|decl| decl.parts.iter().map(|part| part.source.as_str()));
        let known: HashSet<_> = parts.chain(spec.stacked.iter().map(|(name, _)| name.as_str())).collect();
        for name in self.names() {
            let full = format!("{PREFIX}{name}");
            if known.contains(full.as_str()) && !known.contains(name.as_str()) {
                self.rename(&name, &full);
            }
        }
        spec.stacked.iter().try_for_each(|(name, weight)| self.split(name, &spec.weights[weight.index()]))
    }

    /// Replaces the tensor `name`, if there is one, by the parts of `decl` that it holds in order.
    fn split(&mut self, name: &str, decl: &WeightDecl) -> Result<()> {
        let Some(whole) = self.places.get(name).cloned() else { return Ok(()) };
        let shape = self.info(name)?.shape;
        if shape != decl.shape {
            let problem = format!(
                "has shape {shape:?} where the configuration implies {:?}; they do not belong together",
                decl.shape
            );
            return Err(CoreError::BadTensor { name: name.into(), problem });
        }
        self.places.remove(name);
        let mut start = 0;
        for part in &decl.parts {
            let end = start + part.num_rows;
            let place = Place { rows: Some(start..end), ..whole.clone() };
            self.places.insert(part.source.clone(), place);
            start = end;
        }
        Ok(())
    }
}
