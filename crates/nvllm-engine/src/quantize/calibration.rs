//! What a model's linear layers see of a text: the model run layer by layer on any backend.
//!
//! A layer is a model of its own whose embeddings are the hidden states that the layers before it
//! have made, so that one layer is in memory at a time. Hidden states are those of the original
//! model: a layer's result does not depend on what became of those before it, and a run that goes
//! on after an interruption makes what the first one would have made.

use std::collections::BTreeMap;

use bytes::Bytes;
use nvllm_core::{
    AxisRole, Backend, BlockId, CanonicalTensor, CoreError, EntryId, Executable, InlineVec, Limits,
    ModelSpec, Op, SamplingParams, SeqStep, SlotId, SlotReset, Source, Step, StepId, TensorInfo, TokenId,
    ValueId, WeightDecl, WeightPart, WeightSource,
};
use nvllm_quant::make::Hessian;

use crate::{EngineError, Model, Result};

/// Tokens of a text that are run as one sequence, at most.
const SEQ_LEN: usize = 512;
/// What the hidden states are called as a tensor.
const STATES: &str = "calibration";

/// A text on its way through a model.
pub struct Calibration<'a> {
    model: &'a Model,
    backend: &'a dyn Backend,
    /// The layer that comes next.
    layer: usize,
    /// Hidden states before it, `[tokens, hidden]`, of sequences one after the other.
    states: Vec<f32>,
    hidden: usize,
    seq_lens: Vec<usize>,
}

/// A layer with what its linear ops have seen.
pub struct SeenLayer {
    /// The layer as a model of its own.
    pub spec: ModelSpec,
    /// By the value that they are the inputs of.
    pub inputs: BTreeMap<ValueId, Hessian>,
}

impl<'a> Calibration<'a> {
    /// A text of `tokens` before the first layer of `model`.
    ///
    /// Errors if there are no tokens, one is none of the model's, or the model has no dense
    /// embeddings before its first layer.
    pub fn new(model: &'a Model, backend: &'a dyn Backend, tokens: &[TokenId]) -> Result<Self> {
        if tokens.is_empty() {
            let problem = "has no tokens; give a text of some pages".into();
            return Err(EngineError::Option { option: "calibration", problem });
        }
        let vocab_size = model.spec.vocab_size;
        if let Some(&token) = tokens.iter().find(|token| token.index() >= vocab_size) {
            return Err(EngineError::PromptToken { token, vocab_size });
        }
        let program = &model.spec.programs[0];
        let first = program.nodes.iter().find(|node| matches!(node.op, Op::Embed { .. }));
        let table = first.and_then(|node| node.op.weights().first().copied());
        let table = table.ok_or_else(|| no_layers(model))?;
        let name = &model.spec.weights[table.index()].parts[0].source;
        let tensor = model.source.tensor(name)?;
        let dtype = tensor.format.plain().ok_or_else(|| no_layers(model))?;
        let hidden = tensor.num_cols();
        let row = |token: &TokenId| {
            let start = token.index() * hidden;
            (start..start + hidden).map(|at| dtype.read(&tensor.codes, at)).collect::<Vec<_>>()
        };
        let states = tokens.iter().flat_map(row).collect();
        let seq_len = SEQ_LEN.min(model.spec.max_positions);
        let seq_lens = tokens.chunks(seq_len).map(<[TokenId]>::len).collect();
        Ok(Self { model, backend, layer: 0, states, hidden, seq_lens })
    }

    /// The hidden states before the next layer, `[tokens, hidden]`.
    pub fn states(&self) -> &[f32] {
        &self.states
    }

    /// Goes through the layers up to `layer`, and says what that one saw. Layers are asked for in
    /// order.
    ///
    /// Errors if the model has no such layer, or the backend fails.
    pub fn advance(&mut self, layer: usize) -> Result<SeenLayer> {
        while self.layer < layer {
            self.run(false)?;
        }
        self.run(true)
    }

