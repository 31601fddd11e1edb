//! Adapters: which there are, what each offers, and the choice of one.

use wgpu::{Adapter, Backend, DeviceType, Features, Limits};

use crate::error::{Result, WgpuError};
use crate::options::WgpuOptions;

/// What is known of an adapter before it is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterFacts {
    /// Its place among the adapters, by which it can be chosen.
    pub index: usize,
    /// Its name, by a part of which it can be chosen.
    pub name: String,
    /// The API through which it is driven: Vulkan, Metal or DX12.
    pub api: &'static str,
    /// What kind of device it is, in words.
    pub kind: &'static str,
    /// Whether it computes on the host's processor.
    pub is_cpu: bool,
    /// Driver and version.
    pub driver: String,
    /// Bytes of its own memory, or of the host's if it has none or cannot tell.
    pub memory_bytes: usize,
    /// Bytes that a shader can see of one buffer.
    pub max_binding: usize,
    /// Bytes of the largest piece of a weight or of a layer's cache: as many, unless less was asked
    /// for.
    pub piece_bytes: usize,
    /// Bytes of the largest buffer.
    pub max_buffer: usize,
    /// Storage buffers that one shader can see.
    pub max_bindings: usize,
    /// Bytes of memory that a workgroup shares.
    pub workgroup_bytes: usize,
    /// Invocations of the largest workgroup.
    pub workgroup_size: usize,
    /// The smallest and the largest subgroup.
    pub subgroup: [u32; 2],
    /// Names of those features that this crate uses or may use.
    pub features: Vec<&'static str>,
}

/// Features that are asked for where they are present, by the name that is shown.
const FEATURES: [(&str, Features); 4] = [
    ("subgroups", Features::SUBGROUP),
    ("f16", Features::SHADER_F16),
    ("timestamps", Features::TIMESTAMP_QUERY),
    ("pipeline cache", Features::PIPELINE_CACHE),
];

/// Those features of [`FEATURES`] that the adapter has.
pub(crate) fn wanted_features(adapter: &Adapter) -> Features {
    let all = FEATURES.iter().fold(Features::empty(), |all, (_, feature)| all | *feature);
    adapter.features() & all
}

/// All adapters that can run compute shaders, in the order in which their indices count.
pub fn adapters() -> Vec<AdapterFacts> {
    found().into_iter().map(|(facts, _)| facts).collect()
}

/// Every adapter with its facts.
fn found() -> Vec<(AdapterFacts, Adapter)> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let descriptor =
        wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() };
    let instance = wgpu::Instance::new(descriptor);
    let all = pollster::block_on(instance.enumerate_adapters(backends));
    let computes = |adapter: &Adapter| {
        let flags = adapter.get_downlevel_capabilities().flags;
        flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
    };
    let all = all.into_iter().filter(computes).enumerate();
    all.map(|(index, adapter)| (facts(index, &adapter), adapter)).collect()
}

fn facts(index: usize, adapter: &Adapter) -> AdapterFacts {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let Limits {
        max_storage_buffer_binding_size,
        max_buffer_size,
        max_storage_buffers_per_shader_stage,
        max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup,
        ..
    } = limits;
    AdapterFacts {
        index,
        api: match info.backend {
            Backend::Vulkan => "Vulkan",
            Backend::Metal => "Metal",
            Backend::Dx12 => "DX12",
            _ => "another API",
        },
        kind: match info.device_type {
            DeviceType::DiscreteGpu => "discrete GPU",
            DeviceType::IntegratedGpu => "integrated GPU",
            DeviceType::VirtualGpu => "virtual GPU",
            DeviceType::Cpu => "the host's processor",
            DeviceType::Other => "of a kind that it does not tell",
        },
        is_cpu: info.device_type == DeviceType::Cpu,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        memory_bytes: own_memory(adapter).unwrap_or_else(nvllm_core::host::memory_bytes),
        max_binding: usize::try_from(max_storage_buffer_binding_size).unwrap_or(usize::MAX),
        piece_bytes: usize::try_from(max_storage_buffer_binding_size).unwrap_or(usize::MAX),
        max_buffer: usize::try_from(max_buffer_size).unwrap_or(usize::MAX),
        max_bindings: max_storage_buffers_per_shader_stage as usize,
        workgroup_bytes: max_compute_workgroup_storage_size as usize,
        workgroup_size: max_compute_invocations_per_workgroup as usize,
        subgroup: [info.subgroup_min_size, info.subgroup_max_size],
        features: FEATURES.iter().filter(|(_, f)| features.contains(*f)).map(|(name, _)| *name).collect(),
        name: info.name,
    }
}

