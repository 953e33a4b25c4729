//! Graphs to tensor primitives: inference programs from folded graphs, training programs by differentiation.
//!
//! Traversal only: what an operator does, forward and backward, stands in its own file.

use crate::check::{Checked, How};
use crate::flow::{Bin, Cmp, Def, Dims, Flow, FlowId, Operand, Region, Scalar, Sink, Source, Un};
use crate::fold::Folded;
use crate::graph::Graph;
use crate::kernel::Format;
use crate::ops::{Backward, Forward, Linearity, Role, Selection};
use crate::types::{Axis, NodeId, ParamId, STEPS, Signal};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How parameters are updated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Optimizer {
    /// m ← μ m + g + λ p; p ← p - lr m (PyTorch's `SGD`).
    Sgd {
        /// μ
        momentum: f64,
        /// λ
        weight_decay: f64,
    },
    /// Loshchilov and Hutter 2019, algorithm 2, as PyTorch's `AdamW`.
    AdamW {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root.
        epsilon: f64,
        /// Weight decay; none on parameters of at most one axis.
        weight_decay: f64,
    },
}

impl Optimizer {
    /// How many tensors it keeps for a parameter.
    pub fn moments(&self) -> u8 {
        match self {
            Optimizer::Sgd { .. } => 1,
            Optimizer::AdamW { .. } => 2,
        }
    }
}

/// The numbers that the caller sets for each step, by their place in [`Scalar::Hyper`].
pub mod hyper {
    /// Learning rate.
    pub const RATE: usize = 0;
    /// 1 / (1 - β₁^t)
    pub const CORRECT1: usize = 1;
    /// 1 / (1 - β₂^t)
    pub const CORRECT2: usize = 2;
    /// A whole number below 2^24, another for every step: what [`crate::flow::Scalar::Random`] draws from.
    pub const SEED: usize = 3;
    /// In mixed precision: what the loss is multiplied with, a power of two, so that small gradients do not vanish in 16 bits.
    pub const SCALE: usize = 4;
    /// One by that.
    pub const UNSCALE: usize = 5;
}

/// The primitives of a training step: forward, loss, backward, and updates or gradients.
#[derive(Clone, Debug)]
pub struct Differentiated {
    /// The primitives.
    pub flow: Flow,
}

struct Lowered {
    flow: Flow,
    /// Running statistics that this step has changed.
    changed: HashMap<ParamId, FlowId>,
    values: Vec<FlowId>,
    saved: Vec<Vec<FlowId>>,
}

fn lower(graph: &Graph, train: bool, drops: bool, narrow: bool, how: Option<&[How]>) -> Lowered {
    let mut l = Lowered { flow: Flow::default(), changed: HashMap::new(), values: Vec::new(), saved: Vec::new() };
    for id in graph.ids() {
        let node = graph.node(id);
        l.flow.label.clone_from(&node.path);
        let first = l.flow.tensors.len();
        let mut params = params(graph, id, &mut l.flow, how.is_none());
        // A shared instance goes on from the statistics of its use before.
        for (flow, param) in params.iter_mut().zip(&node.params) {
            *flow = l.changed.get(param).copied().unwrap_or(*flow);
        }
        let mut cx = Forward {
            flow: &mut l.flow,
            inputs: node.inputs.iter().map(|i| l.values[i.index()]).collect(),
            signals: signals(graph, id),
            out: &node.signal,
            params,
            train,
            drops,
            narrow,
            time: graph.time,
            saved: vec![],
            running: vec![],
        };
        let value = node.op.forward(&mut cx);
        let (saved, running) = (cx.saved, cx.running);
        l.changed.extend(running.into_iter().map(|(i, new)| (node.params[i], new)));
        let operand = match how.and_then(|h| h.get(id.index())) {
            Some(How::Accumulate | How::AndCount | How::MaskedAccumulate) => Operand::Spikes,
            Some(How::AccumulateCount(n)) => Operand::Count(*n),
            _ => Operand::Real,
        };
        let region = match how.and_then(|h| h.get(id.index())) {
            Some(_) if node.encoder => Region::Encoder,
            Some(How::Residue) => Region::Residue,
            _ => Region::Free,
        };
        l.flow.tensors[first..].iter_mut().for_each(|t| (t.operand, t.region) = (operand, region));
        if operand != Operand::Real {
            let inputs = node.inputs.iter().enumerate();
            l.flow.sinks.extend(inputs.map(|(i, input)| (Sink::Operand(node.path.clone(), i), l.values[input.index()])));
        }
        if node.op.selection() == Selection::Neuron {
            l.flow.sinks.push((Sink::Spikes(node.path.clone()), value));
        }
        l.saved.push(saved);
        l.values.push(value);
    }
    l.flow.input = graph.node(graph.input).signal.axes.iter().map(|a| a.name.clone()).collect();
    let mut changed: Vec<(ParamId, FlowId)> = l.changed.iter().map(|(p, id)| (*p, *id)).collect();
    changed.sort();
    l.flow.sinks.extend(changed.into_iter().map(|(p, id)| (Sink::Update(Source::Param(p)), id)));
    l.flow.sinks.push((Sink::Logits, l.values[graph.output.index()]));
    l
}

