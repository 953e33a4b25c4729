//! Expressions over the original parameters, with named axes, and their values in f64: the part of a program that runs
//! once per set of weights, and the only part of inference that may multiply.

use crate::types::ParamId;
use ndarray::{Array2, ArrayD, Axis as At, IxDyn};

/// The part of a constant below which a scale counts for nothing beside it: their quotient, 2^40 times as large under
/// `fold(time)`, must stay in the range of f32. A current would have to be 2^62 times its weights' size to be seen beside
/// the constant.
const NOTHING: f64 = 1.0 / (1u128 << 86) as f64;

/// An array with named axes.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A number.
    Const(f64),
    /// Numbers along an axis.
    List(Vec<f64>, String),
    /// Ones along these axes.
    Ones(Vec<(String, usize)>),
    /// A parameter of the original graph, its axes called so.
    Param(ParamId, Vec<String>),
    /// a + b, axes matched by name.
    Add(Box<Expr>, Box<Expr>),
    /// a - b
    Sub(Box<Expr>, Box<Expr>),
    /// a · b
    Mul(Box<Expr>, Box<Expr>),
    /// a / b
    Div(Box<Expr>, Box<Expr>),
    /// √a
    Sqrt(Box<Expr>),
    /// The sign of a, -1 or 1; 0 where a is nothing (2^-86) beside b.
    Sign(Box<Expr>, Box<Expr>),
    /// |a|; 1 where a is nothing (2^-86) beside b.
    Magnitude(Box<Expr>, Box<Expr>),
    /// The weight of a map behind a map, `[out, mid, kh, kw]` behind `[mid, in, kh, kw]`, each without the axes it does not
    /// have; the window of the first steps this far from one place of the second's to the next.
    /// W\[w\] = Σ_{s u + v = w} Σ_mid next\[u\] first\[v\].
    Then(Box<Expr>, Box<Expr>, [usize; 2]),
    /// Summed over axes.
    Sum(Box<Expr>, Vec<String>),
    /// An axis called otherwise.
    Rename(Box<Expr>, String, String),
}

macro_rules! arithmetic {
    ($($trait:ident $method:ident),*) => {$(
        impl std::ops::$trait for Expr {
            type Output = Expr;
            fn $method(self, other: Expr) -> Expr {
                Expr::$trait(Box::new(self), Box::new(other))
            }
        }
    )*};
}
arithmetic!(Add add, Sub sub, Mul mul, Div div);

impl Expr {
    /// √self
    pub fn sqrt(self) -> Expr {
        Expr::Sqrt(Box::new(self))
    }

    /// See [`Expr::Sign`].
    pub fn sign(self, beside: Expr) -> Expr {
        Expr::Sign(Box::new(self), Box::new(beside))
    }

    /// See [`Expr::Magnitude`].
    pub fn magnitude(self, beside: Expr) -> Expr {
        Expr::Magnitude(Box::new(self), Box::new(beside))
    }

    /// See [`Expr::Then`].
    pub fn then(first: Expr, next: Expr, stride: [usize; 2]) -> Expr {
        Expr::Then(Box::new(first), Box::new(next), stride)
    }

    /// Summed over axes.
    pub fn sum(self, axes: &[String]) -> Expr {
        Expr::Sum(Box::new(self), axes.to_vec())
    }

    /// An axis called otherwise.
    pub fn renamed(&self, from: &str, to: &str) -> Expr {
        Expr::Rename(Box::new(self.clone()), from.to_owned(), to.to_owned())
    }

