//! Convolutions by cuDNN, of f32 (without TF32, unless it is asked for), f16 or bf16 with f32 sums, by algorithms that always give the same bits.
#![allow(unsafe_code, reason = "cuDNN is a C library")]

use super::driver::{Driver, GpuError};
use super::libraries;
use cudarc::cudnn::result::{self, CudnnError};
use cudarc::cudnn::sys;
use snnc_compiler::backend::cuda::calls::{Convolution, Pictures};
use snnc_compiler::flow::ConvPart;
use snnc_compiler::kernel::Format;
use std::ffi::c_void;

/// The most memory that an algorithm may ask for.
const MOST_WORKSPACE: usize = 1 << 30;
/// Algorithms that are asked for at most.
const ASKED: usize = 8;

fn failed(what: &str) -> impl FnOnce(CudnnError) -> GpuError + '_ {
    move |e| GpuError::Library { library: "cuDNN", what: what.to_owned(), why: format!("{:?}", e.0) }
}

/// The library, ready for one device.
#[derive(Debug)]
pub(super) struct Dnn {
    handle: sys::cudnnHandle_t,
    tf32: bool,
}

// SAFETY: the handle is used by one thread at a time.
unsafe impl Send for Dnn {}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Result(sys::cudnnConvolutionFwdAlgo_t),
    Operand(sys::cudnnConvolutionBwdDataAlgo_t),
    Weight(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// A convolution with the algorithm that the library chose for it.
#[derive(Debug)]
pub(super) struct Planned {
    x: sys::cudnnTensorDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    window: sys::cudnnConvolutionDescriptor_t,
    algorithm: Algorithm,
    /// Bytes that it needs besides its operands.
    pub(super) workspace: usize,
}

// SAFETY: descriptions are plain data behind pointers that nobody else has.
unsafe impl Send for Planned {}

/// The first algorithm that may be used.
macro_rules! chosen {
    ($get:path, $perf:ty, $what:expr, $($argument:expr),*) => {{
        // SAFETY: plain numbers, written by the library as far as it counts.
        let mut found: [$perf; ASKED] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        // SAFETY: all descriptions are there, and as many results fit.
        unsafe { $get($($argument,)* ASKED as i32, &raw mut count, found.as_mut_ptr()) }.map_err(failed($what))?;
        let fits = |p: &&$perf| {
            p.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                && p.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
                && p.memory <= MOST_WORKSPACE
        };
        let why = "no algorithm gives the same bits twice with at most 1 GiB of memory";
        let none = || GpuError::Library { library: "cuDNN", what: $what.to_owned(), why: why.into() };
        let best = found.iter().take(count as usize).find(fits).ok_or_else(none)?;
        (best.algo, best.memory, best.mathType)
    }};
}

impl Dnn {
    pub(super) fn open(driver: &Driver) -> Result<Dnn, GpuError> {
        libraries::load("cudnn").map_err(|e| GpuError::Missing(format!("convolutions need cuDNN: {e}")))?;
        let handle = result::create_handle().map_err(failed("start"))?;
        let dnn = Dnn { handle, tf32: driver.tf32 };
        // SAFETY: both are there.
        unsafe { result::set_stream(handle, driver.stream().cast()) }.map_err(failed("take the stream"))?;
        Ok(dnn)
    }

    /// Chooses how to compute a convolution.
    pub(super) fn plan(&self, call: &Convolution, what: &str) -> Result<Planned, GpuError> {
        let mut planned = Planned {
            x: result::create_tensor_descriptor().map_err(failed(what))?,
            y: std::ptr::null_mut(),
            w: std::ptr::null_mut(),
            window: std::ptr::null_mut(),
            algorithm: Algorithm::Result(sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM),
            workspace: 0,
        };
        planned.y = result::create_tensor_descriptor().map_err(failed(what))?;
        planned.w = result::create_filter_descriptor().map_err(failed(what))?;
        planned.window = result::create_convolution_descriptor().map_err(failed(what))?;
        let int = |n: usize| n as i32;
        let (float, last) = (sys::cudnnDataType_t::CUDNN_DATA_FLOAT, sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC);
        let (numbers, math) = match call.x.place.format {
            // What is the default takes TF32 where there is some.
            Format::F32 if self.tf32 => (float, sys::cudnnMathType_t::CUDNN_DEFAULT_MATH),
            Format::F32 => (float, sys::cudnnMathType_t::CUDNN_FMA_MATH),
            Format::F16 => (sys::cudnnDataType_t::CUDNN_DATA_HALF, sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH),
            Format::Bf16 => (sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16, sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH),
            Format::Bit => unreachable!("libraries read no bits"),
        };
        let described = |to, p: &Pictures| {
            let [n, h, w, c] = p.size.map(int);
            // SAFETY: the description is there.
            unsafe { result::set_tensor4d_descriptor(to, last, numbers, [n, c, h, w]) }.map_err(failed(what))
        };
        described(planned.x, &call.x)?;
        described(planned.y, &call.y)?;
        let [kh, kw] = call.kernel.map(int);
        // SAFETY: the descriptions are there; a cross-correlation with f32 sums, of f32 without tensor cores.
        unsafe {
            result::set_filter4d_descriptor(planned.w, numbers, last, [int(call.y.size[3]), int(call.x.size[3]), kh, kw])
                .and_then(|()| {
                    let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
                    let (pad, [sh, sw]) = (int(call.pad), call.stride.map(int));
                    result::set_convolution2d_descriptor(planned.window, pad, pad, sh, sw, 1, 1, mode, float)
                })
                .and_then(|()| result::set_convolution_math_type(planned.window, math))
        }
        .map_err(failed(what))?;
        let (handle, Planned { x, y, w, window, .. }) = (self.handle, &planned);
        let (x, y, w, window) = (*x, *y, *w, *window);
        let (algorithm, memory, listed) = match call.part {
            ConvPart::Result => {
                let (algorithm, memory, listed) =
                    chosen!(result::get_convolution_forward_algorithm, sys::cudnnConvolutionFwdAlgoPerf_t, what, handle, x, w, window, y);
                (Algorithm::Result(algorithm), memory, listed)
            }
            ConvPart::Operand => {
                let (algorithm, memory, listed) = chosen!(
                    result::get_convolution_backward_data_algorithm,
                    sys::cudnnConvolutionBwdDataAlgoPerf_t,
                    what,
                    handle,
                    w,
                    y,
                    window,
                    x
                );
                (Algorithm::Operand(algorithm), memory, listed)
            }
            ConvPart::Weight => {
                let (algorithm, memory, listed) = chosen!(
                    result::get_convolution_backward_filter_algorithm,
                    sys::cudnnConvolutionBwdFilterAlgoPerf_t,
                    what,
                    handle,
                    x,
                    y,
                    window,
                    w
                );
                (Algorithm::Weight(algorithm), memory, listed)
            }
        };
        (planned.algorithm, planned.workspace) = (algorithm, memory);
        // An algorithm is listed for one kind of arithmetic, and what is said of it holds for that one; f32 without TF32 has no
        // choice.
        if call.x.place.format != Format::F32 || self.tf32 {
            // SAFETY: the description is there.
            unsafe { result::set_convolution_math_type(window, listed) }.map_err(failed(what))?;
        }
        Ok(planned)
    }

    /// Launches a convolution of tensors that begin here, with so much memory besides.
    ///
    /// # Safety
    /// The tensors must lie on the device with the extents that were planned, and `aside` must have the plan's workspace.
    pub(super) unsafe fn launch(&self, planned: &Planned, [x, w, y]: [u64; 3], aside: u64, what: &str) -> Result<(), GpuError> {
        let (one, nothing) = (1.0f32, 0.0f32);
        let (alpha, beta): (*const c_void, *const c_void) = ((&raw const one).cast(), (&raw const nothing).cast());
        let (x, w, y, aside) = (x as *mut c_void, w as *mut c_void, y as *mut c_void, aside as *mut c_void);
        let (h, p, bytes) = (self.handle, planned, planned.workspace);
        // SAFETY: the caller's promise.
        let done = unsafe {
            match planned.algorithm {
                Algorithm::Result(how) => result::convolution_forward(h, alpha, p.x, x, p.w, w, p.window, how, aside, bytes, beta, p.y, y),
                Algorithm::Operand(how) => {
                    result::convolution_backward_data(h, alpha, p.w, w, p.y, y, p.window, how, aside, bytes, beta, p.x, x)
                }
                Algorithm::Weight(how) => {
                    result::convolution_backward_filter(h, alpha, p.x, x, p.y, y, p.window, how, aside, bytes, beta, p.w, w)
                }
            }
        };
        done.map_err(failed(what))
    }
}

impl Drop for Dnn {
    fn drop(&mut self) {
        // SAFETY: it was opened, and is not used any more.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Drop for Planned {
    fn drop(&mut self) {
        // SAFETY: each was made unless it is null, and is not used any more.
        unsafe {
            for tensor in [self.x, self.y].iter().filter(|t| !t.is_null()) {
                let _ = result::destroy_tensor_descriptor(*tensor);
            }
            if !self.w.is_null() {
                let _ = result::destroy_filter_descriptor(self.w);
            }
            if !self.window.is_null() {
                let _ = result::destroy_convolution_descriptor(self.window);
            }
        }
    }
}
