//! Statements of a body, one after another.

use super::*;
use snnc_grammar::ast::Mark;

impl Builder<'_> {
    pub(super) fn define(&mut self, name: &Ident, value: Built<Value>, frame: &mut Frame) {
        let value = value.unwrap_or_else(|e| {
            self.errors.push(e);
            Value::Poison
        });
        frame.names.insert(name.name.clone(), value);
    }

    /// Counts a statement; true, with an error the first time, when the model has grown too large.
    fn spent(&mut self, at: Span) -> bool {
        self.statements += 1;
        let spent = self.statements > MAX_STATEMENTS || self.nodes.len() > MAX_NODES;
        if spent && !self.stopped {
            self.stopped = true;
            let message = format!("the model expands to more than {MAX_NODES} nodes or {MAX_STATEMENTS} statements");
            self.errors.push(Diagnostic::error("build::too_large", at, message, "expanding stopped here"));
        }
        spent
    }

    pub(super) fn statements(&mut self, body: &[Stmt], frame: &mut Frame) {
        for stmt in body {
            if self.spent(stmt.span) {
                return;
            }
            let kept = (self.at.allows.len(), self.at.folds.len());
            for mark in &stmt.marks {
                if let Err(e) = self.mark(mark, frame) {
                    self.errors.push(e);
                }
            }
            if let StmtKind::Neuron(_, value) = &stmt.kind {
                let own = (self.at.allows[kept.0..].to_vec(), self.at.folds[kept.1..].to_vec());
                self.neuron_marks.entry(value.span).or_insert(own);
            }
            if let Err(e) = self.statement(stmt, frame) {
                self.errors.push(e);
            }
            self.at.allows.truncate(kept.0);
            self.at.folds.truncate(kept.1);
        }
    }

    pub(super) fn statement(&mut self, stmt: &Stmt, frame: &mut Frame) -> Built<()> {
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
                frame.names.insert(name.name.clone(), Value::Poison);
                let signal = self.declared_signal(ty, frame)?;
                if signal.kind == Kind::Count {
                    let error = Diagnostic::error("build::type", ty.kind.span, "an input cannot be a `count`", "of how many spikes?");
                    return Err(error.help("write `spike` for values of 0 and 1, `analog` for all others"));
                }
                let op = Op::Input(input::Input { signal });
                let id = self.under(name.name.clone(), |b| b.node(op, vec![], stmt.span, None))?;
                self.input = Some(id);
                for axis in &self.nodes[id.index()].signal.axes {
                    frame.axes.insert(axis.name.clone(), i64::try_from(axis.size).unwrap_or(0));
                }
                frame.names.insert(name.name.clone(), Value::Signal(id));
            }
            StmtKind::Neuron(name, value) => {
                if let Some(Value::Neuron(_, first)) =
                    frame.names.get(&name.name).filter(|v| !matches!(v, Value::Neuron(_, at) if *at == value.span))
                {
                    let message = format!("there is a neuron `{}` already", name.name);
                    return Err(Diagnostic::error("resolve::duplicate", name.span, message, "again here").label(*first, "first here"));
                }
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
                self.shared.push(Shared { call: value.clone(), path, frame: frame.clone(), params: vec![] });
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
                    Value::Signal(_) if frame.yielded.is_some() => {
                        let error = Diagnostic::error("build::misplaced", stmt.span, "a block yields once", "again here");
                        return Err(error);
                    }
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
                let place = [self.at.path.as_slice(), std::slice::from_ref(&segment)].concat();
                if let Some(first) = frame.sections.insert(place, label.span) {
                    let message = format!("there is a section `{segment}` here already");
                    let error = Diagnostic::error("resolve::duplicate", label.span, message, "again here");
                    return Err(if first == label.span { error } else { error.label(first, "first here") }
                        .help("its name is a part of the names of everything in it: give it an index, or another name"));
                }
                self.under(segment, |b| b.statements(body, frame));
            }
            StmtKind::Nodes(..) | StmtKind::Edge { .. } if !frame.in_block => {
                return Err(Diagnostic::error("build::misplaced", stmt.span, "nodes and edges belong to a `dag`", "not in a model"));
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

    pub(super) fn for_loop(&mut self, pattern: &[Ident], from: &Expr, to: Option<&Expr>, body: &[Stmt], frame: &mut Frame) -> Built<()> {
        let start = self.expr(from, frame)?;
        let items: Box<dyn Iterator<Item = Value>> = match (start, to) {
            (Value::Poison, _) => return Ok(()),
            (Value::Int(a), Some(to)) => match self.expr(to, frame)? {
                Value::Int(b) if b < a => {
                    let message = format!("the range {a}..{b} ends before it begins");
                    return Err(Diagnostic::error("build::value", from.span.to(to.span), message, "this range"));
                }
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
            // A turn counts as a statement, or a loop over nothing would never stop.
            if self.spent(to.map_or(from.span, |to| from.span.to(to.span))) {
                return Ok(());
            }
            self.statements(body, frame);
        }
        Ok(())
    }

    /// Notes what stands before a statement.
    fn mark(&mut self, mark: &Mark, frame: &mut Frame) -> Built<()> {
        match mark {
            Mark::Allow(args) => {
                let index = self.allow(args, frame)?;
                self.at.allows.push(index);
            }
            Mark::Fold(names) => {
                for name in names {
                    let index = self.fold(name)?;
                    self.at.folds.push(index);
                }
            }
        }
        Ok(())
    }

    fn fold(&mut self, name: &Ident) -> Built<usize> {
        let known = Fold::ALL.map(Fold::name);
        let Some(fold) = Fold::ALL.into_iter().find(|f| f.name() == name.name) else {
            let error = Diagnostic::error("build::fold", name.span, format!("there is no fold `{}`", name.name), "not a fold");
            return Err(match nearest(&name.name, known) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help(format!("the folds that can be asked for are {}", known.join(", "))),
            });
        };
        // One `fold` in the source is one entry, however often its statement is expanded.
        let asked = Asked { fold, span: name.span };
        let index = self.folds.iter().position(|a| *a == asked).unwrap_or(self.folds.len());
        if index == self.folds.len() {
            self.folds.push(asked);
        }
        Ok(index)
    }

    pub(super) fn allow(&mut self, args: &ast::Args, frame: &mut Frame) -> Built<usize> {
        let usage = "write `allow(rule, count = 1, \"reason\")`";
        let bad = |message: &str| Diagnostic::error("build::allow", args.span, message, "here").help(usage);
        let (mut rule, mut count, mut reason) = (None, None, None);
        for arg in &args.list {
            match arg {
                ast::Arg::Plain(Expr { kind: ExprKind::Name(n), span }) if rule.is_none() => rule = Some((n.clone(), *span)),
                ast::Arg::Plain(Expr { kind: ExprKind::Str(s), .. }) => reason = Some(s.clone()),
                ast::Arg::Named(n, e) if n.name == "count" => match self.expr(e, frame)? {
                    Value::Int(i) if i >= 0 => count = usize::try_from(i).ok(),
                    Value::Int(i) => return Err(bad(&format!("`count` is {i}, but nothing is admitted a negative number of times"))),
                    v => return Err(bad(&format!("`count` is an int, not a value of type {}", v.type_name()))),
                },
                _ => return Err(bad("`allow` takes a rule, a count and a reason")),
            }
        }
        let (Some((rule, span)), Some(count), Some(reason)) = (rule, count, reason) else {
            return Err(bad("`allow` takes a rule, a count and a reason"));
        };
        if reason.trim().is_empty() {
            return Err(bad("the reason is empty"));
        }
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
}
