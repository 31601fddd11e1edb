//! The driver and one device: found at run time, or an error that says what is missing.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result, sys};

use crate::error::{CudaError, Doing, Result};

/// The oldest driver interface that is supported: CUDA 12.0, the first with all calls made here but
/// those that time kernels.
const OLDEST_DRIVER: i32 = 12_000;

/// The oldest driver interface that times kernels.
const TIMING_DRIVER: i32 = 12_080;

/// The oldest compute capability that the kernels support, for bf16 and asynchronous copies.
const OLDEST_DEVICE: (i32, i32) = (8, 0);

/// One GPU with the streams that a loaded model uses.
pub(crate) struct Device {
    pub context: Arc<CudaContext>,
    /// Everything that steps compute, in order.
    pub stream: Arc<CudaStream>,
    /// Uploads of masks and downloads of rows, which overlap with it (`step_buffers.rs`).
    pub copies: Arc<CudaStream>,
    pub facts: DeviceFacts,
}

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceFacts {
    /// Its number among the devices that the driver shows.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// All of its memory, in bytes.
    pub memory_bytes: usize,
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Shared memory that one block may ask for, in bytes.
    pub block_shared_bytes: usize,
    /// The fastest clocks of its multiprocessors and of its memory, in MHz, where the driver tells.
    pub clocks_mhz: Option<[f64; 2]>,
    /// The CUDA version that the driver supports, as 1000 * major + 10 * minor.
    pub driver: i32,
}

impl DeviceFacts {
    /// Whether a kernel that waits for what it reads may start before the one before has ended, in
    /// graphs too.
    pub(crate) const fn starts_early(&self) -> bool {
        self.capability.0 >= 9 && self.driver >= 12_030
    }
}

/// `13000` as `13.0`.
pub(crate) fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// How many devices the driver shows.
///
/// # Errors
/// If there is no driver, it is too old, or it does not start.
pub fn count_devices() -> Result<usize> {
    // SAFETY: opens a library by name and looks at nothing in it.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver { needed: version(OLDEST_DRIVER) });
    }
    // Asked first: an old driver need not know what starting it asks.
    check_driver(driver_version()?, OLDEST_DRIVER)?;
    match result::init() {
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(CudaError::NoDevice),
        started => started.doing("starting the NVIDIA driver (does nvidia-smi run?)")?,
    }
    let count = result::device::get_count().doing("counting GPUs")?;
    if count > 0 { Ok(count as usize) } else { Err(CudaError::NoDevice) }
}

/// Refuses a driver that lacks calls.
fn check_driver(found: i32, needed: i32) -> Result<()> {
    if found >= needed {
        return Ok(());
    }
    Err(CudaError::OldDriver { found: version(found), needed: version(needed) })
}

/// Refuses a number that no device has.
fn check_ordinal(asked: usize, count: usize) -> Result<()> {
    if asked < count { Ok(()) } else { Err(CudaError::BadOrdinal { asked, count }) }
}

/// Refuses a device that the kernels do not run on.
fn check_capability(facts: &DeviceFacts) -> Result<()> {
    if facts.capability >= OLDEST_DEVICE {
        return Ok(());
    }
    let (major, minor) = facts.capability;
    Err(CudaError::OldDevice { name: facts.name.clone(), major, minor })
}

fn driver_version() -> Result<i32> {
    let mut driver = 0;
    // SAFETY: writes one int.
    unsafe { sys::cuDriverGetVersion(&raw mut driver) }.result().doing("asking the driver's version")?;
    Ok(driver)
}

