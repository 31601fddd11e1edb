//! From options to a plan: whatever is asked for, there is a plan or a sentence, and loading does
//! what the plan said.

use std::path::Path;
use std::sync::Arc;

use nvllm_core::{
    Backend, BackendInfo, Executable, KvFormat, Limits, ModelSpec, OpQuery, Plan, PlanRules, Reason,
    Reference, Result, WeightSource,
};
use nvllm_engine::hub::ModelFiles;
use nvllm_engine::{Engine, LoadOptions, LoadPlan, Model};
use proptest::prelude::*;

/// The reference on a machine of another size.
struct Machine {
    memory_bytes: usize,
}

impl Backend for Machine {
    fn info(&self) -> BackendInfo {
        BackendInfo { memory_bytes: self.memory_bytes, ..Reference::default().info() }
    }

    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
        Reference::default().supports(query)
    }

    fn plan_rules(&self) -> PlanRules {
        Reference::default().plan_rules()
    }

    fn plan(&self, spec: &ModelSpec, weights: &dyn WeightSource, limits: &Limits) -> Result<Plan> {
        Reference::default().plan(spec, weights, limits)
    }

    fn load(&self, plan: Plan, weights: &dyn WeightSource) -> Result<Box<dyn Executable>> {
        Reference::default().load(plan, weights)
    }
}

/// The reference without a KV cache of codes.
struct Plain;

impl Backend for Plain {
    fn info(&self) -> BackendInfo {
        Reference::default().info()
    }

    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
        query.kv_format_among(&KvFormat::PLAIN)?;
        Reference::default().supports(query)
    }

    fn plan_rules(&self) -> PlanRules {
        Reference::default().plan_rules()
    }

    fn load(&self, plan: Plan, weights: &dyn WeightSource) -> Result<Box<dyn Executable>> {
        Reference::default().load(plan, weights)
    }
}

fn model() -> Arc<Model> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/a_qwen3_tied_gqa");
    Arc::new(Model::open(&ModelFiles::in_directory(&dir).unwrap()).unwrap())
}

fn machine() -> Machine {
    Machine { memory_bytes: 64 << 20 }
}

/// What `plan` says first, and what loading says.
fn both(model: &Arc<Model>, options: &LoadOptions, memory_bytes: usize) -> (Option<String>, Option<String>) {
    let plan = LoadPlan::new(options, model, &Machine { memory_bytes });
    let planned = plan.and_then(|plan| plan.check()).err().map(|e| e.to_string());
    let backend = move || Ok(Box::new(Machine { memory_bytes }) as Box<dyn Backend>);
    let loaded = Engine::builder(Arc::clone(model), backend).options(options.clone()).start();
    (planned, loaded.err().map(|e| e.to_string()))
}

#[test]
fn what_cannot_be_is_refused_by_its_option_before_memory_is_taken() {
    let model = model();
    let positions = model.spec.max_positions;
    let of = LoadOptions::default;
    let huge = [1 << 31, 1 << 52, 1 << 62, 1 << 63, usize::MAX];
    let mut cases = Vec::new();
    for n in huge.into_iter().chain([0]) {
        cases.push(("--max-num-seqs is ", LoadOptions { max_num_seqs: Some(n), ..of() }));
        cases.push(("--block-size is ", LoadOptions { block_size: n, ..of() }));
        cases.push(("--max-num-batched-tokens is ", LoadOptions { max_num_batched_tokens: Some(n), ..of() }));
        cases.push(("--max-model-len is ", LoadOptions { max_model_len: Some(n), ..of() }));
    }
    for n in [0, 1, 100, 1 << 62, usize::MAX] {
        cases.push(("--kv-cache-bytes is ", LoadOptions { kv_cache_bytes: Some(n), ..of() }));
    }
    for share in [0.0, -0.5, 1.1, f64::NAN] {
        let options = LoadOptions { gpu_memory_utilization: Some(share), ..of() };
        cases.push(("--gpu-memory-utilization is ", options));
    }
    cases.push(("--max-model-len is ", LoadOptions { max_model_len: Some(positions + 1), ..of() }));
    for (start, options) in cases {
        let (planned, loaded) = both(&model, &options, 64 << 20);
        let text = planned.clone().unwrap_or_else(|| panic!("{options:?} was taken"));
        assert!(text.starts_with(start), "{options:?}: {text}");
        assert_eq!(planned, loaded, "{options:?}");
    }
}

