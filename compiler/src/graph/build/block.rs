//! Blocks and DAGs: their signatures against what they are given, and their expansion.

use super::*;

impl Builder<'_> {
    /// The signal that a declaration with all extents given describes.
    pub(super) fn declared_signal(&mut self, ty: &SignalType, frame: &mut Frame) -> Built<Signal> {
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
        let signal = Signal { kind, axes, varies, bound, scaled: false };
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
    pub(in crate::graph) fn expand(&mut self, def: &Arc<BlockDef>, values: &HashMap<String, (Value, Span)>, span: Span) -> Built<Value> {
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
                    Some(default) => {
                        let value = self.expr(default, &mut frame)?;
                        (self.typed(value, &formal.ty, default.span)?, default.span)
                    }
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
        if self.at.calls.len() >= MAX_DEPTH {
            let message = format!("blocks are nested more than {MAX_DEPTH} deep");
            return Err(Diagnostic::error("build::too_large", span, message, "this one is too deep"));
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
    pub(super) fn dag(&mut self, frame: &mut Frame) {
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

    pub(super) fn dag_node(&mut self, name: &str, ty: &SignalType, declared: Span, edges: &[Edge], frame: &mut Frame) -> Built<Value> {
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
