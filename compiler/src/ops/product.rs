//! Products of two signals, element by element.

use super::add::same_axes;
use super::*;
use crate::flow::{Cmp, Scalar};
use crate::types::Kind;
use ndarray::Axis as At;

/// `a * b`; with a spike it is a selection of the other operand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Product;

impl Operator for Product {
    fn read(_: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        Ok(Product)
    }

    fn arity() -> std::ops::RangeInclusive<usize> {
        2..=2
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        // A gate may lack axes of what it gates.
        let lacks = |a: &Signal, b: &Signal| a.axes.len() < b.axes.len() && a.axes.iter().all(|x| b.axes.contains(x));
        let inputs: Vec<Signal> = inputs.iter().map(Signal::beside_others).collect();
        let axes = match inputs.as_slice() {
            [a, b] if lacks(a, b) => b.axes.clone(),
            [a, b] if lacks(b, a) => a.axes.clone(),
            _ => same_axes(&inputs, "multiplied")?,
        };
        let varies = inputs.iter().any(|s| s.varies);
        Ok(match (inputs[0].kind, inputs[1].kind) {
            (Kind::Spike, _) => Signal { axes, varies, ..inputs[1].clone() },
            (_, Kind::Spike) => Signal { axes, varies, ..inputs[0].clone() },
            (a, b) => Signal::real(a.max(b).max(Kind::Current), axes, varies),
        })
    }

    fn linearity(&self) -> Linearity {
        Linearity::Each
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![Multiplication::Signals]
    }

    fn work(&self, _: &[Signal], out: &Signal) -> u64 {
        out.elements() as u64
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let [a, b] = [0, 1].map(|i| self.wide(e, i));
        (a * b).into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let [a, b] = [0, 1].map(|i| self.wide(e, i));
        Grads { inputs: vec![self.narrow(e, 0, grad * &b), self.narrow(e, 1, grad * &a)], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let spikes: Vec<bool> = cx.signals.iter().map(|s| s.beside_others().kind == Kind::Spike).collect();
        let (spike, other) = match spikes[..] {
            [_, true] => (1, 0),
            [true, _] => (0, 1),
            _ => return cx.map(Scalar::Arg(0) * Scalar::Arg(1)),
        };
        // The other one where there is a spike: a comparison, no multiplication.
        let selected = Scalar::Arg(spike).select(Cmp::Gt, Scalar::Const(0.0), Scalar::Arg(other), Scalar::Const(0.0));
        let product = cx.map(selected);
        cx.flow.tensors[product.index()].spikes = spikes == [true, true];
        product
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        for (i, other) in [(0, 1), (1, 0)] {
            cx.input_map(i, &[cx.grad, cx.inputs[other]], Scalar::Arg(0) * Scalar::Arg(1));
        }
    }
}

impl Product {
    /// The axes of the result that an operand lacks, as places in a reference array.
    fn missing<F: Real>(e: &Eval<'_, F>, i: usize) -> Vec<usize> {
        (0..e.out.axes.len()).filter(|k| e.signals[i].size(&e.out.axes[*k].name).is_none()).map(|k| 2 + k).collect()
    }

    /// An operand as large as the result.
    fn wide<F: Real>(&self, e: &Eval<'_, F>, i: usize) -> ArrayD<F> {
        let steps = e.inputs.iter().map(|a| a.shape()[0]).max().unwrap_or(1);
        let kept = Self::missing(e, i).into_iter().fold(e.inputs[i].clone(), |a, at| a.insert_axis(At(at)));
        let shape: Vec<usize> = [steps, kept.shape()[1]].into_iter().chain(e.out.axes.iter().map(|a| a.size)).collect();
        kept.broadcast(shape).map_or_else(|| kept.clone(), |v| v.to_owned())
    }

    /// A gradient summed over the axes that an operand lacks.
    fn narrow<F: Real>(&self, e: &Eval<'_, F>, i: usize, grad: ArrayD<F>) -> ArrayD<F> {
        Self::missing(e, i).into_iter().rev().fold(grad, |g, at| g.sum_axis(At(at)))
    }
}
