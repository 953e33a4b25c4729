//! The CPU: machine code in memory, buffers, and the walk over a program's groups.
#![allow(unsafe_code, reason = "generated code is called through pointers, and gets addresses of buffers")]

use super::contract;
use super::team::Team;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Module, default_libcall_names};
use snnc_compiler::backend::clif::{self, CodeError};
use snnc_compiler::backend::context;
use snnc_compiler::plan::{self, plan};
use snnc_compiler::program::{Loop, Program, Purpose, View};
use std::ptr;

/// Elements of a cache line.
const LINE: usize = 16;

type Entry = unsafe extern "C" fn(*const u8, i64, i64, i64);

/// Memory and numbers of one call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Samples.
    pub batch: usize,
    /// Time steps.
    pub steps: usize,
    /// The caller's numbers.
    pub hyper: [f32; context::HYPERS],
}

/// A program in memory, ready to run.
pub struct Executable {
    program: Program,
    entries: Vec<Entry>,
    memory: Vec<f32>,
    /// First element and extent of every buffer in `memory`.
    places: Vec<(usize, usize)>,
    batch: usize,
    started: bool,
    /// Keeps the code mapped.
    module: Option<JITModule>,
}

impl std::fmt::Debug for Executable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Executable({} groups, {} samples)", self.program.groups.len(), self.batch)
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: the entries are private to this value and gone with it.
            unsafe { module.free_memory() }
        }
    }
}

