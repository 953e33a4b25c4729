//! A training program on a CUDA device: its kernels, contractions by libraries, and a whole step as one graph.
#![allow(unsafe_code, reason = "kernels are launched with addresses of buffers")]

use super::cache::compiled;
use super::cublas::{self, Blas};
use super::cudnn::{self, Dnn};
use super::driver::{Driver, GpuError, Graph, Kernel, Memory, Module};
use super::{Arguments, Shape, scheduled};
use crate::device::cpu::Call;
use crate::device::{Device, DeviceError, scatter};
use rayon::prelude::*;
use snnc_compiler::backend::context::HYPERS;
use snnc_compiler::backend::cuda::calls::{self, KERNELS, Place, aside, calls};
use snnc_compiler::backend::cuda::{Grid, PRELUDE, THREADS, Unsupported, text};
use snnc_compiler::plan::{Plan, plan_with};
use snnc_compiler::program::{BufferId, Group, Loop, Program, View};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;

/// Kernels of one module: few enough that modules compile side by side.
const KERNELS_OF_A_MODULE: usize = 16;

/// A program on a device.
#[derive(Debug)]
pub struct Gpu {
    program: Program,
    batch: usize,
    /// First byte and elements of every buffer.
    places: Vec<(u64, usize)>,
    aside: u64,
    hyper: u64,
    /// How the kernel of every loop is cut, group by group.
    grids: Vec<Vec<Grid>>,
    kernels: BTreeMap<usize, Kernel>,
    sum: Kernel,
    copy: Kernel,
    /// A recorded step for every number of samples and time steps that came.
    steps: BTreeMap<(usize, usize), Step>,
    blas: Option<Blas>,
    dnn: Option<Dnn>,
    // What all of this lies in goes last.
    _modules: Vec<Module>,
    memory: Memory,
    driver: Driver,
}

/// A step for one number of samples: how libraries compute it, and the graph of all launches.
#[derive(Debug)]
struct Step {
    graph: Graph,
    launches: usize,
    _products: Vec<cublas::Planned>,
    _convolutions: Vec<cudnn::Planned>,
    _workspace: Option<Memory>,
}

/// A planned launch.
enum Planned {
    Matmul(cublas::Planned, [u64; 3], String),
    Convolution(cudnn::Planned, [u64; 3], String),
    Zero(u64, usize),
    Sum { from: u64, parts: usize, size: usize, to: u64 },
    Copy { from: u64, to: u64, shape: Shape },
    Loop { kernel: Kernel, blocks: usize, args: Vec<u64>, given: Arguments, what: String },
}

/// Where every buffer lies for so many samples.
fn planned(program: &Program, batch: usize) -> Plan {
    plan_with(program, batch, |l| scheduled(program, l).map_or(1, |s| s.grid.ranges(l.extent.unwrap_or(batch))))
}

/// Bytes that a program takes on a device.
fn bytes(program: &Program, batch: usize) -> u128 {
    planned(program, batch).bytes() + aside(program, batch, program.time) as u128 * 4
}

