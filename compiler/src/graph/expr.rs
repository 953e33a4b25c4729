//! Expressions: constants are computed, signals become nodes.

use super::build::{Builder, Built, Frame, Sharing, not_a_signal};
use crate::ops::neuron::{NEURONS, Neuron};
use crate::ops::{self, Arguments, Op, add, fire, product, scale};
use crate::types::NodeId;
use crate::value::{self, FUNCTIONS, Setting, Value};
use snnc_grammar::ast::{Arg, Args, BinaryOp, Call, Expr, ExprKind, Type, UnaryOp};
use snnc_grammar::{Diagnostic, Span};
use std::collections::HashMap;

/// The leftmost name of an arithmetic expression: the axis of `H / 2`.
pub(super) fn leftmost(e: &Expr) -> Option<&str> {
    match &e.kind {
        ExprKind::Name(n) => Some(n),
        ExprKind::Binary(_, a, _) => leftmost(a),
        _ => None,
    }
}

fn is_axis(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
}

impl Builder<'_> {
    pub(super) fn expr(&mut self, e: &Expr, frame: &mut Frame) -> Built<Value> {
        match &e.kind {
            ExprKind::Int(i) => Ok(Value::Int(*i)),
            ExprKind::Float(f) => Ok(Value::Float(*f)),
            ExprKind::Str(s) => Ok(Value::Str(s.clone())),
            ExprKind::Bool(b) => Ok(Value::Bool(*b)),
            ExprKind::Name(name) => self.name(name, e.span, frame),
            ExprKind::List(items) => items.iter().map(|i| self.expr(i, frame)).collect::<Built<_>>().map(Value::List),
            ExprKind::Unary(op, a) => match (op, self.expr(a, frame)?) {
                (UnaryOp::Neg, Value::Signal(id)) => {
                    self.node(Op::Scale(scale::Scale { factor: -1.0 }), vec![id], e.span, None).map(Value::Signal)
                }
                (op, v) => value::unary(*op, v, e.span),
            },
            ExprKind::Binary(op, a, b) => {
                let (a, b) = (self.expr(a, frame)?, self.expr(b, frame)?);
                self.binary(*op, a, b, e.span)
            }
            ExprKind::Index(list, index) => match (self.expr(list, frame)?, self.expr(index, frame)?) {
                (Value::Poison, _) | (_, Value::Poison) => Ok(Value::Poison),
                (Value::List(items), Value::Int(i)) => usize::try_from(i).ok().and_then(|i| items.get(i).cloned()).ok_or_else(|| {
                    let message = format!("index {i} is out of range: the list has {} elements", items.len());
                    Diagnostic::error("build::index", index.span, message, "this index")
                }),
                (v, i) => {
                    let message = format!("a value of type {} cannot be indexed by one of type {}", v.type_name(), i.type_name());
                    Err(Diagnostic::error("build::type", e.span, message, "here"))
                }
            },
            ExprKind::Call(call) => self.call(call, None, e.span, frame),
            ExprKind::Pipe(head, stages) => {
                let mut value = self.expr(head, frame)?;
                for stage in stages {
                    value = self.stage(value, head.span, stage, frame)?;
                }
                Ok(value)
            }
        }
    }

    /// A chain of stages (the label of a DAG's edge) applied to a signal.
    pub(super) fn chain(&mut self, source: Value, at: Span, chain: &Expr, frame: &mut Frame) -> Built<Value> {
        match &chain.kind {
            ExprKind::Pipe(first, rest) => {
                let mut value = self.stage(source, at, first, frame)?;
                for stage in rest {
                    value = self.stage(value, at, stage, frame)?;
                }
                Ok(value)
            }
            _ => self.stage(source, at, chain, frame),
        }
    }

    fn stage(&mut self, input: Value, at: Span, stage: &Expr, frame: &mut Frame) -> Built<Value> {
        let id = match input {
            Value::Signal(id) => id,
            Value::Poison => return Ok(Value::Poison),
            v => return Err(not_a_signal(&v, at)),
        };
        match &stage.kind {
            ExprKind::Call(call) => self.call(call, Some((id, at)), stage.span, frame),
            ExprKind::Name(name) => self.apply_name(name, id, at, stage.span, frame),
            _ => Err(Diagnostic::error("build::type", stage.span, "expected an operator, a block or a neuron", "cannot be applied")),
        }
    }

    fn name(&mut self, name: &str, span: Span, frame: &Frame) -> Built<Value> {
        if let Some(value) = frame.names.get(name) {
            return Ok(value.clone());
        }
        if let Some(size) = frame.axes.get(name) {
            return Ok(Value::Int(*size));
        }
        if ops::SETTINGS.contains(&name) {
            return Ok(Value::Setting(Setting { name: name.to_owned(), plain: vec![], named: vec![], span }));
        }
        if ops::arity(name).is_some()
            || NEURONS.contains(&name)
            || self.package.scopes.get(&frame.file).is_some_and(|s| s.contains_key(name))
        {
            return Err(Diagnostic::error(
                "build::type",
                span,
                format!("`{name}` is applied to a signal, it is no value"),
                "used as a value",
            ));
        }
        let error = if is_axis(name) {
            let mut known: Vec<&str> = frame.axes.keys().map(String::as_str).collect();
            known.sort_unstable();
            Diagnostic::error("shape::axis", span, format!("the extent of axis `{name}` is not known here"), "not an axis of any parameter")
                .help(format!("known are: {}", known.join(", ")))
        } else {
            Diagnostic::error("build::unbound", span, format!("`{name}` has no value yet"), "used before it is bound")
        };
        Err(self.with_calls(error))
    }

    fn binary(&mut self, op: BinaryOp, a: Value, b: Value, span: Span) -> Built<Value> {
        let scales = matches!(a, Value::Signal(_)) != matches!(b, Value::Signal(_));
        let factor = a.as_float().or(b.as_float()).filter(|f| scales && *f != 0.0);
        if let Some(f) = factor.filter(|f| !(1e-30..=1e30).contains(&f.abs())) {
            return Err(Diagnostic::error("build::value", span, format!("the factor {f:e} is out of range"), "here"));
        }
        let node = |b: &mut Self, op: Op, inputs: Vec<NodeId>| b.node(op, inputs, span, None).map(Value::Signal);
        match (op, &a, &b) {
            (_, Value::Poison, _) | (_, _, Value::Poison) => Ok(Value::Poison),
            (BinaryOp::Add, Value::Signal(x), Value::Signal(y)) => node(self, Op::Add(add::Add { minus: false }), vec![*x, *y]),
            (BinaryOp::Sub, Value::Signal(x), Value::Signal(y)) => node(self, Op::Add(add::Add { minus: true }), vec![*x, *y]),
            (BinaryOp::Mul, Value::Signal(x), Value::Signal(y)) => node(self, Op::Product(product::Product), vec![*x, *y]),
            (BinaryOp::Mul, Value::Signal(x), c) | (BinaryOp::Mul, c, Value::Signal(x)) if c.as_float().is_some() => {
                node(self, Op::Scale(scale::Scale { factor: c.as_float().unwrap_or(1.0) }), vec![*x])
            }
            (BinaryOp::Div, Value::Signal(x), c) if c.as_float().is_some_and(|c| c != 0.0) => {
                node(self, Op::Scale(scale::Scale { factor: 1.0 / c.as_float().unwrap_or(1.0) }), vec![*x])
            }
            (BinaryOp::Div, Value::Signal(_), c) if c.as_float() == Some(0.0) => {
                Err(Diagnostic::error("build::arithmetic", span, "division by zero", "the divisor is zero"))
            }
            (_, Value::Signal(_), _) | (_, _, Value::Signal(_)) => {
                let message = format!("`{}` does not take values of types {} and {}", op.symbol(), a.type_name(), b.type_name());
                Err(Diagnostic::error("build::type", span, message, "here"))
            }
            _ => value::binary(op, a, b, span),
        }
    }

    /// `signal |> name`
    fn apply_name(&mut self, name: &str, id: NodeId, at: Span, span: Span, frame: &mut Frame) -> Built<Value> {
        match frame.names.get(name) {
            Some(Value::Neuron(neuron, defined)) => {
                let (op, defined) = (Op::Fire(fire::Fire { neuron: (**neuron).clone() }), *defined);
                return self.node(op, vec![id], span, Some((name, defined))).map(Value::Signal);
            }
            Some(Value::Shared(index)) => {
                let index = *index;
                return self.apply_shared(index, id, at, span);
            }
            Some(Value::Poison) => return Ok(Value::Poison),
            Some(v) => {
                let message = format!("`{name}` is a value of type {} and cannot be applied", v.type_name());
                return Err(Diagnostic::error("build::type", span, message, "here"));
            }
            None => {}
        }
        if name == "identity" {
            return Ok(Value::Signal(id));
        }
        let call = Call { callee: snnc_grammar::ast::Ident { name: name.to_owned(), span }, args: Args { span, ..Args::default() } };
        self.call(&call, Some((id, at)), span, frame)
    }

    fn apply_shared(&mut self, index: usize, id: NodeId, at: Span, span: Span) -> Built<Value> {
        let shared = &self.shared[index];
        let (call, path, mut frame) = (shared.call.clone(), shared.path.clone(), shared.frame.clone());
        let kept = std::mem::replace(&mut self.at.path, path);
        let sharing = self.at.sharing.replace(Sharing { share: index, next: 0 });
        self.at.calls.push(span);
        let result = self.stage(Value::Signal(id), at, &call, &mut frame);
        self.at.calls.pop();
        self.at.sharing = sharing;
        self.at.path = kept;
        result
    }

    /// `name(args)`, with the signal that is piped into it, if any.
    fn call(&mut self, call: &Call, piped: Option<(NodeId, Span)>, span: Span, frame: &mut Frame) -> Built<Value> {
        let name = call.callee.name.as_str();
        if let Some(Value::Neuron(..) | Value::Shared(_)) = frame.names.get(name) {
            let plain: Vec<&Arg> = call.args.list.iter().collect();
            let input = match (piped, plain.as_slice()) {
                (Some((id, _)), []) => id,
                (None, [Arg::Plain(e)]) => match self.expr(e, frame)? {
                    Value::Signal(id) => id,
                    Value::Poison => return Ok(Value::Poison),
                    v => return Err(not_a_signal(&v, e.span)),
                },
                _ => {
                    let message = format!("`{name}` is applied to one signal");
                    return Err(
                        Diagnostic::error("build::arity", span, message, "here").help(format!("write `{name}(x)` or `x |> {name}`"))
                    );
                }
            };
            return self.apply_name(name, input, span, span, frame);
        }
        let block = self.package.scopes.get(&frame.file).and_then(|s| s.get(name)).cloned();
        if let Some(def) = block {
            return self.call_block(&def, call, piped, span, frame);
        }
        let (mut args, signals, poisoned) = self.arguments(&call.args, piped, frame)?;
        if poisoned {
            return Ok(Value::Poison);
        }
        if NEURONS.contains(&name) {
            let neuron = Neuron::read(name, &mut args).map_err(|p| self.problem(p, span))?;
            return match piped {
                None => Ok(Value::Neuron(Box::new(neuron), span)),
                Some((id, _)) => self.node(Op::Fire(fire::Fire { neuron }), vec![id], span, Some((name, span))).map(Value::Signal),
            };
        }
        if FUNCTIONS.contains(&name) && signals.is_empty() && args.named.is_empty() {
            let values: Vec<Value> = args.plain.into_iter().map(|(v, _)| v).collect();
            return value::function(name, &values, span);
        }
        let Some(arity) = ops::arity(name).filter(|_| ops::names().any(|n| n == name)).filter(|_| !signals.is_empty()) else {
            if signals.is_empty() && args.arrow.is_none() {
                let plain = args.plain.into_iter().map(|(v, _)| v).collect();
                let named = args.named.into_iter().map(|(n, _, v, _)| (n, v)).collect();
                return Ok(Value::Setting(Setting { name: name.to_owned(), plain, named, span }));
            }
            return Err(Diagnostic::error("build::type", span, format!("`{name}` cannot be applied to a signal"), "here"));
        };
        if !arity.contains(&signals.len()) {
            let message = if *arity.end() == usize::MAX {
                format!("`{name}` takes at least {} signals, not {}", arity.start(), signals.len())
            } else {
                format!("`{name}` takes {} signal(s), not {}", arity.end(), signals.len())
            };
            return Err(Diagnostic::error("build::arity", span, message, "here"));
        }
        let operands: Vec<_> = signals.iter().map(|i| self.nodes[i.index()].signal.clone()).collect();
        let op = ops::read(name, &mut args, &operands).map_err(|p| self.problem(p, span))?;
        args.finish(name).map_err(|p| self.problem(p, span))?;
        self.node(op, signals, span, None).map(Value::Signal)
    }

    /// Evaluates arguments; signals among the plain ones become operands.
    fn arguments(&mut self, args: &Args, piped: Option<(NodeId, Span)>, frame: &mut Frame) -> Built<(Arguments, Vec<NodeId>, bool)> {
        let mut out = Arguments::new(self.time);
        out.axes = args.axes.iter().map(|a| (self.axis(&a.name, frame), a.span)).collect();
        let mut signals: Vec<NodeId> = piped.iter().map(|(id, _)| *id).collect();
        let mut poisoned = false;
        for arg in &args.list {
            match arg {
                Arg::Plain(e) => {
                    let value = match &e.kind {
                        ExprKind::Name(n) if is_axis(n) && !frame.names.contains_key(n) => Value::Axis(n.clone()),
                        _ => self.expr(e, frame)?,
                    };
                    match value {
                        Value::Signal(id) => signals.push(id),
                        Value::Poison => poisoned = true,
                        v => out.plain.push((v, e.span)),
                    }
                }
                Arg::Named(name, e) => {
                    let value = self.expr(e, frame)?;
                    poisoned |= value == Value::Poison;
                    if out.named.iter().any(|(n, ..)| *n == name.name) {
                        return Err(Diagnostic::error(
                            "build::unknown_argument",
                            name.span,
                            format!("`{}` is given twice", name.name),
                            "again here",
                        ));
                    }
                    out.named.push((name.name.clone(), name.span, value, e.span));
                }
                Arg::Arrow(from, to, span) => {
                    if out.arrow.is_some() {
                        return Err(Diagnostic::error("build::unknown_argument", *span, "there is a second arrow", "here"));
                    }
                    let from = from.iter().map(|a| (self.axis(&a.name, frame), a.span)).collect();
                    let mut targets = Vec::new();
                    for decl in to {
                        let size = match &decl.size {
                            None => None,
                            Some(e) => match self.expr(e, frame)? {
                                Value::Int(i) => Some(i),
                                Value::Poison => return Ok((out, signals, true)),
                                v => {
                                    let message = format!("an extent is an int, not a value of type {}", v.type_name());
                                    return Err(Diagnostic::error("build::type", e.span, message, "here"));
                                }
                            },
                        };
                        targets.push((self.axis(&decl.name.name, frame), size, decl.name.span));
                    }
                    out.arrow = Some((from, targets));
                }
            }
        }
        Ok((out, signals, poisoned))
    }

    /// The axis a name means: itself, or the one an `axis` parameter holds.
    fn axis(&self, name: &str, frame: &Frame) -> String {
        match frame.names.get(name) {
            Some(Value::Axis(axis)) => axis.clone(),
            _ => name.to_owned(),
        }
    }

    fn call_block(
        &mut self,
        def: &std::sync::Arc<crate::resolve::BlockDef>,
        call: &Call,
        piped: Option<(NodeId, Span)>,
        span: Span,
        frame: &mut Frame,
    ) -> Built<Value> {
        let formals = &def.block.formals;
        let block = &def.block.name;
        let mut values: HashMap<String, (Value, Span)> = HashMap::new();
        let mut next = 0;
        if let (Some((id, at)), Some(first)) = (piped, formals.first()) {
            values.insert(first.name.name.clone(), (Value::Signal(id), at));
            next = 1;
        }
        for arg in &call.args.list {
            let (formal, e) = match arg {
                Arg::Plain(e) => {
                    let formal = formals.get(next).ok_or_else(|| {
                        let message = format!("`{}` takes {} arguments", block.name, formals.len());
                        Diagnostic::error("build::arity", e.span, message, "one too many").label(block.span, "defined here")
                    })?;
                    next += 1;
                    (formal, e)
                }
                Arg::Named(name, e) => {
                    let formal = formals.iter().find(|f| f.name.name == name.name).ok_or_else(|| {
                        let message = format!("`{}` has no parameter `{}`", block.name, name.name);
                        let error = Diagnostic::error("build::unknown_argument", name.span, message, "no such parameter")
                            .label(block.span, "defined here");
                        match value::nearest(&name.name, formals.iter().map(|f| f.name.name.as_str())) {
                            Some(near) => error.help(format!("did you mean `{near}`?")),
                            None => error,
                        }
                    })?;
                    (formal, e)
                }
                Arg::Arrow(.., at) => return Err(Diagnostic::error("build::type", *at, "a block takes no arrow", "here")),
            };
            let wants_axis = matches!(&formal.ty, Type::Plain(t) if t.name == "axis");
            let value = match &e.kind {
                ExprKind::Name(n) if wants_axis && !frame.names.contains_key(n) => Value::Axis(n.clone()),
                _ => self.expr(e, frame)?,
            };
            if values.insert(formal.name.name.clone(), (value, e.span)).is_some() {
                let message = format!("`{}` is given twice", formal.name.name);
                return Err(Diagnostic::error("build::unknown_argument", e.span, message, "again here"));
            }
        }
        if values.values().any(|(v, _)| *v == Value::Poison) {
            return Ok(Value::Poison);
        }
        self.expand(def, &values, span)
    }
}
