//! The backend: from a tape to a loaded model on one GPU.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use nvllm_core::device::check_fits;
use nvllm_core::program::MemoryPlan;
use nvllm_core::{
    Backend, BackendInfo, Executable, Limits, ModelSpec, OpQuery, Plan, PlanRules, Program, Reason,
    WeightSource,
};

use crate::compile::{Images, KernelCache, Target, sources_name};
use crate::cublaslt::CublasLt;
use crate::device::{Device, DeviceFacts, version};
use crate::error::Result;
use crate::executable::{CudaExecutable, DecodePass, DeviceState, Entry, Parts};
use crate::inputs::Inputs;
use crate::kv::CudaKv;
use crate::launch::{Args, Dim, Extents, Launch};
use crate::lower::{self, Lowering, Tuning, Vendor};
use crate::measured::Measured;
use crate::memory::Buffer;
use crate::modules::Modules;
use crate::plan::{self, RULES, partial_bytes};
use crate::rope::RopeTables;
use crate::sampler::{Sampler, result_bytes};
use crate::slots::DeviceSlots;
use crate::step_buffers::StepBuffers;
use crate::step_clock::StepClock;
use crate::weights::Weights;
use crate::work_lists::WorkLists;

/// Tokens of a step that fill the device's tensor cores many times over.
pub(crate) const STEP_TOKENS: usize = 8192;

/// Sequences that share a read of the weights in a decode step.
pub(crate) const SEQS: usize = 256;

/// Share of a GPU's memory that a model takes: the rest is for the driver and what else runs there.
pub(crate) const MEMORY_SHARE: f64 = 0.9;

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
    /// When a step that decodes one sequence runs in one launch.
    pub decode_pass: DecodePass,
    /// Compiled kernels that the program has inside, as [`archive`](crate::compile::archive) makes
    /// them.
    pub kernels: Option<&'static [u8]>,
}

impl Default for CudaOptions {
    /// The first GPU, with graphs, nothing kept on disk, no kernels inside.
    fn default() -> Self {
        let (vendor, decode_pass) = (Vendor::default(), DecodePass::default());
        Self { gpu: 0, cache_dir: None, nvrtc_dir: None, graphs: true, vendor, decode_pass, kernels: None }
    }
}

/// One GPU as a backend.
pub struct CudaBackend {
    device: Arc<Device>,
    images: Images,
    graphs: bool,
    vendor: Vendor,
    decode_pass: DecodePass,
    free_bytes: usize,
    modules: OnceCell<Rc<Modules>>,
    /// The vendor's library, looked for when it is first wanted; none if it is not there.
    library: OnceCell<Option<Rc<CublasLt>>>,
    /// Where compiled kernels and measurements are kept.
    cache_dir: Option<PathBuf>,
    /// Which kernels were measured to be faster, opened when that is first asked.
    measured: OnceCell<Measured>,
}

