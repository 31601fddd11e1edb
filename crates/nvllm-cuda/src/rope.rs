//! Rotations of a step's rows, computed once a step for each kind of rotation that a model has.

use std::sync::Arc;

use nvllm_core::{Limits, Op, Program, RopeSpec, Rows};

use crate::device::Device;
use crate::error::Result;
use crate::inputs::Inputs;
use crate::launch::{Args, Dim, Launch};
use crate::memory::{Address, Buffer};
use crate::modules::Modules;

/// Tables `[step_tokens, head_dim / 2]` of (cos, sin).
pub(crate) struct RopeTables(Vec<RopeTable>);

struct RopeTable {
    spec: RopeSpec,
    inv_freq: Buffer,
    table: Buffer,
}

/// The rotations in `programs`, each once.
fn specs<'a>(programs: impl Iterator<Item = &'a Program>) -> Vec<&'a RopeSpec> {
    let mut specs: Vec<&RopeSpec> = Vec::new();
    for node in programs.flat_map(|program| &program.nodes) {
        if let Op::Rope(spec) | Op::Attention { rope: spec, .. } = &node.op
            && !specs.contains(&spec)
        {
            specs.push(spec);
        }
    }
    specs
}

impl RopeTables {
    /// Bytes that the tables of `programs` take.
    pub(crate) fn bytes_for(programs: &[Program], limits: &Limits) -> usize {
        let one = |spec: &RopeSpec| spec.head_dim / 2 * 4 + limits.step_tokens * spec.head_dim * 4;
        specs(programs.iter()).into_iter().map(one).sum()
    }

    pub(crate) fn new(device: &Arc<Device>, programs: &[Program], limits: &Limits) -> Result<Self> {
        let one = |spec: &RopeSpec| {
            Ok(RopeTable {
                spec: spec.clone(),
                inv_freq: Buffer::of(device, bytemuck::cast_slice(&spec.inv_freq()))?,
                table: Buffer::new(device, limits.step_tokens * spec.head_dim * 4)?,
            })
        };
        specs(programs.iter()).into_iter().map(one).collect::<Result<_>>().map(Self)
    }

    /// The table of a rotation; every rotation of the model has one.
    pub(crate) fn table(&self, spec: &RopeSpec) -> Address {
        self.0.iter().find(|table| table.spec == *spec).map_or(0, |table| table.table.at(0))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|table| table.inv_freq.len() + table.table.len()).sum()
    }

    /// What fills the tables at the beginning of a step.
    pub(crate) fn launches(&self, modules: &Modules, inputs: &Inputs) -> Result<Vec<Launch>> {
        let function = modules.function("rope_table")?;
        let one = |table: &RopeTable| {
            let half = table.spec.head_dim / 2;
            let args = Args::new()
                .ptr(inputs.at(0))
                .ptr(inputs.at(inputs.layout.positions))
                .ptr(table.inv_freq.at(0))
                .f64(f64::from(table.spec.attention_factor()))
                .ptr(table.table.at(0))
                .int(half);
            Launch::new(&function, Dim::each(Rows::TOKENS), args).of_threads(64).early()
        };
        Ok(self.0.iter().map(one).collect())
    }
}
