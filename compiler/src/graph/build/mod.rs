//! An instance of a model to its graph: statements are run in order, blocks expanded, shapes and kinds inferred.
//!
//! An error in a statement poisons what it binds and building goes on, so that one run reports every mistake once.

mod block;
mod statement;

use super::expr::leftmost;
use super::{Allow, Asked, Contract, Fold, Graph, Instance, Node, Param};
use crate::ops::{Op, Problem, input};
use crate::resolve::{BlockDef, Package};
use crate::types::{Axis, Kind, NodeId, ParamId, Signal};
use crate::value::{Value, nearest};
use snnc_grammar::ast::{self, AxisType, Expr, ExprKind, Ident, SignalType, Stmt, StmtKind, Type};
use snnc_grammar::{Diagnostic, FileId, Label, Severity, Span};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The most nodes a graph may have.
const MAX_NODES: usize = 100_000;
/// The most statements that may be run.
const MAX_STATEMENTS: usize = 2_000_000;
/// How deep blocks may be nested.
const MAX_DEPTH: usize = 100;
/// The longest simulation.
const MAX_TIME: i64 = 65_536;
/// The most values one sample of a signal may have at one time step.
const MAX_ELEMENTS: u128 = 1 << 46;

pub(super) type Built<T> = Result<T, Diagnostic>;

/// Builds the graph of an instance.
///
/// # Errors
/// All mistakes found, each once however often its place is expanded.
pub fn build(package: &Package, instance: &Instance) -> Result<Graph, Vec<Diagnostic>> {
    let mut builder = Builder {
        package,
        nodes: Vec::new(),
        params: Vec::new(),
        allows: Vec::new(),
        folds: Vec::new(),
        neuron_marks: BTreeMap::new(),
        contracts: Vec::new(),
        errors: Vec::new(),
        time: 0,
        time_at: None,
        input: None,
        output: None,
        shared: Vec::new(),
        at: At::default(),
        used: HashMap::new(),
        statements: 0,
        stopped: false,
    };
    let mut frame = Frame { file: instance.model.span.file, ..Frame::default() };
    let mut arguments: BTreeMap<&str, (&Span, &Expr)> = BTreeMap::new();
    for (name, span, value) in &instance.arguments {
        arguments.insert(name, (span, value));
    }
    builder.parameters(&instance.model, &mut arguments, &mut frame);
    builder.statements(&instance.model.body, &mut frame);
    let end = Span { start: instance.model.name.span.start, ..instance.model.name.span };
    if builder.errors.is_empty() && builder.output.is_none() {
        builder.errors.push(
            Diagnostic::error("build::output", end, format!("model `{}` has no output", instance.name), "this model")
                .help("end it with `output … |> mean(T)`"),
        );
    }
    let Builder { nodes, params, allows, folds, contracts, mut errors, time, input, output, .. } = builder;
    let mut seen = Vec::new();
    errors.retain(|e| {
        let key = (e.code, e.span(), e.labels.len());
        !seen.contains(&key) && {
            seen.push(key);
            true
        }
    });
    let (Some(input), Some(output), true) = (input, output, errors.is_empty()) else {
        if errors.is_empty() {
            errors.push(Diagnostic::error("build::output", end, format!("model `{}` has no input", instance.name), "this model"));
        }
        return Err(errors);
    };
    let graph = Graph {
        name: instance.name.clone(),
        model: instance.model.name.name.clone(),
        time,
        nodes,
        params,
        input,
        output,
        allows,
        folds,
        contracts,
        strict: package.strict,
        warnings: Vec::new(),
    };
    let graph = without_dead(graph);
    super::verify(&graph, "build");
    Ok(graph)
}

