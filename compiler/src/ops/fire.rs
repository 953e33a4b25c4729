//! The application of a neuron: currents in, spikes out.

use super::neuron::{Gradient, Neuron, Rate, Reset};
use super::surrogate::Surrogate;
use super::*;
use crate::flow::{Cmp, Def, Dims, Scalar};
use ndarray::Axis as At;

/// One neuron per place of its operand, each with a membrane of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fire {
    /// The model.
    pub neuron: Neuron,
}

impl Operator for Fire {
    fn read(_: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        Err(Problem::new("build::type", "a neuron is applied by its name"))
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        Ok(Signal { scaled: self.neuron.amplitude.is_some(), ..Signal::spike(inputs[0].axes.clone()) })
    }

    fn params(&self, _: &[Signal]) -> Vec<ParamSpec> {
        let spec = |least| {
            let init = Init::Constant(self.neuron.threshold);
            ParamSpec { name: "threshold", axes: vec![], init, role: Role::Trained, min: Some(least) }
        };
        self.neuron.least.map(spec).into_iter().collect()
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        let mut list = Vec::new();
        if let Some(amplitude) = self.neuron.amplitude {
            let value = self.neuron.least.is_none().then_some(amplitude * self.neuron.threshold);
            list.push(Multiplication::Factor { axes: vec![], value });
        }
        if self.neuron.leak() != 1.0 {
            list.push(Multiplication::Leak(self.neuron.leak()));
        }
        if self.neuron.drive() != 1.0 {
            list.push(Multiplication::Drive(self.neuron.drive()));
        }
        list
    }

    fn affine(&self, params: &[ParamId]) -> Option<(Expr, Option<Expr>)> {
        let worth = self.neuron.threshold_expr(params) * Expr::Const(self.neuron.amplitude?);
        Some((worth, None))
    }

    fn selection(&self) -> Selection {
        Selection::Neuron
    }

    fn comparisons(&self, _: &[Signal], out: &Signal) -> u64 {
        out.elements() as u64
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let v = self.threshold(e);
        let worth = self.neuron.amplitude.map_or(F::one(), |a| v * real(a));
        self.run(e, |h| if self.fires(h, v) { worth } else { F::zero() }).into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, value: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let (dx, dv) = match self.neuron.gradient {
            Gradient::Surrogate(surrogate) => self.through_time(e, surrogate, value, grad),
            Gradient::Rate(rate) => self.of_rates(e, rate, grad),
        };
        let dv = self.neuron.least.map(|_| Some(ArrayD::from_elem(vec![], dv)));
        Grads { inputs: vec![dx], params: dv.into_iter().collect() }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        let h = self.neuron.charge_scalar(Scalar::State(0), Scalar::Arg(0));
        let v = self.threshold_scalar(Scalar::Arg(1));
        let worth = self.neuron.amplitude.map_or(Scalar::Const(1.0), |a| times(v.clone(), a));
        let spike = h.clone().select(self.neuron.compare(), self.fires_at(&v), worth, Scalar::Const(0.0));
        let inputs = cx.inputs.iter().chain(&cx.params).copied().collect();
        let def = Def::Scan { inputs, init: vec![0.0], next: vec![self.reset(h, &v)], outputs: vec![spike], reverse: false };
        let s = cx.flow.push(def, dims);
        cx.flow.tensors[s.index()].spikes = self.neuron.amplitude.is_none();
        s
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        match self.neuron.gradient {
            Gradient::Surrogate(surrogate) => self.flow_through_time(cx, surrogate),
            Gradient::Rate(rate) => self.flow_of_rates(cx, rate),
        }
    }
}

/// x · factor, or x.
fn times(x: Scalar, factor: f64) -> Scalar {
    if factor == 1.0 { x } else { x * factor }
}

impl Fire {
    fn threshold<F: Real>(&self, e: &Eval<'_, F>) -> F {
        e.params.first().and_then(|p| p.first().copied()).unwrap_or(real(self.neuron.threshold))
    }

    fn threshold_scalar(&self, param: Scalar) -> Scalar {
        if self.neuron.least.is_some() { param } else { Scalar::Const(self.neuron.threshold) }
    }

    /// Where the membrane fires.
    fn fires_at(&self, v: &Scalar) -> Scalar {
        times(v.clone(), self.neuron.fire_at)
    }

    fn fires<F: Real>(&self, h: F, v: F) -> bool {
        self.neuron.fires(h, v * real(self.neuron.fire_at))
    }

