//! Speed of the kernels on this machine, as shares of what it can read and multiply.
//!
//! `cargo run --release -p nvllm-cpu --example speed [threads] [isa] [attention | coded [name]]`.
//! Weights are those of a model with hidden size 1024 and feed-forward size 3072 (28 layers, 840 MB
//! in bf16), each matrix its own memory, so that decoding reads them cold. With `coded` their coded
//! forms are timed under bf16 activations, or those whose names begin so, and nothing else; with
//! `attention` that alone.
//! KV pages are read cold likewise where one token is new.

use nvllm_cpu::{
    ActMode, AttentionShape, Coded, CodedForm, Codes, Cpu, Elem, Formula, Isa, Kernels, KvLayout, KvPages,
    PageElem, Pool, PoolConfig, Rows, RowsMut, Segment, SequenceQueries, Weights, measure_read_bandwidth,
    read_once,
};
use std::sync::Arc;
use std::time::Instant;

/// Outputs and inputs of the linears of one layer.
const SHAPES: [(usize, usize); 4] = [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072)];
const LAYERS: usize = 28;
/// What no cache holds: bytes of KV pages that are read in turn.
const COLD_BYTES: usize = 256 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let threads = args.next().map(|t| t.parse()).transpose()?;
    let isa = match args.next().as_deref() {
        Some("scalar") => Some(Isa::Scalar),
        Some("avx2") => Some(Isa::Avx2),
        Some("avx512") => Some(Isa::Avx512),
        Some("avx512bf16") => Some(Isa::Avx512Bf16),
        _ => None,
    };
    let kernels = isa.map_or_else(|| Ok(Kernels::best()), Kernels::of)?;
    let pool = Arc::new(Pool::new(&PoolConfig { threads, ..PoolConfig::default() })?);
    println!("{kernels:?}, {pool:?}, VNNI {}", Isa::has_vnni());
    println!("read bandwidth, 1 GiB: {:.1} GB/s", measure_read_bandwidth(&pool, kernels, 1 << 30, 9) / 1e9);
    println!("multiply-add peak of one thread: {:.1} GFLOP/s of processor time", 1e-9 * peak());
    println!("vdpbf16ps peak of one thread: {:.1} GFLOP/s of processor time", 1e-9 * pair_peak());
    let mut cpu = Cpu::new(pool, kernels);
    if std::env::args().any(|arg| arg == "coded") {
        return coded(&mut cpu);
    }
    if std::env::args().any(|arg| arg == "attention") {
        return attentions(&mut cpu);
    }
    let arena = weights();
    for elem in [Elem::F32, Elem::Bf16] {
        let mode = if elem == Elem::F32 { ActMode::F32 } else { ActMode::Bf16 };
        println!("activations {elem:?}, weights bf16, order {:?}", kernels.linear_order(Elem::Bf16, mode));
        decode(&mut cpu, &arena, elem, mode);
        for m in [2, 3, 4, 6, 8, 16, 32, 128, 512] {
            batch(&mut cpu, &arena, elem, mode, m);
        }
    }
    attentions(&mut cpu)
}

/// Prefill and decode over pages of each element type.
fn attentions(cpu: &mut Cpu) -> Result<(), Box<dyn std::error::Error>> {
    for elem in [PageElem::Bf16, PageElem::E4m3, PageElem::I8] {
        println!("pages {elem:?}");
        for (past, new) in [(0, 512), (4096, 512), (1024, 1), (8192, 1), (32768, 1)] {
            attention(cpu, elem, past, new)?;
        }
    }
    Ok(())
}

