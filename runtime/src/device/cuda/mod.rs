//! CUDA: what compiles and runs the text of a program's kernels.

mod cache;
mod cublas;
mod cudnn;
pub mod driver;
pub mod gpu;
pub mod hosted;
mod libraries;
pub mod nvrtc;
mod standins;

use crate::device::cpu::Call;
use snnc_compiler::backend::cuda::calls::DIMS;
use snnc_compiler::backend::cuda::{Schedule, Unsupported, schedule};
use snnc_compiler::program::{Loop, Program};

/// How the kernel of a loop is laid onto threads.
fn scheduled<'p>(program: &'p Program, l: &Loop) -> Result<Schedule<'p>, Unsupported> {
    schedule(&program.kernels[l.kernel.index()])
}

/// As `Call` of the kernels' prelude.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Arguments {
    begin: i64,
    end: i64,
    ranges: i64,
    first: i64,
    steps: i32,
    batch: f32,
    hyper: *const f32,
}

impl Arguments {
    /// For a loop of this extent in so many ranges.
    fn of(extent: usize, ranges: usize, call: &Call, hyper: *const f32) -> Arguments {
        let (steps, batch) = (call.steps as i32, call.batch as f32);
        Arguments { begin: 0, end: extent as i64, ranges: ranges as i64, first: 0, steps, batch, hyper }
    }
}

/// As `Shape` of the calls' kernels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Shape {
    size: [i64; DIMS],
    from: [i64; DIMS],
    to: [i64; DIMS],
}

impl Shape {
    fn of(size: [usize; DIMS], [from, to]: [[usize; DIMS]; 2]) -> Shape {
        let [size, from, to] = [size, from, to].map(|numbers| numbers.map(|n| n as i64));
        Shape { size, from, to }
    }

    fn elements(&self) -> usize {
        self.size.iter().product::<i64>() as usize
    }
}
