//! Operations and energy of an inference, from firing rates.
//!
//! The first figure follows the convention of Spikingformer's tool (Zhou et al. 2023): a multiply-accumulate costs 4.6 pJ, an
//! accumulate 0.9 pJ in 45 nm (Horowitz, ISSCC 2014); a layer on spikes does its dense operations times the rate of its
//! operand; an attention product of two spike operands the smaller of both rates; batch norms, neurons, pools and sums are not
//! charged. The second adds what that leaves out: two additions for every neuron and time step (membrane and comparison), one for
//! every multiplication of an admitted residue that is no layer, and the memory they and the layers touch.

use crate::certificate::Once;
use crate::data::Dataset;
use crate::session::{Inference, SessionError};
use crate::weights::Weights;
use serde::{Deserialize, Serialize};
use snnc_compiler::check::{Checked, How};
use snnc_compiler::fold::{Folded, fold};
use snnc_compiler::lower::Watch;
use snnc_compiler::ops::{Multiplication, Selection};
use snnc_compiler::types::{Kind, NodeId};
use std::collections::BTreeMap;
use std::path::Path;
use thiserror::Error;

/// Samples run at once.
const BATCH: usize = 32;

/// What an operation costs, in picojoule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// A multiply-accumulate.
    pub mac: f64,
    /// An accumulate.
    pub ac: f64,
    /// A word of 32 bits from or to a cache of 32 KB.
    pub word: f64,
}

impl Default for Costs {
    /// 45 nm: Horowitz 2014, figure 1.1.9; 20 pJ for 64 bits of a cache of 32 KB.
    fn default() -> Costs {
        Costs { mac: 4.6, ac: 0.9, word: 10.0 }
    }
}

/// Why there is no energy.
#[derive(Debug, Error)]
pub enum EnergyError {
    /// The network cannot be run.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A file of rates that cannot be used.
    #[error("`{path}` cannot be used as rates of `{model}`: {reason}")]
    Rates {
        /// The file.
        path: String,
        /// The network.
        model: String,
        /// Why not.
        reason: String,
    },
}

/// How a layer's operations are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Done {
    /// Multiplied.
    Mac,
    /// Added, where there is a spike.
    Ac,
}

/// A layer that is charged: a map or a product of signals.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// Its path.
    pub path: String,
    /// Its operator.
    pub operator: &'static str,
    /// How its operations are done.
    pub done: Done,
    /// Dense operations per sample.
    pub dense: u64,
    /// Spikes that one value of its operand counts at most: a dense operation becomes as many additions.
    pub bound: u64,
    /// Part of the possible spikes of its operand that are there.
    pub rate: f64,
}

impl Layer {
    /// Operations per sample that are done.
    pub fn operations(&self) -> f64 {
        match self.done {
            Done::Mac => self.dense as f64,
            Done::Ac => self.dense as f64 * self.bound as f64 * self.rate,
        }
    }

    /// Millijoule per sample, by the convention.
    pub fn energy(&self, costs: &Costs) -> f64 {
        let each = match self.done {
            Done::Mac => costs.mac,
            Done::Ac => costs.ac,
        };
        self.operations() * each * 1e-9
    }
}

/// What an inference does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Energy {
    /// All layers in order.
    pub layers: Vec<Layer>,
    /// Neurons times time steps, per sample.
    pub updates: u64,
    /// Multiplications of admitted residues that are no layers, per sample.
    pub others: u64,
}

impl Energy {
    /// Operations of all layers that are done this way, per sample.
    pub fn operations(&self, done: Done) -> f64 {
        self.layers.iter().filter(|l| l.done == done).map(Layer::operations).sum()
    }

    /// Millijoule per sample, by the convention.
    pub fn conventional(&self, costs: &Costs) -> f64 {
        self.layers.iter().map(|l| l.energy(costs)).sum()
    }

    /// Millijoule per sample with neurons, other multiplications, and memory: a weight for every operation; a membrane read and
    /// written, and a bit written, for every neuron and time step.
    pub fn whole(&self, costs: &Costs) -> f64 {
        let operations = self.operations(Done::Mac) + self.operations(Done::Ac);
        let neurons = self.updates as f64 * (2.0 * costs.ac + (2.0 + 1.0 / 32.0) * costs.word);
        let others = self.others as f64 * costs.mac;
        self.conventional(costs) + (operations * costs.word + neurons + others) * 1e-9
    }
}

