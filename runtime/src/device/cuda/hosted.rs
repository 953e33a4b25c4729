//! A program's CUDA text on the host: the system's C++ compiler behind a header that supplies the built-ins, and stand-ins for
//! what libraries are called for. What runs here is what would run on a device, slowly; it proves the text where there is no device.
#![allow(unsafe_code, reason = "compiled kernels are called through pointers, and get addresses of buffers")]

use super::standins::Memory;
use super::{Arguments, Shape, scheduled};
use crate::device::cpu::{Call, Pointer};
use crate::device::{Device, DeviceError, scatter};
use libloading::Library;
use snnc_compiler::backend::cuda::calls::{self, aside, calls};
use snnc_compiler::backend::cuda::{Grid, Unsupported, source};
use snnc_compiler::plan::plan_with;
use snnc_compiler::program::{BufferId, Program, View};
use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::{fs, io};
use thiserror::Error;

/// Why a program does not run on the host.
#[derive(Debug, Error)]
pub enum HostError {
    /// It has no CUDA text.
    #[error(transparent)]
    Text(#[from] Unsupported),
    /// The folder cannot be written.
    #[error("cannot write the kernels: {0}")]
    Write(#[from] io::Error),
    /// The compiler does not take the text.
    #[error("the C++ compiler refuses the kernels:\n{0}")]
    Compile(String),
    /// What was compiled cannot be loaded.
    #[error("the compiled kernels cannot be loaded: {0}")]
    Load(#[from] libloading::Error),
}

type Sum = unsafe extern "C" fn(*const f32, *mut f32, i64, i64, u32, i32);
type Copy = unsafe extern "C" fn(*const f32, *mut f32, *const Shape, u32, i32);
type Launch = unsafe extern "C" fn(*const *mut f32, *const Arguments, u32, i32);

/// A program whose kernels run on the host.
pub struct Hosted {
    program: Program,
    library: Library,
    /// First element and extent of every buffer.
    places: Vec<(usize, usize)>,
    memory: Vec<f32>,
    /// Copies and parts of sums.
    aside: Vec<f32>,
    /// How the kernel of every loop is cut, group by group.
    grids: Vec<Vec<Grid>>,
    batch: usize,
}

impl Hosted {
    /// Compiles the kernels of a program in a folder, and makes room for this many samples.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn load(program: Program, batch: usize, folder: &Path) -> Result<Hosted, HostError> {
        let mut text = format!("{}\n{}\n", include_str!("host.h"), source(&program)?);
        let grids = program.groups.iter().map(|g| g.loops.iter().map(|l| Ok(scheduled(&program, l)?.grid)).collect());
        let grids: Vec<Vec<Grid>> = grids.collect::<Result<_, Unsupported>>()?;
        let mut seen = std::collections::BTreeSet::new();
        for (_, l) in program.loops().filter(|(_, l)| seen.insert(l.kernel)) {
            let args: Vec<String> = (0..program.kernels[l.kernel.index()].args).map(|i| format!("a[{i}], ")).collect();
            let _ = writeln!(text, "extern \"C\" const int arguments_{} = {};", l.kernel, args.len());
            let barriers = !matches!(scheduled(&program, l)?.grid, Grid::Elements { .. });
            let _ = writeln!(
                text,
                "extern \"C\" void launch_{0}(float **a, const Call *c, unsigned blocks, int order) {{ host::grid(blocks, order, {barriers}, [&] {{ {0}({1}*c); }}); }}",
                l.kernel,
                args.concat()
            );
        }
        text += "extern \"C\" void launch_sum_parts(const float *from, float *to, long long n, long long size, unsigned blocks, int order) { host::grid(blocks, order, false, [&] { sum_parts(from, to, n, size); }); }\n";
        text += "extern \"C\" void launch_copy_tensor(const float *from, float *to, const Shape *s, unsigned blocks, int order) { host::grid(blocks, order, false, [&] { copy_tensor(from, to, *s); }); }\n";
        let (from, to) = (folder.join("kernels.cpp"), folder.join("kernels.so"));
        fs::write(&from, text)?;
        let mut compiler = Command::new("c++");
        compiler.args([
            "-std=c++20",
            "-O1",
            "-ffp-contract=off",
            "-fno-math-errno",
            "-U_FORTIFY_SOURCE",
            "-Wall",
            "-Wno-unused",
            "-fno-gnu-unique",
            "-shared",
            "-fPIC",
            "-o",
        ]);
        let out = compiler.arg(&to).arg(&from).output()?;
        if !out.status.success() || !out.stderr.is_empty() {
            return Err(HostError::Compile(String::from_utf8_lossy(&out.stderr).into_owned()));
        }
        // SAFETY: the library holds the kernels and nothing that runs when it is loaded.
        let library = unsafe { Library::new(&to)? };
        let plan = plan_with(&program, batch, |l| {
            let extent = l.extent.unwrap_or(batch);
            scheduled(&program, l).map_or(1, |s| s.grid.ranges(extent))
        });
        let places = (0..program.buffers.len())
            .map(|i| (plan.offsets[i] as usize + if plan.weighs[i] { plan.total as usize } else { 0 }, plan.sizes[i] as usize));
        let places = places.collect();
        let memory = vec![0.0; (plan.total + plan.weights) as usize];
        let aside = vec![0.0; aside(&program, batch, program.time)];
        Ok(Hosted { places, memory, aside, library, grids, batch, program })
    }

    /// The memory of a buffer.
    pub fn buffer(&self, id: BufferId) -> &[f32] {
        let (first, size) = self.places[id.index()];
        &self.memory[first..first + size]
    }

    /// The memory of a buffer, to be written.
    pub fn buffer_mut(&mut self, id: BufferId) -> &mut [f32] {
        let (first, size) = self.places[id.index()];
        &mut self.memory[first..first + size]
    }

    /// A call: a library's by its stand-in, our own kernels as all others.
    fn contract(&self, call: &calls::Call, memory: &Memory<'_>, order: i32) -> Result<(), HostError> {
        let blocks = |elements: usize| Grid::Elements { each: 1 }.blocks(elements) as u32;
        match call {
            calls::Call::Matmul(call) => memory.matmul(call),
            calls::Call::Convolution(call) => memory.convolution(call),
            calls::Call::Zero { at, size } => {
                // SAFETY: the place has as many elements.
                unsafe { memory.at(*at).get().write_bytes(0, *size) };
            }
            calls::Call::Sum { from, parts, size, to } => {
                let (from, to) = (memory.at(*from).get(), memory.at(*to).get());
                // SAFETY: the launcher has this signature, and the places hold what the call says.
                unsafe { self.library.get::<Sum>(b"launch_sum_parts\0")?(from, to, *parts as i64, *size as i64, blocks(*size), order) };
            }
            calls::Call::Copy { from, to, size, strides } => {
                let (from, to) = (memory.at(*from).get(), memory.at(*to).get());
                let shape = Shape::of(*size, *strides);
                // SAFETY: as above.
                unsafe {
                    self.library.get::<Copy>(b"launch_copy_tensor\0")?(from, to, &raw const shape, blocks(shape.elements()), order);
                };
            }
        }
        Ok(())
    }

    /// Runs all groups; blocks and threads come in this order: 0 as they are, 1 the last first, more are stirred.
    ///
    /// # Errors
    /// If a kernel is missing in what was compiled.
    pub fn run_in(&mut self, call: &Call, order: i32) -> Result<(), HostError> {
        debug_assert!(call.batch <= self.batch);
        let memory = self.memory.as_mut_ptr();
        // SAFETY: the plan's places lie within the memory.
        let pointers: Vec<Pointer> = self.places.iter().map(|(first, _)| Pointer(unsafe { memory.add(*first) })).collect();
        for (group, grids) in self.program.groups.iter().zip(&self.grids) {
            for contract in group.contracts.iter().flat_map(|c| calls(c, call.batch, call.steps)) {
                self.contract(&contract, &Memory { buffers: &pointers, aside: Pointer(self.aside.as_ptr().cast_mut()) }, order)?;
            }
            let extent = |i: usize| group.loops[i].extent.unwrap_or(call.batch);
            let ranges = grids.first().map_or(1, |g| g.ranges(extent(0)));
            for (i, (l, grid)) in group.loops.iter().zip(grids).enumerate() {
                let args: Vec<*mut f32> = l.args.iter().map(|b| pointers[b.index()].get()).collect();
                let given = Arguments::of(extent(i), ranges, call, call.hyper.as_ptr());
                // SAFETY: the launcher was generated with this signature, and the kernel touches its arguments' buffers only.
                unsafe {
                    let launch = self.library.get::<Launch>(format!("launch_{}\0", l.kernel).as_bytes())?;
                    launch(args.as_ptr(), &raw const given, grid.blocks(extent(i)) as u32, order);
                }
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Hosted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hosted({} groups, {} samples)", self.program.groups.len(), self.batch)
    }
}

impl Device for Hosted {
    fn program(&self) -> &Program {
        &self.program
    }

    fn enter(&mut self, batch: &[f32], samples: usize, steps: usize) -> Result<(), DeviceError> {
        let Some(View { buffer, offset, batch: distance, time, axes }) = self.program.enter.as_ref().map(|door| door.view.clone()) else {
            return Ok(());
        };
        let memory = self.buffer_mut(buffer);
        let mut from = batch;
        for b in 0..samples {
            for t in 0..if time > 0 { steps } else { 1 } {
                scatter(memory, offset + b * distance + t * time, &axes, &mut from);
            }
        }
        Ok(())
    }

    fn run(&mut self, call: &Call) -> Result<(), DeviceError> {
        Ok(self.run_in(call, 0)?)
    }

    fn leave(&mut self, samples: usize, _: usize) -> Result<Vec<f32>, DeviceError> {
        let view = self.program.leave.as_ref().map(|door| door.view.clone());
        let call = Call { batch: samples, steps: 1, hyper: [0.0; 10] };
        view.map_or(Ok(Vec::new()), |view| self.read(&view, &call))
    }

    fn values(&self, id: BufferId) -> Result<Cow<'_, [f32]>, DeviceError> {
        Ok(self.buffer(id).into())
    }

    fn write(&mut self, id: BufferId, values: &[f32]) -> Result<(), DeviceError> {
        self.buffer_mut(id)[..values.len()].copy_from_slice(values);
        Ok(())
    }
}
