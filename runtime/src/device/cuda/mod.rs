//! CUDA: what compiles and runs the text of a program's kernels.

pub mod hosted;
mod libraries;
pub mod nvrtc;
mod standins;

use snnc_compiler::backend::cuda::{Schedule, Unsupported, schedule};
use snnc_compiler::program::{Loop, Program};

/// How the kernel of a loop is laid onto threads.
fn scheduled<'p>(program: &'p Program, l: &Loop) -> Result<Schedule<'p>, Unsupported> {
    schedule(&program.kernels[l.kernel.index()])
}
