//! A source under other names: what brings a checkpoint's layout under the names that a model
//! declares.

use std::collections::BTreeMap;
use std::ops::Range;

use super::tensor_info::extents;
use super::{CanonicalTensor, TensorInfo, WeightSource};
use crate::{CoreError, Result};

/// A source whose tensors have other names, or are parts of what the source holds in one. No byte
/// is copied.
pub struct Arranged {
    source: Box<dyn WeightSource + Send + Sync>,
    /// Where each tensor lies, by the name under which it is asked for.
    pub(super) places: BTreeMap<String, Place>,
}

/// A tensor of the source, or some of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name in the source.
    pub name: String,
    /// Rows of it, which make a matrix; none: the whole, in its own shape.
    pub rows: Option<Range<usize>>,
}

impl Arranged {
    /// Every tensor of `source` under its own name.
    pub fn new(source: impl WeightSource + Send + Sync + 'static) -> Self {
        let place = |name: String| (name.clone(), Place { name, rows: None });
        let places = source.names().into_iter().map(place).collect();
        Self { source: Box::new(source), places }
    }

    /// The tensors of `source` that have a name in `places`, and no others.
    pub fn with_places(
        source: impl WeightSource + Send + Sync + 'static,
        places: BTreeMap<String, Place>,
    ) -> Self {
        Self { source: Box::new(source), places }
    }

    /// Whether there is a tensor of that name, of whatever type.
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Calls a tensor by another name, unless there is one of that name.
    pub fn rename(&mut self, from: &str, to: &str) {
        if !self.places.contains_key(to)
            && let Some(place) = self.places.remove(from)
        {
            self.places.insert(to.into(), place);
        }
    }

    /// Takes a tensor out, if there is one of that name.
    pub fn remove(&mut self, name: &str) {
        self.places.remove(name);
    }

    fn find(&self, name: &str) -> Result<&Place> {
        let missing = || CoreError::MissingTensor { name: name.into(), place: self.describe() };
        self.places.get(name).ok_or_else(missing)
    }
}

impl WeightSource for Arranged {
    fn describe(&self) -> String {
        self.source.describe()
    }

    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        let place = self.find(name)?;
        let whole = self.source.info(&place.name)?;
        let cut = |rows: &Range<usize>| vec![rows.len(), extents(&whole.shape)[1]];
        Ok(TensorInfo { shape: place.rows.as_ref().map_or_else(|| whole.shape.clone(), cut), ..whole })
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        let Place { name, rows } = self.find(name)?;
        rows.clone().map_or_else(|| self.source.tensor(name), |rows| self.source.rows(name, rows))
    }

    fn rows(&self, name: &str, rows: Range<usize>) -> Result<CanonicalTensor> {
        let place = self.find(name)?;
        let start = place.rows.as_ref().map_or(0, |place| place.start);
        if place.rows.as_ref().is_some_and(|place| rows.end > place.len()) {
            return self.tensor(name)?.slice_rows(name, rows);
        }
        self.source.rows(&place.name, start + rows.start..start + rows.end)
    }
}
