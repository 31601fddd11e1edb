//! The backend: from a tape to a loaded model on one GPU.

use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use nvllm_core::backend::lower;
use nvllm_core::program::MemoryPlan;
use nvllm_core::{
    Activations, Backend, BackendInfo, CoreError, DType, Executable, KvGeometry, Limits, MemoryReport,
    ModelSpec, Op, OrderId, PlanRules, Program, Reason, Rows, RowsOf, WeightSource,
};

use crate::compile::{Images, KernelCache, Target};
use crate::cublaslt::CublasLt;
use crate::device::{Device, DeviceFacts, version};
use crate::error::Result;
use crate::executable::{CudaExecutable, Entry, Held, Parts};
use crate::inputs::{Inputs, Layout};
use crate::kv::CudaKv;
use crate::lanes::Lane;
use crate::launch::{Args, Dim, Extents, Launch};
use crate::lower::{self, Lowering, MAX_HEAD_DIM, Tuning, Vendor, fast_shape};
use crate::matmul_rate::MatmulRate;
use crate::memory::Buffer;
use crate::modules::Modules;
use crate::rope::RopeTables;
use crate::sampler::{Sampler, result_bytes};
use crate::slots::DeviceSlots;
use crate::weights::{self, Weights};
use crate::work_lists::WorkLists;

/// Values lie on lines of 256 bytes, in one allocation that kernels read and write.
const RULES: PlanRules =
    PlanRules { align: 256, max_segment: usize::MAX, max_binding: usize::MAX, read_write_share: true };

/// Tokens of a step that fill the device's tensor cores many times over.
const STEP_TOKENS: usize = 8192;

/// What a bandwidth measurement reads: several times any last-level cache.
const BANDWIDTH_BYTES: usize = 1 << 30;

/// What may be said of how the backend is set up.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// Which GPU, as the driver numbers them.
    pub gpu: usize,
    /// Where compiled kernels are kept between runs; nowhere if not given.
    pub cache_dir: Option<PathBuf>,
    /// The folder of NVRTC's libraries, if the system's loader does not find them.
    pub nvrtc_dir: Option<PathBuf>,
    /// Whether decode steps are replayed as CUDA graphs.
    pub graphs: bool,
    /// When the vendor's library runs a linear layer, where the order of sums is free.
    pub vendor: Vendor,
    /// Compiled kernels that the program has inside, as [`archive`](crate::compile::archive) makes them.
    pub kernels: Option<&'static [u8]>,
}

impl Default for CudaOptions {
    /// The first GPU, with graphs, nothing kept on disk, no kernels inside.
    fn default() -> Self {
        let vendor = Vendor::default();
        Self { gpu: 0, cache_dir: None, nvrtc_dir: None, graphs: true, vendor, kernels: None }
    }
}

/// One GPU as a backend.
pub struct CudaBackend {
    device: Arc<Device>,
    images: Images,
    graphs: bool,
    vendor: Vendor,
    free_bytes: usize,
    modules: OnceCell<Rc<Modules>>,
    /// The vendor's library, looked for when it is first wanted; none if it is not there.
    library: OnceCell<Option<Rc<CublasLt>>>,
    /// What was measured once stays loaded: a measurement is then a few products.
    matmul_rates: RefCell<Vec<MatmulRate>>,
}

impl CudaBackend {
    /// Opens the GPU. Kernels are loaded, and compiled where they are not kept, with the first model.
    ///
    /// # Errors
    /// If there is no driver, no such device, none that is supported, or neither kernels for it nor a compiler.
    pub fn new(options: &CudaOptions) -> Result<Self> {
        let device = Arc::new(Device::new(options.gpu)?);
        let CudaOptions { cache_dir, nvrtc_dir, graphs, vendor, kernels, .. } = options.clone();
        let images = Images::new(kernels, KernelCache::new(cache_dir), nvrtc_dir, device.facts.driver);
        images.check(&Target::for_device(device.facts.capability))?;
        let free_bytes = device.free_bytes()?;
        Ok(Self {
            device,
            images,
            graphs,
            vendor,
            free_bytes,
            modules: OnceCell::new(),
            library: OnceCell::new(),
            matmul_rates: RefCell::default(),
        })
    }

    /// What the device says of itself.
    pub fn facts(&self) -> &DeviceFacts {
        &self.device.facts
    }

    fn modules(&self) -> Result<Rc<Modules>> {
        if let Some(modules) = self.modules.get() {
            return Ok(Rc::clone(modules));
        }
        let modules = Rc::new(Modules::load(&self.device, &self.images)?);
        Ok(Rc::clone(self.modules.get_or_init(|| modules)))
    }