    /// As text, with the paths of the original parameters.
    pub fn text(&self, originals: &[crate::graph::Param]) -> String {
        let t = |e: &Expr| e.text(originals);
        match self {
            Expr::Const(c) => format!("{c}"),
            Expr::List(numbers, _) => format!("{numbers:?}"),
            Expr::Ones(axes) => format!("ones[{}]", axes.iter().map(|(n, size)| format!("{n} = {size}")).collect::<Vec<_>>().join(", ")),
            Expr::Then(first, next, _) => format!("{} after {}", t(next), t(first)),
            Expr::Param(id, _) => originals.get(id.index()).map_or_else(|| id.to_string(), |p| p.path.clone()),
            Expr::Add(a, b) => format!("({} + {})", t(a), t(b)),
            Expr::Sub(a, b) => format!("({} - {})", t(a), t(b)),
            Expr::Mul(a, b) => format!("{} * {}", t(a), t(b)),
            Expr::Div(a, b) => format!("({}) / ({})", t(a), t(b)),
            Expr::Sqrt(a) => format!("sqrt({})", t(a)),
            Expr::Sign(a, _) => format!("sign({})", t(a)),
            Expr::Magnitude(a, _) => format!("magnitude({})", t(a)),
            Expr::Sum(a, axes) => format!("sum[{}]({})", axes.join(", "), t(a)),
            Expr::Rename(a, ..) => t(a),
        }
    }

    /// Adds the names of its axes to a list.
    pub fn axes(&self, names: &mut Vec<String>) {
        match self {
            Expr::Const(_) => {}
            Expr::List(_, axis) => add(names, axis.clone()),
            Expr::Ones(axes) => axes.iter().for_each(|(axis, _)| add(names, axis.clone())),
            Expr::Param(_, axes) => axes.iter().for_each(|axis| add(names, axis.clone())),
            Expr::Then(first, next, _) => {
                next.axes(names);
                first.axes(names);
                names.retain(|n| n != "mid");
            }
            Expr::Add(a, b) | Expr::Sub(a, b) | Expr::Mul(a, b) | Expr::Div(a, b) | Expr::Sign(a, b) | Expr::Magnitude(a, b) => {
                a.axes(names);
                b.axes(names);
            }
            Expr::Sqrt(a) => a.axes(names),
            Expr::Sum(a, axes) => {
                let mut own = Vec::new();
                a.axes(&mut own);
                names.extend(own.into_iter().filter(|n| !axes.contains(n)));
            }
            Expr::Rename(a, from, to) => {
                let mut own = Vec::new();
                a.axes(&mut own);
                own.into_iter().for_each(|name| add(names, if name == *from { to.clone() } else { name }));
            }
        }
    }
}

fn add(names: &mut Vec<String>, name: String) {
    if !names.contains(&name) {
        names.push(name);
    }
}

/// Where the values of the original parameters come from.
pub type Originals<'a> = &'a dyn Fn(ParamId) -> ArrayD<f64>;

/// A value with the names of its axes.
struct Named {
    axes: Vec<String>,
    data: ArrayD<f64>,
}

/// The value of an expression with its axes in this order; extents of axes it does not have are taken from `sizes`.
pub fn prepare(expr: &Expr, originals: Originals<'_>, axes: &[(String, usize)]) -> ArrayD<f64> {
    let names: Vec<String> = axes.iter().map(|(n, _)| n.clone()).collect();
    let aligned = align(eval(expr, originals), &names);
    let shape: Vec<usize> = axes.iter().map(|(_, s)| *s).collect();
    // Windows of extent 1 that a composed weight no longer has come back here.
    let whole = match aligned.broadcast(IxDyn(&shape)) {
        Some(wide) if wide.len() > aligned.len() => wide.to_owned(),
        _ => aligned,
    };
    // In order in memory, too: walking a permuted array element by element takes longer than all the rest.
    if whole.is_standard_layout() { whole } else { whole.as_standard_layout().into_owned() }
}