fn signals(graph: &Graph, id: NodeId) -> Vec<&Signal> {
    graph.node(id).inputs.iter().map(|i| &graph.node(*i).signal).collect()
}

/// The parameters of a node. For inference the data of a weight is kept with its outputs last, so that one spike adds
/// one contiguous row.
fn params(graph: &Graph, id: NodeId, flow: &mut Flow, as_written: bool) -> Vec<FlowId> {
    let dims = |p: ParamId| {
        let axes = &graph.param(p).axes;
        if as_written { Dims::param(axes) } else { Dims::param(&inference_axes(axes)) }
    };
    graph.node(id).params.iter().map(|p| flow.source(Source::Param(*p), dims(*p))).collect()
}

/// The order in which an inference program keeps the axes of a parameter.
pub fn inference_axes(axes: &[Axis]) -> Vec<Axis> {
    let mut axes = axes.to_vec();
    axes.sort_by_key(|a| [STEPS, "in", "out"].iter().position(|n| *n == a.name).map_or(1, |i| [0, 2, 3][i]));
    axes
}

/// What a folded inference shows of itself besides the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Nothing.
    Nothing,
    /// The spikes of all neurons.
    Spikes,
    /// What all layers read that work on spikes.
    Operands,
}

/// The primitives of a folded inference.
pub fn infer(folded: &Folded, watch: Watch) -> Flow {
    let mut flow = lower(&folded.graph, false, false, false, Some(&folded.how)).flow;
    flow.sinks.retain(|(sink, _)| match sink {
        Sink::Spikes(_) => watch == Watch::Spikes,
        Sink::Operand(..) => watch == Watch::Operands,
        _ => true,
    });
    flow
}

/// The primitives of an unfolded inference, with running statistics, as the network is written.
pub fn infer_unfolded(checked: &Checked) -> Flow {
    lower(checked.graph(), false, false, false, None).flow
}

