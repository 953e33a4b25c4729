//! Contractions and windows inside a loop: the value of one place (or several lanes) of their result.

use super::body::{At, Body, at_least};
use super::events;
use crate::flow::{Bin, Cmp, Def, FlowId, Operand, Window};
use crate::kernel::{Bound, Cond, Expr, Int, IntExpr, Place, Stmt, Var};
use crate::program::{How, Inside, View};

/// An index together with how far it moves a place.
type Term = (Int, i64);

/// Emits the value of a contraction or window at the place the body is at.
pub(super) fn inline(body: &mut Body<'_, '_>, id: FlowId, at: At) -> Var {
    let flow = body.fuser.flow;
    let tensor = flow.get(id);
    if matches!(tensor.def, Def::Conv { .. } | Def::Product { .. }) {
        let how = match tensor.operand {
            Operand::Real => How::Multiplies,
            _ if body.fuser.event_driven(id) && body.fuser.by_word(id) => How::Fours,
            _ if body.fuser.event_driven(id) => How::Visits,
            _ => How::Tests,
        };
        body.inside.push(Inside { path: tensor.label.clone(), how });
    }
    match &tensor.def {
        Def::Conv { a, b, window, .. } => conv(body, id, *a, *b, *window, at),
        Def::Product { a, b, a_labels, b_labels, out_labels } => product(body, id, (*a, a_labels), (*b, b_labels), out_labels, at),
        Def::Pool { input, max, window } => pool(body, *input, *max, *window, at),
        Def::PoolGrad { input, grad, max, window } => pool_grad(body, *input, *grad, *max, *window, at),
        other => unreachable!("{other:?} is no contraction"),
    }
}

/// Wraps statements in loops over the taps of a window that lie inside the operand; `f` is given the operand's row and
/// column and the tap's, as indices.
pub(super) fn taps(
    body: &mut Body<'_, '_>,
    window: Window,
    size: [usize; 2],
    at: At,
    f: &mut dyn FnMut(&mut Body<'_, '_>, [Int; 2], [Int; 2]) -> Vec<Stmt>,
) -> Vec<Stmt> {
    let taps = [body.int(), body.int()];
    let source = [body.int(), body.int()];
    let mut stmts = f(body, source, taps);
    for i in [1, 0] {
        let place = body.index_of(["H", "W"][i], at);
        let terms: Vec<Term> = place.map(|p| (p, window.stride[i] as i64)).into_iter().chain([(taps[i], 1)]).collect();
        let inside = if window.pad == [0, 0] { stmts } else { vec![Stmt::If(Cond::Within(source[i], size[i] as i64), stmts)] };
        let here = Stmt::LetInt(source[i], IntExpr::Affine(terms, -(window.pad[0] as i64)));
        let body = [here].into_iter().chain(inside).collect();
        let to = Bound::Const(window.kernel[i] as i64);
        stmts = vec![Stmt::For { index: taps[i], from: Bound::Const(0), to, reverse: false, lanes: 1, body }];
    }
    stmts
}

/// The place of a view whose rows and columns are other indices than the body's, without its channels.
pub(super) fn at_source(body: &mut Body<'_, '_>, view: &View, source: [Int; 2], at: At) -> Place {
    let mut terms = Vec::new();
    if let (Some(b), true) = (body.batch, view.batch > 0) {
        terms.push((b, view.batch as i64));
    }
    if let Some(t) = body.index_of("T", at) {
        terms.extend(body.steps(view, t));
    }
    for (axis, index) in ["H", "W"].into_iter().zip(source) {
        if let Some((_, stride)) = view.axis(axis) {
            terms.push((index, stride as i64));
        }
    }
    // Further axes go with the result's; channels are the contraction's.
    for (name, _, stride) in &view.axes {
        if let (Some(index), false) = (body.index_of(name, at), ["H", "W", "C"].contains(&name.as_str())) {
            terms.push((index, *stride as i64));
        }
    }
    Place { arg: body.arg(view.buffer), terms, offset: view.offset as i64 }
}

