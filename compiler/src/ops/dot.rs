//! Products of two signals summed over axes, as in attention.

use super::linear::no_axis;
use super::*;
use crate::flow::Def;
use crate::types::Kind;
use ndarray::IxDyn;

/// `dot(K; q, k)`: summed over `K`; all other axes of the same name are shared, the rest are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dot {
    /// Summed over.
    pub axes: Vec<Axis>,
}

impl Operator for Dot {
    fn read(args: &mut Arguments, inputs: &[Signal]) -> Result<Self, Problem> {
        let mut axes = Vec::new();
        for (name, span) in std::mem::take(&mut args.axes) {
            let size = inputs[0].size(&name).ok_or_else(|| no_axis(&inputs[0], &name).at(span))?;
            if axes.iter().any(|a: &Axis| a.name == name) {
                return Err(Problem::new("shape::axis", format!("axis `{name}` is named twice")).at(span));
            }
            axes.push(Axis::new(name, size));
        }
        if axes.is_empty() {
            return Err(Problem::new("build::missing_argument", "`dot` needs the axes it sums over").help("for example `dot(K; q, k)`"));
        }
        Ok(Dot { axes })
    }

    fn arity() -> std::ops::RangeInclusive<usize> {
        2..=2
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let inputs: Vec<Signal> = inputs.iter().map(Signal::beside_others).collect();
        let [a, b] = inputs.as_slice() else { return Err(Problem::new("build::arity", "`dot` takes two signals")) };
        for axis in &a.axes {
            let other = b.size(&axis.name);
            let summed = self.axes.contains(axis);
            if other.is_some_and(|s| s != axis.size) || (summed && other.is_none()) {
                let message = format!("axis `{}` differs: [{}] and [{}]", axis.name, a.axes_text(), b.axes_text());
                return Err(Problem::new("shape::mismatch", message));
            }
        }
        let summed = |x: &&Axis| !self.axes.iter().any(|s| s.name == x.name);
        let mut axes: Vec<Axis> = a.axes.iter().filter(summed).cloned().collect();
        axes.extend(b.axes.iter().filter(summed).filter(|x| a.size(&x.name).is_none()).cloned());
        let varies = a.varies || b.varies;
        let spike = a.kind == Kind::Spike || b.kind == Kind::Spike;
        if spike && a.kind <= Kind::Count && b.kind <= Kind::Count {
            let terms: usize = self.axes.iter().map(|x| x.size).product();
            let bound = a.bound.max(b.bound).saturating_mul(terms as u64);
            return Ok(Signal { kind: Kind::Count, axes, varies, bound, scaled: false });
        }
        Ok(Signal::real(a.kind.max(b.kind).max(Kind::Current), axes, varies))
    }

    fn linearity(&self) -> Linearity {
        Linearity::Each
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![Multiplication::Dot]
    }

    fn work(&self, _: &[Signal], out: &Signal) -> u64 {
        out.elements() as u64 * self.axes.iter().map(|a| a.size as u64).product::<u64>()
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let mut shape = vec![e.inputs[0].shape()[0].max(e.inputs[1].shape()[0]), e.inputs[0].shape()[1]];
        shape.extend(e.out.axes.iter().map(|a| a.size));
        let mut out = ArrayD::zeros(shape);
        self.terms(e, &out.clone(), |o, a, b| out[o] += e.inputs[0][a] * e.inputs[1][b]);
        out.into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let mut da = ArrayD::zeros(e.inputs[0].raw_dim());
        let mut db = ArrayD::zeros(e.inputs[1].raw_dim());
        self.terms(e, grad, |o, a, b| {
            da[a] += grad[o] * e.inputs[1][b];
            db[b] += grad[o] * e.inputs[0][a];
        });
        Grads { inputs: vec![da, db], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        // The operand that is visited spike by spike comes first.
        let (mut a, mut b) = (cx.inputs[0], cx.inputs[1]);
        if cx.signals[0].kind != Kind::Spike && cx.signals[1].kind == Kind::Spike {
            std::mem::swap(&mut a, &mut b);
        }
        let def = Def::Product {
            a,
            b,
            a_labels: cx.flow.dims(a).labels(),
            b_labels: cx.flow.dims(b).labels(),
            out_labels: dims.labels(),
        };
        cx.flow.push(def, dims)
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        for (i, other) in [(0, 1), (1, 0)] {
            if !cx.wanted[i] {
                continue;
            }
            let (own, factor) = (cx.inputs[i], cx.inputs[other]);
            let mut dims = cx.flow.dims(own).clone();
            dims.time = cx.flow.dims(cx.grad).time;
            let def = Def::Product {
                a: cx.grad,
                b: factor,
                a_labels: cx.flow.dims(cx.grad).labels(),
                b_labels: cx.flow.dims(factor).labels(),
                out_labels: dims.labels(),
            };
            let grad = cx.flow.push(def, dims);
            cx.input_grad(i, grad);
        }
    }
}

impl Dot {
    /// Calls `f` with the places of every product: of the result and of both operands.
    fn terms<F: Real>(&self, e: &Eval<'_, F>, out: &ArrayD<F>, mut f: impl FnMut(&IxDyn, &IxDyn, &IxDyn)) {
        let sizes: Vec<usize> = self.axes.iter().map(|a| a.size).collect();
        for (place, _) in out.indexed_iter() {
            for k in ndarray::indices(sizes.clone()) {
                let find = |i: usize| {
                    let array = e.inputs[i];
                    let mut index = vec![place[0].min(array.shape()[0] - 1), place[1]];
                    for axis in &e.signals[i].axes {
                        let summed = self.axes.iter().position(|s| s.name == axis.name);
                        index.push(summed.map_or_else(|| place[2 + e.out.position(&axis.name).unwrap_or(0)], |s| k[s]));
                    }
                    IxDyn(&index)
                };
                f(&place, &find(0), &find(1));
            }
        }
    }
}
