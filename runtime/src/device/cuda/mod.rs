//! CUDA: the kernels of a program as one text, and what runs it.

pub mod hosted;
mod libraries;
pub mod nvrtc;

use snnc_compiler::backend::cuda::{PRELUDE, Schedule, Unsupported, schedule, text};
use snnc_compiler::program::{Loop, Program};
use std::collections::BTreeSet;

/// The kernels that a program's groups run, as CUDA C.
///
/// # Errors
/// A program of folded inference.
pub fn source(program: &Program) -> Result<String, Unsupported> {
    let used: BTreeSet<usize> = program.loops().map(|(_, l)| l.kernel.index()).collect();
    let kernels = used.into_iter().map(|i| text(&program.kernels[i], &format!("k{i}")));
    Ok(std::iter::once(Ok(PRELUDE.to_owned())).chain(kernels).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// How the kernel of a loop is laid onto threads.
fn scheduled<'p>(program: &'p Program, l: &Loop) -> Result<Schedule<'p>, Unsupported> {
    schedule(&program.kernels[l.kernel.index()])
}
