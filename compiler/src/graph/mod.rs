//! The typed graph: one node per application of an operator, shapes and kinds known.

mod build;
mod expr;
mod instance;
mod print;
mod verify;

pub use build::build;
pub use instance::{Instance, Settings, instantiate};
pub use print::print;
pub use verify::verify;

use crate::ops::{Init, Op, Role};
use crate::types::{Axis, Kind, NodeId, ParamId, Signal};
use serde::Serialize;
use snnc_grammar::{Diagnostic, Span};

/// One application of an operator.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// The operator.
    pub op: Op,
    /// Operands.
    pub inputs: Vec<NodeId>,
    /// Parameters in the order the operator asks for them.
    pub params: Vec<ParamId>,
    /// The result.
    pub signal: Signal,
    /// Stable path: the names of the bindings around it and its own word.
    pub path: String,
    /// Where it is written.
    #[serde(skip)]
    pub span: Span,
    /// The block uses around it, outermost first.
    #[serde(skip)]
    pub calls: Vec<Span>,
    /// Belongs to the encoder.
    pub encoder: bool,
    /// The `allow`s around it, innermost last: indices into [`Graph::allows`].
    #[serde(skip)]
    pub allows: Vec<usize>,
    /// The `fold`s around it: indices into [`Graph::folds`].
    #[serde(skip)]
    pub folds: Vec<usize>,
    /// For a neuron: where its model is defined.
    #[serde(skip)]
    pub defined: Option<Span>,
}

/// A parameter or running statistic.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Param {
    /// Stable path.
    pub path: String,
    /// Axes in the order of its data.
    pub axes: Vec<Axis>,
    /// How it starts.
    pub init: Init,
    /// What it is for.
    pub role: Role,
    /// The least value it may have.
    pub min: Option<f64>,
}

impl Param {
    /// Number of values.
    pub fn elements(&self) -> usize {
        self.axes.iter().map(|a| a.size).product()
    }

    /// Extents.
    pub fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(|a| a.size).collect()
    }
}

/// An `allow` of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct Allow {
    /// The rule.
    pub rule: String,
    /// Places it is expected to admit, after expansion.
    pub count: usize,
    /// Why.
    pub reason: String,
    /// Where it stands.
    pub span: Span,
}

/// A fold that costs extra weights, and so is taken only where the source asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fold {
    /// `fold(time)`: weights and thresholds for every time step take the place of a leak.
    Time,
    /// `fold(compose)`: a map of a sum becomes maps of its terms, each composed with the map that makes the term.
    Compose,
}

impl Fold {
    /// All of them.
    pub const ALL: [Fold; 2] = [Fold::Time, Fold::Compose];

    /// Its name in the language.
    pub fn name(self) -> &'static str {
        match self {
            Fold::Time => "time",
            Fold::Compose => "compose",
        }
    }
}

/// A `fold` of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Which fold.
    pub fold: Fold,
    /// Where it stands.
    pub span: Span,
}

/// A signature asked for a stronger kind than it was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// What it was given.
    pub given: NodeId,
    /// What it asked for.
    pub asked: Kind,
    /// What asked: `parameter s of TokenBlock`.
    pub by: String,
    /// Where it was given.
    pub at: Span,
    /// Where it was asked for.
    pub declared: Span,
}

/// A network for one choice of parameters.
#[derive(Clone, Debug, Serialize)]
pub struct Graph {
    /// Name of the variant or model.
    pub name: String,
    /// Name of the model.
    pub model: String,
    /// Time steps.
    pub time: usize,
    /// Nodes; operands come before their readers.
    pub nodes: Vec<Node>,
    /// Parameters.
    pub params: Vec<Param>,
    /// The input's node.
    pub input: NodeId,
    /// The output's node.
    pub output: NodeId,
    /// The source's `allow`s.
    #[serde(skip)]
    pub allows: Vec<Allow>,
    /// The source's `fold`s.
    #[serde(skip)]
    pub folds: Vec<Asked>,
    /// Kinds that were declared otherwise.
    #[serde(skip)]
    pub contracts: Vec<Contract>,
    /// Place of `require strict`.
    #[serde(skip)]
    pub strict: Option<Span>,
    /// Findings that stop nothing.
    #[serde(skip)]
    pub warnings: Vec<Diagnostic>,
}

impl Graph {
    /// The node with this id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The parameter with this id.
    pub fn param(&self, id: ParamId) -> &Param {
        &self.params[id.index()]
    }

    /// All node ids in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId::new)
    }

    /// The signals of a node's operands.
    pub fn input_signals(&self, node: &Node) -> Vec<Signal> {
        node.inputs.iter().map(|i| self.node(*i).signal.clone()).collect()
    }

    /// For every node, the nodes that read it.
    pub fn readers(&self) -> Vec<Vec<NodeId>> {
        let mut readers = vec![Vec::new(); self.nodes.len()];
        for id in self.ids() {
            for input in &self.node(id).inputs {
                readers[input.index()].push(id);
            }
        }
        readers
    }

    /// The `fold` of this kind around a node, innermost.
    pub fn asked(&self, node: &Node, fold: Fold) -> Option<usize> {
        node.folds.iter().rev().copied().find(|i| self.folds[*i].fold == fold)
    }

    /// Number of trained values.
    pub fn trained(&self) -> u64 {
        self.params.iter().filter(|p| p.role == Role::Trained).map(|p| p.elements() as u64).sum()
    }

    /// Multiply-accumulates a dense run does per sample at this node, over all its time steps.
    pub fn work(&self, id: NodeId) -> u64 {
        let node = self.node(id);
        let steps = if node.signal.varies { self.time as u64 } else { 1 };
        node.op.work(&self.input_signals(node), &node.signal).saturating_mul(steps)
    }

    /// Operations of every node per sample as Spikingformer's energy tool counts them: at every time step, also where all
    /// steps are the same and one is computed; once behind a mean over T.
    pub fn dense(&self) -> Vec<u64> {
        let mut varied = vec![false; self.nodes.len()];
        for id in self.ids() {
            let node = self.node(id);
            varied[id.index()] = node.signal.varies || node.inputs.iter().any(|i| varied[i.index()]);
        }
        let copies = |id: NodeId| if varied[id.index()] { 1 } else { self.time as u64 };
        self.ids().map(|id| self.work(id).saturating_mul(copies(id))).collect()
    }

    /// Classes: the extent of the output's only axis.
    pub fn classes(&self) -> usize {
        self.node(self.output).signal.elements()
    }
}
