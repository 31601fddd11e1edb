//! Every shader, with all constants that it is compiled with, translated to the languages of the
//! APIs that no machine of the tests has.

use naga::back::{hlsl, msl};
use naga::valid::{Capabilities, ValidationFlags, Validator};

use nvllm_core::weight::{ActQuant, PUBLIC};
use nvllm_core::{DType, KvFormat};

use super::*;
use crate::coded::Form;
use crate::storage::{Extent, Store};

/// Every way in which rows are stored.
fn stores() -> Vec<Store> {
    let mut all = [DType::F32, DType::Bf16, DType::F16].map(Store::Dense).to_vec();
    for (_, format) in PUBLIC {
        let store = Store::Coded(Form::new(format, 512).expect("public formats have codes"));
        if !all.contains(&store) {
            all.push(store);
        }
    }
    all
}

fn per(store: Store) -> usize {
    let parts = 0..1;
    Extent { store, cols: 512, act: None, permuted: false, rows: parts.clone(), parts }.per()
}

/// Linear layers and tables over rows that are stored so.
fn of_store(store: Store, rounds: bool, push: &mut impl FnMut(Kernel, &[String])) {
    let is_coded = matches!(store, Store::Coded(_));
    let rounds = round(rounds);
    let table = weight(&store, false, TABLE_SCALES);
    for in_order in [false, true] {
        let embed = if is_coded { EMBED_CODED } else { EMBED };
        push(embed, &[rounds.clone(), table.clone(), ordered(in_order)]);
    }
    for wide in [false, true] {
        let expert = weight(&store, wide, TABLE_SCALES);
        push(EXPERT_LINEAR.of(is_coded, wide).clone(), &[rounds.clone(), expert, held(0, 0, 16)]);
        let epilogues = [(true, false, false), (false, true, false), (true, false, true)];
        for (bias, residual, gated) in epilogues {
            let epilogue = Epilogue { bias, residual, gated };
            if wide {
                let constants = [&rounds, &weight(&store, true, LINEAR_SCALES), &super::epilogue(epilogue)];
                push(LINEAR_TILED[usize::from(is_coded)].clone(), &constants.map(String::clone));
            }
            for (rows, cols, chunks) in [(1, 4, 0), (1, 2, 150), (1, 4, 64), (4, 4, 0), (8, 4, 0)] {
                let tile = tile(rows, cols, epilogue);
                let weight = weight(&store, wide, LINEAR_SCALES);
                let chunks = if wide { chunks } else { 0 };
                let held = held(chunks, cols * (1 + usize::from(gated)), per(store));
                let kernel = LINEAR.of(is_coded, wide).clone();
                push(kernel, &[rounds.clone(), weight.clone(), tile.clone(), held.clone()]);
                if wide && rows == 1 {
                    let normed = normed(if residual { 4096 } else { 576 }, is_coded, bias);
                    let kernel = LINEAR_NORMED[usize::from(is_coded)].clone();
                    push(kernel, &[rounds.clone(), weight, tile, held, normed]);
                }
            }
        }
    }
}

/// What reads or writes a KV cache in this format.
fn of_cache(format: KvFormat, head_dim: usize, flag: bool, push: &mut impl FnMut(Kernel, &[String])) {
    for num in 1..=MOST_SEGMENTS {
        let constants = |text| [round(flag), kv(format, head_dim), norm(flag), split(flag), text];
        let kernels = [PAGED_ATTENTION, ATTENTION_IN_PLACE, ATTENTION_DECODE, KV_APPEND, QK_NORM_ROPE_APPEND];
        let [plain, in_place, decode, append, front] =
            kernels.map(|all| all.into_iter().nth(num - 1).expect("there are as many"));
        push(plain, &constants(cache_read(format, num, false)));
        push(in_place, &constants(cache_read(format, num, true)));
        push(decode, &constants(cache_decode(format, num)));
        push(append, &constants(cache_write(num, KV_CACHE)));
        push(front, &constants(cache_write(num, QK_CACHE)));
    }
    push(ATTENTION_FOLD, &[round(flag), kv_width(head_dim)]);
}

/// Each shader with each text of constants.
fn all() -> Vec<(Kernel, String)> {
    let mut all = Vec::new();
    let mut push = |kernel: Kernel, constants: &[String]| all.push((kernel, constants.join("\n")));
    for kernel in [SPREAD, TAKE_SLOTS, TAKE_TOKENS, SLICE_COLS, GATHER_ROWS, TOP_K, SAMPLE_COUNT, BANDWIDTH] {
        push(kernel, &[]);
    }
    for act in [None, Some(ActQuant::DynTokenI8), Some(ActQuant::DynTokenE4M3)] {
        push(LINEAR_INPUT, &[super::act(act), ordered(act.is_none())]);
    }
    for rounds in [false, true] {
        for kernel in [RMS_NORM, RMS_NORM_WIDE, ADD, SILU_MUL, ROPE, WEIGHTED_SUM] {
            push(kernel, &[round(rounds)]);
        }
        stores().into_iter().for_each(|store| of_store(store, rounds, &mut push));
        for (format, head_dim) in KvFormat::ALL.into_iter().zip([64, 24, 128, 80]) {
            of_cache(format, head_dim, rounds, &mut push);
        }
        for kernel in [SAMPLE_SCAN, SAMPLE_FILTER, SAMPLE_DRAW, SAMPLE_FINISH, LOGPROBS] {
            push(kernel, &[masked(rounds)]);
        }
    }
    all
}

#[test]
fn every_shader_is_translated_for_metal_and_direct_x() {
    for (kernel, constants) in all() {
        let text = kernel.text(&constants);
        let fail = |problem: String| -> ! { panic!("{} with {constants}: {problem}", kernel.name) };
        let module =
            naga::front::wgsl::parse_str(&text).unwrap_or_else(|error| fail(error.emit_to_string(&text)));
        let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
        let info = validator.validate(&module).unwrap_or_else(|error| fail(error.emit_to_string(&text)));
        let options =
            msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..msl::Options::default() };
        let metal = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default());
        let (metal, _) = metal.unwrap_or_else(|error| fail(error.to_string()));
        assert!(metal.contains("kernel void"), "{}", kernel.name);
        let options = hlsl::Options { fake_missing_bindings: true, ..hlsl::Options::default() };
        let mut direct_x = String::new();
        let pipeline = hlsl::PipelineOptions::default();
        let mut writer = hlsl::Writer::new(&mut direct_x, &options, &pipeline);
        writer.write(&module, &info, None).unwrap_or_else(|error| fail(error.to_string()));
        assert!(direct_x.contains("numthreads"), "{}", kernel.name);
    }
}