    /// The membrane after firing.
    fn reset(&self, h: Scalar, v: &Scalar) -> Scalar {
        let after = match self.neuron.reset {
            Reset::Hard(r) => Scalar::Const(r),
            Reset::Soft => h.clone() - v.clone(),
        };
        h.clone().select(self.neuron.compare(), self.fires_at(v), after, h)
    }

    /// Runs the membranes and keeps `pick(h)` of every step.
    fn run<F: Real>(&self, e: &Eval<'_, F>, pick: impl Fn(F) -> F) -> ArrayD<F> {
        let (x, threshold) = (e.inputs[0], self.threshold(e));
        let mut shape = x.shape().to_vec();
        shape[0] = e.time;
        let mut out = ArrayD::zeros(shape);
        let mut v = ArrayD::<F>::zeros(x.index_axis(At(0), 0).raw_dim());
        for t in 0..e.time {
            let x = x.index_axis(At(0), t.min(x.shape()[0] - 1));
            let out = out.index_axis_mut(At(0), t);
            ndarray::Zip::from(out).and(&mut v).and(x).for_each(|out, v, &x| {
                let h = self.neuron.charge(*v, x);
                *out = pick(h);
                *v = match self.neuron.reset {
                    _ if !self.fires(h, threshold) => h,
                    Reset::Hard(r) => real(r),
                    Reset::Soft => h - threshold,
                };
            });
        }
        out
    }

    /// Backpropagation through time: the gradients of the operand and of the threshold V.
    ///
    /// With σ' the surrogate at h - θ, θ = fire_at · V, and g what comes back through the membrane after the reset,
    /// ∂h = ∂s σ' + g (∂v/∂h + jump σ') and ∂V = worth/V · ∂o s - fire_at (∂s + g jump) σ' - g s (soft reset), where jump is
    /// the change that a spike makes to the membrane (none if the reset is detached).
    fn through_time<F: Real>(&self, e: &Eval<'_, F>, surrogate: Surrogate, value: &ArrayD<F>, grad: &ArrayD<F>) -> (ArrayD<F>, F) {
        let n = &self.neuron;
        let h = self.run(e, |h| h);
        let v = self.threshold(e);
        let theta = v * real(n.fire_at);
        let (worth, amplitude) = n.amplitude.map_or((F::one(), F::zero()), |a| (v * real(a), real(a)));
        let mut dx = ArrayD::zeros(grad.raw_dim());
        let mut dv = F::zero();
        // g is the gradient with respect to the membrane after the reset of the step at hand.
        let mut g = ArrayD::<F>::zeros(grad.index_axis(At(0), 0).raw_dim());
        for t in (0..e.time).rev() {
            let (h, o, d) = (h.index_axis(At(0), t), value.index_axis(At(0), t), grad.index_axis(At(0), t));
            let mut out = dx.index_axis_mut(At(0), t);
            for (place, g) in g.indexed_iter_mut() {
                let (h, d) = (h[&place], d[&place]);
                let s = if o[&place] == F::zero() { F::zero() } else { F::one() };
                let slope = surrogate.eval(h - theta);
                let jump = match n.reset {
                    _ if n.detach_reset => F::zero(),
                    Reset::Hard(r) => real::<F>(r) - h,
                    Reset::Soft => -v,
                };
                let through_spike = (d * worth + *g * jump) * slope;
                let (kept, subtracted) = match n.reset {
                    Reset::Hard(_) => (*g * (F::one() - s), F::zero()),
                    Reset::Soft => (*g, *g * s),
                };
                dv += d * s * amplitude - real::<F>(n.fire_at) * through_spike - subtracted;
                let dh = through_spike + kept;
                out[&place] = dh * real(n.drive());
                *g = dh * real(n.leak());
            }
        }
        (dx, dv)
    }

    /// The closed form of [`Rate`].
    fn of_rates<F: Real>(&self, e: &Eval<'_, F>, rate: Rate, grad: &ArrayD<F>) -> (ArrayD<F>, F) {
        let leak = self.neuron.leak();
        let limit = self.threshold(e) * real(rate.limit);
        let (r, g) = (decay::mean(e.inputs[0], leak, e.time), decay::mean(grad, leak, e.time));
        let inside = |r: F| if leak == 1.0 { r >= F::zero() && r <= limit } else { r > F::zero() && r < limit };
        let mut dx = g.clone();
        dx.zip_mut_with(&r, |d, r| *d = if inside(*r) { *d * real(rate.slope) } else { F::zero() });
        let over = g.iter().zip(&r).map(|(g, r)| if *r > limit { *g } else { F::zero() });
        let dv = over.sum::<F>() * real(rate.gain * e.time as f64);
        let dx = dx.broadcast(grad.raw_dim()).map_or_else(|| dx.clone(), |d| d.to_owned());
        (dx, dv)
    }

