//! Which device trains.

use crate::Failure;
use crate::args::{Precision, TrainBackend};
use snnc_runtime::device::Backend;

/// The device that was asked for, and how people call it.
pub(super) fn chosen(asked: TrainBackend, precision: Precision) -> Result<(Backend, String), Failure> {
    let cpu = (Backend::Cpu, "the CPU".to_owned());
    match (asked, precision) {
        (TrainBackend::Cuda, _) => cuda(precision),
        (TrainBackend::Auto, Precision::F32) => Ok(cuda(precision).unwrap_or(cpu)),
        (TrainBackend::Auto, _) => cuda(precision),
        (TrainBackend::Cpu, Precision::F32) => Ok(cpu),
        (TrainBackend::Cpu, _) => Err(Failure::Usage("the CPU trains in f32; --precision f16 and bf16 need --backend cuda".into())),
    }
}

/// The CUDA device.
pub(super) fn cuda(precision: Precision) -> Result<(Backend, String), Failure> {
    let format = precision.format();
    let instead = |e| {
        let without = if precision == Precision::F32 { "--backend cpu" } else { "--backend cpu, in f32," };
        Failure::Usage(format!("--backend cuda: {e}; {without} runs without a GPU"))
    };
    let (backend, name) = Backend::cuda(format).map_err(instead)?;
    let shown = if precision == Precision::F32 { name } else { format!("{name} in {}", format.name()) };
    Ok((backend, shown))
}
