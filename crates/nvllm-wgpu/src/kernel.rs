//! A shader as launches see it: text, entry point and bindings.

use std::borrow::Cow;

use wgpu::{
    BindGroupLayout, BindGroupLayoutEntry, BindingType, BufferBindingType, ComputePipeline, ShaderStages,
};

/// What a binding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bind {
    /// A storage buffer that is read.
    Read,
    /// A storage buffer that is written, or read and written.
    Write,
    /// The parameters of a dispatch.
    Params,
}

/// A shader.
#[derive(Clone)]
pub(crate) struct Kernel {
    /// Of the folder and of the file.
    pub name: &'static str,
    /// Files that come before it, in order.
    pub includes: &'static [&'static str],
    pub source: &'static str,
    pub entry: &'static str,
    /// Its bindings of group 0, in order.
    pub bindings: &'static [Bind],
}

/// A compiled shader. Clones are the same pipeline.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub name: &'static str,
    pub compiled: ComputePipeline,
    pub layout: BindGroupLayout,
}

impl Kernel {
    /// The whole text, with `constants` in front.
    pub(crate) fn text(&self, constants: &str) -> Cow<'static, str> {
        let parts = [constants].into_iter().chain(self.includes.iter().copied()).chain([self.source]);
        parts.collect::<Vec<_>>().join("\n").into()
    }

    pub(crate) fn layout(&self, device: &wgpu::Device) -> BindGroupLayout {
        let entry = |(at, bind): (usize, &Bind)| BindGroupLayoutEntry {
            binding: at as u32,
            visibility: ShaderStages::COMPUTE,
            ty: BindingType::Buffer {
                ty: match bind {
                    Bind::Read => BufferBindingType::Storage { read_only: true },
                    Bind::Write => BufferBindingType::Storage { read_only: false },
                    Bind::Params => BufferBindingType::Uniform,
                },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<_> = self.bindings.iter().enumerate().map(entry).collect();
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(self.name),
            entries: &entries,
        })
    }
}