#[test]
fn a_kv_cache_that_a_backend_does_not_run_is_refused_by_its_option() {
    let model = model();
    for format in [KvFormat::Fp8, KvFormat::Int8] {
        let options = LoadOptions { kv_cache_dtype: Some(format), ..LoadOptions::default() };
        let planned = LoadPlan::new(&options, &model, &Plain).err().map(|e| e.to_string());
        let text = format!("--kv-cache-dtype is {format}; f32 and bf16 are supported on reference");
        assert_eq!(planned, Some(text));
    }
}

#[test]
fn what_does_not_fit_says_what_would() {
    let model = model();
    let of = LoadOptions::default;
    let needs = |options: LoadOptions| LoadPlan::new(&options, &model, &machine()).unwrap().plan.memory;
    let cases = [
        (LoadOptions { kv_cache_bytes: Some(1 << 30), ..of() }, 64 << 20, "give a --kv-cache-bytes of "),
        (LoadOptions { max_num_seqs: Some(1 << 30), ..of() }, 64 << 20, "give a --max-num-seqs of "),
        (LoadOptions { block_size: 1 << 24, ..of() }, 64 << 20, "give a --block-size of "),
        (of(), needs(of()).weights, "the weights alone are more than that"),
        (
            LoadOptions { max_num_logits: 4096, max_num_batched_tokens: Some(4096), ..of() },
            needs(of()).weights + (1 << 20),
            "give a --max-num-batched-tokens of ",
        ),
        (
            LoadOptions {
                max_num_batched_tokens: Some(1),
                max_num_seqs: Some(1),
                max_model_len: Some(model.spec.max_positions),
                ..of()
            },
            needs(LoadOptions { max_num_batched_tokens: Some(1), max_num_seqs: Some(1), ..of() }).total()
                - 5000,
            "give a --max-model-len of ",
        ),
    ];
    for (options, memory_bytes, advice) in cases {
        let (planned, loaded) = both(&model, &options, memory_bytes);
        let text = planned.clone().unwrap_or_else(|| panic!("{options:?} fits"));
        assert!(text.starts_with("the model does not fit: ") && text.contains(advice), "{options:?}: {text}");
        assert_eq!(planned, loaded, "{options:?}");
    }
}

#[test]
fn the_kv_cache_takes_no_more_than_the_share_that_is_asked_for() {
    let model = model();
    let kv = |share: Option<f64>| {
        let options = LoadOptions { gpu_memory_utilization: share, ..LoadOptions::default() };
        // All sequences together need most of the memory.
        let options = LoadOptions { max_num_seqs: Some(256), ..options };
        let plan = LoadPlan::new(&options, &model, &machine()).unwrap();
        plan.plan.memory.kv
    };
    assert_eq!(kv(Some(BackendInfo::HOST_MEMORY_SHARE)), kv(None));
    assert!(kv(Some(0.25)) < kv(None) && kv(None) < kv(Some(0.9)), "{:?}", kv(None));
}

#[test]
fn a_context_that_nobody_asked_for_is_lowered_to_what_fits() {
    let model = model();
    let options =
        LoadOptions { max_num_batched_tokens: Some(1), max_num_seqs: Some(1), ..LoadOptions::default() };
    let full = LoadPlan::new(&options, &model, &machine()).unwrap();
    assert_eq!(full.plan.limits.context, model.spec.max_positions);
    let memory_bytes = full.plan.memory.total() - full.block_bytes;
    assert_eq!(both(&model, &options, memory_bytes), (None, None));
    let lowered = LoadPlan::new(&options, &model, &Machine { memory_bytes }).unwrap();
    assert!(lowered.fits());
    assert_eq!(lowered.plan.limits.context, model.spec.max_positions - options.block_size);
    let asked = LoadOptions { max_model_len: Some(model.spec.max_positions), ..options.clone() };
    assert!(both(&model, &asked, memory_bytes).0.is_some());
    let asked = LoadOptions { kv_cache_bytes: Some(full.plan.limits.kv_bytes), ..options };
    assert!(both(&model, &asked, memory_bytes).0.is_some());
}

#[test]
fn a_step_holds_no_more_than_all_sequences_have() {
    let options = LoadOptions {
        max_num_batched_tokens: Some(1_000_000),
        max_num_seqs: Some(2),
        ..LoadOptions::default()
    };
    let options = LoadOptions { max_model_len: Some(48), ..options };
    assert_eq!(LoadPlan::new(&options, &model(), &machine()).unwrap().plan.limits.step_tokens, 96);
}

/// Any number, with those more often that a product may trip over.
fn number() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..40_usize,
        2 => (0..64_u32, 0..3_usize).prop_map(|(bit, more)| (1_usize << bit).wrapping_add(more).wrapping_sub(1)),
        1 => any::<usize>(),
        1 => Just(usize::MAX),
    ]
}

