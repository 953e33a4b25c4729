//! Tree to canonical text. Comments are put back by their places: own-line comments before what follows them, trailing
//! ones after what they follow, and one inside an expression moves above its statement. Printing twice changes nothing.

use crate::ast::*;
use std::fmt::Write;

/// Lines longer than this are broken at `|>`.
const WIDTH: usize = 120;

/// The canonical text of a module; `text` is the source it was parsed from (for blank lines between statements).
pub fn print(module: &Module, text: &str) -> String {
    let mut p = Printer { out: String::new(), indent: 0, comments: &module.comments, text, last: 0, fresh: true };
    let mut previous: Option<&Item> = None;
    for item in &module.items {
        let tight = matches!((previous, item), (Some(Item::Use(_)), Item::Use(_)) | (Some(Item::Variant(_)), Item::Variant(_)));
        p.item(item, previous.is_some() && !tight);
        previous = Some(item);
    }
    p.comments_before(u32::MAX);
    p.out
}

struct Printer<'a> {
    out: String,
    indent: usize,
    comments: &'a [Comment],
    text: &'a str,
    /// End of what was printed last, in the source.
    last: u32,
    /// At the start of a body: no blank line is wanted here.
    fresh: bool,
}

impl Printer<'_> {
    fn line(&mut self, text: &str) {
        for line in text.split('\n') {
            let _ = writeln!(self.out, "{:indent$}{line}", "", indent = 4 * self.indent);
        }
        self.fresh = false;
    }

    /// A blank line if the source has one before `start`, or if `always`.
    fn gap(&mut self, start: u32, always: bool) {
        let between = self.text.get(self.last as usize..start as usize).unwrap_or("");
        if !self.fresh && (always || between.matches('\n').count() > 1) {
            self.out.push('\n');
        }
        self.fresh = true;
    }

    fn comments_before(&mut self, place: u32) {
        while let Some(comment) = self.comments.first().filter(|c| c.span.start < place) {
            self.comments = &self.comments[1..];
            self.gap(comment.span.start, false);
            self.line(&comment.text);
            self.last = comment.span.end;
        }
    }

    /// A comment that follows on the line just printed.
    fn trailing(&mut self, end: u32) {
        self.last = self.last.max(end);
        let Some(comment) = self.comments.first() else { return };
        let between = self.text.get(end as usize..comment.span.start as usize).unwrap_or("\n");
        if !comment.own_line && between.trim().is_empty() && !between.contains('\n') {
            self.comments = &self.comments[1..];
            self.out.truncate(self.out.trim_end_matches('\n').len());
            let _ = writeln!(self.out, "  {}", comment.text);
            self.last = comment.span.end;
        }
    }

    fn item(&mut self, item: &Item, blank: bool) {
        let span = item.span();
        // The blank line that separates items stands before the comments that belong to the next one.
        let first = self.comments.first().map_or(span.start, |c| c.span.start.min(span.start));
        if blank {
            self.fresh = false;
            self.gap(first, true);
        }
        self.comments_before(span.start);
        self.gap(span.start, false);
        match item {
            Item::RequireStrict(_) => self.line("require strict"),
            Item::Use(u) => {
                let path = join(&u.path, "::");
                let text = match &u.names {
                    None => format!("use {path}"),
                    Some(names) => format!("use {path}::{{{}}}", join(names, ", ")),
                };
                self.line(&text);
            }
            Item::Model(m) => self.braced(&format!("model {}", m.name.name), &m.body, m.name.span.end, span.end),
            Item::Block(b) => {
                let formals: Vec<_> = b.formals.iter().map(formal).collect();
                let head = format!(
                    "{}{} {}({}) -> {}",
                    if b.encoder { "encoder " } else { "" },
                    if b.dag { "dag" } else { "block" },
                    b.name.name,
                    formals.join(", "),
                    signal_type(&b.result)
                );
                self.braced(&head, &b.body, b.result.span.end, span.end);
            }
            Item::Variant(v) => {
                let mut text = format!("variant {} = {}", v.name.name, call(&v.model));
                if let Some(facts) = &v.published {
                    let facts: Vec<_> = facts.iter().map(fact).collect();
                    let flat = format!("{text} published {{ {} }}", facts.join(", "));
                    text = if flat.len() <= WIDTH { flat } else { format!("{text} published {{\n    {},\n}}", facts.join(",\n    ")) };
                }
                self.comments_before(span.end);
                self.line(&text);
            }
            Item::Recipe(r) => {
                self.open(&format!("recipe {} for {}", r.name.name, r.model.name), r.model.span.end);
                for entry in &r.entries {
                    self.comments_before(entry.span.start);
                    self.gap(entry.span.start, false);
                    let per = entry.per.as_ref().map_or(String::new(), |p| format!(" per {}", p.name));
                    self.comments_before(entry.span.end);
                    self.line(&format!("{} {}{per}", entry.name.name, expr_text(&entry.value)));
                    self.trailing(entry.span.end);
                }
                self.close(span.end);
            }
        }
        self.trailing(span.end);
    }

    fn open(&mut self, head: &str, end: u32) {
        self.line(&format!("{head} {{"));
        self.last = self.last.max(end);
        // A comment behind the brace stays there.
        if let Some(comment) = self.comments.first().filter(|c| !c.own_line && c.span.start >= end) {
            let between = self.text.get(end as usize..comment.span.start as usize).unwrap_or("\n");
            if between.trim() == "{" && !between.contains('\n') {
                self.comments = &self.comments[1..];
                self.out.truncate(self.out.trim_end_matches('\n').len());
                let _ = writeln!(self.out, "  {}", comment.text);
                self.last = comment.span.end;
            }
        }
        self.indent += 1;
        self.fresh = true;
    }

    fn close(&mut self, end: u32) {
        self.comments_before(end);
        self.indent -= 1;
        self.fresh = false;
        self.line("}");
        self.last = end;
    }

    fn braced(&mut self, head: &str, body: &[Stmt], head_end: u32, end: u32) {
        self.open(head, head_end);
        self.stmts(body);
        self.close(end);
    }

    fn stmts(&mut self, body: &[Stmt]) {
        for stmt in body {
            self.comments_before(stmt.span.start);
            self.gap(stmt.span.start, false);
            self.fresh = false;
            for mark in &stmt.marks {
                self.line(&match mark {
                    Mark::Allow(given) => format!("allow{}", args(given)),
                    Mark::Fold(names) => format!("fold({})", join(names, ", ")),
                });
            }
            self.stmt(stmt);
            self.trailing(stmt.span.end);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        let end = stmt.span.end;
        let text = match &stmt.kind {
            StmtKind::For { pattern, from, to, body } => {
                let names = if let [one] = pattern.as_slice() { one.name.clone() } else { format!("({})", join(pattern, ", ")) };
                let range = to.as_ref().map_or(expr_text(from), |to| format!("{}..{}", expr_text(from), expr_text(to)));
                let head_end = to.as_ref().unwrap_or(from).span.end;
                return self.braced(&format!("for {names} in {range}"), body, head_end, end);
            }
            StmtKind::If { arms, otherwise } => {
                for (i, (condition, body)) in arms.iter().enumerate() {
                    let head = format!("{}if {}", if i > 0 { "} else " } else { "" }, expr_text(condition));
                    self.open(&head, condition.span.end);
                    self.stmts(body);
                    self.indent -= 1;
                }
                if let Some(body) = otherwise {
                    self.open("} else", self.last);
                    self.stmts(body);
                    self.indent -= 1;
                }
                self.indent += 1;
                return self.close(end);
            }
            StmtKind::Encoder(body) => return self.braced("encoder", body, stmt.span.start + 7, end),
            StmtKind::Section { kind, label, index, body } => {
                let index_text = index.as_ref().map_or(String::new(), |i| format!("[{}]", expr_text(i)));
                let head_end = index.as_ref().map_or(label.span.end, |i| i.span.end + 1);
                return self.braced(&format!("{} {}{index_text}", kind.name, label.name), body, head_end, end);
            }
            StmtKind::Param(f) => format!("param {}", formal(f)),
            StmtKind::Time(name, value) => format!("time {} = {}", name.name, expr_text(value)),
            StmtKind::Input(name, ty) => format!("input {}: {}", name.name, signal_type(ty)),
            StmtKind::Neuron(name, value) => self.bound(&format!("neuron {} = ", name.name), value),
            StmtKind::Share(name, value) => self.bound(&format!("share {} = ", name.name), value),
            StmtKind::Bind(name, value) => self.bound(&format!("{} = ", name.name), value),
            StmtKind::Yield(value) => self.bound("yield ", value),
            StmtKind::Output(value) => self.bound("output ", value),
            StmtKind::Require(condition, message) => {
                let message = message.as_ref().map_or(String::new(), |m| format!(", {}", expr_text(m)));
                format!("require {}{message}", expr_text(condition))
            }
            StmtKind::Nodes(names, ty) => format!("nodes {}: {}", join(names, ", "), signal_type(ty)),
            StmtKind::Edge { from, to, chain } => self.bound(&format!("{} -> {} : ", join(from, ", "), join(to, ", ")), chain),
        };
        // Those inside the statement stand right above it.
        while let Some(comment) = self.comments.first().filter(|c| c.span.start < end) {
            self.comments = &self.comments[1..];
            self.line(&comment.text);
        }
        self.line(&text);
    }

    /// `head value`, broken at `|>` if it is too long for a line.
    fn bound(&self, head: &str, value: &Expr) -> String {
        let flat = format!("{head}{}", expr_text(value));
        let ExprKind::Pipe(first, stages) = &value.kind else { return flat };
        if 4 * self.indent + flat.len() <= WIDTH {
            return flat;
        }
        let mut text = format!("{head}{}", operand(first, 1));
        for stage in stages {
            let _ = write!(text, "\n    |> {}", expr_text(stage));
        }
        text
    }
}

