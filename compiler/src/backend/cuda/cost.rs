//! What a step moves and multiplies, launch by launch: the two floors below its time.
//!
//! Bytes are those of distinct places: what a kernel reads twice is counted once, as caches have it, and a library is taken to
//! read its operands once.

use super::calls::{Call, Matmul, Place};
use super::work::{Step, Task, Work};
use crate::kernel::{Bound, Cond, Expr, Int, IntExpr, Place as Element, Stmt};
use crate::program::Program;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A launch.
#[derive(Clone, Debug)]
pub struct Cost {
    /// `product`, `masked`, `convolution`, `copy`, `sums`, `zero`, `loop`, `loops`, `side by side`.
    pub kind: &'static str,
    /// What it computes: paths of the model.
    pub what: Vec<String>,
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Multiplications and additions of products, counted as two.
    pub operations: u64,
}

/// What each launch of a step costs, in order.
pub fn costs(program: &Program, step: &Step<'_>) -> Vec<Cost> {
    let cost = |kind, what, (read, written): (u64, u64), operations| Cost { kind, what, read, written, operations };
    let mut out = Vec::new();
    for work in &step.work {
        out.push(match work {
            Work::Call(call, what) => {
                let what = vec![(*what).to_owned()];
                match call {
                    Call::Masked(c) => {
                        let (terms, height, columns) = (c.terms(), c.height(), c.columns.size);
                        let read = c.rows.iter().map(|r| bytes(terms * r.count, r.place)).sum::<u64>() + bytes(terms * columns, c.by);
                        let written = bytes(height * columns * c.parts[0], c.to);
                        cost("masked", what, (read, written), 2 * (height * columns * terms) as u64)
                    }
                    Call::Matmul(m) => cost("product", what, matmul(m), 2 * (m.m * m.n * m.k * m.count) as u64),
                    Call::Convolution(c) => {
                        let weights = c.x.size[3] * c.y.size[3] * c.kernel[0] * c.kernel[1];
                        let sizes = [(c.x.elements(), c.x.place), (weights, c.w), (c.y.elements(), c.y.place)].map(|(n, p)| bytes(n, p));
                        let written = sizes[match c.part {
                            crate::flow::ConvPart::Result => 2,
                            crate::flow::ConvPart::Operand => 0,
                            crate::flow::ConvPart::Weight => 1,
                        }];
                        let products = c.y.elements() * c.x.size[3] * c.kernel[0] * c.kernel[1];
                        cost("convolution", what, (sizes.iter().sum::<u64>() - written, written), 2 * products as u64)
                    }
                    Call::Copy { from, to, size, .. } => {
                        let n = size.iter().product();
                        cost("copy", what, (bytes(n, *from), bytes(n, *to)), 0)
                    }
                    Call::Zero { at, size } => cost("zero", what, (0, bytes(*size, *at)), 0),
                    Call::Overflow { of, .. } => cost("check", what, (of.iter().map(|(p, n)| bytes(*n, *p)).sum(), 4), 0),
                    Call::Sum { from, parts, size, to } => cost("sums", what, (bytes(parts * size, *from), bytes(*size, *to)), 0),
                }
            }
            Work::Sums(sums) => {
                let read = sums.iter().map(|s| 4 * (s.parts * s.size) as u64).sum();
                cost("sums", vec!["parts of products".to_owned()], (read, sums.iter().map(|s| bytes(s.size, s.to)).sum()), 0)
            }
            Work::Chain(tasks) | Work::Side(tasks) => {
                let moved = tasks.iter().map(|t| task(program, t)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
                let kind = match work {
                    Work::Side(_) => "side by side",
                    _ if tasks.len() > 1 => "loops",
                    _ => "loop",
                };
                cost(kind, tasks.iter().map(|t| t.of.label.clone()).collect(), moved, 0)
            }
        });
    }
    out
}

fn bytes(elements: usize, place: Place) -> u64 {
    place.format.bytes(elements) as u64
}

fn matmul(call: &Matmul) -> (u64, u64) {
    let Matmul { m, n, k, count, a, b, d, add } = call;
    let times = |next: usize| if next == 0 { 1 } else { *count };
    let written = bytes(m * n * count, d.place);
    let read = bytes(m * k * times(a.next), a.place) + bytes(k * n * times(b.next), b.place);
    (if *add { read + written } else { read }, written)
}

/// Bytes that a kernel reads and writes on its arguments.
fn task(program: &Program, task: &Task<'_>) -> (u64, u64) {
    let kernel = &program.kernels[task.of.kernel.index()];
    let mut walk = Walk { extents: HashMap::new(), read: BTreeMap::new(), written: BTreeMap::new(), task, time: program.time };
    walk.body(&kernel.body);
    // A kernel that does not run over samples reads those of a tensor that varies over them as it counts them itself.
    let samples = if task.of.extent.is_none() { task.extent } else { usize::MAX };
    let moved = |places: &BTreeMap<usize, BTreeSet<Touched>>| -> u64 {
        let of = |(arg, touched): (&usize, &BTreeSet<Touched>)| {
            let buffer = program.buffer(task.of.args[*arg]);
            let over = |own, n: usize| if own { n as u64 } else { 1 };
            let all = (buffer.elements as u64).saturating_mul(over(buffer.batch, samples)) * over(buffer.ranges, task.ranges);
            buffer.format.bytes(touched.iter().map(|t| t.count).sum::<u64>().min(all) as usize) as u64
        };
        places.iter().map(of).sum()
    };
    (moved(&walk.read), moved(&walk.written))
}

/// A place with the number of elements that its indices reach.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Touched {
    place: (Vec<(Int, i64)>, i64),
    count: u64,
}

