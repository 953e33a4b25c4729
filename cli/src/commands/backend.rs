//! Which device trains.

use crate::Failure;
use crate::args::{Precision, TrainBackend};
use snnc_runtime::device::Backend;

/// The device that was asked for, and how people call it.
pub(super) fn chosen(asked: TrainBackend, precision: Precision) -> Result<(Backend, String), Failure> {
    let cpu = (Backend::Cpu, "the CPU".to_owned());
    match (asked, precision) {
        (TrainBackend::Cuda, _) => cuda(precision),
        (TrainBackend::Auto, Precision::F32) => Ok(Backend::cuda(precision.format(), false).unwrap_or_else(|e| {
            // Somebody who has one may want to know.
            if !e.is_absent() {
                eprintln!("note: the GPU is not used: {e}");
            }
            cpu
        })),
        (TrainBackend::Auto, _) => Backend::cuda(precision.format(), precision == Precision::Tf32).map_err(|e| {
            Failure::Usage(format!("--precision {} is not to be had: {e}; without it the CPU trains, in f32", precision.name()))
        }),
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
