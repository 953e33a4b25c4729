//! The logistic function.

use super::*;
use crate::flow::{Scalar, Un};
use crate::types::Kind;

/// `sigmoid(x)`: 1 / (1 + e^-x).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sigmoid;

impl Operator for Sigmoid {
    fn read(_: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        Ok(Sigmoid)
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let kind = inputs[0].kind.max(Kind::Current);
        Ok(Signal::real(kind, inputs[0].axes.clone(), inputs[0].varies))
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![Multiplication::Transcendental("sigmoid")]
    }

    fn work(&self, _: &[Signal], out: &Signal) -> u64 {
        out.elements() as u64
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        e.inputs[0].mapv(|x| F::one() / (F::one() + (-x).exp())).into()
    }

    fn vjp<F: Real>(&self, _: &Eval<'_, F>, value: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        Grads { inputs: vec![grad * &value.mapv(|y| y * (F::one() - y))], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        cx.map(Scalar::Const(1.0) / ((-Scalar::Arg(0)).un(Un::Exp) + 1.0))
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let y = Scalar::Arg(0);
        cx.input_map(0, &[cx.value, cx.grad], y.clone() * (Scalar::Const(1.0) - y) * Scalar::Arg(1));
    }
}