struct Walk<'t> {
    /// Extents of loops; what an index is made of otherwise may be anything.
    extents: HashMap<Int, u64>,
    read: BTreeMap<usize, BTreeSet<Touched>>,
    written: BTreeMap<usize, BTreeSet<Touched>>,
    task: &'t Task<'t>,
    time: usize,
}

impl Walk<'_> {
    fn touch(&self, place: &Element) -> Touched {
        let extent = |i: &Int| self.extents.get(i).copied().unwrap_or(u64::from(u32::MAX));
        let count = place.terms.iter().map(|(i, _)| extent(i)).fold(1u64, u64::saturating_mul);
        Touched { place: (place.terms.clone(), place.offset), count }
    }

    fn reads(&mut self, place: &Element) {
        let touched = self.touch(place);
        self.read.entry(place.arg).or_default().insert(touched);
    }

    fn writes(&mut self, place: &Element) {
        let touched = self.touch(place);
        self.written.entry(place.arg).or_default().insert(touched);
    }

    fn expr(&mut self, e: &Expr) {
        match e {
            Expr::Load(place) => self.reads(place),
            Expr::Masked(a, b) | Expr::Bin(_, a, b) => {
                self.expr(a);
                self.expr(b);
            }
            Expr::Un(_, a) | Expr::Rounded(_, a) => self.expr(a),
            Expr::Select(_, parts) => parts.iter().for_each(|p| self.expr(p)),
            Expr::Var(_)
            | Expr::Const(_)
            | Expr::Batch
            | Expr::Steps
            | Expr::Integer(_)
            | Expr::Hyper(_)
            | Expr::Scratch(..)
            | Expr::Random(..) => {}
        }
    }

    fn body(&mut self, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Let(_, e) | Stmt::Set(_, e) | Stmt::StoreScratch(_, _, e) => self.expr(e),
                Stmt::Store(place, e) | Stmt::Combine { place, value: e, .. } => {
                    self.expr(e);
                    self.writes(place);
                }
                Stmt::LetInt(i, IntExpr::Range) => {
                    self.extents.insert(*i, self.task.ranges as u64);
                }
                Stmt::LetInt(_, e) | Stmt::SetInt(_, e) => {
                    if let IntExpr::Word(place) | IntExpr::Half(place) = e {
                        self.reads(place);
                    }
                }
                Stmt::StoreWord(place, _) | Stmt::StoreHalf(place, _) | Stmt::StoreBits(place, _) => self.writes(place),
                Stmt::Prefetch(..) => {}
                Stmt::Transpose { from, to, .. } => {
                    self.reads(from);
                    self.writes(to);
                }
                Stmt::For { index, from, to, body, .. } => {
                    let extent = match (from, to) {
                        (_, Bound::Const(n)) => *n as u64,
                        (_, Bound::Steps) => self.time as u64,
                        (_, Bound::Ranges) => self.task.ranges as u64,
                        _ => self.task.extent as u64,
                    };
                    self.extents.insert(*index, extent);
                    self.body(body);
                }
                Stmt::While(cond, body) | Stmt::If(cond, body) => {
                    if let Cond::Spike(place) | Cond::Digit(place, _) = cond {
                        self.reads(place);
                    }
                    self.body(body);
                }
            }
        }
    }
}
