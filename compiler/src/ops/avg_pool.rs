//! The mean of windows over `H` and `W`.

use super::conv::{read_pool, windowed};
use super::max_pool::{out_shape, taps};
use super::*;
use crate::flow::{Def, Scalar, Window};
use crate::types::Kind;

/// `avg_pool(kernel = 2, stride = 2)`; padding counts, so every window is divided by its full area.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AvgPool {
    /// Geometry.
    pub window: Window,
    /// A sum instead; what a mean becomes when its factor is folded away.
    pub sum: bool,
}

impl AvgPool {
    fn area(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    fn factor(&self) -> f64 {
        if self.sum { 1.0 } else { 1.0 / self.area() as f64 }
    }
}

impl Operator for AvgPool {
    fn read(args: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        Ok(AvgPool { window: read_pool(args, None)?, sum: false })
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let axes = windowed(&self.window, &inputs[0])?;
        if inputs[0].kind <= Kind::Count {
            let bound = inputs[0].bound.saturating_mul(self.area() as u64);
            return Ok(Signal { kind: Kind::Count, axes, bound, ..inputs[0].clone() });
        }
        Ok(inputs[0].with_axes(axes))
    }

    fn linearity(&self) -> Linearity {
        Linearity::WindowSum(Some(self.window))
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        if self.sum { vec![] } else { vec![Multiplication::Factor { axes: vec![], value: Some(self.factor()) }] }
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let x = e.inputs[0];
        ArrayD::from_shape_fn(out_shape(x.shape(), e), |place| {
            let mut sum = F::zero();
            taps(&self.window, e.signals[0], x.shape(), &place, |source| sum += x[source]);
            sum * real(self.factor())
        })
        .into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let x = e.inputs[0];
        let mut dx = ArrayD::zeros(x.raw_dim());
        for (place, &g) in grad.indexed_iter() {
            taps(&self.window, e.signals[0], x.shape(), &place, |source| dx[source] += g * real(self.factor()));
        }
        Grads { inputs: vec![dx], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        let sum = cx.flow.push(Def::Pool { input: cx.inputs[0], max: false, window: self.window }, dims);
        match (self.sum, cx.train) {
            (true, _) => sum,
            (false, true) => cx.flow.map(&[sum], Scalar::Arg(0) * self.factor()),
            (false, false) => cx.flow.map(&[sum], Scalar::Arg(0).scaled(self.factor())),
        }
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        if cx.wanted[0] {
            let dims = cx.flow.dims(cx.inputs[0]).clone();
            let def = Def::PoolGrad { input: cx.inputs[0], grad: cx.grad, max: false, window: self.window };
            let grad = cx.flow.push(def, dims);
            let grad = cx.flow.map(&[grad], Scalar::Arg(0) * self.factor());
            cx.input_grad(0, grad);
        }
    }
}
