//! A network ready to run: its program loaded, its weights in place.

use crate::device::cpu::{Call, Executable};
use crate::device::{Backend, Device, DeviceError};
use crate::machine;
use crate::weights::Weights;
use rayon::prelude::*;
use snnc_compiler::backend::context::HYPERS;
use snnc_compiler::check::Checked;
use snnc_compiler::flow::{Flow, Sink, Source};
use snnc_compiler::fold::{Folded, fold, prepare};
use snnc_compiler::fuse::{Expected, Target, fuse, fuse_for};
use snnc_compiler::graph::{Graph, Node};
use snnc_compiler::kernel::Format;
use snnc_compiler::lower::{self, Optimizer, Watch, hyper};
use snnc_compiler::plan::plan;
use snnc_compiler::program::{BufferId, Loop, Program, Purpose};
use snnc_compiler::text::bytes;
use snnc_compiler::types::{Kind, ParamId, Signal};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;
use thiserror::Error;

/// Why a network cannot be run.
#[derive(Debug, Error)]
pub enum SessionError {
    /// More memory than the machine has left.
    #[error("`{model}` needs {} for a batch of {batch}, but this machine has {} left; the largest are {}", bytes(*.needed), bytes(*.limit), list(.largest))]
    Memory {
        /// The network.
        model: String,
        /// Samples.
        batch: usize,
        /// Bytes needed.
        needed: u128,
        /// Bytes that are left.
        limit: u128,
        /// The largest buffers.
        largest: Vec<(String, u128)>,
    },
    /// One time step at a time is asked of a network that must see all of them.
    #[error("`{model}` cannot run one time step at a time: `{node}` looks at all of them")]
    Streaming {
        /// The network.
        model: String,
        /// Path of the node that looks at all time steps.
        node: String,
    },
    /// A batch that is none for this network.
    #[error("the input does not fit `{model}`: {reason}")]
    Input {
        /// The network.
        model: String,
        /// Why not.
        reason: String,
    },
    /// Factors so large or small that a folded parameter is no f32.
    #[error(
        "`{model}` cannot be folded: its factors make `{param}` {value:.2e}, and f32 goes from {:e} to {:e}",
        f32::MIN_POSITIVE,
        f32::MAX
    )]
    Range {
        /// The network.
        model: String,
        /// Path of the parameter.
        param: String,
        /// Its value.
        value: f64,
    },
    /// No machine code.
    #[error(transparent)]
    Code(#[from] snnc_compiler::backend::clif::CodeError),
    /// The device does not run it.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

fn list(largest: &[(String, u128)]) -> String {
    largest.iter().map(|(label, n)| format!("`{label}` ({})", bytes(*n))).collect::<Vec<_>>().join(", ")
}

/// Refuses a program that this machine cannot hold.
fn fits(graph: &Graph, program: &Program, batch: usize) -> Result<(), SessionError> {
    let plan = plan(program, batch);
    let (needed, limit) = (plan.bytes(), machine::memory());
    if needed > limit {
        let mut largest: Vec<(String, u128)> = program.buffers.iter().zip(&plan.sizes).map(|(b, s)| (b.label.clone(), s * 4)).collect();
        largest.sort_by_key(|(_, s)| std::cmp::Reverse(*s));
        largest.truncate(3);
        return Err(SessionError::Memory { model: graph.name.clone(), batch, needed, limit, largest });
    }
    Ok(())
}

/// Refuses a graph whose parameters alone are too large, before anything is made of them.
///
/// # Errors
/// [`SessionError::Memory`].
pub fn fits_at_all(graph: &Graph, batch: usize) -> Result<(), SessionError> {
    let mut sizes: Vec<(String, u128)> =
        graph.params.iter().map(|p| (p.path.clone(), p.axes.iter().map(|a| a.size as u128).product::<u128>() * 4)).collect();
    for node in &graph.nodes {
        let steps = if node.signal.varies { graph.time as u128 } else { 1 };
        sizes.push((node.path.clone(), node.signal.axes.iter().map(|a| a.size as u128).product::<u128>() * steps * 4 * batch as u128));
    }
    sizes.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    // One tensor at a time must fit; the exact plan is checked when the program is there.
    let needed = sizes.first().map_or(0, |(_, n)| *n).max(graph.params.iter().map(|p| p.elements() as u128 * 4).sum());
    sizes.truncate(3);
    let limit = machine::memory();
    if needed > limit {
        return Err(SessionError::Memory { model: graph.name.clone(), batch, needed, limit, largest: sizes });
    }
    Ok(())
}

/// Refuses a graph whose spikes and counts, all of them at once in f64, take most of this machine's memory.
///
/// # Errors
/// [`SessionError::Memory`].
pub(crate) fn fits_counted(graph: &Graph) -> Result<(), SessionError> {
    let counts = graph.nodes.iter().filter(|n| matches!(n.signal.kind, Kind::Spike | Kind::Count));
    let size = |n: &Node| n.signal.elements() as u128 * if n.signal.varies { graph.time as u128 } else { 1 } * 8;
    let mut sizes: Vec<(String, u128)> = counts.map(|n| (n.path.clone(), size(n))).collect();
    sizes.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let needed = sizes.iter().map(|(_, n)| n).sum();
    sizes.truncate(3);
    let limit = machine::memory() / 2;
    if needed > limit {
        return Err(SessionError::Memory { model: graph.name.clone(), batch: 1, needed, limit, largest: sizes });
    }
    Ok(())
}

/// The way into a network.
#[derive(Debug)]
struct Entry {
    model: String,
    signal: Signal,
    time: usize,
}

impl Entry {
    fn of(graph: &Graph) -> Entry {
        Entry { model: graph.name.clone(), signal: graph.node(graph.input).signal.clone(), time: graph.time }
    }

    /// Takes a batch of some time steps in.
    fn put(&self, device: &mut dyn Device, batch: &[f32], samples: usize, steps: usize, most: usize) -> Result<(), SessionError> {
        let wanted = self.signal.elements() * samples * if self.signal.varies { steps } else { 1 };
        let refused = |reason: String| Err(SessionError::Input { model: self.model.clone(), reason });
        if samples == 0 || samples > most {
            return refused(format!("it takes 1 to {most} samples at once, not {samples}"));
        }
        if batch.len() != wanted {
            return refused(format!("the batch holds {} values, not {wanted}", batch.len()));
        }
        if let Some(reason) = unfit(&self.signal, batch) {
            return refused(reason);
        }
        Ok(device.enter(batch, samples, steps)?)
    }
}

/// Why these values cannot stand for this signal: a verdict for a network that takes spikes says nothing about other input.
pub(crate) fn unfit(signal: &Signal, values: &[f32]) -> Option<String> {
    let index = values.iter().position(|x| !signal.admits(*x))?;
    let wanted = if signal.kind == Kind::Spike { "a spike, 0 or 1" } else { "a finite number" };
    Some(format!("value {index} is {}, but must be {wanted}", values[index]))
}

/// What logits say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// The class with the largest; the first of several.
    pub class: usize,
    /// How far it is ahead of the next, in logits; infinite if there is none.
    pub lead: f32,
}

