//! A constant where there is a spike: what an amplitude or a mean's factor becomes when no weight or neuron takes it.

use super::*;
use crate::flow::{Cmp, Scalar};
use crate::types::{Kind, STEPS};

/// c where the operand is 1, and 0 where it is 0. The parameter c varies over some of the operand's axes, and
/// over time steps if [`STEPS`] is among them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Select {
    /// Axes of the constants.
    pub axes: Vec<Axis>,
}

impl Operator for Select {
    fn read(_: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        Err(Problem::new("build::type", "a selection cannot be written"))
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let steps = self.axes.iter().any(|a| a.name == STEPS);
        Ok(Signal::real(Kind::Current, inputs[0].axes.clone(), inputs[0].varies || steps))
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![]
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let at: Vec<Option<usize>> = self.axes.iter().map(|a| e.signals[0].position(&a.name)).collect();
        let steps = if e.out.varies { e.time } else { 1 };
        let mut out = concat::over_time(e.inputs[0], steps);
        for (place, x) in out.indexed_iter_mut() {
            let index: Vec<usize> = at.iter().map(|a| a.map_or(place[0], |a| place[2 + a])).collect();
            *x = if *x == F::zero() { F::zero() } else { e.params[0][index.as_slice()] };
        }
        out.into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        // A folded program is not trained: nothing passes.
        Grads { inputs: vec![ArrayD::zeros(grad.raw_dim())], params: vec![None; e.params.len()] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        let selected = Scalar::Arg(0).select(Cmp::Eq, Scalar::Const(0.0), Scalar::Const(0.0), Scalar::Arg(1));
        cx.flow.map_to(&[cx.inputs[0], cx.params[0]], selected, dims)
    }

    fn backward(&self, _: &mut Backward<'_>) {}
}
