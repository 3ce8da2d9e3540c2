//! Which device models run on: the GPU if there is one, or what the user demands.

use super::error::Result;
use crate::exec::RunError;
use candle_core::Device;
use std::fmt;
use std::str::FromStr;

/// The environment variable that demands a device.
pub const DEVICE_VARIABLE: &str = "IDIOLECT_DEVICE";

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum DeviceChoice {
    /// The first GPU if this build can use one and there is one; the processor otherwise.
    #[default]
    Auto,
    Cpu,
    /// The NVIDIA GPU of this number, as the driver counts them.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = text.strip_prefix("cuda").map(|rest| rest.strip_prefix(':').unwrap_or(rest));
        match (text, number) {
            ("auto" | "", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            // Digits alone: `parse` would take a sign too.
            (_, Some(n)) if text.contains(':') && n.bytes().all(|b| b.is_ascii_digit()) => {
                n.parse().map(Self::Cuda).map_err(|_| unknown(text))
            }
            _ => Err(unknown(text)),
        }
    }
}

fn unknown(text: &str) -> String {
    format!("`{text}` is no device; expected `auto`, `cpu`, `cuda`, or `cuda:N` for the GPU number N")
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl DeviceChoice {
    /// Which device it is in words, and the device, opened. Whoever demands a GPU and cannot have it gets an error, never
    /// the processor in its place.
    pub fn open(self) -> Result<(String, Device)> {
        let named = |device: Device| (describe(&device), device);
        match self {
            Self::Cpu => Ok(named(Device::Cpu)),
            Self::Auto => Ok(match cuda::open(0) {
                Ok(device) => named(device),
                Err(why) if cuda::BUILT => (format!("{}; no GPU: {why}", describe(&Device::Cpu)), Device::Cpu),
                Err(_) => named(Device::Cpu),
            }),
            Self::Cuda(number) => cuda::open(number).map(named).map_err(|why| {
                RunError::failed("device", format!("there is no device `{self}`: {why}")).help(match cuda::BUILT {
                    true => format!("`nvidia-smi` lists the GPUs; `--device cpu` or {DEVICE_VARIABLE}=cpu takes none"),
                    false => "docs/gpu.md tells how to build for a GPU; `--device cpu` takes none".into(),
                })
            }),
        }
    }
}

/// A device in words: `cpu (16 threads)`, `cuda:0 (NVIDIA H100 80GB HBM3)`.
pub fn describe(device: &Device) -> String {
    match device {
        Device::Cuda(_) => cuda::describe(device),
        Device::Cpu => format!("cpu ({} threads)", rayon::current_num_threads()),
        Device::Metal(_) => "metal".into(),
    }
}

/// Bytes that models may take on a device: what the system could give without swapping, or what is free on the GPU.
/// `None` where the system does not say.
pub fn free_memory(device: &Device) -> Option<u64> {
    match device {
        Device::Cuda(_) => cuda::free_memory(device),
        _ => available_memory(),
    }
}

fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// NVIDIA GPUs, in builds that can use them.
#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::Device;
    use candle_core::cuda_backend::cudarc::cublas::sys as cublas;
    use candle_core::cuda_backend::cudarc::driver::{self, CudaContext};
    use std::sync::Arc;

    pub const BUILT: bool = true;

    pub fn open(number: usize) -> Result<Device, String> {
        let count = CudaContext::device_count().map_err(|e| format!("the CUDA driver answers {e}"))?;
        match usize::try_from(count).unwrap_or(0) {
            0 => Err("the CUDA driver finds no GPU".into()),
            1 if number > 0 => Err("there is one GPU, `cuda:0`".into()),
            n if number >= n => Err(format!("there are {n} GPUs, `cuda:0` to `cuda:{}`", n - 1)),
            _ => Device::new_cuda_with_stream(number).and_then(set_up).map_err(|e| e.to_string()),
        }
    }

    /// A device with a stream of its own takes its work in order, whatever thread starts it.
    fn set_up(device: Device) -> candle_core::Result<Device> {
        let cuda = device.as_cuda_device()?;
        // Every tensor would carry two events, which order its uses on several streams.
        // SAFETY: the device has the stream that it was made with alone.
        unsafe { cuda.disable_event_tracking() };
        // Where a sum is cut into parts, the parts are added in float32 too, also if the result is bfloat16.
        let mode = cublas::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        let blas = cuda.cublas_handle();
        // SAFETY: the handle is alive.
        unsafe { cublas::cublasSetMathMode(*blas.handle(), mode) }.result().map_err(candle_core::Error::wrap)?;
        keep_memory(cuda.cuda_stream().context());
        Ok(device)
    }

    /// Without this, memory that is free goes back to the system whenever the processor waits for the GPU, and is asked
    /// for anew with the next tensor.
    fn keep_memory(context: &CudaContext) {
        if !context.has_async_alloc() {
            return;
        }
        let mut all = u64::MAX;
        // SAFETY: the context is alive, and the attribute is a 64-bit number. Without it, work takes longer and is the same.
        let _ = unsafe {
            driver::result::device::get_default_mem_pool(context.cu_device()).and_then(|pool| {
                let threshold = driver::sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                driver::result::mem_pool::set_attribute(pool, threshold, (&raw mut all).cast())
            })
        };
    }

    fn context(device: &Device) -> Option<Arc<CudaContext>> {
        Some(device.as_cuda_device().ok()?.cuda_stream().context().clone())
    }

    pub fn describe(device: &Device) -> String {
        let Some(context) = context(device) else { return "cuda".into() };
        let name = context.name().unwrap_or_else(|_| "a GPU without a name".into());
        format!("cuda:{} ({name})", context.ordinal())
    }

    pub fn free_memory(device: &Device) -> Option<u64> {
        let (free, _) = context(device)?.mem_get_info().ok()?;
        Some(free as u64)
    }
}

