//! Remedies that a machine can apply: what a stage proposes, and the text it becomes.

use crate::ast::{Arg, Args, Call, Expr, ExprKind, Item, Mark, Module, Stmt, StmtKind};
use crate::source::{FileId, SourceMap, Span};
use std::collections::BTreeMap;

/// A change to a source that mends a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// `NEURON |> ` before a stage of a chain; the neuron is written as it is elsewhere.
    Before {
        /// The stage.
        stage: Span,
        /// A place where the neuron is applied.
        neuron: Span,
    },
    /// `name = value` in a call, instead of what it says now.
    Argument {
        /// The call.
        call: Span,
        /// Which argument.
        name: &'static str,
        /// Its new value.
        value: String,
    },
    /// Other axes in a call.
    Axes {
        /// The call.
        call: Span,
        /// The axes.
        axes: Vec<String>,
    },
    /// A mark on a line of its own before the statement that holds this place.
    Mark {
        /// The place.
        at: Span,
        /// The mark.
        mark: String,
    },
    /// A smaller count in an `allow`; without places it goes.
    Admit {
        /// The arguments of the `allow`.
        allow: Span,
        /// Places that it admits.
        count: usize,
    },
}

/// The sources that remedies change, each parsed once.
#[derive(Debug)]
pub struct Modules<'s> {
    sources: &'s SourceMap,
    parsed: BTreeMap<FileId, Option<Module>>,
}

impl<'s> Modules<'s> {
    /// Of these sources.
    pub fn new(sources: &'s SourceMap) -> Self {
        Modules { sources, parsed: BTreeMap::new() }
    }

    fn of(&mut self, file: FileId) -> Option<&Module> {
        self.parsed.entry(file).or_insert_with(|| crate::parse(self.sources, file).ok()).as_ref()
    }
}

/// New text for a range of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What goes.
    pub span: Span,
    /// What comes.
    pub text: String,
}

impl Remedy {
    /// The file it changes.
    pub fn file(&self) -> FileId {
        match self {
            Remedy::Before { stage: at, .. }
            | Remedy::Argument { call: at, .. }
            | Remedy::Axes { call: at, .. }
            | Remedy::Mark { at, .. }
            | Remedy::Admit { allow: at, .. } => at.file,
        }
    }

    /// The network computes the same before and after.
    pub fn exact(&self) -> bool {
        matches!(self, Remedy::Mark { .. } | Remedy::Admit { .. })
    }

    /// What it does, for people.
    pub fn says(&self) -> String {
        match self {
            Remedy::Before { .. } => "fire before this".into(),
            Remedy::Argument { name, value, .. } => format!("write `{name} = {value}`"),
            Remedy::Axes { axes, .. } => format!("normalise over {}, the output axis of the map before", axes.join(", ")),
            Remedy::Mark { mark, .. } => format!("write `{mark}` before the statement; the results stay the same"),
            Remedy::Admit { count: 0, .. } => "remove it".into(),
            Remedy::Admit { count, .. } => format!("write `count = {count}`"),
        }
    }

    /// The change as text; none if the source is not as the remedy expects.
    pub fn edit(&self, modules: &mut Modules<'_>) -> Option<Edit> {
        let sources = modules.sources;
        match self {
            Remedy::Before { stage, neuron } => {
                let name = sources.text(*neuron);
                let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_');
                let start = Span { end: stage.start, ..*stage };
                (plain && !name.is_empty()).then(|| Edit { span: start, text: format!("{name} |> ") })
            }
            Remedy::Argument { call, name, value } => {
                let call = find(modules.of(call.file)?, *call)?;
                let given = call.args.list.iter().find_map(|arg| match arg {
                    Arg::Named(n, e) if n.name == *name => Some(e.span),
                    _ => None,
                });
                let close = Span { start: call.args.span.end.checked_sub(1)?, end: call.args.span.end - 1, ..call.args.span };
                let comma = if call.args.list.is_empty() { "" } else { ", " };
                Some(given.map_or_else(
                    || Edit { span: close, text: format!("{comma}{name} = {value}") },
                    |span| Edit { span, text: value.clone() },
                ))
            }
            Remedy::Axes { call, axes } => {
                let call = find(modules.of(call.file)?, *call)?;
                let plain: Vec<Span> =
                    call.args.list.iter().filter_map(|arg| if let Arg::Plain(e) = arg { Some(e.span) } else { None }).collect();
                let (first, last) = (plain.first()?, plain.last()?);
                Some(Edit { span: first.to(*last), text: axes.join(", ") })
            }
            Remedy::Mark { at, mark } => {
                let module = modules.of(at.file)?;
                let start = module.items.iter().filter_map(Item::body).find_map(|body| around(body, *at))?.span.start;
                let line = sources.text(Span { start: 0, end: start, ..*at });
                let indent: String = line.chars().rev().take_while(|c| *c == ' ').collect();
                Some(Edit { span: Span { start, end: start, ..*at }, text: format!("{mark}\n{indent}") })
            }
            Remedy::Admit { allow, count: 0 } => {
                let before = sources.text(Span { start: 0, end: allow.start, ..*allow });
                let start = before.trim_end().strip_suffix("allow")?.len();
                let text = &sources.get(allow.file)?.text;
                let blank = text[allow.end as usize..].len() - text[allow.end as usize..].trim_start().len();
                let end = allow.end + u32::try_from(blank).ok()?;
                Some(Edit { span: Span { start: u32::try_from(start).ok()?, end, ..*allow }, text: String::new() })
            }
            Remedy::Admit { allow, count } => {
                let module = modules.of(allow.file)?;
                let args = module.items.iter().filter_map(Item::body).flatten().find_map(|s| admits(s, *allow))?;
                let value =
                    args.list.iter().find_map(|a| if let Arg::Named(n, e) = a { (n.name == "count").then_some(e.span) } else { None });
                Some(Edit { span: value?, text: count.to_string() })
            }
        }
    }
}

