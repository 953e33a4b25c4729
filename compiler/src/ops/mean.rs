//! Means over named axes, and over time at the output.

use super::linear::no_axis;
use super::*;
use crate::flow::Scalar;
use crate::types::Kind;
use ndarray::Axis as At;

/// `mean(H, W)`: the mean over the named axes; `T` may be one of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The axes, `T` not among them.
    pub axes: Vec<String>,
    /// Over time steps too.
    pub time: bool,
    /// How many values one mean is taken over, time steps included if the operand varies.
    pub count: usize,
    /// A sum instead; what a mean becomes when its factor is folded away.
    pub sum: bool,
}

impl Operator for Mean {
    fn read(args: &mut Arguments, inputs: &[Signal]) -> Result<Self, Problem> {
        let mut mean = Mean { axes: vec![], time: false, count: 1, sum: false };
        for (name, span) in args.plain_axes()? {
            if name == "T" {
                if mean.time {
                    return Err(Problem::new("shape::axis", "axis `T` is named twice").at(span));
                }
                mean.time = true;
                mean.count = mean.count.saturating_mul(if inputs[0].varies { args.time } else { 1 });
                continue;
            }
            let size = inputs[0].size(&name).ok_or_else(|| no_axis(&inputs[0], &name).at(span))?;
            if mean.axes.contains(&name) {
                return Err(Problem::new("shape::axis", format!("axis `{name}` is named twice")).at(span));
            }
            mean.count = mean.count.saturating_mul(size);
            mean.axes.push(name);
        }
        if mean.axes.is_empty() && !mean.time {
            return Err(Problem::new("build::missing_argument", "the axes are missing").help("for example `mean(H, W)`"));
        }
        Ok(mean)
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let signal = &inputs[0];
        let axes: Vec<Axis> = signal.axes.iter().filter(|a| !self.axes.contains(&a.name)).cloned().collect();
        let varies = signal.varies && !self.time;
        if signal.kind <= Kind::Count {
            let bound = signal.bound.saturating_mul(self.count as u64);
            return Ok(Signal { kind: Kind::Count, axes, varies, bound });
        }
        Ok(Signal::real(signal.kind, axes, varies))
    }

    fn linearity(&self) -> Linearity {
        let time = self.time.then(|| "T".to_owned());
        Linearity::Sum(self.axes.iter().cloned().chain(time).collect())
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        if self.sum { vec![] } else { vec![Multiplication::Factor { axes: vec![], value: Some(1.0 / self.count as f64) }] }
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let mut value = e.inputs[0].clone();
        for name in &self.axes {
            let at = 2 + e.signals[0].position(name).unwrap_or(0);
            value = value.sum_axis(At(at)).insert_axis(At(at));
        }
        // A static operand is one value, not T: its mean over T is itself.
        if self.time {
            value = value.sum_axis(At(0)).insert_axis(At(0));
        }
        let shape: Vec<usize> =
            [value.shape()[0], value.shape()[1]].into_iter().chain(e.out.axes.iter().map(|a| a.size)).collect();
        let value = value.into_shape_with_order(shape).unwrap_or_else(|_| ArrayD::zeros(vec![]));
        (value * self.weight::<F>()).into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let mut shape = grad.shape().to_vec();
        let mut grad = grad * self.weight::<F>();
        for (i, axis) in e.signals[0].axes.iter().enumerate() {
            if self.axes.contains(&axis.name) {
                grad = grad.insert_axis(At(2 + i));
                shape.insert(2 + i, axis.size);
            }
        }
        shape[0] = if self.time { e.inputs[0].shape()[0] } else { shape[0] };
        let grad = grad.broadcast(shape).map_or_else(|| grad.clone(), |v| v.to_owned());
        Grads { inputs: vec![grad], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        let sum = cx.flow.sum_to(cx.inputs[0], &dims);
        let factor = 1.0 / self.count as f64;
        match (self.sum, cx.train) {
            (true, _) => sum,
            (false, true) => cx.flow.map(&[sum], Scalar::Arg(0) * factor),
            (false, false) => cx.flow.map(&[sum], Scalar::Arg(0).scaled(factor)),
        }
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let dims = cx.flow.dims(cx.inputs[0]).clone();
        if cx.wanted[0] {
            let factor = if self.sum { 1.0 } else { 1.0 / self.count as f64 };
            let grad = cx.flow.map_to(&[cx.grad], Scalar::Arg(0) * factor, dims);
            cx.input_grad(0, grad);
        }
    }
}

impl Mean {
    fn weight<F: Real>(&self) -> F {
        real(if self.sum { 1.0 } else { 1.0 / self.count as f64 })
    }
}
