//! CUDA: what compiles and runs the text of a program's kernels.

pub mod bench;
mod cache;
mod cublas;
mod cudnn;
pub mod driver;
pub mod gpu;
pub mod hosted;
mod launch;
mod libraries;
pub mod nvrtc;
mod standins;

use crate::device::cpu::Call;
use driver::{Driver, GpuError};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use snnc_compiler::backend::cuda::schedule;
use snnc_compiler::kernel::Format;
use snnc_compiler::plan::{Plan, plan_with};
use snnc_compiler::program::Program;

/// The first architecture whose tensor cores take both kinds of 16 bits, and TF32.
const NARROW: &str = "sm_80";

/// Whether all that every network needs is here, besides the driver: before anything is made of one.
pub(super) fn usable(driver: &Driver, precision: Format, tf32: bool) -> Result<(), GpuError> {
    let number = |arch: &str| arch.trim_start_matches("sm_").parse::<u32>().unwrap_or(0);
    if (precision != Format::F32 || tf32) && number(&driver.arch) < number(NARROW) {
        return Err(GpuError::Missing(format!("16 bits and TF32 need a device of {NARROW} or later; {} is {}", driver.name, driver.arch)));
    }
    nvrtc::version()?;
    libraries::load("cublasLt").map_err(|e| GpuError::Missing(format!("matrix products need cuBLASLt: {e}")))
}

/// Where every buffer lies for so many samples.
pub fn planned(program: &Program, batch: usize) -> Plan {
    let ranges = |grid: snnc_compiler::backend::cuda::Grid, extent| grid.ranges(extent);
    plan_with(program, batch, |l| schedule(&program.kernels[l.kernel.index()]).map_or(1, |s| ranges(s.grid, l.extent.unwrap_or(batch))))
}

/// First byte of every buffer among all of them: weights come last.
fn offsets(plan: &Plan) -> Vec<u64> {
    let of = |(offset, weighs): (&u128, &bool)| (offset + if *weighs { plan.total } else { 0 }) as u64 * 4;
    plan.offsets.iter().zip(&plan.weighs).map(of).collect()
}

/// Numbers as memory keeps them.
fn narrowed(values: &[f32], format: Format) -> Vec<u8> {
    let bytes = |bits: &[u16]| bits.iter().flat_map(|b| b.to_ne_bytes()).collect::<Vec<u8>>();
    match format {
        Format::F32 => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        Format::F16 => {
            let mut narrow = vec![f16::ZERO; values.len()];
            narrow.convert_from_f32_slice(values);
            bytes(narrow.reinterpret_cast())
        }
        Format::Bf16 => {
            let mut narrow = vec![bf16::ZERO; values.len()];
            narrow.convert_from_f32_slice(values);
            bytes(narrow.reinterpret_cast())
        }
        Format::Bit => values.chunks(8).map(|some| some.iter().rev().fold(0, |byte, x| byte << 1 | u8::from(*x != 0.0))).collect(),
    }
}

/// The other way round.
fn widened(bytes: &[u8], format: Format) -> Vec<f32> {
    let pairs = || bytes.chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    match format {
        Format::F32 => bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Format::F16 => pairs().map(|bits| f16::from_bits(bits).to_f32()).collect(),
        Format::Bf16 => pairs().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        Format::Bit => bytes.iter().flat_map(|byte| (0..8).map(move |i| f32::from(byte >> i & 1))).collect(),
    }
}

/// As `Call` of the kernels' prelude.
#[derive(Clone, Copy, Debug)]
struct Arguments {
    end: i64,
    ranges: i64,
    steps: i32,
    batch: f32,
    hyper: u64,
}

impl Arguments {
    /// For a loop of this extent in so many ranges.
    fn of(extent: usize, ranges: usize, call: &Call, hyper: u64) -> Arguments {
        Arguments { end: extent as i64, ranges: ranges as i64, steps: call.steps as i32, batch: call.batch as f32, hyper }
    }

    /// The members in their order: begin, end, ranges, first, steps, batch, hyper.
    fn pack(&self, out: &mut Vec<u8>) {
        [0, self.end, self.ranges, 0].iter().for_each(|x| out.extend(x.to_ne_bytes()));
        out.extend(self.steps.to_ne_bytes());
        out.extend(self.batch.to_ne_bytes());
        out.extend(self.hyper.to_ne_bytes());
    }
}
