//! Device memory on the host, and a model laid out in it as loading lays one out.

use std::ops::Range;

use nvllm_core::{
    AttentionSpec, BlockId, DType, Executable, KvGeometry, KvLayer, Op, Plan, Program, ValueId, Weight,
    WeightId, WeightSource,
};

use crate::lower::Operand;
use crate::lower::decode_pass::pass_bytes;
use crate::lower::decode_pass::record::Loaded;
use crate::lower::linear::{Epilogue, HOPPER, Linear};
use crate::memory::Address;
use crate::weights::Vector;
use crate::work_lists::ListAt;

/// Where the memory begins: no address is 0.
const BEGIN: Address = 1 << 20;

/// Bytes by address.
#[derive(Clone)]
pub(super) struct Memory(Vec<u8>);

impl Memory {
    /// Zeroed bytes, apart from all others.
    fn alloc(&mut self, len: usize) -> Range<Address> {
        let start = self.0.len().next_multiple_of(256);
        self.0.resize(start + len, 0);
        BEGIN + start as Address..BEGIN + (start + len) as Address
    }

    fn alloc_bf16(&mut self, values: &[f32]) -> Address {
        let at = self.alloc(2 * values.len()).start;
        values.iter().enumerate().for_each(|(i, x)| self.write_bf16(at, i, *x));
        at
    }

    pub(super) fn bytes(&self, at: Address, len: usize) -> &[u8] {
        &self.0[(at - BEGIN) as usize..][..len]
    }

    pub(super) fn write(&mut self, at: Address, bytes: &[u8]) {
        self.0[(at - BEGIN) as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Element `i` of those from `at` on.
    pub(super) fn bf16(&self, at: Address, i: usize) -> f32 {
        DType::Bf16.read(self.bytes(at + 2 * i as Address, 2), 0)
    }

    pub(super) fn write_bf16(&mut self, at: Address, i: usize, x: f32) {
        self.write(at + 2 * i as Address, &bf16_bytes(x));
    }
}

fn bf16_bytes(x: f32) -> Vec<u8> {
    let mut bytes = Vec::new();
    DType::Bf16.write(x, &mut bytes);
    bytes
}

/// A planned model in memory.
#[derive(Clone)]
pub(super) struct Model {
    pub plan: Plan,
    pub memory: Memory,
    arena: Address,
    weights: Vec<Address>,
    /// Keys and values, by layer.
    pages: Vec<[Address; 2]>,
    /// The pass's own.
    pub room: Range<Address>,
}

impl Model {
    pub(super) fn new(plan: Plan, source: &dyn WeightSource) -> Self {
        let mut memory = Memory(Vec::new());
        let arena = memory.alloc(plan.values[0].bytes()).start;
        let weight = |decl| {
            let weight = Weight::load(decl, source).unwrap().to_f32().unwrap();
            memory.alloc_bf16(&weight)
        };
        let weights = plan.spec.weights.iter().map(weight).collect();
        let pages = |_| [0, 1].map(|_| memory.alloc(layer_bytes(&plan.kv[0]) * plan.kv[0].num_blocks).start);
        let pages = (0..plan.kv[0].num_layers).map(pages).collect();
        let room = memory.alloc(pass_bytes(&plan.spec.programs[0], &plan.limits));
        Self { plan, memory, arena, weights, pages, room }
    }

    /// What the node before the pass makes for `token`, the first.
    pub(super) fn embed(&mut self, token: usize) {
        let node = &self.program().nodes[0];
        let Op::Embed { table } = node.op else { panic!("a program begins with an embedding") };
        let (x, table) = (self.value(node.outputs[0]), self.weights[table.index()]);
        let row = self.memory.bytes(table + (token * x.cols * 2) as Address, x.cols * 2).to_vec();
        self.memory.write(x.at, &row);
    }

    /// Copies `blocks` of a cache here.
    pub(super) fn copy_cache(&mut self, exe: &mut dyn Executable, blocks: &[BlockId]) {
        let len = layer_bytes(&self.plan.kv[0]);
        for &block in blocks {
            let parts = exe.kv_cache().read_block(0, block).unwrap();
            for (at, part) in self.pages.concat().into_iter().zip(parts.bytes().chunks(len)) {
                self.memory.write(at + (block.index() * len) as Address, part);
            }
        }
    }

    /// A block of the cache, as blocks leave a cache.
    pub(super) fn block(&self, block: BlockId) -> Vec<u8> {
        let len = layer_bytes(&self.plan.kv[0]);
        let part = |at: Address| self.memory.bytes(at + (block.index() * len) as Address, len).to_vec();
        self.pages.concat().into_iter().flat_map(part).collect()
    }

    pub(super) fn logits(&self) -> Vec<f32> {
        let logits = self.value(self.program().logits().unwrap());
        self.memory.bytes(logits.at, 4 * logits.cols).chunks(4).map(|x| DType::F32.read(x, 0)).collect()
    }
}

/// Bytes of a block of one layer's keys, or of its values.
const fn layer_bytes(g: &KvGeometry) -> usize {
    g.num_heads * g.block_len * g.head_dim * 2
}

impl Loaded for Model {
    fn program(&self) -> &Program {
        &self.plan.spec.programs[0]
    }

    fn value(&self, id: ValueId) -> Operand {
        let value = self.program().value(id);
        Operand {
            at: self.arena + self.plan.values[0].place(id).offset as Address,
            dtype: value.kind.dtype(&self.plan.limits),
            rows: value.rows,
            cols: value.cols,
        }
    }

    fn layer(&self, at: usize) -> Option<Linear> {
        let node = &self.program().nodes[at];
        let (weight, bias, epilogue) = match node.op {
            Op::Linear { weight, bias } => (weight, bias, Epilogue::Plain),
            Op::LinearAdd { weight, bias } => (weight, bias, Epilogue::Add(self.value(node.inputs[1]).at)),
            Op::LinearSiluMul { weight, bias } => (weight, bias, Epilogue::SiluMul),
            _ => return None,
        };
        Some(Linear {
            x: self.value(node.inputs[0]),
            y: self.value(node.outputs[0]),
            weight: self.weights[weight.index()],
            n: self.program().weights[weight.index()].num_rows(),
            epilogue,
            dtype: DType::Bf16,
            bias: bias.map(|id| Vector { wide: 0, narrow: self.narrow(id) }),
            device: HOPPER,
        })
    }

    fn narrow(&self, id: WeightId) -> Address {
        self.weights[id.index()]
    }

    fn list(&self, _: &AttentionSpec) -> Option<ListAt> {
        Some(ListAt {
            decode: 0,
            prefill: 0,
            counts: 0,
            first_entry: 0,
            tile_tokens: 0,
            decodes: true,
            partial: [0; 2],
            part_rows: 0,
        })
    }

    fn geometry(&self, kv: KvLayer) -> KvGeometry {
        self.plan.kv[kv.group]
    }

    fn pages(&self, kv: KvLayer) -> [Address; 2] {
        self.pages[kv.layer]
    }
}
