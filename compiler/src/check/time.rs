//! `fold(time)`: a leak that all neurons on a stream of currents share goes into tables over the time steps.
//!
//! With u_t = ρ^-t v_t the membrane v_t = ρ v_(t-1) + x_t becomes u_t = u_(t-1) + ρ^-t x_t, compared with ρ^-t θ: nothing leaks
//! any more. So everything on the way from spikes to the neuron is held ρ^-t times as large: maps have a weight for every
//! step, and where spikes are added or counted, each adds the step's constant.

use super::rules::leak::is_shift;
use super::{Context, Destination, How};
use crate::graph::{Fold, Graph};
use crate::ops::{Linearity, Multiplication, Selection};
use crate::types::{Kind, NodeId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The most steps from a neuron back to spikes.
const MAX_DEPTH: usize = 2000;
/// The largest factor in a table, and the inverse of the smallest.
const MAX_FACTOR: f64 = (1u64 << 40) as f64;

/// A value is held ρ^-t times as large as it is in the network as written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ramp {
    /// ρ, the leak that goes away.
    pub leak: f64,
    /// Of a product: the operand that is held so; of everything else all are.
    pub operand: Option<usize>,
}

impl Ramp {
    /// ρ^-t for every time step t, from 0.
    pub fn table(&self, time: usize) -> Vec<f64> {
        (0..time).map(|t| self.leak.powi(-i32::try_from(t).unwrap_or(i32::MAX))).collect()
    }
}

/// The leak of a node, if it is a neuron's and no shift.
fn leak(graph: &Graph, id: NodeId) -> Option<f64> {
    let node = graph.node(id);
    let products = node.op.multiplies(&graph.input_signals(node));
    let leak = products.into_iter().find_map(|m| if let Multiplication::Leak(leak) = m { Some(leak) } else { None })?;
    (!node.encoder && node.op.selection() == Selection::Neuron && !is_shift(leak)).then_some(leak)
}

/// For all nodes that hold a ramped value, and the neurons whose leak goes away: the ramp.
pub(super) fn plan(cx: &Context<'_>, asked: impl Fn(NodeId) -> bool) -> BTreeMap<NodeId, Ramp> {
    let mut groups: BTreeMap<u64, Vec<NodeId>> = BTreeMap::new();
    for id in cx.graph.ids().filter(|id| asked(*id)) {
        if let Some(leak) = leak(cx.graph, id).filter(|leak| tables(cx.graph, *leak)) {
            groups.entry(leak.to_bits()).or_default().push(id);
        }
    }
    let mut ramps = BTreeMap::new();
    for (bits, neurons) in groups {
        Group { cx, leak: f64::from_bits(bits), neurons, carries: HashMap::new(), depth: 0 }.settle(&mut ramps);
    }
    ramps
}

/// Why the leak of a neuron cannot go into tables: the table itself, a value on the way that cannot be ramped, or what reads
/// such a value as it is.
pub(super) fn blocker(cx: &Context<'_>, neuron: NodeId) -> Option<String> {
    let leak = leak(cx.graph, neuron)?;
    if !tables(cx.graph, leak) {
        let steps = cx.graph.time;
        return Some(format!("{leak:.6}^-{} is larger than 2^40, the largest factor of a table over the {steps} time steps", steps - 1));
    }
    let path = |id: NodeId| &cx.graph.node(id).path;
    let neurons = cx.graph.ids().filter(|id| asked(cx.graph, *id) && self::leak(cx.graph, *id) == Some(leak)).collect();
    let mut group = Group { cx, leak, neurons, carries: HashMap::new(), depth: 0 };
    let input = cx.graph.node(neuron).inputs[0];
    if !group.operand(neuron, 0) {
        let failed = group.carries.iter().filter(|(_, ramp)| ramp.is_none()).map(|(id, _)| *id).min().unwrap_or(input);
        return Some(format!("`{}` is on the way, and cannot be held so", path(failed)));
    }
    for id in group.neurons.clone() {
        group.operand(id, 0);
    }
    let members = group.members();
    members.keys().find(|m| !group.read_well(**m, &members)).map(|m| {
        let reads = |r: &&NodeId| !members.contains_key(r) && !group.neurons.contains(r);
        let reader = cx.readers[m.index()].iter().find(reads);
        let by = reader.map_or("cannot be held so".into(), |r| format!("`{}` reads it as it is", path(*r)));
        format!("`{}` is on the way, and {by}", path(*m))
    })
}

