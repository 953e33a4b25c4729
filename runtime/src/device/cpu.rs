//! The CPU: machine code in memory, buffers, and the walk over a program's groups.
#![allow(unsafe_code, reason = "generated code is called through pointers, and gets addresses of buffers")]

use super::memory::Memory;
use super::team::Team;
use super::{Device, DeviceError, contract};
use cranelift_codegen::ir::Signature;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Module, default_libcall_names};
use snnc_compiler::backend::clif::{CodeError, HEADER, Image, Target, image};
use snnc_compiler::backend::context;
use snnc_compiler::plan::{self, plan};
use snnc_compiler::program::{BufferId, Loop, Program, Purpose};
use std::borrow::Cow;
use std::time::Instant;

type Init = unsafe extern "C" fn(*mut u8, *mut f32, *const f32) -> i32;
type Act = unsafe extern "C" fn(*mut u8);
type Drive = unsafe extern "C" fn(*mut u8, i64, i64);
type Enter = unsafe extern "C" fn(*mut u8, *const f32, i64, i64);
type Leave = unsafe extern "C" fn(*mut u8, *mut f32);

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

/// Machine code in memory.
struct Code {
    image: Image,
    first: *const u8,
    /// Keeps the code mapped.
    module: Option<JITModule>,
}

// SAFETY: code is only read and run.
unsafe impl Send for Code {}
// SAFETY: as above.
unsafe impl Sync for Code {}

impl Code {
    fn map(image: Image, target: &Target) -> Result<Code, CodeError> {
        let isa = target.isa();
        let error = |e: cranelift_module::ModuleError| CodeError(e.to_string());
        let signature = Signature::new(isa.default_call_conv());
        let mut module = JITModule::new(JITBuilder::with_isa(isa, default_libcall_names()));
        // The bytes are complete: calls among them are relative, and there are no others.
        let id = module.declare_anonymous_function(&signature).map_err(error)?;
        module.define_function_bytes(id, image.align, &image.bytes, &[]).map_err(error)?;
        module.finalize_definitions().map_err(error)?;
        let first = module.get_finalized_function(id);
        Ok(Code { image, first, module: Some(module) })
    }

    fn address(&self, name: &str) -> Option<*const u8> {
        let symbol = self.image.function(name)?;
        // SAFETY: the image's functions lie within its bytes.
        Some(unsafe { self.first.add(symbol.start) })
    }

    fn act(&self, name: &str) -> Option<Act> {
        // SAFETY: functions of this kind take the context alone.
        self.address(name).map(|at| unsafe { std::mem::transmute::<*const u8, Act>(at) })
    }

    fn drive(&self, index: usize) -> Option<Drive> {
        // SAFETY: functions of this kind take the context and two numbers.
        self.address(&format!("drive_{index}")).map(|at| unsafe { std::mem::transmute::<*const u8, Drive>(at) })
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: addresses of functions are private to the executable and gone with it.
            unsafe { module.free_memory() }
        }
    }
}

/// A program in memory, ready to run.
pub struct Executable {
    program: Program,
    code: Code,
    /// What drives each loop.
    drives: Vec<Drive>,
    context: Memory,
    memory: Memory,
    weights: Memory,
    /// First element and extent of every buffer, and whether it is among the weights.
    places: Vec<(usize, usize, bool)>,
    batch: usize,
    started: bool,
    /// Seconds of every loop in the last run, if they are measured.
    seconds: Option<Vec<f64>>,
}

impl std::fmt::Debug for Executable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Executable({} groups, {} samples)", self.program.groups.len(), self.batch)
    }
}

impl Executable {
    /// Compiles a program and makes room for this many samples.
    ///
    /// # Errors
    /// If no machine code can be made.
    pub fn load(program: Program, batch: usize) -> Result<Executable, CodeError> {
        Executable::load_for(program, batch, &Target::host()?)
    }

    /// The same with these of the machine's instruction sets.
    ///
    /// # Errors
    /// As [`Executable::load`].
    pub fn load_for(program: Program, batch: usize, target: &Target) -> Result<Executable, CodeError> {
        let image = image(&program, batch, target)?;
        let mut weights = Memory::new(image.weights / 4)?;
        for (word, half) in weights.get_mut().iter_mut().zip([image.id as u32, (image.id >> 32) as u32]) {
            *word = f32::from_bits(half);
        }
        Executable::with(program, image, weights)
    }

