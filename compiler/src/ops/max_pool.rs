//! The largest value of windows over `H` and `W`.

use super::conv::{Places, read_pool, windowed};
use super::*;
use crate::flow::{Def, Window};
use ndarray::IxDyn;

/// `max_pool(kernel = 3, stride = 2, pad = 1)`; padding never wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxPool {
    /// Geometry.
    pub window: Window,
}

impl Operator for MaxPool {
    fn read(args: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        Ok(MaxPool { window: read_pool(args, Some(1))? })
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        Ok(inputs[0].with_axes(windowed(&self.window, &inputs[0])?))
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![]
    }

    fn selection(&self) -> Selection {
        Selection::Maximum
    }

    fn comparisons(&self, inputs: &[Signal], out: &Signal) -> u64 {
        // Places around the picture are not looked at.
        let reached = |i: usize, name| {
            let (size, places) = (inputs[0].size(name).unwrap_or(1), out.size(name).unwrap_or(1));
            (0..places).map(|p| self.window.reached(i, p, size) as u64).sum::<u64>()
        };
        let planes = out.elements() / (out.size("H").unwrap_or(1) * out.size("W").unwrap_or(1)).max(1);
        (reached(0, "H") * reached(1, "W") * planes as u64).saturating_sub(out.elements() as u64)
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let x = e.inputs[0];
        ArrayD::from_shape_fn(out_shape(x.shape(), e), |place| {
            let mut best = F::neg_infinity();
            taps(&self.window, e.signals[0], x.shape(), &place, |source| best = best.max(x[source]));
            best
        })
        .into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, value: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let x = e.inputs[0];
        let mut dx = ArrayD::zeros(x.raw_dim());
        for (place, &g) in grad.indexed_iter() {
            let mut given = false;
            taps(&self.window, e.signals[0], x.shape(), &place, |source| {
                if !given && x[source] == value[&place] {
                    given = true;
                    dx[source] += g;
                }
            });
        }
        Grads { inputs: vec![dx], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        let spikes = cx.flow.get(cx.inputs[0]).spikes;
        let id = cx.flow.push(Def::Pool { input: cx.inputs[0], max: true, window: self.window }, dims);
        cx.flow.tensors[id.index()].spikes = spikes;
        id
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        if cx.wanted[0] {
            let dims = cx.flow.dims(cx.inputs[0]).clone();
            let grad = cx.flow.push(Def::PoolGrad { input: cx.inputs[0], grad: cx.grad, max: true, window: self.window }, dims);
            cx.input_grad(0, grad);
        }
    }
}

pub(crate) fn out_shape<F>(shape: &[usize], e: &Eval<'_, F>) -> Vec<usize> {
    [shape[0], shape[1]].into_iter().chain(e.out.axes.iter().map(|a| a.size)).collect()
}

/// Calls `f` with every place of the operand inside the window of this place of the result.
pub(crate) fn taps(window: &Window, signal: &Signal, shape: &[usize], place: &IxDyn, mut f: impl FnMut(&IxDyn)) {
    let at = Places::of(signal).space;
    let mut source = place.clone();
    for kh in 0..window.kernel[0] {
        for kw in 0..window.kernel[1] {
            let mut inside = true;
            for (axis, k) in [(0, kh), (1, kw)] {
                let y = (place[at[axis]] * window.stride[axis] + k).wrapping_sub(window.pad[0]);
                inside &= y < shape[at[axis]];
                source[at[axis]] = y;
            }
            if inside {
                f(&source);
            }
        }
    }
}