/// Whether tables for this leak have no factor that is too large.
fn tables(graph: &Graph, leak: f64) -> bool {
    leak.powi(1 - i32::try_from(graph.time).unwrap_or(i32::MAX)) <= MAX_FACTOR
}

/// Whether the `fold(time)` of the source is meant for a node.
pub(super) fn asked(graph: &Graph, id: NodeId) -> bool {
    graph.asked(graph.node(id), Fold::Time).is_some()
}

/// The neurons with one leak.
struct Group<'c, 'g> {
    cx: &'c Context<'g>,
    leak: f64,
    neurons: Vec<NodeId>,
    /// What is known of nodes: for those that can be ramped, how; none for those that cannot.
    carries: HashMap<NodeId, Option<Ramp>>,
    depth: usize,
}

impl Group<'_, '_> {
    /// Leaves out neurons until no value is read both by them and by something that needs it as it was.
    fn settle(mut self, ramps: &mut BTreeMap<NodeId, Ramp>) {
        loop {
            let kept: Vec<NodeId> = self.neurons.clone().into_iter().filter(|n| self.operand(*n, 0)).collect();
            let dropped = kept.len() < self.neurons.len();
            self.neurons = kept;
            let members = self.members();
            let bad: Vec<NodeId> = members.keys().copied().filter(|m| !self.read_well(*m, &members)).collect();
            if bad.is_empty() && !dropped {
                ramps.extend(members);
                ramps.extend(self.neurons.iter().map(|n| (*n, Ramp { leak: self.leak, operand: None })));
                return;
            }
            self.carries.retain(|_, carries| carries.is_none());
            self.carries.extend(bad.into_iter().map(|b| (b, None)));
        }
    }

    /// All nodes on the way from spikes to the neurons.
    fn members(&self) -> BTreeMap<NodeId, Ramp> {
        let mut members = BTreeMap::new();
        let mut waiting: Vec<NodeId> = self.neurons.iter().map(|n| self.cx.graph.node(*n).inputs[0]).collect();
        while let Some(id) = waiting.pop() {
            let Some(Some(ramp)) = self.carries.get(&id) else { continue };
            if members.insert(id, *ramp).is_some() || self.makes(id) {
                continue;
            }
            let inputs = self.cx.graph.node(id).inputs.iter().enumerate();
            waiting.extend(inputs.filter(|(i, _)| ramp.operand.is_none_or(|k| k == *i)).map(|(_, id)| *id));
        }
        members
    }

    /// A map that reads spikes: the ramp begins in its weights.
    fn makes(&self, id: NodeId) -> bool {
        let map = matches!(self.cx.graph.node(id).op.linearity(), Linearity::Map { .. });
        map && matches!(self.cx.plan[id.index()].how, How::Accumulate | How::AccumulateCount(_))
    }

    fn read_well(&self, id: NodeId, members: &BTreeMap<NodeId, Ramp>) -> bool {
        let reads = |reader: NodeId| match members.get(&reader) {
            Some(ramp) => {
                let node = self.cx.graph.node(reader);
                let mut places = node.inputs.iter().enumerate().filter(|(_, input)| **input == id);
                !self.makes(reader) && places.all(|(i, _)| ramp.operand.is_none_or(|k| k == i))
            }
            None => self.neurons.contains(&reader),
        };
        id != self.cx.graph.output && self.cx.readers[id.index()].iter().all(|r| reads(*r))
    }