/// Differentiates a checked graph. With an optimizer the parameters are updated in place; without one the gradients
/// are results. In f16 the loss is scaled, and parameters are updated only if all gradients are finite; [`Sink::Overflow`] says
/// whether they were not.
pub fn differentiate(checked: &Checked, optimizer: Option<Optimizer>, precision: Format) -> Differentiated {
    let scaled = precision == Format::F16;
    let graph = checked.graph();
    let Lowered { mut flow, values, saved, .. } = lower(graph, true, optimizer.is_some(), precision != Format::F32, None);
    if optimizer.is_some() {
        flow.sinks.retain(|(sink, _)| !matches!(sink, Sink::Spikes(_)));
    }
    flow.label = "loss".into();
    let mut dlogits = loss(graph, &mut flow, values[graph.output.index()]);
    if scaled {
        dlogits = flow.map(&[dlogits], Scalar::Arg(0) * Scalar::Hyper(hyper::SCALE));
    }
    let mut grads: Vec<Option<FlowId>> = vec![None; graph.nodes.len()];
    let mut param_grads: Vec<Option<FlowId>> = vec![None; graph.params.len()];
    let (wanted, same) = (trained_before(graph), same_sums(graph));
    grads[same[graph.output.index()].index()] = Some(dlogits);
    for id in graph.ids().rev() {
        let Some(grad) = grads[id.index()] else { continue };
        let node = graph.node(id);
        flow.label = format!("grad.{}", node.path);
        let params = params(graph, id, &mut flow, true);
        let mut cx = Backward {
            inputs: node.inputs.iter().map(|i| values[i.index()]).collect(),
            signals: signals(graph, id),
            out: &node.signal,
            time: graph.time,
            value: values[id.index()],
            saved: &saved[id.index()],
            grad,
            wanted: node.inputs.iter().map(|i| wanted[i.index()]).collect(),
            input_grads: vec![None; node.inputs.len()],
            param_grads: vec![None; params.len()],
            params,
            flow: &mut flow,
        };
        node.op.backward(&mut cx);
        let (input_grads, own_grads) = (cx.input_grads, cx.param_grads);
        for (input, grad) in node.inputs.iter().zip(input_grads) {
            join(&mut flow, &mut grads[same[input.index()].index()], grad);
        }
        for (param, grad) in node.params.iter().zip(own_grads) {
            join(&mut flow, &mut param_grads[param.index()], grad);
        }
    }
    let trained = param_grads.into_iter().enumerate().filter_map(|(i, grad)| Some((ParamId::new(i), grad?)));
    let trained: Vec<(ParamId, FlowId)> = trained.filter(|(id, _)| graph.param(*id).role == Role::Trained).collect();
    let mut overflow = None;
    if scaled {
        flow.label = "overflow".into();
        let found = flow.push(Def::Overflow { of: trained.iter().map(|(_, grad)| *grad).collect() }, Dims::param(&[]));
        flow.sinks.push((Sink::Overflow, found));
        overflow = Some(found);
    }
    for (id, grad) in trained {
        flow.label = format!("update.{}", graph.param(id).path);
        match optimizer {
            None if scaled => {
                let own = flow.map(&[grad], Scalar::Arg(0) * Scalar::Hyper(hyper::UNSCALE));
                flow.sinks.push((Sink::Gradient(id), own));
            }
            None => flow.sinks.push((Sink::Gradient(id), grad)),
            Some(optimizer) => update(graph, &mut flow, id, grad, optimizer, overflow),
        }
    }
    Differentiated { flow }
}

fn join(flow: &mut Flow, slot: &mut Option<FlowId>, grad: Option<FlowId>) {
    if let Some(grad) = grad {
        *slot = Some(slot.map_or(grad, |sum| flow.add(sum, grad)));
    }
}

/// For every node the first that is the same sum of the same: gradients of all of them are that one's, and go on from there once.
fn same_sums(graph: &Graph) -> Vec<NodeId> {
    let mut same = Vec::with_capacity(graph.nodes.len());
    let mut known: HashMap<Vec<NodeId>, Vec<NodeId>> = HashMap::new();
    for id in graph.ids() {
        let node = graph.node(id);
        let mut first = id;
        if matches!(node.op.linearity(), Linearity::Add) {
            let alike = known.entry(node.inputs.iter().map(|i| same[i.index()]).collect()).or_default();
            // A difference is a sum with another sign.
            match alike.iter().find(|other| graph.node(**other).op == node.op) {
                Some(other) => first = *other,
                None => alike.push(id),
            }
        }
        same.push(first);
    }
    same
}

/// For every node, whether a trained parameter lies at it or before it.
fn trained_before(graph: &Graph) -> Vec<bool> {
    let mut wanted = vec![false; graph.nodes.len()];
    for id in graph.ids() {
        let node = graph.node(id);
        let own = node.params.iter().any(|p| graph.param(*p).role == Role::Trained);
        wanted[id.index()] = own || node.inputs.iter().any(|i| wanted[i.index()]);
    }
    wanted
}

/// Mean cross entropy with a target distribution, and its gradient with respect to the logits.
fn loss(graph: &Graph, flow: &mut Flow, logits: FlowId) -> FlowId {
    let dims = flow.dims(logits).clone();
    let target = flow.source(Source::Target, dims.clone());
    let rows = Dims { axes: vec![], ..dims };
    debug_assert_eq!(graph.classes(), dims.elements());
    let largest = flow.push(Def::Reduce { input: logits, max: true }, rows.clone());
    let powers = flow.map(&[logits, largest], (Scalar::Arg(0) - Scalar::Arg(1)).un(Un::Exp));
    let sum = flow.sum_to(powers, &rows);
    let terms = flow.map(
        &[logits, largest, sum, target],
        Scalar::Arg(3) * (Scalar::Arg(1) + Scalar::Arg(2).un(Un::Ln) - Scalar::Arg(0)) / Scalar::Batch,
    );
    let loss = flow.sum_to(terms, &Dims::param(&[]));
    flow.sinks.push((Sink::Loss, loss));
    flow.map(
        &[logits, largest, sum, target],
        ((Scalar::Arg(0) - Scalar::Arg(1)).un(Un::Exp) / Scalar::Arg(2) - Scalar::Arg(3)) / Scalar::Batch,
    )
}