    fn flow_through_time(&self, cx: &mut Backward<'_>, surrogate: Surrogate) {
        let n = &self.neuron;
        let dims = Dims::of(cx.out);
        if !cx.wanted[0] && n.least.is_none() {
            return;
        }
        // Membranes are recomputed, not stored.
        let charge = n.charge_scalar(Scalar::State(0), Scalar::Arg(0));
        let v = self.threshold_scalar(Scalar::Arg(1));
        let scan = Def::Scan {
            inputs: [cx.inputs[0]].iter().chain(&cx.params).copied().collect(),
            init: vec![0.0],
            next: vec![self.reset(charge.clone(), &v)],
            outputs: vec![charge],
            reverse: false,
        };
        let h = cx.flow.push(scan, dims.clone());
        let (h_arg, d, g) = (Scalar::Arg(0), Scalar::Arg(1), Scalar::State(0));
        let v = self.threshold_scalar(Scalar::Arg(2));
        let theta = self.fires_at(&v);
        let fired = |yes: Scalar, no: Scalar| h_arg.clone().select(n.compare(), theta.clone(), yes, no);
        let slope = surrogate.scalar(h_arg.clone() - theta.clone());
        let (mut through_spike, kept) = match n.reset {
            Reset::Hard(_) => (d.clone(), fired(Scalar::Const(0.0), g.clone())),
            Reset::Soft => (d.clone(), g.clone()),
        };
        if let Some(a) = n.amplitude {
            through_spike = through_spike * times(v.clone(), a);
        }
        through_spike = through_spike * slope.clone();
        if !n.detach_reset {
            let jump = match n.reset {
                Reset::Hard(r) => Scalar::Const(r) - h_arg.clone(),
                Reset::Soft => -v,
            };
            through_spike = through_spike + g.clone() * jump * slope;
        }
        let dh = through_spike.clone() + kept;
        let inputs: Vec<FlowId> = [h, cx.grad].iter().chain(&cx.params).copied().collect();
        let next = vec![dh.clone() * n.leak()];
        if n.least.is_some() {
            let own = n.amplitude.map_or(Scalar::Const(0.0), |a| times(d, a));
            let subtracted = if n.reset == Reset::Soft { g } else { Scalar::Const(0.0) };
            let dv = fired(own - subtracted, Scalar::Const(0.0)) - times(through_spike, n.fire_at);
            let scan = Def::Scan { inputs: inputs.clone(), init: vec![0.0], next: next.clone(), outputs: vec![dv], reverse: true };
            let dv = cx.flow.push(scan, dims.clone());
            cx.param_grad(0, dv);
        }
        if cx.wanted[0] {
            let scan = Def::Scan { inputs, init: vec![0.0], next, outputs: vec![dh * n.drive()], reverse: true };
            let dx = cx.flow.push(scan, dims);
            cx.input_grad(0, dx);
        }
    }

    fn flow_of_rates(&self, cx: &mut Backward<'_>, rate: Rate) {
        let leak = self.neuron.leak();
        let mean = |cx: &mut Backward<'_>, x: FlowId| {
            let once = Dims { time: false, ..cx.flow.dims(x).clone() };
            let weighed = decay::weigh(cx.flow, x, leak, cx.time);
            cx.flow.sum_to(weighed, &once)
        };
        let (r, g) = (mean(cx, cx.inputs[0]), mean(cx, cx.grad));
        let inputs: Vec<FlowId> = [g, r].iter().chain(&cx.params).copied().collect();
        let limit = || times(self.threshold_scalar(Scalar::Arg(2)), rate.limit);
        let (g, r, zero) = (Scalar::Arg(0), Scalar::Arg(1), Scalar::Const(0.0));
        if self.neuron.least.is_some() {
            let over = times(g.clone(), rate.gain * cx.time as f64);
            let dv = cx.flow.map(&inputs, r.clone().select(Cmp::Gt, limit(), over, zero.clone()));
            cx.param_grad(0, dv);
        }
        if cx.wanted[0] {
            // What does not vary over T is every step's input.
            let dims = cx.flow.dims(cx.inputs[0]).clone();
            let steps = if dims.time { 1.0 } else { cx.time as f64 };
            let compare = Rate::compare(leak);
            let below = limit().select(compare, r.clone(), times(g, rate.slope * steps), zero.clone());
            let dx = cx.flow.map_to(&inputs, r.select(compare, zero.clone(), below, zero), dims);
            cx.input_grads[0] = Some(dx);
        }
    }
}
