//! Carries out the fold plan: constant factors move into weights, thresholds and biases; what multiplied is gone.
//!
//! A value of the folded graph stands for `scale ⊙ value + shift` of the original one; the pair travels with it until a
//! map or a neuron takes it. The folded parameters are expressions over the original ones, computed once per set of
//! weights by [`prepare()`]. Nothing is decided here: where a factor goes stands in the plan.

mod maps;
mod neurons;
mod picks;
mod prepare;

pub use prepare::{Expr, Originals, prepare};

use crate::check::{Checked, Destination, How, NodePlan};
use crate::graph::{Graph, Node, Param};
use crate::ops::{Init, Linearity, Multiplication, Op, Role, Selection, adaptive_avg_pool, avg_pool, mean};
use crate::types::{Axis, NodeId, ParamId, STEPS, Signal};
use ndarray::ArrayD;
use std::collections::HashMap;

/// A folded graph with the expressions of its parameters.
#[derive(Clone, Debug)]
pub struct Folded {
    /// The graph; its parameters are those below.
    pub graph: Graph,
    /// How each parameter is computed from the original ones.
    pub prepare: Vec<Expr>,
    /// The original parameters, in the order [`Expr::Param`] counts them.
    pub originals: Vec<Param>,
    /// For every node of the folded graph, how it is done.
    pub how: Vec<How>,
}

/// What a folded value must be multiplied with and added to, to give the original one.
#[derive(Clone, Default)]
struct Carry {
    scale: Option<Expr>,
    shift: Option<Expr>,
}

/// A step behind a map that the map takes: y = scale · x + shift.
struct Step {
    scale: Option<Expr>,
    shift: Option<Expr>,
    /// The map composed behind this one, with what its operand carries.
    map: Option<NodeId>,
    /// Over how many values the results were summed before this step.
    summed: f64,
}

impl Folded {
    /// The values of a parameter in f32, the programs' type.
    ///
    /// # Errors
    /// The first that is too large for it, or a threshold too small.
    pub fn held(&self, param: ParamId, values: &ArrayD<f64>) -> Result<Vec<f32>, f64> {
        let threshold = |node: &Node| node.op.selection() == Selection::Neuron && node.params.first() == Some(&param);
        let least = if self.graph.nodes.iter().any(threshold) { f32::MIN_POSITIVE } else { f32::MIN };
        let held = |value: &f64| Some(*value as f32).filter(|x| x.is_finite() && *x >= least).ok_or(*value);
        values.iter().map(held).collect()
    }
}

/// Carries out the plan of a checked graph.
pub fn fold(checked: &Checked) -> Folded {
    let graph = checked.inference();
    let mut folder = Folder {
        old: graph,
        plan: &checked.plan().nodes,
        steps: HashMap::new(),
        nodes: Vec::new(),
        params: Vec::new(),
        prepare: Vec::new(),
        how: Vec::new(),
        map: Vec::new(),
        carries: Vec::new(),
        selected: HashMap::new(),
    };
    for id in graph.ids() {
        folder.collect(id);
    }
    for id in graph.ids() {
        folder.node(id);
    }
    // A wrong result would be worse than none.
    assert!(folder.steps.is_empty(), "a map that takes factors was not folded");
    assert!(folder.carries[graph.output.index()].is_empty(), "the output loses a factor");
    let Folder { nodes, params, prepare, how, map, .. } = folder;
    let folded =
        Graph { nodes, params, input: map[graph.input.index()], output: map[graph.output.index()], contracts: vec![], ..graph.clone() };
    crate::graph::verify(&folded, "fold");
    assert_eq!(folded.node(folded.output).signal.axes, graph.node(graph.output).signal.axes, "folding changes the output");
    Folded { graph: folded, prepare, originals: graph.params.clone(), how }
}

struct Folder<'a> {
    old: &'a Graph,
    plan: &'a [NodePlan],
    /// What each map takes, in order.
    steps: HashMap<NodeId, Vec<Step>>,
    nodes: Vec<Node>,
    params: Vec<Param>,
    prepare: Vec<Expr>,
    how: Vec<How>,
    /// Old node to new node.
    map: Vec<NodeId>,
    carries: Vec<Carry>,
    /// For nodes of the old graph, the values that their spikes pick: what they are worth, and the step's of a table.
    selected: HashMap<(NodeId, bool, Option<u64>), NodeId>,
}