/// The charged layers of a network: index in the folded graph, and the layer without its rate.
fn layers(checked: &Checked, folded: &Folded) -> Vec<(NodeId, Layer)> {
    let graph = checked.inference();
    let (written, dense) = (graph.dense(), folded.graph.dense());
    // A chain of maps is one map, and so is a convolution with the pool that it looks through.
    let joined = |how| if let How::Compose(with) | How::Widen(with) = how { Some(graph.node(with).path.as_str()) } else { None };
    let joined: Vec<&str> = checked.plan().nodes.iter().filter_map(|n| joined(n.how)).collect();
    let mut layers = Vec::new();
    for id in folded.graph.ids() {
        let node = folded.graph.node(id);
        let products = node.op.multiplies(&folded.graph.input_signals(node));
        let layer = products.iter().any(|m| matches!(m, Multiplication::Weights | Multiplication::Dot));
        if !layer && (!node.encoder || dense[id.index()] == 0) {
            continue;
        }
        let done = match folded.how[id.index()] {
            How::Encoder | How::Residue => Done::Mac,
            _ => Done::Ac,
        };
        let bound = if let How::AccumulateCount(n) = folded.how[id.index()] { n } else { 1 };
        // Counted as written: what folds add to a map, a bias, is not charged.
        let same = graph.ids().find(|i| graph.node(*i).path == node.path).filter(|_| !joined.contains(&node.path.as_str()));
        let dense = same.map_or(dense[id.index()], |i| written[i.index()]);
        layers.push((id, Layer { path: node.path.clone(), operator: node.op.word(), done, dense, bound, rate: 1.0 }));
    }
    layers
}

fn energy(checked: &Checked, layers: Vec<Layer>) -> Energy {
    let graph = checked.graph();
    let neurons = graph.nodes.iter().filter(|n| n.op.selection() == Selection::Neuron);
    let updates = neurons.map(|n| n.signal.elements() as u64 * graph.time as u64).sum();
    let residues = checked.findings().residues.iter();
    let others = residues.filter(|r| !layers.iter().any(|l| l.path == r.path)).map(|r| r.multiplications).sum();
    Energy { layers, updates, others }
}

/// Runs the folded network on the test set and charges what it did.
///
/// # Errors
/// If the network cannot be run.
pub fn measure(checked: &Checked, weights: &Weights, data: &Dataset, samples: usize) -> Result<Energy, EnergyError> {
    let indices: Vec<usize> = (0..data.test.labels.len().min(samples)).collect();
    let mut batches = indices.chunks(BATCH);
    let next = |pictures: &mut Vec<f32>| {
        let chunk = batches.next().unwrap_or_default();
        data.gather(&data.test, chunk, 0.0, 0, 0, pictures);
        chunk.len()
    };
    Ok(measured(checked, weights, next)?)
}

/// Runs the folded network on a batch `[B, (T,) axes…]` and charges what it did.
///
/// # Errors
/// If the network cannot be run.
pub fn on(checked: &Checked, weights: &Weights, pictures: &[f32], samples: usize) -> Result<Energy, SessionError> {
    let each = pictures.len() / samples.max(1);
    let mut batches = pictures.chunks((BATCH * each).max(1));
    measured(checked, weights, |own: &mut Vec<f32>| {
        own.clear();
        own.extend_from_slice(batches.next().unwrap_or_default());
        own.len() / each.max(1)
    })
}

/// `next` writes a batch, and gives its samples; none are the end.
fn measured(checked: &Checked, weights: &Weights, mut next: impl FnMut(&mut Vec<f32>) -> usize) -> Result<Energy, SessionError> {
    let folded = fold(checked);
    let mut session = Inference::new(checked, weights, BATCH, Watch::Operands)?;
    let mut sums: BTreeMap<(String, usize), f64> = BTreeMap::new();
    let (mut pictures, mut samples) = (Vec::new(), 0);
    loop {
        let count = next(&mut pictures);
        if count == 0 {
            break;
        }
        session.run(&pictures, count)?;
        samples += count;
        for (path, i, mean) in session.operands(checked.graph().time) {
            *sums.entry((path, i)).or_default() += mean * count as f64;
        }
    }
    let rate = |path: &str, i: usize| sums.get(&(path.to_owned(), i)).map_or(1.0, |sum| sum / samples.max(1) as f64);
    let charged = layers(checked, &folded).into_iter().map(|(id, layer)| {
        let node = folded.graph.node(id);
        let spikes = |i: &usize| folded.graph.node(node.inputs[*i]).signal.kind <= Kind::Count;
        let of_spikes = (0..node.inputs.len()).filter(spikes).map(|i| rate(&layer.path, i));
        let rate = of_spikes.fold(f64::INFINITY, f64::min);
        Layer { rate: if layer.done == Done::Mac { 1.0 } else { rate / layer.bound as f64 }, ..layer }
    });
    Ok(energy(checked, charged.collect()))
}

