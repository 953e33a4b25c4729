//! `fold(compose)`: a map of a sum becomes the sum of maps of its terms (`W Σ A_l s_l = Σ (W A_l) s_l`),
//! so that each is a chain behind spikes, which [`super::chains`] joins to one map.
//!
//! The graph is spelt out: the map, and the affine steps behind it, stand once more behind a copy of every chain of linear
//! steps that makes a term. Constants are added in the first term only.

use super::MAX_STEPS;
use super::rules::real_operand::MAX_COUNT;
use crate::flow::Window;
use crate::graph::{Graph, Node};
use crate::ops::Linearity;
use crate::types::{Kind, NodeId, ParamId, Signal};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The most nodes that maps are spelt out into.
const MAX_NODES: usize = 1 << 14;
/// The most steps from a map back to a spike.
const MAX_DEPTH: usize = 2000;

/// Spells out these maps where all their terms are chains behind spikes; with each that was, how many weights its terms
/// have more than the map, or none if nothing reads them any more, as another map that was spelt out looks through it.
pub(super) fn spelt_out(graph: &Graph, maps: &[NodeId]) -> (Graph, Vec<(String, Option<u64>)>) {
    let mut spelling = Spelling::new(graph);
    let mut done = Vec::new();
    // What the last step behind a map gives, and what takes its place.
    let mut instead: HashMap<NodeId, NodeId> = HashMap::new();
    let readers = graph.readers();
    for id in graph.ids() {
        if let Some(new) = instead.get(&id) {
            spelling.map.push(*new);
            continue;
        }
        if maps.binary_search(&id).is_ok() {
            let steps = tail(graph, &readers, id);
            if let Some((sum, weights)) = spelling.spell(id, &steps) {
                let last = steps.last().copied().unwrap_or(id);
                instead.insert(last, sum);
                done.push((graph.node(id).path.clone(), Some(weights)));
                if last == id {
                    spelling.map.push(sum);
                    continue;
                }
            }
        }
        spelling.copy(id);
    }
    let spelt = spelling.finish();
    for (path, weights) in &mut done {
        let terms = format!("{path}.term.");
        *weights = weights.filter(|_| spelt.nodes.iter().any(|n| n.path.starts_with(&terms)));
    }
    // Maps that nothing reads any more were weights, too.
    let left: HashSet<&str> = spelt.nodes.iter().map(|n| n.path.as_str()).collect();
    let gone = graph.ids().filter(|id| {
        let node = graph.node(*id);
        let map = !node.encoder && matches!(node.op.linearity(), Linearity::Map { .. });
        map && !left.contains(node.path.as_str()) && !done.iter().any(|(path, weights)| *path == node.path && weights.is_some())
    });
    let weights = |id: NodeId| graph.node(id).params.first().map_or(0, |p| graph.param(*p).elements() as u64);
    let mut saved: u64 = gone.map(weights).sum();
    for weights in done.iter_mut().filter_map(|(_, weights)| weights.as_mut()) {
        let own = (*weights).min(saved);
        (*weights, saved) = (*weights - own, saved - own);
    }
    (spelt, done)
}

/// Why one of these maps cannot be spelt out: a value on the way to spikes, and what is wrong with it.
pub(super) fn blocker(graph: &Graph, maps: &[NodeId]) -> Option<(NodeId, &'static str)> {
    let mut spelling = Spelling::new(graph);
    for id in graph.ids() {
        if maps.contains(&id) && spelling.spell(id, &[id]).is_none() {
            return spelling.blocked;
        }
        spelling.copy(id);
    }
    None
}

/// How many more weights the terms of these maps would have, if they all are chains behind spikes.
pub(super) fn cost(graph: &Graph, maps: &[NodeId]) -> Option<u64> {
    let (_, done) = spelt_out(graph, maps);
    (done.len() == maps.len()).then(|| done.iter().filter_map(|(_, weights)| *weights).sum())
}

/// The map and the steps that alone read it, as long as they take it term by term.
fn tail(graph: &Graph, readers: &[Vec<NodeId>], map: NodeId) -> Vec<NodeId> {
    let mut steps = vec![map];
    let mut at = map;
    while let [next] = readers[at.index()].as_slice() {
        let node = graph.node(*next);
        let linear = matches!(node.op.linearity(), Linearity::Affine | Linearity::Identity | Linearity::Sum(_));
        if node.encoder || at == graph.output || !linear {
            break;
        }
        steps.push(*next);
        at = *next;
    }
    steps
}

struct Spelling<'g> {
    graph: &'g Graph,
    nodes: Vec<Node>,
    /// How often a path was made.
    paths: HashMap<String, usize>,
    /// Old node to new node.
    map: Vec<NodeId>,
    /// How many sums the one at hand stands in.
    depth: usize,
    /// The first value that cannot be spelt out, and why.
    blocked: Option<(NodeId, &'static str)>,
}

