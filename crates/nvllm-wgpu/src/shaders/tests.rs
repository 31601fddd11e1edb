//! Every shader, with all constants that it is compiled with, translated to the languages of the
//! APIs that no machine of the tests has.

use naga::back::{hlsl, msl};
use naga::valid::{Capabilities, ValidationFlags, Validator};

use super::*;

/// Each shader with each text of constants.
fn all() -> Vec<(Kernel, String)> {
    let mut all = Vec::new();
    let mut push = |kernel: Kernel, constants: &[String]| all.push((kernel, constants.join("\n")));
    for kernel in [SPREAD, TAKE_SLOTS, TAKE_TOKENS, SLICE_COLS, GATHER_ROWS, TOP_K, SAMPLE_COUNT, BANDWIDTH] {
        push(kernel, &[]);
    }
    for rounds in [false, true] {
        for kernel in [RMS_NORM, ADD, SILU_MUL, ROPE, WEIGHTED_SUM] {
            push(kernel, &[round(rounds)]);
        }
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            push(EMBED, &[round(rounds), weight(dtype)]);
            push(EXPERT_LINEAR, &[round(rounds), weight(dtype)]);
            let epilogues = [(true, false, false), (false, true, false), (true, false, true)];
            for (bias, residual, gated) in epilogues {
                for rows in [1, 4, 8] {
                    let tile = tile(rows, 4, Epilogue { bias, residual, gated });
                    push(LINEAR, &[round(rounds), weight(dtype), tile.clone()]);
                    push(LINEAR_WIDE, &[round(rounds), weight(dtype), tile]);
                }
            }
        }
        for format in KvFormat::PLAIN {
            push(KV_APPEND, &[round(rounds), kv(format)]);
            for num in 1..=MOST_SEGMENTS {
                let constants = |text: String| [round(rounds), kv(format), norm(rounds), text];
                let [plain, in_place, front] = [PAGED_ATTENTION, ATTENTION_IN_PLACE, QK_NORM_ROPE_APPEND]
                    .map(|all| all.into_iter().nth(num - 1).expect("there are as many"));
                push(plain, &constants(cache_read(num, false)));
                push(in_place, &constants(cache_read(num, true)));
                push(front, &constants(cache_write(num)));
            }
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