fn conv(body: &mut Body<'_, '_>, id: FlowId, a: FlowId, b: FlowId, window: Window, at: At) -> Var {
    let flow = body.fuser.flow;
    if body.fuser.event_driven(id) {
        return events::sum(body, id, a, Some(window), vec![], b, at);
    }
    let operand = flow.get(id).operand;
    let size = ["H", "W"].map(|n| flow.dims(a).axis(n).map_or(1, |x| x.size));
    let acc = body.sum_from_start(id, at);
    add(body, acc, operand, true, at, &mut |body, sum, adds| {
        taps(body, window, size, at, &mut |body, source, taps| {
            let (weights, mut w) = if body.fuser.weighs(id) {
                events::weights(body, b, at)
            } else {
                let weights = body.fuser.view(b);
                let mut terms = body.along("C", weights.axis("out").map_or(0, |(_, s)| s as i64), at);
                if let Some(t) = body.index_of("T", at) {
                    terms.extend(body.steps(&weights, t));
                }
                let place = Place { arg: body.arg(weights.buffer), terms, offset: weights.offset as i64 };
                (weights, place)
            };
            let stride = |axis: &str| weights.axis(axis).map_or(0, |(_, s)| s as i64);
            w.terms.extend([(taps[0], stride("kh")), (taps[1], stride("kw"))]);
            let view = body.fuser.view(a);
            let (channels, spread) = view.axis("C").unwrap_or((1, 1));
            let mut x = at_source(body, &view, source, at);
            let channel = body.int();
            x.terms.push((channel, spread as i64));
            w.terms.push((channel, stride("in")));
            let inner = adds.term(body, sum, x, w);
            vec![Stmt::For {
                index: channel,
                from: Bound::Const(0),
                to: Bound::Const(channels as i64),
                reverse: false,
                lanes: 1,
                body: inner,
            }]
        })
    });
    acc
}

/// How a term is added to a sum.
#[derive(Clone, Copy)]
enum Adds {
    /// The product.
    Product,
    /// The other one where there is a spike, which is the same for all lanes.
    AtSpike,
    /// The other one where there is a spike, lane by lane.
    AtSpikes,
    /// The other one where a count that is the same for all lanes has this digit.
    AtDigit(u32),
    /// The other one as often as counts of so many digits say, lane by lane.
    AtCounts(u32),
}

impl Adds {
    /// Adds one term: `x` is the operand's place, `w` the other one's.
    fn term(self, body: &mut Body<'_, '_>, sum: Var, x: Place, w: Place) -> Vec<Stmt> {
        let value = match self {
            Adds::Product => Expr::Bin(Bin::Mul, Box::new(Expr::Load(x)), Box::new(Expr::Load(w))),
            Adds::AtSpike => return vec![Stmt::If(Cond::Spike(x), vec![plus(sum, Expr::Load(w))])],
            Adds::AtSpikes => Expr::Masked(Box::new(Expr::Load(w)), Box::new(Expr::Load(x))),
            Adds::AtDigit(digit) => return vec![Stmt::If(Cond::Digit(x, digit), vec![plus(sum, Expr::Load(w))])],
            Adds::AtCounts(digits) => {
                // From the highest digit on: twice what there is, and the other one where what is left of the count has the digit.
                let (left, times) = (body.var(), body.var());
                let mut stmts = vec![Stmt::Let(left, Expr::Load(x)), Stmt::Let(times, Expr::Const(0.0))];
                for digit in (0..digits).rev() {
                    let worth = (1_u32 << digit) as f32;
                    stmts.push(plus(times, Expr::Var(times)));
                    stmts.push(plus(times, at_least(Expr::Var(left), worth, Expr::Load(w.clone()))));
                    stmts.push(plus(left, at_least(Expr::Var(left), worth, Expr::Const(-worth))));
                }
                stmts.push(plus(sum, Expr::Var(times)));
                return stmts;
            }
        };
        vec![plus(sum, value)]
    }
}