impl Gpu {
    /// Compiles the kernels of a program, or takes them from the cache, and makes room for this many samples.
    ///
    /// # Errors
    /// See [`GpuError`].
    pub fn load(driver: Driver, program: Program, batch: usize, model: &str) -> Result<Gpu, GpuError> {
        let (needed, free) = (bytes(&program, batch), driver.free()?);
        if needed > free {
            // What a program takes grows with the batch.
            let (mut fits, mut fails) = (0, batch);
            while fits + 1 < fails {
                let half = usize::midpoint(fits, fails);
                if bytes(&program, half) <= free { fits = half } else { fails = half }
            }
            return Err(GpuError::Memory { model: model.to_owned(), batch, needed, free, largest: fits });
        }
        let grids = program.groups.iter().map(|g| g.loops.iter().map(|l| Ok(scheduled(&program, l)?.grid)).collect());
        let grids: Vec<Vec<Grid>> = grids.collect::<Result<_, Unsupported>>()?;
        let used: BTreeSet<usize> = program.loops().map(|(_, l)| l.kernel.index()).collect();
        let texts: Vec<(usize, String)> =
            used.into_iter().map(|i| Ok((i, text(&program.kernels[i], &format!("k{i}"))?))).collect::<Result<_, Unsupported>>()?;
        let whole = |some: &[(usize, String)]| {
            let own: String = some.iter().map(|(_, text)| text.as_str()).collect();
            compiled(&format!("{PRELUDE}\n{own}"), &driver.arch)
        };
        let shared = compiled(&format!("{PRELUDE}\n{KERNELS}"), &driver.arch)?;
        let cubins: Vec<Vec<u8>> = texts.par_chunks(KERNELS_OF_A_MODULE).map(whole).collect::<Result<_, _>>()?;
        let mut kernels = BTreeMap::new();
        let mut modules = vec![driver.load(&shared)?];
        let (sum, copy) = (modules[0].kernel("sum_parts")?, modules[0].kernel("copy_tensor")?);
        for (cubin, some) in cubins.iter().zip(texts.chunks(KERNELS_OF_A_MODULE)) {
            let module = driver.load(cubin)?;
            for (i, _) in some {
                kernels.insert(*i, module.kernel(&format!("k{i}"))?);
            }
            modules.push(module);
        }
        let plan = planned(&program, batch);
        let (elements, others) = (plan.bytes() / 4, aside(&program, batch, program.time));
        let memory = driver.allocate((elements as usize + others + HYPERS) * 4)?;
        let element = |i: u128| memory.at() + i as u64 * 4;
        let place = |i: usize| (element(plan.offsets[i] + if plan.weighs[i] { plan.total } else { 0 }), plan.sizes[i] as usize);
        let places = (0..program.buffers.len()).map(place).collect();
        let (aside, hyper) = (element(elements), element(elements + others as u128));
        let contracts = || program.groups.iter().flat_map(|g| &g.contracts).flat_map(|c| calls(c, batch, program.time));
        let blas = contracts().any(|c| matches!(c, calls::Call::Matmul(_))).then(|| Blas::open(&driver)).transpose()?;
        let dnn = contracts().any(|c| matches!(c, calls::Call::Convolution(_))).then(|| Dnn::open(&driver)).transpose()?;
        Ok(Gpu {
            places,
            aside,
            hyper,
            grids,
            kernels,
            sum,
            copy,
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
        self.memory.bytes()
    }

    /// Launches of one step, once it has run.
    pub fn launches(&self) -> usize {
        self.steps.values().map(|s| s.launches).max().unwrap_or(0)
    }

    fn at(&self, place: Place) -> u64 {
        match place {
            Place::Buffer(id, offset) => self.places[id.index()].0 + offset as u64 * 4,
            Place::Aside(offset) => self.aside + offset as u64 * 4,
        }
    }

    /// The launches of a group.
    fn group(&self, group: &Group, grids: &[Grid], call: &Call, out: &mut Vec<Planned>) -> Result<(), GpuError> {
        let what = group.loops.first().map_or("the network", |l| l.label.as_str());
        for contracted in group.contracts.iter().flat_map(|c| calls(c, call.batch, call.steps)) {
            out.push(match contracted {
                calls::Call::Matmul(m) => {
                    let what = format!("compute the product {} x {} x {} for `{what}`", m.m, m.n, m.k);
                    let Some(blas) = &self.blas else { continue };
                    Planned::Matmul(blas.plan(&m, &what)?, [m.a.place, m.b.place, m.d.place].map(|p| self.at(p)), what)
                }
                calls::Call::Convolution(c) => {
                    let what = format!("compute the convolution {:?} of {:?} for `{what}`", c.part, c.x.size);
                    let Some(dnn) = &self.dnn else { continue };
                    Planned::Convolution(dnn.plan(&c, &what)?, [c.x.place, c.w, c.y.place].map(|p| self.at(p)), what)
                }
                calls::Call::Zero { at, size } => Planned::Zero(self.at(at), size),
                calls::Call::Sum { from, parts, size, to } => Planned::Sum { from: self.at(from), parts, size, to: self.at(to) },
                calls::Call::Copy { from, to, size, strides } => {
                    Planned::Copy { from: self.at(from), to: self.at(to), shape: Shape::of(size, strides) }
                }
            });
        }
        let extent = |l: &Loop| l.extent.unwrap_or(call.batch);
        let ranges = group.loops.first().map_or(1, |l| grids[0].ranges(extent(l)));
        for (l, grid) in group.loops.iter().zip(grids) {
            let given = Arguments::of(extent(l), ranges, call, self.hyper as *const f32);
            let args = l.args.iter().map(|b| self.places[b.index()].0).collect();
            let kernel = self.kernels[&l.kernel.index()];
            let what = format!("kernel {} for `{}`", l.kernel, l.label);
            out.push(Planned::Loop { kernel, blocks: grid.blocks(extent(l)), args, given, what });
        }
        Ok(())
    }

    fn launch(&self, planned: &Planned, workspace: u64) -> Result<(), GpuError> {
        let blocks = |elements: usize| Grid::Elements { each: 1 }.blocks(elements);
        let pointer = |x: &u64| std::ptr::from_ref(x).cast_mut().cast::<c_void>();
        // SAFETY: arguments are those of the kernels' texts; buffers lie where the plan says.
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
                Planned::Zero(at, size) => self.driver.zero(*at, size * 4),
                Planned::Sum { from, parts, size, to } => {
                    let (parts, elements) = (*parts as u64, *size as u64);
                    let mut args = [from, to, &parts, &elements].map(pointer);
                    self.driver.launch(self.sum, blocks(*size), THREADS, &mut args, "the sum of a product's parts")
                }
                Planned::Copy { from, to, shape } => {
                    let mut args = [pointer(from), pointer(to), std::ptr::from_ref(shape).cast_mut().cast()];
                    self.driver.launch(self.copy, blocks(shape.elements()), THREADS, &mut args, "the copy of an operand")
                }
                Planned::Loop { kernel, blocks, args, given, what } => {
                    let mut all: Vec<*mut c_void> = args.iter().map(pointer).collect();
                    all.push(std::ptr::from_ref(given).cast_mut().cast());
                    self.driver.launch(*kernel, *blocks, THREADS, &mut all, what)
                }
            }
        }
    }

