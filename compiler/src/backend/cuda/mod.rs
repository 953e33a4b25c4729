//! Kernels as CUDA C: one `__global__` function each, for NVRTC and, behind a header that supplies the built-ins, for a C++
//! compiler.
//!
//! The loop nest of a kernel is the backend-neutral one; [`Schedule`] says which of its loops become threads, and [`work`] what is
//! launched together. Numbers are f32, whatever memory keeps them as, and no product is contracted with a sum (`--fmad=false`), so that element-wise results are those of the other backend, bit for bit.
//! Sums over threads have a fixed order: no atomics.

pub mod calls;
pub mod cost;
pub mod masked;
mod schedule;
pub mod work;

pub use schedule::{Grid, Schedule, THREADS, schedule};

use crate::flow::{Bin, Cmp, Un};
use crate::kernel::{Bound, Cond, Expr, Format, Int, IntExpr, Place, Stmt};
use crate::lower::hyper;
use crate::program::Program;
use schedule::{Nest, Sum};
use std::fmt::Write;

/// What every kernel's text begins with: the arguments of a call, functions of numbers, sums over a block's threads.
pub const PRELUDE: &str = include_str!("prelude.cu");

/// Why a kernel has no CUDA text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(pub &'static str);

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a kernel cannot be laid onto threads: {}", self.0)
    }
}

impl std::error::Error for Unsupported {}

/// Everything that a step launches, behind what all share.
///
/// # Errors
/// A program of folded inference.
pub fn source(program: &Program) -> Result<String, Unsupported> {
    Ok([PRELUDE, calls::KERNELS, &work::text(program, &work::entries(program)?)?].join("\n"))
}

struct Printer<'k> {
    out: String,
    depth: usize,
    /// How the kernel's arguments keep their numbers.
    formats: &'k [Format],
    /// What a `Combine` adds to instead of memory: its statement, the variable, and whether that keeps what rounding loses.
    sums: Vec<(&'k Stmt, String, bool)>,
}

