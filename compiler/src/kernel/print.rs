//! Kernels as stable text, for dumps and snapshots.

use super::{Bound, Cond, Expr, Int, IntExpr, Kernel, Place, Stmt};
use std::fmt::Write;

/// The kernel, indented, one statement per line.
pub fn print(kernel: &Kernel) -> String {
    let mut out = String::new();
    stmts(&kernel.body, 1, &mut out);
    out
}

fn stmts(body: &[Stmt], depth: usize, out: &mut String) {
    for stmt in body {
        let pad = "  ".repeat(depth);
        let _ = match stmt {
            Stmt::Let(v, e) => writeln!(out, "{pad}let v{} = {}", v.0, expr(e)),
            Stmt::Set(v, e) => writeln!(out, "{pad}v{} = {}", v.0, expr(e)),
            Stmt::LetInt(i, e) => writeln!(out, "{pad}let i{} = {}", i.0, int(e)),
            Stmt::SetInt(i, e) => writeln!(out, "{pad}i{} = {}", i.0, int(e)),
            Stmt::Store(p, e) => writeln!(out, "{pad}{} = {}", place(p), expr(e)),
            Stmt::Combine { place: p, value, error: Some(e), .. } => {
                writeln!(out, "{pad}{} += {} (error {})", place(p), expr(value), place(e))
            }
            Stmt::Combine { place: p, value, max: false, .. } => writeln!(out, "{pad}{} += {}", place(p), expr(value)),
            Stmt::Combine { place: p, value, max: true, .. } => writeln!(out, "{pad}{} max= {}", place(p), expr(value)),
            Stmt::StoreScratch(s, i, e) => writeln!(out, "{pad}s{s}[i{}] = {}", i.0, expr(e)),
            Stmt::StoreWord(p, i) => writeln!(out, "{pad}word {} = i{}", place(p), i.0),
            Stmt::StoreHalf(p, i) => writeln!(out, "{pad}half {} = i{}", place(p), i.0),
            Stmt::Prefetch(at, lines) => writeln!(out, "{pad}prefetch {lines} lines from {}", place(at)),
            Stmt::Transpose { from, rows_apart, rows, to, columns_apart, columns } => {
                let (from, to) = (place(from), place(to));
                writeln!(out, "{pad}words {to}, {columns} by {columns_apart} = transposed {from}, {rows} by {rows_apart}")
            }
            Stmt::StoreBits(p, v) => writeln!(out, "{pad}bits {} = v{}", place(p), v.0),
            Stmt::For { index, from, to, reverse, lanes, body } => {
                let order = if *reverse { " reverse" } else { "" };
                let wide = if *lanes > 1 { format!(" lanes {lanes}") } else { String::new() };
                let _ = writeln!(out, "{pad}for i{} in {}..{}{order}{wide} {{", index.0, bound(*from), bound(*to));
                stmts(body, depth + 1, out);
                writeln!(out, "{pad}}}")
            }
            Stmt::While(c, body) => {
                let _ = writeln!(out, "{pad}while {} {{", cond(c));
                stmts(body, depth + 1, out);
                writeln!(out, "{pad}}}")
            }
            Stmt::If(c, body) => {
                let _ = writeln!(out, "{pad}if {} {{", cond(c));
                stmts(body, depth + 1, out);
                writeln!(out, "{pad}}}")
            }
        };
    }
}

fn bound(b: Bound) -> String {
    match b {
        Bound::Const(c) => c.to_string(),
        Bound::Steps => "steps".into(),
        Bound::Begin => "begin".into(),
        Bound::End => "end".into(),
        Bound::Ranges => "ranges".into(),
        Bound::Int(i) => format!("i{}", i.0),
    }
}

fn affine(terms: &[(Int, i64)], offset: i64) -> String {
    let mut parts: Vec<String> = terms.iter().map(|(i, s)| if *s == 1 { format!("i{}", i.0) } else { format!("i{} * {s}", i.0) }).collect();
    if offset != 0 || parts.is_empty() {
        parts.push(offset.to_string());
    }
    parts.join(" + ")
}

fn place(p: &Place) -> String {
    format!("a{}[{}]", p.arg, affine(&p.terms, p.offset))
}

fn cond(c: &Cond) -> String {
    match c {
        Cond::NotZero(i) => format!("i{} != 0", i.0),
        Cond::Positive(i) => format!("i{} > 0", i.0),
        Cond::Within(i, n) => format!("i{} in 0..{n}", i.0),
        Cond::Spike(p) => format!("{} != 0", place(p)),
        Cond::Digit(p, digit) => format!("digit {digit} of {}", place(p)),
    }
}

fn int(e: &IntExpr) -> String {
    match e {
        IntExpr::Const(c) => c.to_string(),
        IntExpr::Range => "range".into(),
        IntExpr::First => "first step".into(),
        IntExpr::Affine(terms, offset) => affine(terms, *offset),
        IntExpr::Word(p) => format!("word {}", place(p)),
        IntExpr::TrailingZeros(i) => format!("trailing_zeros(i{})", i.0),
        IntExpr::ClearLowest(i) => format!("clear_lowest(i{})", i.0),
        IntExpr::Quotient(i, n) => format!("i{} / {n}", i.0),
        IntExpr::Half(p) => format!("half {}", place(p)),
        IntExpr::Ones(i) => format!("ones(i{})", i.0),
        IntExpr::Both(a, b) => format!("i{} & i{}", a.0, b.0),
        IntExpr::And(i, mask) => format!("i{} & {mask:#x}", i.0),
        IntExpr::Least(i, n) => format!("i{} min {n}", i.0),
    }
}

fn expr(e: &Expr) -> String {
    match e {
        Expr::Var(v) => format!("v{}", v.0),
        Expr::Const(c) => format!("{c:?}"),
        Expr::Batch => "batch".into(),
        Expr::Steps => "steps".into(),
        Expr::Integer(i) => format!("i{}", i.0),
        Expr::Hyper(i) => format!("hyper{i}"),
        Expr::Load(p) => place(p),
        Expr::Scratch(s, i) => format!("s{s}[i{}]", i.0),
        Expr::Random(site, terms) => {
            let element: Vec<String> = terms.iter().map(|(i, stride)| format!("i{} * {stride}", i.0)).collect();
            format!("random({site}, {})", element.join(" + "))
        }
        Expr::Rounded(format, a) => format!("{}({})", format.name(), expr(a)),
        Expr::Masked(a, m) => format!("({} where {})", expr(a), expr(m)),
        Expr::Un(f, a) => format!("{}({})", format!("{f:?}").to_lowercase(), expr(a)),
        Expr::Bin(f, a, b) => {
            let symbol = match f {
                crate::flow::Bin::Add => "+",
                crate::flow::Bin::Sub => "-",
                crate::flow::Bin::Mul => "*",
                crate::flow::Bin::Div => "/",
                crate::flow::Bin::Min => "min",
                crate::flow::Bin::Max => "max",
                crate::flow::Bin::BitAnd => "&",
                crate::flow::Bin::BitXor => "^",
            };
            format!("({} {symbol} {})", expr(a), expr(b))
        }
        Expr::Select(c, parts) => {
            let symbol = match c {
                crate::flow::Cmp::Ge => ">=",
                crate::flow::Cmp::Gt => ">",
                crate::flow::Cmp::Eq => "==",
            };
            let [a, b, x, y] = &**parts;
            format!("if {} {symbol} {} {{ {} }} else {{ {} }}", expr(a), expr(b), expr(x), expr(y))
        }
    }
}
