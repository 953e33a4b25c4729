//! Means of as many windows as the result has places.

use super::linear::no_axis;
use super::*;
use crate::flow::{Def, Flow, Scalar, Window};
use crate::types::Kind;
use ndarray::{Axis as At, Slice};

/// `adaptive_avg_pool(H = 7, W = 7)`: place i of n is the mean over ⌊i·s/n⌋ to ⌈(i+1)·s/n⌉ of s places (PyTorch's
/// `AdaptiveAvgPool2d`). Where the result is larger, places are repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdaptiveAvgPool {
    /// Extents of the operand: `H`, `W`.
    pub from: [usize; 2],
    /// Extents of the result.
    pub to: [usize; 2],
    /// A sum instead; what a mean becomes when its factor is folded away.
    pub sum: bool,
}

const AXES: [&str; 2] = ["H", "W"];

/// First place and one past the last.
type Span = (usize, usize);

/// The places of the operand that each place of the result is the mean of.
fn spans(from: usize, to: usize) -> Vec<Span> {
    (0..to).map(|i| (i * from / to, ((i + 1) * from).div_ceil(to))).collect()
}

/// The places of the result that each place of the operand counts for.
fn readers(from: usize, to: usize) -> Vec<Span> {
    let spans = spans(from, to);
    let first = |at: usize| spans.iter().position(|(_, end)| *end > at).unwrap_or(0);
    let last = |at: usize| spans.iter().rposition(|(start, _)| *start <= at).unwrap_or(0);
    (0..from).map(|at| (first(at), last(at) + 1)).collect()
}

impl AdaptiveAvgPool {
    /// The axes along which anything happens.
    fn along(&self) -> impl Iterator<Item = usize> + use<> {
        let (from, to) = (self.from, self.to);
        (0..2).filter(move |i| from[*i] != to[*i])
    }

    /// The extent of every window along an axis, if they are the same.
    fn length(&self, axis: usize) -> Option<usize> {
        let spans = spans(self.from[axis], self.to[axis]);
        let length = |s: &Span| s.1 - s.0;
        spans.first().map(length).filter(|l| spans.iter().all(|s| length(s) == *l))
    }

    /// How many places every window has, if they are as many.
    fn area(&self) -> Option<usize> {
        Some(self.length(0)? * self.length(1)?)
    }

    /// Divides every place along an axis by the extent of its window.
    fn divide(&self, flow: &mut Flow, x: FlowId, axis: usize) -> FlowId {
        match self.length(axis) {
            _ if self.sum => x,
            Some(1) => x,
            Some(n) => flow.map(&[x], Scalar::Arg(0).scaled(1.0 / n as f64)),
            None => {
                let each = spans(self.from[axis], self.to[axis]);
                let parts = each.iter().enumerate().map(|(i, (start, end))| {
                    let part = slice(flow, x, AXES[axis], (i, i + 1));
                    flow.map(&[part], Scalar::Arg(0) * (1.0 / (end - start) as f64))
                });
                let parts = parts.collect();
                side_by_side(flow, parts, AXES[axis])
            }
        }
    }
}

fn slice(flow: &mut Flow, of: FlowId, axis: &str, (start, end): Span) -> FlowId {
    let mut dims = flow.dims(of).clone();
    dims.axes.iter_mut().filter(|a| a.name == axis).for_each(|a| a.size = end - start);
    if dims == *flow.dims(of) { of } else { flow.push(Def::Slice { of, axis: axis.to_owned(), start }, dims) }
}

fn side_by_side(flow: &mut Flow, parts: Vec<FlowId>, axis: &str) -> FlowId {
    let mut dims = flow.dims(parts[0]).clone();
    let size = parts.iter().map(|p| flow.dims(*p).axis(axis).map_or(0, |a| a.size)).sum();
    dims.axes.iter_mut().filter(|a| a.name == axis).for_each(|a| a.size = size);
    if parts.len() == 1 { parts[0] } else { flow.push(Def::Concat { parts, axis: axis.to_owned() }, dims) }
}