/// Bytes of the adapter's largest heap of its own, which only Vulkan tells.
fn own_memory(adapter: &Adapter) -> Option<usize> {
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the guard is used for a query only, while `adapter` lives.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let (instance, device) = (adapter.shared_instance().raw_instance(), adapter.raw_physical_device());
    // SAFETY: `device` is a device of `instance`, and both are alive in the guard.
    let memory = unsafe { instance.get_physical_device_memory_properties(device) };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    let own = heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size);
    own.max().and_then(|bytes| usize::try_from(bytes).ok())
}

/// The adapter that is asked for.
///
/// Errors if there is none, or none of that name.
pub(crate) fn choose(options: &WgpuOptions) -> Result<(AdapterFacts, Adapter)> {
    let mut all = found();
    let facts: Vec<_> = all.iter().map(|(facts, _)| facts).collect();
    let at = index_of(&facts, options.adapter.as_deref())?;
    Ok(all.swap_remove(at))
}

/// Index of the adapter that `asked` names by its index or a part of its name, whatever the case
/// of its letters. If it is `None`, the first discrete GPU, else the first other GPU, else the
/// first.
fn index_of(all: &[&AdapterFacts], asked: Option<&str>) -> Result<usize> {
    if all.is_empty() {
        return Err(WgpuError::NoAdapter);
    }
    let Some(asked) = asked else {
        let rank = |facts: &&AdapterFacts| match facts.kind {
            "discrete GPU" => 0,
            _ if !facts.is_cpu => 1,
            _ => 2,
        };
        return Ok(all.iter().enumerate().min_by_key(|(_, facts)| rank(facts)).map_or(0, |(at, _)| at));
    };
    let wanted = asked.to_lowercase();
    let by_name = || all.iter().position(|facts| facts.name.to_lowercase().contains(&wanted));
    let by_index = asked.parse().ok().filter(|&at: &usize| at < all.len());
    by_index.or_else(by_name).ok_or_else(|| {
        let found: Vec<_> = all.iter().map(|facts| format!("{} {}", facts.index, facts.name)).collect();
        WgpuError::UnknownAdapter { asked: asked.into(), found: found.join(", ") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, name: &str, kind: &'static str) -> AdapterFacts {
        AdapterFacts {
            index,
            name: name.into(),
            api: "Vulkan",
            kind,
            is_cpu: kind == "the host's processor",
            driver: String::new(),
            memory_bytes: 0,
            max_binding: 0,
            piece_bytes: 0,
            max_buffer: 0,
            max_bindings: 0,
            workgroup_bytes: 0,
            workgroup_size: 0,
            subgroup: [0; 2],
            features: Vec::new(),
        }
    }

    #[test]
    fn an_adapter_is_chosen_by_index_name_or_kind() {
        let all = [
            adapter(0, "llvmpipe", "the host's processor"),
            adapter(1, "Iris Xe", "integrated GPU"),
            adapter(2, "Radeon 7900", "discrete GPU"),
        ];
        let all: Vec<_> = all.iter().collect();
        let at = |asked| index_of(&all, asked).map_err(|error| error.to_string());
        assert_eq!(
            (at(None), at(Some("0")), at(Some("iris")), at(Some("7900"))),
            (Ok(2), Ok(0), Ok(1), Ok(2))
        );
        assert_eq!(index_of(&all[..2], None).unwrap(), 1);
        for asked in [None, Some("0")] {
            let problem = index_of(&[], asked).unwrap_err().to_string();
            assert!(
                problem.contains("install a Vulkan driver") && problem.contains("--backend cpu"),
                "{problem}"
            );
        }
        let problem = at(Some("3")).unwrap_err();
        assert!(problem.contains("there are: 0 llvmpipe, 1 Iris Xe, 2 Radeon 7900"), "{problem}");
    }
}
