//! Matrix products by cuBLASLt, of f32, f16 or bf16 with f32 sums: no TF32 unless it is asked for, and no split of sums that does not always add in one order.
#![allow(unsafe_code, reason = "cuBLASLt is a C library")]

use super::driver::{Driver, GpuError, Memory};
use super::libraries;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use snnc_compiler::backend::cuda::calls::{Matmul, Matrix};
use snnc_compiler::kernel::Format;
use std::ffi::c_void;

/// Memory that products may use besides their operands.
pub(super) const WORKSPACE: usize = 32 << 20;
/// Bytes that no algorithm wants matrices to begin at more than a multiple of.
const ALIGNED: u64 = 256;

fn failed(what: &str) -> impl FnOnce(CublasError) -> GpuError + '_ {
    move |e| GpuError::Library { library: "cuBLASLt", what: what.to_owned(), why: format!("{:?}", e.0) }
}

/// The library, ready for one device.
#[derive(Debug)]
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: Memory,
    tf32: bool,
}

// SAFETY: the handle is valid in every thread.
unsafe impl Send for Blas {}

/// A product with the algorithm that the library chose for it.
#[derive(Debug)]
pub(super) struct Planned {
    description: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
    add: bool,
}

// SAFETY: descriptions are plain data behind pointers that nobody else has.
unsafe impl Send for Planned {}

impl Blas {
    pub(super) fn open(driver: &Driver) -> Result<Blas, GpuError> {
        libraries::load("cublasLt").map_err(|e| GpuError::Missing(format!("matrix products need cuBLASLt: {e}")))?;
        let handle = result::create_handle().map_err(failed("start"))?;
        Ok(Blas { handle, workspace: driver.allocate(WORKSPACE)?, tf32: driver.tf32 })
    }

    /// Chooses how to compute a product of matrices that begin here.
    pub(super) fn plan(&self, call: &Matmul, [a_at, b_at, d_at]: [u64; 3], what: &str) -> Result<Planned, GpuError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let failed = || failed(what);
        let compute = match call.a.place.format {
            Format::F32 if self.tf32 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let description = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F).map_err(failed())?;
        let mut planned = Planned {
            description,
            layouts: [std::ptr::null_mut(); 3],
            // SAFETY: plain numbers, written below before they are used.
            algorithm: unsafe { std::mem::zeroed() },
            add: call.add,
        };
        // The library's matrices run along their columns; one that runs along its rows is given as its transpose.
        let transposed = [(&call.a, Attribute::CUBLASLT_MATMUL_DESC_TRANSA), (&call.b, Attribute::CUBLASLT_MATMUL_DESC_TRANSB)];
        for (matrix, attribute) in transposed {
            let operation: i32 = i32::from(matrix.rows != 1);
            // SAFETY: the description is there; the value has the attribute's size.
            unsafe { result::set_matmul_desc_attribute(description, attribute, (&raw const operation).cast(), 4) }.map_err(failed())?;
        }
        let matrices = [(&call.a, call.m, call.k), (&call.b, call.k, call.n), (&call.d, call.m, call.n)];
        for (layout, (matrix, rows, columns)) in planned.layouts.iter_mut().zip(matrices) {
            *layout = Self::layout(matrix, rows, columns, call.count).map_err(failed())?;
        }
        let preference = result::create_matmul_pref().map_err(failed())?;
        let (most, one_order) = (self.workspace.bytes(), 0u32);
        let [a, b, d] = planned.layouts;
        // Otherwise the library takes for granted that all begin at such multiples.
        let aligned = [
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a_at),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b_at),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, d_at),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, d_at),
        ];
        let set_alignment = |(attribute, at): (Preference, u64)| {
            let bytes = 1u32 << (at | ALIGNED).trailing_zeros();
            // SAFETY: the preference is there, and the value has the attribute's size.
            unsafe { result::set_matmul_pref_attribute(preference, attribute, (&raw const bytes).cast(), 4) }
        };
        // SAFETY: all descriptions are there, and values have their attributes' sizes.
        let chosen = unsafe {
            result::set_matmul_pref_attribute(preference, Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const most).cast(), 8)
                .and_then(|()| {
                    let attribute = Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
                    result::set_matmul_pref_attribute(preference, attribute, (&raw const one_order).cast(), 4)
                })
                .and_then(|()| aligned.into_iter().try_for_each(set_alignment))
                .and_then(|()| result::get_matmul_algo_heuristic(self.handle, description, a, b, d, d, preference))
        };
        // SAFETY: it was made above.
        let _ = unsafe { result::destroy_matmul_pref(preference) };
        planned.algorithm = chosen.map_err(failed())?.algo;
        Ok(planned)
    }

    fn layout(matrix: &Matrix, rows: usize, columns: usize, count: usize) -> Result<sys::cublasLtMatrixLayout_t, CublasError> {
        use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
        let (rows, columns, leading) = if matrix.rows == 1 { (rows, columns, matrix.columns) } else { (columns, rows, matrix.rows) };
        let format = match matrix.place.format {
            Format::F32 => sys::cudaDataType_t::CUDA_R_32F,
            Format::F16 => sys::cudaDataType_t::CUDA_R_16F,
            Format::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
            Format::Bit => unreachable!("libraries read no bits"),
        };
        let layout = result::create_matrix_layout(format, rows as u64, columns as u64, leading as i64)?;
        let (count, next) = (count as i32, matrix.next as i64);
        // SAFETY: the layout is there, and values have their attributes' sizes.
        unsafe {
            result::set_matrix_layout_attribute(layout, Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, (&raw const count).cast(), 4)?;
            let attribute = Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
            result::set_matrix_layout_attribute(layout, attribute, (&raw const next).cast(), 8)?;
        }
        Ok(layout)
    }

    /// Launches a product on matrices that begin here.
    ///
    /// # Safety
    /// The matrices must lie on the device with the extents and distances that were planned.
    pub(super) unsafe fn launch(&self, planned: &Planned, [a, b, d]: [u64; 3], driver: &Driver, what: &str) -> Result<(), GpuError> {
        let (one, kept) = (1.0f32, f32::from(u8::from(planned.add)));
        let [la, lb, ld] = planned.layouts;
        // SAFETY: the caller's promise.
        let done = unsafe {
            result::matmul(
                self.handle,
                planned.description,
                (&raw const one).cast(),
                (&raw const kept).cast(),
                a as *const c_void,
                la,
                b as *const c_void,
                lb,
                d as *const c_void,
                ld,
                d as *mut c_void,
                ld,
                &raw const planned.algorithm,
                self.workspace.at() as *mut c_void,
                self.workspace.bytes(),
                driver.stream().cast(),
            )
        };
        done.map_err(failed(what))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: it was opened, and is not used any more.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Drop for Planned {
    fn drop(&mut self) {
        // SAFETY: they were made, and are not used any more.
        unsafe {
            for layout in self.layouts.iter().filter(|l| !l.is_null()) {
                let _ = result::destroy_matrix_layout(*layout);
            }
            let _ = result::destroy_matmul_desc(self.description);
        }
    }
}