/// Builds without the feature `cuda`.
#[cfg(not(feature = "cuda"))]
mod cuda {
    use candle_core::Device;

    pub const BUILT: bool = false;

    pub fn open(_: usize) -> Result<Device, String> {
        Err("this build is for the processor alone (it was built without `--features cuda`)".into())
    }

    pub fn describe(_: &Device) -> String {
        "cuda".into()
    }

    pub fn free_memory(_: &Device) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written_alike() {
        let cases = [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:13", DeviceChoice::Cuda(13)),
        ];
        for (text, choice) in cases {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("".parse(), Ok(DeviceChoice::Auto));
        for wrong in
            ["gpu", "CPU", "cuda:", "cuda1", "cuda:+1", "cuda:-1", "cuda: 1", "cuda:99999999999999999999", "cpu:0"]
        {
            let error = wrong.parse::<DeviceChoice>().expect_err(wrong);
            assert!(error.contains(&format!("`{wrong}`")) && error.contains("cuda:N"), "{error}");
        }
    }

    #[test]
    fn the_processor_is_always_there() {
        let (name, device) = DeviceChoice::Cpu.open().unwrap();
        assert!(device.is_cpu() && name.starts_with("cpu ("), "{name}");
        assert!(free_memory(&device).is_none_or(|bytes| bytes > 1 << 20));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_demanded_gpu_that_is_absent_is_named_and_the_processor_is_not_taken_for_it() {
        assert!(DeviceChoice::Auto.open().unwrap().1.is_cpu());
        let RunError::Failed { code, message, help } = DeviceChoice::Cuda(3).open().unwrap_err() else { panic!() };
        assert_eq!(code, "device");
        assert!(message.contains("`cuda:3`") && message.contains("--features cuda"), "{message}");
        assert!(help.iter().any(|h| h.contains("docs/gpu.md")), "{help:?}");
    }
}