impl<'k> Printer<'k> {
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{}{text}", "    ".repeat(self.depth));
    }

    fn open(&mut self, text: &str) {
        self.line(&format!("{text} {{"));
        self.depth += 1;
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.line("}");
    }

    /// It writes bits.
    fn packs(&self) -> bool {
        self.formats.contains(&Format::Bit)
    }

    fn kernel(&mut self, schedule: &Schedule<'k>) -> Result<(), Unsupported> {
        // Sums over all of it, by one block or a block for every range.
        let over_all = matches!(&schedule.nests[..], [one] if !one.kept.contains(&one.loops[0].0));
        match schedule.grid {
            Grid::Ranges { .. } | Grid::Whole | Grid::Outer { .. } if self.packs() => return Err(Unsupported("it sums and packs bits")),
            Grid::Elements { .. } => {
                let nest = &schedule.nests[0];
                let elements = nest.inner();
                // Bits of a word are those of a warp: where a word has some to spare, so has the warp.
                let words = if self.packs() { elements.next_multiple_of(32) } else { elements };
                self.line(&format!("const long long n = (c.end - c.begin) * {words}LL;"));
                self.open(&format!("for (long long e = block * {THREADS}LL + tid; e < n; e += blocks * {THREADS}LL)"));
                if self.packs() {
                    self.line(&format!("const bool own = e % {words}LL < {elements}LL;"));
                    self.line(&format!("const long long element = e / {words}LL * {elements}LL + min(e % {words}LL, {elements}LL - 1);"));
                    self.decode("element", &nest.loops);
                } else {
                    self.decode("e", &nest.loops);
                }
                self.stmts(nest.body)?;
                self.close();
            }
            Grid::Ranges { .. } | Grid::Whole if over_all => {
                let nest = &schedule.nests[0];
                self.begin(schedule)?;
                let summed: Vec<_> = nest.loops.iter().filter(|l| !nest.kept.contains(&l.0)).copied().collect();
                let size: i64 = summed.iter().filter_map(|l| l.1).product();
                self.line(&format!("const long long summed = (c.end - c.begin) * {size}LL, part = (summed + c.ranges - 1) / c.ranges;"));
                self.line("const long long first = block * part, last = min(first + part, summed);");
                self.reduce(nest, &summed, "first", "last")?;
            }
            Grid::Ranges { .. } | Grid::Whole | Grid::Outer { .. } => {
                self.begin(schedule)?;
                self.open("for (long long o = c.begin + block; o < c.end; o += blocks)");
                for nest in &schedule.nests {
                    self.open("");
                    self.line(&format!("const long long i{} = o;", nest.loops[0].0.0));
                    if nest.sums.is_empty() {
                        self.elements(&nest.loops[1..], nest.body)?;
                    } else {
                        let summed: Vec<_> = nest.loops[1..].iter().filter(|l| !nest.kept.contains(&l.0)).copied().collect();
                        let size: i64 = summed.iter().filter_map(|l| l.1).product();
                        self.reduce(nest, &summed, "0LL", &format!("{size}LL"))?;
                    }
                    self.close();
                    self.line("__syncthreads();");
                }
                self.close();
            }
        }
        Ok(())
    }

    /// What a range begins with: its number, and its sums at zero.
    fn begin(&mut self, schedule: &Schedule<'k>) -> Result<(), Unsupported> {
        for range in &schedule.range {
            self.line(&format!("const long long i{} = block;", range.0));
        }
        for zero in &schedule.zeros {
            self.elements(&[(zero.index, Some(zero.extent))], zero.body)?;
        }
        if !schedule.zeros.is_empty() {
            self.line("__syncthreads();");
        }
        Ok(())
    }

    /// The elements of some loops, each by one thread of the block.
    fn elements(&mut self, loops: &[(Int, Option<i64>)], body: &'k [Stmt]) -> Result<(), Unsupported> {
        let size: i64 = loops.iter().filter_map(|l| l.1).product();
        self.open(&format!("for (long long e = tid; e < {size}LL; e += {THREADS})"));
        self.decode("e", loops);
        self.stmts(body)?;
        self.close();
        Ok(())
    }

    /// Sums over some loops, for every element of the kept ones: each thread adds its share, and the block adds the threads'.
    fn reduce(&mut self, nest: &Nest<'k>, summed: &[(Int, Option<i64>)], first: &str, last: &str) -> Result<(), Unsupported> {
        let kept: Vec<_> = nest.loops.iter().filter(|l| nest.kept.contains(&l.0) && l.1.is_some()).copied().collect();
        let size: i64 = kept.iter().filter_map(|l| l.1).product();
        // Neighbouring threads take neighbouring places: of the kept elements, if the innermost loop is one of them.
        let inner = nest.loops.last().is_some_and(|l| nest.kept.contains(&l.0) && l.1.is_some());
        let columns = if inner { (size as u64).next_power_of_two().min(THREADS as u64) } else { 1 };
        let rows = THREADS as u64 / columns;
        // A sum over some of the kept loops, too: over all of them it is added up by the threads, over a part column by column.
        let own = |sum: &Sum<'_>| kept.iter().filter(|k| sum.kept.contains(&k.0)).count();
        let whole = |sum: &Sum<'_>| own(sum) == 0 && size > 1;
        for (j, sum) in nest.sums.iter().enumerate().filter(|(_, s)| whole(s)) {
            self.declare(j, sum);
        }
        self.line(&format!("const int column = tid % {columns}, row = tid / {columns};"));
        self.open(&format!("for (long long k = column; k - column < {size}LL; k += {columns})"));
        for (j, sum) in nest.sums.iter().enumerate().filter(|(_, s)| !whole(s)) {
            self.declare(j, sum);
        }
        self.decode("k", &kept);
        self.open(&format!("if (k < {size}LL) for (long long e = {first} + row; e < {last}; e += {rows})"));
        self.decode("e", summed);
        let name = |(j, s): (usize, &Sum<'k>)| (s.stmt, s.step.map_or(format!("r{j}"), |t| format!("r{j}[i{}]", t.0)), s.exact);
        self.sums = nest.sums.iter().enumerate().map(name).collect();
        self.stmts(nest.body)?;
        self.sums.clear();
        self.close();
        for (j, sum) in nest.sums.iter().enumerate().filter(|(_, s)| !whole(s)) {
            if own(sum) == kept.len() {
                self.gather(j, sum, columns, rows, &format!("row == 0 && k < {size}LL"));
            } else {
                self.gather_columns(j, sum, columns, rows, &kept);
            }
        }
        self.close();
        for (j, sum) in nest.sums.iter().enumerate().filter(|(_, s)| whole(s)) {
            self.gather(j, sum, 1, THREADS as u64, "tid == 0");
        }
        Ok(())
    }

    fn declare(&mut self, j: usize, sum: &Sum<'_>) {
        let start = if sum.max { "-INFINITY_F" } else { "0.0f" };
        match sum.step {
            Some(t) => {
                self.line(&format!("float r{j}[{}];", sum.time));
                self.line(&format!("for (int i{0} = 0; i{0} < c.steps; i{0}++) r{j}[i{0}] = {start};", t.0));
            }
            None if sum.exact => self.line(&format!("float r{j} = {start}, lost_r{j} = 0.0f;")),
            None => self.line(&format!("float r{j} = {start};")),
        }
    }

    /// Adds the threads' sums to memory.
    fn gather(&mut self, j: usize, sum: &Sum<'_>, columns: u64, rows: u64, owner: &str) {
        let (call, element) = (if sum.max { "block_max" } else { "block_sum" }, sum.step.map_or(String::new(), |t| format!("[i{}]", t.0)));
        if let Some(t) = sum.step {
            self.open(&format!("for (int i{0} = 0; i{0} < c.steps; i{0}++)", t.0));
        }
        self.line(&format!("const float total{j} = {call}<{columns}, {rows}>(r{j}{element});"));
        let to = place(sum.place);
        let value = if sum.max { format!("fmaxf({to}, total{j})") } else { format!("{to} + total{j}") };
        self.line(&format!("if ({owner}) {to} = {value};"));
        if sum.step.is_some() {
            self.close();
        }
    }

    /// Adds the threads' sums to memory where several columns share a place: one after the other.
    fn gather_columns(&mut self, j: usize, sum: &Sum<'_>, columns: u64, rows: u64, kept: &[(Int, Option<i64>)]) {
        let (call, element) = (if sum.max { "block_max" } else { "block_sum" }, sum.step.map_or(String::new(), |t| format!("[i{}]", t.0)));
        let steps = sum.step.map_or(String::new(), |t| format!("for (int i{0} = 0; i{0} < c.steps; i{0}++)", t.0));
        let size: i64 = kept.iter().filter_map(|l| l.1).product();
        self.open(&steps);
        self.line(&format!("__shared__ float columns{j}[{columns}];"));
        self.line(&format!("const float total{j} = {call}<{columns}, {rows}>(r{j}{element});"));
        self.line(&format!("if (row == 0) columns{j}[column] = total{j};"));
        self.line("__syncthreads();");
        self.open(&format!("if (tid == 0) for (long long m = k; m < min(k + {columns}LL, {size}LL); m++)"));
        self.decode("m", kept);
        let (to, value) = (place(sum.place), format!("columns{j}[m - k]"));
        self.line(&format!("{to} = {};", if sum.max { format!("fmaxf({to}, {value})") } else { format!("{to} + {value}") }));
        self.close();
        self.line("__syncthreads();");
        self.close();
    }

    /// The indices of loops from a number of the element, the last one running fastest.
    fn decode(&mut self, from: &str, loops: &[(Int, Option<i64>)]) {
        let mut before = 1i64;
        for (position, (index, extent)) in loops.iter().enumerate().rev() {
            let quotient = if before == 1 { from.to_owned() } else { format!("{from} / {before}LL") };
            let text = match extent {
                Some(1) => "0".to_owned(),
                Some(n) if position > 0 => format!("{quotient} % {n}LL"),
                Some(_) => quotient,
                None => format!("c.begin + {quotient}"),
            };
            self.line(&format!("const long long i{} = {text};", index.0));
            before *= extent.unwrap_or(1);
        }
    }

    fn stmts(&mut self, body: &'k [Stmt]) -> Result<(), Unsupported> {
        for stmt in body {
            self.stmt(stmt)?;
        }
        Ok(())
    }

    fn stmt(&mut self, stmt: &'k Stmt) -> Result<(), Unsupported> {
        match stmt {
            Stmt::Let(v, e) => self.line(&format!("float v{} = {};", v.0, expr(e))),
            Stmt::Set(v, e) => self.line(&format!("v{} = {};", v.0, expr(e))),
            Stmt::LetInt(i, e) => self.line(&format!("long long i{} = {};", i.0, int(e)?)),
            Stmt::SetInt(i, e) => self.line(&format!("i{} = {};", i.0, int(e)?)),
            Stmt::Store(p, e) if self.formats[p.arg] == Format::Bit => {
                self.open("");
                self.line(&format!("const unsigned word = __ballot_sync(0xffffffffu, own && {} != 0.0f);", expr(e)));
                self.line(&format!("if ((tid & 31) == 0) a{}[({}) / 32] = word;", p.arg, affine(&p.terms, p.offset)));
                self.close();
            }
            Stmt::Store(p, e) if self.packs() => self.line(&format!("if (own) {} = {};", place(p), expr(e))),
            Stmt::Store(p, e) => self.line(&format!("{} = {};", place(p), expr(e))),
            Stmt::StoreScratch(s, i, e) => self.line(&format!("s{s}[i{}] = {};", i.0, expr(e))),
            Stmt::Combine { value, max, .. } => {
                let sum = self.sums.iter().find(|(s, ..)| std::ptr::eq(*s, stmt)).cloned();
                let (_, name, exact) = sum.ok_or(Unsupported("a sum outside its loops"))?;
                let value = expr(value);
                self.line(&match (*max, exact) {
                    (true, _) => format!("{name} = fmaxf({name}, {value});"),
                    (false, true) => format!("add({name}, lost_{name}, {value});"),
                    (false, false) => format!("{name} = {name} + {value};"),
                });
            }
            Stmt::Prefetch(..) => {}
            Stmt::StoreWord(..) | Stmt::StoreHalf(..) | Stmt::StoreBits(..) | Stmt::Transpose { .. } => {
                return Err(Unsupported("it writes words of bits"));
            }
            Stmt::For { index, from, to, reverse, body, .. } => {
                if *to == Bound::Ranges {
                    // Loads of several parts at once.
                    self.line("#pragma unroll 8");
                }
                let (i, from, to) = (index.0, bound(*from), bound(*to));
                self.open(&match reverse {
                    false => format!("for (long long i{i} = {from}; i{i} < {to}; i{i}++)"),
                    true => format!("for (long long i{i} = {to} - 1; i{i} >= {from}; i{i}--)"),
                });
                self.stmts(body)?;
                self.close();
            }
            Stmt::While(c, body) => {
                self.open(&format!("while ({})", cond(c)));
                self.stmts(body)?;
                self.close();
            }
            Stmt::If(c, body) => {
                self.open(&format!("if ({})", cond(c)));
                self.stmts(body)?;
                self.close();
            }
        }
        Ok(())
    }
}