/// The coded forms: a decode step, beside the time in which its bytes are read, and more rows.
fn coded(cpu: &mut Cpu) -> Result<(), Box<dyn std::error::Error>> {
    static TABLE: [f32; 16] = [0.5; 16];
    let form = |codes, formula, scale, group| CodedForm { codes, formula, scale, group, k: 0 };
    let forms = [
        ("q4_0", form(Codes::U4, Formula::Midpoint, Elem::F16, 32), false),
        ("q4_1", form(Codes::U4, Formula::Affine, Elem::F16, 32), false),
        ("q4_k", form(Codes::U4, Formula::Affine, Elem::F32, 32), false),
        ("int4, groups of 128", form(Codes::U4, Formula::Midpoint, Elem::F16, 128), false),
        ("gptq, groups of 128", form(Codes::U4, Formula::ZeroPoint, Elem::F16, 128), false),
        ("nf4", form(Codes::Table(&TABLE), Formula::Symmetric, Elem::F32, 64), false),
        ("q8_0", form(Codes::I8, Formula::Symmetric, Elem::F16, 32), false),
        ("q6_k", form(Codes::I8, Formula::Symmetric, Elem::F32, 16), false),
        ("int8, weights only", form(Codes::I8, Formula::Symmetric, Elem::F32, usize::MAX), false),
        ("fp8, weights only", form(Codes::E4m3, Formula::Symmetric, Elem::F32, usize::MAX), false),
        ("int8, inputs too", form(Codes::I8, Formula::Symmetric, Elem::F32, usize::MAX), true),
    ];
    let only = std::env::args().nth(4);
    for (name, form, int8) in
        forms.into_iter().filter(|f| only.as_ref().is_none_or(|only| f.0.starts_with(only.as_str())))
    {
        let mut matrices = Vec::new();
        for (n, k) in SHAPES.repeat(LAYERS) {
            let form = CodedForm { k, ..form };
            let scales = n * form.groups() * form.scale.size();
            let offsets = if form.has_offsets() { scales } else { 0 };
            let parts = [n * form.row_bytes(), scales, offsets].map(|len| vec![0x2c_u8; len].into());
            let matrix = Coded::new(form, n, parts)?;
            matrices.push(if int8 { matrix.with_int8_inputs()? } else { matrix });
        }
        let bytes: usize = matrices.iter().map(Coded::bytes).sum();
        let flops_of_row = SHAPES.iter().map(|(n, k)| 2.0 * (n * k * LAYERS) as f64).sum::<f64>();
        let (arena, mut rates) = (vec![1_u8; bytes], Vec::new());
        print!("{name:<20} {:4.0} MB", bytes as f64 * 1e-6);
        print!(", from the cache {:.1} G weights/s of processor time", cached(cpu, &matrices[1])?);
        for m in [1, 2, 4, 8, 16, 512] {
            let (x, mut out) = inputs(m, Elem::Bf16);
            let mut shares = Vec::new();
            for _ in 0..if m > 16 { 3 } else { 9 } {
                let read = read_once(cpu.pool(), cpu.kernels(), &arena);
                let start = Instant::now();
                let mut flops = 0.0;
                for (matrix, (n, k)) in matrices.iter().zip(SHAPES.repeat(LAYERS)) {
                    let x = Rows::new(&x[..m * k * 2], Elem::Bf16, m, k)?;
                    let out = RowsMut::new(&mut out[..m * n * 2], Elem::Bf16, m, n)?;
                    let w = Weights { segments: &[Segment::Coded(matrix, 0, n)], k };
                    cpu.linear(x, w, None, ActMode::Bf16, out)?;
                    flops += 2.0 * (m * n * k) as f64;
                }
                let seconds = start.elapsed().as_secs_f64();
                shares.push(read / seconds);
                rates.push(flops * 1e-9 / seconds);
            }
            let rate = median(std::mem::take(&mut rates));
            match m {
                1 => {
                    let ms = 1e-6 * flops_of_row / rate;
                    print!(", m=1 {ms:.1} ms, {:.1} % of the read rate", 100.0 * median(shares));
                }
                _ => print!(", m={m} {rate:.0} GFLOP/s"),
            }
        }
        println!();
    }
    Ok(())
}

/// Weights a second of processor time for one row, of a matrix that stays in the cache.
fn cached(cpu: &mut Cpu, matrix: &Coded) -> Result<f64, Box<dyn std::error::Error>> {
    const N: usize = 256;
    let (x, mut out) = inputs(1, Elem::Bf16);
    let (mut seconds, k) = (Vec::new(), matrix.cols());
    for _ in 0..9 {
        let start = cpu_seconds();
        for _ in 0..40 {
            let x = Rows::new(&x[..k * 2], Elem::Bf16, 1, k)?;
            let out = RowsMut::new(&mut out[..N * 2], Elem::Bf16, 1, N)?;
            let w = Weights { segments: &[Segment::Coded(matrix, 0, N)], k };
            cpu.linear(x, w, None, ActMode::Bf16, out)?;
        }
        seconds.push(cpu_seconds() - start);
    }
    Ok(40e-9 * (N * k) as f64 / median(seconds))
}