    /// The vendor's library, if `limits` admit it and it is there.
    fn library(&self, limits: &Limits) -> Option<Rc<CublasLt>> {
        if !lower::wants_vendor(limits) {
            return None;
        }
        if let Some(library) = self.library.get() {
            return library.clone();
        }
        let library = self.device.check_timing().and_then(|()| CublasLt::find(&self.device));
        let library = library.unwrap_or_else(|error| {
            tracing::warn!(%error, "cuBLASLt cannot be used: linear layers run our kernels only");
            None
        });
        self.library.get_or_init(|| library).clone()
    }

    /// Seconds that reading `BANDWIDTH_BYTES` takes, at best.
    fn read_seconds(&self) -> Result<f64> {
        let modules = self.modules()?;
        let data = Buffer::zeroed(&self.device, BANDWIDTH_BYTES)?;
        let out = Buffer::zeroed(&self.device, 256)?;
        let args = Args::new().ptr(data.at(0)).int(BANDWIDTH_BYTES / 16).ptr(out.at(0));
        let launch = Launch::new(modules.function("bandwidth_read")?, Dim::Fixed(2048), 512, args);
        let none = Extents { tokens: 0, outputs: 0, seqs: 0, prefill: false, chunks: false };
        let mut best = f64::INFINITY;
        for _ in 0..6 {
            best = best.min(self.device.seconds(|| launch.run(&self.device, none))?);
        }
        Ok(best)
    }

    /// Operations a second of a product by the crate's own kernel.
    fn matmul_rate(&self, weights: DType, activations: Activations) -> nvllm_core::Result<f64> {
        let mut loaded = self.matmul_rates.borrow_mut();
        if let Some(known) = loaded.iter_mut().find(|rate| rate.of == (weights, activations)) {
            return known.measure();
        }
        let mut rate = MatmulRate::new(self, weights, activations)?;
        let measured = rate.measure();
        loaded.push(rate);
        measured
    }
}

impl Backend for CudaBackend {
    fn info(&self) -> BackendInfo {
        let facts = &self.device.facts;
        let (major, minor) = facts.capability;
        BackendInfo {
            name: "cuda".into(),
            device: format!("GPU {}, {}, compute capability {major}.{minor}", facts.ordinal, facts.name),
            memory_bytes: self.free_bytes,
            step_tokens: STEP_TOKENS,
            max_in_flight: 2,
            driver: Some(format!("CUDA {}", version(facts.driver))),
            clocks_mhz: facts.clocks_mhz,
        }
    }

    fn supports(&self, op: &Op) -> Result<(), Reason> {
        match op {
            Op::Attention { spec, .. } if !fast_shape(spec) => Err(Reason(format!(
                "head_dim is {} with {} query and {} KV heads; 64 and 128, with up to 16 query heads a KV head, are fused",
                spec.head_dim, spec.num_heads, spec.num_kv_heads
            ))),
            Op::PagedAttention { spec, .. }
                if !spec.head_dim.is_multiple_of(8) || spec.head_dim > MAX_HEAD_DIM =>
            {
                let problem = format!("head_dim is {}", spec.head_dim);
                Err(Reason(format!("{problem}; multiples of 8 up to {MAX_HEAD_DIM} are supported")))
            }
            _ => Ok(()),
        }
    }

    fn measure_read_bandwidth(&self) -> Option<f64> {
        self.read_seconds().ok().map(|seconds| BANDWIDTH_BYTES as f64 / seconds)
    }

    fn measure_matmul_rate(&self, weights: DType, activations: Activations) -> Option<f64> {
        if matches!(weights, DType::I32 | DType::U8) {
            return None;
        }
        let rate = self.matmul_rate(weights, activations);
        rate.inspect_err(|error| tracing::warn!(%error, "no matrix product could be timed")).ok()
    }

    fn plan_rules(&self) -> PlanRules {
        RULES
    }

    fn order(&self, op: &Op, num_rows: usize, limits: &Limits) -> OrderId {
        lower::order(op, num_rows, limits)
    }

    fn plan(
        &self,
        spec: &ModelSpec,
        source: &dyn WeightSource,
        limits: &Limits,
    ) -> nvllm_core::Result<MemoryReport> {
        Ok(self.planned(spec, source, limits)?.need)
    }

    fn load(
        &self,
        spec: &ModelSpec,
        source: &dyn WeightSource,
        limits: &Limits,
    ) -> nvllm_core::Result<Box<dyn Executable>> {
        Ok(Box::new(self.load_model(spec, source, limits)?))
    }
}

