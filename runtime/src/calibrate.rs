//! Random weights at which a network fires as a trained one does: for benchmarks, where no trained weights are there.

use crate::session::{Inference, Mode, SessionError, Unfolded};
use crate::weights::Weights;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snnc_compiler::backend::context::HYPERS;
use snnc_compiler::check::Checked;
use snnc_compiler::graph::Graph;
use snnc_compiler::lower::{Optimizer, Watch};
use snnc_compiler::ops::{Role, Selection};
use snnc_compiler::types::ParamId;
use std::collections::BTreeSet;

/// How often statistics and shift are found in turn: each moves the other.
const ROUNDS: usize = 3;
/// The largest shift that is tried, in standard deviations.
const WIDEST: f64 = 4.0;
/// How near to the wanted rate the mean must come, as a part of it.
const NEAR: f64 = 0.01;
/// Halvings of the interval of shifts.
const HALVINGS: usize = 12;

/// A random batch `[B, (T,) axes…]`: numbers with mean 0 and variance 1, or spikes, one in ten.
pub fn pictures(graph: &Graph, samples: usize, seed: u64) -> Vec<f32> {
    let signal = &graph.node(graph.input).signal;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let size = samples * signal.elements() * if signal.varies { graph.time } else { 1 };
    let real = signal.admits(0.5);
    let mut one = || {
        let x = rng.random::<f64>();
        if real { ((x - 0.5) * 12f64.sqrt()) as f32 } else { f32::from(u8::from(x < 0.1)) }
    };
    (0..size).map(|_| one()).collect()
}

/// The mean firing rate of all neurons on a batch, each time step of each neuron counting alike.
///
/// # Errors
/// If the network cannot be run.
pub fn firing_rate(session: &mut Inference, graph: &Graph, pictures: &[f32], samples: usize) -> Result<f64, SessionError> {
    session.run(pictures, samples)?;
    let spikes: u64 = session.spikes(graph.time).iter().flat_map(|(_, counts)| counts).sum();
    let neurons = graph.nodes.iter().filter(|n| n.op.selection() == Selection::Neuron);
    let all: usize = neurons.map(|n| n.signal.elements() * graph.time * samples).sum();
    Ok(spikes as f64 / all.max(1) as f64)
}

/// Random weights; running statistics are those of a random picture, and the biases of the norms before neurons (of all layers before them
/// where there are none) are shifted, all by as much, so that this part of all neurons fires in the mean.
///
/// # Errors
/// If the network cannot be run.
pub fn calibrated(checked: &Checked, rate: f64, seed: u64) -> Result<Weights, SessionError> {
    let graph = checked.graph();
    let mut weights = Weights::initial(graph, seed);
    let batch = pictures(graph, 1, seed);
    let biases = biases(graph);
    let mut session = Inference::new(checked, &weights, 1, Watch::Spikes)?;
    let mut shift = 0.0;
    for _ in 0..ROUNDS {
        statistics(checked, &mut weights, &batch)?;
        let (mut low, mut high) = (-WIDEST, WIDEST);
        for _ in 0..HALVINGS {
            session.set(&weights)?;
            let now = firing_rate(&mut session, graph, &batch, 1)?;
            if (now - rate).abs() <= NEAR * rate {
                break;
            }
            if now < rate {
                low = shift;
            } else {
                high = shift;
            }
            let next = f64::midpoint(low, high);
            for bias in &biases {
                weights.values[bias.index()].iter_mut().for_each(|x| *x += (next - shift) as f32);
            }
            shift = next;
        }
    }
    Ok(weights)
}

/// The biases that move what neurons are given.
fn biases(graph: &Graph) -> Vec<ParamId> {
    let mut found = BTreeSet::new();
    for neuron in graph.nodes.iter().filter(|n| n.op.selection() == Selection::Neuron) {
        let (mut behind, mut open) = (BTreeSet::new(), neuron.inputs.clone());
        while let Some(id) = open.pop() {
            if graph.node(id).op.selection() != Selection::Neuron && behind.insert(id) {
                open.extend(&graph.node(id).inputs);
            }
        }
        let norms = behind.iter().any(|id| graph.node(*id).op.momentum().is_some());
        found.extend(behind.into_iter().filter(|id| graph.node(*id).op.momentum().is_some() == norms));
    }
    let params = found.into_iter().flat_map(|id| graph.node(id).params.iter().copied());
    params.filter(|p| graph.param(*p).path.ends_with("bias") && graph.param(*p).role == Role::Trained).collect()
}

/// Sets running statistics to those of a batch of one.
fn statistics(checked: &Checked, weights: &mut Weights, batch: &[f32]) -> Result<(), SessionError> {
    let graph = checked.graph();
    let sgd = Optimizer::Sgd { momentum: 0.0, weight_decay: 0.0 };
    let mut session = Unfolded::new(checked, weights, 1, Mode::Train(sgd))?;
    let targets: Vec<f32> = (0..graph.classes()).map(|k| f32::from(u8::from(k == 0))).collect();
    // At a rate of 0 nothing but the statistics changes.
    session.run(batch, &targets, 1, [0.0; HYPERS])?;
    let after = session.weights(weights)?;
    for node in &graph.nodes {
        let Some(momentum) = node.op.momentum().filter(|m| *m > 0.0) else { continue };
        for id in node.params.iter().filter(|p| graph.param(**p).role == Role::Running) {
            let (old, new) = (&mut weights.values[id.index()], &after.values[id.index()]);
            let least = graph.param(*id).min.map_or(f32::MIN, |m| m as f32);
            for (old, new) in old.iter_mut().zip(new) {
                *old = (((f64::from(*new) - (1.0 - momentum) * f64::from(*old)) / momentum) as f32).max(least);
            }
        }
    }
    Ok(())
}
