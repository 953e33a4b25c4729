//! Signals side by side.

use super::*;
use crate::flow::Def;
use ndarray::{Axis as At, Slice, concatenate};

/// `concat(C; a, b, c)`: along one axis; the other axes must agree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Concat {
    /// The axis.
    pub axis: String,
}

impl Operator for Concat {
    fn read(args: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        match std::mem::take(&mut args.axes).as_slice() {
            [(axis, _)] => Ok(Concat { axis: axis.clone() }),
            _ => Err(Problem::new("build::missing_argument", "`concat` needs one axis").help("for example `concat(C; a, b)`")),
        }
    }

    fn arity() -> std::ops::RangeInclusive<usize> {
        2..=usize::MAX
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let inputs: Vec<Signal> = inputs.iter().map(Signal::beside_others).collect();
        let first = &inputs[0];
        let at = first.position(&self.axis).ok_or_else(|| linear::no_axis(first, &self.axis))?;
        let mut axes = first.axes.clone();
        for other in &inputs[1..] {
            let fits = other.axes.len() == axes.len()
                && axes.iter().zip(&other.axes).enumerate().all(|(i, (a, b))| a.name == b.name && (i == at || a.size == b.size));
            if !fits {
                let message = format!("signals whose other axes differ cannot be joined: [{}] and [{}]", first.axes_text(), other.axes_text());
                return Err(Problem::new("shape::mismatch", message));
            }
            axes[at].size = axes[at].size.saturating_add(other.axes[at].size);
        }
        let kind = inputs.iter().map(|s| s.kind).max().unwrap_or(first.kind);
        let bound = if kind <= Kind::Count { inputs.iter().map(|s| s.bound).max().unwrap_or(0) } else { 0 };
        Ok(Signal { kind, axes, varies: inputs.iter().any(|s| s.varies), bound, scaled: false })
    }

    fn linearity(&self) -> Linearity {
        Linearity::View(vec![self.axis.clone()])
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![]
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let at = 2 + e.out.position(&self.axis).unwrap_or(0);
        let time = e.inputs.iter().map(|a| a.shape()[0]).max().unwrap_or(1);
        let parts: Vec<ArrayD<F>> = e.inputs.iter().map(|a| over_time(a, time)).collect();
        let views: Vec<_> = parts.iter().map(ArrayD::view).collect();
        concatenate(At(at), &views).unwrap_or_else(|_| ArrayD::zeros(vec![])).into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let at = 2 + e.out.position(&self.axis).unwrap_or(0);
        let mut start = 0;
        let mut inputs = Vec::new();
        for part in &e.inputs {
            let end = start + part.shape()[at];
            inputs.push(grad.slice_axis(At(at), Slice::from(start..end)).to_owned());
            start = end;
        }
        Grads { inputs, params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        let spikes = cx.inputs.iter().all(|i| cx.flow.get(*i).spikes);
        let id = cx.flow.push(Def::Concat { parts: cx.inputs.clone(), axis: self.axis.clone() }, dims);
        cx.flow.tensors[id.index()].spikes = spikes;
        id
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let mut start = 0;
        for i in 0..cx.inputs.len() {
            let mut dims = cx.flow.dims(cx.inputs[i]).clone();
            dims.time = cx.flow.dims(cx.grad).time;
            let size = dims.axis(&self.axis).map_or(0, |a| a.size);
            if cx.wanted[i] {
                let part = cx.flow.push(Def::Slice { of: cx.grad, axis: self.axis.clone(), start }, dims);
                cx.input_grad(i, part);
            }
            start += size;
        }
    }
}

/// An array with as many time steps as `time`, repeated if it has one.
pub(crate) fn over_time<F: Real>(a: &ArrayD<F>, time: usize) -> ArrayD<F> {
    let mut shape = a.shape().to_vec();
    shape[0] = time;
    a.broadcast(shape).map_or_else(|| a.clone(), |v| v.to_owned())
}

use crate::types::Kind;