/// The sums over spans of an axis, side by side.
fn sums(flow: &mut Flow, x: FlowId, axis: usize, spans: &[Span]) -> FlowId {
    let size = flow.dims(x).axis(AXES[axis]).map_or(1, |a| a.size);
    if spans.iter().copied().eq((0..size).map(|i| (i, i + 1))) {
        return x;
    }
    let parts = spans.iter().map(|span| {
        let part = slice(flow, x, AXES[axis], *span);
        if span.1 - span.0 == 1 {
            return part;
        }
        let mut window = Window { kernel: [1, 1], stride: [1, 1], pad: [0, 0] };
        window.kernel[axis] = span.1 - span.0;
        let mut dims = flow.dims(part).clone();
        dims.axes.iter_mut().filter(|a| a.name == AXES[axis]).for_each(|a| a.size = 1);
        flow.push(Def::Pool { input: part, max: false, window }, dims)
    });
    let parts = parts.collect();
    side_by_side(flow, parts, AXES[axis])
}

impl Operator for AdaptiveAvgPool {
    fn read(args: &mut Arguments, inputs: &[Signal]) -> Result<Self, Problem> {
        let size = |axis| inputs[0].size(axis).ok_or_else(|| no_axis(&inputs[0], axis));
        let from = [size("H")?, size("W")?];
        let to = [args.required_int("H", 1)?, args.required_int("W", 1)?];
        Ok(AdaptiveAvgPool { from, to, sum: false })
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let signal = &inputs[0];
        let mut axes = signal.axes.clone();
        for (name, size) in AXES.iter().zip(self.to) {
            axes.iter_mut().filter(|a| a.name == *name).for_each(|a| a.size = size);
        }
        Ok(match self.area() {
            Some(1) => signal.with_axes(axes),
            Some(n) if signal.kind <= Kind::Count => {
                let bound = signal.bound.saturating_mul(n as u64);
                Signal { kind: Kind::Count, axes, bound, ..signal.clone() }
            }
            _ => Signal::real(signal.kind.max(Kind::Current), axes, signal.varies),
        })
    }

    fn linearity(&self) -> Linearity {
        match self.area() {
            _ if self.from == self.to => Linearity::Identity,
            Some(1) => Linearity::View(self.along().map(|i| AXES[i].to_owned()).collect()),
            Some(_) => Linearity::WindowSum(None),
            None => Linearity::None,
        }
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        match self.area() {
            _ if self.sum => vec![],
            Some(1) => vec![],
            Some(n) => vec![Multiplication::Factor { axes: vec![], value: Some(1.0 / n as f64) }],
            None => vec![Multiplication::Transcendental("a mean over windows of unequal extents")],
        }
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let mut value = e.inputs[0].clone();
        for i in self.along() {
            let at = At(2 + e.signals[0].position(AXES[i]).unwrap_or(0));
            let means = spans(self.from[i], self.to[i]).into_iter().map(|(start, end)| {
                let sum = value.slice_axis(at, Slice::from(start..end)).sum_axis(at);
                let length = if self.sum { 1.0 } else { (end - start) as f64 };
                (sum / real::<F>(length)).insert_axis(at)
            });
            let means: Vec<ArrayD<F>> = means.collect();
            let views: Vec<_> = means.iter().map(|m| m.view()).collect();
            value = ndarray::concatenate(at, &views).unwrap_or_else(|_| value.clone());
        }
        value.into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let mut grad = grad.clone();
        for i in self.along() {
            let at = At(2 + e.signals[0].position(AXES[i]).unwrap_or(0));
            let mut shape = grad.shape().to_vec();
            shape[at.0] = self.from[i];
            let mut dx = ArrayD::zeros(shape);
            for (j, (start, end)) in spans(self.from[i], self.to[i]).into_iter().enumerate() {
                let length = if self.sum { 1.0 } else { (end - start) as f64 };
                let part = grad.index_axis(at, j).to_owned() / real::<F>(length);
                for place in start..end {
                    let mut row = dx.index_axis_mut(at, place);
                    row += &part;
                }
            }
            grad = dx;
        }
        Grads { inputs: vec![grad], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let spikes = cx.flow.get(cx.inputs[0]).spikes && self.area() == Some(1);
        let mut value = cx.inputs[0];
        for axis in self.along() {
            value = sums(cx.flow, value, axis, &spans(self.from[axis], self.to[axis]));
            value = self.divide(cx.flow, value, axis);
        }
        if value != cx.inputs[0] {
            cx.flow.tensors[value.index()].spikes = spikes;
        }
        value
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        if !cx.wanted[0] {
            return;
        }
        let mut grad = cx.grad;
        for axis in self.along() {
            grad = self.divide(cx.flow, grad, axis);
            grad = sums(cx.flow, grad, axis, &readers(self.from[axis], self.to[axis]));
        }
        cx.input_grad(0, grad);
    }
}
