//! Products of two signals, element by element.

use super::add::same_axes;
use super::*;
use crate::flow::{Cmp, Scalar};
use crate::types::Kind;

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
        let axes = same_axes(inputs, "multiplied")?;
        let varies = inputs.iter().any(|s| s.varies);
        Ok(match (inputs[0].kind, inputs[1].kind) {
            (Kind::Spike, _) => Signal { axes, varies, ..inputs[1].clone() },
            (_, Kind::Spike) => Signal { axes, varies, ..inputs[0].clone() },
            (a, b) => Signal::real(a.max(b).max(Kind::Current), axes, varies),
        })
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![Multiplication::Signals]
    }

    fn work(&self, _: &[Signal], out: &Signal) -> u64 {
        out.elements() as u64
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let (a, b) = (e.inputs[0], e.inputs[1]);
        if a.shape()[0] >= b.shape()[0] { (a * b).into() } else { (b * a).into() }
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        Grads { inputs: vec![grad * e.inputs[1], grad * e.inputs[0]], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let spikes: Vec<bool> = cx.signals.iter().map(|s| s.kind == Kind::Spike).collect();
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