impl Folder<'_> {
    /// The constant factor of a node and the shift that comes with it.
    fn factor(&self, node: &Node) -> (Option<Expr>, Option<Expr>) {
        let operands = self.old.input_signals(node);
        for product in node.op.multiplies(&operands) {
            if let Multiplication::Factor { value, .. } = product {
                return match (value, node.op.affine(&node.params)) {
                    (Some(v), _) => (Some(Expr::Const(v)), None),
                    (None, Some((scale, shift))) => (Some(scale), shift),
                    (None, None) => unreachable!("`{}` has a factor and does not say which", node.path),
                };
            }
        }
        (None, None)
    }

    /// Notes what a map before this node takes from it.
    fn collect(&mut self, id: NodeId) {
        let node = self.old.node(id);
        let plan = &self.plan[id.index()];
        if let Some(Destination::Before(target)) = plan.factor {
            let (scale, shift) = self.factor(node);
            let own = self.summands(id);
            let stands = self.stands(target);
            let summed = self.summed_between(stands, id) / own;
            // A sum's own factor may be taken before the sum; a shift after it must be shared out.
            self.steps.entry(stands).or_default().push(Step { scale, shift, map: None, summed });
        }
        if let How::Compose(with) = plan.how {
            let stands = self.stands(with);
            let summed = self.summed_between(stands, id);
            self.steps.entry(stands).or_default().push(Step { scale: None, shift: None, map: Some(id), summed });
        }
    }

    /// The map that stands for this one.
    fn stands(&self, id: NodeId) -> NodeId {
        match self.plan[id.index()].how {
            How::Compose(with) => self.stands(with),
            _ => id,
        }
    }

    /// How many values one result of this node sums.
    fn summands(&self, id: NodeId) -> f64 {
        let node = self.old.node(id);
        match &node.op.linearity() {
            Linearity::Sum(_) | Linearity::WindowSum(_) => {
                let operands = self.old.input_signals(node);
                // A mean's factor is the inverse of how many values it sums.
                let factor = node.op.multiplies(&operands).into_iter().find_map(|m| match m {
                    Multiplication::Factor { value, .. } => value,
                    _ => None,
                });
                factor.map_or(1.0, |f| 1.0 / f)
            }
            _ => 1.0,
        }
    }

    /// Over how many values is summed on the way from `from` up to and including `to`.
    fn summed_between(&self, from: NodeId, to: NodeId) -> f64 {
        let (mut at, mut product) = (to, 1.0);
        while at != from {
            product *= self.summands(at);
            match self.old.node(at).inputs.first() {
                Some(next) => at = *next,
                None => break,
            }
        }
        product
    }

    fn node(&mut self, id: NodeId) {
        let node = self.old.node(id);
        let plan = &self.plan[id.index()];
        let inputs = self.operands(id);
        let mut carry = node.inputs.first().map(|i| self.carries[i.index()].clone()).unwrap_or_default();
        if plan.selects {
            carry = Carry::default();
        }
        let (new, carry) = match (node.op.linearity(), plan.how, plan.factor) {
            // Composed into the map that stands for the chain.
            (Linearity::Map { .. }, How::Compose(_), _) => {
                assert!(carry.is_empty(), "`{}` loses a factor", node.path);
                (inputs[0], Carry::default())
            }
            (Linearity::Map { input_axis, output_axis, .. }, how, _) if how != How::Encoder => {
                (self.linear_map(id, inputs[0], &carry, &input_axis, &output_axis), Carry::default())
            }
            (Linearity::Affine, _, Some(Destination::Before(_))) | (Linearity::Identity, ..) => (inputs[0], carry),
            (Linearity::Affine, _, Some(destination)) if !destination.stays() => {
                let (scale, shift) = self.factor(node);
                (inputs[0], carry.then(scale, shift))
            }
            // The convolution behind it looks through it.
            (_, How::Widen(_), factor) => {
                let mean = factor.map(|_| Expr::Const(1.0 / self.summands(id)));
                (inputs[0], carry.then(mean, None))
            }
            (Linearity::Sum(_) | Linearity::WindowSum(_), _, Some(destination)) if !destination.stays() => {
                let terms = self.summands(id);
                let carry = match destination {
                    Destination::Before(_) => carry,
                    _ => {
                        let shift = carry.shift.map(|s| s * Expr::Const(terms));
                        Carry { scale: carry.scale, shift }.then(Some(Expr::Const(1.0 / terms)), None)
                    }
                };
                (self.push(id, sum_of(&node.op), inputs, node.params.clone(), true), carry)
            }
            (Linearity::Sum(_) | Linearity::WindowSum(_), _, Some(Destination::Select)) => {
                let (factor, _) = self.factor(node);
                let table = plan.ramp.map(|r| Expr::List(r.table(self.old.time), STEPS.into()));
                let worth = Carry { scale: carry.scale, shift: None }.then(factor, None).then(table, None);
                let worth = worth.scale.unwrap_or(Expr::Const(1.0));
                let input = self.select(id, inputs[0], worth);
                assert!(carry.shift.is_none(), "`{}` selects what is shifted", node.path);
                (self.push(id, sum_of(&node.op), vec![input], vec![], true), Carry::default())
            }
            _ if node.op.selection() == Selection::Neuron && !node.encoder => {
                let spikes = self.neuron(id, inputs[0], &carry);
                let (amplitude, _) = self.factor(node);
                (spikes, Carry { scale: amplitude, shift: None })
            }
            // Spikes moved, or the largest of them: what they are worth stays the same.
            (Linearity::View(_), ..) if !carry.is_empty() => (self.push(id, node.op.clone(), inputs, vec![], true), carry),
            _ if node.op.selection() == Selection::Maximum && !carry.is_empty() => {
                (self.push(id, node.op.clone(), inputs, vec![], true), carry)
            }
            _ => {
                assert!(carry.is_empty(), "`{}` loses a factor", node.path);
                (self.push(id, node.op.clone(), inputs, node.params.clone(), true), Carry::default())
            }
        };
        self.map.push(new);
        self.carries.push(carry);
    }

    fn param(&mut self, path: String, axes: Vec<Axis>, value: Expr) -> ParamId {
        self.params.push(Param { path, axes, init: Init::Constant(0.0), role: Role::Running, min: None });
        self.prepare.push(value);
        ParamId::new(self.params.len() - 1)
    }

    /// Adds a node; parameters of the original graph are taken over as they are.
    fn push(&mut self, id: NodeId, op: Op, inputs: Vec<NodeId>, params: Vec<ParamId>, original: bool) -> NodeId {
        let node = self.old.node(id);
        let params = if original { params.into_iter().map(|p| self.original(p)).collect() } else { params };
        let operands: Vec<Signal> = inputs.iter().map(|i| self.nodes[i.index()].signal.clone()).collect();
        let signal = op.infer(&operands, self.old.time).unwrap_or_else(|_| node.signal.clone());
        self.how.push(self.plan[id.index()].how);
        self.nodes.push(Node { op, inputs, params, signal, ..node.clone() });
        NodeId::new(self.nodes.len() - 1)
    }

    fn original(&mut self, id: ParamId) -> ParamId {
        let param = self.old.param(id).clone();
        let names = param.axes.iter().map(|a| a.name.clone()).collect();
        if let Some(known) = self.prepare.iter().position(|e| matches!(e, Expr::Param(p, _) if *p == id)) {
            return ParamId::new(known);
        }
        self.params.push(param);
        self.prepare.push(Expr::Param(id, names));
        ParamId::new(self.params.len() - 1)
    }
}

