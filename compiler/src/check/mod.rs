//! Decides, for every place where the network as written multiplies, how the multiplication goes away at inference.
//!
//! Every operator states what it multiplies; the rules say what becomes of it, and what no rule covers is a residue.
//! The result is a [`FoldPlan`] that the fold stage only carries out, so verdict and code cannot differ. Deliberately absent: weights (the proof holds for all of them), and any list of operators.

mod chains;
mod compose;
mod factors;
mod offers;
mod pool;
mod reasons;
mod rules;
mod time;

pub use rules::RULES;
pub use time::Ramp;

use crate::flow::Window;
use crate::graph::{Fold, Graph};
use crate::ops::{Linearity, Multiplication, Selection};
use crate::text::several;
use crate::types::{Kind, NodeId, Signal};
use serde::Serialize;
use snnc_grammar::{Diagnostic, Remedy, Span};
use std::collections::BTreeMap;

/// Where a constant factor (and the shift that comes with it) goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Destination {
    /// Into the weights and bias of the map before it, along its output axis.
    Before(NodeId),
    /// Into the weights and bias of the map after it, along its input axis.
    After(NodeId),
    /// Into threshold, bias and reset of the neuron that reads it.
    Neuron(NodeId),
    /// Into all that read it, maps and neurons, each as above.
    Readers,
    /// Of a sum of spikes or an amplitude of spikes: a spike selects the constant, where nothing else takes it.
    Select,
    /// A change of exponent (and sign).
    Shift,
    /// Stays: it belongs to the encoder.
    Encoder,
    /// Stays: nothing removes it.
    Residue,
}

impl Destination {
    /// The factor is still applied where it was written.
    pub(crate) fn stays(self) -> bool {
        match self {
            Destination::Shift | Destination::Select | Destination::Encoder | Destination::Residue => true,
            Destination::Before(_) | Destination::After(_) | Destination::Neuron(_) | Destination::Readers => false,
        }
    }
}

/// How an operation is done at inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum How {
    /// Nothing is multiplied as written.
    Free,
    /// Multiplies, in the encoder.
    Encoder,
    /// A weight is added for every spike.
    Accumulate,
    /// A weight is added as many times as spikes were counted, at most this often.
    AccumulateCount(u64),
    /// Spikes meet spikes: AND, and count.
    AndCount,
    /// Values are added where there is a spike.
    MaskedAccumulate,
    /// A spike selects the other operand.
    Select,
    /// Comparisons.
    Compare,
    /// A constant factor, see [`NodePlan::factor`].
    Fold,
    /// Composed with the map at this node, which takes its place.
    Compose(NodeId),
    /// A pool that the convolution at this node looks through.
    Widen(NodeId),
    /// Not removed.
    Residue,
}

/// What becomes of one node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodePlan {
    /// How it is done.
    pub how: How,
    /// For nodes with a constant factor: where it goes.
    pub factor: Option<Destination>,
    /// It cannot pass on the amplitude of its operands' spikes: they select it here.
    pub selects: bool,
    /// The signal that the folded program has here.
    pub signal: Signal,
    /// For a convolution that looks through the pool before it: what both, and all that is composed into it, look through together.
    pub window: Option<Window>,
    /// Held so many times as large at every step; of a neuron: it does not leak any more.
    pub ramp: Option<Ramp>,
}

/// A fold that costs memory, and what it was chosen before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// `time`, `compose`, `pool`, or `counts`, the way without the pool's.
    pub fold: String,
    /// The map it is about.
    pub path: String,
    /// Weights that it adds.
    pub weights: u64,
    /// Bytes that it adds: those weights', or those of counts per sample.
    pub bytes: u64,
    /// The other way that there was, and its bytes.
    pub instead: Option<(String, u64)>,
}

/// What becomes of every node, in the graph's order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoldPlan {
    /// One entry for every node.
    pub nodes: Vec<NodePlan>,
    /// Folds that cost memory.
    pub choices: Vec<Choice>,
}

impl FoldPlan {
    /// Weights that folds add to those of the network as written.
    pub fn extra_weights(&self) -> u64 {
        self.choices.iter().map(|c| c.weights).sum()
    }
}

