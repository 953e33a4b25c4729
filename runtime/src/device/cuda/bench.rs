//! How long a training step takes on a device, beside what the device reaches on its own.

use super::driver::{Driver, GpuError};
use super::gpu::{Gpu, Rates};
use crate::device::cpu::Call;
use crate::device::{Device, DeviceError};
use crate::session::{Mode, SessionError, unfolded_program};
use crate::weights::Weights;
use snnc_compiler::backend::context::HYPERS;
use snnc_compiler::backend::cuda::cost::{Cost, costs};
use snnc_compiler::backend::cuda::work::step as work;
use snnc_compiler::check::Checked;
use snnc_compiler::flow::Source;
use snnc_compiler::graph::Graph;
use snnc_compiler::kernel::Format;
use snnc_compiler::lower::{Optimizer, hyper};
use snnc_compiler::types::ParamId;

/// A step's times and what they are compared with.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The device.
    pub device: String,
    /// Seconds of each repetition.
    pub seconds: Vec<f64>,
    /// Bytes on the device.
    pub bytes: usize,
    /// Launches of a step.
    pub launches: usize,
    /// Bytes that a step moves, and operations of its products.
    pub moved: u64,
    /// See above.
    pub operations: u64,
    /// What the device reaches.
    pub rates: Rates,
    /// Seconds of each launch by itself, with what it is, if that was asked for.
    pub by_launch: Vec<(Cost, f64)>,
}

impl Measured {
    /// Seconds that products would take at the device's rate, and seconds that moving would.
    pub fn floors(&self) -> [f64; 2] {
        [self.operations as f64 / self.rates.operations, self.moved as f64 / self.rates.bytes]
    }
}

/// A batch `[B, (T,) axes…]` and its targets `[B, K]`. Any pictures do, as long as spikes come.
pub fn example(graph: &Graph, batch: usize) -> (Vec<f32>, Vec<f32>) {
    let (signal, classes) = (&graph.node(graph.input).signal, graph.classes());
    let size = batch * signal.elements() * if signal.varies { graph.time } else { 1 };
    // Multiples of the golden ratio are spread evenly.
    let bright = |i: usize| (i as f64 * 0.618_033_988_749_895).fract() as f32;
    let picture = (0..size).map(|i| if signal.admits(0.5) { bright(i) } else { bright(i).round() }).collect();
    let targets = (0..batch * classes).map(|i| f32::from(u8::from(i % classes == i / classes % classes))).collect();
    (picture, targets)
}

/// Measures a training step of a network with random pictures, as often as `repeats`; the device's rates with matrices of this side.
///
/// # Errors
/// If there is no device, or it fails.
pub fn step(
    checked: &Checked,
    optimizer: Optimizer,
    (precision, tf32): (Format, bool),
    batch: usize,
    repeats: usize,
    by_launch: bool,
    side: usize,
) -> Result<Measured, SessionError> {
    let graph = checked.graph();
    let (_, program) = unfolded_program(checked, Mode::Train(optimizer), precision);
    let failed = |e: GpuError| SessionError::Device(DeviceError::Gpu(e));
    let driver = Driver::open().map_err(failed)?.with_tf32(tf32);
    let device = driver.name.clone();
    let mut gpu = Gpu::load(driver, program, batch, &graph.name).map_err(failed)?;
    let weights = Weights::initial(graph, 1);
    for (i, values) in weights.values.iter().enumerate() {
        if let Some(buffer) = gpu.program().source(Source::Param(ParamId::new(i))) {
            gpu.write(buffer, values)?;
        }
    }
    let (picture, targets) = example(graph, batch);
    gpu.enter(&picture, batch, graph.time)?;
    if let Some(target) = gpu.program().source(Source::Target) {
        gpu.write(target, &targets)?;
    }
    let mut numbers = [0.0; HYPERS];
    numbers[hyper::RATE] = 1e-6;
    (numbers[hyper::CORRECT1], numbers[hyper::CORRECT2]) = (1.0, 1.0);
    (numbers[hyper::SCALE], numbers[hyper::UNSCALE]) = (1024.0, 1.0 / 1024.0);
    let call = Call { batch, steps: graph.time, hyper: numbers };
    // The pictures go to their place with the first step.
    gpu.run(&call)?;
    let seconds = gpu.times(&call, repeats).map_err(failed)?;
    let steps = work(gpu.program(), batch, graph.time).map_err(|e| failed(e.into()))?;
    let costs = costs(gpu.program(), &steps);
    let (moved, operations) = costs.iter().fold((0, 0), |(m, o), c| (m + c.read + c.written, o + c.operations));
    let mut each = Vec::new();
    if by_launch {
        let times = gpu.times_by_launch(&call, repeats).map_err(failed)?;
        each.extend(times.into_iter().map(|(i, seconds)| (costs[i].clone(), seconds)));
    }
    let rates = gpu.rates(side, precision).map_err(failed)?;
    Ok(Measured { device, seconds, bytes: gpu.bytes(), launches: gpu.launches(), moved, operations, rates, by_launch: each })
}
