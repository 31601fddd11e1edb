//! The backend against the reference: every op, launched kernel by kernel and replayed as graphs,
//! and linear layers by the vendor's library where sums may have any order. Skips, and says why,
//! where there is no GPU.

use std::sync::Arc;

use nvllm_conformance::{CASES, MemorySource, WithNumerics, expect_conformance};
use nvllm_core::weight::{AxisRole, Offset, PUBLIC, ScaleType, SyntheticSource};
use nvllm_core::{
    Activations, Backend, CanonicalTensor, DType, Executable, InlineVec, KvFormat, Limits, ModelSpec,
    Numerics, OutputRow, SeqStep, SlotId, SlotReset, Source, SpecBuilder, Step, StepId, TensorInfo, TokenId,
    WeightSource,
};
use nvllm_cuda::{CudaBackend, CudaError, CudaExecutable, CudaOptions, DecodePass, Vendor, cublaslt_version};

mod sum_order;

fn backend_with(graphs: bool, vendor: Vendor) -> Result<CudaBackend, CudaError> {
    let cache_dir = Some(std::env::temp_dir().join("nvllm-cuda-test-kernels"));
    let decode_pass = DecodePass::Always;
    CudaBackend::new(&CudaOptions { graphs, cache_dir, vendor, decode_pass, ..CudaOptions::default() })
}

fn backend(graphs: bool) -> Result<CudaBackend, CudaError> {
    backend_with(graphs, Vendor::default())
}

nvllm_conformance::conformance_where_found!(eager, || backend(false));
nvllm_conformance::conformance_where_found!(graphs, || backend(true));

/// What linear layers have a part in, but equality across numbers of rows, which `Numerics::Fast`
/// does not promise.
const FAST: [&str; 7] = [
    "linear",
    "linear_add",
    "linear_silu_mul",
    "models_op_by_op",
    "models_end_to_end",
    "page_invariance",
    "moved_blocks",
];

/// The backend for `Numerics::Fast`, unless something is missing.
fn fast(vendor: Vendor) -> Option<CudaBackend> {
    match backend_with(true, vendor) {
        Ok(_) if cublaslt_version().is_none() => println!("skipped: cuBLASLt was not found"),
        Ok(backend) => return Some(backend),
        Err(reason) => println!("skipped: {reason}"),
    }
    None
}

#[test]
fn fast_conforms_by_the_vendors_products() {
    let Some(backend) = fast(Vendor::Always) else { return };
    let backend = WithNumerics { backend: &backend, numerics: Numerics::Fast };
    let cases: Vec<_> = CASES.iter().filter(|case| FAST.contains(&case.name)).collect();
    assert_eq!(cases.len(), FAST.len());
    cases.into_iter().for_each(|case| expect_conformance(case.run, &backend));
}

#[test]
fn fast_conforms_by_what_is_faster() {
    let Some(backend) = fast(Vendor::IfFaster) else { return };
    let backend = WithNumerics { backend: &backend, numerics: Numerics::Fast };
    let models = CASES.iter().filter(|case| case.name == "models_end_to_end");
    models.for_each(|case| expect_conformance(case.run, &backend));
}

/// A layer of tokens and a head of outputs.
fn two_layers() -> ModelSpec {
    const WIDTH: usize = 64;
    let mut builder = SpecBuilder::new();
    let mut matrix = |name: &str| {
        let part = (name.to_owned(), WIDTH, AxisRole::Replicated);
        builder.matrix(name, WIDTH, AxisRole::Replicated, [part])
    };
    let (table, layer, head) = (matrix("table"), matrix("layer"), matrix("head"));
    let mut program = builder.program("layers");
    let x = program.embed(table);
    let x = program.linear(x, layer);
    let x = program.gather_rows(x);
    program.linear_f32(x, head);
    let program = program.finish().expect("shapes agree");
    builder.finish("two layers", vec![program], WIDTH, WIDTH)
}

fn limits(numerics: Numerics, activations: Activations) -> Limits {
    Limits { kv_format: KvFormat::Bf16, numerics, ..Limits::new(activations, 3, 48) }
}

fn load(backend: &CudaBackend, limits: &Limits) -> CudaExecutable {
    let spec = two_layers();
    let source = SyntheticSource::new(&spec.weights, DType::Bf16, 0);
    let plan = backend.plan(&spec, &source, limits).expect("it fits");
    backend.load_plan(plan, &source).expect("it loads")
}