fn join(idents: &[Ident], separator: &str) -> String {
    idents.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(separator)
}

fn formal(f: &Formal) -> String {
    let default = f.default.as_ref().map_or(String::new(), |d| format!(" = {}", expr_text(d)));
    format!("{}: {}{default}", f.name.name, type_text(&f.ty))
}

fn type_text(ty: &Type) -> String {
    match ty {
        Type::Plain(name) => name.name.clone(),
        Type::List(element, _) => format!("[{}]", type_text(element)),
        Type::Signal(s) => signal_type(s),
    }
}

fn signal_type(ty: &SignalType) -> String {
    let axes: Vec<String> =
        ty.axes.iter().map(|a| a.name.as_ref().map_or(String::new(), |n| format!("{} = ", n.name)) + &expr_text(&a.size)).collect();
    format!("{}[{}]", ty.kind.name, axes.join(", "))
}

fn fact(f: &Fact) -> String {
    let on = f.on.as_ref().map_or(String::new(), |c| format!(" @ {}", call(c)));
    format!("{} = {}{on}", f.name.name, f.value)
}

fn call(c: &Call) -> String {
    format!("{}{}", c.callee.name, args(&c.args))
}

fn args(a: &Args) -> String {
    let list: Vec<String> = a.list.iter().map(arg).collect();
    let axes = if a.axes.is_empty() { String::new() } else { format!("{};", join(&a.axes, ", ")) };
    let space = if a.axes.is_empty() || list.is_empty() { "" } else { " " };
    format!("({axes}{space}{})", list.join(", "))
}