/// Drops what the output does not hang on, with a warning for each.
fn without_dead(mut graph: Graph) -> Graph {
    let mut live = vec![false; graph.nodes.len()];
    live[graph.output.index()] = true;
    live[graph.input.index()] = true;
    for id in graph.ids().rev() {
        if live[id.index()] {
            for input in &graph.nodes[id.index()].inputs {
                live[input.index()] = true;
            }
        }
    }
    let readers = graph.readers();
    let mut node_ids = HashMap::new();
    let mut param_ids: BTreeMap<ParamId, ParamId> = BTreeMap::new();
    let mut nodes = Vec::new();
    for (i, mut node) in std::mem::take(&mut graph.nodes).into_iter().enumerate() {
        if !live[i] {
            if readers[i].is_empty() {
                graph.warnings.push(Diagnostic {
                    code: "build::unused",
                    severity: Severity::Warning,
                    message: format!("nothing reads `{}`", node.path),
                    labels: vec![Label { span: node.span, text: "the output does not hang on this".into() }],
                    help: Some("remove it; its parameters are not part of the model".into()),
                    remedies: vec![],
                });
            }
            continue;
        }
        node_ids.insert(NodeId::new(i), NodeId::new(nodes.len()));
        node.inputs.iter_mut().for_each(|id| *id = node_ids[id]);
        for id in &node.params {
            let next = ParamId::new(param_ids.len());
            param_ids.entry(*id).or_insert(next);
        }
        node.params.iter_mut().for_each(|id| *id = param_ids[id]);
        nodes.push(node);
    }
    let mut order: Vec<(ParamId, ParamId)> = param_ids.into_iter().collect();
    order.sort_by_key(|(_, new)| *new);
    graph.params = order.iter().map(|(old, _)| graph.params[old.index()].clone()).collect();
    graph.nodes = nodes;
    graph.input = node_ids[&graph.input];
    graph.output = node_ids[&graph.output];
    let contracts = std::mem::take(&mut graph.contracts);
    graph.contracts = contracts.into_iter().filter_map(|c| Some(Contract { given: *node_ids.get(&c.given)?, ..c })).collect();
    graph
}

/// Where in the expansion the builder is.
#[derive(Clone, Default)]
pub(super) struct At {
    pub(super) path: Vec<String>,
    pub(super) calls: Vec<Span>,
    pub(super) encoder: bool,
    pub(super) allows: Vec<usize>,
    pub(super) folds: Vec<usize>,
    /// Inside a shared instance: the parameters of its first use are taken again, in order.
    pub(super) sharing: Option<Sharing>,
}

/// The names of one body.
#[derive(Clone, Default)]
pub(super) struct Frame {
    pub(super) file: FileId,
    pub(super) names: HashMap<String, Value>,
    /// Extents of axes that a signature has bound.
    pub(super) axes: HashMap<String, i64>,
    pub(super) yielded: Option<(NodeId, Span)>,
    nodes: BTreeMap<String, (SignalType, Span)>,
    /// The sections so far, by path.
    sections: HashMap<Vec<String>, Span>,
    edges: Vec<Edge>,
    in_block: bool,
}

#[derive(Clone)]
struct Edge {
    from: Ident,
    to: Ident,
    chain: Expr,
    names: HashMap<String, Value>,
}

/// A `share`d instance.
pub(super) struct Shared {
    pub(super) call: Expr,
    pub(super) path: Vec<String>,
    pub(super) frame: Frame,
    /// The parameters of its first use.
    pub(super) params: Vec<ParamId>,
}

/// Where in the parameters of a shared instance a use of it is.
#[derive(Clone)]
pub(super) struct Sharing {
    pub(super) share: usize,
    pub(super) next: usize,
}

pub(super) struct Builder<'a> {
    pub(super) package: &'a Package,
    pub(super) nodes: Vec<Node>,
    params: Vec<Param>,
    allows: Vec<Allow>,
    folds: Vec<Asked>,
    /// What stands before the definition of a neuron, `allow`s and `fold`s; it holds wherever the neuron is applied.
    neuron_marks: BTreeMap<Span, (Vec<usize>, Vec<usize>)>,
    contracts: Vec<Contract>,
    pub(super) errors: Vec<Diagnostic>,
    pub(super) time: usize,
    time_at: Option<Span>,
    input: Option<NodeId>,
    output: Option<NodeId>,
    pub(super) shared: Vec<Shared>,
    pub(super) at: At,
    used: HashMap<String, usize>,
    statements: usize,
    stopped: bool,
}