#[test]
fn the_vendors_products_run_under_fast_only() {
    let Some(backend) = fast(Vendor::Always) else { return };
    for (numerics, activations, expected) in [
        (Numerics::Fast, Activations::Bf16, 2),
        (Numerics::Fast, Activations::F32, 0),
        (Numerics::Invariant, Activations::Bf16, 0),
    ] {
        let exe = load(&backend, &limits(numerics, activations));
        assert_eq!(exe.vendor_layers(), expected, "{numerics:?}, {activations:?}");
    }
}

/// Loading captures no graph, so that ready does not wait; a step without its graph runs, and has
/// it next time.
#[test]
fn graphs_are_captured_between_steps() {
    let backend = match backend(true) {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let mut exe = load(&backend, &limits(Numerics::Invariant, Activations::Bf16));
    let mut num_steps = 0;
    let mut step = |exe: &mut CudaExecutable, num_seqs: u32| {
        let reset = |slot| SlotReset {
            slot: SlotId(slot),
            prompt: [].into(),
            output: [].into(),
            sampling: Arc::default(),
        };
        let seq = |slot| SeqStep {
            slot: SlotId(slot),
            tokens: [Source::Host(TokenId(slot))].into(),
            positions: [Source::Host(0)].into(),
            kv_start: Source::Host(0),
            block_tables: InlineVec::new(),
            outputs: [OutputRow::new(0)].into(),
        };
        num_steps += 1;
        let step = Step {
            id: StepId(num_steps),
            resets: (0..num_seqs).map(reset).collect(),
            seqs: (0..num_seqs).map(seq).collect(),
            ..Step::default()
        };
        let ticket = exe.submit(&step).expect("it fits");
        exe.collect(ticket).expect("it runs");
        exe.num_replays()
    };
    assert!(!exe.prepare(false).unwrap(), "no step has lacked one");
    assert_eq!(step(&mut exe, 3), 0);
    assert!(exe.prepare(false).unwrap() && !exe.prepare(false).unwrap());
    assert_eq!([step(&mut exe, 3), step(&mut exe, 2), step(&mut exe, 3)], [1, 1, 2]);
    while exe.prepare(true).unwrap() {}
    assert_eq!([step(&mut exe, 1), step(&mut exe, 2)], [3, 4]);
}

/// `y = x W^T` in f32, with numbers of very different sizes: what a sum gives depends on its order
/// in the first bits.
fn uneven_layer(cols: usize, rows: usize) -> (ModelSpec, MemorySource) {
    let mut source = MemorySource::new();
    let mut state = 1_u64;
    let mut uneven = |num: usize| {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let value = |bits: u32| {
            let size = 2_f32.powi((bits >> 8) as i32 % 12) * (1.0 + (bits & 127) as f32 / 128.0);
            if bits & 128 == 0 { size } else { -size }
        };
        (0..num).map(|_| value(next())).collect::<Vec<f32>>()
    };
    let mut builder = SpecBuilder::new();
    let mut matrix = |name: &str, rows: usize| {
        source.insert(name, DType::Bf16, &[rows, cols], uneven(rows * cols));
        builder.matrix(name, cols, AxisRole::Replicated, [(name.to_owned(), rows, AxisRole::Replicated)])
    };
    let (table, weight) = (matrix("table", 4), matrix("weight", rows));
    let mut program = builder.program("product");
    let x = program.embed(table);
    let y = program.linear_f32(x, weight);
    program.label(y, "y");
    let mut program = program.finish().expect("shapes agree");
    program.keep("y");
    (builder.finish("an uneven layer", vec![program], 4, 1024), source)
}

/// A source in which one tensor is another.
struct With {
    source: MemorySource,
    name: &'static str,
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
        if name == self.name { Ok(self.tensor.info()) } else { self.source.info(name) }
    }

    fn tensor(&self, name: &str) -> nvllm_core::Result<CanonicalTensor> {
        if name == self.name { Ok(self.tensor.clone()) } else { self.source.tensor(name) }
    }
}

/// The bits of the kept value `y` of a step of so many rows, of four tokens in turn.
fn product(exe: &mut CudaExecutable, num_rows: u32) -> Vec<u32> {
    let tokens = (0..num_rows).map(|i| Source::Host(TokenId(i % 4)));
    let seq = SeqStep {
        slot: SlotId(0),
        tokens: tokens.collect(),
        positions: (0..num_rows).map(Source::Host).collect(),
        kv_start: Source::Host(0),
        block_tables: InlineVec::new(),
        outputs: InlineVec::new(),
    };
    let reset = SlotReset { slot: SlotId(0), prompt: [].into(), output: [].into(), sampling: Arc::default() };
    let step = Step { resets: vec![reset], seqs: vec![seq], ..Step::default() };
    let ticket = exe.submit(&step).expect("it fits");
    exe.collect(ticket).expect("it runs");
    let kept = exe.kept("y").expect("it can be read").expect("it is kept");
    kept.to_f32().iter().map(|x| x.to_bits()).collect()
}