/// bf16 in the range that weights have, of a fixed linear congruential sequence.
fn weights() -> Vec<u8> {
    let elements: usize = SHAPES.iter().map(|(n, k)| n * k).sum::<usize>() * LAYERS;
    let mut state = 1u32;
    let mut bytes = Vec::with_capacity(2 * elements);
    for _ in 0..elements {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let bits = 0x3c00 | ((state >> 16) as u16 & 0x81ff);
        bytes.extend_from_slice(&bits.to_le_bytes());
    }
    bytes
}

/// Multiply-adds that need nothing from memory.
fn peak() -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_set1_ps};
        const N: u32 = 20_000_000;
        #[target_feature(enable = "avx2,fma")]
        fn ymm() {
            let mut acc = [_mm256_set1_ps(1.0); 12];
            let (a, b) =
                (std::hint::black_box(_mm256_set1_ps(0.5)), std::hint::black_box(_mm256_set1_ps(0.1)));
            for _ in 0..N {
                for x in &mut acc {
                    *x = _mm256_fmadd_ps(*x, a, b);
                }
            }
            std::hint::black_box(acc);
        }
        #[target_feature(enable = "avx512f")]
        fn zmm() {
            let mut acc = [_mm512_set1_ps(1.0); 12];
            let (a, b) =
                (std::hint::black_box(_mm512_set1_ps(0.5)), std::hint::black_box(_mm512_set1_ps(0.1)));
            for _ in 0..N {
                for x in &mut acc {
                    *x = _mm512_fmadd_ps(*x, a, b);
                }
            }
            std::hint::black_box(acc);
        }
        let start = cpu_seconds();
        let lanes = if Isa::Avx512.missing().is_none() {
            // SAFETY: AVX-512F was found.
            unsafe { zmm() };
            16
        } else if Isa::Avx2.missing().is_none() {
            // SAFETY: AVX2 and FMA were found.
            unsafe { ymm() };
            8
        } else {
            return f64::NAN;
        };
        f64::from(N) * 12.0 * 2.0 * f64::from(lanes) / (cpu_seconds() - start)
    }
    #[cfg(not(target_arch = "x86_64"))]
    f64::NAN
}

/// Products of bf16 pairs that need nothing from memory; NaN where there are none.
fn pair_peak() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx512Bf16.missing().is_none() {
        use std::arch::x86_64::{__m512bh, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_set1_ps};
        const N: u32 = 5_000_000;
        #[target_feature(enable = "avx512f,avx512bf16")]
        fn pairs() {
            let mut acc = [_mm512_set1_ps(1.0); 12];
            let zeros = std::hint::black_box(_mm512_set1_epi32(0));
            // SAFETY: both are 64 bytes without invalid values.
            let zeros = unsafe { std::mem::transmute::<std::arch::x86_64::__m512i, __m512bh>(zeros) };
            for _ in 0..N {
                for x in &mut acc {
                    *x = _mm512_dpbf16_ps(*x, zeros, zeros);
                }
            }
            std::hint::black_box(acc);
        }
        let start = cpu_seconds();
        // SAFETY: AVX512-BF16 was found.
        unsafe { pairs() };
        return f64::from(N) * 12.0 * 2.0 * 32.0 / (cpu_seconds() - start);
    }
    f64::NAN
}

/// Runs every linear of the model once for `m` rows; returns the FLOPs.
fn forward(
    cpu: &mut Cpu,
    arena: &[u8],
    x: &[u8],
    out: &mut [u8],
    elem: Elem,
    mode: ActMode,
    m: usize,
) -> f64 {
    let mut at = 0;
    let mut flops = 0.0;
    for _ in 0..LAYERS {
        for (n, k) in SHAPES {
            let segment: &[u8] = &arena[at..at + 2 * n * k];
            at += 2 * n * k;
            let x = Rows::new(&x[..m * k * elem.size()], elem, m, k).expect("sized for it");
            let out = RowsMut::new(&mut out[..m * n * elem.size()], elem, m, n).expect("sized for it");
            let w = Weights { segments: &[Segment::Dense(segment, Elem::Bf16)], k };
            cpu.linear(x, w, None, mode, out).expect("shapes fit");
            flops += 2.0 * (m * n * k) as f64;
        }
    }
    flops
}