/// The decision that logits `[K]` stand for, as the network's or as those of some time steps.
pub fn decision(logits: &[f32]) -> Decision {
    let (mut class, mut best, mut next) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (k, x) in logits.iter().enumerate() {
        if *x > best {
            (class, best, next) = (k, *x, best);
        } else {
            next = next.max(*x);
        }
    }
    Decision { class, lead: best - next }
}

/// Spikes of every neuron: (path, count per time step).
pub type SpikeCounts = Vec<(String, Vec<u64>)>;

fn spike_counts(device: &dyn Device, call: &Call) -> Result<SpikeCounts, DeviceError> {
    let mut counts = Vec::new();
    for (sink, view) in &device.program().sinks {
        let Sink::Spikes(path) = sink else { continue };
        let values = device.read(view, call)?;
        let per = values.len() / call.batch / call.steps;
        let mut steps = vec![0u64; call.steps];
        for (i, chunk) in values.chunks(per).enumerate() {
            steps[i % call.steps] += chunk.iter().filter(|s| **s != 0.0).count() as u64;
        }
        counts.push((path.clone(), steps));
    }
    Ok(counts)
}

fn sink(device: &dyn Device, wanted: &Sink, call: &Call) -> Result<Vec<f32>, DeviceError> {
    let view = device.program().sinks.iter().find(|(s, _)| s == wanted).map(|(_, v)| v);
    view.map_or(Ok(Vec::new()), |v| device.read(v, call))
}

