//! The tree of one item.

use super::*;
use pest::iterators::Pair;

/// The children of a pair without its keywords.
pub(super) fn inner(pair: Pair<'_, Rule>) -> impl Iterator<Item = Pair<'_, Rule>> {
    pair.into_inner().filter(|p| {
        !matches!(
            p.as_rule(),
            Rule::EOI
                | Rule::k_use
                | Rule::k_require
                | Rule::k_strict
                | Rule::k_model
                | Rule::k_block
                | Rule::k_dag
                | Rule::k_encoder
                | Rule::k_variant
                | Rule::k_published
                | Rule::k_recipe
                | Rule::k_for
                | Rule::k_per
                | Rule::k_allow
                | Rule::k_fold
                | Rule::k_param
                | Rule::k_time
                | Rule::k_input
                | Rule::k_neuron
                | Rule::k_share
                | Rule::k_yield
                | Rule::k_output
                | Rule::k_in
                | Rule::k_if
                | Rule::k_else
                | Rule::k_nodes
        )
    })
}

pub(super) fn doc_text<'a>(lines: impl Iterator<Item = &'a Comment>, slashes: &str) -> String {
    let lines: Vec<&str> = lines.map(|c| c.text.trim_start_matches(slashes).trim()).collect();
    lines.join("\n").trim().to_owned()
}

/// Builds the tree of one item; places are relative to `offset`.
pub(super) struct Builder<'a> {
    pub(super) file: FileId,
    pub(super) comments: &'a [Comment],
    pub(super) text: &'a str,
}

pub(super) struct At<'a> {
    builder: &'a Builder<'a>,
    offset: usize,
}

impl<'a> Builder<'a> {
    pub(super) fn at(&'a self, offset: usize) -> At<'a> {
        At { builder: self, offset }
    }
}

type Built<T> = Result<T, Diagnostic>;

impl At<'_> {
    /// The place of a pair. pest lets a rule end after the space and comments that follow it; the place does not.
    pub(super) fn span(&self, pair: &Pair<'_, Rule>) -> Span {
        let start = self.offset + pair.as_span().start();
        let mut end = start + pair.as_str().trim_end().len();
        let comments = self.builder.comments;
        let mut upto = comments.partition_point(|c| (c.span.start as usize) < end);
        while let Some(comment) = upto.checked_sub(1).and_then(|i| comments.get(i)).filter(|c| c.span.end as usize >= end) {
            let before = self.builder.text.get(start..comment.span.start as usize).unwrap_or("");
            end = start + before.trim_end().len();
            upto -= 1;
        }
        span(self.builder.file, start, end)
    }

    /// The grammar gives every rule its children; a missing one would be a mismatch of grammar and builder.
    pub(super) fn need<T>(&self, child: Option<T>, of: Span) -> Built<T> {
        child.ok_or_else(|| Diagnostic::error("syntax::unexpected", of, "incomplete construct", "something is missing here"))
    }

    pub(super) fn ident(&self, pair: &Pair<'_, Rule>) -> Ident {
        Ident { name: pair.as_str().to_owned(), span: self.span(pair) }
    }

