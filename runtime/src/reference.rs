//! The reference executor: the unfused graph, operator by operator, in plain loops, in f32 or f64. The oracle of all
//! tests; it shares no code with fusion, kernels or backends.

use ndarray::{ArrayD, Axis, IxDyn};
use snnc_compiler::graph::{Graph, Node};
use snnc_compiler::ops::{Eval, Evaluated, Linearity, Real, Selection, real};
use snnc_compiler::types::{Kind, NodeId, ParamId, STEPS};
use std::collections::BTreeMap;

/// What a run gives.
#[derive(Debug)]
pub struct Run<F> {
    /// The value of every node, `[T or 1, B, axes…]`.
    pub values: Vec<ArrayD<F>>,
    /// Logits `[B, K]`.
    pub logits: ArrayD<F>,
    /// Mean cross entropy, if labels were given.
    pub loss: Option<F>,
    /// Gradients with respect to the parameters, if labels were given in training.
    pub grads: Vec<Option<ArrayD<F>>>,
    /// New running statistics.
    pub running: Vec<(ParamId, ArrayD<F>)>,
    /// Spikes of every neuron: (path, count per time step).
    pub spikes: Vec<(String, Vec<u64>)>,
}

/// Brings a batch `[B, axes…]` or, for frames, `[B, T, axes…]` into the executor's order.
pub fn arrange<F: Real>(graph: &Graph, batch: ArrayD<F>) -> ArrayD<F> {
    if graph.node(graph.input).signal.varies {
        let mut order: Vec<usize> = (0..batch.ndim()).collect();
        order.swap(0, 1);
        batch.permuted_axes(IxDyn(&order)).as_standard_layout().into_owned()
    } else {
        batch.insert_axis(Axis(0))
    }
}

/// Runs the graph on a batch in the executor's order. With labels in training, gradients too.
pub fn run<F: Real>(graph: &Graph, params: &[ArrayD<F>], input: &ArrayD<F>, labels: Option<&[usize]>, train: bool) -> Run<F> {
    let mut values: Vec<ArrayD<F>> = Vec::with_capacity(graph.nodes.len());
    let mut running: BTreeMap<ParamId, ArrayD<F>> = BTreeMap::new();
    let mut spikes = Vec::new();
    for id in graph.ids() {
        let node = graph.node(id);
        let value = if id == graph.input {
            input.clone()
        } else {
            let mut context = context(graph, id, &values, params, train);
            // A shared instance goes on from the statistics of its use before.
            for (value, param) in context.params.iter_mut().zip(&node.params) {
                *value = running.get(param).unwrap_or(*value);
            }
            let evaluated = if in_tables(graph, id) { by_steps(node, &context) } else { node.op.eval(&context) };
            running.extend(evaluated.running.into_iter().map(|(i, v)| (node.params[i], v)));
            evaluated.value
        };
        if node.op.selection() == Selection::Neuron {
            let counts = value.axis_iter(Axis(0)).map(|step| step.iter().filter(|s| **s != F::zero()).count() as u64).collect();
            spikes.push((node.path.clone(), counts));
        }
        values.push(value);
    }
    let logits = values[graph.output.index()].index_axis(Axis(0), 0).to_owned();
    let mut grads = vec![None; graph.params.len()];
    let mut loss = None;
    if let Some(labels) = labels {
        let (value, dlogits) = cross_entropy(&logits, labels);
        loss = Some(value);
        if train {
            grads = backward(graph, params, &values, dlogits.insert_axis(Axis(0)));
        }
    }
    Run { values, logits, loss, grads, running: running.into_iter().collect(), spikes }
}

