//! Means over named axes, and over time at the output.

use super::linear::no_axis;
use super::*;
use crate::flow::Scalar;
use crate::types::{Kind, STEPS};
use ndarray::Axis as At;

/// `mean(H, W)`: the mean over the named axes; `T` may be one of them. `mean(T, decay = β)` weighs the last step most:
/// Σ β^(T-t) x_t / Σ β^(T-t) (DSR, Meng et al. 2022: its weighted firing rate).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The axes, `T` not among them.
    pub axes: Vec<String>,
    /// Over time steps too.
    pub time: bool,
    /// The weight of a step, as part of the step's after it; 1 for the mean.
    pub decay: f64,
    /// Time steps of the operand that are taken together: T, or 1.
    pub steps: usize,
    /// How many values one mean is taken over, time steps included if the operand varies and none decays.
    pub count: usize,
    /// A sum instead; what a mean becomes when its factor is folded away.
    pub sum: bool,
}

impl Operator for Mean {
    fn read(args: &mut Arguments, inputs: &[Signal]) -> Result<Self, Problem> {
        let decay = args.float("decay")?;
        if let Some(beta) = decay.filter(|d| !(*d > 0.0 && *d <= 1.0)) {
            return Err(Problem::new("build::value", format!("`decay` is {beta}, but must lie above 0 and be at most 1")));
        }
        let mut mean = Mean { axes: vec![], time: false, decay: 1.0, steps: 1, count: 1, sum: false };
        for (name, span) in args.plain_axes()? {
            if name == "T" {
                if mean.time {
                    return Err(Problem::new("shape::axis", "axis `T` is named twice").at(span));
                }
                mean.time = true;
                if inputs[0].varies {
                    (mean.decay, mean.steps) = (decay.unwrap_or(1.0), args.time);
                }
                mean.count = mean.count.saturating_mul(if mean.decay == 1.0 { mean.steps } else { 1 });
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
        if !mean.time && decay.is_some() {
            return Err(Problem::new("build::missing_argument", "`decay` is for means over `T`").help("write `mean(T, decay = …)`"));
        }
        Ok(mean)
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let signal = &inputs[0];
        let axes: Vec<Axis> = signal.axes.iter().filter(|a| !self.axes.contains(&a.name)).cloned().collect();
        let varies = signal.varies && !self.time;
        if signal.kind <= Kind::Count {
            let bound = signal.bound.saturating_mul(self.count as u64);
            return Ok(Signal { kind: Kind::Count, axes, varies, bound, ..signal.clone() });
        }
        Ok(Signal::real(signal.kind, axes, varies))
    }

    fn linearity(&self) -> Linearity {
        let time = self.time.then(|| "T".to_owned());
        Linearity::Sum(self.axes.iter().cloned().chain(time).collect())
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        match self.sum {
            true => vec![],
            false if self.decays() => vec![Multiplication::Factor { axes: vec!["T".into()], value: None }],
            false => vec![Multiplication::Factor { axes: vec![], value: Some(1.0 / self.count as f64) }],
        }
    }

    fn affine(&self, _: &[ParamId]) -> Option<(Expr, Option<Expr>)> {
        let weights = decay::weights(self.decay, self.steps).into_iter().map(|w| w / self.count as f64).collect();
        Some((Expr::List(weights, STEPS.into()), None))
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let summed = e.signals[0].axes.iter().enumerate().rev().filter(|(_, axis)| self.axes.contains(&axis.name));
        let mut value = summed.fold(e.inputs[0].clone(), |value, (i, _)| value.sum_axis(At(2 + i)));
        // A static operand is one value, not T: its mean over T is itself.
        if self.decays() {
            value = decay::mean(&value, self.decay, e.time);
        } else if self.time {
            value = value.sum_axis(At(0)).insert_axis(At(0));
        }
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
        let mut grad = grad.broadcast(shape).map_or_else(|| grad.clone(), |v| v.to_owned());
        if self.decays() {
            for (mut step, w) in grad.axis_iter_mut(At(0)).zip(decay::weights(self.decay, e.time)) {
                step.mapv_inplace(|g| g * real(w));
            }
        }
        Grads { inputs: vec![grad], params: vec![] }
    }

    /// The weight of a step hangs on how many are to come.
    fn streams(&self) -> bool {
        !self.decays()
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        let input = if self.decays() { decay::weigh(cx.flow, cx.inputs[0], self.decay, cx.time) } else { cx.inputs[0] };
        let sum = cx.flow.sum_to(input, &dims);
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
            let mut grad = cx.flow.map_to(&[cx.grad], Scalar::Arg(0) * factor, dims);
            if self.decays() {
                grad = decay::weigh(cx.flow, grad, self.decay, cx.time);
            }
            cx.input_grad(0, grad);
        }
    }
}

impl Mean {
    fn decays(&self) -> bool {
        self.decay < 1.0 && !self.sum
    }

    fn weight<F: Real>(&self) -> F {
        real(if self.sum { 1.0 } else { 1.0 / self.count as f64 })
    }
}
