//! A row has the same bits whatever the number of rows in its step, where conformance does not
//! look: over every coded format with the norm of the row inside, and over long sequences in every
//! format of the KV cache. Skips, and says why, where there is no adapter.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use nvllm_conformance::MemorySource;
use nvllm_core::program::{Counts, Projection, QkNorm};
use nvllm_core::weight::{AxisRole, Offset, PUBLIC, ScaleType};
use nvllm_core::{
    Activations, AttentionSpec, Backend, BlockId, CanonicalTensor, DType, EntryId, Executable, InlineVec,
    KvFormat, Limits, ModelSpec, PagedKv, RopeScaling, RopeSpec, SeqStep, SlotId, SlotReset, Source,
    SpecBuilder, Step, StepId, TensorInfo, TokenId, WeightFormat, WeightSource,
};
use nvllm_wgpu::{WgpuBackend, WgpuOptions};

fn backend() -> Result<WgpuBackend, String> {
    static BACKEND: OnceLock<Result<WgpuBackend, String>> = OnceLock::new();
    let open = || WgpuBackend::new(&WgpuOptions::default()).map_err(|error| error.to_string());
    BACKEND.get_or_init(open).clone()
}

const TOKENS: usize = 32;

/// Rows of a coded weight.
const ROWS: usize = 22;

/// Numbers within 1, in a long cycle.
fn numbers(seed: u32) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A model of matrices and vectors in bf16, which `record` uses.
struct Weights {
    source: MemorySource,
    builder: SpecBuilder,
}

impl Weights {
    fn new() -> Self {
        Self { source: MemorySource::new(), builder: SpecBuilder::new() }
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> nvllm_core::WeightId {
        let mut next = numbers(rows as u32);
        let values = (0..rows * cols).map(|_| next()).collect::<Vec<_>>();
        self.source.insert(name, DType::Bf16, &[rows, cols], values);
        self.builder.matrix(name, cols, AxisRole::Replicated, [(name.to_owned(), rows, AxisRole::Replicated)])
    }

    fn vector(&mut self, name: &str, len: usize) -> nvllm_core::WeightId {
        let mut next = numbers(len as u32 + 1);
        let values = (0..len).map(|_| 1.0 + 0.5 * next()).collect::<Vec<_>>();
        self.source.insert(name, DType::Bf16, &[len], values);
        self.builder.vector(name, name, len)
    }
}

/// Sequences of a step at most.
const SEQS: u32 = 3;

fn limits(kv_format: KvFormat, context: usize, step_tokens: usize) -> Limits {
    let limits = Limits::new(Activations::Bf16, SEQS as usize, context);
    Limits { step_tokens, kv_bytes: 16 << 20, kv_format, ..limits }
}

/// Steps of sequences with the same tokens, and the bits of each row of the kept value `y`.
struct Rows {
    exe: Box<dyn Executable>,
    at: u32,
    steps: u64,
    /// By sequence.
    tables: Vec<InlineVec<Arc<[BlockId]>>>,
}

impl Rows {
    fn new(backend: &WgpuBackend, spec: &ModelSpec, source: &dyn WeightSource, limits: &Limits) -> Self {
        let exe = backend.plan_and_load(spec, source, limits).expect("it loads");
        let blocks = limits.context.div_ceil(limits.block_len) as u32;
        // Block 0 is nobody's.
        let table = |seq| (1..=blocks).rev().map(|i| BlockId(seq * blocks + i)).collect::<Arc<[_]>>();
        let tables = (0..SEQS).map(|seq| spec.kv.iter().map(|_| table(seq)).collect()).collect();
        Self { exe, at: 0, steps: 0, tables }
    }