    /// Plans a step for so many samples, and records it.
    fn recorded(&self, call: &Call) -> Result<Step, GpuError> {
        let mut launches = Vec::new();
        for (group, grids) in self.program.groups.iter().zip(&self.grids) {
            self.group(group, grids, call, &mut launches)?;
        }
        let needed = launches.iter().map(|l| if let Planned::Convolution(p, ..) = l { p.workspace } else { 0 }).max().unwrap_or(0);
        let workspace = (needed > 0).then(|| self.driver.allocate(needed)).transpose()?;
        let at = workspace.as_ref().map_or(0, Memory::at);
        self.driver.wait()?;
        let graph = self.driver.record(|| launches.iter().try_for_each(|l| self.launch(l, at)))?;
        let count = launches.len();
        let (mut products, mut convolutions) = (Vec::new(), Vec::new());
        for launch in launches {
            match launch {
                Planned::Matmul(plan, ..) => products.push(plan),
                Planned::Convolution(plan, ..) => convolutions.push(plan),
                _ => {}
            }
        }
        Ok(Step { graph, launches: count, _products: products, _convolutions: convolutions, _workspace: workspace })
    }

    fn step(&mut self, call: &Call) -> Result<(), GpuError> {
        debug_assert!(call.batch <= self.batch);
        let key = (call.batch, call.steps);
        if !self.steps.contains_key(&key) {
            let step = self.recorded(call)?;
            self.steps.insert(key, step);
        }
        self.driver.upload(self.hyper, &call.hyper)?;
        self.driver.replay(&self.steps[&key].graph)
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
        let (at, size) = self.places[buffer.index()];
        let mut memory = vec![0.0; size];
        let mut from = batch;
        for b in 0..samples {
            for t in 0..if time > 0 { steps } else { 1 } {
                scatter(&mut memory, offset + b * distance + t * time, &axes, &mut from);
            }
        }
        Ok(self.driver.upload(at, &memory)?)
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
        let mut values = vec![0.0; size];
        self.driver.download(&mut values, at)?;
        Ok(values.into())
    }

    fn write(&mut self, id: BufferId, values: &[f32]) -> Result<(), DeviceError> {
        Ok(self.driver.upload(self.places[id.index()].0, values)?)
    }
}