fn arg(a: &Arg) -> String {
    match a {
        Arg::Plain(e) => expr_text(e),
        Arg::Named(name, e) => format!("{} = {}", name.name, expr_text(e)),
        Arg::Arrow(from, to, _) => {
            let to: Vec<String> = to
                .iter()
                .map(|d| d.name.name.clone() + &d.size.as_ref().map_or(String::new(), |s| format!(" = {}", expr_text(s))))
                .collect();
            format!("{} -> {}", join(from, ", "), to.join(", "))
        }
    }
}

/// An expression on one line.
pub fn expr_text(e: &Expr) -> String {
    match &e.kind {
        ExprKind::Int(i) => i.to_string(),
        ExprKind::Float(f) => float_text(*f),
        ExprKind::Str(s) => {
            format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t"))
        }
        ExprKind::Bool(b) => b.to_string(),
        ExprKind::Name(n) => n.clone(),
        ExprKind::List(items) => format!("[{}]", items.iter().map(expr_text).collect::<Vec<_>>().join(", ")),
        ExprKind::Unary(op, a) => {
            let symbol = if *op == UnaryOp::Neg { "-" } else { "!" };
            format!("{symbol}{}", operand(a, 7))
        }
        ExprKind::Binary(op, a, b) => {
            let p = op.strength();
            // Comparisons do not chain; the others group to the left.
            let left = if p == 3 { 4 } else { p };
            format!("{} {} {}", operand(a, left), op.symbol(), operand(b, p + 1))
        }
        ExprKind::Index(a, i) => format!("{}[{}]", operand(a, 8), expr_text(i)),
        ExprKind::Call(c) => call(c),
        ExprKind::Pipe(first, stages) => {
            let stages: Vec<String> = stages.iter().map(|s| format!(" |> {}", expr_text(s))).collect();
            operand(first, 1) + &stages.concat()
        }
    }
}

/// `e`, in parentheses if it binds more weakly than its place needs.
fn operand(e: &Expr, needs: u8) -> String {
    let has = match &e.kind {
        ExprKind::Pipe(..) => 0,
        ExprKind::Binary(op, ..) => op.strength(),
        ExprKind::Unary(..) => 7,
        _ => 9,
    };
    if has < needs { format!("({})", expr_text(e)) } else { expr_text(e) }
}

/// A float that reads back as the same float, and as a float.
fn float_text(f: f64) -> String {
    let plain = format!("{f}");
    let short = format!("{f:e}");
    let text = if plain.len() <= short.len() + 4 { plain } else { short };
    if text.contains(['.', 'e']) { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use crate::{SourceMap, parse, print};

    fn round(text: &str) -> String {
        let mut sources = SourceMap::default();
        let file = sources.add("t", text);
        let module = parse(&sources, file).unwrap();
        print(&module, text)
    }

    #[test]
    fn comments_and_blank_lines_stay() {
        let text = "//! Doc.\n\nuse a::b\nuse c::{D, E}\n\n// before\nmodel M {  // behind the brace\n    param d: int = 3  // doc\n\n    \
                    x = a + b |> lif  // why\n    // last\n}\n";
        assert_eq!(round(text), text);
    }

    #[test]
    fn canonical_form_is_a_fixed_point() {
        let ugly = "model   M{ for(i,d) in [1,2]{ if i>0{h=(a+b)*c|>f}else{ // c\nh=a-(b-c) } } stage stage[i]{ x = y |> g( C ; // in\n a, k=1) } }\nvariant V=M(d=1) published{p=25M,t=6.5@i(T=4)}\nrecipe r for M { batch 64 per device optimizer sgd(lr=1e-3) }";
        let once = round(ugly);
        assert_eq!(round(&once), once);
        assert!(once.contains("// in") && once.contains("// c"));
    }
}