/// A multiplication that no fold removes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Residue {
    /// The rule it breaks.
    pub rule: &'static str,
    /// The code of its diagnostics.
    #[serde(skip)]
    pub code: &'static str,
    /// Where in the graph.
    pub node: NodeId,
    /// Path of the node.
    pub path: String,
    /// Multiplications per inference of one sample.
    pub multiplications: u64,
    /// Admitted by an `allow`.
    pub admitted: bool,
    /// What the rule says of this place.
    #[serde(skip)]
    pub message: String,
    /// Primary place.
    #[serde(skip)]
    pub span: Span,
    /// What the place is labelled with.
    #[serde(skip)]
    pub label: String,
    /// What would mend it.
    #[serde(skip)]
    pub help: String,
    /// The same for a machine; the first is the usual one.
    #[serde(skip)]
    pub remedies: Vec<Remedy>,
}

/// The outcome for a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is multiplied outside the encoder.
    Strict,
    /// Only what an `allow` admits.
    Admitted,
    /// Something else too.
    Violated,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Strict => "strict",
            Verdict::Admitted => "admitted",
            Verdict::Violated => "violated",
        })
    }
}

/// What checking found.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// The verdict.
    pub verdict: Verdict,
    /// All residues in graph order.
    pub residues: Vec<Residue>,
    /// Operations of the encoder, per inference of one sample.
    pub encoder_work: u64,
    /// All operations, per inference of one sample, counted densely.
    pub total_work: u64,
    /// Errors and warnings.
    #[serde(skip)]
    pub diagnostics: Vec<Diagnostic>,
    /// The admitted residues in the same form.
    #[serde(skip)]
    pub notes: Vec<Diagnostic>,
}

impl Findings {
    /// The encoder's share of all operations, from 0 to 1.
    pub fn encoder_share(&self) -> f64 {
        if self.total_work == 0 { 0.0 } else { self.encoder_work as f64 / self.total_work as f64 }
    }

    /// Multiplications per inference that an `allow` admits.
    pub fn admitted(&self) -> u64 {
        self.residues.iter().filter(|r| r.admitted).map(|r| r.multiplications).sum()
    }
}

/// A graph whose every multiplication is accounted for; only [`check`] makes one.
#[derive(Clone, Debug)]
pub struct Checked {
    graph: Graph,
    /// The same with compositions spelt out, if any were asked for.
    spelt: Option<Graph>,
    plan: FoldPlan,
    findings: Findings,
}

impl Checked {
    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The graph that the plan and the residues are about: the graph with `fold(compose)` spelt out, over the same parameters.
    pub fn inference(&self) -> &Graph {
        self.spelt.as_ref().unwrap_or(&self.graph)
    }

    /// What becomes of the nodes of [`Checked::inference`].
    pub fn plan(&self) -> &FoldPlan {
        &self.plan
    }

    /// Verdict and residues.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }
}

/// Linear steps that a factor is carried past, and maps that are composed: a bound on how deep folded expressions nest.
pub(crate) const MAX_STEPS: usize = 16;

/// What the rules see.
pub(crate) struct Context<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) readers: Vec<Vec<NodeId>>,
    pub(crate) plan: Vec<NodePlan>,
    /// For composed maps: the map that stands for each.
    pub(crate) chains: chains::Chains,
    /// Folds that cost memory.
    pub(crate) choices: Vec<Choice>,
}

impl Context<'_> {
    /// The one reader of a node, if it has just one and is not the output.
    pub(crate) fn only_reader(&self, id: NodeId) -> Option<NodeId> {
        match self.readers[id.index()].as_slice() {
            [one] if id != self.graph.output => Some(*one),
            _ => None,
        }
    }
}

