//! A training program on a CUDA device: its kernels, contractions by libraries, and a whole step as one graph.
#![allow(unsafe_code, reason = "kernels are launched with addresses of buffers")]

use super::cache::compiled;
use super::cublas::{self, Blas};
use super::cudnn::{self, Dnn};
use super::driver::{Driver, Event, GpuError, Graph, Kernel, Memory, Module, Pinned};
use super::launch::{Addresses, Launch, Told, told};
use super::{narrowed, offsets, planned, widened};
use crate::device::cpu::Call;
use crate::device::{Device, DeviceError, scatter};
use rayon::prelude::*;
use snnc_compiler::backend::context::HYPERS;
use snnc_compiler::backend::cuda::calls::{self, Base, KERNELS, Matmul, Matrix, Place};
use snnc_compiler::backend::cuda::work::{Entry, Step as Steps, Work, entries, step, text};
use snnc_compiler::backend::cuda::{PRELUDE, THREADS, Unsupported};
use snnc_compiler::kernel::Format;
use snnc_compiler::program::{BufferId, Program, View};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;

/// Functions of one module: few enough that modules compile side by side.
const FUNCTIONS_OF_A_MODULE: usize = 12;

/// A program on a device.
#[derive(Debug)]
pub struct Gpu {
    program: Program,
    batch: usize,
    /// Address and bytes of every buffer.
    places: Vec<(u64, usize)>,
    /// Memory for copies and for the parts of sums: address and bytes.
    aside: (u64, usize),
    parts: (u64, usize),
    hyper: u64,
    done: u64,
    kernels: HashMap<String, Kernel>,
    /// A recorded step for every number of samples and time steps that came.
    steps: BTreeMap<(usize, usize), Step>,
    blas: Option<Blas>,
    dnn: Option<Dnn>,
    /// The next batch on its way in, if there is an input.
    slot: Option<Slot>,
    // What all of this lies in goes last.
    _modules: Vec<Module>,
    memory: Memory,
    driver: Driver,
}

/// A batch on its way in: written here, copied to the device beside the step before, and from there to its place when that is done.
#[derive(Debug)]
struct Slot {
    host: Pinned,
    device: Memory,
    /// It is on the device.
    sent: Option<Event>,
    /// It is in its place.
    taken: Option<Event>,
    /// The next step takes it.
    fresh: bool,
}

/// A step for one number of samples: how libraries compute it, and the graph of all launches.
#[derive(Debug)]
struct Step {
    graph: Graph,
    /// Every launch, with the number of the step's work that it is for.
    launches: Vec<(usize, Planned)>,
    workspace: u64,
    _memory: Vec<Memory>,
}

/// A planned launch.
#[derive(Debug)]
enum Planned {
    Matmul(cublas::Planned, [u64; 3], String),
    Convolution(cudnn::Planned, [u64; 3], String),
    Zero(u64, usize),
    /// A function of ours; where its structures lie, if it takes that.
    Launch(Launch, Kernel, u64),
}

/// What a device reaches.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Bytes a second, read and written.
    pub bytes: f64,
    /// Operations a second; a multiplication and its addition are two.
    pub operations: f64,
}

/// The one in the middle.
fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(0.0)
}

/// Bytes that a program takes on a device: its buffers, and what its steps need besides.
///
/// # Errors
/// A program of folded inference.
pub fn bytes(program: &Program, batch: usize) -> Result<u128, Unsupported> {
    let Steps { aside, parts, .. } = step(program, batch, program.time)?;
    let plan = planned(program, batch);
    // A batch on its way in lies beside the one that is computed on.
    let input = program.enter.as_ref().map_or(0, |door| plan.sizes[door.view.buffer.index()] * 4);
    Ok(plan.bytes() + (aside + parts + cublas::WORKSPACE) as u128 + input)
}