/// A folded network: inference without multiplications outside the encoder.
#[derive(Debug)]
pub struct Inference {
    executable: Executable,
    checked: Checked,
    /// Made when it is needed.
    folded: OnceLock<Folded>,
    entry: Entry,
    classes: usize,
    done: usize,
    samples: usize,
    /// The network and a node of it that cannot run one time step at a time.
    looks_at_all: Option<(String, String)>,
    watch: Watch,
    /// Its program goes on from call to call.
    streams: bool,
    expected: Expected,
}

/// The program of a folded network that runs all time steps in one call.
pub fn inference_program(folded: &Folded, watch: Watch) -> (Flow, Program) {
    program_for(folded, watch, Target::Infer, &Expected::default())
}

/// The program of a folded network that runs any number of time steps in a call and goes on in the next.
pub fn streaming_program(folded: &Folded, watch: Watch) -> (Flow, Program) {
    program_for(folded, watch, Target::Stream, &Expected::default())
}

fn program_for(folded: &Folded, watch: Watch, target: Target, expected: &Expected) -> (Flow, Program) {
    let flow = lower::infer(folded, watch);
    let program = fuse_for(&flow, target, folded.graph.time, expected);
    (flow, program)
}

/// The path of a node that needs all time steps before the next one can go on: it says so itself, once it is folded, or it
/// collapses T and something behind it varies over T again.
pub(crate) fn looks_at_all(checked: &Checked, folded: &Folded) -> Option<String> {
    let node = folded.graph.nodes.iter().find(|n| !n.op.streams()).or_else(|| collapses(checked.graph()));
    node.map(|n| n.path.clone())
}

fn collapses(graph: &Graph) -> Option<&Node> {
    let mut collapsed: Vec<Option<usize>> = vec![None; graph.nodes.len()];
    for id in graph.ids() {
        let node = graph.node(id);
        let found = node.inputs.iter().find_map(|i| collapsed[i.index()]);
        let collapses = !node.signal.varies && node.inputs.iter().any(|i| graph.node(*i).signal.varies);
        collapsed[id.index()] = found.or(collapses.then_some(id.index()));
        if let Some(at) = found.filter(|_| node.signal.varies) {
            return Some(&graph.nodes[at]);
        }
    }
    None
}

impl Inference {
    /// The program in memory.
    pub fn executable(&self) -> &Executable {
        &self.executable
    }

    /// Folds a checked network and loads it for batches of up to `batch` samples.
    ///
    /// # Errors
    /// If it does not fit into memory, no code can be made, or a folded parameter is no f32.
    pub fn new(checked: &Checked, weights: &Weights, batch: usize, watch: Watch) -> Result<Inference, SessionError> {
        Inference::expecting(checked, weights, batch, (watch, false), machine::expected(batch))
    }

    /// As [`Inference::new`], with the program for [`Inference::step`] from the start.
    ///
    /// # Errors
    /// As [`Inference::new`].
    pub fn streaming(checked: &Checked, weights: &Weights, batch: usize, watch: Watch) -> Result<Inference, SessionError> {
        Inference::expecting(checked, weights, batch, (watch, true), machine::expected(batch))
    }