impl CudaBackend {
    /// Opens the GPU. Kernels are loaded, and compiled where they are not kept, with the first
    /// model.
    ///
    /// # Errors
    /// If there is no driver, no such device, none that is supported, or neither kernels for it nor
    /// a compiler.
    pub fn new(options: &CudaOptions) -> Result<Self> {
        let device = Arc::new(Device::new(options.gpu)?);
        let CudaOptions { cache_dir, nvrtc_dir, graphs, vendor, decode_pass, kernels, .. } = options.clone();
        let cache = KernelCache::new(cache_dir.clone());
        let images = Images::new(kernels, cache, nvrtc_dir, device.facts.driver);
        images.check(&Target::for_device(device.facts.capability))?;
        let free_bytes = device.free_bytes()?;
        Ok(Self {
            device,
            images,
            graphs,
            vendor,
            decode_pass,
            free_bytes,
            modules: OnceCell::new(),
            library: OnceCell::new(),
            cache_dir,
            measured: OnceCell::new(),
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

    fn measured(&self) -> &Measured {
        let dir = self.cache_dir.as_deref();
        self.measured.get_or_init(|| Measured::open(dir, conditions(&self.device.facts)))
    }

    /// Seconds that reading `BANDWIDTH_BYTES` takes, at best.
    fn read_seconds(&self) -> Result<f64> {
        let modules = self.modules()?;
        let data = Buffer::zeroed(&self.device, BANDWIDTH_BYTES)?;
        let out = Buffer::zeroed(&self.device, 256)?;
        let args = Args::new().ptr(data.at(0)).int(BANDWIDTH_BYTES / 16).ptr(out.at(0));
        let launch = Launch::new(&modules.function("bandwidth_read")?, Dim::Fixed(2048), args);
        let mut best = f64::INFINITY;
        for _ in 0..6 {
            best = best.min(self.device.seconds(|| launch.run(&self.device, Extents::NONE))?);
        }
        Ok(best)
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
            memory_share: MEMORY_SHARE,
            seqs: SEQS,
            step_tokens: STEP_TOKENS,
            max_in_flight: 2,
            driver: Some(format!("CUDA {}", version(facts.driver))),
            clocks_mhz: facts.clocks_mhz,
        }
    }

    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
        plan::supports(query)
    }

    fn measure_read_bandwidth(&self) -> nvllm_core::Result<Option<f64>> {
        Ok(Some(BANDWIDTH_BYTES as f64 / self.read_seconds()?))
    }

    fn plan_rules(&self) -> PlanRules {
        RULES
    }

    fn plan(&self, spec: &ModelSpec, source: &dyn WeightSource, limits: &Limits) -> nvllm_core::Result<Plan> {
        self.device.bind()?;
        plan::plan(self, self.library(limits).is_some(), spec, source, limits)
    }

    fn load(&self, plan: Plan, source: &dyn WeightSource) -> nvllm_core::Result<Box<dyn Executable>> {
        Ok(Box::new(self.load_plan(plan, source)?))
    }
}

impl CudaBackend {
    /// As [`Backend::load`], with its own type: for measurements inside a step.
    ///
    /// # Errors
    /// As [`Backend::load`].
    pub fn load_plan(&self, plan: Plan, source: &dyn WeightSource) -> nvllm_core::Result<CudaExecutable> {
        let library = self.library(&plan.limits);
        let partial = partial_bytes(&plan, library.is_some());
        check_fits(plan.memory, self.device.free_bytes()?, &plan.limits, &plan.kv)?;
        let device = &self.device;
        // Kernels are loaded and buffers made beside the uploads.
        let (weights, uploads) = Weights::load(device, &plan.spec, source)?;
        let Plan { spec, limits, kv, values, memory, .. } = plan;
        let modules = self.modules()?;
        let state = DeviceState {
            arena: Buffer::new(device, memory.arena)?,
            weights,
            kv: CudaKv::new(device, &kv)?,
            inputs: Inputs::new(device, &modules, &limits, &kv)?,
            slots: DeviceSlots::new(device, &modules, &limits, spec.vocab_size)?,
            sampler: Sampler::new(device, &limits, spec.vocab_size)?,
            ropes: RopeTables::new(device, &spec.programs, &limits)?,
            lists: WorkLists::new(device, &spec.programs, &limits, &kv)?,
            partial: Buffer::new(device, partial)?,
            modules,
        };
        let step_buffers = (0..limits.max_in_flight)
            .map(|_| {
                StepBuffers::new(device, state.inputs.layout.packed_len, result_bytes(limits.step_outputs))
            })
            .collect::<Result<Vec<_>>>()?;
        let begin = begin(&state)?;
        uploads.wait()?;
        let entries = spec
            .programs
            .into_iter()
            .zip(values)
            .map(|entry| self.entry(&state, &limits, library.as_ref(), entry))
            .collect::<Result<Vec<_>>>()?;
        device.synchronize()?;
        let mut exe = CudaExecutable::new(Parts {
            device: Arc::clone(device),
            vocab_size: spec.vocab_size,
            geometries: kv,
            limits,
            entries,
            begin,
            state,
            step_buffers,
            clock: StepClock::new(device)?,
        });
        exe.choose_passes(self.decode_pass, || self.measured())?;
        if self.graphs {
            exe.replay_graphs();
        }
        Ok(exe)
    }

    fn entry(
        &self,
        state: &DeviceState,
        limits: &Limits,
        library: Option<&Rc<CublasLt>>,
        (program, plan): (Program, MemoryPlan),
    ) -> Result<Entry> {
        let pass = Buffer::zeroed(&self.device, lower::pass_bytes(&program, limits))?;
        let lowering = Lowering {
            modules: &state.modules,
            program: &program,
            plan: &plan,
            arena: state.arena.at(0),
            weights: &state.weights,
            inputs: &state.inputs,
            kv: &state.kv,
            ropes: &state.ropes,
            lists: &state.lists,
            partial: state.partial.at(0),
            pass: &pass,
            limits,
        };
        let mut schedule = lowering.schedule()?;
        if let Some(library) = library {
            let vendor = self.vendor;
            Tuning { lowering: &lowering, device: &self.device, library, vendor, measured: self.measured() }
                .improve(&mut schedule)?;
        }
        let sampling = program
            .logits()
            .map(|id| {
                let logits = lowering.value(id);
                state.sampler.lower(&state.modules, &state.inputs, &state.slots, logits.at, logits.cols)
            })
            .transpose()?;
        Ok(Entry { program, plan, schedule, pass, sampling })
    }
}

/// What the time of a kernel depends on, its shape aside.
fn conditions(facts: &DeviceFacts) -> String {
    let DeviceFacts { name, memory_bytes, multiprocessors, driver, .. } = facts;
    let gpu = format!("{name}, {memory_bytes} bytes, {multiprocessors} multiprocessors");
    format!("{gpu}, driver {driver}, kernels {}", sources_name())
}

/// What every step computes of its inputs, before its program.
fn begin(state: &DeviceState) -> Result<Vec<Launch>> {
    let DeviceState { inputs, modules, ropes, lists, .. } = state;
    let mut launches = ropes.launches(modules, inputs)?;
    launches.extend(lists.launches(modules, inputs)?);
    Ok(launches)
}