/// New values of a parameter and its moments, in place; the old ones if gradients have overflown.
fn update(graph: &Graph, flow: &mut Flow, id: ParamId, grad: FlowId, optimizer: Optimizer, overflow: Option<FlowId>) {
    // The same data under one flat axis: the gradient's axes may be named after the signal's.
    let axis = Axis::new("flat", graph.param(id).elements());
    let dims = Dims::param(std::slice::from_ref(&axis));
    let flat = |flow: &mut Flow, of: FlowId| {
        let from: Vec<String> = flow.dims(of).axes.iter().map(|a| a.name.clone()).collect();
        flow.reshape(of, &from, vec![axis.clone()])
    };
    let own = flow.source(Source::Param(id), Dims::param(&graph.param(id).axes));
    let (p, g) = (flat(flow, own), flat(flow, grad));
    let m = flow.source(Source::Moment(id, 0), dims.clone());
    let rate = Scalar::Hyper(hyper::RATE);
    let decays = graph.param(id).axes.len() > 1;
    let clamped = |new: Scalar| graph.param(id).min.map_or(new.clone(), |min| new.bin(Bin::Max, Scalar::Const(min)));
    // Of (what is updated, others): the first is the old value.
    let kept = |flow: &mut Flow, inputs: &[FlowId], new: Scalar| match overflow {
        None => flow.map(inputs, new),
        Some(overflow) => {
            let found = Scalar::Arg(inputs.len());
            let whole = found.select(Cmp::Eq, Scalar::Const(0.0), new, Scalar::Arg(0));
            flow.map(&[inputs, &[overflow]].concat(), whole)
        }
    };
    let arg_g = if overflow.is_some() { Scalar::Arg(1) * Scalar::Hyper(hyper::UNSCALE) } else { Scalar::Arg(1) };
    match optimizer {
        Optimizer::Sgd { momentum, weight_decay } => {
            let g_all = if weight_decay == 0.0 { arg_g } else { arg_g + Scalar::Arg(2) * weight_decay };
            let new_m = kept(flow, &[m, g, p], Scalar::Arg(0) * momentum + g_all);
            let new_p = kept(flow, &[p, new_m], clamped(Scalar::Arg(0) - rate * Scalar::Arg(1)));
            flow.sinks.push((Sink::Update(Source::Moment(id, 0)), new_m));
            flow.sinks.push((Sink::Update(Source::Param(id)), new_p));
        }
        Optimizer::AdamW { beta1, beta2, epsilon, weight_decay } => {
            let v = flow.source(Source::Moment(id, 1), dims);
            let new_m = kept(flow, &[m, g], Scalar::Arg(0) * beta1 + arg_g.clone() * (1.0 - beta1));
            let new_v = kept(flow, &[v, g], Scalar::Arg(0) * beta2 + arg_g.clone() * arg_g * (1.0 - beta2));
            let root = (Scalar::Arg(2) * Scalar::Hyper(hyper::CORRECT2)).un(Un::Sqrt) + epsilon;
            let step = rate.clone() * (Scalar::Arg(1) * Scalar::Hyper(hyper::CORRECT1)) / root;
            let old = Scalar::Arg(0);
            let shrunk = if decays && weight_decay > 0.0 { old.clone() - rate * old * weight_decay } else { old };
            let new_p = kept(flow, &[p, new_m, new_v], clamped(shrunk - step));
            flow.sinks.push((Sink::Update(Source::Moment(id, 0)), new_m));
            flow.sinks.push((Sink::Update(Source::Moment(id, 1)), new_v));
            flow.sinks.push((Sink::Update(Source::Param(id)), new_p));
        }
    }
}