    /// As [`Inference::new`] or, if it streams, [`Inference::streaming`], cut for what is expected; no result hangs on that.
    ///
    /// # Errors
    /// As [`Inference::new`].
    pub fn expecting(
        checked: &Checked,
        weights: &Weights,
        batch: usize,
        (watch, streams): (Watch, bool),
        expected: Expected,
    ) -> Result<Inference, SessionError> {
        fits_at_all(checked.graph(), batch)?;
        let folded = fold(checked);
        let (_, program) = program_for(&folded, watch, if streams { Target::Stream } else { Target::Infer }, &expected);
        fits(checked.graph(), &program, batch)?;
        let executable = Executable::load_for(program, batch, &machine::target(&expected)?)?;
        let looks = looks_at_all(checked, &folded);
        let mut session = Inference::kept(checked, executable, looks, (watch, streams), expected);
        session.folded = folded.into();
        session.set(weights)?;
        Ok(session)
    }

    /// With an executable that has its weights; `looks` is the path of a node that looks at all time steps.
    pub(crate) fn kept(
        checked: &Checked,
        executable: Executable,
        looks: Option<String>,
        (watch, streams): (Watch, bool),
        expected: Expected,
    ) -> Inference {
        let graph = checked.graph();
        Inference {
            executable,
            checked: checked.clone(),
            folded: OnceLock::new(),
            entry: Entry::of(graph),
            classes: graph.classes(),
            done: 0,
            samples: 0,
            looks_at_all: looks.map(|path| (graph.name.clone(), path)),
            watch,
            streams,
            expected,
        }
    }

    /// The path of a node that needs all time steps at once, if there is one.
    pub(crate) fn looks_at_all(&self) -> Option<&str> {
        self.looks_at_all.as_ref().map(|(_, path)| path.as_str())
    }

    /// Takes in other weights.
    ///
    /// # Errors
    /// If a folded parameter is no f32.
    pub fn set(&mut self, weights: &Weights) -> Result<(), SessionError> {
        let (graph, folded) = (self.checked.graph(), self.folded.get_or_init(|| fold(&self.checked)));
        let originals = |id| weights.array::<f64>(graph, id);
        let held = |(i, value)| {
            let (id, param) = (ParamId::new(i), folded.graph.param(ParamId::new(i)));
            let axes: Vec<(String, usize)> = lower::inference_axes(&param.axes).into_iter().map(|a| (a.name, a.size)).collect();
            let range = |value| SessionError::Range { model: graph.name.clone(), param: param.path.clone(), value };
            folded.held(id, &prepare(value, &originals, &axes)).map_err(range)
        };
        let values: Vec<Vec<f32>> = folded.prepare.par_iter().enumerate().map(held).collect::<Result<_, SessionError>>()?;
        for (i, values) in values.iter().enumerate() {
            let last = lower::inference_axes(&folded.graph.params[i].axes).last().map_or(1, |a| a.size);
            let program = self.executable.program();
            let own = program.sources(Source::Param(ParamId::new(i))).map(|b| (b, program.buffer(b).tiled(values, last)));
            for (buffer, values) in own.collect::<Vec<_>>() {
                self.executable.buffer_mut(buffer)[..values.len()].copy_from_slice(&values);
            }
        }
        Ok(())
    }

    /// What it was cut for.
    pub fn expected(&self) -> &Expected {
        &self.expected
    }

    /// Measures from now on how long each loop takes.
    pub fn measure(&mut self) {
        self.executable.measure();
    }