impl CudaBackend {
    /// As [`Backend::load`], with its own type: for measurements inside a step.
    ///
    /// # Errors
    /// As [`Backend::load`].
    pub fn load_model(
        &self,
        spec: &ModelSpec,
        source: &dyn WeightSource,
        limits: &Limits,
    ) -> nvllm_core::Result<CudaExecutable> {
        let Planned { programs, plans, geometries, library, partial, need } =
            self.planned(spec, source, limits)?;
        check_fits(need, self.device.free_bytes()?, limits, &geometries)?;
        let device = &self.device;
        let weights = Weights::load(device, spec, source)?;
        let modules = self.modules()?;
        let layout = Layout::new(limits, &geometries);
        let held = Held {
            arena: Buffer::new(device, need.arena)?,
            weights,
            kv: CudaKv::new(device, &geometries)?,
            inputs: Inputs {
                buffer: Buffer::zeroed(device, layout.len)?,
                tokens: Buffer::zeroed(device, limits.step_tokens * 4)?,
                layout,
            },
            slots: DeviceSlots::new(device, &modules, limits, spec.vocab_size)?,
            sampler: Sampler::new(device, limits, spec.vocab_size)?,
            ropes: RopeTables::new(device, &programs, limits)?,
            lists: WorkLists::new(device, &programs, limits, &geometries)?,
            partial: Buffer::new(device, partial)?,
            modules,
        };
        let lanes = (0..limits.max_in_flight)
            .map(|_| Lane::new(device, held.inputs.layout.len, result_bytes(limits.step_outputs)))
            .collect::<Result<Vec<_>>>()?;
        let begin = begin(&held, limits)?;
        let entries = programs
            .into_iter()
            .zip(plans)
            .map(|(program, plan)| self.entry(&held, limits, library.as_ref(), (program, plan)))
            .collect::<Result<Vec<_>>>()?;
        device.synchronize()?;
        Ok(CudaExecutable::new(Parts {
            device: Arc::clone(device),
            limits: limits.clone(),
            vocab_size: spec.vocab_size,
            geometries,
            entries,
            begin,
            graphs: self.graphs,
            held,
            lanes,
        }))
    }

    fn entry(
        &self,
        held: &Held,
        limits: &Limits,
        library: Option<&Rc<CublasLt>>,
        (program, plan): (Program, MemoryPlan),
    ) -> Result<Entry> {
        let lowering = Lowering {
            modules: &held.modules,
            program: &program,
            plan: &plan,
            arena: held.arena.at(0),
            weights: &held.weights,
            inputs: &held.inputs,
            kv: &held.kv,
            ropes: &held.ropes,
            lists: &held.lists,
            partial: held.partial.at(0),
            limits,
        };
        let mut nodes = (0..program.nodes.len()).map(|at| lowering.node(at)).collect::<Result<Vec<_>>>()?;
        if let Some(library) = library {
            let vendor = self.vendor;
            Tuning { lowering: &lowering, device: &self.device, library, vendor }.improve(&mut nodes)?;
        }
        let sampling = program
            .logits()
            .map(|id| {
                let logits = lowering.value(id);
                let launches =
                    held.sampler.lower(&held.modules, &held.inputs, &held.slots, logits.at, logits.cols)?;
                Ok((id, launches))
            })
            .transpose()?;
        Ok(Entry { program, plan, nodes, sampling })
    }
}

/// What is known of a model before it is loaded.
struct Planned {
    programs: Vec<Program>,
    plans: Vec<MemoryPlan>,
    geometries: Vec<KvGeometry>,
    library: Option<Rc<CublasLt>>,
    /// Bytes of partial sums.
    partial: usize,
    need: MemoryReport,
}

impl CudaBackend {
    fn planned(
        &self,
        spec: &ModelSpec,
        source: &dyn WeightSource,
        limits: &Limits,
    ) -> nvllm_core::Result<Planned> {
        limits.check()?;
        spec.check_names(source)?;
        self.device.bind()?;
        let narrow = weights::narrow_vectors(spec, source)?;
        // Whether a fused op has a kernel may depend on dtypes too.
        let programs = lower(self, spec)?
            .iter()
            .map(|program| program.expand(|op| !lower::runs(op, limits, &narrow)))
            .collect::<nvllm_core::Result<Vec<_>>>()?;
        let geometries = KvGeometry::plan(&spec.kv, limits)?;
        // The plans hold every value's bytes to what can be addressed; what follows multiplies no more than they do.
        let plans = programs
            .iter()
            .map(|program| MemoryPlan::new(program, limits, &RULES))
            .collect::<nvllm_core::Result<Vec<_>>>()?;
        let library = self.library(limits);
        let partial = partial_bytes(&programs, limits, library.is_some());
        let need = MemoryReport {
            weights: weights::bytes_for(spec, source)?,
            kv: geometries.iter().map(KvGeometry::bytes).fold(0, usize::saturating_add),
            arena: plans.iter().map(MemoryPlan::bytes).max().unwrap_or(0),
            scratch: scratch_bytes(limits, spec.vocab_size, &programs, &geometries).saturating_add(partial),
        };
        Ok(Planned { programs, plans, geometries, library, partial, need })
    }
}