fn eval(expr: &Expr, originals: Originals<'_>) -> Named {
    match expr {
        Expr::Const(c) => Named { axes: vec![], data: ArrayD::from_elem(IxDyn(&[]), *c) },
        Expr::List(numbers, axis) => Named { axes: vec![axis.clone()], data: ndarray::Array1::from(numbers.clone()).into_dyn() },
        Expr::Ones(axes) => {
            let (axes, shape): (Vec<String>, Vec<usize>) = axes.iter().cloned().unzip();
            Named { axes, data: ArrayD::ones(IxDyn(&shape)) }
        }
        Expr::Then(first, next, stride) => then(eval(first, originals), eval(next, originals), *stride),
        Expr::Param(id, axes) => {
            let mut data = originals(*id);
            // A window of extent 1 may be left unnamed.
            while data.ndim() > axes.len() && data.shape().last() == Some(&1) {
                let last = At(data.ndim() - 1);
                data = data.index_axis_move(last, 0);
            }
            Named { axes: axes.clone(), data }
        }
        Expr::Add(a, b) => both(a, b, originals, |x, y| x + y),
        Expr::Sub(a, b) => both(a, b, originals, |x, y| x - y),
        Expr::Mul(a, b) => both(a, b, originals, |x, y| x * y),
        Expr::Div(a, b) => both(a, b, originals, |x, y| x / y),
        Expr::Sqrt(a) => each(eval(a, originals), f64::sqrt),
        Expr::Sign(a, b) => both(a, b, originals, |a, b| if is_nothing(a, b) { 0.0 } else { a.signum() }),
        Expr::Magnitude(a, b) => both(a, b, originals, |a, b| if is_nothing(a, b) { 1.0 } else { a.abs() }),
        Expr::Sum(a, axes) => {
            let mut a = eval(a, originals);
            for axis in axes {
                if let Some(at) = a.axes.iter().position(|n| n == axis) {
                    a.data = a.data.sum_axis(At(at));
                    a.axes.remove(at);
                }
            }
            a
        }
        Expr::Rename(a, from, to) => {
            let mut a = eval(a, originals);
            a.axes.iter_mut().filter(|n| *n == from).for_each(|n| n.clone_from(to));
            a
        }
    }
}

fn is_nothing(a: f64, b: f64) -> bool {
    a.abs() <= b.abs() * NOTHING
}

fn each(mut a: Named, f: impl Fn(f64) -> f64) -> Named {
    a.data.mapv_inplace(f);
    a
}

fn both(a: &Expr, b: &Expr, originals: Originals<'_>, f: impl Fn(f64, f64) -> f64) -> Named {
    let (a, b) = (eval(a, originals), eval(b, originals));
    let mut axes = a.axes.clone();
    axes.extend(b.axes.iter().filter(|n| !a.axes.contains(n)).cloned());
    let (mut x, y) = (align(a, &axes), align(b, &axes));
    let shape: Vec<usize> = x.shape().iter().zip(y.shape()).map(|(a, b)| *a.max(b)).collect();
    if x.shape() != shape {
        x = x.broadcast(IxDyn(&shape)).map_or_else(|| x.clone(), |w| w.to_owned());
    }
    if let Some(y) = y.broadcast(IxDyn(&shape)) {
        x.zip_mut_with(&y, |x, y| *x = f(*x, *y));
    }
    Named { axes, data: x }
}

/// The value with its axes in this order, extent 1 where it has none.
fn align(a: Named, axes: &[String]) -> ArrayD<f64> {
    let order: Vec<usize> = axes.iter().filter_map(|n| a.axes.iter().position(|m| m == n)).collect();
    let mut data = a.data.permuted_axes(IxDyn(&order));
    for (i, name) in axes.iter().enumerate() {
        if !a.axes.contains(name) {
            data = data.insert_axis(At(i));
        }
    }
    data
}

const TAPS: [&str; 2] = ["kh", "kw"];