impl Gpu {
    /// Compiles the kernels of a program, or takes them from the cache, and makes room for this many samples.
    ///
    /// # Errors
    /// See [`GpuError`].
    pub fn load(driver: Driver, program: Program, batch: usize, model: &str) -> Result<Gpu, GpuError> {
        let (needed, free) = (bytes(&program, batch)?, driver.free()?);
        if needed > free {
            // What a program takes grows with the batch.
            let (mut fits, mut fails) = (0, batch);
            while fits + 1 < fails {
                let half = usize::midpoint(fits, fails);
                if bytes(&program, half)? <= free { fits = half } else { fails = half }
            }
            return Err(GpuError::Memory { model: model.to_owned(), batch, needed, free, largest: fits });
        }
        let functions = entries(&program)?;
        let some: Vec<&[Entry]> = functions.chunks(FUNCTIONS_OF_A_MODULE).collect();
        let texts: Vec<String> =
            some.iter().map(|f| Ok(format!("{PRELUDE}\n{}", text(&program, f)?))).collect::<Result<_, Unsupported>>()?;
        let shared = compiled(&format!("{PRELUDE}\n{KERNELS}"), &driver.arch)?;
        let cubins: Vec<Vec<u8>> = texts.par_iter().map(|text| compiled(text, &driver.arch)).collect::<Result<_, _>>()?;
        let mut kernels = HashMap::new();
        let mut modules = vec![driver.load(&shared)?];
        for name in calls::FUNCTIONS {
            kernels.insert(name.to_owned(), modules[0].kernel(name)?);
        }
        for (cubin, some) in cubins.iter().zip(some) {
            let module = driver.load(cubin)?;
            for entry in some {
                kernels.insert(entry.name(), module.kernel(&entry.name())?);
            }
            modules.push(module);
        }
        let plan = planned(&program, batch);
        let Steps { work, aside, parts } = step(&program, batch, program.time)?;
        let matmul = work.iter().any(|w| matches!(w, Work::Call(calls::Call::Matmul(_), _)));
        let convolution = work.iter().any(|w| matches!(w, Work::Call(calls::Call::Convolution(_), _)));
        let buffers = plan.bytes() as usize;
        let whole = |bytes: usize| bytes.next_multiple_of(256);
        let memory = driver.allocate(whole(buffers) + whole(aside) + whole(parts) + HYPERS * 4 + 256)?;
        let places = offsets(&plan).into_iter().zip(&plan.sizes).map(|(at, words)| (memory.at() + at, *words as usize * 4)).collect();
        let after = memory.at() + whole(buffers) as u64;
        let aside = (after, whole(aside));
        let parts = (aside.0 + aside.1 as u64, whole(parts));
        let hyper = parts.0 + parts.1 as u64;
        let blas = matmul.then(|| Blas::open(&driver)).transpose()?;
        let dnn = convolution.then(|| Dnn::open(&driver)).transpose()?;
        let input = program.enter.as_ref().map(|door| plan.sizes[door.view.buffer.index()] as usize * 4);
        let slot = |bytes| {
            let (host, device) = (driver.pinned(bytes)?, driver.allocate(bytes)?);
            Ok::<_, GpuError>(Slot { host, device, sent: None, taken: None, fresh: false })
        };
        let slot = input.map(slot).transpose()?;
        // Memory is cleared on one stream, and written on the other.
        driver.wait()?;
        Ok(Gpu {
            slot,
            places,
            aside,
            parts,
            hyper,
            done: hyper + (HYPERS * 4).next_multiple_of(64) as u64,
            kernels,
            steps: BTreeMap::new(),
            blas,
            dnn,
            _modules: modules,
            memory,
            driver,
            program,
            batch,
        })
    }