/// Bytes of all that is neither weight, cache nor value, without partial sums.
fn scratch_bytes(
    limits: &Limits,
    vocab_size: usize,
    programs: &[Program],
    geometries: &[KvGeometry],
) -> usize {
    let flights = limits.max_in_flight;
    [
        Layout::new(limits, geometries).len.saturating_mul(flights.saturating_add(1)),
        result_bytes(limits.step_outputs).saturating_mul(flights),
        limits.step_tokens * 4,
        DeviceSlots::bytes_for(limits, vocab_size),
        Sampler::bytes_for(limits, vocab_size),
        RopeTables::bytes_for(programs, limits),
        WorkLists::bytes_for(programs, limits, geometries),
    ]
    .into_iter()
    .fold(0, usize::saturating_add)
}

/// Refuses what the device does not hold, and says what it would.
fn check_fits(
    need: MemoryReport,
    available: usize,
    limits: &Limits,
    geometries: &[KvGeometry],
) -> nvllm_core::Result<()> {
    if need.total() <= available {
        return Ok(());
    }
    let rest = MemoryReport { kv: 0, ..need }.total();
    let block = geometries.iter().map(KvGeometry::block_bytes).fold(0, usize::saturating_add);
    let blocks = available.saturating_sub(rest).checked_div(block).unwrap_or(0);
    let tokens = blocks.saturating_sub(1) * limits.block_len;
    let advice = if tokens == 0 {
        "there is no room for a KV cache: use fewer tokens in a step, or a larger GPU".into()
    } else {
        let sequences = tokens / limits.context;
        format!(
            "a KV cache of {} bytes would fit, {tokens} tokens or {sequences} sequences of {}",
            blocks * block,
            limits.context
        )
    };
    Err(CoreError::DoesNotFit { need, available, place: "the GPU".into(), advice })
}

/// Bytes of partial sums of linear layers, whoever runs them.
fn partial_bytes(programs: &[Program], limits: &Limits, vendor: bool) -> usize {
    let bytes = |program: &Program| {
        let theirs = if vendor { lower::workspace_bytes(program, limits) } else { 0 };
        lower::partial_bytes(program, limits).max(theirs)
    };
    programs.iter().map(bytes).max().unwrap_or(0)
}

/// The launches that every step begins with.
fn begin(held: &Held, limits: &Limits) -> Result<Vec<Launch>> {
    let Held { inputs, modules, slots, ropes, lists, .. } = held;
    let layout = &inputs.layout;
    let resets = Args::new().ptr(inputs.at(0)).ptr(inputs.at(layout.resets)).ptr(slots.states.at(0));
    let tokens = Args::new()
        .ptr(inputs.at(0))
        .ptr(inputs.at(layout.source))
        .ptr(slots.states.at(0))
        .ptr(inputs.tokens.at(0));
    // A reset need not belong to a sequence of the step.
    let all_slots = Dim::Fixed(limits.seqs.div_ceil(128));
    let rows = Dim::Rows { rows: Rows { of: RowsOf::Tokens, times: 1 }, per: 128 };
    let mut launches = vec![
        Launch::new(modules.function("step_begin_resets")?, all_slots, 128, resets),
        Launch::new(modules.function("step_begin_tokens")?, rows, 128, tokens).early(),
    ];
    launches.extend(ropes.launches(modules, inputs)?);
    launches.extend(lists.launches(modules, inputs)?);
    Ok(launches)
}

#[cfg(test)]
mod tests {
    use nvllm_core::Numerics;

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let limits = Limits {
            step_tokens: 8,
            step_outputs: 1,
            seqs: 1,
            context: 32,
            block_len: 16,
            kv_bytes: 1 << 20,
            kv_dtype: DType::F32,
            activations: Activations::F32,
            numerics: Numerics::Invariant,
            max_in_flight: 1,
        };
        let geometry = KvGeometry {
            num_layers: 1,
            num_heads: 1,
            head_dim: 8,
            block_len: 16,
            num_blocks: 100,
            dtype: DType::F32,
        };
        // A block takes 1,024 bytes.
        let need = MemoryReport { weights: 5_000, kv: 102_400, arena: 3_000, scratch: 2_000 };
        let check = |free| check_fits(need, free, &limits, &[geometry]).map_err(|error| error.to_string());
        assert_eq!(check(112_400), Ok(()));
        let fits = check(112_399).unwrap_err();
        assert!(
            fits.contains("a KV cache of 101376 bytes would fit, 1568 tokens or 49 sequences of 32"),
            "{fits}"
        );
        let too_small = check(10_000).unwrap_err();
        assert!(too_small.contains("there is no room for a KV cache"), "{too_small}");
    }
}