fn bound(b: Bound) -> String {
    match b {
        Bound::Const(c) => c.to_string(),
        Bound::Steps => "c.steps".into(),
        Bound::Begin => "c.begin".into(),
        Bound::End => "c.end".into(),
        Bound::Ranges => "c.ranges".into(),
        Bound::Int(i) => format!("i{}", i.0),
    }
}

fn affine(terms: &[(Int, i64)], offset: i64) -> String {
    let mut out: Vec<String> = terms.iter().map(|(i, s)| if *s == 1 { format!("i{}", i.0) } else { format!("i{} * {s}", i.0) }).collect();
    if offset != 0 || out.is_empty() {
        out.push(offset.to_string());
    }
    out.join(" + ")
}

fn place(p: &Place) -> String {
    format!("a{}[{}]", p.arg, affine(&p.terms, p.offset))
}

fn int(e: &IntExpr) -> Result<String, Unsupported> {
    Ok(match e {
        IntExpr::Const(c) => c.to_string(),
        IntExpr::First => "c.first".into(),
        IntExpr::Affine(terms, offset) => affine(terms, *offset),
        IntExpr::Quotient(i, n) => format!("i{} / {n}", i.0),
        IntExpr::Range => return Err(Unsupported("its range is used inside a loop")),
        IntExpr::Word(_)
        | IntExpr::Half(_)
        | IntExpr::Ones(_)
        | IntExpr::And(..)
        | IntExpr::Both(..)
        | IntExpr::Least(..)
        | IntExpr::TrailingZeros(_)
        | IntExpr::ClearLowest(_) => {
            return Err(Unsupported("it reads words of bits"));
        }
    })
}

