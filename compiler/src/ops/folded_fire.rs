//! A neuron after folding: constants in its threshold, bias, sign and reset; nothing multiplied.

use super::neuron::{Neuron, Reset};
use super::*;
use crate::flow::{Bin, Def, Scalar, Un, shift_of};
use ndarray::Axis as At;

/// The neuron of `Fire` on operand z where x = a z + b, in the scale u = v / (|a| · drive): u ← leak(u) + sign(a) z +
/// b / |a|, compared with θ / (|a| · drive). Parameters over any of the operand's axes: threshold, bias, sign (0 where a
/// is nearly zero), reset (the value, or what a soft reset subtracts). No factor is left but the leak, which is a shift, or
/// none if the parameters vary over time steps, too: then the operand was multiplied where it is made (`fold(time)`), or is doubled here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoldedFire {
    /// The model before folding; its leak, comparison and kind of reset still hold.
    pub neuron: Neuron,
    /// The axes over which the parameters vary; [`crate::types::STEPS`] first, if it is one.
    pub axes: Vec<Axis>,
    /// A sign is applied; without one the operand is taken as it is.
    pub signed: bool,
    /// There is a bias; without one it is zero.
    pub biased: bool,
    /// How often the operand is doubled for each time step before: a leak of 2^-k without a leak, in a scale that grows.
    pub doublings: u8,
}

impl Operator for FoldedFire {
    fn read(_: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        Err(Problem::new("build::type", "a folded neuron cannot be written"))
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        Ok(Signal::spike(inputs[0].axes.clone()))
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        if self.neuron.leak() == 1.0 { vec![] } else { vec![Multiplication::Leak(self.neuron.leak())] }
    }

    fn selection(&self) -> Selection {
        Selection::Neuron
    }

    fn doublings(&self) -> u8 {
        self.doublings
    }

    fn comparisons(&self, _: &[Signal], out: &Signal) -> u64 {
        out.elements() as u64
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let x = e.inputs[0];
        let at: Vec<Option<usize>> = self.axes.iter().map(|a| e.signals[0].position(&a.name)).collect();
        let mut shape = x.shape().to_vec();
        shape[0] = e.time;
        let mut out = ArrayD::zeros(shape);
        let mut v = ArrayD::<F>::zeros(x.index_axis(At(0), 0).raw_dim());
        for t in 0..e.time {
            let x = x.index_axis(At(0), t.min(x.shape()[0] - 1));
            let mut out = out.index_axis_mut(At(0), t);
            for (place, v) in v.indexed_iter_mut() {
                let index: Vec<usize> = at.iter().map(|a| a.map_or(t, |a| place[1 + a])).collect();
                let [threshold, bias, sign, reset] = [0, 1, 2, 3].map(|i: usize| e.params[i][index.as_slice()]);
                let grown = x[&place] * real(2f64.powi(i32::from(self.doublings) * t as i32));
                let h = *v * real(self.neuron.leak()) + grown * sign + bias;
                let fires = self.neuron.fires(h, threshold);
                out[&place] = if fires { F::one() } else { F::zero() };
                *v = match self.neuron.reset {
                    _ if !fires => h,
                    Reset::Hard(_) => reset,
                    Reset::Soft => h - reset,
                };
            }
        }
        out.into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        // A folded program is not trained: nothing passes.
        Grads { inputs: vec![ArrayD::zeros(grad.raw_dim())], params: vec![None; e.params.len()] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        let mut inputs = vec![cx.inputs[0]];
        if self.doublings > 0 {
            inputs[0] = cx.flow.map_to(&inputs, Scalar::Arg(0).un(Un::Doubled(self.doublings)), dims.clone());
        }
        // What is known to be zero is not read.
        let mut param = |i: usize, there: bool| {
            if !there {
                return Scalar::Const(0.0);
            }
            inputs.push(cx.params[i]);
            Scalar::Arg(inputs.len() - 1)
        };
        let to_zero = self.neuron.reset == Reset::Hard(0.0);
        let [threshold, bias, sign, reset] = [(0, true), (1, self.biased), (2, self.signed), (3, !to_zero)].map(|(i, there)| param(i, there));
        let u = Scalar::State(0);
        let leak = self.neuron.leak();
        let kept = match (shift_of(leak), shift_of(1.0 - leak)) {
            _ if leak == 1.0 => u,
            (Some(k), _) => u.un(Un::Shift(k)),
            (None, Some(k)) => u.clone() - u.un(Un::Shift(k)),
            // Admitted by the model's author; the checker has counted it.
            (None, None) => u * leak,
        };
        let drive = if self.signed {
            let flip = sign.clone().bin(Bin::BitAnd, Scalar::Const(-0.0));
            sign.select(crate::flow::Cmp::Eq, Scalar::Const(0.0), Scalar::Const(0.0), Scalar::Arg(0).bin(Bin::BitXor, flip))
        } else {
            Scalar::Arg(0)
        };
        let h = if self.biased { kept + drive + bias } else { kept + drive };
        let after = match self.neuron.reset {
            Reset::Hard(_) => reset,
            Reset::Soft => h.clone() - reset,
        };
        let spike = h.clone().step(self.neuron.compare(), threshold.clone());
        let next = h.clone().select(self.neuron.compare(), threshold, after, h);
        let s = cx.flow.push(Def::Scan { inputs, init: vec![0.0], next: vec![next], outputs: vec![spike], reverse: false }, dims);
        cx.flow.tensors[s.index()].spikes = true;
        s
    }

    fn backward(&self, _: &mut Backward<'_>) {}
}