/// Whether no neuron would fire otherwise if what it reads were larger, or smaller, by so much at all time steps: no rounding of that
/// size changes a spike. Ties that are exact, such as of spikes with a threshold of 1, do not count.
pub fn steady(graph: &Graph, params: &[ArrayD<f64>], input: &ArrayD<f64>, by: f64) -> bool {
    const TIE: f64 = 1e-12;
    let values = run(graph, params, input, None, false).values;
    let neurons = graph.ids().filter(|id| graph.node(*id).op.selection() == Selection::Neuron);
    neurons.into_iter().all(|id| {
        let read = &values[graph.node(id).inputs[0].index()];
        let moved = |by: f64| {
            let read = read.mapv(|x| x + by);
            let mut context = context(graph, id, &values, params, false);
            context.inputs[0] = &read;
            graph.node(id).op.eval(&context).value
        };
        let [least, less, more, most] = [-by, -TIE, TIE, by].map(moved);
        let changes = values[id.index()].iter().zip(&least).zip(&less).zip(&more).zip(&most);
        changes.into_iter().all(|((((as_is, least), less), more), most)| {
            let tie = as_is != less || as_is != more;
            tie || as_is == least && as_is == most
        })
    })
}

/// A map of a folded graph whose weights are another at every time step.
fn in_tables(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let weighs = matches!(node.op.linearity(), Linearity::Map { .. });
    weighs && node.params.iter().any(|p| graph.param(*p).axes.first().is_some_and(|a| a.name == STEPS))
}

/// One time step after the other, each with its own part of the parameters.
fn by_steps<F: Real>(node: &Node, e: &Eval<'_, F>) -> Evaluated<F> {
    let part = |a: &ArrayD<F>, t: usize| a.index_axis(Axis(0), t.min(a.shape()[0] - 1)).to_owned();
    let step = |t: usize| {
        let inputs: Vec<ArrayD<F>> = e.inputs.iter().map(|x| part(x, t).insert_axis(Axis(0))).collect();
        let params: Vec<ArrayD<F>> = e.params.iter().map(|p| part(p, t)).collect();
        let (inputs, params) = (inputs.iter().collect(), params.iter().collect());
        node.op.eval(&Eval { inputs, signals: e.signals.clone(), out: e.out, params, train: false, time: 1 }).value
    };
    let steps: Vec<ArrayD<F>> = (0..e.time).map(step).collect();
    let views: Vec<_> = steps.iter().map(|s| s.view()).collect();
    ndarray::concatenate(Axis(0), &views).unwrap_or_else(|_| steps[0].clone()).into()
}

fn context<'a, F: Real>(graph: &'a Graph, id: NodeId, values: &'a [ArrayD<F>], params: &'a [ArrayD<F>], train: bool) -> Eval<'a, F> {
    let node = graph.node(id);
    Eval {
        inputs: node.inputs.iter().map(|i| &values[i.index()]).collect(),
        signals: node.inputs.iter().map(|i| &graph.node(*i).signal).collect(),
        out: &node.signal,
        params: node.params.iter().map(|p| &params[p.index()]).collect(),
        train,
        time: graph.time,
    }
}

/// What every node counts per sample if all neurons fire at all steps and all spikes of the input are there,
/// `[T or 1, 1, axes…]`; none where values are no counts.
pub fn all_fire(graph: &Graph) -> Vec<Option<ArrayD<f64>>> {
    let mut counts: Vec<Option<ArrayD<f64>>> = Vec::with_capacity(graph.nodes.len());
    for id in graph.ids() {
        let node = graph.node(id);
        let known = node.inputs.iter().all(|i| counts[i.index()].is_some()) && node.params.is_empty();
        let value = match node.signal.kind {
            Kind::Spike if id == graph.input || node.op.selection() == Selection::Neuron => {
                let steps = if node.signal.varies { graph.time } else { 1 };
                let shape: Vec<usize> = [steps, 1].into_iter().chain(node.signal.axes.iter().map(|a| a.size)).collect();
                Some(ArrayD::ones(shape))
            }
            Kind::Spike | Kind::Count if known => {
                let inputs = node.inputs.iter().filter_map(|i| counts[i.index()].as_ref()).collect();
                let signals = node.inputs.iter().map(|i| &graph.node(*i).signal).collect();
                let context = Eval { inputs, signals, out: &node.signal, params: vec![], train: false, time: graph.time };
                Some(node.op.eval(&context).value)
            }
            _ => None,
        };
        counts.push(value);
    }
    counts
}