    /// A step that has these positions of the first, the second and further sequences.
    fn step(&mut self, all: &[Range<u32>]) -> Vec<Vec<u32>> {
        let seq = |(seq, places): (usize, &Range<u32>)| SeqStep {
            slot: SlotId(seq as u32),
            tokens: places.clone().map(|i| Source::Host(TokenId(i * 7 % TOKENS as u32))).collect(),
            positions: places.clone().map(Source::Host).collect(),
            kv_start: Source::Host(places.start),
            block_tables: self.tables[seq].clone(),
            outputs: InlineVec::new(),
        };
        let reset = |(seq, _)| SlotReset {
            slot: SlotId(seq as u32),
            prompt: [].into(),
            output: [].into(),
            sampling: Arc::default(),
        };
        let resets = all.iter().enumerate().filter(|(_, places)| places.start == 0).map(reset).collect();
        let seqs = all.iter().enumerate().map(seq).collect();
        self.steps += 1;
        let step = Step { id: StepId(self.steps), resets, seqs, ..Step::default() };
        let ticket = self.exe.submit(&step).expect("it fits");
        self.exe.collect(ticket).expect("it runs");
        let kept = self.exe.kept("y").expect("it can be read").expect("it is kept").to_f32();
        let odd = kept.iter().position(|x| !x.is_finite());
        assert!(odd.is_none() && kept.iter().any(|&x| x != 0.0), "element {odd:?} of {}", kept.len());
        let num_rows: usize = all.iter().map(Range::len).sum();
        let rows = kept.chunks(kept.len() / num_rows);
        rows.map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
    }

    /// The rows of steps of one sequence, of these lengths from the first token on.
    fn all(&mut self, lens: &[u32]) -> Vec<Vec<u32>> {
        self.at = 0;
        let step = |&len: &u32| {
            let places = self.at..self.at + len;
            self.at += len;
            self.step(&[places])
        };
        lens.iter().flat_map(step).collect()
    }
}

/// A source in which the tensor `w` is another.
struct With {
    source: MemorySource,
    tensor: CanonicalTensor,
}

impl WeightSource for With {
    fn describe(&self) -> String {
        self.source.describe()
    }

    fn names(&self) -> Vec<String> {
        self.source.names()
    }

    fn info(&self, name: &str) -> nvllm_core::Result<TensorInfo> {
        if name == "w" { Ok(self.tensor.info()) } else { self.source.info(name) }
    }

