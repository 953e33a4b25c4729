//! A constant factor.

use super::*;
use crate::flow::Scalar;
use crate::types::Kind;

/// `x * 0.125`, `x / 8`, `-x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// The factor.
    pub factor: f64,
}

impl Operator for Scale {
    fn read(_: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        Ok(Scale { factor: 1.0 })
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let kind = inputs[0].kind.max(Kind::Current);
        Ok(Signal::real(kind, inputs[0].axes.clone(), inputs[0].varies))
    }

    fn linearity(&self) -> Linearity {
        Linearity::Affine
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![Multiplication::Factor { axes: vec![], value: Some(self.factor) }]
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        (e.inputs[0] * real::<F>(self.factor)).into()
    }

    fn vjp<F: Real>(&self, _: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        Grads { inputs: vec![grad * real::<F>(self.factor)], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        cx.map(if cx.train { Scalar::Arg(0) * self.factor } else { Scalar::Arg(0).scaled(self.factor) })
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        cx.input_map(0, &[cx.grad], Scalar::Arg(0) * self.factor);
    }
}
