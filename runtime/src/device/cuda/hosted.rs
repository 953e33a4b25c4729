//! A program's CUDA text on the host: the system's C++ compiler behind a header that supplies the built-ins, and stand-ins for
//! what libraries are called for. What runs here is what would run on a device, slowly; it proves the text where there is no device.
#![allow(unsafe_code, reason = "compiled kernels are called through pointers, and get addresses of buffers")]

use super::launch::{Addresses, Launch, Told, told};
use super::standins::{convolution, matmul};
use super::{narrowed, offsets, planned, widened};
use crate::device::cpu::Call;
use crate::device::{Device, DeviceError, scatter};
use libloading::Library;
use snnc_compiler::backend::context::HYPERS;
use snnc_compiler::backend::cuda::calls::{self, FUNCTIONS, SIDE};
use snnc_compiler::backend::cuda::work::{entries, step};
use snnc_compiler::backend::cuda::{Unsupported, source};
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

type Function = unsafe extern "C" fn(*const u8, i32, u32, i32);

/// A program whose kernels run on the host.
pub struct Hosted {
    program: Program,
    library: Library,
    /// First byte and extent in bytes of every buffer.
    places: Vec<(usize, usize)>,
    /// Words, so that all begins at multiples of eight bytes.
    memory: Vec<u64>,
    batch: usize,
}

fn words(bytes: usize) -> Vec<u64> {
    vec![0; bytes.div_ceil(8)]
}