    /// Goes through the next layer; with `look`, the inputs of its linear ops are summed up.
    fn run(&mut self, look: bool) -> Result<SeenLayer> {
        let num_tokens = self.states.len() / self.hidden;
        let (from, to) = (format!("hidden.{}", self.layer), format!("hidden.{}", self.layer + 1));
        let part = WeightPart { source: STATES.into(), num_rows: num_tokens, role: AxisRole::Vocab };
        let table = WeightDecl {
            name: STATES.into(),
            shape: vec![num_tokens, self.hidden],
            parts: vec![part],
            in_role: AxisRole::Replicated,
        };
        let mut spec = self.model.spec.part(&from, &to, table)?;
        spec.keep(&to)?;
        let mut inputs = BTreeMap::new();
        let program = &mut spec.programs[0];
        for at in 0..program.nodes.len() {
            let (Op::Linear { .. }, [input, ..]) = (&program.nodes[at].op, &program.nodes[at].inputs[..])
            else {
                continue;
            };
            let (input, cols) = (*input, program.value(*input).cols);
            let value = &mut program.values[input.index()];
            value.label.get_or_insert_with(|| format!("input.{input}"));
            value.keep |= look;
            inputs.insert(input, Hessian::new(cols));
        }
        let mut exe = self.load(&spec)?;
        let program = spec.programs[0].clone();
        let (mut states, mut first) = (Vec::with_capacity(self.states.len()), 0);
        for (at, &len) in self.seq_lens.iter().enumerate() {
            let ticket = exe.submit(&step(at, first, len))?;
            exe.collect(ticket)?;
            first += len;
            let kept = |label: &str| {
                let kept = exe.kept(label)?;
                let missing = || CoreError::BadProgram {
                    program: program.name.clone(),
                    problem: format!("lost {label}"),
                };
                Ok::<_, CoreError>(kept.ok_or_else(missing)?.to_f32())
            };
            states.extend(kept(&to)?);
            for (input, hessian) in inputs.iter_mut().filter(|_| look) {
                hessian.add(&kept(program.value(*input).label.as_deref().unwrap_or_default())?);
            }
        }
        self.states = states;
        self.layer += 1;
        Ok(SeenLayer { spec, inputs })
    }

    /// The layer, on the hidden states before it.
    fn load(&self, spec: &ModelSpec) -> Result<Box<dyn Executable>> {
        let activations = self.model.activations();
        let len = self.seq_lens.iter().copied().max().unwrap_or(1);
        let columns = spec.kv.iter().map(|kv| 2 * kv.num_layers * kv.num_heads * kv.head_dim).sum::<usize>();
        let limits = Limits {
            kv_bytes: (len.div_ceil(Limits::BLOCK_LEN) + 1)
                * Limits::BLOCK_LEN
                * columns
                * activations.dtype().size(),
            ..Limits::new(activations, 1, len)
        };
        let parts = spec.weights.iter().flat_map(|decl| &decl.parts);
        let source = WithStates {
            model: self.model.source.as_ref(),
            names: parts.map(|part| part.source.clone()).collect(),
            states: &self.states,
            hidden: self.hidden,
        };
        Ok(self.backend.plan_and_load(spec, &source, &limits)?)
    }
}

fn no_layers(model: &Model) -> EngineError {
    let problem = "has no dense embeddings before its first layer".into();
    CoreError::BadProgram { program: model.spec.name.clone(), problem }.into()
}

/// A sequence of the tokens `first..`, in the one slot.
fn step(at: usize, first: usize, len: usize) -> Step {
    let reset = SlotReset {
        slot: SlotId(0),
        prompt: [].into(),
        output: [].into(),
        sampling: SamplingParams::default().into(),
    };
    let blocks = (0..len.div_ceil(Limits::BLOCK_LEN)).map(|block| BlockId(1 + block as u32)).collect();
    let seq = SeqStep {
        slot: SlotId(0),
        tokens: (first..first + len).map(|token| Source::Host(TokenId(token as u32))).collect(),
        positions: (0..len as u32).map(Source::Host).collect(),
        kv_start: Source::Host(0),
        block_tables: InlineVec::from_elem(blocks, 1),
        outputs: InlineVec::new(),
    };
    Step {
        id: StepId(at as u64),
        entry: EntryId::GENERATE,
        resets: [reset].into_iter().collect(),
        seqs: [seq].into_iter().collect(),
        ..Step::default()
    }
}

/// A layer's weights, and hidden states as one more.
struct WithStates<'a> {
    model: &'a dyn WeightSource,
    names: Vec<String>,
    states: &'a [f32],
    hidden: usize,
}

impl WeightSource for WithStates<'_> {
    fn describe(&self) -> String {
        self.model.describe()
    }

    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn info(&self, name: &str) -> nvllm_core::Result<TensorInfo> {
        if name != STATES {
            return self.model.info(name);
        }
        Ok(TensorInfo::dense(nvllm_core::DType::F32, [self.states.len() / self.hidden, self.hidden]))
    }

    fn tensor(&self, name: &str) -> nvllm_core::Result<CanonicalTensor> {
        if name != STATES {
            return self.model.tensor(name);
        }
        let info = self.info(name)?;
        let bytes: Vec<u8> = self.states.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(CanonicalTensor::dense(nvllm_core::DType::F32, info.shape, Bytes::from(bytes)))
    }
}
