//! How long decode steps take with weights in each format: Qwen3's shapes, weights of no meaning.
//!
//! `decode_formats [0.6b|8b] [FORMAT..]` prints milliseconds a step beside those of bf16, measured
//! in the same run. A layer's weights are in the format; tables of the vocabulary are in int8
//! wherever the format has no more than 8 bits.
#![allow(clippy::print_stdout, reason = "what it is for")]

use std::sync::Arc;
use std::time::Instant;

use nvllm_core::weight::{Offset, PUBLIC, ScaleType, WHOLE};
use nvllm_core::{
    Activations, Backend, Code, DType, Executable, KvGeometry, Limits, ModelSpec, OutputRow, Result, SeqStep,
    SlotId, SlotReset, Source, Step, StepId, Ticket, TokenId, WeightFormat,
};
use nvllm_cuda::{CudaBackend, CudaOptions};

use shapes::{Repeated, model, shape};

mod shapes;

/// Steps before those that are timed, and those.
const STEPS: [u64; 2] = [120, 200];

const BLOCK_LEN: usize = 16;

/// `batch` sequences, each with blocks of its own.
struct Decoding {
    exe: Box<dyn Executable>,
    seq_blocks: usize,
    num_steps: u64,
}

impl Decoding {
    fn submit(&mut self, batch: usize, first: bool) -> Result<Ticket> {
        let seq = |slot: usize| {
            let blocks: Arc<[_]> = (0..self.seq_blocks)
                .map(|i| nvllm_core::BlockId((1 + slot * self.seq_blocks + i) as u32))
                .collect();
            let token = if first { Source::Host(TokenId(slot as u32)) } else { Source::Slot };
            let position = if first { Source::Host(0) } else { Source::Slot };
            SeqStep {
                slot: SlotId(slot as u32),
                tokens: [token].into(),
                positions: [position].into(),
                kv_start: position,
                block_tables: [blocks].into_iter().collect(),
                outputs: [OutputRow::sample(0)].into(),
            }
        };
        let reset = |slot| SlotReset {
            slot: SlotId(slot),
            prompt: [].into(),
            output: [].into(),
            sampling: Arc::default(),
        };
        let resets = if first { (0..batch as u32).map(reset).collect() } else { Vec::new() };
        let step = Step {
            id: StepId(self.num_steps),
            resets,
            seqs: (0..batch).map(seq).collect(),
            ..Step::default()
        };
        self.num_steps += 1;
        self.exe.submit(&step)
    }

    /// Seconds a step, the next one submitted before the last one's tokens are collected.
    fn seconds(&mut self, batch: usize) -> Result<f64> {
        let mut last = self.submit(batch, true)?;
        let mut begin = Instant::now();
        for step in 0..STEPS[0] + STEPS[1] {
            if step == STEPS[0] {
                begin = Instant::now();
            }
            let next = self.submit(batch, false)?;
            self.exe.collect(std::mem::replace(&mut last, next))?;
        }
        self.exe.collect(last)?;
        Ok(begin.elapsed().as_secs_f64() / STEPS[1] as f64)
    }
}

/// Seconds a step with 1 and 8 sequences, and bytes of weights.
fn measure(backend: &CudaBackend, spec: &ModelSpec, formats: [WeightFormat; 2]) -> Result<([f64; 2], usize)> {
    let mut limits = Limits {
        step_tokens: 8,
        block_len: BLOCK_LEN,
        max_in_flight: 2,
        ..Limits::new(Activations::Bf16, 8, 512)
    };
    let seq_blocks = limits.context / BLOCK_LEN;
    limits.kv_bytes = KvGeometry::bytes_of_block(&spec.kv, &limits)? * (1 + 8 * seq_blocks);
    let source = Repeated::new(spec, formats[0], formats[1]);
    let plan = backend.plan(spec, &source, &limits)?;
    let bytes = plan.memory.weights;
    let mut exe = backend.load(plan, &source)?;
    while exe.prepare(true)? {}
    let mut decoding = Decoding { exe, seq_blocks, num_steps: 0 };
    Ok(([decoding.seconds(1)?, decoding.seconds(8)?], bytes))
}

fn formats() -> Vec<(&'static str, WeightFormat)> {
    use nvllm_core::WeightFormat as F;
    let own = [
        ("bf16", F::dense(DType::Bf16)),
        ("int8", F::scaled(Code::I8, ScaleType::F32, [1, WHOLE], Offset::None)),
        ("fp8", F::scaled(Code::E4M3, ScaleType::F32, [1, WHOLE], Offset::None)),
        ("int4", F::scaled(Code::U4, ScaleType::F16, [1, 128], Offset::Midpoint)),
    ];
    own.into_iter().chain(PUBLIC).collect()
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "0.6b".into());
    let spec = model(&shape(&name).ok_or("the shapes are 0.6b and 8b")?)?;
    let asked: Vec<String> = args.collect();
    let asked = if asked.is_empty() {
        vec!["bf16".into(), "int8".into(), "fp8".into(), "int4".into()]
    } else {
        asked
    };
    let cache_dir = Some(std::env::temp_dir().join("nvllm-cuda-test-kernels"));
    let backend = CudaBackend::new(&CudaOptions { cache_dir, ..CudaOptions::default() })?;
    let (all, mut dense) = (formats(), None);
    for name in asked {
        let (_, format) =
            all.iter().find(|(known, _)| *known == name).ok_or_else(|| format!("no format {name}"))?;
        let ends = if format.code.bits() > 8 { *format } else { all[1].1 };
        let (seconds, bytes) = measure(&backend, &spec, [*format, ends])?;
        let dense = *dense.get_or_insert(seconds);
        let of = |i: usize| format!("{:.3} ms {:.2}x", seconds[i] * 1e3, dense[i] / seconds[i]);
        println!("{name}: {:.3} GB, 1 sequence {}, 8 sequences {}", bytes as f64 / 1e9, of(0), of(1));
    }
    Ok(())
}