/// Checks a graph. A violated verdict is in the findings, not an error: training needs none.
pub fn check(graph: Graph) -> Checked {
    let (mut cx, mut residues) = decided(&graph, &BTreeMap::new());
    let maps: Vec<NodeId> = residues.iter().filter(|r| r.rule == "real_operand").map(|r| r.node).collect();
    let maps: Vec<NodeId> = maps.into_iter().filter(|id| graph.asked(graph.node(*id), Fold::Compose).is_some()).collect();
    let mut composed: Vec<(String, u64)> = Vec::new();
    let mut spelt = None;
    if !maps.is_empty() {
        let (graph, done) = compose::spelt_out(&graph, &maps);
        composed = done.into_iter().filter_map(|(path, weights)| Some((path, weights?))).collect();
        spelt = Some(graph);
    }
    let inference = spelt.as_ref().unwrap_or(&graph);
    if spelt.is_some() {
        (cx, residues) = decided(inference, &BTreeMap::new());
    }
    let ramps = time::plan(&cx, |id| time::asked(inference, id));
    if !ramps.is_empty() {
        (cx, residues) = decided(inference, &ramps);
    }
    let tables = time::extra(&cx, &ramps);
    let choice = |fold: &str, path: String, weights: u64| Choice { fold: fold.into(), path, weights, bytes: 4 * weights, instead: None };
    // What is spelt out is counted with its terms.
    let written = |id: NodeId| graph.nodes.iter().any(|n| n.path == inference.node(id).path);
    let grown: Vec<_> = cx.chains.grown().filter(|(id, _)| written(*id)).collect();
    cx.choices.extend(grown.iter().map(|(id, weights)| choice("compose", inference.node(*id).path.clone(), *weights)));
    cx.choices.extend(composed.iter().map(|(path, weights)| choice("compose", path.clone(), *weights)));
    cx.choices.extend(tables.iter().map(|(id, weights)| choice("time", inference.node(*id).path.clone(), *weights)));
    offers::offer(&cx, &mut residues);
    let mut diagnostics = graph.warnings.clone();
    diagnostics.extend(offers::unused(&graph, &cx, &composed));
    encoder(&graph, &mut diagnostics);
    contracts(&graph, &mut diagnostics);
    admit(inference, &mut residues, &mut diagnostics);
    diagnostics.extend(reasons::residues(&cx, &residues));
    let notes = reasons::admitted(&cx, &residues);
    let plan = FoldPlan { nodes: std::mem::take(&mut cx.plan), choices: std::mem::take(&mut cx.choices) };
    let (mut encoder_work, mut total_work) = (0u64, 0u64);
    for id in graph.ids() {
        let work = graph.work(id);
        total_work = total_work.saturating_add(work);
        if graph.node(id).encoder {
            encoder_work = encoder_work.saturating_add(work);
        }
    }
    if encoder_work > total_work / 2 {
        diagnostics.extend(deep_encoder(&graph, encoder_work as f64 / total_work as f64));
    }
    let refused = diagnostics.iter().any(|d| d.severity == snnc_grammar::Severity::Error);
    let verdict = match () {
        () if refused => Verdict::Violated,
        () if !residues.is_empty() => Verdict::Admitted,
        () => Verdict::Strict,
    };
    if let (Some(span), true) = (graph.strict, verdict == Verdict::Admitted) {
        diagnostics.push(
            Diagnostic::error("check::not_strict", span, format!("`{}` is {verdict}, not strict", graph.name), "strict is required here")
                .help("remove the admitted residues, or this line"),
        );
    }
    let findings = Findings { verdict, residues, encoder_work, total_work, diagnostics, notes };
    Checked { graph, spelt, plan, findings }
}

/// Decides all nodes of a graph, some of which are held ramped.
fn decided<'g>(graph: &'g Graph, ramps: &BTreeMap<NodeId, Ramp>) -> (Context<'g>, Vec<Residue>) {
    let start = |id: NodeId| {
        let (signal, ramp) = (graph.node(id).signal.clone(), ramps.get(&id).copied());
        NodePlan { how: How::Free, factor: None, selects: false, signal, window: None, ramp }
    };
    let plan = graph.ids().map(start).collect();
    let mut cx = Context { graph, readers: graph.readers(), plan, chains: chains::Chains::default(), choices: Vec::new() };
    factors::plan(&mut cx);
    let mut residues = Vec::new();
    for id in graph.ids() {
        decide(&mut cx, id, &mut residues);
    }
    (cx, residues)
}

