//! A constant factor for every time step: what a fold puts behind the encoder where the rest is held in tables.

use super::*;
use crate::flow::Scalar;

/// y_t = c_t x_t; the one parameter is c, `[step]`. In the encoder, which may multiply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ramp;

impl Operator for Ramp {
    fn read(_: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        Err(Problem::new("build::type", "a ramp cannot be written"))
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        Ok(Signal::real(inputs[0].kind.max(crate::types::Kind::Current), inputs[0].axes.clone(), true))
    }

    fn linearity(&self) -> Linearity {
        Linearity::Affine
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![Multiplication::Factor { axes: vec![crate::types::STEPS.into()], value: None }]
    }

    fn work(&self, _: &[Signal], out: &Signal) -> u64 {
        out.elements() as u64
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let mut out = concat::over_time(e.inputs[0], e.time);
        for (mut step, c) in out.outer_iter_mut().zip(e.params[0]) {
            step.mapv_inplace(|x| x * *c);
        }
        out.into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, _: &ArrayD<F>) -> Grads<F> {
        // A folded program is not trained: nothing passes.
        Grads { inputs: vec![ArrayD::zeros(e.inputs[0].raw_dim())], params: vec![None] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        cx.flow.map_to(&[cx.inputs[0], cx.params[0]], Scalar::Arg(0) * Scalar::Arg(1), dims)
    }

    fn backward(&self, _: &mut Backward<'_>) {}
}
