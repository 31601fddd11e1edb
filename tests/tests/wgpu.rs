//! The wgpu backend end to end, in one program: a software adapter compiles each shader once for
//! all of it. Skips, and says why, where there is no adapter. On a software adapter what takes
//! minutes there is cut short.

use std::time::Instant;

use nvllm_bench::decode_seconds;
use nvllm_core::{Activations, Backend};
use nvllm_engine::EngineError;
use nvllm_tests::checks::{fixtures, metamorphic, text, verify};
use nvllm_tests::{cpu, golden_dir, on_wgpu};

#[test]
fn fixtures_f32() {
    on_wgpu(|wgpu| fixtures::check_f32(wgpu));
}

#[test]
fn fixtures_bf16() {
    on_wgpu(|wgpu| fixtures::check_bf16(wgpu));
}

#[test]
fn text_f32() {
    on_wgpu(|wgpu| text::check_each_f32(wgpu, if wgpu.facts().is_cpu { 4 } else { 1 }));
}

#[test]
fn text_bf16() {
    on_wgpu(|wgpu| text::check_bf16(wgpu));
}

#[test]
fn metamorphic() {
    on_wgpu(|wgpu| metamorphic::check(wgpu));
}

#[test]
fn step_sizes() {
    on_wgpu(|wgpu| metamorphic::check_step_sizes(wgpu));
}

#[test]
fn verified() {
    const WGPU: verify::Factory = || match nvllm_tests::wgpu() {
        Ok(backend) => Ok(Box::new(backend)),
        Err(reason) => Err(EngineError::Backend { reason }),
    };
    on_wgpu(|wgpu| {
        if !wgpu.facts().is_cpu {
            return verify::check_all(WGPU);
        }
        for name in verify::FIXTURES {
            verify::check(&golden_dir().join(name), WGPU, Activations::Bf16, true);
        }
    });
}

/// The step by which `--backend auto` compares a GPU with the CPU runs on both: one that could not
/// be measured would never be taken.
#[test]
fn the_step_that_auto_measures_runs() {
    let measure = |backend: &dyn Backend| {
        let began = Instant::now();
        let seconds = decode_seconds(backend).unwrap();
        assert!(seconds.is_finite() && seconds > 0.0, "{seconds}");
        let (all, name) = (began.elapsed().as_secs_f64(), backend.info().name);
        println!("{name}: a step takes {:.2} ms, measuring it {:.0} ms", seconds * 1e3, all * 1e3);
    };
    measure(&cpu());
    on_wgpu(|wgpu| measure(wgpu));
}
