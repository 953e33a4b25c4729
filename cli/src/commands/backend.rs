//! Which device trains.

use crate::Failure;
use crate::args::{Precision, TrainBackend};
use snnc_runtime::device::Backend;
use snnc_runtime::device::cuda::driver::GpuError;

/// The device that was asked for, and how people call it.
pub(super) fn chosen(asked: TrainBackend, precision: Precision) -> Result<(Backend, String), Failure> {
    let cpu = (Backend::Cpu, "the CPU".to_owned());
    match (asked, precision) {
        (TrainBackend::Cuda, _) => cuda(precision),
        (TrainBackend::Auto, Precision::F32) => {
            Ok(Backend::cuda(precision.format(), precision == Precision::Tf32).unwrap_or_else(|e| match e {
                GpuError::NoDriver(_) | GpuError::NoDevice => cpu,
                // There is one, and somebody may want to know.
                e => (cpu.0, format!("{}, not on the GPU: {e}", cpu.1)),
            }))
        }
        (TrainBackend::Auto, _) => Backend::cuda(precision.format(), precision == Precision::Tf32)
            .map_err(|e| Failure::Usage(format!("--precision {} needs a GPU: {e}; without it the CPU trains, in f32", precision.name()))),
        (TrainBackend::Cpu, Precision::F32) => Ok(cpu),
        (TrainBackend::Cpu, _) => Err(Failure::Usage("the CPU trains in f32; any other --precision needs --backend cuda".into())),
    }
}

/// The CUDA device.
pub(super) fn cuda(precision: Precision) -> Result<(Backend, String), Failure> {
    let instead = |e| {
        let without = if precision == Precision::F32 { "--backend cpu" } else { "--backend cpu, in f32," };
        Failure::Usage(format!("--backend cuda: {e}; {without} runs without a GPU"))
    };
    let (backend, name) = Backend::cuda(precision.format(), precision == Precision::Tf32).map_err(instead)?;
    Ok((backend, name))
}