/// Charges a network at one firing rate of everything.
pub fn at_rate(checked: &Checked, rate: f64) -> Energy {
    let charged = layers(checked, &fold(checked)).into_iter().map(|(_, layer)| {
        let rate = if layer.done == Done::Mac { 1.0 } else { rate };
        Layer { rate, ..layer }
    });
    energy(checked, charged.collect())
}

/// A file of rates: a table of paths, or the report of an earlier measurement.
#[derive(Deserialize)]
struct Given {
    /// Of a report: the network it is about, and its time steps.
    model: Option<String>,
    time: Option<usize>,
    #[serde(default)]
    rates: BTreeMap<String, f64>,
    #[serde(default)]
    layers: Vec<GivenLayer>,
}

#[derive(Deserialize)]
struct GivenLayer {
    path: String,
    rate: f64,
}

/// Charges a network with given rates, by path of the layer: TOML or JSON with a table `rates`, or a report of `snnc energy`.
///
/// # Errors
/// A file that cannot be read, lacks a layer, or names one that there is not.
pub fn given(checked: &Checked, path: &Path) -> Result<Energy, EnergyError> {
    let refuse = |reason: String| EnergyError::Rates { path: path.display().to_string(), model: checked.graph().name.clone(), reason };
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Err(refuse("it is no file".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
    let json = path.extension().is_some_and(|e| e == "json");
    let file: Given = if json {
        serde_json::from_str::<Once>(&text).map_err(|e| refuse(e.to_string()))?;
        if !text.trim_start().starts_with('{') {
            return Err(refuse("it has no table `rates`".into()));
        }
        serde_json::from_str(&text).map_err(|e| refuse(e.to_string()))?
    } else {
        toml::from_str(&text).map_err(|e| refuse(e.message().to_owned()))?
    };
    let graph = checked.graph();
    if let Some(model) = file.model.filter(|m| *m != graph.name) {
        return Err(refuse(format!("it is a report of `{model}`")));
    }
    if let Some(time) = file.time.filter(|t| *t != graph.time) {
        return Err(refuse(format!("it was measured over {time} time steps, and there are {}", graph.time)));
    }
    if file.rates.is_empty() && file.layers.is_empty() {
        return Err(refuse("it has no table `rates`".into()));
    }
    let mut problems = Vec::new();
    let mut rates = file.rates;
    for layer in file.layers {
        if rates.insert(layer.path.clone(), layer.rate).is_some() {
            problems.push(format!("given twice: {}", layer.path));
        }
    }
    let folded = fold(checked);
    let mut charged = Vec::new();
    for (_, layer) in layers(checked, &folded) {
        let given = rates.remove(&layer.path);
        let rate = match (layer.done, given) {
            (Done::Mac, None) => 1.0,
            // A layer that multiplies does so whatever it reads; a report says 1.
            (Done::Mac, Some(rate)) if (0.0..=1.0).contains(&rate) => 1.0,
            (Done::Ac, Some(rate)) if (0.0..=1.0).contains(&rate) => rate.abs(),
            (_, Some(rate)) => {
                problems.push(format!("not between 0 and 1: {} = {rate}", layer.path));
                continue;
            }
            (Done::Ac, None) => {
                problems.push(format!("missing: {}", layer.path));
                continue;
            }
        };
        charged.push(Layer { rate, ..layer });
    }
    problems.extend(rates.keys().map(|path| format!("unknown: {path}")));
    if !problems.is_empty() {
        return Err(refuse(format!("\n  {}", problems.join("\n  "))));
    }
    Ok(energy(checked, charged))
}