fn plus(sum: Var, value: Expr) -> Stmt {
    Stmt::Set(sum, Expr::Bin(Bin::Add, Box::new(Expr::Var(sum)), Box::new(value)))
}

/// Adds all terms to a sum, which loops do that `nest` makes. `x_scalar`: the operand is the same for all lanes.
///
/// Counts are added by their digits of base two, the highest first: twice the sum, which is exact, and every weight whose count has the
/// digit. Adding a weight as often as its count says takes longer, and rounds more often.
fn add(
    body: &mut Body<'_, '_>,
    acc: Var,
    operand: Operand,
    x_scalar: bool,
    at: At,
    nest: &mut dyn FnMut(&mut Body<'_, '_>, Var, Adds) -> Vec<Stmt>,
) {
    let adds = match operand {
        Operand::Real => Adds::Product,
        Operand::Spikes if x_scalar => Adds::AtSpike,
        Operand::Spikes => Adds::AtSpikes,
        Operand::Count(most) if x_scalar => {
            let sum = body.bind(at, Expr::Const(0.0));
            let highest = digits(most).saturating_sub(1);
            for digit in (0..=highest).rev() {
                if digit < highest {
                    body.push(at, plus(sum, Expr::Var(sum)));
                }
                for stmt in nest(body, sum, Adds::AtDigit(digit)) {
                    body.push(at, stmt);
                }
            }
            return body.push(at, plus(acc, Expr::Var(sum)));
        }
        Operand::Count(most) => Adds::AtCounts(digits(most)),
    };
    for stmt in nest(body, acc, adds) {
        body.push(at, stmt);
    }
}

/// Digits of base two.
pub(super) fn digits(most: u64) -> u32 {
    u64::BITS - most.leading_zeros()
}

fn product(
    body: &mut Body<'_, '_>,
    id: FlowId,
    (a, a_labels): (FlowId, &[String]),
    (b, b_labels): (FlowId, &[String]),
    out_labels: &[String],
    at: At,
) -> Var {
    let flow = body.fuser.flow;
    let tensor = flow.get(id);
    let out_dims = tensor.dims.labels();
    if body.fuser.event_driven(id) {
        // The result's own axes may be called otherwise than its labels, and so may the operand's.
        let named = a_labels.iter().zip(flow.dims(a).labels());
        let rows = named.filter_map(|(label, theirs)| Some((out_dims[out_labels.iter().position(|l| l == label)?].clone(), theirs)));
        let rows = rows.filter(|(own, _)| own != "B" && own != "T").collect();
        return events::sum(body, id, a, None, rows, b, at);
    }
    let a_view = body.fuser.view(a);
    let acc = body.sum_from_start(id, at);
    let mut summed: Vec<(String, Int, usize)> = Vec::new();
    let time = body.fuser.time;
    let a_terms = spread(&a_view, flow.dims(a), a_labels, time);
    for (label, size, _) in &a_terms {
        if !out_labels.contains(label) && label != "B" && label != "T" {
            summed.push((label.clone(), body.int(), *size));
        }
    }
    let terms = |body: &mut Body<'_, '_>, view: &View, labels: &[(String, usize, usize)]| {
        let mut places = Vec::new();
        for (label, _, stride) in labels {
            if let Some((_, index, _)) = summed.iter().find(|(l, ..)| l == label) {
                places.push((*index, *stride as i64));
            } else if let Some(i) = out_labels.iter().position(|l| l == label) {
                match body.index_of(&out_dims[i], at) {
                    Some(step) if label == "T" => places.extend(body.steps(view, step)),
                    _ => places.extend(body.along(&out_dims[i], *stride as i64, at)),
                }
            }
        }
        places
    };
    let x_terms = terms(body, &a_view, &a_terms);
    let x = Place { arg: body.arg(a_view.buffer), terms: x_terms, offset: a_view.offset as i64 };
    let w = if body.fuser.weighs(id) {
        let (view, mut w) = events::weights(body, b, at);
        let b_terms = spread(&view, flow.dims(b), b_labels, time);
        // Steps, tiles and lanes are in it.
        let others: Vec<_> = b_terms.into_iter().filter(|(l, ..)| l != "T" && Some(l) != b_labels.last()).collect();
        w.terms.extend(terms(body, &view, &others));
        w
    } else {
        let view = body.fuser.view(b);
        let b_terms = spread(&view, flow.dims(b), b_labels, time);
        Place { arg: body.arg(view.buffer), terms: terms(body, &view, &b_terms), offset: view.offset as i64 }
    };
    let last = tensor.dims.axes.last().map(|a| a.name.as_str());
    let lane = body.lanes_along().or(last.map(str::to_owned)).and_then(|axis| body.lane(&axis, at));
    let x_scalar = lane.is_none_or(|l| x.terms.iter().all(|(i, _)| *i != l));
    add(body, acc, tensor.operand, x_scalar, at, &mut |body, sum, adds| {
        summed.iter().rev().fold(adds.term(body, sum, x.clone(), w.clone()), |stmts, (_, index, size)| {
            vec![Stmt::For { index: *index, from: Bound::Const(0), to: Bound::Const(*size as i64), reverse: false, lanes: 1, body: stmts }]
        })
    });
    acc
}

