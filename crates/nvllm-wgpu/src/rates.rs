//! What an adapter reaches, measured when it is asked for: the read bandwidth of its memory, and
//! what a launch costs that waits for the one before it.

use std::time::Instant;

use wgpu::ComputePassDescriptor;

use crate::error::Result;
use crate::gpu::{Gpu, Part};
use crate::lower::{Dim, Dispatch};
use crate::shaders;

/// What a bandwidth measurement reads at once: several times any last-level cache, where it fits.
const READ_BYTES: usize = 1 << 30;

/// Workgroups that read.
const READERS: u32 = 4096;

/// Launches of which the cost is the mean.
const LAUNCHES: usize = 1000;

/// Seconds that `launches`, one after another, take at best.
fn seconds(gpu: &Gpu, launches: &[&Dispatch], num: [u32; 2]) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let mut encoder = gpu.encoder();
        {
            let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
            launches.iter().for_each(|launch| launch.run_at(&mut pass, num));
        }
        let began = Instant::now();
        let index = gpu.submit(encoder)?;
        gpu.wait(index)?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Bytes a second. The time of a submission that reads little is taken off.
pub(crate) fn read_bandwidth(gpu: &Gpu) -> Result<f64> {
    let bytes = READ_BYTES.min(gpu.facts.max_binding).min(gpu.facts.max_buffer) / 16 * 16;
    let out = gpu.storage(16, "a measurement")?;
    let pipeline = gpu.pipeline(&shaders::BANDWIDTH, "")?;
    let reader = |bytes: usize| {
        let data = gpu.storage(bytes, "a measurement")?;
        let group = gpu.bind_group(&pipeline, &[Part::whole(&data), Part::whole(&out)]);
        Ok(Dispatch::new(pipeline.clone(), group, Dim::Fixed(1), Dim::Fixed(1)))
    };
    let (little, all) = (reader(16)?, reader(bytes)?);
    let repeats = if gpu.facts.is_cpu { 1 } else { 8 };
    let floor = seconds(gpu, &vec![&little; repeats], [1, 1])?;
    let read = seconds(gpu, &vec![&all; repeats], [READERS, 1])?;
    Ok((bytes * repeats) as f64 / (read - floor).max(f64::EPSILON))
}

/// Seconds of one launch that reads what the one before it wrote, in a long pass of such launches.
pub(crate) fn launch_seconds(gpu: &Gpu) -> Result<f64> {
    let buffers = [gpu.storage(256, "a measurement")?, gpu.storage(256, "a measurement")?];
    let pipeline = gpu.pipeline(&shaders::SLICE_COLS, "")?;
    let params = gpu.params(&[16, 0, 16])?;
    let copy = |from: usize| {
        let parts = [&params, &buffers[from], &buffers[1 - from]].map(Part::whole);
        Dispatch::new(pipeline.clone(), gpu.bind_group(&pipeline, &parts), Dim::Fixed(1), Dim::Fixed(1))
    };
    let pair = [copy(0), copy(1)];
    let chain = |num: usize| pair.iter().cycle().take(num).collect::<Vec<_>>();
    let (one, all) = (seconds(gpu, &chain(1), [1, 1])?, seconds(gpu, &chain(LAUNCHES), [1, 1])?);
    Ok((all - one) / (LAUNCHES - 1) as f64)
}