/// What is put behind every term.
#[derive(Clone)]
struct Steps {
    /// Nodes of the old graph, in order; each with the constants that it adds or, for all terms of a sum but one, without.
    list: Vec<(NodeId, bool)>,
    /// The window that all maps among them look through together.
    window: Window,
    /// The map that is spelt out.
    root: NodeId,
}

impl<'g> Spelling<'g> {
    fn new(graph: &'g Graph) -> Self {
        Spelling { graph, nodes: Vec::new(), paths: HashMap::new(), map: Vec::new(), depth: 0, blocked: None }
    }

    fn copy(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let inputs = node.inputs.iter().map(|i| self.map[i.index()]).collect();
        self.nodes.push(Node { inputs, ..node.clone() });
        self.map.push(NodeId::new(self.nodes.len() - 1));
    }

    /// The sum of the terms, and how many weights they have more than the map.
    fn spell(&mut self, map: NodeId, steps: &[NodeId]) -> Option<(NodeId, u64)> {
        let kept = self.nodes.len();
        let node = self.graph.node(map);
        let Linearity::Map { window, .. } = node.op.linearity() else { return None };
        let steps = Steps { list: steps.iter().map(|id| (*id, true)).collect(), window, root: map };
        let mut weights = 0u64;
        let sum = self.terms(*node.inputs.first()?, &steps, &mut weights);
        let Some(sum) = sum else {
            self.nodes.truncate(kept);
            return None;
        };
        Some((sum, weights.saturating_sub(self.weights(map))))
    }

    fn weights(&self, map: NodeId) -> u64 {
        self.graph.node(map).params.first().map_or(0, |p| self.graph.param(*p).elements() as u64)
    }

    fn stops(&mut self, at: NodeId, why: &'static str) -> Option<NodeId> {
        self.blocked.get_or_insert((at, why));
        None
    }

    /// The steps behind what `at` gives.
    fn terms(&mut self, at: NodeId, steps: &Steps, weights: &mut u64) -> Option<NodeId> {
        self.depth += 1;
        let of = if self.depth <= MAX_DEPTH { self.linear(at, steps, weights) } else { self.stops(at, "is too far from the map") };
        self.depth -= 1;
        of
    }

    fn linear(&mut self, at: NodeId, steps: &Steps, weights: &mut u64) -> Option<NodeId> {
        let graph = self.graph;
        let node = graph.node(at);
        let signal = &node.signal;
        if signal.kind == Kind::Spike || (signal.kind == Kind::Count && signal.bound <= MAX_COUNT) {
            return self.term(at, steps, weights);
        }
        if node.encoder {
            return self.stops(at, "is a real value of the encoder");
        }
        if steps.list.len() > MAX_STEPS {
            return self.stops(at, "is more steps from the map than a chain may have");
        }
        let Some(before) = node.inputs.first().copied() else { return self.stops(at, "is a real input") };
        let size = ["H", "W"].map(|n| graph.node(before).signal.size(n).unwrap_or(1));
        let behind = |window: Window| {
            let list = std::iter::once((at, true)).chain(steps.list.iter().copied()).collect();
            Steps { list, window, root: steps.root }
        };
        match node.op.linearity() {
            Linearity::Map { output_axis, window, .. } => {
                // A weight without a window has no place for one, and maps over different axes are not one map.
                let room = node.op.widened(window).is_some() || steps.window.pointwise();
                let joins = self.input_axis(steps)? == output_axis;
                match window.then(&steps.window, size, true).filter(|_| room && joins) {
                    Some(window) => self.terms(before, &behind(window), weights),
                    None => self.stops(at, "its windows or axes do not compose with those behind it"),
                }
            }
            Linearity::Affine => {
                // What shifts before zeros are put around shifts otherwise behind.
                if steps.window.pad != [0, 0] && node.op.affine(&node.params).is_some_and(|(_, shift)| shift.is_some()) {
                    return self.stops(at, "shifts what zeros are put around");
                }
                self.terms(before, &behind(steps.window), weights)
            }
            Linearity::Identity => self.terms(before, steps, weights),
            Linearity::Sum(axes) if steps.window.pointwise() && !axes.contains(&self.input_axis(steps)?) => {
                self.terms(before, &behind(steps.window), weights)
            }
            Linearity::View(moved) if node.inputs.len() == 1 && steps.window.pointwise() && !moved.contains(&self.input_axis(steps)?) => {
                self.terms(before, &behind(steps.window), weights)
            }
            Linearity::Add => {
                let mut terms = Vec::new();
                for (i, input) in node.inputs.iter().enumerate() {
                    let once = steps.list.iter().map(|(id, constants)| (*id, *constants && i == 0)).collect();
                    terms.push(self.terms(*input, &Steps { list: once, ..steps.clone() }, weights)?);
                }
                self.push(at, terms, "sum", steps.root, true)
            }
            _ if signal.kind == Kind::Count => self.stops(at, "counts more spikes than may be added one by one"),
            _ => self.stops(at, "is no linear step"),
        }
    }

