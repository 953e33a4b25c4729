//! An instance of a model to its graph: statements are run in order, blocks expanded, shapes and kinds inferred.
//!
//! An error in a statement poisons what it binds and building goes on, so that one run reports every mistake once.

use super::expr::leftmost;
use super::{Allow, Contract, Graph, Instance, Node, Param};
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
        param_ids: HashMap::new(),
        allows: Vec::new(),
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
    let Builder { nodes, params, allows, contracts, mut errors, time, input, output, .. } = builder;
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
        contracts,
        strict: package.strict,
        span: instance.model.name.span,
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
    /// Inside a shared instance: parameters that exist already are used again.
    pub(super) sharing: bool,
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
}

pub(super) struct Builder<'a> {
    pub(super) package: &'a Package,
    pub(super) nodes: Vec<Node>,
    params: Vec<Param>,
    param_ids: HashMap<String, ParamId>,
    allows: Vec<Allow>,
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
        let outer = frame.clone();
        let mut known: Vec<String> = Vec::new();
        for stmt in &model.body {
            match &stmt.kind {
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
                | ("neuron", Value::Neuron(..)) => Ok(value),
                ("float", Value::Int(i)) => Ok(Value::Float(*i as f64)),
                ("int" | "float" | "bool" | "string" | "axis" | "neuron", _) => wrong(&name.name),
                (other, _) => {
                    let known = ["int", "float", "bool", "string", "axis", "neuron"];
                    let error = Diagnostic::error("build::type", name.span, format!("there is no type `{other}`"), "not a type");
                    Err(match nearest(other, known) {
                        Some(near) => error.help(format!("did you mean `{near}`?")),
                        None => error.help(format!("the types are {}, lists of them, and signals", known.join(", "))),
                    })
                }
            },
        }
    }

    fn define(&mut self, name: &Ident, value: Built<Value>, frame: &mut Frame) {
        let value = value.unwrap_or_else(|e| {
            self.errors.push(e);
            Value::Poison
        });
        frame.names.insert(name.name.clone(), value);
    }

    pub(super) fn statements(&mut self, body: &[Stmt], frame: &mut Frame) {
        for stmt in body {
            self.statements += 1;
            if self.statements > MAX_STATEMENTS || self.nodes.len() > MAX_NODES {
                if !self.stopped {
                    self.stopped = true;
                    let message = format!("the model expands to more than {MAX_NODES} nodes or {MAX_STATEMENTS} statements");
                    self.errors.push(Diagnostic::error("build::too_large", stmt.span, message, "expanding stopped here"));
                }
                return;
            }
            let kept = self.at.allows.len();
            for args in &stmt.allows {
                match self.allow(args, frame) {
                    Ok(index) => self.at.allows.push(index),
                    Err(e) => self.errors.push(e),
                }
            }
            if let Err(e) = self.statement(stmt, frame) {
                self.errors.push(e);
            }
            self.at.allows.truncate(kept);
        }
    }

    /// Runs `f` one segment deeper in the path.
    pub(super) fn under<T>(&mut self, segment: String, f: impl FnOnce(&mut Self) -> T) -> T {
        self.at.path.push(segment);
        let result = f(self);
        self.at.path.pop();
        result
    }

    fn statement(&mut self, stmt: &Stmt, frame: &mut Frame) -> Built<()> {
        let misplaced =
            |what: &str| Diagnostic::error("build::misplaced", stmt.span, format!("{what} belongs to a model"), "not in a block");
        match &stmt.kind {
            StmtKind::Param(_) if frame.in_block => return Err(misplaced("`param`").help("write it among the block's parameters")),
            StmtKind::Time(..) if frame.in_block => return Err(misplaced("`time`")),
            StmtKind::Param(_) | StmtKind::Time(..) => {}
            StmtKind::Input(name, ty) => {
                if frame.in_block || self.input.is_some() {
                    let error = Diagnostic::error("build::misplaced", stmt.span, "a model has one input, declared once", "another input");
                    return Err(error);
                }
                let signal = self.declared_signal(ty, frame)?;
                let op = Op::Input(input::Input { signal });
                let id = self.under(name.name.clone(), |b| b.node(op, vec![], stmt.span, None))?;
                self.input = Some(id);
                for axis in &self.nodes[id.index()].signal.axes {
                    frame.axes.insert(axis.name.clone(), i64::try_from(axis.size).unwrap_or(0));
                }
                frame.names.insert(name.name.clone(), Value::Signal(id));
            }
            StmtKind::Neuron(name, value) => {
                let neuron = self.expr(value, frame).and_then(|v| match v {
                    Value::Neuron(n, _) => Ok(Value::Neuron(n, value.span)),
                    Value::Poison => Ok(v),
                    v => Err(Diagnostic::error(
                        "build::type",
                        value.span,
                        format!("this is no neuron but a value of type {}", v.type_name()),
                        "expected a neuron",
                    )
                    .help("for example `LIF(tau = 2.0)`")),
                });
                self.define(name, neuron, frame);
            }
            StmtKind::Share(name, value) => {
                let mut path = self.at.path.clone();
                path.push(name.name.clone());
                self.shared.push(Shared { call: value.clone(), path, frame: frame.clone() });
                frame.names.insert(name.name.clone(), Value::Shared(self.shared.len() - 1));
            }
            StmtKind::Bind(name, value) => {
                let value = self.under(name.name.clone(), |b| b.expr(value, frame));
                self.define(name, value, frame);
            }
            StmtKind::Yield(value) => {
                if !frame.in_block {
                    return Err(Diagnostic::error("build::misplaced", stmt.span, "`yield` belongs to a block", "a model has `output`"));
                }
                self.dag(frame);
                match self.expr(value, frame)? {
                    Value::Signal(id) => frame.yielded = Some((id, value.span)),
                    Value::Poison => {}
                    v => return Err(not_a_signal(&v, value.span)),
                }
            }
            StmtKind::Output(value) => {
                if frame.in_block || self.output.is_some() {
                    return Err(Diagnostic::error("build::misplaced", stmt.span, "a model has one output, given once", "another output"));
                }
                match self.under("output".into(), |b| b.expr(value, frame))? {
                    Value::Signal(id) => {
                        let signal = &self.nodes[id.index()].signal;
                        if signal.varies || signal.axes.len() != 1 {
                            let error = Diagnostic::error(
                                "build::output",
                                value.span,
                                format!("the output is {signal}"),
                                "must have one axis and no T",
                            );
                            return Err(error.help("end it with `|> mean(T)`"));
                        }
                        self.output = Some(id);
                    }
                    Value::Poison => {}
                    v => return Err(not_a_signal(&v, value.span)),
                }
            }
            StmtKind::Require(condition, message) => match self.expr(condition, frame)? {
                Value::Bool(true) | Value::Poison => {}
                Value::Bool(false) => {
                    let text = match message {
                        Some(m) => match self.expr(m, frame)? {
                            Value::Str(s) => s,
                            v => v.to_string(),
                        },
                        None => "a requirement does not hold".into(),
                    };
                    let error = Diagnostic::error("build::require", condition.span, text, "this does not hold");
                    return Err(self.with_calls(error));
                }
                v => {
                    let message = format!("a requirement is a bool, not a value of type {}", v.type_name());
                    return Err(Diagnostic::error("build::type", condition.span, message, "here"));
                }
            },
            StmtKind::For { pattern, from, to, body } => self.for_loop(pattern, from, to.as_ref(), body, frame)?,
            StmtKind::If { arms, otherwise } => {
                for (condition, body) in arms {
                    match self.expr(condition, frame)? {
                        Value::Bool(true) => {
                            self.statements(body, frame);
                            return Ok(());
                        }
                        Value::Bool(false) => {}
                        Value::Poison => return Ok(()),
                        v => {
                            let message = format!("a condition is a bool, not a value of type {}", v.type_name());
                            return Err(Diagnostic::error("build::type", condition.span, message, "here"));
                        }
                    }
                }
                if let Some(body) = otherwise {
                    self.statements(body, frame);
                }
            }
            StmtKind::Encoder(body) => {
                if self.at.encoder || frame.in_block {
                    return Err(Diagnostic::error("build::misplaced", stmt.span, "the encoder stands in a model, not nested", "here"));
                }
                self.at.encoder = true;
                self.statements(body, frame);
                self.at.encoder = false;
            }
            StmtKind::Section { kind, label, index, body } => {
                const KINDS: [&str; 4] = ["stage", "mixer", "attention", "residual"];
                if !KINDS.contains(&kind.name.as_str()) {
                    let error = Diagnostic::error(
                        "build::section",
                        kind.span,
                        format!("there is no section `{}`", kind.name),
                        "not a kind of section",
                    );
                    return Err(match nearest(&kind.name, KINDS) {
                        Some(near) => error.help(format!("did you mean `{near}`?")),
                        None => error.help(format!("sections are {}", KINDS.join(", "))),
                    });
                }
                if self.at.encoder {
                    return Err(Diagnostic::error(
                        "check::encoder_share",
                        stmt.span,
                        format!("a {} may not stand in the encoder", kind.name),
                        "this section",
                    )
                    .help("the encoder is for the first layer, which sees the input; close it before the first stage"));
                }
                let segment = match index {
                    None => label.name.clone(),
                    Some(e) => format!("{}[{}]", label.name, self.expr(e, frame)?),
                };
                self.under(segment, |b| b.statements(body, frame));
            }
            StmtKind::Nodes(names, ty) => {
                for name in names {
                    if let Some((_, first)) = frame.nodes.insert(name.name.clone(), (ty.clone(), name.span)) {
                        let error = Diagnostic::error(
                            "resolve::duplicate",
                            name.span,
                            format!("node `{}` is declared twice", name.name),
                            "again here",
                        );
                        return Err(error.label(first, "first here"));
                    }
                }
            }
            StmtKind::Edge { from, to, chain } => {
                for target in to {
                    if !frame.nodes.contains_key(&target.name) {
                        let error = Diagnostic::error(
                            "resolve::unknown_name",
                            target.span,
                            format!("there is no node `{}`", target.name),
                            "not declared",
                        );
                        return Err(match nearest(&target.name, frame.nodes.keys().map(String::as_str)) {
                            Some(near) => error.help(format!("did you mean `{near}`?")),
                            None => error.help("declare it with `nodes`"),
                        });
                    }
                    for source in from {
                        let edge = Edge { from: source.clone(), to: target.clone(), chain: chain.clone(), names: frame.names.clone() };
                        frame.edges.push(edge);
                    }
                }
            }
        }
        Ok(())
    }

    fn for_loop(&mut self, pattern: &[Ident], from: &Expr, to: Option<&Expr>, body: &[Stmt], frame: &mut Frame) -> Built<()> {
        let start = self.expr(from, frame)?;
        let items: Box<dyn Iterator<Item = Value>> = match (start, to) {
            (Value::Poison, _) => return Ok(()),
            (Value::Int(a), Some(to)) => match self.expr(to, frame)? {
                Value::Int(b) => Box::new((a..b).map(Value::Int)),
                Value::Poison => return Ok(()),
                v => {
                    return Err(Diagnostic::error(
                        "build::type",
                        to.span,
                        format!("a range ends at an int, not at a value of type {}", v.type_name()),
                        "here",
                    ));
                }
            },
            (Value::List(items), None) => Box::new(items.into_iter()),
            (v, _) => {
                let message = format!("`for` runs over a list or a range of ints, not a value of type {}", v.type_name());
                return Err(Diagnostic::error("build::type", from.span, message, "here"));
            }
        };
        for (i, item) in items.enumerate() {
            match pattern {
                [one] => {
                    frame.names.insert(one.name.clone(), item);
                }
                [index, element] => {
                    frame.names.insert(index.name.clone(), Value::Int(i64::try_from(i).unwrap_or(i64::MAX)));
                    frame.names.insert(element.name.clone(), item);
                }
                more => {
                    let span = more.first().map_or(from.span, |f| f.span);
                    return Err(Diagnostic::error("build::type", span, "`for` binds one name, or an index and an element", "here"));
                }
            }
            self.statements(body, frame);
            if self.stopped {
                return Ok(());
            }
        }
        Ok(())
    }

    fn allow(&mut self, args: &ast::Args, frame: &mut Frame) -> Built<usize> {
        let usage = "write `allow(rule, count = 1, \"reason\")`";
        let bad = |message: &str| Diagnostic::error("build::allow", args.span, message, "here").help(usage);
        let (mut rule, mut count, mut reason) = (None, None, None);
        for arg in &args.list {
            match arg {
                ast::Arg::Plain(Expr { kind: ExprKind::Name(n), span }) if rule.is_none() => rule = Some((n.clone(), *span)),
                ast::Arg::Plain(Expr { kind: ExprKind::Str(s), .. }) => reason = Some(s.clone()),
                ast::Arg::Named(n, e) if n.name == "count" => match self.expr(e, frame)? {
                    Value::Int(i) => count = Some(usize::try_from(i).unwrap_or(0)),
                    v => return Err(bad(&format!("`count` is an int, not a value of type {}", v.type_name()))),
                },
                _ => return Err(bad("`allow` takes a rule, a count and a reason")),
            }
        }
        let (Some((rule, span)), Some(count), Some(reason)) = (rule, count, reason) else {
            return Err(bad("`allow` takes a rule, a count and a reason"));
        };
        if !crate::check::RULES.contains(&rule.as_str()) {
            let error = Diagnostic::error("build::allow", span, format!("there is no rule `{rule}`"), "not a rule");
            return Err(match nearest(&rule, crate::check::RULES) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help(format!("the rules are {}", crate::check::RULES.join(", "))),
            });
        }
        // One `allow` in the source is one entry, however often its statement is expanded.
        if let Some(known) = self.allows.iter().position(|a| a.span == args.span) {
            return Ok(known);
        }
        self.allows.push(Allow { rule, count, reason, span: args.span });
        Ok(self.allows.len() - 1)
    }

    /// The signal that a declaration with all extents given describes.
    fn declared_signal(&mut self, ty: &SignalType, frame: &mut Frame) -> Built<Signal> {
        let kind = Kind::named(&ty.kind.name).unwrap_or(Kind::Analog);
        let mut axes: Vec<Axis> = Vec::new();
        let mut varies = false;
        for axis in &ty.axes {
            let Some(name) = axis_name(axis) else {
                return Err(Diagnostic::error("shape::axis", axis.size.span, "an axis has a name", "expected `C = 3`"));
            };
            if name == "T" {
                varies = true;
                continue;
            }
            let value = if axis.name.is_none() && matches!(axis.size.kind, ExprKind::Name(_)) && !frame.axes.contains_key(&name) {
                let error =
                    Diagnostic::error("build::missing_argument", axis.size.span, format!("the extent of `{name}` is missing"), "here");
                return Err(error.help(format!("write `{name} = 32`")));
            } else {
                self.expr(&axis.size, frame)?
            };
            if axes.iter().any(|a| a.name == name) {
                return Err(Diagnostic::error("shape::axis", axis.size.span, format!("axis `{name}` is named twice"), "again here"));
            }
            axes.push(Axis::new(name, extent(&value, axis.size.span)?));
        }
        let bound = u64::from(kind <= Kind::Count);
        let signal = Signal { kind, axes, varies, bound };
        fits(&signal).map_err(|p| self.problem(p, ty.span))?;
        Ok(signal)
    }

    /// Matches a signal against a signature: plain axes bind their extents, others must agree.
    pub(super) fn unify(&mut self, ty: &SignalType, given: NodeId, by: &str, at: Span, frame: &mut Frame) -> Built<()> {
        let signal = self.nodes[given.index()].signal.clone();
        let mismatch = |detail: String| {
            Diagnostic::error("shape::mismatch", at, format!("{by} does not fit: {detail}"), format!("this is [{}]", signal.axes_text()))
                .label(ty.span, "declared here")
        };
        let wanted: Vec<&AxisType> = ty.axes.iter().filter(|a| axis_name(a).as_deref() != Some("T")).collect();
        let names: Vec<String> = wanted.iter().filter_map(|a| axis_name(a)).collect();
        if names.len() != signal.axes.len() || names.iter().zip(&signal.axes).any(|(n, a)| *n != a.name) {
            return Err(mismatch(format!("its axes are [{}], not [{}]", signal.axes_text(), names.join(", "))));
        }
        // Plain axes first: `H / 2` may use what they bind.
        for (axis, actual) in wanted.iter().zip(&signal.axes) {
            if axis.name.is_none() && matches!(axis.size.kind, ExprKind::Name(_)) {
                let size = i64::try_from(actual.size).unwrap_or(0);
                if let Some(bound) = frame.axes.insert(actual.name.clone(), size).filter(|b| *b != size) {
                    return Err(mismatch(format!("axis {} is {size} here and {bound} before", actual.name)));
                }
            }
        }
        for (axis, actual) in wanted.iter().zip(&signal.axes) {
            if axis.name.is_none() && matches!(axis.size.kind, ExprKind::Name(_)) {
                continue;
            }
            let value = self.expr(&axis.size, frame)?;
            let size = extent(&value, axis.size.span)?;
            if size != actual.size {
                return Err(mismatch(format!("axis {} is {}, not {size}", actual.name, actual.size)));
            }
        }
        let asked = Kind::named(&ty.kind.name).unwrap_or(Kind::Analog);
        if signal.kind > asked {
            self.contracts.push(Contract { given, asked, by: by.to_owned(), at, declared: ty.span });
        }
        Ok(())
    }

    /// Expands a block or DAG.
    pub(super) fn expand(&mut self, def: &Arc<BlockDef>, values: &HashMap<String, (Value, Span)>, span: Span) -> Built<Value> {
        let block = &def.block;
        if block.encoder && !self.at.encoder {
            let error = Diagnostic::error(
                "build::encoder_block",
                span,
                format!("`{}` may be used in the encoder only", block.name.name),
                "used outside",
            );
            return Err(error.label(block.name.span, "declared `encoder block` here"));
        }
        let mut frame = Frame { file: def.file, in_block: true, ..Frame::default() };
        frame.axes.insert("T".into(), i64::try_from(self.time).unwrap_or(0));
        let mut poisoned = false;
        for formal in &block.formals {
            let (value, at) = match values.get(&formal.name.name) {
                Some((value, at)) => (self.typed(value.clone(), &formal.ty, *at)?, *at),
                None => match &formal.default {
                    Some(default) => (self.expr(default, &mut frame)?, default.span),
                    None => {
                        let message = format!("`{}` needs `{}`", block.name.name, formal.name.name);
                        let error = Diagnostic::error("build::missing_argument", span, message, "missing here")
                            .label(formal.name.span, "declared here");
                        return Err(error.help(format!("add `{} = …`", formal.name.name)));
                    }
                },
            };
            poisoned |= value == Value::Poison;
            if let (Type::Signal(ty), Value::Signal(id)) = (&formal.ty, &value) {
                let by = format!("parameter `{}` of `{}`", formal.name.name, block.name.name);
                self.unify(ty, *id, &by, at, &mut frame)?;
            }
            frame.names.insert(formal.name.name.clone(), value);
        }
        if poisoned {
            return Ok(Value::Poison);
        }
        self.at.calls.push(span);
        self.statements(&block.body, &mut frame);
        self.at.calls.pop();
        let Some((id, at)) = frame.yielded else {
            if self.errors.is_empty() {
                let message = format!("`{}` yields nothing", block.name.name);
                return Err(Diagnostic::error("build::yield", block.name.span, message, "this block").help("end it with `yield …`"));
            }
            return Ok(Value::Poison);
        };
        let by = format!("the result of `{}`", block.name.name);
        self.unify(&block.result, id, &by, at, &mut frame)?;
        Ok(Value::Signal(id))
    }

    /// Evaluates the nodes of a DAG in an order in which their sources are there.
    fn dag(&mut self, frame: &mut Frame) {
        let edges = std::mem::take(&mut frame.edges);
        let nodes = std::mem::take(&mut frame.nodes);
        let mut waiting: Vec<&String> = nodes.keys().collect();
        // Declaration order among those that are ready.
        waiting.sort_by_key(|n| nodes[*n].1);
        while !waiting.is_empty() {
            let ready =
                waiting.iter().position(|n| edges.iter().filter(|e| e.to.name == **n).all(|e| !waiting.iter().any(|w| **w == e.from.name)));
            let Some(ready) = ready else {
                self.errors.push(cycle(&edges, &waiting));
                for name in waiting {
                    frame.names.insert(name.clone(), Value::Poison);
                }
                return;
            };
            let name = waiting.remove(ready);
            let (ty, declared) = &nodes[name];
            let value = self.dag_node(name, ty, *declared, &edges, frame).unwrap_or_else(|e| {
                self.errors.push(e);
                Value::Poison
            });
            frame.names.insert(name.clone(), value);
        }
    }

    fn dag_node(&mut self, name: &str, ty: &SignalType, declared: Span, edges: &[Edge], frame: &mut Frame) -> Built<Value> {
        let mut sum: Option<NodeId> = None;
        for edge in edges.iter().filter(|e| e.to.name == name) {
            let source = frame.names.get(&edge.from.name).cloned().ok_or_else(|| {
                Diagnostic::error(
                    "resolve::unknown_name",
                    edge.from.span,
                    format!("there is no node or signal `{}`", edge.from.name),
                    "not found",
                )
            })?;
            let mut scope = frame.clone();
            scope.names.extend(edge.names.iter().filter(|(n, _)| !frame.names.contains_key(*n)).map(|(n, v)| (n.clone(), v.clone())));
            let segment = format!("{}_{name}", edge.from.name);
            let value = self.under(segment, |b| b.chain(source, edge.from.span, &edge.chain, &mut scope))?;
            let id = match value {
                Value::Signal(id) => id,
                Value::Poison => return Ok(Value::Poison),
                v => return Err(not_a_signal(&v, edge.chain.span)),
            };
            self.unify(ty, id, &format!("node `{name}`"), edge.chain.span, frame)?;
            sum = Some(match sum {
                None => id,
                Some(before) => {
                    let op = Op::Add(crate::ops::add::Add { minus: false });
                    self.under(name.to_owned(), |b| b.node(op, vec![before, id], edge.to.span, None))?
                }
            });
        }
        sum.map(Value::Signal).ok_or_else(|| {
            Diagnostic::error("build::dag_node", declared, format!("no edge leads to node `{name}`"), "declared here")
                .help("add an edge, or remove it")
        })
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
        let word = named.map_or(op.word(), |(name, _)| name);
        let mut path = self.at.path.clone();
        if !matches!(op, Op::Input(_)) {
            path.push(word.to_owned());
        }
        let params_at = path.join(".");
        let unique = self.unique(params_at.clone());
        let prefix = if self.at.sharing { params_at } else { unique.clone() };
        let mut params = Vec::new();
        for spec in op.params(&signals) {
            let path = format!("{prefix}.{}", spec.name);
            let known = self.param_ids.get(&path).copied().filter(|_| self.at.sharing);
            params.push(known.unwrap_or_else(|| {
                let id = ParamId::new(self.params.len());
                self.params.push(Param { path: path.clone(), axes: spec.axes, init: spec.init, role: spec.role });
                self.param_ids.insert(path, id);
                id
            }));
        }
        let id = NodeId::new(self.nodes.len());
        self.nodes.push(Node {
            op,
            inputs,
            params,
            signal,
            path: unique,
            span,
            calls: self.at.calls.clone(),
            encoder: self.at.encoder,
            allows: self.at.allows.clone(),
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

/// The name of a declared axis.
fn axis_name(axis: &AxisType) -> Option<String> {
    axis.name.as_ref().map(|n| n.name.clone()).or_else(|| leftmost(&axis.size).map(str::to_owned))
}

fn extent(value: &Value, span: Span) -> Built<usize> {
    match value {
        Value::Int(i) if (1..=i64::from(i32::MAX)).contains(i) => Ok(usize::try_from(*i).unwrap_or(1)),
        Value::Int(i) => {
            let message = format!("an axis cannot have extent {i}: it must lie between 1 and {}", i32::MAX);
            Err(Diagnostic::error("shape::extent", span, message, "this extent"))
        }
        v => Err(Diagnostic::error("build::type", span, format!("an extent is an int, not a value of type {}", v.type_name()), "here")),
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

/// The error that shows a cycle among the waiting nodes.
fn cycle(edges: &[Edge], waiting: &[&String]) -> Diagnostic {
    let mut path: Vec<&Edge> = Vec::new();
    let mut at = waiting.first().map_or("", |n| n.as_str());
    // Walking against the edges among waiting nodes must come back to a node seen before.
    loop {
        if let Some(start) = path.iter().position(|e| e.to.name == at) {
            path.drain(..start);
            break;
        }
        match edges.iter().find(|e| e.to.name == at && waiting.iter().any(|w| **w == e.from.name)) {
            Some(edge) => {
                path.push(edge);
                at = &edge.from.name;
            }
            None => break,
        }
    }
    path.reverse();
    let names: Vec<&str> = path.iter().map(|e| e.from.name.as_str()).chain(path.first().map(|e| e.from.name.as_str())).collect();
    let span = path.last().map(|e| e.chain.span).unwrap_or_default();
    let mut error =
        Diagnostic::error("build::dag_cycle", span, format!("the nodes form a cycle: {}", names.join(" -> ")), "this edge closes it");
    for edge in path.iter().rev().skip(1) {
        error = error.label(edge.chain.span, format!("{} -> {}", edge.from.name, edge.to.name));
    }
    error
}
