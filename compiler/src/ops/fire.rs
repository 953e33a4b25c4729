//! The application of a neuron: currents in, spikes out.

use super::neuron::{Neuron, Reset};
use super::*;
use crate::flow::{Def, Dims, Scalar};
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
        Ok(Signal::spike(inputs[0].axes.clone()))
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        let mut list = Vec::new();
        if self.neuron.leak() != 1.0 {
            list.push(Multiplication::Leak(self.neuron.leak()));
        }
        if self.neuron.drive() != 1.0 {
            list.push(Multiplication::Drive(self.neuron.drive()));
        }
        list
    }

    fn selection(&self) -> Selection {
        Selection::Neuron
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        self.run(e.inputs[0], e.time, |h| if self.neuron.fires(h, real(self.neuron.threshold)) { F::one() } else { F::zero() }).into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, value: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let h = self.run(e.inputs[0], e.time, |h| h);
        let n = &self.neuron;
        let mut dx = ArrayD::zeros(grad.raw_dim());
        // g is the gradient with respect to the membrane after the reset of the step at hand.
        let mut g = ArrayD::<F>::zeros(grad.index_axis(At(0), 0).raw_dim());
        for t in (0..e.time).rev() {
            let (h, s, ds) = (h.index_axis(At(0), t), value.index_axis(At(0), t), grad.index_axis(At(0), t));
            let mut out = dx.index_axis_mut(At(0), t);
            for (place, g) in g.indexed_iter_mut() {
                let (h, s, ds) = (h[&place], s[&place], ds[&place]);
                let slope = n.surrogate.eval(h - real(n.threshold));
                let mut dh = ds * slope;
                dh += match n.reset {
                    Reset::Hard(_) => *g * (F::one() - s),
                    Reset::Soft => *g,
                };
                if !n.detach_reset {
                    let jump = match n.reset {
                        Reset::Hard(r) => real::<F>(r) - h,
                        Reset::Soft => -real::<F>(n.threshold),
                    };
                    dh += *g * jump * slope;
                }
                out[&place] = dh * real(n.drive());
                *g = dh * real(n.leak());
            }
        }
        Grads { inputs: vec![dx], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        let h = self.neuron.charge_scalar(Scalar::State(0), Scalar::Arg(0));
        let threshold = Scalar::Const(self.neuron.threshold);
        let spike = h.clone().step(self.neuron.compare(), threshold);
        let def =
            Def::Scan { inputs: cx.inputs.clone(), init: vec![0.0], next: vec![self.reset(h)], outputs: vec![spike], reverse: false };
        let s = cx.flow.push(def, dims);
        cx.flow.tensors[s.index()].spikes = true;
        s
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        if !cx.wanted[0] {
            return;
        }
        let n = &self.neuron;
        let dims = Dims::of(cx.out);
        // Membranes are recomputed, not stored.
        let charge = n.charge_scalar(Scalar::State(0), Scalar::Arg(0));
        let scan = Def::Scan {
            inputs: vec![cx.inputs[0]],
            init: vec![0.0],
            next: vec![self.reset(charge.clone())],
            outputs: vec![charge],
            reverse: false,
        };
        let h = cx.flow.push(scan, dims.clone());
        let (h_arg, ds, g) = (Scalar::Arg(0), Scalar::Arg(1), Scalar::State(0));
        let slope = n.surrogate.scalar(h_arg.clone() - n.threshold);
        let kept = match n.reset {
            Reset::Hard(_) => h_arg.clone().select(n.compare(), Scalar::Const(n.threshold), Scalar::Const(0.0), g.clone()),
            Reset::Soft => g.clone(),
        };
        let mut dh = ds * slope.clone() + kept;
        if !n.detach_reset {
            let jump = match n.reset {
                Reset::Hard(r) => Scalar::Const(r) - h_arg,
                Reset::Soft => Scalar::Const(-n.threshold),
            };
            dh = dh + g * jump * slope;
        }
        let scan = Def::Scan {
            inputs: vec![h, cx.grad],
            init: vec![0.0],
            next: vec![dh.clone() * n.leak()],
            outputs: vec![dh * n.drive()],
            reverse: true,
        };
        let dx = cx.flow.push(scan, dims);
        cx.input_grad(0, dx);
    }
}

impl Fire {
    /// The membrane after firing.
    fn reset(&self, h: Scalar) -> Scalar {
        let threshold = Scalar::Const(self.neuron.threshold);
        let after = match self.neuron.reset {
            Reset::Hard(r) => Scalar::Const(r),
            Reset::Soft => h.clone() - threshold.clone(),
        };
        h.clone().select(self.neuron.compare(), threshold, after, h)
    }

    /// Runs the membranes and keeps `pick(h)` of every step.
    fn run<F: Real>(&self, x: &ArrayD<F>, time: usize, pick: impl Fn(F) -> F) -> ArrayD<F> {
        let mut shape = x.shape().to_vec();
        shape[0] = time;
        let mut out = ArrayD::zeros(shape);
        let mut v = ArrayD::<F>::zeros(x.index_axis(At(0), 0).raw_dim());
        let threshold = real(self.neuron.threshold);
        for t in 0..time {
            let x = x.index_axis(At(0), t.min(x.shape()[0] - 1));
            let out = out.index_axis_mut(At(0), t);
            ndarray::Zip::from(out).and(&mut v).and(x).for_each(|out, v, &x| {
                let h = self.neuron.charge(*v, x);
                *out = pick(h);
                *v = match self.neuron.reset {
                    _ if !self.neuron.fires(h, threshold) => h,
                    Reset::Hard(r) => real(r),
                    Reset::Soft => h - threshold,
                };
            });
        }
        out
    }
}