/// See [`Expr::Then`].
fn then(mut first: Named, mut next: Named, stride: [usize; 2]) -> Named {
    // A window of extent 1 is left out again, where neither has one.
    let windowed = first.axes.iter().any(|n| n == "kh") || !first.axes.iter().any(|n| n == "mid");
    for part in [&mut first, &mut next] {
        for tap in TAPS {
            if !part.axes.iter().any(|n| n == tap) {
                part.axes.push(tap.to_owned());
                part.data = part.data.clone().insert_axis(At(part.data.ndim()));
            }
        }
    }
    let size = |named: &Named, tap: &str| named.axes.iter().position(|n| n == tap).map_or(1, |i| named.data.shape()[i]);
    let extents = [0, 1].map(|i| size(&first, TAPS[i]) + (size(&next, TAPS[i]) - 1) * stride[i]);
    let mut whole: Option<Named> = None;
    for u in ndarray::indices([size(&next, "kh"), size(&next, "kw")]) {
        let (uh, uw) = u;
        let mut part = Named { axes: next.axes.clone(), data: next.data.clone() };
        for (tap, at) in [("kh", uh), ("kw", uw)] {
            if let Some(axis) = part.axes.iter().position(|n| n == tap) {
                part.data = part.data.index_axis_move(At(axis), at);
                part.axes.remove(axis);
            }
        }
        let product = contract(&part, &first, "mid");
        let result = whole.get_or_insert_with(|| {
            let shape: Vec<usize> = product
                .axes
                .iter()
                .zip(product.data.shape())
                .map(|(n, size)| match n.as_str() {
                    "kh" => extents[0],
                    "kw" => extents[1],
                    _ => *size,
                })
                .collect();
            Named { axes: product.axes.clone(), data: ArrayD::zeros(IxDyn(&shape)) }
        });
        let axes = product.axes.clone();
        let mut place = result.data.slice_each_axis_mut(|d| match axes[d.axis.index()].as_str() {
            "kh" => (uh * stride[0]..uh * stride[0] + size(&first, "kh")).into(),
            "kw" => (uw * stride[1]..uw * stride[1] + size(&first, "kw")).into(),
            _ => (..).into(),
        });
        place += &product.data;
    }
    let mut whole = whole.unwrap_or(first);
    for tap in TAPS {
        let at = whole.axes.iter().position(|n| n == tap);
        let point = at.is_some_and(|at| whole.data.shape()[at] == 1);
        if let (Some(at), true) = (at, point && !windowed) {
            whole.data = whole.data.index_axis_move(At(at), 0);
            whole.axes.remove(at);
        }
    }
    whole
}

/// Σ over an axis of a · b, as a product of matrices; all other axes are one's own. Without that axis, every a with every b.
fn contract(a: &Named, b: &Named, over: &str) -> Named {
    let matrix = |named: &Named, last: bool| {
        let at = named.axes.iter().position(|n| n == over);
        let mut order: Vec<usize> = (0..named.axes.len()).filter(|i| Some(*i) != at).collect();
        let axes: Vec<String> = order.iter().map(|i| named.axes[*i].clone()).collect();
        let shape: Vec<usize> = order.iter().map(|i| named.data.shape()[*i]).collect();
        match (at, last) {
            (Some(at), true) => order.push(at),
            (Some(at), false) => order.insert(0, at),
            (None, _) => {}
        }
        let rows: usize = shape.iter().product();
        let summed = at.map_or(1, |at| named.data.shape()[at]);
        let values: Vec<f64> = named.data.view().permuted_axes(IxDyn(&order)).iter().copied().collect();
        let dims = if last { (rows, summed) } else { (summed, rows) };
        (axes, shape, Array2::from_shape_vec(dims, values).unwrap_or_else(|_| Array2::zeros(dims)))
    };
    let ((mut axes, mut shape, left), (more, other, right)) = (matrix(a, true), matrix(b, false));
    axes.extend(more);
    shape.extend(other);
    let product = left.dot(&right).into_dyn();
    let data = product.into_shape_with_order(IxDyn(&shape)).unwrap_or_else(|_| ArrayD::zeros(IxDyn(&shape)));
    Named { axes, data }
}