impl Executable {
    /// Compiles a program and makes room for this many samples.
    ///
    /// # Errors
    /// If no machine code can be made.
    pub fn load(program: Program, batch: usize) -> Result<Executable, CodeError> {
        let isa = clif::host()?;
        let codes = clif::compile(&program.kernels, &isa)?;
        let error = |e: cranelift_module::ModuleError| CodeError(e.to_string());
        let signature = clif::signature(&isa);
        let mut module = JITModule::new(JITBuilder::with_isa(isa, default_libcall_names()));
        let mut ids = Vec::new();
        for code in &codes {
            let id = module.declare_anonymous_function(&signature).map_err(error)?;
            module.define_function_bytes(id, code.align, &code.bytes, &[]).map_err(error)?;
            ids.push(id);
        }
        module.finalize_definitions().map_err(error)?;
        let entries = ids
            .into_iter()
            .map(|id| {
                // SAFETY: the function was defined with exactly this signature.
                unsafe { std::mem::transmute::<*const u8, Entry>(module.get_finalized_function(id)) }
            })
            .collect();
        let plan = plan(&program, batch);
        // Zeroed memory is given page by page as it is written, so a plan for a larger batch costs nothing by itself.
        let memory = vec![0.0; plan.total as usize + LINE];
        let bytes = memory.as_ptr() as usize % (4 * LINE);
        let first = (4 * LINE - bytes) / 4 % LINE;
        let places = plan.offsets.iter().zip(&plan.sizes).map(|(o, s)| (first + *o as usize, *s as usize)).collect();
        let mut executable = Executable { program, entries, memory, places, batch, started: false, module: Some(module) };
        executable.reset();
        Ok(executable)
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Samples there is room for.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Forgets all time steps so far.
    pub fn reset(&mut self) {
        self.started = false;
        for (buffer, (first, size)) in self.program.buffers.iter().zip(&self.places) {
            if let Purpose::State(bits) = buffer.purpose {
                self.memory[*first..first + size].fill(f32::from_bits(bits));
            }
        }
    }

    /// The memory of a buffer.
    pub fn buffer(&self, id: snnc_compiler::program::BufferId) -> &[f32] {
        let (first, size) = self.places[id.index()];
        &self.memory[first..first + size]
    }

    /// The memory of a buffer, to be written.
    pub fn buffer_mut(&mut self, id: snnc_compiler::program::BufferId) -> &mut [f32] {
        let (first, size) = self.places[id.index()];
        &mut self.memory[first..first + size]
    }

    /// The elements of a view: samples, then time steps, then axes in physical order.
    pub fn read(&self, view: &View, call: &Call) -> Vec<f32> {
        let memory = self.buffer(view.buffer);
        let mut out = Vec::new();
        for b in 0..if view.batch > 0 { call.batch } else { 1 } {
            for t in 0..if view.time > 0 { call.steps } else { 1 } {
                gather(memory, view.offset + b * view.batch + t * view.time, &view.axes, &mut out);
            }
        }
        out
    }

    /// Runs all groups, on the threads of the pool.
    pub fn run(&mut self, call: &Call) {
        Team::run(|team| self.run_groups(call, team));
    }

    fn run_groups(&mut self, call: &Call, team: &Team) {
        debug_assert!(call.batch <= self.batch && call.steps <= self.program.time);
        if cfg!(debug_assertions) && !self.started {
            self.poison();
        }
        let memory = self.memory.as_mut_ptr();
        // SAFETY: the plan's places lie within the memory.
        let pointers: Vec<Pointer> = self.places.iter().map(|(first, _)| Pointer(unsafe { memory.add(*first) })).collect();
        for group in &self.program.groups {
            if group.once && self.started {
                continue;
            }
            for contract in &group.contracts {
                contract::run(contract, &pointers, call, team);
            }
            let ranges = group.loops.first().map_or(1, |l| plan::ranges(l, call.batch));
            for l in &group.loops {
                self.run_loop(l, &pointers, call, ranges, team);
            }
        }
        self.started = true;
    }

    /// Fills what should be written before it is read with what would be seen.
    fn poison(&mut self) {
        for (buffer, (first, size)) in self.program.buffers.iter().zip(&self.places) {
            if buffer.purpose == Purpose::Temporary {
                self.memory[*first..first + size].fill(f32::NAN);
            }
        }
    }

    fn run_loop(&self, l: &Loop, pointers: &[Pointer], call: &Call, ranges: usize, team: &Team) {
        let mut words = vec![0u64; (context::ARGS as usize) / 8 + l.args.len()];
        let bytes: *mut u8 = words.as_mut_ptr().cast();
        let set = |offset: i32, value: &[u8]| {
            // SAFETY: all offsets lie within the header that `words` has room for.
            unsafe { ptr::copy_nonoverlapping(value.as_ptr(), bytes.add(offset as usize), value.len()) }
        };
        set(context::STEPS, &(call.steps as i64).to_ne_bytes());
        set(context::BATCH, &(call.batch as f32).to_ne_bytes());
        set(context::STEPS_REAL, &(call.steps as f32).to_ne_bytes());
        set(context::RANGES, &(ranges as i64).to_ne_bytes());
        for (i, x) in call.hyper.iter().enumerate() {
            set(context::HYPER + 4 * i as i32, &x.to_ne_bytes());
        }
        for (i, arg) in l.args.iter().enumerate() {
            words[(context::ARGS as usize) / 8 + i] = pointers[arg.index()].0 as u64;
        }
        let entry = self.entries[l.kernel.index()];
        let extent = l.extent.unwrap_or(call.batch);
        let own = plan::ranges(l, call.batch);
        let context = Pointer(words.as_mut_ptr().cast());
        let range = |i: usize| {
            let (begin, end) = (i * l.grain, ((i + 1) * l.grain).min(extent));
            // SAFETY: the kernel touches only the buffers of its arguments, within their extents for this batch, and
            // ranges write disjoint parts (`fuse` gives sums a buffer for each range).
            unsafe { entry(context.get().cast(), begin as i64, end as i64, i as i64) }
        };
        team.each(own, range);
    }
}

/// An address that threads may share: they write disjoint parts.
#[derive(Clone, Copy)]
pub(super) struct Pointer(pub(super) *mut f32);

impl Pointer {
    /// The address; a closure that calls this takes the whole pointer with it, not its field.
    pub(super) fn get(self) -> *mut f32 {
        self.0
    }
}

// SAFETY: see the type.
unsafe impl Send for Pointer {}
// SAFETY: see the type.
unsafe impl Sync for Pointer {}

fn gather(memory: &[f32], at: usize, axes: &[(String, usize, usize)], out: &mut Vec<f32>) {
    match axes {
        [] => out.push(memory[at]),
        [(_, size, 1)] => out.extend_from_slice(&memory[at..at + size]),
        [(_, size, stride), rest @ ..] => (0..*size).for_each(|i| gather(memory, at + i * stride, rest, out)),
    }
}