/// Label, extent and distance of every dim of a view; the extent of B, which is never summed over, is left open.
fn spread(view: &View, dims: &crate::flow::Dims, labels: &[String], time: usize) -> Vec<(String, usize, usize)> {
    let mut strides = Vec::new();
    if dims.batch {
        strides.push((1, view.batch));
    }
    if dims.time {
        strides.push((time, view.time));
    }
    strides.extend(view.axes.iter().map(|(_, size, stride)| (*size, *stride)));
    labels.iter().zip(strides).map(|(l, (size, stride))| (l.clone(), size, stride)).collect()
}

fn pool(body: &mut Body<'_, '_>, input: FlowId, max: bool, window: Window, at: At) -> Var {
    let flow = body.fuser.flow;
    let view = body.fuser.view(input);
    let size = ["H", "W"].map(|n| flow.dims(input).axis(n).map_or(1, |x| x.size));
    let acc = body.bind(at, Expr::Const(if max { f32::NEG_INFINITY } else { 0.0 }));
    let stmts = taps(body, window, size, at, &mut |body, source, _| {
        let x = with_channel(body, &view, source, at);
        let bin = if max { Bin::Max } else { Bin::Add };
        vec![Stmt::Set(acc, Expr::Bin(bin, Box::new(Expr::Var(acc)), Box::new(Expr::Load(x))))]
    });
    for stmt in stmts {
        body.push(at, stmt);
    }
    acc
}

fn with_channel(body: &mut Body<'_, '_>, view: &View, source: [Int; 2], at: At) -> Place {
    let mut place = at_source(body, view, source, at);
    if let Some((_, stride)) = view.axis("C") {
        place.terms.extend(body.along("C", stride as i64, at));
    }
    place
}

