#!/usr/bin/env bash
# wgpu 30.0.2: where two threads share a device, `Device::poll` with `PollType::Wait` and a submission's index can return
# before the `map_async` callback of that submission has run: the other thread's poll has taken it and runs it a moment
# later. `get_mapped_range` then finds the buffer not mapped. One thread alone always finds the callback run. Who waits
# for a mapping must wait for the callback, and not for the poll.
#
# Needs cargo and a Vulkan driver (Mesa's lavapipe is enough). Seen on lavapipe of Mesa 22.3.6: 0 of 5,000 with one
# thread; with two 4 and 5 of 10,000 in two runs. Ends well at the first one seen.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$dir}
mkdir "$dir/src"
cat >"$dir/Cargo.toml" <<'TOML'
[package]
name = "poll"
version = "0.0.0"
edition = "2021"

[dependencies]
pollster = "=0.4.0"
wgpu = { version = "=30.0.2", default-features = false, features = ["std", "vulkan", "wgsl"] }
TOML
cat >"$dir/src/main.rs" <<'RS'
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wgpu::{Backends, BufferUsages, Device, PollType, Queue};

/// Copies a buffer and maps the copy; whether the callback had run when the wait was over.
fn called(device: &Device, queue: &Queue) -> bool {
    let buffer = |usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 256, usage, mapped_at_creation: false })
    };
    let from = buffer(BufferUsages::COPY_SRC);
    let to = buffer(BufferUsages::COPY_DST | BufferUsages::MAP_READ);
    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(&from, 0, &to, 0, 256);
    let index = queue.submit([encoder.finish()]);
    let called = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&called);
    to.slice(..).map_async(wgpu::MapMode::Read, move |_| set.store(true, Ordering::SeqCst));
    device.poll(PollType::Wait { submission_index: Some(index), timeout: None }).unwrap();
    called.load(Ordering::SeqCst)
}

/// Whether a wait was over before its callback had run, within so many rounds of each thread.
fn missed(device: &Device, queue: &Queue, threads: usize, rounds: usize) -> bool {
    let found = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..rounds {
                    if found.load(Ordering::SeqCst) {
                        return;
                    }
                    if !called(device, queue) {
                        found.store(true, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    found.into_inner()
}

fn main() {
    let descriptor = wgpu::InstanceDescriptor {
        backends: Backends::VULKAN,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    };
    let adapters = pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(Backends::VULKAN));
    let adapter = adapters.into_iter().next().expect("a Vulkan adapter");
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default())).unwrap();
    println!("one thread {}, two {}", missed(&device, &queue, 1, 5_000), missed(&device, &queue, 2, 50_000));
}
RS
seen=$(cd "$dir" && cargo run --quiet 2>/dev/null)
echo "$seen"
[ "$seen" = "one thread false, two true" ]
