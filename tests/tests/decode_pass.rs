//! A whole decode step in one launch gives the bits of the kernels one by one: rows decoded
//! alone and beside others, against the same rows in the middle of a prompt.

use nvllm_core::program::Counts;
use nvllm_core::weight::SyntheticSource;
use nvllm_core::{
    Activations, Backend, BlockId, DType, EntryId, Executable, HfConfig, ModelSpec, Stage, TokenId,
};
use nvllm_cuda::DecodePass;
use nvllm_engine::registry;
use nvllm_tests::{Layout, Part, Session};

/// Two layers with the shapes of `config` and a vocabulary that makes logits small.
fn spec(config: &serde_json::Value) -> ModelSpec {
    let config = HfConfig::parse(config.to_string().as_bytes()).unwrap();
    (registry::family(&config).unwrap().build)(&config).unwrap()
}

fn qwen3(change: impl FnOnce(&mut serde_json::Value)) -> ModelSpec {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/configs/qwen3-0.6b.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    config["num_hidden_layers"] = 2.into();
    config["vocab_size"] = 1003.into();
    change(&mut config);
    spec(&config)
}

fn llama() -> ModelSpec {
    spec(&serde_json::json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576,
        "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 9,
        "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 1003, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 4096, "tie_word_embeddings": true,
        "hidden_act": "silu",
    }))
}

fn bits(rows: &[f32]) -> Vec<u32> {
    rows.iter().map(|x| x.to_bits()).collect()
}

/// Prompts of some lengths, then a few steps of one token each.
fn check(backend: &dyn Backend, name: &str, spec: &ModelSpec) {
    const STEPS: usize = 4;
    let source = SyntheticSource::new(&spec.weights, DType::Bf16, 0);
    for lens in
        [&[1][..], &[62], &[126], &[190], &[253], &[300, 3], &[530, 128, 253, 1], &[1100, 600, 255, 64]]
    {
        let text = |slot: usize, len: usize| -> Vec<TokenId> {
            (0..len).map(|i| TokenId(((i * 37 + slot * 101 + 11) % 1003) as u32)).collect()
        };
        let positions: Vec<u32> = (0..2000).collect();
        let layout = || Layout { block_len: 16, stride: 17, chunk: 512 };
        let session = || Session::new(backend, spec, &source, Activations::Bf16, layout());
        let mut prompt = session();
        let want: Vec<_> = lens
            .iter()
            .enumerate()
            .map(|(slot, &len)| {
                let tokens = text(slot, len + STEPS);
                let mut logits = Vec::new();
                let mut at = 0;
                // The last rows are in one step together, which is none of decoding.
                for chunk in tokens[..len - 1].chunks(400).chain([&tokens[len - 1..]]) {
                    let part = Part { slot, tokens: chunk, positions: &positions[at..at + chunk.len()] };
                    logits = prompt.step(&[part]).remove(0);
                    at += chunk.len();
                }
                bits(&logits)
            })
            .collect();
        let mut session = session();
        for (slot, &len) in lens.iter().enumerate() {
            let tokens = text(slot, len);
            let mut at = 0;
            for chunk in tokens.chunks(400) {
                session.step(&[Part { slot, tokens: chunk, positions: &positions[at..at + chunk.len()] }]);
                at += chunk.len();
            }
        }
        let texts: Vec<_> = lens.iter().enumerate().map(|(slot, &len)| text(slot, len + STEPS)).collect();
        for step in 0..STEPS {
            let parts: Vec<_> = lens
                .iter()
                .enumerate()
                .map(|(slot, &len)| {
                    let at = len + step..len + step + 1;
                    Part { slot, tokens: &texts[slot][at.clone()], positions: &positions[at] }
                })
                .collect();
            for (slot, row) in session.step(&parts).iter().enumerate() {
                let vocab = spec.vocab_size;
                let want = &want[slot][(step + 1) * vocab..][..vocab];
                let wrong = bits(row).iter().zip(want).filter(|(a, b)| a != b).count();
                assert_eq!(wrong, 0, "{name}: prompts of {lens:?}, step {step}, sequence {slot}");
            }
        }
    }
}

#[test]
fn decode_steps_equal_prompts() {
    nvllm_tests::on_cuda(|cuda| {
        check(cuda, "Qwen3 0.6B", &qwen3(|_| ()));
        check(
            cuda,
            "wider",
            &qwen3(|config| {
                config["hidden_size"] = 2048.into();
                config["intermediate_size"] = 6144.into();
            }),
        );
        check(
            cuda,
            "window",
            &qwen3(|config| {
                config["use_sliding_window"] = true.into();
                config["sliding_window"] = 100.into();
                config["max_window_layers"] = 0.into();
            }),
        );
        check(cuda, "Llama", &llama());
    });
}