    /// Every loop of the last run and how many seconds it took.
    pub fn seconds(&self) -> impl Iterator<Item = (&Loop, f64)> {
        self.executable.program().loops().map(|(_, l)| l).zip(self.executable.seconds().iter().copied())
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Forgets all time steps so far.
    pub fn reset(&mut self) {
        self.executable.reset();
        self.done = 0;
    }

    /// Runs all time steps on a batch `[B, (T,) axes…]` and gives logits `[B, K]`.
    ///
    /// # Errors
    /// [`SessionError::Input`] if the batch has another size, or values that the input's kind does not have.
    pub fn run(&mut self, batch: &[f32], samples: usize) -> Result<Vec<f32>, SessionError> {
        self.reset();
        self.steps(batch, samples, self.entry.time)
    }

    /// Runs some time steps on from where the last call stopped; the logits are those of all steps so far, as parts of
    /// the whole: after the last step they are the network's. A batch of frames holds just these steps. The first call compiles
    /// another program, unless this session is [`Inference::streaming`]; after [`Inference::run`] it begins anew.
    ///
    /// # Errors
    /// [`SessionError::Streaming`] if some operator looks at all time steps at once; [`SessionError::Input`] as
    /// [`Inference::run`].
    pub fn step(&mut self, batch: &[f32], samples: usize, steps: usize) -> Result<Vec<f32>, SessionError> {
        self.streams()?;
        self.stream()?;
        self.steps(batch, samples, steps)
    }

    /// Whether it can run one time step at a time.
    ///
    /// # Errors
    /// [`SessionError::Streaming`] if some operator looks at all time steps at once.
    pub fn streams(&self) -> Result<(), SessionError> {
        match &self.looks_at_all {
            Some((model, node)) => Err(SessionError::Streaming { model: model.clone(), node: node.clone() }),
            None => Ok(()),
        }
    }

    /// From the program that runs all time steps to the one that goes on from call to call.
    fn stream(&mut self) -> Result<(), SessionError> {
        if self.streams {
            return Ok(());
        }
        let (_, program) = program_for(self.folded.get_or_init(|| fold(&self.checked)), self.watch, Target::Stream, &self.expected);
        let batch = self.executable.batch();
        fits(self.checked.graph(), &program, batch)?;
        let mut executable = Executable::load_for(program, batch, &machine::target(&self.expected)?)?;
        let mut held: HashMap<(Source, usize), &[f32]> = HashMap::new();
        for (i, buffer) in self.executable.program().buffers.iter().enumerate() {
            if let Purpose::Source(source @ Source::Param(_)) = buffer.purpose {
                held.insert((source, buffer.tile), self.executable.buffer(BufferId(i as u32)));
            }
        }
        for i in 0..executable.program().buffers.len() {
            let buffer = &executable.program().buffers[i];
            if let Purpose::Source(source @ Source::Param(_)) = buffer.purpose
                && let Some(values) = held.get(&(source, buffer.tile))
            {
                executable.buffer_mut(BufferId(i as u32)).copy_from_slice(values);
            }
        }
        (self.executable, self.streams, self.done) = (executable, true, 0);
        Ok(())
    }

    fn steps(&mut self, batch: &[f32], samples: usize, steps: usize) -> Result<Vec<f32>, SessionError> {
        let steps = steps.min(self.entry.time - self.done);
        let most = self.executable.batch();
        self.entry.put(&mut self.executable, batch, samples, steps, most)?;
        let call = Call { batch: samples, steps, hyper: [0.0; HYPERS] };
        self.executable.run(&call);
        self.done += steps;
        self.samples = samples;
        Ok(self.executable.leave(samples, self.classes))
    }

    /// The mean of what each watched layer read in the last call, by path and operand.
    pub fn operands(&self, steps: usize) -> Vec<(String, usize, f64)> {
        let call = Call { batch: self.samples, steps, hyper: [0.0; HYPERS] };
        let watched = self.executable.program().sinks.iter().filter_map(|(sink, view)| match sink {
            Sink::Operand(path, i) => Some((path, *i, view)),
            _ => None,
        });
        let mean = |view| {
            // The CPU does not fail.
            let values = self.executable.read(view, &call).unwrap_or_default();
            values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len().max(1) as f64
        };
        watched.map(|(path, i, view)| (path.clone(), i, mean(view))).collect()
    }

    /// Spikes of the last call, if the session was made to count them.
    pub fn spikes(&self, steps: usize) -> SpikeCounts {
        let call = Call { batch: self.samples, steps, hyper: [0.0; HYPERS] };
        spike_counts(&self.executable, &call).unwrap_or_default()
    }
}

/// A network as written, for training steps or for runs with running statistics.
#[derive(Debug)]
pub struct Unfolded {
    device: Box<dyn Device>,
    params: usize,
    entry: Entry,
    classes: usize,
    moments: u8,
    /// The loss is scaled.
    scaled: bool,
    /// Samples there is room for.
    batch: usize,
}

/// The scale of the loss if the caller sets none.
const SCALE: f32 = 1024.0;

/// What the unfolded network is run for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// With running statistics.
    Eval,
    /// Forward and backward, gradients as results.
    Gradients,
    /// Forward, backward and update.
    Train(Optimizer),
}

