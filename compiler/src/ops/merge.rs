//! Several axes as one.

use super::linear::no_axis;
use super::split::with_shape;
use super::*;
use crate::flow::{Flow, Scalar};

/// `merge(G, V -> C)`: index c = g · |V| + v; the new axis stands where the first of them stood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merge {
    /// The axes that go, outermost first.
    pub from: Vec<Axis>,
    /// The axis in their place.
    pub to: String,
}

impl Operator for Merge {
    fn read(args: &mut Arguments, inputs: &[Signal]) -> Result<Self, Problem> {
        let example = "merge(G, V -> C)";
        let (from, to) = args.required_arrow(example)?;
        let [(to, size, to_at)] = to.as_slice() else {
            return Err(Problem::new("build::type", "`merge` makes one axis").help(format!("for example `{example}`")));
        };
        let mut axes: Vec<Axis> = Vec::new();
        for (name, at) in &from {
            let size = inputs[0].size(name).ok_or_else(|| no_axis(&inputs[0], name).at(*at))?;
            if axes.iter().any(|a| a.name == *name) {
                return Err(Problem::new("shape::axis", format!("axis `{name}` is named twice")).at(*at));
            }
            axes.push(Axis::new(name, size));
        }
        let whole: usize = axes.iter().map(|a| a.size).product();
        if let Some(n) = size.filter(|n| usize::try_from(*n).ok() != Some(whole)) {
            return Err(Problem::new("shape::extent", format!("axis `{to}` would have extent {whole}, not {n}")).at(*to_at));
        }
        if to == "T" || (inputs[0].size(to).is_some() && axes.iter().all(|a| a.name != *to)) {
            return Err(Problem::new("shape::axis", format!("there is an axis `{to}` already in {}", inputs[0])).at(*to_at));
        }
        Ok(Merge { from: axes, to: to.clone() })
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let at = self.from.iter().filter_map(|a| inputs[0].position(&a.name)).min().unwrap_or(0);
        let mut axes: Vec<Axis> = inputs[0].axes.clone();
        axes[at] = Axis::new(&*self.to, self.size());
        let names: Vec<&str> = self.from.iter().map(|a| a.name.as_str()).collect();
        let mut place = 0;
        axes.retain(|a| {
            place += 1;
            place - 1 == at || !names.contains(&a.name.as_str())
        });
        Ok(inputs[0].with_axes(axes))
    }

    fn linearity(&self) -> Linearity {
        Linearity::View(self.from.iter().map(|a| a.name.clone()).chain([self.to.clone()]).collect())
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![]
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let x = e.inputs[0].view().permuted_axes(self.order(e.signals[0]));
        let flat = x.as_standard_layout().into_owned();
        with_shape(&flat, flat.shape()[0], flat.shape()[1], &e.out.axes).into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let order = self.order(e.signals[0]);
        let axes: Vec<Axis> = order[2..].iter().map(|i| e.signals[0].axes[i - 2].clone()).collect();
        let wide = with_shape(grad, grad.shape()[0], grad.shape()[1], &axes);
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(to, from)| back[*from] = to);
        Grads { inputs: vec![wide.permuted_axes(back).as_standard_layout().into_owned()], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let names: Vec<String> = self.from.iter().map(|a| a.name.clone()).collect();
        merged(cx.flow, cx.inputs[0], &names, Some(Axis::new(&*self.to, self.size())))
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        if cx.wanted[0] {
            let grad = cx.flow.reshape(cx.grad, std::slice::from_ref(&self.to), self.from.clone());
            cx.input_grad(0, grad);
        }
    }
}

impl Merge {
    fn size(&self) -> usize {
        self.from.iter().map(|a| a.size).product()
    }

    /// The operand's array axes with those that are merged side by side, where the first of them stood.
    fn order(&self, signal: &Signal) -> Vec<usize> {
        let at = |a: &Axis| 2 + signal.position(&a.name).unwrap_or(0);
        let gone: Vec<usize> = self.from.iter().map(at).collect();
        let first = gone.iter().copied().min().unwrap_or(2);
        let mut order = Vec::new();
        for i in 0..2 + signal.axes.len() {
            if i == first {
                order.extend(&gone);
            } else if !gone.contains(&i) {
                order.push(i);
            }
        }
        order
    }
}

/// A tensor with the axes `from` as one, which stands last.
pub(super) fn merged(flow: &mut Flow, x: FlowId, from: &[String], to: Option<Axis>) -> FlowId {
    let Some(to) = to else { return x };
    let mut dims = flow.dims(x).clone();
    let gone: Vec<Axis> = from.iter().filter_map(|n| dims.axis(n).cloned()).collect();
    dims.axes.retain(|a| !from.contains(&a.name));
    dims.axes.extend(gone);
    // A copy with these axes side by side; where the tensor is computed, it is written like this at once.
    let spikes = flow.get(x).spikes;
    let copy = flow.map_to(&[x], Scalar::Arg(0), dims);
    flow.tensors[copy.index()].spikes = spikes;
    flow.reshape(copy, from, vec![to])
}