    pub(super) fn next_ident<'p>(&self, pairs: &mut impl Iterator<Item = Pair<'p, Rule>>, of: Span) -> Built<Ident> {
        self.need(pairs.next(), of).map(|p| self.ident(&p))
    }

    pub(super) fn next_expr<'p>(&self, pairs: &mut impl Iterator<Item = Pair<'p, Rule>>, of: Span) -> Built<Expr> {
        self.expr(self.need(pairs.next(), of)?)
    }

    /// The `///` lines directly above a place, or the `///` or `//` comment after it on its line.
    pub(super) fn doc(&self, at: Span) -> String {
        let comments = self.builder.comments;
        let text = self.builder.text;
        let mut first = comments.partition_point(|c| c.span.start < at.start);
        let end = first;
        let mut edge = at.start as usize;
        while let Some(comment) = first.checked_sub(1).and_then(|i| comments.get(i)) {
            let between = text.get(comment.span.end as usize..edge).unwrap_or("x");
            if !comment.own_line || !comment.text.starts_with("///") || !between.trim().is_empty() {
                break;
            }
            edge = comment.span.start as usize;
            first -= 1;
        }
        if first < end {
            return doc_text(comments[first..end].iter(), "///");
        }
        let after = comments.iter().find(|c| c.span.start >= at.end);
        let same_line = after.filter(|c| !text.get(at.end as usize..c.span.start as usize).unwrap_or("\n").contains('\n'));
        same_line.map(|c| c.text.trim_start_matches('/').trim().to_owned()).unwrap_or_default()
    }

    pub(super) fn item(&self, pair: Pair<'_, Rule>) -> Built<Item> {
        let at = self.span(&pair);
        let rule = pair.as_rule();
        let braces = pair.as_str().contains('{');
        let mut children = inner(pair);
        match rule {
            Rule::strict_item => Ok(Item::RequireStrict(at)),
            Rule::use_item => {
                let names: Vec<(Ident, usize)> = children.map(|p| (self.ident(&p), p.as_span().start())).collect();
                let brace = self.builder.text.get(self.offset..).and_then(|t| t.find('{')).filter(|_| braces);
                let (path, list): (Vec<_>, Vec<_>) = names.into_iter().partition(|(_, start)| brace.is_none_or(|b| *start < b));
                let idents = |v: Vec<(Ident, usize)>| v.into_iter().map(|(i, _)| i).collect::<Vec<_>>();
                Ok(Item::Use(Use { path: idents(path), names: brace.map(|_| idents(list)), span: at }))
            }
            Rule::model => {
                let name = self.next_ident(&mut children, at)?;
                let body = self.body(self.need(children.next(), at)?)?;
                Ok(Item::Model(Model { doc: self.doc(at), name, body, span: at }))
            }
            Rule::block | Rule::dag => {
                let mut first = self.need(children.next(), at)?;
                let encoder = first.as_rule() == Rule::encoder_mark;
                if encoder {
                    first = self.need(children.next(), at)?;
                }
                let name = self.ident(&first);
                let formals = inner(self.need(children.next(), at)?).map(|p| self.formal(p)).collect::<Built<_>>()?;
                let result = self.signal_type(self.need(children.next(), at)?)?;
                let body = self.body(self.need(children.next(), at)?)?;
                let dag = rule == Rule::dag;
                Ok(Item::Block(Block { doc: self.doc(at), encoder, dag, name, formals, result, body, span: at }))
            }
            Rule::variant => {
                let name = self.next_ident(&mut children, at)?;
                let model = self.call(self.need(children.next(), at)?)?;
                let published = children.next().map(|p| inner(p).map(|f| self.fact(f)).collect::<Built<_>>()).transpose()?;
                Ok(Item::Variant(Variant { doc: self.doc(at), name, model, published, span: at }))
            }
            Rule::recipe => {
                let name = self.next_ident(&mut children, at)?;
                let model = self.next_ident(&mut children, at)?;
                let mut entries = Vec::new();
                for entry in children {
                    let at = self.span(&entry);
                    let mut parts = inner(entry);
                    let name = self.next_ident(&mut parts, at)?;
                    let value = self.next_expr(&mut parts, at)?;
                    entries.push(Entry { name, value, per: parts.next().map(|p| self.ident(&p)), span: at });
                }
                Ok(Item::Recipe(Recipe { doc: self.doc(at), name, model, entries, span: at }))
            }
            _ => self.need(None, at),
        }
    }

    pub(super) fn fact(&self, pair: Pair<'_, Rule>) -> Built<Fact> {
        let at = self.span(&pair);
        let mut children = inner(pair);
        let name = self.next_ident(&mut children, at)?;
        let mut value = self.need(children.next(), at)?.as_str().to_owned();
        let mut on = None;
        for child in children {
            match child.as_rule() {
                Rule::unit => value.push_str(child.as_str()),
                _ => on = Some(self.call(child)?),
            }
        }
        Ok(Fact { name, value, on })
    }

    pub(super) fn formal(&self, pair: Pair<'_, Rule>) -> Built<Formal> {
        let at = self.span(&pair);
        let mut children = inner(pair);
        let name = self.next_ident(&mut children, at)?;
        let ty = self.value_type(self.need(children.next(), at)?)?;
        let default = children.next().map(|p| self.expr(p)).transpose()?;
        Ok(Formal { doc: self.doc(at), name, ty, default })
    }

    pub(super) fn value_type(&self, pair: Pair<'_, Rule>) -> Built<Type> {
        let at = self.span(&pair);
        let child = self.need(inner(pair).next(), at)?;
        match child.as_rule() {
            Rule::list_type => {
                let element = self.value_type(self.need(inner(child).next(), at)?)?;
                Ok(Type::List(Box::new(element), at))
            }
            Rule::signal_type => Ok(Type::Signal(self.signal_type(child)?)),
            _ => Ok(Type::Plain(self.ident(&child))),
        }
    }

    pub(super) fn signal_type(&self, pair: Pair<'_, Rule>) -> Built<SignalType> {
        let at = self.span(&pair);
        let mut children = inner(pair);
        let kind = self.next_ident(&mut children, at)?;
        let mut axes = Vec::new();
        for axis in children {
            let axis_at = self.span(&axis);
            let mut parts = inner(axis);
            let first = self.need(parts.next(), axis_at)?;
            axes.push(if first.as_rule() == Rule::axis_name {
                AxisType { name: Some(self.ident(&first)), size: self.next_expr(&mut parts, axis_at)? }
            } else {
                AxisType { name: None, size: self.expr(first)? }
            });
        }
        Ok(SignalType { kind, axes, span: at })
    }

    pub(super) fn body(&self, pair: Pair<'_, Rule>) -> Built<Vec<Stmt>> {
        inner(pair).map(|p| self.statement(p)).collect()
    }

    pub(super) fn statement(&self, pair: Pair<'_, Rule>) -> Built<Stmt> {
        let at = self.span(&pair);
        let mut marks = Vec::new();
        for child in inner(pair) {
            match child.as_rule() {
                Rule::allow => marks.push(Mark::Allow(self.args(self.need(inner(child).next(), at)?)?)),
                Rule::fold => marks.push(Mark::Fold(inner(child).map(|p| self.ident(&p)).collect())),
                _ => return Ok(Stmt { marks, kind: self.statement_kind(child)?, span: at }),
            }
        }
        self.need(None, at)
    }

    pub(super) fn statement_kind(&self, pair: Pair<'_, Rule>) -> Built<StmtKind> {
        let at = self.span(&pair);
        let rule = pair.as_rule();
        let has_comma_names = |p: &Pair<'_, Rule>| p.as_rule() == Rule::name;
        if rule == Rule::param {
            return Ok(StmtKind::Param(self.formal(pair)?));
        }
        let mut children = inner(pair).peekable();
        Ok(match rule {
            Rule::time | Rule::neuron | Rule::share | Rule::bind => {
                let name = self.next_ident(&mut children, at)?;
                let value = self.next_expr(&mut children, at)?;
                match rule {
                    Rule::time => StmtKind::Time(name, value),
                    Rule::neuron => StmtKind::Neuron(name, value),
                    Rule::share => StmtKind::Share(name, value),
                    _ => StmtKind::Bind(name, value),
                }
            }
            Rule::input => {
                let name = self.next_ident(&mut children, at)?;
                StmtKind::Input(name, self.signal_type(self.need(children.next(), at)?)?)
            }
            Rule::yield_ => StmtKind::Yield(self.next_expr(&mut children, at)?),
            Rule::output => StmtKind::Output(self.next_expr(&mut children, at)?),
            Rule::require => {
                let condition = self.next_expr(&mut children, at)?;
                StmtKind::Require(condition, children.next().map(|p| self.expr(p)).transpose()?)
            }
            Rule::for_ => {
                let pattern = inner(self.need(children.next(), at)?).map(|p| self.ident(&p)).collect();
                let mut range = inner(self.need(children.next(), at)?);
                let from = self.next_expr(&mut range, at)?;
                let to = range.next().map(|p| self.expr(p)).transpose()?;
                StmtKind::For { pattern, from, to, body: self.body(self.need(children.next(), at)?)? }
            }
            Rule::if_ => {
                let (mut arms, mut otherwise) = (Vec::new(), None);
                while let Some(next) = children.next() {
                    if next.as_rule() == Rule::body {
                        otherwise = Some(self.body(next)?);
                    } else {
                        let body = self.body(self.need(children.next(), at)?)?;
                        arms.push((self.expr(next)?, body));
                    }
                }
                StmtKind::If { arms, otherwise }
            }
            Rule::encoder => StmtKind::Encoder(self.body(self.need(children.next(), at)?)?),
            Rule::section => {
                let kind = self.next_ident(&mut children, at)?;
                let label = self.next_ident(&mut children, at)?;
                let index = children.next_if(|p| p.as_rule() == Rule::expr).map(|p| self.expr(p)).transpose()?;
                StmtKind::Section { kind, label, index, body: self.body(self.need(children.next(), at)?)? }
            }
            Rule::nodes => {
                let mut names = Vec::new();
                while let Some(name) = children.next_if(has_comma_names) {
                    names.push(self.ident(&name));
                }
                StmtKind::Nodes(names, self.signal_type(self.need(children.next(), at)?)?)
            }
            Rule::edge => {
                // The arrow separates two lists of names; the text between the names tells where it is.
                let (mut from, mut to, mut arrow) = (Vec::new(), Vec::new(), false);
                let mut last_end = None;
                while let Some(name) = children.next_if(has_comma_names) {
                    let ident = self.ident(&name);
                    if let Some(end) = last_end {
                        let between = self.builder.text.get(end..ident.span.start as usize).unwrap_or("");
                        let code: String = between.lines().map(|l| l.split("//").next().unwrap_or("")).collect();
                        arrow |= code.contains("->");
                    }
                    last_end = Some(ident.span.end as usize);
                    if arrow { to.push(ident) } else { from.push(ident) }
                }
                StmtKind::Edge { from, to, chain: self.next_expr(&mut children, at)? }
            }
            _ => return self.need(None, at),
        })
    }

    pub(super) fn expr(&self, pair: Pair<'_, Rule>) -> Built<Expr> {
        let at = self.span(&pair);
        let kind = match pair.as_rule() {
            Rule::expr => {
                let mut children = inner(pair);
                let head = self.next_expr(&mut children, at)?;
                let stages = children.map(|p| self.expr(p)).collect::<Built<Vec<_>>>()?;
                if stages.is_empty() {
                    return Ok(head);
                }
                ExprKind::Pipe(Box::new(head), stages)
            }
            Rule::or_expr | Rule::and_expr | Rule::cmp_expr | Rule::shift_expr | Rule::add_expr | Rule::mul_expr => {
                let mut children = inner(pair);
                let mut left = self.next_expr(&mut children, at)?;
                while let Some(symbol) = children.next() {
                    let right = self.next_expr(&mut children, at)?;
                    let text = symbol.as_str().trim();
                    let op = self.need(BinaryOp::ALL.iter().find(|(_, s, _)| *s == text), at)?.0;
                    let span = left.span.to(right.span);
                    left = Expr { kind: ExprKind::Binary(op, Box::new(left), Box::new(right)), span };
                }
                return Ok(left);
            }
            Rule::unary => {
                let mut ops = Vec::new();
                let mut operand = None;
                for child in inner(pair) {
                    if child.as_rule() == Rule::unary_op {
                        let op = if child.as_str().starts_with('-') { UnaryOp::Neg } else { UnaryOp::Not };
                        ops.push((op, self.span(&child)));
                    } else {
                        operand = Some(self.expr(child)?);
                    }
                }
                let mut operand = self.need(operand, at)?;
                for (op, place) in ops.into_iter().rev() {
                    let span = place.to(operand.span);
                    operand = Expr { kind: ExprKind::Unary(op, Box::new(operand)), span };
                }
                return Ok(operand);
            }
            Rule::postfix => {
                let mut children = inner(pair);
                let mut base = self.next_expr(&mut children, at)?;
                for index in children {
                    let index = self.expr(index)?;
                    let span = base.span.to(index.span);
                    base = Expr { kind: ExprKind::Index(Box::new(base), Box::new(index)), span };
                }
                return Ok(base);
            }
            Rule::number => self.number(pair.as_str(), at)?,
            Rule::string => {
                let raw = pair.as_str();
                let body = raw.get(1..raw.len() - 1).unwrap_or("");
                ExprKind::Str(unescape(body))
            }
            Rule::boolean => ExprKind::Bool(pair.as_str().trim() == "true"),
            // `(1, 2)` is `[1, 2]`.
            Rule::list | Rule::tuple => ExprKind::List(inner(pair).map(|p| self.expr(p)).collect::<Built<_>>()?),
            Rule::name_expr => ExprKind::Name(pair.as_str().trim().to_owned()),
            Rule::call => ExprKind::Call(self.call(pair)?),
            _ => return self.need(None, at),
        };
        Ok(Expr { kind, span: at })
    }

    pub(super) fn number(&self, text: &str, at: Span) -> Built<ExprKind> {
        let digits = text.replace('_', "");
        if digits.contains(['.', 'e', 'E']) {
            let value: f64 = self.need(digits.parse().ok(), at)?;
            if value.is_finite() {
                return Ok(ExprKind::Float(value));
            }
        } else if let Ok(value) = digits.parse() {
            return Ok(ExprKind::Int(value));
        }
        Err(Diagnostic::error("syntax::number", at, format!("`{text}` is too large a number"), "out of range"))
    }

    pub(super) fn call(&self, pair: Pair<'_, Rule>) -> Built<Call> {
        let at = self.span(&pair);
        let mut children = inner(pair);
        let callee = self.next_ident(&mut children, at)?;
        Ok(Call { callee, args: self.args(self.need(children.next(), at)?)? })
    }

    /// `name = value`
    pub(super) fn named(&self, pair: Pair<'_, Rule>) -> Built<(Ident, Expr)> {
        let at = self.span(&pair);
        let mut parts = inner(pair);
        Ok((self.next_ident(&mut parts, at)?, self.next_expr(&mut parts, at)?))
    }

    pub(super) fn args(&self, pair: Pair<'_, Rule>) -> Built<Args> {
        let mut args = Args { span: self.span(&pair), ..Args::default() };
        for child in inner(pair) {
            if child.as_rule() == Rule::axes {
                args.axes = inner(child).map(|p| self.ident(&p)).collect();
                continue;
            }
            let at = self.span(&child);
            let argument = self.need(inner(child).next(), at)?;
            args.list.push(match argument.as_rule() {
                Rule::named => {
                    let (name, value) = self.named(argument)?;
                    Arg::Named(name, value)
                }
                Rule::arrow => {
                    let mut parts = inner(argument);
                    let from = inner(self.need(parts.next(), at)?).map(|p| self.ident(&p)).collect();
                    let mut to = Vec::new();
                    for part in parts {
                        let mut decl = inner(part);
                        let name = self.next_ident(&mut decl, at)?;
                        to.push(AxisDecl { name, size: decl.next().map(|p| self.expr(p)).transpose()? });
                    }
                    Arg::Arrow(from, to, at)
                }
                _ => Arg::Plain(self.expr(argument)?),
            });
        }
        Ok(args)
    }
}

pub(super) fn unescape(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    out
}
