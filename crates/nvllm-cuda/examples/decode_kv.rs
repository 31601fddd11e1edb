//! How long decode steps take with the KV cache in each format: Qwen3's shapes, bf16 weights of no
//! meaning.
//!
//! `decode_kv [0.6b|8b] [BATCH..]` prints milliseconds a step around a context of 1,024 tokens,
//! beside those of a bf16 cache, measured in the same run. The prompts before are computed: what is
//! read is no zeros.
#![allow(clippy::print_stdout, reason = "what it is for")]

use std::sync::Arc;
use std::time::Instant;

use nvllm_core::{
    Activations, Backend, BlockId, DType, Executable, KvFormat, KvGeometry, Limits, ModelSpec, OutputRow,
    Result, SeqStep, SlotId, SlotReset, Source, Step, StepId, Ticket, TokenId, WeightFormat,
};
use nvllm_cuda::{CudaBackend, CudaOptions};

use shapes::{Repeated, model, shape};

mod shapes;

/// Tokens of a prompt, then steps before those that are timed, and those.
const STEPS: [usize; 3] = [960, 24, 80];

const BLOCK_LEN: usize = 16;

/// `batch` sequences, each with blocks of its own.
struct Decoding {
    exe: Box<dyn Executable>,
    batch: usize,
    seq_blocks: usize,
    num_steps: u64,
}

impl Decoding {
    /// Submits `tokens` of some sequences; the first of a prompt begin it.
    fn submit(
        &mut self,
        slots: std::ops::Range<usize>,
        tokens: Source<TokenId>,
        prompt: bool,
    ) -> Result<Ticket> {
        let num = if prompt { STEPS[0] } else { 1 };
        let seq = |slot: usize| {
            let first = 1 + slot * self.seq_blocks;
            let blocks: Arc<[_]> = (first..first + self.seq_blocks).map(|i| BlockId(i as u32)).collect();
            let position = |i: usize| if prompt { Source::Host(i as u32) } else { Source::Slot };
            SeqStep {
                slot: SlotId(slot as u32),
                tokens: (0..num)
                    .map(|i| if prompt { Source::Host(TokenId((slot * 97 + i * 31) as u32)) } else { tokens })
                    .collect(),
                positions: (0..num).map(position).collect(),
                kv_start: position(0),
                block_tables: [blocks].into_iter().collect(),
                outputs: [OutputRow::sample(num as u32 - 1)].into(),
            }
        };
        let reset = |slot| SlotReset {
            slot: SlotId(slot as u32),
            prompt: [].into(),
            output: [].into(),
            sampling: Arc::default(),
        };
        let step = Step {
            id: StepId(self.num_steps),
            resets: if prompt { slots.clone().map(reset).collect() } else { Vec::new() },
            seqs: slots.map(seq).collect(),
            ..Step::default()
        };
        self.num_steps += 1;
        self.exe.submit(&step)
    }

    /// Seconds a step, the next one submitted before the last one's tokens are collected.
    fn seconds(&mut self) -> Result<f64> {
        for slot in 0..self.batch {
            let ticket = self.submit(slot..slot + 1, Source::Slot, true)?;
            self.exe.collect(ticket)?;
        }
        let mut last = self.submit(0..self.batch, Source::Slot, false)?;
        let mut begin = Instant::now();
        for step in 0..STEPS[1] + STEPS[2] {
            if step == STEPS[1] {
                begin = Instant::now();
            }
            let next = self.submit(0..self.batch, Source::Slot, false)?;
            self.exe.collect(std::mem::replace(&mut last, next))?;
        }
        self.exe.collect(last)?;
        Ok(begin.elapsed().as_secs_f64() / STEPS[2] as f64)
    }
}

/// Seconds a step, and bytes of the KV cache of one token.
fn measure(
    backend: &CudaBackend,
    spec: &ModelSpec,
    kv_format: KvFormat,
    batch: usize,
) -> Result<(f64, usize)> {
    let mut limits = Limits {
        step_tokens: STEPS[0].max(batch),
        block_len: BLOCK_LEN,
        kv_format,
        max_in_flight: 2,
        ..Limits::new(Activations::Bf16, batch, 2048)
    };
    let seq_blocks = STEPS.iter().sum::<usize>().div_ceil(BLOCK_LEN) + 1;
    let block = KvGeometry::bytes_of_block(&spec.kv, &limits)?;
    limits.kv_bytes = block * (1 + batch * seq_blocks);
    let bf16 = WeightFormat::dense(DType::Bf16);
    let source = Repeated::new(spec, bf16, bf16);
    let mut exe = backend.load(backend.plan(spec, &source, &limits)?, &source)?;
    while exe.prepare(true)? {}
    Ok((Decoding { exe, batch, seq_blocks, num_steps: 0 }.seconds()?, block / BLOCK_LEN))
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "0.6b".into());
    let spec = model(&shape(&name).ok_or("the shapes are 0.6b and 8b")?)?;
    let asked = args.map(|batch| batch.parse()).collect::<std::result::Result<Vec<usize>, _>>()?;
    let cache_dir = Some(std::env::temp_dir().join("nvllm-cuda-test-kernels"));
    let backend = CudaBackend::new(&CudaOptions { cache_dir, ..CudaOptions::default() })?;
    for batch in if asked.is_empty() { vec![64, 256] } else { asked } {
        let mut plain = None;
        for format in [KvFormat::Bf16, KvFormat::Fp8, KvFormat::Int8] {
            let (seconds, bytes) = measure(&backend, &spec, format, batch)?;
            let plain = *plain.get_or_insert(seconds);
            println!(
                "{format}: {bytes} bytes a token, {batch} sequences {:.3} ms {:.2}x",
                seconds * 1e3,
                plain / seconds
            );
        }
    }
    Ok(())
}
