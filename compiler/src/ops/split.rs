//! One axis as several.

use super::linear::no_axis;
use super::*;
use ndarray::IxDyn;

/// `split(C -> G = 8, K)`: index c = g · |K| + k; at most one of the new axes may lack its extent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// The axis that goes.
    pub from: String,
    /// The axes in its place, outermost first.
    pub to: Vec<Axis>,
}

/// What both `split` and `merge` do to a value: the same numbers under other axes.
pub(super) fn with_shape<F: Real>(x: &ArrayD<F>, steps: usize, batch: usize, axes: &[Axis]) -> ArrayD<F> {
    let shape: Vec<usize> = [steps, batch].into_iter().chain(axes.iter().map(|a| a.size)).collect();
    let flat = x.iter().copied().collect();
    ArrayD::from_shape_vec(IxDyn(&shape), flat).unwrap_or_else(|_| ArrayD::zeros(IxDyn(&shape)))
}

impl Operator for Split {
    fn read(args: &mut Arguments, inputs: &[Signal]) -> Result<Self, Problem> {
        let example = "split(C -> G = 8, K)";
        let (from, to) = args.required_arrow(example)?;
        let [(from, from_at)] = from.as_slice() else {
            return Err(Problem::new("build::type", "`split` takes one axis apart").help(format!("for example `{example}`")));
        };
        let size = inputs[0].size(from).ok_or_else(|| no_axis(&inputs[0], from).at(*from_at))?;
        let mut known = 1usize;
        let mut axes = Vec::new();
        let mut open = None;
        for (i, (name, extent, at)) in to.iter().enumerate() {
            let taken = inputs[0].size(name).is_some() && name != from;
            if taken || name == "T" || axes.iter().any(|a: &Axis| a.name == *name) {
                return Err(Problem::new("shape::axis", format!("there is an axis `{name}` already in {}", inputs[0])).at(*at));
            }
            match extent {
                Some(n) => {
                    let n = usize::try_from(*n).ok().filter(|n| *n > 0);
                    let n = n.ok_or_else(|| Problem::new("shape::extent", format!("axis `{name}` would have extent {}", extent.unwrap_or(0))).at(*at))?;
                    known = known.saturating_mul(n);
                    axes.push(Axis::new(name, n));
                }
                None if open.is_none() => {
                    open = Some(i);
                    axes.push(Axis::new(name, 1));
                }
                None => {
                    let problem = Problem::new("build::missing_argument", format!("the size of `{name}` is missing")).at(*at);
                    return Err(problem.help("only one of the new axes can be found from the others"));
                }
            }
        }
        if size % known != 0 || (open.is_none() && size != known) {
            let message = format!("axis {from} = {size} cannot be split into parts of {known}");
            return Err(Problem::new("shape::extent", message));
        }
        if let Some(i) = open {
            axes[i].size = size / known;
        }
        Ok(Split { from: from.clone(), to: axes })
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let mut axes = inputs[0].axes.clone();
        let at = inputs[0].position(&self.from).ok_or_else(|| no_axis(&inputs[0], &self.from))?;
        axes.splice(at..=at, self.to.iter().cloned());
        Ok(inputs[0].with_axes(axes))
    }

    fn linearity(&self) -> Linearity {
        Linearity::View(self.to.iter().map(|a| a.name.clone()).chain([self.from.clone()]).collect())
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![]
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let x = e.inputs[0];
        with_shape(x, x.shape()[0], x.shape()[1], &e.out.axes).into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        Grads { inputs: vec![with_shape(grad, grad.shape()[0], grad.shape()[1], &e.signals[0].axes)], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        cx.flow.reshape(cx.inputs[0], std::slice::from_ref(&self.from), self.to.clone())
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        if cx.wanted[0] {
            let names: Vec<String> = self.to.iter().map(|a| a.name.clone()).collect();
            let grad = merge::merged(cx.flow, cx.grad, &names, cx.signals[0].size(&self.from).map(|n| Axis::new(&*self.from, n)));
            cx.input_grad(0, grad);
        }
    }
}