/// Decides one node; its operands are decided.
fn decide(cx: &mut Context<'_>, id: NodeId, residues: &mut Vec<Residue>) {
    let graph = cx.graph;
    let node = graph.node(id);
    pool::plan(cx, id);
    let (selects, ramp) = (cx.plan[id.index()].selects, cx.plan[id.index()].ramp);
    let maps = matches!(node.op.linearity(), Linearity::Map { .. });
    let operand = |(i, id): (usize, &NodeId)| {
        let signal = &cx.plan[id.index()].signal;
        // A spike that picks a step's constant is none any more.
        let picks = !maps && ramp.is_some_and(|r| r.operand.is_none_or(|k| k == i)) && signal.kind <= Kind::Count;
        match () {
            () if picks => Signal::real(Kind::Current, signal.axes.clone(), true),
            () if selects => signal.beside_others(),
            () => signal.clone(),
        }
    };
    let operands: Vec<Signal> = node.inputs.iter().enumerate().map(operand).collect();
    let products = node.op.multiplies(&operands);
    let factor = cx.plan[id.index()].factor;
    let mut how = match node.op.selection() {
        Selection::None => How::Free,
        Selection::Maximum | Selection::Neuron => How::Compare,
    };
    // Where its factor is folded away, an affine step passes its operand on as it is.
    let passes = node.op.linearity() == Linearity::Affine && factor.is_some_and(|f| !f.stays());
    let mut signal =
        if passes { operands[0].clone() } else { node.op.infer(&operands, graph.time).unwrap_or_else(|_| node.signal.clone()) };
    if signal.kind == Kind::Count && factor.is_some_and(Destination::stays) {
        // Divided here, it counts nothing any more.
        signal = Signal::real(Kind::Current, signal.axes, signal.varies);
    }
    if node.encoder {
        // As it is written: nothing takes an amplitude out of the encoder.
        signal = signal.beside_others();
    }
    for product in products {
        if node.encoder {
            how = How::Encoder;
            continue;
        }
        let outcome = match product {
            Multiplication::Weights => rules::real_operand::check(cx, id, &operands[0]),
            Multiplication::Factor { .. } => rules::unfoldable_scale::check(cx, id, factor),
            Multiplication::Signals => rules::real_product::check(cx, id, &operands, false),
            Multiplication::Dot => rules::real_product::check(cx, id, &operands, true),
            Multiplication::Leak(leak) => rules::leak::check(cx, id, leak),
            Multiplication::Drive(_) => Ok(How::Compare),
            Multiplication::Transcendental(what) => rules::transcendental::check(cx, id, what),
        };
        match outcome {
            // A neuron compares, wherever its amplitude goes.
            Ok(_) if node.op.selection() == Selection::Neuron => {}
            Ok(done) => how = done,
            Err(residue) => {
                how = How::Residue;
                residues.push(*residue);
            }
        }
    }
    if let How::Compose(_) = how {
        // Seen from outside, a chain is one map; what its first part gives never exists.
        chains::Chains::join(cx, id);
    }
    if signal.kind == Kind::Analog && !node.encoder && !operands.is_empty() && operands.iter().all(|s| s.kind != Kind::Analog) {
        signal.kind = Kind::Current;
    }
    let plan = &mut cx.plan[id.index()];
    (plan.how, plan.signal) = (how, signal);
}

/// The encoder reads only the input and itself, and is not the whole network.
fn encoder(graph: &Graph, diagnostics: &mut Vec<Diagnostic>) {
    let mut seen: Vec<Span> = Vec::new();
    for id in graph.ids() {
        let node = graph.node(id);
        for input in
            node.inputs.iter().map(|i| graph.node(*i)).filter(|i| node.encoder && !i.encoder && i.path != graph.node(graph.input).path)
        {
            if !seen.contains(&node.span) {
                seen.push(node.span);
                diagnostics.push(
                    Diagnostic::error(
                        "check::encoder_reads",
                        node.span,
                        "the encoder may read only the input and its own values",
                        "reads a value from outside",
                    )
                    .label(input.span, "which is made here")
                    .help("move this out of the encoder, or what it reads into it"),
                );
            }
        }
    }
    // What stands behind a neuron could run on its spikes, and does not need the encoder.
    let mut behind = vec![false; graph.nodes.len()];
    let mut deep = Vec::new();
    for id in graph.ids().filter(|id| graph.node(*id).encoder) {
        let node = graph.node(id);
        let fed = node.inputs.iter().any(|i| behind[i.index()]);
        behind[id.index()] = fed || node.op.selection() == Selection::Neuron;
        // A gate may stand there; a layer, or a neuron that would multiply at every step, may not.
        let layer = |m: &Multiplication| match m {
            Multiplication::Weights | Multiplication::Dot => true,
            Multiplication::Leak(leak) => !rules::leak::is_shift(*leak),
            _ => false,
        };
        if fed && node.op.multiplies(&graph.input_signals(node)).iter().any(layer) {
            deep.push(node);
        }
    }
    if let Some(first) = deep.first() {
        let often = if deep.len() > 1 { format!(" (at {} places, first at `{}`)", deep.len(), first.path) } else { String::new() };
        diagnostics.push(
            Diagnostic::error(
                "check::encoder_share",
                first.span,
                format!("`{}` stands behind a neuron, and yet in the encoder{often}", first.op.word()),
                "this layer sees spikes",
            )
            .help("the encoder is for the first layer, which sees the input; close it before this"),
        );
    }
    // Some neuron outside the encoder must stand between the input and the output, on every way; or a map of real values,
    // which breaks a rule of its own.
    let mut bare = vec![false; graph.nodes.len()];
    bare[graph.input.index()] = graph.node(graph.input).signal.kind != Kind::Spike;
    for id in graph.ids() {
        let node = graph.node(id);
        let weighs = || node.op.multiplies(&graph.input_signals(node)).contains(&Multiplication::Weights);
        let spiking = !node.encoder && (node.op.selection() == Selection::Neuron || weighs());
        let fed = node.inputs.iter().any(|i| bare[i.index()]);
        bare[id.index()] |= fed && !spiking;
    }
    if bare[graph.output.index()] {
        let node = graph.node(graph.output);
        diagnostics.push(
            Diagnostic::error(
                "check::encoder_share",
                node.span,
                "the output hangs on the input without a neuron outside the encoder between them",
                "no spike stands between the input and this",
            )
            .help("the encoder is for the first layer; what follows it must run on spikes"),
        );
    }
}