    /// The device.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.memory.bytes() + self.slot.as_ref().map_or(0, |s| s.device.bytes())
    }

    /// Launches of one step, once it has run.
    pub fn launches(&self) -> usize {
        self.steps.values().map(|s| s.launches.len()).max().unwrap_or(0)
    }

    /// How a library computes what it is told, and where its operands are.
    fn library(&self, call: &calls::Call, what: &str, at: &Addresses<'_>) -> Result<Option<Planned>, GpuError> {
        Ok(match (call, &self.blas, &self.dnn) {
            (calls::Call::Matmul(m), Some(blas), _) => {
                let what = format!("compute the product {} x {} x {} for `{what}`", m.m, m.n, m.k);
                let places = [m.a.place, m.b.place, m.d.place].map(|p| at.of(p));
                Some(Planned::Matmul(blas.plan(m, places, &what)?, places, what))
            }
            (calls::Call::Convolution(c), _, Some(dnn)) => {
                let what = format!("compute the convolution {:?} of {:?} for `{what}`", c.part, c.x.size);
                Some(Planned::Convolution(dnn.plan(c, &what)?, [c.x.place, c.w, c.y.place].map(|p| at.of(p)), what))
            }
            _ => None,
        })
    }

    fn launch(&self, planned: &Planned, workspace: u64) -> Result<(), GpuError> {
        // SAFETY: arguments are those of the functions' texts; buffers lie where the plan says.
        unsafe {
            match planned {
                Planned::Matmul(plan, at, what) => match &self.blas {
                    Some(blas) => blas.launch(plan, *at, &self.driver, what),
                    None => Ok(()),
                },
                Planned::Convolution(plan, at, what) => match &self.dnn {
                    Some(dnn) => dnn.launch(plan, *at, workspace, what),
                    None => Ok(()),
                },
                Planned::Zero(at, bytes) => self.driver.zero(*at, *bytes),
                Planned::Launch(launch, kernel, table) => {
                    let count = launch.count.unwrap_or(0) as i32;
                    let table: *mut c_void = std::ptr::from_ref(table).cast_mut().cast();
                    let count_at: *mut c_void = std::ptr::from_ref(&count).cast_mut().cast();
                    let own: *mut c_void = launch.arguments.as_ptr().cast_mut().cast();
                    let mut both = [table, count_at];
                    let mut one = [own];
                    let arguments: &mut [*mut c_void] = if launch.count.is_some() { &mut both } else { &mut one };
                    self.driver.launch(*kernel, launch.blocks, THREADS, arguments, &launch.what)
                }
            }
        }
    }

    /// Plans a step for so many samples, and records it.
    fn recorded(&self, call: &Call) -> Result<Step, GpuError> {
        let steps = step(&self.program, call.batch, call.steps)?;
        let mut memory = Vec::new();
        // Fewer samples may be cut into more parts.
        let mut room = |(at, there): (u64, usize), needed: usize| -> Result<u64, GpuError> {
            if needed <= there {
                return Ok(at);
            }
            memory.push(self.driver.allocate(needed)?);
            Ok(memory[memory.len() - 1].at())
        };
        let (aside, parts) = (room(self.aside, steps.aside)?, room(self.parts, steps.parts)?);
        let buffers: Vec<u64> = self.places.iter().map(|p| p.0).collect();
        let at = Addresses { buffers: &buffers, aside, parts, hyper: self.hyper, done: self.done };
        let told = told(&steps, &at, call);
        let tables: usize =
            told.iter().map(|(_, t)| if let Told::Launch(l) = t { l.arguments.len().next_multiple_of(256) } else { 0 }).sum();
        let table = self.driver.allocate(tables)?;
        let mut next = table.at();
        let mut launches = Vec::new();
        for (i, told) in told {
            match told {
                Told::Library(library, what) => launches.extend(self.library(&library, &what, &at)?.map(|planned| (i, planned))),
                Told::Zero(at, bytes) => launches.push((i, Planned::Zero(at, bytes))),
                Told::Launch(launch) => {
                    let missing = || GpuError::Text(Unsupported("a step launches what was not compiled"));
                    let kernel = *self.kernels.get(&launch.name).ok_or_else(missing)?;
                    let own = next;
                    if launch.count.is_some() {
                        self.driver.upload(own, &launch.arguments)?;
                        next += launch.arguments.len().next_multiple_of(256) as u64;
                    }
                    launches.push((i, Planned::Launch(launch, kernel, own)));
                }
            }
        }
        memory.push(table);
        let needed = launches.iter().map(|(_, l)| if let Planned::Convolution(p, ..) = l { p.workspace } else { 0 }).max().unwrap_or(0);
        let mut workspace = 0;
        if needed > 0 {
            memory.push(self.driver.allocate(needed)?);
            workspace = memory[memory.len() - 1].at();
        }
        self.driver.wait()?;
        let graph = self.driver.record(|| launches.iter().try_for_each(|(_, l)| self.launch(l, workspace)))?;
        Ok(Step { graph, launches, workspace, _memory: memory })
    }

    /// What is recorded for this call.
    fn prepared(&mut self, call: &Call) -> Result<(usize, usize), GpuError> {
        debug_assert!(call.batch <= self.batch);
        let key = (call.batch, call.steps);
        if !self.steps.contains_key(&key) {
            let step = self.recorded(call)?;
            self.steps.insert(key, step);
        }
        self.driver.upload(self.hyper, &narrowed(&call.hyper, Format::F32))?;
        Ok(key)
    }

    fn step(&mut self, call: &Call) -> Result<(), GpuError> {
        let key = self.prepared(call)?;
        if let (Some(slot), Some(door)) = (self.slot.as_mut().filter(|s| s.fresh), &self.program.enter) {
            let (at, bytes) = self.places[door.view.buffer.index()];
            slot.sent.as_ref().map_or(Ok(()), |sent| self.driver.after(sent))?;
            self.driver.copy(at, slot.device.at(), bytes)?;
            (slot.taken, slot.fresh) = (Some(self.driver.event()?), false);
        }
        self.driver.replay(&self.steps[&key].graph)
    }

    /// Begins to copy the numbers of the input to the device.
    fn send(&mut self, values: &[u8]) -> Result<(), GpuError> {
        let Some(slot) = &mut self.slot else { return Ok(()) };
        // What it held has gone on.
        for event in slot.sent.iter().chain(&slot.taken) {
            self.driver.reached(event)?;
        }
        slot.host.bytes_mut()[..values.len()].copy_from_slice(values);
        // SAFETY: as large as the host's; what was here was taken, and the host's stays until it is sent.
        slot.sent = Some(unsafe { self.driver.send(slot.device.at(), &slot.host)? });
        slot.fresh = true;
        Ok(())
    }

    /// Seconds that a step takes on the device, so many times, once it is warm.
    ///
    /// # Errors
    /// If the device fails.
    pub fn times(&mut self, call: &Call, repeats: usize) -> Result<Vec<f64>, GpuError> {
        let key = self.prepared(call)?;
        let graph = &self.steps[&key].graph;
        for _ in 0..2 {
            self.driver.replay(graph)?;
        }
        let once = |_| {
            let from = self.driver.event()?;
            self.driver.replay(graph)?;
            let to = self.driver.event()?;
            self.driver.seconds(&from, &to)
        };
        (0..repeats).map(once).collect()
    }

    /// Seconds that each of the step's launches takes by itself, the median of so many times, with the number of the work that it
    /// is for.
    ///
    /// # Errors
    /// If the device fails.
    pub fn times_by_launch(&mut self, call: &Call, repeats: usize) -> Result<Vec<(usize, f64)>, GpuError> {
        let key = self.prepared(call)?;
        let Step { launches, workspace, .. } = &self.steps[&key];
        let mut all: Vec<(usize, Vec<f64>)> = launches.iter().map(|(i, _)| (*i, vec![])).collect();
        for _ in 0..repeats {
            let mut events = vec![self.driver.event()?];
            for (_, launch) in launches {
                self.launch(launch, *workspace)?;
                events.push(self.driver.event()?);
            }
            for ((_, seconds), pair) in all.iter_mut().zip(events.windows(2)) {
                seconds.push(self.driver.seconds(&pair[0], &pair[1])?);
            }
        }
        Ok(all.into_iter().map(|(i, seconds)| (i, median(seconds))).collect())
    }

    /// What this device reaches: bytes a second that a copy reads and writes, and operations a second of a product of square
    /// matrices of this side, in this format.
    ///
    /// # Errors
    /// If the device fails.
    pub fn rates(&self, side: usize, format: Format) -> Result<Rates, GpuError> {
        const REPEATS: usize = 10;
        let place = Place { base: Base::Aside, at: 0, format };
        let bytes = format.bytes(side * side);
        let memory = [self.driver.allocate(bytes)?, self.driver.allocate(bytes)?, self.driver.allocate(bytes)?];
        let timed = |f: &dyn Fn() -> Result<(), GpuError>| {
            f()?;
            let once = |_| {
                let from = self.driver.event()?;
                f()?;
                self.driver.seconds(&from, &self.driver.event()?)
            };
            Ok::<_, GpuError>(median((0..REPEATS).map(once).collect::<Result<_, _>>()?))
        };
        // Zeros would be moved and multiplied with less power than numbers, and faster.
        let numbers: Vec<f32> = (0..side * side).map(|i| (i as f64 * 0.618_033_988_749_895).fract() as f32 - 0.5).collect();
        memory[..2].iter().try_for_each(|m| self.driver.upload(m.at(), &narrowed(&numbers, format)))?;
        let copy = timed(&|| self.driver.copy(memory[1].at(), memory[0].at(), bytes))?;
        let own = if self.blas.is_none() { Some(Blas::open(&self.driver)?) } else { None };
        let matrix = Matrix { place, rows: 1, columns: side, next: 0 };
        let call = Matmul { m: side, n: side, k: side, count: 1, a: matrix, b: matrix, d: matrix, add: false };
        let mut product = f64::INFINITY;
        if let Some(blas) = self.blas.as_ref().or(own.as_ref()) {
            let places = [0, 1, 2].map(|i| memory[i].at());
            let planned = blas.plan(&call, places, "measure the rate of products")?;
            // SAFETY: the three matrices were allocated with these extents.
            product = timed(&|| unsafe { blas.launch(&planned, places, &self.driver, "multiply") })?;
        }
        Ok(Rates { bytes: 2.0 * bytes as f64 / copy, operations: 2.0 * (side as f64).powi(3) / product })
    }
}