/// Gradient of a pool at one place of its operand: for every window that holds the place, the window's gradient, if the
/// place is the first with the largest value.
fn pool_grad(body: &mut Body<'_, '_>, input: FlowId, grad: FlowId, max: bool, window: Window, at: At) -> Var {
    let flow = body.fuser.flow;
    let (x_view, g_view) = (body.fuser.view(input), body.fuser.view(grad));
    let size = ["H", "W"].map(|n| flow.dims(input).axis(n).map_or(1, |x| x.size));
    let out = ["H", "W"].map(|n| flow.dims(grad).axis(n).map_or(1, |x| x.size));
    let acc = body.bind(at, Expr::Const(0.0));
    let here = ["H", "W"].map(|n| body.index_of(n, at).unwrap_or(Int(0)));
    // The windows that can hold this place: ⌈kernel / stride⌉ of them along each axis, the last starting at or before it.
    let back = [body.int(), body.int()];
    let padded = [body.int(), body.int()];
    let last = [body.int(), body.int()];
    let which = [body.int(), body.int()];
    let tap = [body.int(), body.int()];
    let g = with_channel(body, &g_view, which, at);
    let add = |value: Expr| Stmt::Set(acc, Expr::Bin(Bin::Add, Box::new(Expr::Var(acc)), Box::new(value)));
    let mut stmts = if max {
        // Walk the window in order and remember whether the best so far is this place.
        let (best, mine, value) = (body.var(), body.var(), body.var());
        let (ky, kx, sy, sx) = (body.int(), body.int(), body.int(), body.int());
        let (dy, dx) = (body.int(), body.int());
        let is_here = body.var();
        let x = with_channel(body, &x_view, [sy, sx], at);
        let update = vec![
            Stmt::Let(value, Expr::Load(x)),
            Stmt::Let(is_here, Expr::Const(0.0)),
            Stmt::LetInt(dy, IntExpr::Affine(vec![(sy, 1), (here[0], -1)], 0)),
            Stmt::LetInt(dx, IntExpr::Affine(vec![(sx, 1), (here[1], -1)], 0)),
            Stmt::If(Cond::Within(dy, 1), vec![Stmt::If(Cond::Within(dx, 1), vec![Stmt::Set(is_here, Expr::Const(1.0))])]),
            Stmt::Set(mine, Expr::Select(Cmp::Gt, Box::new([Expr::Var(value), Expr::Var(best), Expr::Var(is_here), Expr::Var(mine)]))),
            Stmt::Set(best, Expr::Bin(Bin::Max, Box::new(Expr::Var(best)), Box::new(Expr::Var(value)))),
        ];
        let mut walk = update;
        for (i, (k, s)) in [(ky, sy), (kx, sx)].into_iter().enumerate().rev() {
            let start = IntExpr::Affine(vec![(which[i], window.stride[i] as i64), (k, 1)], -(window.pad[0] as i64));
            let body = vec![Stmt::LetInt(s, start), Stmt::If(Cond::Within(s, size[i] as i64), walk)];
            walk = vec![Stmt::For {
                index: k,
                from: Bound::Const(0),
                to: Bound::Const(window.kernel[i] as i64),
                reverse: false,
                lanes: 1,
                body,
            }];
        }
        let mut all = vec![Stmt::Let(best, Expr::Const(f32::NEG_INFINITY)), Stmt::Let(mine, Expr::Const(0.0))];
        all.extend(walk);
        all.push(add(Expr::Bin(Bin::Mul, Box::new(Expr::Var(mine)), Box::new(Expr::Load(g)))));
        all
    } else {
        vec![add(Expr::Load(g))]
    };
    for i in [1, 0] {
        let stride = window.stride[i] as i64;
        let inside = vec![Stmt::If(
            Cond::Within(which[i], out[i] as i64),
            vec![
                Stmt::LetInt(tap[i], IntExpr::Affine(vec![(padded[i], 1), (which[i], -stride)], 0)),
                Stmt::If(Cond::Within(tap[i], window.kernel[i] as i64), stmts),
            ],
        )];
        let mut inner = vec![Stmt::LetInt(which[i], IntExpr::Affine(vec![(last[i], 1), (back[i], -1)], 0))];
        inner.extend(inside);
        let count = window.kernel[i].div_ceil(window.stride[i]) as i64;
        stmts = vec![
            Stmt::LetInt(padded[i], IntExpr::Affine(vec![(here[i], 1)], window.pad[0] as i64)),
            Stmt::LetInt(last[i], IntExpr::Quotient(padded[i], stride)),
            Stmt::For { index: back[i], from: Bound::Const(0), to: Bound::Const(count), reverse: false, lanes: 1, body: inner },
        ];
    }
    for stmt in stmts {
        body.push(at, stmt);
    }
    acc
}