impl Hosted {
    /// Compiles the kernels of a program in a folder, and makes room for this many samples.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn load(program: Program, batch: usize, folder: &Path) -> Result<Hosted, HostError> {
        let mut text = format!("{}\n{}\n", include_str!("host.h"), source(&program)?);
        let own = entries(&program)?;
        let own = own.iter().map(|e| (e.name(), e.side(), e.waits(&program)));
        for (name, side, waits) in FUNCTIONS.iter().map(|f| ((*f).to_owned(), SIDE.contains(f), false)).chain(own) {
            let given = if side { format!("(const {name}_arguments *)a, count") } else { format!("*(const {name}_arguments *)a") };
            let size = if side { "0".to_owned() } else { format!("sizeof({name}_arguments)") };
            let _ = writeln!(text, "extern \"C\" const unsigned size_{name} = {size};");
            let _ = writeln!(
                text,
                "extern \"C\" void launch_{name}(const char *a, int count, unsigned blocks, int order) {{ host::grid(blocks, order, {waits}, [&] {{ {name}({given}); }}); }}",
            );
        }
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
            "-Wno-unknown-pragmas",
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
        let plan = planned(&program, batch);
        let places = offsets(&plan).into_iter().zip(&plan.sizes).map(|(at, words)| (at as usize, *words as usize * 4)).collect();
        Ok(Hosted { places, memory: words(plan.bytes() as usize), library, batch, program })
    }

    fn bytes(&self, id: BufferId) -> &[u8] {
        let (first, size) = self.places[id.index()];
        // SAFETY: the plan's places lie within the memory, and bytes have no alignment.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast::<u8>().add(first), size) }
    }

    /// The numbers of a buffer.
    pub fn buffer(&self, id: BufferId) -> Vec<f32> {
        widened(self.bytes(id), self.program.buffer(id).format)
    }

    /// Writes the first numbers of a buffer.
    pub fn fill(&mut self, id: BufferId, values: &[f32]) {
        let narrow = narrowed(values, self.program.buffer(id).format);
        let (first, size) = self.places[id.index()];
        assert!(narrow.len() <= size, "more than a buffer holds");
        // SAFETY: as above, and as many bytes were checked.
        unsafe { self.memory.as_mut_ptr().cast::<u8>().add(first).copy_from_nonoverlapping(narrow.as_ptr(), narrow.len()) };
    }

    fn launch(&self, launch: &Launch, order: i32) -> Result<(), HostError> {
        // SAFETY: the launcher was generated with this signature; the arguments are those of the function's structure, and it
        // touches the memory that they name only.
        unsafe {
            let function = self.library.get::<Function>(format!("launch_{}\0", launch.name).as_bytes())?;
            function(launch.arguments.as_ptr(), launch.count.unwrap_or(0) as i32, launch.blocks as u32, order);
        }
        Ok(())
    }

    /// Runs all groups; blocks and threads come in this order: 0 as they are, 1 the last first, more are stirred.
    ///
    /// # Errors
    /// If a kernel is missing in what was compiled.
    pub fn run_in(&mut self, call: &Call, order: i32) -> Result<(), HostError> {
        self.races(call, &[order]).map(|_| ())
    }

    /// Runs all groups, each launch in all of these orders from the same memory; what was launched where memory is not the same
    /// afterwards.
    ///
    /// # Errors
    /// If a kernel is missing in what was compiled.
    pub fn races(&mut self, call: &Call, orders: &[i32]) -> Result<Vec<String>, HostError> {
        debug_assert!(call.batch <= self.batch);
        let memory = self.memory.as_mut_ptr() as u64;
        let buffers: Vec<u64> = self.places.iter().map(|(first, _)| memory + *first as u64).collect();
        let steps = step(&self.program, call.batch, call.steps)?;
        let (mut aside, mut parts, mut done) = (words(steps.aside), words(steps.parts), words(8));
        let at = Addresses {
            buffers: &buffers,
            aside: aside.as_mut_ptr() as u64,
            parts: parts.as_mut_ptr() as u64,
            hyper: call.hyper.as_ptr() as u64,
            done: done.as_mut_ptr() as u64,
        };
        let mut found = Vec::new();
        for (_, told) in told(&steps, &at, call) {
            match told {
                // SAFETY: extents and distances are those of views, which lie in buffers.
                Told::Library(calls::Call::Matmul(call), _) => unsafe { matmul(&call, &at) },
                // SAFETY: as above.
                Told::Library(calls::Call::Convolution(call), _) => unsafe { convolution(&call, &at) },
                Told::Library(..) => {}
                // SAFETY: the place has as many bytes.
                Told::Zero(at, bytes) => unsafe { (at as *mut u8).write_bytes(0, bytes) },
                Told::Launch(launch) => {
                    if let [order] = orders {
                        self.launch(&launch, *order)?;
                        continue;
                    }
                    let before = [self.memory.clone(), aside.clone(), parts.clone()];
                    let mut first: Option<[Vec<u64>; 3]> = None;
                    for order in orders {
                        self.memory.copy_from_slice(&before[0]);
                        aside.copy_from_slice(&before[1]);
                        parts.copy_from_slice(&before[2]);
                        self.launch(&launch, *order)?;
                        let after = [&self.memory, &aside, &parts];
                        match &first {
                            None => first = Some(after.map(Clone::clone)),
                            Some(first) if first.iter().eq(after) => {}
                            Some(_) => found.push(format!("{} to {}", launch.name, launch.what)),
                        }
                    }
                }
            }
        }
        Ok(found)
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
        let mut memory = self.buffer(buffer);
        let mut from = batch;
        for b in 0..samples {
            for t in 0..if time > 0 { steps } else { 1 } {
                scatter(&mut memory, offset + b * distance + t * time, &axes, &mut from);
            }
        }
        self.fill(buffer, &memory);
        Ok(())
    }

    fn run(&mut self, call: &Call) -> Result<(), DeviceError> {
        Ok(self.run_in(call, 0)?)
    }

    fn leave(&mut self, samples: usize, _: usize) -> Result<Vec<f32>, DeviceError> {
        let view = self.program.leave.as_ref().map(|door| door.view.clone());
        let call = Call { batch: samples, steps: 1, hyper: [0.0; HYPERS] };
        view.map_or(Ok(Vec::new()), |view| self.read(&view, &call))
    }

    fn values(&self, id: BufferId) -> Result<Cow<'_, [f32]>, DeviceError> {
        Ok(self.buffer(id).into())
    }

    fn write(&mut self, id: BufferId, values: &[f32]) -> Result<(), DeviceError> {
        self.fill(id, values);
        Ok(())
    }
}