    /// A program whose code and weights were made before, on this machine.
    ///
    /// # Errors
    /// If they do not fit each other.
    pub(crate) fn with(program: Program, image: Image, weights: Memory) -> Result<Executable, CodeError> {
        let target = &Target::host()?;
        let batch = image.batch;
        let plan = plan(&program, batch);
        let header = HEADER / 4;
        let place = |i: usize| {
            let weighs = plan.weighs[i];
            (plan.offsets[i] as usize + if weighs { header } else { 0 }, plan.sizes[i] as usize, weighs)
        };
        let places = (0..program.buffers.len()).map(place).collect();
        let (context, memory) = (Memory::new(image.context / 4)?, Memory::new(image.memory / 4)?);
        let code = Code::map(image, target)?;
        let missing = || CodeError("a function is missing".into());
        let drives = (0..program.loops().count()).map(|i| code.drive(i).ok_or_else(missing)).collect::<Result<Vec<_>, _>>()?;
        let mut executable = Executable { program, code, drives, context, memory, weights, places, batch, started: false, seconds: None };
        let init = executable.code.address("init").ok_or_else(missing)?;
        let (context, memory) = (executable.context().get(), executable.memory.get_mut().as_mut_ptr());
        let weights = executable.weights.get().as_ptr();
        // SAFETY: the function has this signature, and context, memory and weights the extents that the image asks for.
        let outcome = unsafe { std::mem::transmute::<*const u8, Init>(init)(context.cast(), memory, weights) };
        if outcome == 0 { Ok(executable) } else { Err(CodeError("the weights are those of another program".into())) }
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What the machine code consists of.
    pub fn image(&self) -> &Image {
        &self.code.image
    }

    /// The bytes that run, as they lie in executable memory.
    pub fn code(&self) -> &[u8] {
        // SAFETY: the module maps this many bytes, and they are not written again.
        unsafe { std::slice::from_raw_parts(self.code.first, self.code.image.bytes.len()) }
    }

    /// Samples there is room for.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Forgets all time steps so far.
    pub fn reset(&mut self) {
        self.started = false;
        if let Some(reset) = self.code.act("reset") {
            // SAFETY: the context is connected.
            unsafe { reset(self.context().get().cast()) }
        }
    }

    /// The memory of a buffer.
    pub fn buffer(&self, id: BufferId) -> &[f32] {
        let (first, size, weighs) = self.places[id.index()];
        let memory = if weighs { &self.weights } else { &self.memory };
        &memory.get()[first..first + size]
    }

    /// The memory of a buffer, to be written.
    pub fn buffer_mut(&mut self, id: BufferId) -> &mut [f32] {
        let (first, size, weighs) = self.places[id.index()];
        let memory = if weighs { &mut self.weights } else { &mut self.memory };
        &mut memory.get_mut()[first..first + size]
    }

    /// The weights as they lie in memory, behind the header that names their program.
    pub fn weights(&self) -> &[f32] {
        &self.weights.get()[..self.code.image.weights / 4]
    }

    /// The same as bytes.
    pub(crate) fn weights_as_bytes(&self) -> &[u8] {
        &self.weights.bytes()[..self.code.image.weights]
    }

    /// Takes in a batch `[B, (T,) axes...]` in logical order.
    pub fn enter(&mut self, batch: &[f32], samples: usize, steps: usize) {
        debug_assert!(samples <= self.batch && steps <= self.program.time);
        if cfg!(debug_assertions) && !self.started {
            self.poison();
        }
        let Some(enter) = self.code.address("enter") else { return };
        // SAFETY: the function has this signature, and the caller has checked the batch's extent.
        unsafe { std::mem::transmute::<*const u8, Enter>(enter)(self.context().get().cast(), batch.as_ptr(), samples as i64, steps as i64) }
    }

    /// The logits `[B, K]` of the last call.
    pub fn leave(&mut self, samples: usize, classes: usize) -> Vec<f32> {
        let mut logits = vec![0.0; samples * classes];
        if let Some(leave) = self.code.address("leave") {
            // SAFETY: the function has this signature and writes one number for every sample and class.
            unsafe { std::mem::transmute::<*const u8, Leave>(leave)(self.context().get().cast(), logits.as_mut_ptr()) }
        }
        logits
    }

    /// Measures from now on how long each loop takes.
    pub fn measure(&mut self) {
        self.seconds = Some(vec![]);
    }

    /// Seconds of every loop in the last run, if they are measured.
    pub fn seconds(&self) -> &[f64] {
        self.seconds.as_deref().unwrap_or_default()
    }

    /// Runs all groups on what was taken in, on the threads of the pool.
    pub fn run(&mut self, call: &Call) {
        for (i, x) in call.hyper.iter().enumerate() {
            self.context.get_mut()[context::HYPER as usize / 4 + i] = *x;
        }
        match self.code.act("step").filter(|_| rayon::current_num_threads() == 1 && self.seconds.is_none()) {
            // SAFETY: the context is connected.
            Some(step) => unsafe { step(self.context().get().cast()) },
            None => Team::run(|team| self.run_groups(call, team)),
        }
        self.started = true;
    }

    fn run_groups(&mut self, call: &Call, team: &Team) {
        let context = self.context();
        let (memory, weights) = (self.memory.get_mut().as_mut_ptr(), self.weights.get_mut().as_mut_ptr());
        // SAFETY: the plan's places lie within the memory.
        let pointer = |(first, _, weighs): &(usize, usize, bool)| Pointer(unsafe { if *weighs { weights } else { memory }.add(*first) });
        let pointers: Vec<Pointer> = self.places.iter().map(pointer).collect();
        let mut drives = self.drives.iter();
        let mut seconds = self.seconds.is_some().then(Vec::new);
        for group in &self.program.groups {
            let own: Vec<Drive> = drives.by_ref().take(group.loops.len()).copied().collect();
            if group.once && self.started {
                continue;
            }
            for contract in &group.contracts {
                contract::run(contract, &pointers, call, team);
            }
            if let Some(first) = group.loops.first() {
                set(context, context::RANGES, plan::ranges(first, call.batch) as i64);
            }
            for (l, drive) in group.loops.iter().zip(own) {
                let begun = Instant::now();
                run_loop(l, drive, context, call, team);
                seconds.iter_mut().for_each(|s| s.push(begun.elapsed().as_secs_f64()));
            }
        }
        self.seconds = seconds;
        set(context, context::STARTED, 1);
    }

    fn context(&mut self) -> Pointer {
        Pointer(self.context.get_mut().as_mut_ptr())
    }

    /// Fills what should be written before it is read with what would be seen.
    fn poison(&mut self) {
        for i in 0..self.places.len() {
            if self.program.buffers[i].purpose == Purpose::Temporary {
                self.buffer_mut(BufferId::new(i)).fill(f32::NAN);
            }
        }
    }
}

/// Writes an integer of the context.
fn set(context: Pointer, offset: i32, value: i64) {
    // SAFETY: the context has room for its header.
    unsafe { context.get().cast::<u8>().add(offset as usize).cast::<i64>().write_unaligned(value) }
}

fn run_loop(l: &Loop, drive: Drive, context: Pointer, call: &Call, team: &Team) {
    // SAFETY: the kernel touches only the buffers of its arguments, within their extents for this batch, and ranges write
    // disjoint parts (`fuse` gives sums a buffer for each range).
    team.each(plan::ranges(l, call.batch), |range| unsafe { drive(context.get().cast(), range as i64, range as i64 + 1) });
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

impl Device for Executable {
    fn program(&self) -> &Program {
        self.program()
    }

    fn enter(&mut self, batch: &[f32], samples: usize, steps: usize) -> Result<(), DeviceError> {
        self.enter(batch, samples, steps);
        Ok(())
    }

    fn run(&mut self, call: &Call) -> Result<(), DeviceError> {
        self.run(call);
        Ok(())
    }

    fn leave(&mut self, samples: usize, classes: usize) -> Result<Vec<f32>, DeviceError> {
        Ok(self.leave(samples, classes))
    }

    fn values(&self, id: BufferId) -> Result<Cow<'_, [f32]>, DeviceError> {
        Ok(self.buffer(id).into())
    }

    fn write(&mut self, id: BufferId, values: &[f32]) -> Result<(), DeviceError> {
        self.buffer_mut(id)[..values.len()].copy_from_slice(values);
        Ok(())
    }
}