/// The primitives and the program of an unfolded network; what varies over samples is kept in this format. In f16 the loss is scaled.
pub fn unfolded_program(checked: &Checked, mode: Mode, precision: Format) -> (Flow, Program) {
    let flow = match mode {
        Mode::Eval => lower::infer_unfolded(checked),
        Mode::Gradients => lower::differentiate(checked, None, precision).flow,
        Mode::Train(optimizer) => lower::differentiate(checked, Some(optimizer), precision).flow,
    };
    let program = fuse(&flow, Target::Train(precision), checked.graph().time);
    (flow, program)
}

impl Unfolded {
    /// Loads a network for batches of up to `batch` samples.
    ///
    /// # Errors
    /// If it does not fit into memory, or no code can be made.
    pub fn new(checked: &Checked, weights: &Weights, batch: usize, mode: Mode) -> Result<Unfolded, SessionError> {
        Unfolded::on(&Backend::Cpu, checked, weights, batch, mode)
    }

    /// The same on a device.
    ///
    /// # Errors
    /// As [`Unfolded::new`].
    pub fn on(backend: &Backend, checked: &Checked, weights: &Weights, batch: usize, mode: Mode) -> Result<Unfolded, SessionError> {
        fits_at_all(checked.graph(), batch)?;
        let (_, program) = unfolded_program(checked, mode, backend.precision());
        // A device has memory of its own.
        if !matches!(backend, Backend::Cuda(..)) {
            fits(checked.graph(), &program, batch)?;
        }
        let graph = checked.graph();
        let moments = if let Mode::Train(o) = mode { o.moments() } else { 0 };
        let mut session = Unfolded {
            device: backend.load(program, batch, &graph.name)?,
            params: graph.params.len(),
            entry: Entry::of(graph),
            classes: graph.classes(),
            moments,
            scaled: backend.precision() == Format::F16,
            batch,
        };
        session.set_weights(weights)?;
        Ok(session)
    }

    fn set_weights(&mut self, weights: &Weights) -> Result<(), SessionError> {
        let mut params = weights.values.iter().enumerate();
        params.try_for_each(|(i, values)| self.set_source(Source::Param(ParamId::new(i)), values))
    }