fn cond(c: &Cond) -> String {
    match c {
        Cond::NotZero(i) => format!("i{} != 0", i.0),
        Cond::Positive(i) => format!("i{} > 0", i.0),
        Cond::Within(i, n) => format!("i{0} >= 0 && i{0} < {n}", i.0),
        Cond::Spike(p) => format!("{} != 0.0f", place(p)),
        Cond::Digit(p, digit) => format!("(long long)({}) >> {digit} & 1", place(p)),
    }
}

fn constant(x: f32) -> String {
    match x {
        x if x == f32::INFINITY => "INFINITY_F".into(),
        x if x == f32::NEG_INFINITY => "-INFINITY_F".into(),
        x if x.is_nan() => "__int_as_float(0x7fc00000)".into(),
        // The shortest digits that give the same bits.
        x => format!("{x:?}f"),
    }
}

fn expr(e: &Expr) -> String {
    match e {
        Expr::Var(v) => format!("v{}", v.0),
        Expr::Const(x) => constant(*x),
        Expr::Batch => "c.batch".into(),
        Expr::Steps => "(float)c.steps".into(),
        Expr::Integer(i) => format!("(float)i{}", i.0),
        Expr::Hyper(i) => format!("c.hyper[{i}]"),
        Expr::Load(p) => place(p),
        Expr::Scratch(s, i) => format!("s{s}[i{}]", i.0),
        Expr::Random(site, terms) => format!("uniform({}, {site}u, c.hyper[{}])", affine(terms, 0), hyper::SEED),
        Expr::Rounded(Format::F16, x) => format!("from_half(to_half({}))", expr(x)),
        Expr::Rounded(Format::Bf16, x) => format!("from_brain(to_brain({}))", expr(x)),
        Expr::Rounded(_, x) => expr(x),
        Expr::Masked(x, mask) => format!("({} != 0.0f ? {} : 0.0f)", expr(mask), expr(x)),
        Expr::Un(f, x) => {
            let x = expr(x);
            match f {
                Un::Neg => format!("-({x})"),
                Un::Abs => format!("fabsf({x})"),
                Un::Sqrt => format!("sqrtf({x})"),
                Un::Exp => format!("exponential({x})"),
                Un::Ln => format!("logarithm({x})"),
                Un::Shift(k) => format!("shifted({x}, {k})"),
                Un::Doubled(_) => unreachable!("fusion spells it out"),
            }
        }
        Expr::Bin(f, a, b) => {
            let (a, b) = (expr(a), expr(b));
            match f {
                Bin::Add => format!("({a} + {b})"),
                Bin::Sub => format!("({a} - {b})"),
                Bin::Mul => format!("({a} * {b})"),
                Bin::Div => format!("({a} / {b})"),
                Bin::Min => format!("lesser({a}, {b})"),
                Bin::Max => format!("larger({a}, {b})"),
                Bin::BitAnd => format!("__int_as_float(__float_as_int({a}) & __float_as_int({b}))"),
                Bin::BitXor => format!("__int_as_float(__float_as_int({a}) ^ __float_as_int({b}))"),
            }
        }
        Expr::Select(cmp, of) => {
            let [a, b, x, y] = &**of;
            let op = match cmp {
                Cmp::Ge => ">=",
                Cmp::Gt => ">",
                Cmp::Eq => "==",
            };
            format!("({} {op} {} ? {} : {})", expr(a), expr(b), expr(x), expr(y))
        }
    }
}