/// The stages of a step that decodes one token behind each of these contexts.
fn stages(exe: &dyn Executable, contexts: &[usize]) -> Vec<Vec<Stage>> {
    contexts.iter().map(|&len| exe.schedule(EntryId::GENERATE, &Counts::decode(1, len))).collect()
}

/// A prompt of 200 tokens and 100 more one by one, which makes two chunks of the keys.
fn decoded(session: &mut Session) -> Vec<u32> {
    let tokens: Vec<_> = (0..300_u32).map(|i| TokenId((i * 37 + 11) % 1003)).collect();
    let positions: Vec<_> = (0..300).collect();
    let mut all = bits(&session.logits(&tokens[..200], &positions[..200]));
    for at in 200..300 {
        all.extend(bits(&session.logits(&tokens[at..=at], &positions[at..=at])));
    }
    all
}

/// Loads under every option, first with nothing measured, then with what that has kept.
#[test]
fn what_is_timed_at_load_is_kept_and_leaves_no_trace() {
    if let Err(reason) = nvllm_tests::cuda(true) {
        return println!("skipped: {reason}");
    }
    let measured = || {
        let files = std::fs::read_dir(nvllm_tests::cuda_cache_dir()).into_iter().flatten();
        let paths = files.map(|file| file.unwrap().path());
        let is_one = |name: &str| name.starts_with("measured-");
        paths.filter(|path| is_one(&path.file_name().unwrap().to_string_lossy())).collect::<Vec<_>>()
    };
    measured().iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let spec = qwen3(|_| ());
    let source = SyntheticSource::new(&spec.weights, DType::Bf16, 0);
    let contexts = [10, 200, 300, 1000, 2000, 3900];
    let mut seen = Vec::new();
    for when in [DecodePass::Always, DecodePass::Never, DecodePass::IfFaster, DecodePass::IfFaster] {
        let backend = nvllm_tests::cuda_with(true, when).unwrap();
        let layout = Layout { block_len: 16, stride: 17, chunk: 512 };
        let mut session = Session::new(&backend, &spec, &source, Activations::Bf16, layout);
        let kv = session.exe.kv_cache();
        for block in 0..kv.geometry(0).num_blocks as u32 {
            let block = kv.read_block(0, BlockId(block)).unwrap();
            assert!(block.bytes().iter().all(|byte| *byte == 0), "{when:?}: something is in the cache");
        }
        seen.push((stages(&*session.exe, &contexts), decoded(&mut session)));
    }
    let [(always, bits), (never, of_never), (first, of_first), (second, of_second)] = &seen[..] else {
        unreachable!("four loads");
    };
    assert!(bits == of_never && bits == of_first && bits == of_second, "the choice changes results");
    assert_eq!(first, second, "what was measured is kept");
    let has_pass = always != never;
    assert_eq!(!measured().is_empty(), has_pass, "what is measured is on disk");
    // Up to some context the one, then the other.
    let is_pass: Vec<_> = first.iter().zip(always).map(|(chosen, pass)| chosen == pass).collect();
    assert!(is_pass.is_sorted_by(|a, b| a >= b), "{is_pass:?}");
    assert!(first.iter().zip(always.iter().zip(never)).all(|(chosen, (a, b))| chosen == a || chosen == b));
    println!("a decode step behind {contexts:?} tokens is a pass: {is_pass:?}");
}

/// What a pass hands from phase to phase is nowhere in memory: no value that is kept may be of an
/// earlier step.
#[test]
fn what_is_kept_is_of_the_last_step() {
    if let Err(reason) = nvllm_tests::cuda(true) {
        return println!("skipped: {reason}");
    }
    for label in ["hidden.0", "hidden.1", "hidden.2", "logits"] {
        let mut spec = qwen3(|_| ());
        assert!(spec.programs[0].keep(label));
        let source = SyntheticSource::new(&spec.weights, DType::Bf16, 0);
        let kept = |when| {
            let backend = nvllm_tests::cuda_with(true, when).unwrap();
            let mut session = Session::new(&backend, &spec, &source, Activations::Bf16, Layout::default());
            session.logits(&[5, 9, 2].map(TokenId), &[0, 1, 2]);
            session.logits(&[TokenId(7)], &[3]);
            bits(&session.exe.kept(label).unwrap().unwrap().to_f32())
        };
        assert!(kept(DecodePass::Always) == kept(DecodePass::Never), "{label}");
    }
}