impl Device for Gpu {
    fn program(&self) -> &Program {
        &self.program
    }

    fn enter(&mut self, batch: &[f32], samples: usize, steps: usize) -> Result<(), DeviceError> {
        let Some(View { buffer, offset, batch: distance, time, axes }) = self.program.enter.as_ref().map(|door| door.view.clone()) else {
            return Ok(());
        };
        let size = self.places[buffer.index()].1;
        let format = self.program.buffer(buffer).format;
        let mut memory = vec![0.0; size / format.bytes(1)];
        let mut from = batch;
        for b in 0..samples {
            for t in 0..if time > 0 { steps } else { 1 } {
                scatter(&mut memory, offset + b * distance + t * time, &axes, &mut from);
            }
        }
        Ok(self.send(&narrowed(&memory, format))?)
    }

    fn run(&mut self, call: &Call) -> Result<(), DeviceError> {
        Ok(self.step(call)?)
    }

    fn leave(&mut self, samples: usize, _: usize) -> Result<Vec<f32>, DeviceError> {
        let view = self.program.leave.as_ref().map(|door| door.view.clone());
        let call = Call { batch: samples, steps: 1, hyper: [0.0; HYPERS] };
        view.map_or(Ok(Vec::new()), |view| self.read(&view, &call))
    }

    fn values(&self, id: BufferId) -> Result<Cow<'_, [f32]>, DeviceError> {
        let (at, size) = self.places[id.index()];
        let mut values = vec![0; size];
        self.driver.download(&mut values, at)?;
        Ok(widened(&values, self.program.buffer(id).format).into())
    }

    fn write(&mut self, id: BufferId, values: &[f32]) -> Result<(), DeviceError> {
        Ok(self.driver.upload(self.places[id.index()].0, &narrowed(values, self.program.buffer(id).format))?)
    }
}