fn inputs(m: usize, elem: Elem) -> (Vec<u8>, Vec<u8>) {
    let one: Vec<u8> = match elem {
        Elem::F32 => 0.5f32.to_le_bytes().to_vec(),
        _ => 0x3f00u16.to_le_bytes().to_vec(),
    };
    (one.repeat(m * 3072), vec![0; m * 6144 * elem.size()])
}

/// Processor time of this process: what a loaded machine gave it. Spinning counts, so read it with
/// one thread.
fn cpu_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

/// Interleaved pairs: a plain read of the same bytes, then the linears of one decode step.
fn decode(cpu: &mut Cpu, arena: &[u8], elem: Elem, mode: ActMode) {
    let (x, mut out) = inputs(1, elem);
    let (mut read, mut step) = (Vec::new(), Vec::new());
    for _ in 0..15 {
        read.push(read_once(cpu.pool(), cpu.kernels(), arena));
        let start = Instant::now();
        forward(cpu, arena, &x, &mut out, elem, mode, 1);
        step.push(start.elapsed().as_secs_f64());
    }
    let ratio = median(read.iter().zip(&step).map(|(r, s)| r / s).collect());
    let bytes = arena.len() as f64 * 1e-9;
    let (read, step) = (bytes / median(read), bytes / median(step));
    println!("  m=1: read {read:.1} GB/s, linears {step:.1} GB/s, {:.1} % (median of pairs)", 100.0 * ratio);
}

fn batch(cpu: &mut Cpu, arena: &[u8], elem: Elem, mode: ActMode, m: usize) {
    let (x, mut out) = inputs(m, elem);
    let mut rates = Vec::new();
    let mut seconds = Vec::new();
    let mut own = Vec::new();
    for _ in 0..if m > 64 { 3 } else { 7 } {
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        let flops = forward(cpu, arena, &x, &mut out, elem, mode, m);
        seconds.push(start.elapsed().as_secs_f64());
        rates.push(flops * 1e-9 / start.elapsed().as_secs_f64());
        own.push(flops * 1e-9 / (cpu_seconds() - cpu_start));
    }
    let gbs = arena.len() as f64 * 1e-9 / median(seconds);
    println!(
        "  m={m}: {:.1} GFLOP/s ({:.1} per second of processor time), weights at {gbs:.1} GB/s",
        median(rates),
        median(own)
    );
}

fn attention(
    cpu: &mut Cpu,
    elem: PageElem,
    past: usize,
    new: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let context = past + new;
    let layout =
        KvLayout { num_blocks: context.div_ceil(16), kv_heads: 8, block_len: 16, head_dim: 128, elem };
    let layers = if new == 1 { COLD_BYTES.div_ceil(layout.bytes()) } else { 1 };
    let pages = [0x3cu8].repeat(layers * layout.bytes());
    let blocks: Vec<u32> = (0..layout.num_blocks as u32).collect();
    let q = [0x3cu8].repeat(new * 2048 * 2);
    let mut out = vec![0u8; new * 2048 * 2];
    let shape = AttentionShape { q_heads: 16, scale: 0.088, window: None };
    let (mut seconds, mut own) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        let seqs = [SequenceQueries { first_row: 0, num_new: new, first_position: past, blocks: &blocks }];
        for pages in pages.chunks(layout.bytes()) {
            let q = Rows::new(&q, Elem::Bf16, new, 2048)?;
            let out = RowsMut::new(&mut out, Elem::Bf16, new, 2048)?;
            cpu.attention(shape, q, KvPages::new(pages, layout)?, &seqs, out)?;
        }
        seconds.push(start.elapsed().as_secs_f64() / layers as f64);
        own.push((cpu_seconds() - cpu_start) / layers as f64);
    }
    let seconds = median(seconds);
    let pairs: f64 = (0..new).map(|t| (past + t + 1) as f64).sum();
    let flops = pairs * 16.0 * 128.0 * 4.0;
    println!(
        "attention, {past} before, {new} new: {:.3} ms, {:.1} GFLOP/s, pages at {:.1} GB/s ({:.1} and {:.1} of processor time)",
        1e3 * seconds,
        1e-9 * flops / seconds,
        1e-9 * layout.bytes() as f64 / seconds,
        1e-9 * flops / median(own.clone()),
        1e-9 * layout.bytes() as f64 / median(own)
    );
    Ok(())
}
