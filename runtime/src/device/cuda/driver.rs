//! A CUDA device: its memory, its modules, a stream for all that is computed and one for copies beside it, and graphs of what was
//! launched. Every status is looked at.
#![allow(unsafe_code, reason = "the driver is a C library")]

use super::libraries;
use super::nvrtc;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use snnc_compiler::text::bytes;
use std::ffi::{CString, c_void};
use thiserror::Error;

/// Why a device does not do something.
#[derive(Debug, Error)]
pub enum GpuError {
    /// There is no driver, or what stands in its place is none: what the loader says.
    #[error("there is no NVIDIA driver here: {0}")]
    NoDriver(String),
    /// The driver does not start.
    #[error("the NVIDIA driver does not start: {0}")]
    Start(String),
    /// The driver has no device.
    #[error("the NVIDIA driver has no device")]
    NoDevice,
    /// The driver is older than what kernels need.
    #[error("the NVIDIA driver is for CUDA {}.{}, but kernels need 12.0 or later: update the driver", found / 1000, found % 1000 / 10)]
    Old {
        /// As the driver says it: 1000 times the version, and 10 times what follows the point.
        found: i32,
    },
    /// The driver does not load what a later NVRTC makes.
    #[error(
        "the NVIDIA driver is for CUDA {}.{} and does not load kernels that NVRTC {}.{} made: update the driver, or put an NVRTC {} in front \
         in LD_LIBRARY_PATH",
        driver / 1000, driver % 1000 / 10, nvrtc.0, nvrtc.1, driver / 1000
    )]
    Later {
        /// The driver's version, as in `Old`.
        driver: i32,
        /// The compiler's version.
        nvrtc: (i32, i32),
    },
    /// A program is larger than the device's memory.
    #[error(
        "`{model}` needs {} for a batch of {batch}, but {} of the device's memory are free; {}",
        bytes(*.needed), bytes(*.free),
        if *.largest > 0 { format!("a batch of {largest} would fit") } else { "not even one sample would fit".into() }
    )]
    Memory {
        /// The network.
        model: String,
        /// Samples.
        batch: usize,
        /// Bytes needed.
        needed: u128,
        /// Bytes that are free.
        free: u128,
        /// The largest batch that would fit.
        largest: usize,
    },
    /// A call of the driver fails.
    #[error("CUDA cannot {what}: {why}")]
    Driver {
        /// What was tried.
        what: String,
        /// What the driver says.
        why: String,
    },
    /// A call of a library fails.
    #[error("{library} cannot {what}: {why}")]
    Library {
        /// Which.
        library: &'static str,
        /// What was tried, and for which part of the network.
        what: String,
        /// What it says.
        why: String,
    },
    /// A library is not there.
    #[error("{0}")]
    Missing(String),
    /// The kernels are not compiled.
    #[error(transparent)]
    Compile(#[from] nvrtc::CompileError),
    /// A program that has no CUDA text.
    #[error(transparent)]
    Text(#[from] snnc_compiler::backend::cuda::Unsupported),
}

fn failed(what: impl Into<String>) -> impl FnOnce(DriverError) -> GpuError {
    move |e| {
        let name = e.error_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let why = e.error_string().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        GpuError::Driver { what: what.into(), why: format!("{why} ({name})") }
    }
}

/// The oldest driver that runs what NVRTC makes here.
const OLDEST: i32 = 12_000;
/// The oldest that says how long something took (`cuEventElapsedTime_v2`).
const TELLS_TIME: i32 = 12_080;

/// A device and the stream on which all is done.
#[derive(Debug)]
pub struct Driver {
    device: sys::CUdevice,
    stream: sys::CUstream,
    /// Copies to the device that run beside what is computed.
    copies: sys::CUstream,
    /// As the driver names it.
    pub name: String,
    /// Its architecture, such as `sm_90`.
    pub arch: String,
    version: i32,
    /// Products of f32 may round their operands to 10 bits after the point.
    pub tf32: bool,
}

// SAFETY: the context is made current by whoever calls, and calls take `&mut` or come one after the other.
unsafe impl Send for Driver {}

/// Memory on the device.
#[derive(Debug)]
pub struct Memory {
    at: sys::CUdeviceptr,
    bytes: usize,
}

/// Memory of the host that the device copies from by itself.
#[derive(Debug)]
pub struct Pinned {
    at: *mut u8,
    bytes: usize,
}

/// Compiled kernels on the device.
#[derive(Debug)]
pub struct Module(sys::CUmodule);

/// A kernel of a module.
#[derive(Clone, Copy, Debug)]
pub struct Kernel(sys::CUfunction);

/// A point in the stream.
#[derive(Debug)]
pub struct Event(sys::CUevent);

/// What was launched on a stream, to be launched again at once.
#[derive(Debug)]
pub struct Graph(sys::CUgraphExec);

// SAFETY: handles of the driver are valid in every thread of the process.
unsafe impl Send for Memory {}
// SAFETY: nobody else has the memory.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Send for Graph {}

impl GpuError {
    /// There is no GPU, as far as can be seen, and not only something wrong with one.
    pub fn is_absent(&self) -> bool {
        match self {
            GpuError::NoDriver(why) => libraries::absent(why),
            GpuError::NoDevice => true,
            _ => false,
        }
    }
}

impl Driver {
    /// The first device (of those in `CUDA_VISIBLE_DEVICES`).
    ///
    /// # Errors
    /// If there is no driver, or none that is new enough, or it has no device.
    pub fn open() -> Result<Driver, GpuError> {
        libraries::driver().map_err(GpuError::NoDriver)?;
        result::init().map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => GpuError::NoDevice,
            _ => GpuError::Start(failed("start")(e).to_string()),
        })?;
        let mut version = 0;
        // SAFETY: writes one number.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(failed("say its version"))?;
        if version < OLDEST {
            return Err(GpuError::Old { found: version });
        }
        if result::device::get_count().map_err(failed("count devices"))? == 0 {
            return Err(GpuError::NoDevice);
        }
        let device = result::device::get(0).map_err(failed("open the device"))?;
        let name = result::device::get_name(device).map_err(failed("name the device"))?;
        let attribute = |which| {
            // SAFETY: the device is there.
            unsafe { result::device::get_attribute(device, which) }.map_err(failed("describe the device"))
        };
        use sys::CUdevice_attribute as Attribute;
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        // SAFETY: the device is there, and its first context is retained until the driver is dropped.
        unsafe {
            let context = result::primary_ctx::retain(device).map_err(failed("open the device"))?;
            result::ctx::set_current(context).map_err(failed("open the device"))?;
        }
        let open = || result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed("open a stream"));
        let (stream, copies) = (open()?, open()?);
        Ok(Driver { device, stream, copies, name, arch: format!("sm_{major}{minor}"), version, tf32: false })
    }

    /// Whether products of f32 may round their operands.
    #[must_use]
    pub fn with_tf32(mut self, tf32: bool) -> Driver {
        self.tf32 = tf32;
        self
    }

    /// The stream, for libraries.
    pub(super) fn stream(&self) -> *mut c_void {
        self.stream.cast()
    }

    /// Bytes of the device's memory that are free.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn free(&self) -> Result<u128, GpuError> {
        Ok(result::mem_get_info().map_err(failed("say how much memory is free"))?.0 as u128)
    }

    /// Memory, all zero.
    ///
    /// # Errors
    /// If there is not enough.
    pub fn allocate(&self, bytes: usize) -> Result<Memory, GpuError> {
        let bytes = bytes.max(256);
        // SAFETY: the memory is as large as what is set to zero.
        unsafe {
            let at = result::malloc_sync(bytes).map_err(failed(format!("allocate {bytes} bytes")))?;
            let memory = Memory { at, bytes };
            result::memset_d8_async(at, 0, bytes, self.stream).map_err(failed("clear memory"))?;
            Ok(memory)
        }
    }

    /// Copies bytes to the device, behind all that was launched before.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn upload(&self, to: sys::CUdeviceptr, from: &[u8]) -> Result<(), GpuError> {
        // SAFETY: the caller's place has room; the source is free again when the copy is done.
        unsafe {
            result::memcpy_htod_async(to, from, self.stream).map_err(failed("copy to the device"))?;
        }
        self.wait()
    }

    /// Copies bytes from the device, behind all that was launched before.
    ///
    /// # Errors
    /// If the driver, or something launched before, fails.
    pub fn download(&self, to: &mut [u8], from: sys::CUdeviceptr) -> Result<(), GpuError> {
        // SAFETY: the caller's place has as much; it is waited for.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream) }.map_err(failed("copy from the device"))?;
        self.wait()
    }

    /// Memory of the host to copy from beside what is computed.
    ///
    /// # Errors
    /// If there is not enough.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned, GpuError> {
        let bytes = bytes.max(1);
        // SAFETY: it is set to zero before anybody reads it.
        unsafe {
            let at = result::malloc_host(bytes, 0).map_err(failed(format!("allocate {bytes} bytes of the host")))?.cast::<u8>();
            at.write_bytes(0, bytes);
            Ok(Pinned { at, bytes })
        }
    }

    /// Copies to the device beside what is computed; gives the point where that is done.
    ///
    /// # Safety
    /// The place must have room, nothing that is still to be computed may use it, and `from` must stay as it is until that point.
    ///
    /// # Errors
    /// If the driver fails.
    pub unsafe fn send(&self, to: sys::CUdeviceptr, from: &Pinned) -> Result<Event, GpuError> {
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_htod_async(to, from.bytes(), self.copies) }.map_err(failed("copy to the device"))?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map(Event).map_err(failed("make an event"))?;
        // SAFETY: both are there.
        unsafe { result::event::record(event.0, self.copies) }.map_err(failed("record an event"))?;
        Ok(event)
    }

    /// What is launched from here on waits for a point.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn after(&self, event: &Event) -> Result<(), GpuError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are there.
        unsafe { result::stream::wait_event(self.stream, event.0, flags) }.map_err(failed("wait for a copy"))
    }

    /// The host waits for a point.
    ///
    /// # Errors
    /// If something launched before it fails.
    pub fn reached(&self, event: &Event) -> Result<(), GpuError> {
        // SAFETY: it was recorded.
        unsafe { result::event::synchronize(event.0) }.map_err(failed("finish a copy"))
    }

    /// Sets memory to zero.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn zero(&self, at: sys::CUdeviceptr, bytes: usize) -> Result<(), GpuError> {
        // SAFETY: the caller's place has room.
        unsafe { result::memset_d8_async(at, 0, bytes, self.stream) }.map_err(failed("clear memory"))
    }

    /// Waits for all that was launched.
    ///
    /// # Errors
    /// If something launched before fails.
    pub fn wait(&self) -> Result<(), GpuError> {
        // SAFETY: the stream is open.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("finish what was launched"))
    }

    /// Loads compiled kernels.
    ///
    /// # Errors
    /// If the driver is older than their compiler, or fails.
    pub fn load(&self, cubin: &[u8]) -> Result<Module, GpuError> {
        // SAFETY: a cubin says itself how long it is; it came from NVRTC or, checked, from the cache.
        unsafe { result::module::load_data(cubin.as_ptr().cast()) }.map(Module).map_err(|e| match nvrtc::version() {
            Ok(nvrtc) if nvrtc.0 > self.version / 1000 => GpuError::Later { driver: self.version, nvrtc },
            _ => failed("load kernels")(e),
        })
    }

    /// Launches a kernel with these arguments; `what` is said if it fails.
    ///
    /// # Safety
    /// The arguments must be those of the kernel, and what they point to on the device must be there.
    ///
    /// # Errors
    /// If the driver fails.
    pub unsafe fn launch(
        &self,
        kernel: Kernel,
        blocks: usize,
        threads: usize,
        arguments: &mut [*mut c_void],
        what: &str,
    ) -> Result<(), GpuError> {
        // SAFETY: the caller's promise.
        unsafe { result::launch_kernel(kernel.0, (blocks as u32, 1, 1), (threads as u32, 1, 1), 0, self.stream, arguments) }
            .map_err(failed(format!("launch {what}")))
    }

    /// A point in the stream of launches, for times.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn event(&self) -> Result<Event, GpuError> {
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map(Event).map_err(failed("make an event"))?;
        // SAFETY: both are there.
        unsafe { result::event::record(event.0, self.stream) }.map_err(failed("record an event"))?;
        Ok(event)
    }

    /// Seconds between two points, once the second is reached.
    ///
    /// # Errors
    /// If the driver, or something launched before, fails.
    pub fn seconds(&self, from: &Event, to: &Event) -> Result<f64, GpuError> {
        self.wait()?;
        if self.version < TELLS_TIME {
            let why = format!(
                "the NVIDIA driver is for CUDA {}.{}, and 12.8 is the first that can",
                self.version / 1000,
                self.version % 1000 / 10
            );
            return Err(GpuError::Driver { what: "say how long something took".into(), why });
        }
        // SAFETY: both were recorded on the stream.
        unsafe { result::event::elapsed(from.0, to.0) }.map(|ms| f64::from(ms) / 1e3).map_err(failed("read an event"))
    }

    /// Copies from place to place on the device.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn copy(&self, to: sys::CUdeviceptr, from: sys::CUdeviceptr, bytes: usize) -> Result<(), GpuError> {
        // SAFETY: the caller's places have as many bytes.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }.map_err(failed("copy on the device"))
    }

    /// Records what `f` launches instead of running it.
    ///
    /// # Errors
    /// If `f` fails, or launches something that cannot be recorded.
    pub fn record(&self, f: impl FnOnce() -> Result<(), GpuError>) -> Result<Graph, GpuError> {
        let what = "record a step";
        // SAFETY: the stream is open; the recorded graph is not needed once it can be launched.
        unsafe {
            result::stream::begin_capture(self.stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).map_err(failed(what))?;
            let done = f();
            let graph = result::stream::end_capture(self.stream).map_err(failed(what));
            done?;
            let graph = graph?;
            let ready = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)).map_err(failed(what));
            result::graph::destroy(graph).map_err(failed(what))?;
            Ok(Graph(ready?))
        }
    }

    /// Launches what was recorded.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn replay(&self, graph: &Graph) -> Result<(), GpuError> {
        // SAFETY: the graph is there, and so is what it uses: both belong to one executable.
        unsafe { result::graph::launch(graph.0, self.stream) }.map_err(failed("launch a step"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // SAFETY: both were opened, and nothing uses them any more.
        let streams = unsafe { result::stream::destroy(self.copies).and(result::stream::destroy(self.stream)) };
        // SAFETY: as above.
        let _ = unsafe { streams.and(result::primary_ctx::release(self.device)) };
    }
}

impl Memory {
    /// Where it begins, on the device.
    pub fn at(&self) -> sys::CUdeviceptr {
        self.at
    }

    /// Its extent.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Pinned {
    fn bytes(&self) -> &[u8] {
        // SAFETY: it was allocated with as many bytes, and set.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }

    /// To be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: it was allocated, and nothing copies from it any more.
        let _ = unsafe { result::free_host(self.at.cast()) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated, and nothing uses it any more.
        let _ = unsafe { result::free_sync(self.at) };
    }
}

impl Module {
    /// A kernel.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn kernel(&self, name: &str) -> Result<Kernel, GpuError> {
        let written = CString::new(name).unwrap_or_default();
        // SAFETY: the module is loaded.
        unsafe { result::module::get_function(self.0, written) }.map(Kernel).map_err(failed(format!("find the kernel {name}")))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: it was loaded, and its kernels are not used any more.
        let _ = unsafe { result::module::unload(self.0) };
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it was made, and is not used any more.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: it was made, and is not launched any more.
        let _ = unsafe { result::graph::exec_destroy(self.0) };
    }
}
