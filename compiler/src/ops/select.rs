//! A constant where there is a spike: what an amplitude or a mean's factor becomes when no weight or neuron takes it.

use super::*;
use crate::flow::{Cmp, Def, Scalar};
use crate::types::Kind;

/// The axis of constants that differ between time steps.
pub const STEPS: &str = "step";

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
        Ok(Signal::real(Kind::Current, inputs[0].axes.clone(), inputs[0].varies))
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![]
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let at: Vec<Option<usize>> = self.axes.iter().map(|a| e.signals[0].position(&a.name)).collect();
        let mut out = e.inputs[0].clone();
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
        let selected = |worth| Scalar::Arg(0).select(Cmp::Eq, Scalar::Const(0.0), Scalar::Const(0.0), worth);
        let Some(steps) = self.axes.iter().find(|a| a.name == STEPS).filter(|_| dims.time) else {
            return cx.flow.map_to(&[cx.inputs[0], cx.params[0]], selected(Scalar::Arg(1)), dims);
        };
        // The step at hand is counted, so that steps can be run one by one; each picks its own constant.
        let mut inputs = vec![cx.inputs[0]];
        let mut worth = Scalar::Const(0.0);
        for step in 0..steps.size {
            let mut part = cx.flow.dims(cx.params[0]).clone();
            part.axes.iter_mut().filter(|a| a.name == STEPS).for_each(|a| a.size = 1);
            let slice = cx.flow.push(Def::Slice { of: cx.params[0], axis: STEPS.into(), start: step }, part);
            inputs.push(cx.flow.reshape(slice, &[STEPS.to_owned()], vec![]));
            worth = Scalar::State(0).select(Cmp::Eq, Scalar::Const(step as f64), Scalar::Arg(1 + step), worth);
        }
        let next = vec![Scalar::State(0) + 1.0];
        cx.flow.push(Def::Scan { inputs, init: vec![0.0], next, outputs: vec![selected(worth)], reverse: false }, dims)
    }

    fn backward(&self, _: &mut Backward<'_>) {}
}