/// Loads a model for steps of up to 600 rows.
fn load_rows(
    backend: &CudaBackend,
    spec: &ModelSpec,
    source: &dyn WeightSource,
    numerics: Numerics,
) -> CudaExecutable {
    let limits = limits(numerics, Activations::Bf16);
    let most = Limits { step_tokens: 600, context: 600, seqs: 1, step_outputs: 1, ..limits };
    let plan = backend.plan(spec, source, &most).expect("it fits");
    backend.load_plan(plan, source).expect("it loads")
}

/// Whether a row of `y` has the same bits whatever the number of rows in its step.
fn rows_are_alike(backend: &CudaBackend, spec: &ModelSpec, source: &dyn WeightSource) {
    let mut exe = load_rows(backend, spec, source, Numerics::Invariant);
    let mut rows_of = |num_rows: u32| product(&mut exe, num_rows);
    let four: Vec<u32> = rows_of(4);
    let sums: Vec<f32> = four.iter().map(|&bits| f32::from_bits(bits)).collect();
    assert!(sums.iter().all(|x| x.is_finite()) && sums.iter().any(|x| x.abs() > 1e3), "{:?}", &sums[..4]);
    for num_rows in [1, 2, 8, 16, 17, 32, 33, 64, 65, 129, 192, 300, 600] {
        let got = rows_of(num_rows);
        let want = four.iter().cycle();
        let differs = got.iter().zip(want).position(|(got, want)| got != want);
        assert_eq!(differs, None, "element of {num_rows} rows");
    }
}

/// That wgmma and mma.sync add 16 columns alike, whichever operand holds the weights, is a property
/// of the chip on which the order of linear layers rests: the same row has the same bits whatever
/// kernel its step's number of rows selects.
#[test]
fn tensor_cores_sum_alike() {
    let backend = match backend(true) {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let (spec, source) = uneven_layer(4096, 4096);
    rows_are_alike(&backend, &spec, &source);
}

/// Rows over coded weights are alike too, in orders that their formats have of their own.
#[test]
fn rows_over_coded_weights_do_not_depend_on_their_number() {
    const COLS: usize = 4096;
    const ROWS: usize = 1040;
    let backend = match backend(true) {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let (spec, source) = uneven_layer(COLS, ROWS);
    let mut state = 1_u32;
    let mut noise = |len: usize| {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // No FP8 NaN.
            (state >> 24) as u8 & 0xf7
        };
        (0..len).map(|_| next()).collect::<Vec<_>>().into()
    };
    for (name, format) in PUBLIC {
        let Some(scales) = format.scales.filter(|scales| scales.second.is_none()) else { continue };
        let blocks = |[n, k]: [usize; 2]| [ROWS.div_ceil(n), COLS.div_ceil(k)];
        let ones = |kind: ScaleType| {
            let one: &[u8] = match kind {
                ScaleType::F32 => &[0, 0, 0x80, 0x3f],
                ScaleType::F16 => &[0, 0x3c],
                ScaleType::Bf16 => &[0x80, 0x3f],
                _ => &[127],
            };
            one.repeat(blocks(scales.block).iter().product()).into()
        };
        let bits = format.code.bits();
        let [n, k] = blocks(scales.block);
        let offsets = match format.offset {
            Offset::None | Offset::Midpoint => bytes::Bytes::new(),
            Offset::Int => noise(n * (k * bits).div_ceil(8)),
            Offset::Float => ones(scales.kind),
        };
        let tensor = CanonicalTensor {
            format,
            codes: noise(ROWS * (COLS * bits).div_ceil(8)),
            scales: ones(scales.kind),
            offsets,
            k_perm: format.permuted.then(|| (0..COLS as u32).rev().collect()),
            act_scale: format.act.filter(|act| act.is_static()).map(|_| 8.0),
            ..CanonicalTensor::dense(DType::F32, [ROWS, COLS], bytes::Bytes::new())
        };
        println!("{name}");
        rows_are_alike(&backend, &spec, &With { source: source.clone(), name: "weight", tensor });
    }
}
