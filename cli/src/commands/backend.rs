//! Which device trains.

use crate::Failure;
use crate::args::TrainBackend;
use snnc_runtime::device::Backend;

/// The device that was asked for, and how people call it.
pub(super) fn chosen(asked: TrainBackend) -> Result<(Backend, String), Failure> {
    match asked {
        TrainBackend::Cpu => Ok((Backend::Cpu, "the CPU".into())),
        TrainBackend::Cuda => cuda(),
        TrainBackend::Auto => Ok(Backend::cuda().unwrap_or_else(|_| (Backend::Cpu, "the CPU".into()))),
    }
}

/// The CUDA device.
pub(super) fn cuda() -> Result<(Backend, String), Failure> {
    let instead = |e| Failure::Usage(format!("--backend cuda: {e}; --backend cpu runs without a GPU"));
    Backend::cuda().map_err(instead)
}