    /// Values of a source, if the program has it: a parameter, or a moment of the optimizer.
    ///
    /// # Errors
    /// If the device fails.
    pub fn source(&self, source: Source) -> Result<Option<Cow<'_, [f32]>>, SessionError> {
        Ok(self.device.program().source(source).map(|b| self.device.values(b)).transpose()?)
    }

    /// Sets the values of a source.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_source(&mut self, source: Source, values: &[f32]) -> Result<(), SessionError> {
        let buffer = self.device.program().source(source);
        Ok(buffer.map_or(Ok(()), |buffer| self.device.write(buffer, values))?)
    }

    /// How many tensors the optimizer keeps for each parameter.
    pub fn moments(&self) -> u8 {
        self.moments
    }

    /// The parameters as they are now, where the program has them; `before` gives the rest.
    ///
    /// # Errors
    /// If the device fails.
    pub fn weights(&self, before: &Weights) -> Result<Weights, SessionError> {
        let value = |i: usize| {
            let now = self.source(Source::Param(ParamId::new(i)))?;
            Ok(now.map_or_else(|| before.values[i].clone(), Cow::into_owned))
        };
        Ok(Weights { values: (0..self.params).map(value).collect::<Result<_, SessionError>>()? })
    }

    /// Runs one step on a batch `[B, (T,) axes…]` with targets `[B, K]` and gives logits `[B, K]`.
    ///
    /// # Errors
    /// [`SessionError::Input`] if the batch has another size, or values that the input's kind does not have.
    pub fn run(&mut self, batch: &[f32], targets: &[f32], samples: usize, hyper: [f32; HYPERS]) -> Result<Vec<f32>, SessionError> {
        self.put(batch, samples)?;
        self.start(targets, samples, hyper)?;
        self.finish(samples)
    }

    /// Takes in the batch of the next step; a device copies it beside a step that was started.
    ///
    /// # Errors
    /// As [`Unfolded::run`].
    pub fn put(&mut self, batch: &[f32], samples: usize) -> Result<(), SessionError> {
        self.entry.put(&mut *self.device, batch, samples, self.entry.time, self.batch)
    }

    /// Starts a step on the batch that was put in last, with targets `[B, K]`; a device may still run it when this is done.
    ///
    /// # Errors
    /// If the device fails.
    pub fn start(&mut self, targets: &[f32], samples: usize, hyper: [f32; HYPERS]) -> Result<(), SessionError> {
        self.set_source(Source::Target, targets)?;
        let call = self.call(samples, hyper);
        Ok(self.device.run(&call)?)
    }

    /// Waits for the step, and gives its logits `[B, K]`.
    ///
    /// # Errors
    /// If the device, or the step, fails.
    pub fn finish(&mut self, samples: usize) -> Result<Vec<f32>, SessionError> {
        Ok(self.device.leave(samples, self.classes)?)
    }

    fn call(&self, samples: usize, mut numbers: [f32; HYPERS]) -> Call {
        if self.scaled && numbers[hyper::SCALE] == 0.0 {
            (numbers[hyper::SCALE], numbers[hyper::UNSCALE]) = (SCALE, 1.0 / SCALE);
        }
        Call { batch: samples, steps: self.entry.time, hyper: numbers }
    }

    /// The mean loss of the last step.
    ///
    /// # Errors
    /// If the device fails.
    pub fn loss(&self, samples: usize) -> Result<f32, SessionError> {
        let loss = sink(&*self.device, &Sink::Loss, &self.call(samples, [0.0; HYPERS]))?;
        Ok(loss.first().copied().unwrap_or(f32::NAN))
    }

    /// Bytes that its program takes, by the plan of a CPU.
    pub fn bytes(&self) -> u128 {
        plan(self.device.program(), self.batch).bytes()
    }

    /// Whether some gradient of the last step was not finite, so that nothing was updated: of a scaled loss only.
    ///
    /// # Errors
    /// If the device fails.
    pub fn overflown(&self, samples: usize) -> Result<bool, SessionError> {
        let found = sink(&*self.device, &Sink::Overflow, &self.call(samples, [0.0; HYPERS]))?;
        Ok(found.first().is_some_and(|x| *x != 0.0))
    }

    /// The gradient of a parameter after a step in [`Mode::Gradients`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn gradient(&self, param: ParamId, samples: usize) -> Result<Option<Vec<f32>>, SessionError> {
        let values = sink(&*self.device, &Sink::Gradient(param), &self.call(samples, [0.0; HYPERS]))?;
        Ok((!values.is_empty()).then_some(values))
    }

    /// Spikes of the last step; none in [`Mode::Train`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn spikes(&self, samples: usize) -> Result<SpikeCounts, SessionError> {
        Ok(spike_counts(&*self.device, &self.call(samples, [0.0; HYPERS]))?)
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }
}