impl Carry {
    fn is_empty(&self) -> bool {
        self.scale.is_none() && self.shift.is_none()
    }

    /// What is carried after one more step y = scale · x + shift.
    #[allow(clippy::needless_pass_by_value, reason = "the step is used up")]
    fn then(self, scale: Option<Expr>, shift: Option<Expr>) -> Carry {
        let times = |e: Expr| scale.clone().map_or(e.clone(), |s| s * e.clone());
        let carried = self.shift.map(times);
        Carry {
            scale: match (self.scale, &scale) {
                (Some(a), Some(b)) => Some(a * b.clone()),
                (a, b) => a.or_else(|| b.clone()),
            },
            shift: match (carried, shift) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            },
        }
    }
}

fn plus(a: Option<Expr>, b: Expr) -> Expr {
    match a {
        Some(a) => a + b,
        None => b,
    }
}

/// A mean without its factor.
fn sum_of(op: &Op) -> Op {
    match op {
        Op::Mean(m) => Op::Mean(mean::Mean { sum: true, ..m.clone() }),
        Op::AdaptiveAvgPool(p) => Op::AdaptiveAvgPool(adaptive_avg_pool::AdaptiveAvgPool { sum: true, ..p.clone() }),
        Op::AvgPool(p) => Op::AvgPool(avg_pool::AvgPool { sum: true, ..p.clone() }),
        other => other.clone(),
    }
}
