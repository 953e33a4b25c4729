//! The rectifier.

use super::*;
use crate::flow::{Bin, Cmp, Scalar};
use crate::types::Kind;

/// `relu(x)`: max(x, 0); a comparison, but its result is real.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relu;

impl Operator for Relu {
    fn read(_: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        Ok(Relu)
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let kind = inputs[0].kind.max(Kind::Current);
        Ok(Signal::real(kind, inputs[0].axes.clone(), inputs[0].varies))
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![]
    }

    fn selection(&self) -> Selection {
        Selection::Maximum
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        e.inputs[0].mapv(|x| x.max(F::zero())).into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let passes = e.inputs[0].mapv(|x| if x > F::zero() { F::one() } else { F::zero() });
        Grads { inputs: vec![grad * &passes], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        cx.map(Scalar::Arg(0).bin(Bin::Max, Scalar::Const(0.0)))
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let (zero, x, g) = (Scalar::Const(0.0), Scalar::Arg(0), Scalar::Arg(1));
        cx.input_map(0, &[cx.inputs[0], cx.grad], x.select(Cmp::Gt, zero.clone(), g, zero));
    }
}
