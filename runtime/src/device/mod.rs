//! Where programs run.

mod contract;
pub mod cpu;
pub mod cuda;
pub(crate) mod memory;
mod team;

use crate::device::cpu::Call;
use crate::device::cuda::driver::{Driver, GpuError};
use snnc_compiler::kernel::Format;
use snnc_compiler::program::{BufferId, Program, View};
use std::borrow::Cow;
use std::fmt::Debug;
use std::path::PathBuf;
use thiserror::Error;

/// Why a device does not run a program.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The CPU has no machine code for it.
    #[error(transparent)]
    Cpu(#[from] snnc_compiler::backend::clif::CodeError),
    /// The host does not run its CUDA text.
    #[error(transparent)]
    Hosted(#[from] cuda::hosted::HostError),
    /// The CUDA device does not.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

/// Which device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The CPU's machine code, in f32.
    Cpu,
    /// The first CUDA device; what varies over samples is kept in this format, and products of f32 may be in TF32 (operands rounded to 10
    /// bits after the point).
    Cuda(Format, bool),
    /// The same CUDA C on the host, compiled in this folder: a proof of the text, slow.
    Hosted(PathBuf, Format),
}

impl Backend {
    /// The CUDA device, if there is one, and how it is called; else why there is none.
    ///
    /// # Errors
    /// If there is no device, or no driver for it.
    pub fn cuda(precision: Format, tf32: bool) -> Result<(Backend, String), GpuError> {
        let driver = Driver::open()?;
        cuda::usable(&driver, precision, tf32)?;
        Ok((Backend::Cuda(precision, tf32), driver.name.clone()))
    }

    /// How it keeps what varies over samples.
    pub fn precision(&self) -> Format {
        match self {
            Backend::Cpu => Format::F32,
            Backend::Cuda(precision, _) | Backend::Hosted(_, precision) => *precision,
        }
    }

    /// Loads a model's training program, with room for this many samples.
    ///
    /// # Errors
    /// If the device has no code for it.
    pub fn load(&self, program: Program, batch: usize, model: &str) -> Result<Box<dyn Device>, DeviceError> {
        Ok(match self {
            Backend::Cpu => Box::new(cpu::Executable::load(program, batch)?),
            Backend::Cuda(_, tf32) => Box::new(cuda::gpu::Gpu::load(Driver::open()?.with_tf32(*tf32), program, batch, model)?),
            Backend::Hosted(folder, _) => Box::new(cuda::hosted::Hosted::load(program, batch, folder)?),
        })
    }
}

/// A program with memory, ready to run.
pub trait Device: Debug + Send {
    /// The program.
    fn program(&self) -> &Program;
    /// Takes in a batch `[B, (T,) axes...]` in logical order.
    ///
    /// # Errors
    /// If the device fails.
    fn enter(&mut self, batch: &[f32], samples: usize, steps: usize) -> Result<(), DeviceError>;
    /// Runs all groups on what was taken in.
    ///
    /// # Errors
    /// If the device fails.
    fn run(&mut self, call: &Call) -> Result<(), DeviceError>;
    /// The logits `[B, K]` of the last call.
    ///
    /// # Errors
    /// If the device, or what it ran, fails.
    fn leave(&mut self, samples: usize, classes: usize) -> Result<Vec<f32>, DeviceError>;
    /// The values of a buffer.
    ///
    /// # Errors
    /// If the device, or what it ran, fails.
    fn values(&self, id: BufferId) -> Result<Cow<'_, [f32]>, DeviceError>;
    /// Writes the first values of a buffer.
    ///
    /// # Errors
    /// If the device fails.
    fn write(&mut self, id: BufferId, values: &[f32]) -> Result<(), DeviceError>;
    /// The elements of a view: samples, then time steps, then axes in physical order.
    ///
    /// # Errors
    /// If the device, or what it ran, fails.
    fn read(&self, view: &View, call: &Call) -> Result<Vec<f32>, DeviceError> {
        let (memory, mut out) = (self.values(view.buffer)?, Vec::new());
        for b in 0..if view.batch > 0 { call.batch } else { 1 } {
            for t in 0..if view.time > 0 { call.steps } else { 1 } {
                gather(&memory, view.offset + b * view.batch + t * view.time, &view.axes, &mut out);
            }
        }
        Ok(out)
    }
}

fn gather(memory: &[f32], at: usize, axes: &[(String, usize, usize)], out: &mut Vec<f32>) {
    match axes {
        [] => out.push(memory[at]),
        [(_, size, 1)] => out.extend_from_slice(&memory[at..at + size]),
        [(_, size, stride), rest @ ..] => (0..*size).for_each(|i| gather(memory, at + i * stride, rest, out)),
    }
}

/// The other way round: takes the elements of a view from the front of a list.
fn scatter(memory: &mut [f32], at: usize, axes: &[(String, usize, usize)], from: &mut &[f32]) {
    match axes {
        [] => {
            let (first, rest) = from.split_at(1);
            memory[at] = first[0];
            *from = rest;
        }
        [(_, size, stride), rest @ ..] => (0..*size).for_each(|i| scatter(memory, at + i * stride, rest, from)),
    }
}