    fn tensor(&self, name: &str) -> nvllm_core::Result<CanonicalTensor> {
        if name == "w" { Ok(self.tensor.clone()) } else { self.source.tensor(name) }
    }
}

/// Codes and offsets of noise under scales of 1 on every level.
fn noise(format: WeightFormat, [rows, cols]: [usize; 2]) -> CanonicalTensor {
    let mut next = numbers(5);
    let mut noise = |len: usize| -> bytes::Bytes {
        // No FP8 NaN.
        (0..len).map(|_| (next().to_bits() >> 8) as u8 & 0xf7).collect::<Vec<_>>().into()
    };
    let Some(scales) = format.scales else { unreachable!("it is coded") };
    let ones = |kind: ScaleType, block: [usize; 2]| -> bytes::Bytes {
        let one: &[u8] = match kind {
            ScaleType::F32 => &[0, 0, 0x80, 0x3f],
            ScaleType::F16 => &[0, 0x3c],
            ScaleType::Bf16 => &[0x80, 0x3f],
            ScaleType::E4M3 => &[0x38],
            ScaleType::E8M0 => &[127],
            ScaleType::I8 | ScaleType::U6 => &[1],
        };
        let [n, k] = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
        // Of 6 bits each as many bytes as there are; what they say is of no matter.
        if kind == ScaleType::U6 {
            vec![0x41; n * (6 * k).div_ceil(8)].into()
        } else {
            one.repeat(n * k).into()
        }
    };
    let bits = format.code.bits();
    let [n, k] = [rows.div_ceil(scales.block[0]), cols.div_ceil(scales.block[1])];
    let second = scales.second.map(|second| ones(second.kind, second.block)).unwrap_or_default();
    let is_float = format.offset == Offset::Float;
    CanonicalTensor {
        format,
        codes: noise(rows * (cols * bits).div_ceil(8)),
        scales: ones(scales.kind, scales.block),
        offsets: match format.offset {
            Offset::None | Offset::Midpoint => bytes::Bytes::new(),
            Offset::Int => noise(n * (k * bits).div_ceil(8)),
            Offset::Float => ones(scales.kind, scales.block),
        },
        second_offsets: if is_float { second.clone() } else { bytes::Bytes::new() },
        second_scales: second,
        k_perm: format.permuted.then(|| (0..cols as u32).rev().collect()),
        act_scale: format.act.filter(|act| act.is_static()).map(|_| 0.5),
        ..CanonicalTensor::dense(DType::F32, [rows, cols], bytes::Bytes::new())
    }
}

/// A linear layer over `w`, which has `rows` rows of `cols` columns.
fn product([rows, cols]: [usize; 2]) -> (ModelSpec, MemorySource) {
    let mut weights = Weights::new();
    let (table, norm, w) = (
        weights.matrix("table", TOKENS, cols),
        weights.vector("norm", cols),
        weights.matrix("w", rows, cols),
    );
    let mut program = weights.builder.program("product");
    let x = program.embed(table);
    let x = program.rms_norm(x, norm, 1e-6);
    let y = program.linear_f32(x, Projection { weight: w, bias: None });
    program.label(y, "y");
    let mut program = program.finish().expect("shapes agree");
    program.keep("y");
    (weights.builder.finish("a layer", vec![program], TOKENS, 512), weights.source)
}

/// One row, a few, and so many that a workgroup makes a tile of them, if `tiled`.
fn check_rows(backend: &WgpuBackend, spec: &ModelSpec, source: &dyn WeightSource, what: &str, tiled: bool) {
    let mut rows = Rows::new(backend, spec, source, &limits(KvFormat::Bf16, 512, 496));
    let schedule = rows.exe.schedule(EntryId::default(), &Counts::decode(496, 496));
    let launches: Vec<_> = schedule.into_iter().flat_map(|stage| stage.launches).collect();
    assert_eq!(launches.iter().any(|launch| launch.contains("tiled")), tiled, "{what}: {launches:?}");
    let want = rows.all(&[248, 248]);
    for lens in [&[1; 6][..], &[2, 3, 1, 10], &[16], &[496]] {
        let got = rows.all(lens);
        assert!(got == want[..got.len()], "{what}: steps of {lens:?} rows");
    }
}

#[test]
fn rows_over_coded_weights_do_not_depend_on_their_number() {
    let backend = match backend() {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    // Of whole chunks, and not.
    for cols in [1024, 500] {
        let (spec, weights) = product([ROWS, cols]);
        for (name, format) in PUBLIC {
            let tensor = noise(format, [ROWS, cols]);
            tensor.check(name).expect("it is a tensor");
            let source = With { source: weights.clone(), tensor };
            check_rows(&backend, &spec, &source, &format!("{name}, {cols} columns"), cols == 1024);
        }
    }
}

/// Rows of bf16 in which the last chunks of the last eighths are missing, so long that no
/// invocation holds its part at once, and shorter than one chunk for each.
#[test]
fn rows_over_bf16_do_not_depend_on_their_number() {
    let backend = match backend() {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    for shape in [[70, 1096], [33, 3640], [40, 24]] {
        let (spec, weights) = product(shape);
        check_rows(&backend, &spec, &weights, &format!("{shape:?}"), true);
    }
}

/// Attention behind its projection, over heads of 64 columns.
fn attention(window: Option<usize>) -> (ModelSpec, MemorySource) {
    const D: usize = 64;
    let mut weights = Weights::new();
    let (table, qkv) = (weights.matrix("table", TOKENS, 32), weights.matrix("qkv", 4 * D, 32));
    let norm = QkNorm { q: weights.vector("q_norm", D), k: weights.vector("k_norm", D), eps: 1e-6 };
    let spec = AttentionSpec { num_heads: 2, num_kv_heads: 1, head_dim: D, scale: 0.125, window };
    let kv = weights.builder.paged_kv(PagedKv { num_layers: 1, num_heads: 1, head_dim: D, window })(0);
    let rope = RopeSpec { theta: 1e4, head_dim: D, scaling: RopeScaling::None };
    let mut program = weights.builder.program("attention");
    let x = program.embed(table);
    let x = program.linear(x, qkv);
    let y = program.attention(x, Some(norm), &rope, &spec, kv);
    program.label(y, "y");
    let mut program = program.finish().expect("shapes agree");
    program.keep("y");
    (weights.builder.finish("attention", vec![program], TOKENS, 1024), weights.source)
}

/// One token alone, whose launch has everything inside; few rows, whose sequences are split; and
/// many rows.
#[test]
fn attention_over_long_sequences_does_not_depend_on_the_rows_of_a_step() {
    let backend = match backend() {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let formats = KvFormat::ALL.map(|format| (format, None));
    for (format, window) in formats.into_iter().chain([(KvFormat::Bf16, Some(100))]) {
        let (spec, source) = attention(window);
        let mut rows = Rows::new(&backend, &spec, &source, &limits(format, 800, 256));
        let want = rows.all(&[256, 256, 40]);
        for lens in [&[250, 1, 3, 1, 1, 1, 1, 4][..], &[256, 256, 3, 1, 8, 1, 1]] {
            let got = rows.all(lens);
            let differs = got.iter().zip(&want).position(|(got, want)| got != want);
            assert_eq!(differs, None, "row of {format}, window {window:?}, steps of {lens:?}");
        }
        // Sequences of which some tiles of rows have two and three, one at its first tokens and
        // one in its second chunk.
        rows.all(&[256]);
        let places = [256..269, 0..3, 0..60];
        let wanted = places.iter().flat_map(|places| want[places.start as usize..places.end as usize].iter());
        let got = rows.step(&places);
        let differs = got.iter().zip(wanted).position(|(got, want)| got != want);
        assert_eq!(differs, None, "row of {format}, window {window:?}, of several sequences");
    }
}

/// A layer of a transformer.
fn layer() -> (ModelSpec, MemorySource) {
    const WIDTH: usize = 128;
    const D: usize = 64;
    let mut weights = Weights::new();
    let (table, norm) = (weights.matrix("table", TOKENS, WIDTH), weights.vector("norm", WIDTH));
    let (qkv, out) = (weights.matrix("qkv", 4 * D, WIDTH), weights.matrix("out", WIDTH, 2 * D));
    let (up, down) = (weights.matrix("up", 2 * 192, WIDTH), weights.matrix("down", WIDTH, 192));
    let attention = AttentionSpec { num_heads: 2, num_kv_heads: 1, head_dim: D, scale: 0.125, window: None };
    let cache = PagedKv { num_layers: 1, num_heads: 1, head_dim: D, window: None };
    let kv = weights.builder.paged_kv(cache)(0);
    let rope = RopeSpec { theta: 1e4, head_dim: D, scaling: RopeScaling::None };
    let mut p = weights.builder.program("layer");
    let x = p.embed(table);
    let h = p.rms_norm(x, norm, 1e-6);
    let h = p.linear(h, qkv);
    let h = p.attention(h, None, &rope, &attention, kv);
    let h = p.linear(h, out);
    let x = p.add(x, h);
    let h = p.rms_norm(x, norm, 1e-6);
    let h = p.linear(h, up);
    let h = p.silu_mul(h);
    let h = p.linear(h, down);
    let x = p.add(x, h);
    p.label(x, "y");
    let mut program = p.finish().expect("shapes agree");
    program.keep("y");
    (weights.builder.finish("a layer", vec![program], TOKENS, 1024), weights.source)
}

/// With what is fused to its linear layers.
#[test]
fn rows_of_a_layer_do_not_depend_on_their_number() {
    let backend = match backend() {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let (spec, weights) = layer();
    check_rows(&backend, &spec, &weights, "a layer", true);
}

/// Launches bound a step of one token: there are five a layer, and one more where its
/// sequence is long.
#[test]
fn a_layer_of_one_row_is_five_launches() {
    let backend = match backend() {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let (spec, weights) = layer();
    let limits = limits(KvFormat::Bf16, 1024, 16);
    let rows = Rows::new(&backend, &spec, &weights, &limits);
    let launches = |context: usize| -> Vec<String> {
        let stages = rows.exe.schedule(EntryId::default(), &Counts::decode(1, context));
        stages.into_iter().flat_map(|stage| stage.launches).collect()
    };
    assert_eq!(launches(100).len(), 1 + 5, "{:?}", launches(100));
    assert_eq!(launches(700).len(), 1 + 6, "{:?}", launches(700));
}