/// What device `ordinal` says of itself. Makes no context.
///
/// # Errors
/// As [`count_devices`], and if there is no such device.
pub fn device_facts(ordinal: usize) -> Result<DeviceFacts> {
    let count = count_devices()?;
    check_ordinal(ordinal, count)?;
    let device = result::device::get(ordinal as i32).doing("opening the GPU")?;
    let attribute = |which| {
        // SAFETY: the device exists.
        unsafe { result::device::get_attribute(device, which) }.doing("asking the GPU")
    };
    // The driver counts in kHz; a share of a GPU may not tell.
    let mhz = |which| attribute(which).ok().filter(|khz| *khz > 0).map(|khz| f64::from(khz) / 1e3);
    Ok(DeviceFacts {
        ordinal,
        name: result::device::get_name(device).doing("asking the GPU's name")?,
        capability: (
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        // SAFETY: the device exists.
        memory_bytes: unsafe { result::device::total_mem(device) }.doing("asking the GPU's memory")?,
        multiprocessors: attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?
            as usize,
        block_shared_bytes: attribute(
            sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )? as usize,
        clocks_mhz: mhz(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)
            .zip(mhz(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE))
            .map(|(cores, memory)| [cores, memory]),
        driver: driver_version()?,
    })
}

impl Device {
    pub(crate) fn new(ordinal: usize) -> Result<Self> {
        let facts = device_facts(ordinal)?;
        check_capability(&facts)?;
        let context = CudaContext::new(ordinal).doing("making a context on the GPU")?;
        // SAFETY: no buffer of cudarc's own is used, so nothing relies on its events; they would
        // break graph capture.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().doing("making a stream")?;
        let copies = context.new_stream().doing("making a stream")?;
        Ok(Self { context, stream, copies, facts })
    }

    /// Makes the context this thread's own: before any call of the driver on a thread that may be
    /// new.
    pub(crate) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().doing("binding the GPU to a thread")
    }

    /// Bytes free now.
    pub(crate) fn free_bytes(&self) -> Result<usize> {
        self.bind()?;
        result::mem_get_info().map(|(free, _)| free).doing("asking for free memory")
    }

    /// Seconds from the beginning to the end of what `work` puts on the stream, on the device's
    /// clock: waits for it.
    pub(crate) fn seconds(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        self.check_timing()?;
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let record = || self.stream.record_event(timed).doing("recording an event");
        let start = record()?;
        work()?;
        let end = record()?;
        end.synchronize().doing("waiting for the GPU")?;
        seconds_between(&start, &end)
    }

    /// Refuses a driver that does not time kernels.
    pub(crate) fn check_timing(&self) -> Result<()> {
        check_driver(self.facts.driver, TIMING_DRIVER)
    }

    /// Waits for everything on both streams.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().doing("waiting for the GPU")?;
        self.copies.synchronize().doing("waiting for the GPU")
    }
}

/// Seconds from one event to a later one, both past. To be called after [`Device::check_timing`]:
/// older drivers lack the call.
pub(crate) fn seconds_between(from: &CudaEvent, to: &CudaEvent) -> Result<f64> {
    Ok(f64::from(from.elapsed_ms(to).doing("reading an event")?) / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn an_old_driver_is_refused_with_what_is_needed() {
        check_driver(12_000, OLDEST_DRIVER).unwrap();
        check_driver(13_010, OLDEST_DRIVER).unwrap();
        let text = refusal(check_driver(11_080, OLDEST_DRIVER));
        assert!(text.contains("supports CUDA 11.8; CUDA 12.0 or newer is needed"), "{text}");
    }

    #[test]
    fn a_gpu_that_is_not_there_is_refused_with_how_many_there_are() {
        check_ordinal(1, 2).unwrap();
        let text = refusal(check_ordinal(2, 2));
        assert!(text.contains("GPU 2 was asked for; the driver shows 2, numbered from 0"), "{text}");
    }

    #[test]
    fn an_old_device_is_refused_with_what_is_needed() {
        let facts = |capability| DeviceFacts {
            ordinal: 0,
            name: "Tesla V100".into(),
            capability,
            memory_bytes: 0,
            multiprocessors: 80,
            block_shared_bytes: 0,
            driver: 12_040,
            clocks_mhz: None,
        };
        check_capability(&facts((8, 0))).unwrap();
        check_capability(&facts((12, 1))).unwrap();
        let text = refusal(check_capability(&facts((7, 0))));
        assert!(text.contains("Tesla V100 has compute capability 7.0; 8.0 (Ampere) or newer"), "{text}");
    }
}