    /// The axis that the first map among the steps sums over.
    fn input_axis(&self, steps: &Steps) -> Option<String> {
        steps.list.iter().find_map(|(id, _)| match self.graph.node(*id).op.linearity() {
            Linearity::Map { input_axis, .. } => Some(input_axis),
            _ => None,
        })
    }

    /// Its operand varies over time, and it takes the time steps together.
    fn takes_time(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        let takes = match node.op.linearity() {
            Linearity::Map { input_axis, .. } => input_axis == "T",
            Linearity::Sum(axes) => axes.iter().any(|a| a == "T"),
            _ => false,
        };
        takes && node.inputs.iter().any(|i| self.graph.node(*i).signal.varies)
    }

    /// The steps behind one spike train.
    fn term(&mut self, at: NodeId, steps: &Steps, weights: &mut u64) -> Option<NodeId> {
        let mut now = self.map[at.index()];
        let mut outputs = 0;
        let mut inputs = None;
        for (id, constants) in &steps.list {
            let node = self.graph.node(*id);
            let linearity = node.op.linearity();
            if linearity == Linearity::Identity {
                continue;
            }
            // What is summed before the first map is what that map would count.
            let counted = &self.nodes[now.index()].signal;
            if outputs == 0 && counted.kind == Kind::Count && counted.bound > MAX_COUNT {
                return self.stops(at, "counts more spikes than may be added one by one");
            }
            if let Linearity::Map { input_axis, .. } = &linearity {
                inputs = inputs.or(self.nodes[now.index()].signal.size(input_axis));
                outputs = node.params.first().map_or(1, |p| self.graph.param(*p).axes[0].size);
            }
            if self.takes_time(*id) && !self.nodes[now.index()].signal.varies {
                return self.stops(at, "has no time steps left where other terms have some");
            }
            now = self.push(*id, vec![now], "term", steps.root, *constants)?;
        }
        let [h, w] = steps.window.kernel;
        *weights = weights.saturating_add((inputs.unwrap_or(1) * outputs * h * w) as u64);
        Some(now)
    }

    /// A copy of a node with other operands.
    fn push(&mut self, old: NodeId, inputs: Vec<NodeId>, what: &str, root: NodeId, constants: bool) -> Option<NodeId> {
        if self.nodes.len() > self.graph.nodes.len() + MAX_NODES {
            return self.stops(old, "has more terms than a network may be spelt out into");
        }
        let node = self.graph.node(old);
        let op = if constants { node.op.clone() } else { node.op.unshifted() };
        let operands: Vec<Signal> = inputs.iter().map(|i| self.nodes[i.index()].signal.clone()).collect();
        let signal = op.infer(&operands, self.graph.time).ok()?;
        let params = op.params(&operands).len();
        let params: Vec<ParamId> = node.params.iter().copied().take(params).collect();
        let root = self.graph.node(root);
        // Operators have no brackets, so no path as written is like these.
        let count = self.paths.entry(format!("{}.{what}.{}", root.path, node.op.word())).or_insert(0);
        *count += 1;
        let path = format!("{}.{what}.{}[{count}]", root.path, node.op.word());
        // The map's own marks hold for all that it becomes.
        let (allows, folds) = (root.allows.clone(), root.folds.clone());
        self.nodes.push(Node { op, inputs, params, signal, path, allows, folds, ..node.clone() });
        Some(NodeId::new(self.nodes.len() - 1))
    }

    /// The new graph, without what nothing reads any more.
    fn finish(self) -> Graph {
        let output = self.map[self.graph.output.index()];
        let input = self.map[self.graph.input.index()];
        let mut live = vec![false; self.nodes.len()];
        (live[output.index()], live[input.index()]) = (true, true);
        for (i, node) in self.nodes.iter().enumerate().rev() {
            if live[i] {
                node.inputs.iter().for_each(|i| live[i.index()] = true);
            }
        }
        let mut places: BTreeMap<NodeId, NodeId> = BTreeMap::new();
        let mut nodes = Vec::new();
        for (i, mut node) in self.nodes.into_iter().enumerate().filter(|(i, _)| live[*i]) {
            places.insert(NodeId::new(i), NodeId::new(nodes.len()));
            node.inputs.iter_mut().for_each(|i| *i = places[i]);
            nodes.push(node);
        }
        let graph = Graph { nodes, input: places[&input], output: places[&output], contracts: vec![], ..self.graph.clone() };
        crate::graph::verify(&graph, "compose");
        graph
    }
}