    /// Operand `i` of a node can be ramped.
    fn operand(&mut self, id: NodeId, i: usize) -> bool {
        let input = self.cx.graph.node(id).inputs[i];
        let node = self.cx.graph.node(input);
        // A spike picks the step's constant, and the encoder may multiply.
        node.encoder || self.is_spike(input) || self.carries(input)
    }

    fn is_spike(&self, id: NodeId) -> bool {
        // Where an amplitude was selected before, it is none any more.
        self.cx.graph.node(id).signal.kind == Kind::Spike && self.cx.plan[id.index()].signal.kind == Kind::Spike
    }

    fn carries(&mut self, id: NodeId) -> bool {
        if let Some(known) = self.carries.get(&id) {
            return known.is_some();
        }
        self.depth += 1;
        let ramp = if self.depth <= MAX_DEPTH { self.ramp(id) } else { None };
        self.depth -= 1;
        self.carries.insert(id, ramp);
        ramp.is_some()
    }

    fn ramp(&mut self, id: NodeId) -> Option<Ramp> {
        let (graph, plan) = (self.cx.graph, &self.cx.plan[id.index()]);
        let node = graph.node(id);
        let ramp = Ramp { leak: self.leak, operand: None };
        let stays = matches!(plan.factor, Some(Destination::Residue | Destination::Encoder));
        if id == graph.output || stays || plan.how == How::Residue {
            return None;
        }
        let all = match node.op.linearity() {
            Linearity::Map { input_axis, output_axis, .. } => {
                let over_time = input_axis == "T" || output_axis == "T";
                let varies = graph.node(*node.inputs.first()?).signal.varies;
                !over_time && varies && (self.makes(id) || matches!(plan.how, How::Compose(_)) && self.operand(id, 0))
            }
            Linearity::Sum(axes) if axes.iter().any(|a| a == "T") => false,
            Linearity::None => node.op.selection() == Selection::Maximum && self.operand(id, 0),
            Linearity::Each => {
                let real = |i: usize| !self.is_spike(node.inputs[i]);
                // The other one must be a spike, which picks what it meets.
                let order = if real(1) { [1, 0] } else { [0, 1] };
                let operand = order.into_iter().find(|i| !real(1 - *i) && !graph.node(node.inputs[1 - *i]).encoder)?;
                return self.operand(id, operand).then_some(Ramp { operand: Some(operand), ..ramp });
            }
            _ => (0..node.inputs.len()).all(|i| self.operand(id, i)),
        };
        all.then_some(ramp)
    }
}

/// The weights that tables for these maps have more than the maps.
pub(super) fn extra(cx: &Context<'_>, ramps: &BTreeMap<NodeId, Ramp>) -> Vec<(NodeId, u64)> {
    let copies = cx.graph.time as u64 - 1;
    let map = |id: &NodeId| matches!(cx.plan[id.index()].how, How::Accumulate | How::AccumulateCount(_));
    ramps.keys().filter(|id| map(id)).filter_map(|id| Some((*id, cx.chains.weights(cx, *id)? * copies))).collect()
}

/// The multiplications that the encoder has more where what it gives is held in tables.
pub(super) fn encoder_extra(cx: &Context<'_>, ramps: &BTreeMap<NodeId, Ramp>) -> u64 {
    let given = |(id, ramp): (&NodeId, &Ramp)| {
        let operands = cx.graph.node(*id).inputs.clone().into_iter().enumerate();
        let (operand, leak) = (ramp.operand, ramp.leak.to_bits());
        operands.filter(move |(i, _)| operand.is_none_or(|k| k == *i)).map(move |(_, input)| (input, leak))
    };
    let values: BTreeSet<(NodeId, u64)> = ramps.iter().flat_map(given).filter(|(id, _)| cx.graph.node(*id).encoder).collect();
    values.iter().map(|(id, _)| (cx.graph.node(*id).signal.elements() * cx.graph.time) as u64).sum()
}
