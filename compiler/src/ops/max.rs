//! The largest value over named axes.

use super::linear::no_axis;
use super::*;
use crate::flow::{Cmp, Def, Scalar};
use ndarray::Axis as At;

/// `max(C, H, W)`: over the named axes, time steps apart. Its gradient is shared equally by all places that have the largest value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Max {
    /// The axes.
    pub axes: Vec<String>,
}

impl Operator for Max {
    fn read(args: &mut Arguments, inputs: &[Signal]) -> Result<Self, Problem> {
        let mut axes: Vec<String> = Vec::new();
        for (name, span) in args.plain_axes()? {
            if name == "T" {
                return Err(Problem::new("shape::axis", "`max` looks at one time step at a time").at(span));
            }
            inputs[0].size(&name).ok_or_else(|| no_axis(&inputs[0], &name).at(span))?;
            if axes.contains(&name) {
                return Err(Problem::new("shape::axis", format!("axis `{name}` is named twice")).at(span));
            }
            axes.push(name);
        }
        if axes.is_empty() {
            return Err(Problem::new("build::missing_argument", "the axes are missing").help("for example `max(H, W)`"));
        }
        Ok(Max { axes })
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let axes = inputs[0].axes.iter().filter(|a| !self.axes.contains(&a.name)).cloned().collect();
        Ok(inputs[0].with_axes(axes))
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![]
    }

    fn selection(&self) -> Selection {
        Selection::Maximum
    }

    fn comparisons(&self, inputs: &[Signal], out: &Signal) -> u64 {
        (inputs[0].elements() - out.elements()) as u64
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let mut value = e.inputs[0].clone();
        for at in self.places(e.signals[0]).into_iter().rev() {
            value = value.fold_axis(At(at), F::neg_infinity(), |m, x| m.max(*x));
        }
        value.into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, value: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let x = e.inputs[0];
        let wide = |a: &ArrayD<F>| {
            let kept = self.places(e.signals[0]).into_iter().fold(a.clone(), |a, at| a.insert_axis(At(at)));
            kept.broadcast(x.raw_dim()).map_or_else(|| kept.clone(), |v| v.to_owned())
        };
        let largest = ndarray::Zip::from(x).and(&wide(value)).map_collect(|x, m| if x == m { F::one() } else { F::zero() });
        let mut shares = largest.clone();
        for at in self.places(e.signals[0]).into_iter().rev() {
            shares = shares.sum_axis(At(at));
        }
        Grads { inputs: vec![largest * wide(&(grad / &shares))], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        let spikes = cx.flow.get(cx.inputs[0]).spikes;
        let id = cx.flow.push(Def::Reduce { input: cx.inputs[0], max: true }, dims);
        cx.flow.tensors[id.index()].spikes = spikes;
        id
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        if cx.wanted[0] {
            let dims = cx.flow.dims(cx.grad).clone();
            let largest = cx.flow.map(&[cx.inputs[0], cx.value], Scalar::Arg(0).step(Cmp::Eq, Scalar::Arg(1)));
            let shares = cx.flow.sum_to(largest, &dims);
            cx.input_map(0, &[largest, cx.grad, shares], Scalar::Arg(0) * Scalar::Arg(1) / Scalar::Arg(2));
        }
    }
}

impl Max {
    /// The axes in a reference array, first to last.
    fn places(&self, signal: &Signal) -> Vec<usize> {
        (0..signal.axes.len()).filter(|i| self.axes.contains(&signal.axes[*i].name)).map(|i| 2 + i).collect()
    }
}