impl Builder<'_> {
    /// Evaluates the model's parameters and its time.
    fn parameters<'e>(&mut self, model: &'e ast::Model, given: &mut BTreeMap<&str, (&'e Span, &'e Expr)>, frame: &mut Frame) {
        let mut inner: Vec<&Stmt> = model.body.iter().flat_map(Stmt::bodies).flatten().collect();
        while let Some(stmt) = inner.pop() {
            inner.extend(stmt.bodies().into_iter().flatten());
            if matches!(stmt.kind, StmtKind::Param(_) | StmtKind::Time(..)) {
                let message = "parameters and the time stand at the top of a model";
                self.errors.push(Diagnostic::error("build::misplaced", stmt.span, message, "not inside another statement"));
            }
        }
        let outer = frame.clone();
        let mut known: Vec<String> = Vec::new();
        for stmt in &model.body {
            match &stmt.kind {
                StmtKind::Param(formal) if known.contains(&formal.name.name) => {
                    let message = format!("there is a parameter `{}` already", formal.name.name);
                    self.errors.push(Diagnostic::error("resolve::duplicate", formal.name.span, message, "again here"));
                }
                StmtKind::Param(formal) => {
                    known.push(formal.name.name.clone());
                    let argument = given.remove(formal.name.name.as_str());
                    let value = match (argument, &formal.default) {
                        (Some((_, e)), _) => self.expr(e, &mut outer.clone()).and_then(|v| self.typed(v, &formal.ty, e.span)),
                        (None, Some(e)) => self.expr(e, frame).and_then(|v| self.typed(v, &formal.ty, e.span)),
                        (None, None) => Err(Diagnostic::error(
                            "build::missing_argument",
                            formal.name.span,
                            format!("parameter `{}` has no default and is not set", formal.name.name),
                            "needs a value",
                        )
                        .help(format!("pass `--set {}=…` or give it a default", formal.name.name))),
                    };
                    self.define(&formal.name, value, frame);
                }
                StmtKind::Time(name, default) => {
                    known.push(name.name.clone());
                    let value = given.remove(name.name.as_str()).map_or(default, |(_, e)| e);
                    self.time_at = Some(stmt.span);
                    match self.expr(value, frame) {
                        Ok(Value::Int(t)) if (1..=MAX_TIME).contains(&t) => self.time = usize::try_from(t).unwrap_or(1),
                        Ok(Value::Poison) => {}
                        Ok(v) => self.errors.push(Diagnostic::error(
                            "build::value",
                            value.span,
                            format!("the number of time steps is {v}, but must be an int from 1 to {MAX_TIME}"),
                            "here",
                        )),
                        Err(e) => self.errors.push(e),
                    }
                }
                _ => {}
            }
        }
        for (name, (span, _)) in std::mem::take(given) {
            let message = format!("model `{}` has no parameter `{name}`", model.name.name);
            let mut error = Diagnostic::error("build::unknown_argument", *span, message, "no such parameter");
            error = match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help(format!("it has: {}", known.join(", "))),
            };
            self.errors.push(error);
        }
        if self.time_at.is_none() {
            self.errors.push(
                Diagnostic::error("build::time", model.name.span, format!("model `{}` has no time", model.name.name), "this model")
                    .help("add `time T = 4`"),
            );
        }
        frame.axes.insert("T".into(), i64::try_from(self.time).unwrap_or(0));
    }

    /// A value as a parameter of this type.
    pub(super) fn typed(&self, value: Value, ty: &Type, span: Span) -> Built<Value> {
        let wrong = |wanted: &str| {
            let message = format!("expected a value of type {wanted}, not {}", value.type_name());
            Err(Diagnostic::error("build::type", span, message, format!("this is {}", value.type_name())))
        };
        match (ty, &value) {
            (_, Value::Poison) => Ok(Value::Poison),
            (Type::List(element, _), Value::List(items)) => {
                items.iter().map(|v| self.typed(v.clone(), element, span)).collect::<Built<Vec<_>>>().map(Value::List)
            }
            (Type::List(..), _) => wrong("list"),
            (Type::Signal(_), Value::Signal(_)) => Ok(value),
            (Type::Signal(_), _) => wrong("signal"),
            (Type::Plain(name), _) => match (name.name.as_str(), &value) {
                ("int", Value::Int(_))
                | ("float", Value::Float(_))
                | ("bool", Value::Bool(_))
                | ("string", Value::Str(_))
                | ("axis", Value::Axis(_))
                | ("neuron", Value::Neuron(..))
                | ("initializer", Value::Setting(_)) => Ok(value),
                ("float", Value::Int(i)) => Ok(Value::Float(*i as f64)),
                ("int" | "float" | "bool" | "string" | "axis" | "neuron" | "initializer", _) => wrong(&name.name),
                (other, _) => {
                    let known = ["int", "float", "bool", "string", "axis", "neuron", "initializer"];
                    let error = Diagnostic::error("build::type", name.span, format!("there is no type `{other}`"), "not a type");
                    Err(match nearest(other, known) {
                        Some(near) => error.help(format!("did you mean `{near}`?")),
                        None => error.help(format!("the types are {}, lists of them, and signals", known.join(", "))),
                    })
                }
            },
        }
    }

    /// Runs `f` one segment deeper in the path.
    pub(super) fn under<T>(&mut self, segment: String, f: impl FnOnce(&mut Self) -> T) -> T {
        self.at.path.push(segment);
        let result = f(self);
        self.at.path.pop();
        result
    }

    /// Adds the use sites of the blocks around this place.
    pub(super) fn with_calls(&self, mut error: Diagnostic) -> Diagnostic {
        for call in self.at.calls.iter().rev().take(3) {
            error = error.label(*call, "in this use");
        }
        error
    }

    /// A problem at a place.
    pub(super) fn problem(&self, problem: Problem, span: Span) -> Diagnostic {
        let at = problem.span.unwrap_or(span);
        let mut error = Diagnostic::error(problem.code, at, problem.message, "here");
        error.help = problem.help;
        self.with_calls(error)
    }

    /// Adds a node with its parameters.
    pub(super) fn node(&mut self, op: Op, inputs: Vec<NodeId>, span: Span, named: Option<(&str, Span)>) -> Built<NodeId> {
        let signals: Vec<Signal> = inputs.iter().map(|i| self.nodes[i.index()].signal.clone()).collect();
        let signal = op.infer(&signals, self.time).map_err(|p| {
            let mut error = self.problem(p, span);
            for (i, input) in inputs.iter().enumerate().take(2) {
                let node = &self.nodes[input.index()];
                if node.span.file == span.file && node.span != span {
                    error = error.label(node.span, format!("operand {} is {}", i + 1, node.signal));
                }
            }
            error
        })?;
        fits(&signal).map_err(|p| self.problem(p, span))?;
        if let Some(axis) = signal.axes.iter().find(|a| a.name == "B" || a.name == "T") {
            let message = format!("`{}` is always there and cannot be an axis of {signal}", axis.name);
            return Err(self.problem(Problem::new("shape::axis", message).help("choose another name"), span));
        }
        let word = named.map_or(op.word(), |(name, _)| name);
        let mut path = self.at.path.clone();
        if !matches!(op, Op::Input(_)) {
            path.push(word.to_owned());
        }
        let unique = self.unique(path.join("."));
        let mut params = Vec::new();
        for spec in op.params(&signals) {
            let known = self.at.sharing.as_mut().and_then(|place| {
                place.next += 1;
                self.shared[place.share].params.get(place.next - 1).copied()
            });
            let Some(id) = known else {
                let id = ParamId::new(self.params.len());
                let path = format!("{unique}.{}", spec.name);
                self.params.push(Param { path, axes: spec.axes, init: spec.init, role: spec.role, min: spec.min });
                if let Some(place) = &self.at.sharing {
                    self.shared[place.share].params.push(id);
                }
                params.push(id);
                continue;
            };
            let first = &self.params[id.index()];
            if first.axes != spec.axes {
                let text = |axes: &[Axis]| axes.iter().map(|a| format!("{} = {}", a.name, a.size)).collect::<Vec<_>>().join(", ");
                let message =
                    format!("the shared `{}` is [{}] and would have to be [{}] here", first.path, text(&first.axes), text(&spec.axes));
                return Err(self.problem(Problem::new("shape::mismatch", message), span));
            }
            params.push(id);
        }
        let id = NodeId::new(self.nodes.len());
        let (allows, folds) = named.and_then(|(_, at)| self.neuron_marks.get(&at).cloned()).unwrap_or_default();
        self.nodes.push(Node {
            op,
            inputs,
            params,
            signal,
            path: unique,
            span,
            calls: self.at.calls.clone(),
            encoder: self.at.encoder,
            allows: allows.iter().chain(&self.at.allows).copied().collect(),
            folds: folds.iter().chain(&self.at.folds).copied().collect(),
            defined: named.map(|(_, at)| at),
        });
        Ok(id)
    }

    /// The path, with `#2`, `#3` … if it is taken.
    fn unique(&mut self, path: String) -> String {
        let count = self.used.entry(path.clone()).or_insert(0);
        *count += 1;
        if *count == 1 { path } else { format!("{path}#{count}") }
    }
}

fn fits(signal: &Signal) -> Result<(), Problem> {
    let elements: u128 = signal.axes.iter().map(|a| a.size as u128).product();
    if elements > MAX_ELEMENTS {
        return Err(Problem::new("shape::extent", format!("a signal of {elements} values is too large: [{}]", signal.axes_text())));
    }
    Ok(())
}

pub(super) fn not_a_signal(v: &Value, span: Span) -> Diagnostic {
    Diagnostic::error("build::type", span, format!("expected a signal, not a value of type {}", v.type_name()), "here")
}