/// A warning for an encoder of several layers that does most of the work, or one that does all: a verdict about the rest says little then.
fn deep_encoder(graph: &Graph, share: f64) -> Option<Diagnostic> {
    let mut layers = vec![0usize; graph.nodes.len()];
    for id in graph.ids().filter(|id| graph.node(*id).encoder) {
        let node = graph.node(id);
        let before = node.inputs.iter().map(|i| layers[i.index()]).max().unwrap_or(0);
        layers[id.index()] = before + usize::from(node.op.multiplies(&graph.input_signals(node)).contains(&Multiplication::Weights));
    }
    let (deepest, depth) = graph.ids().map(|id| (id, layers[id.index()])).max_by_key(|(_, n)| *n)?;
    let all = share >= 1.0;
    let message = match depth > 1 {
        true => format!("the encoder of `{}` is {depth} layers deep and does {:.1} % of all operations", graph.name, 100.0 * share),
        false => format!("the encoder of `{}` does all of its operations", graph.name),
    };
    (depth > 1 || all).then(|| Diagnostic {
        code: "check::encoder_share",
        severity: snnc_grammar::Severity::Warning,
        message,
        labels: vec![snnc_grammar::Label { span: graph.node(deepest).span, text: "its last layer".into() }],
        help: Some("the encoder is for the first layer, which sees the input; the verdict is about the rest".into()),
        remedies: vec![],
    })
}

/// Kinds that signatures asked for and did not get.
fn contracts(graph: &Graph, diagnostics: &mut Vec<Diagnostic>) {
    let mut places: BTreeMap<(Span, Span), (usize, &crate::graph::Contract)> = BTreeMap::new();
    for contract in &graph.contracts {
        places.entry((contract.at, contract.declared)).or_insert((0, contract)).0 += 1;
    }
    for (count, c) in places.into_values() {
        let given = graph.node(c.given);
        let often = if count > 1 { format!(" (at {count} places)") } else { String::new() };
        diagnostics.push(
            Diagnostic::error(
                "check::kind",
                c.at,
                format!("{} asks for `{}` and gets `{}`{often}", c.by, c.asked, given.signal.kind),
                format!("this is {}", given.signal.kind.with_article()),
            )
            .label(c.declared, "asked for here")
            .label(given.span, format!("made {} here", given.signal.kind.with_article()))
            .help("put a neuron before it: `… |> lif`"),
        );
    }
}

/// Marks the residues that an `allow` admits, and compares counts.
fn admit(graph: &Graph, residues: &mut [Residue], diagnostics: &mut Vec<Diagnostic>) {
    let mut used = vec![0usize; graph.allows.len()];
    for residue in residues.iter_mut() {
        let allows = graph.node(residue.node).allows.iter().rev();
        if let Some(index) = allows.copied().find(|i| graph.allows[*i].rule == residue.rule) {
            used[index] += 1;
            residue.admitted = true;
        }
    }
    for (allow, used) in graph.allows.iter().zip(used) {
        if used == allow.count {
            continue;
        }
        let (message, label) = match used {
            0 => (format!("nothing here needs `allow({})`", allow.rule), "admits nothing".to_owned()),
            _ => (
                format!("`allow({})` expects {}, but admits {used}", allow.rule, several(allow.count as u64, "place")),
                format!("{} after expansion", several(used as u64, "place")),
            ),
        };
        let remedy = Remedy::Admit { allow: allow.span, count: used };
        let mut finding = Diagnostic::error("check::allow_count", allow.span, message, label).help(remedy.says());
        // Admitting more is for people to decide.
        finding.remedies.extend((used < allow.count).then_some(remedy));
        diagnostics.push(finding);
    }
}