/// Additions of weights that a map does per sample for an operand that counts so many spikes at every place, biases apart.
pub fn additions(graph: &Graph, id: NodeId, counts: &ArrayD<f64>) -> u64 {
    let node = graph.node(id);
    let params: Vec<ArrayD<f64>> = node
        .params
        .iter()
        .enumerate()
        .map(|(i, p)| ArrayD::from_elem(IxDyn(&graph.param(*p).shape()), if i == 0 { 1.0 } else { 0.0 }))
        .collect();
    let context = Eval {
        inputs: vec![counts],
        signals: node.inputs.iter().map(|i| &graph.node(*i).signal).collect(),
        out: &node.signal,
        params: params.iter().collect(),
        train: false,
        time: graph.time,
    };
    let result = if in_tables(graph, id) { by_steps(node, &context) } else { node.op.eval(&context) };
    result.value.sum().round() as u64
}

/// Mean cross entropy of logits `[B, K]` and its gradient.
fn cross_entropy<F: Real>(logits: &ArrayD<F>, labels: &[usize]) -> (F, ArrayD<F>) {
    let batch = real::<F>(labels.len() as f64);
    let mut gradient = ArrayD::zeros(logits.raw_dim());
    let mut loss = F::zero();
    for ((row, mut out), &label) in logits.outer_iter().zip(gradient.outer_iter_mut()).zip(labels) {
        let largest = row.iter().copied().fold(F::neg_infinity(), F::max);
        let sum: F = row.iter().map(|x| (*x - largest).exp()).sum();
        for (k, (x, out)) in row.iter().zip(out.iter_mut()).enumerate() {
            let p = (*x - largest).exp() / sum;
            *out = (p - if k == label { F::one() } else { F::zero() }) / batch;
        }
        loss += (largest + sum.ln() - row[label]) / batch;
    }
    (loss, gradient)
}

fn backward<F: Real>(graph: &Graph, params: &[ArrayD<F>], values: &[ArrayD<F>], dlogits: ArrayD<F>) -> Vec<Option<ArrayD<F>>> {
    let mut grads: Vec<Option<ArrayD<F>>> = vec![None; graph.params.len()];
    let mut flowing: Vec<Option<ArrayD<F>>> = vec![None; graph.nodes.len()];
    flowing[graph.output.index()] = Some(dlogits);
    for id in graph.ids().rev() {
        let Some(grad) = flowing[id.index()].take() else { continue };
        if id == graph.input {
            continue;
        }
        let node = graph.node(id);
        let value = &values[id.index()];
        let grad = grad.broadcast(value.raw_dim()).map_or_else(|| grad.clone(), |g| g.to_owned());
        let result = node.op.vjp(&context(graph, id, values, params, true), value, &grad);
        for (input, grad) in node.inputs.iter().zip(result.inputs) {
            let shape = values[input.index()].shape();
            let grad = if shape[0] == 1 && grad.shape()[0] > 1 { grad.sum_axis(Axis(0)).insert_axis(Axis(0)) } else { grad };
            accumulate(&mut flowing[input.index()], grad);
        }
        for (param, grad) in node.params.iter().zip(result.params) {
            if let Some(grad) = grad {
                accumulate(&mut grads[param.index()], grad);
            }
        }
    }
    grads
}

fn accumulate<F: Real>(slot: &mut Option<ArrayD<F>>, grad: ArrayD<F>) {
    *slot = Some(match slot.take() {
        Some(sum) if sum.shape()[0..1] == grad.shape()[0..1] => sum + grad,
        Some(sum) if sum.len() >= grad.len() => sum + &grad,
        Some(sum) => grad + &sum,
        None => grad,
    });
}