/// The arguments of the `allow` at this place.
fn admits(stmt: &Stmt, allow: Span) -> Option<&Args> {
    let own = stmt.marks.iter().find_map(|m| if let Mark::Allow(args) = m { (args.span == allow).then_some(args) } else { None });
    own.or_else(|| stmt.bodies().into_iter().flatten().find_map(|s| admits(s, allow)))
}

/// The innermost statement around a place.
fn around(body: &[Stmt], at: Span) -> Option<&Stmt> {
    let stmt = body.iter().find(|s| s.span.file == at.file && s.span.start <= at.start && at.end <= s.span.end)?;
    stmt.bodies().into_iter().find_map(|inner| around(inner, at)).or(Some(stmt))
}

/// The call at this place.
fn find(module: &Module, at: Span) -> Option<Call> {
    let mut found = None;
    let mut look = |e: &Expr| {
        if let (true, ExprKind::Call(call)) = (e.span == at, &e.kind) {
            found = Some(call.clone());
        }
    };
    for item in &module.items {
        match item {
            Item::Model(m) => m.body.iter().for_each(|s| in_stmt(s, &mut look)),
            Item::Block(b) => {
                b.formals.iter().filter_map(|f| f.default.as_ref()).for_each(|e| in_expr(e, &mut look));
                b.body.iter().for_each(|s| in_stmt(s, &mut look));
            }
            Item::Variant(v) => in_args(&v.model, &mut look),
            Item::Use(_) | Item::RequireStrict(_) | Item::Recipe(_) => {}
        }
    }
    found
}

fn in_stmt(stmt: &Stmt, look: &mut dyn FnMut(&Expr)) {
    match &stmt.kind {
        StmtKind::Param(f) => f.default.iter().for_each(|e| in_expr(e, look)),
        StmtKind::Neuron(_, e) | StmtKind::Share(_, e) | StmtKind::Bind(_, e) | StmtKind::Yield(e) | StmtKind::Output(e) => {
            in_expr(e, look);
        }
        StmtKind::Edge { chain, .. } => in_expr(chain, look),
        _ => {}
    }
    stmt.bodies().into_iter().flatten().for_each(|s| in_stmt(s, look));
}

fn in_args(call: &Call, look: &mut dyn FnMut(&Expr)) {
    for arg in &call.args.list {
        if let Arg::Plain(e) | Arg::Named(_, e) = arg {
            in_expr(e, look);
        }
    }
}

fn in_expr(e: &Expr, look: &mut dyn FnMut(&Expr)) {
    look(e);
    match &e.kind {
        ExprKind::Call(call) => in_args(call, look),
        ExprKind::List(list) => list.iter().for_each(|e| in_expr(e, look)),
        ExprKind::Unary(_, a) => in_expr(a, look),
        ExprKind::Binary(_, a, b) | ExprKind::Index(a, b) => {
            in_expr(a, look);
            in_expr(b, look);
        }
        ExprKind::Pipe(a, stages) => {
            in_expr(a, look);
            stages.iter().for_each(|e| in_expr(e, look));
        }
        _ => {}
    }
}