fn options() -> impl Strategy<Value = LoadOptions> {
    let given = || proptest::option::of(number());
    let format = proptest::option::of(prop::sample::select(&KvFormat::ALL[..]));
    let numbers =
        (prop_oneof![1 => Just(16), 2 => number()], prop_oneof![1 => Just(16), 2 => number()], number());
    (numbers, given(), given(), given(), format).prop_map(
        |(
            (max_num_seqs, block_size, max_num_logits),
            max_num_batched_tokens,
            max_model_len,
            kv_cache_bytes,
            kv,
        )| {
            LoadOptions {
                max_num_seqs: Some(max_num_seqs),
                block_size,
                max_num_logits,
                max_num_batched_tokens,
                max_model_len,
                kv_cache_bytes,
                kv_cache_dtype: kv,
                ..LoadOptions::default()
            }
        },
    )
}

/// `options` with what `text` says to give.
fn advised(options: &LoadOptions, text: &str) -> Option<LoadOptions> {
    let mut next = options.clone();
    let mut any = false;
    for (name, rest) in text
        .split("give a --")
        .skip(1)
        .flat_map(|t| t.split(" and a --"))
        .filter_map(|t| t.split_once(" of "))
    {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let number = digits.parse().unwrap();
        any = true;
        match name {
            "kv-cache-bytes" => next.kv_cache_bytes = Some(number),
            "max-model-len" => next.max_model_len = Some(number),
            "block-size" => next.block_size = number,
            "max-num-seqs" => next.max_num_seqs = Some(number),
            "max-num-batched-tokens" => next.max_num_batched_tokens = Some(number),
            other => panic!("{other} is no option: {text}"),
        }
    }
    any.then_some(next)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn options_become_a_plan_or_a_sentence(options in options(), memory_bytes in number()) {
        let (model, backend) = (model(), Machine { memory_bytes });
        match LoadPlan::new(&options, &model, &backend) {
            Err(error) => {
                let text = error.to_string();
                let flag = text.strip_prefix("--").and_then(|t| t.split(' ').next());
                let given = match flag {
                    Some("max-num-seqs" | "block-size") => true,
                    Some("max-num-batched-tokens") => options.max_num_batched_tokens.is_some(),
                    Some("max-model-len") => options.max_model_len.is_some(),
                    Some("kv-cache-bytes") => options.kv_cache_bytes.is_some(),
                    _ => false,
                };
                prop_assert!(given, "{text}");
            }
            Ok(plan) => {
                let parts = [plan.plan.memory.weights, plan.plan.memory.kv, plan.plan.memory.arena, plan.plan.memory.scratch];
                let total: u128 = parts.iter().map(|&bytes| bytes as u128).sum();
                prop_assert_eq!(plan.fits(), total <= memory_bytes.min(isize::MAX as usize) as u128);
                prop_assert_eq!(plan.fits(), plan.check().is_ok());
                prop_assert!(plan.kv_tokens() >= plan.plan.limits.context);
            }
        }
    }

    #[test]
    fn what_is_advised_fits(options in options(), memory_bytes in 1_000_000..50_000_000_usize) {
        let (model, backend) = (model(), Machine { memory_bytes });
        let mut options = options;
        for _ in 0..4 {
            let Ok(plan) = LoadPlan::new(&options, &model, &backend) else { return Ok(()) };
            let Err(error) = plan.check() else { return Ok(()) };
            let text = error.to_string();
            let Some(next) = advised(&options, &text) else {
                prop_assert!(text.contains("smaller model"), "{text}");
                return Ok(());
            };
            options = next;
        }
        prop_assert!(false, "advice without end: {options:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn loading_does_what_the_plan_said(options in options(), memory_bytes in 1_000_000..50_000_000_usize) {
        let model = model();
        let plan = LoadPlan::new(&options, &model, &Machine { memory_bytes });
        let backend = move || Ok(Box::new(Machine { memory_bytes }) as Box<dyn Backend>);
        let engine = Engine::builder(Arc::clone(&model), backend).options(options.clone()).start();
        match plan.and_then(|plan| plan.check().map(|()| plan)) {
            Err(refused) => prop_assert_eq!(refused.to_string(), engine.err().expect("refused too").to_string()),
            Ok(plan) => {
                let engine = engine.expect("it fits");
                let info = engine.info().expect("it is loaded");
                let held = info.memory;
                prop_assert_eq!(&info.limits, &plan.plan.limits);
                prop_assert_eq!((held.weights, held.kv), (plan.plan.memory.weights, plan.plan.memory.kv));
                prop_assert!(held.arena <= plan.plan.memory.arena);
            }
        }
    }
}
