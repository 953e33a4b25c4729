//! Batch normalisation over any set of axes.

use super::linear::no_axis;
use super::*;
use crate::flow::{Bin, Dims, Flow, Scalar, Un};
use crate::types::Kind;
use ndarray::Axis as At;

/// `batchnorm(C, epsilon = 1e-5, momentum = 0.1, gamma = 1.0)`: y = γ (x - mean) / √(var + ε) + β with one γ and β per
/// place of the named axes; the statistics are taken over T, B and all other axes (Ioffe and Szegedy 2015, algorithm 1).
/// What does not vary over T counts as T copies in the unbiased running variance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    /// The axes that γ and β vary over.
    pub axes: Vec<Axis>,
    /// What γ starts with.
    pub gamma: f64,
    /// Added to the variance.
    pub epsilon: f64,
    /// Weight of the new statistics in the running ones.
    pub momentum: f64,
    /// Shifts, too; without, y = γ x / √(var + ε), which a fold makes of all terms of a sum but one.
    pub shifts: bool,
}

impl Operator for BatchNorm {
    fn read(args: &mut Arguments, inputs: &[Signal]) -> Result<Self, Problem> {
        let mut axes = Vec::new();
        for (name, span) in args.plain_axes()? {
            let size = inputs[0].size(&name).ok_or_else(|| no_axis(&inputs[0], &name).at(span))?;
            if axes.iter().any(|a: &Axis| a.name == name) {
                return Err(Problem::new("shape::axis", format!("axis `{name}` is named twice")).at(span));
            }
            axes.push(Axis::new(name, size));
        }
        if axes.is_empty() {
            return Err(Problem::new("build::missing_argument", "the axes are missing").help("for example `batchnorm(C)`"));
        }
        let gamma = args.float("gamma")?.unwrap_or(1.0);
        let mut within = |name, default, range: std::ops::RangeInclusive<f64>| match args.float(name)? {
            Some(x) if range.contains(&x) => Ok(x),
            Some(x) => Err(Problem::new("build::value", format!("`{name}` is {x}, but must lie from {} to {}", range.start(), range.end()))),
            None => Ok(default),
        };
        let (epsilon, momentum) = (within("epsilon", 1e-5, 0.0..=1.0)?, within("momentum", 0.1, 0.0..=1.0)?);
        Ok(BatchNorm { axes, gamma, epsilon, momentum, shifts: true })
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let kind = if inputs[0].kind == Kind::Analog { Kind::Analog } else { Kind::Current };
        Ok(Signal::real(kind, inputs[0].axes.clone(), inputs[0].varies))
    }

    fn params(&self, _: &[Signal]) -> Vec<ParamSpec> {
        let spec = |name, start, role, min| ParamSpec { name, axes: self.axes.clone(), init: Init::Constant(start), role, min };
        let batches = spec("num_batches_tracked", 0.0, Role::Batches, Some(0.0));
        vec![
            spec("weight", self.gamma, Role::Trained, None),
            spec("bias", 0.0, Role::Trained, None),
            spec("running_mean", 0.0, Role::Running, None),
            spec("running_var", 1.0, Role::Running, Some(0.0)),
            ParamSpec { axes: vec![], ..batches },
        ]
    }

    fn linearity(&self) -> Linearity {
        Linearity::Affine
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![Multiplication::Factor { axes: self.axes.iter().map(|a| a.name.clone()).collect(), value: None }]
    }

    fn affine(&self, params: &[ParamId]) -> Option<(Expr, Option<Expr>)> {
        let axes: Vec<String> = self.axes.iter().map(|a| a.name.clone()).collect();
        let p = |i: usize| Expr::Param(params[i], axes.clone());
        let scale = p(0) / (p(3) + Expr::Const(self.epsilon)).sqrt();
        Some((scale.clone(), self.shifts.then(|| p(1) - p(2) * scale)))
    }

    fn unshifted(&self) -> Self {
        BatchNorm { shifts: false, ..self.clone() }
    }

    fn momentum(&self) -> Option<f64> {
        Some(self.momentum)
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let s = self.statistics(e);
        if !self.shifts {
            return (e.inputs[0] * &s.inverse * &s.spread(e.params[0])).into();
        }
        let normal = (e.inputs[0] - &s.mean) * &s.inverse;
        let value = normal * &s.spread(e.params[0]) + &s.spread(e.params[1]);
        let mut running = Vec::new();
        if e.train {
            let m = real::<F>(self.momentum);
            let keep = F::one() - m;
            let flat = |a: &ArrayD<F>| s.gather(a);
            let n = real::<F>(s.count * if e.signals[0].varies { 1.0 } else { e.time as f64 });
            running.push((2, e.params[2] * keep + flat(&s.mean) * m));
            running.push((3, e.params[3] * keep + flat(&s.variance) * (m * n / (n - F::one()))));
            running.push((4, e.params[4] + F::one()));
        }
        Evaluated { value, running }
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let s = self.statistics(e);
        let normal = (e.inputs[0] - &s.mean) * &s.inverse;
        let scale = &s.inverse * &s.spread(e.params[0]);
        let dbias = s.sum(grad);
        let dweight = s.sum(&(grad * &normal));
        let n = real::<F>(s.count);
        let dx = if e.train { (grad - &(&dbias / n) - &normal * &(&dweight / n)) * &scale } else { grad * &scale };
        let params = vec![Some(s.gather(&dweight)), Some(s.gather(&dbias)), None, None, None];
        Grads { inputs: vec![dx], params }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let x = cx.inputs[0];
        let [weight, bias, running_mean, running_var, batches] = cx.params[..] else { return x };
        if !cx.train {
            let inverse = inverse_deviation(cx.flow, running_var, self.epsilon);
            if !self.shifts {
                return cx.flow.map(&[x, inverse, weight], Scalar::Arg(0) * (Scalar::Arg(1) * Scalar::Arg(2)));
            }
            return normalise(cx.flow, [x, running_mean, inverse, weight, bias]);
        }
        let dims = Dims::param(&self.axes);
        let n = self.count(cx.flow.dims(x));
        let deviation = Scalar::Arg(0) - Scalar::Arg(1);
        let squared = deviation.clone() * deviation.clone();
        let (mean, variance) = if cx.narrow {
            // Both from one reading: E[x] = k + E[x - k] and Var[x] = E[(x - k)²] - E[x - k]², with k near the mean as it was.
            let shifted = cx.flow.map(&[x, running_mean], deviation);
            let squares = cx.flow.map(&[x, running_mean], squared);
            let (sum, squares) = (cx.flow.sum_to(shifted, &dims), cx.flow.sum_to(squares, &dims));
            let mean = cx.flow.map(&[running_mean, sum], Scalar::Arg(0) + Scalar::Arg(1) / n.clone());
            let off = Scalar::Arg(1) / n.clone();
            let spread = Scalar::Arg(0) / n.clone() - off.clone() * off;
            (mean, cx.flow.map(&[squares, sum], spread.bin(Bin::Max, Scalar::Const(0.0))))
        } else {
            let sum = cx.flow.sum_to(x, &dims);
            let mean = cx.flow.map(&[sum], Scalar::Arg(0) / n.clone());
            let squares = cx.flow.map(&[x, mean], squared);
            let squares = cx.flow.sum_to(squares, &dims);
            (mean, cx.flow.map(&[squares], Scalar::Arg(0) / n.clone()))
        };
        let inverse = inverse_deviation(cx.flow, variance, self.epsilon);
        let (keep, m) = (Scalar::Arg(0) * (1.0 - self.momentum), self.momentum);
        let new_mean = cx.flow.map(&[running_mean, mean], keep.clone() + Scalar::Arg(1) * m);
        let copies = if cx.flow.dims(x).time { 1.0 } else { cx.time as f64 };
        let all = n * copies;
        let unbiased = all.clone() / (all - 1.0);
        let new_var = cx.flow.map(&[running_var, variance], keep + Scalar::Arg(1) * unbiased * m);
        let new_batches = cx.flow.map(&[batches], Scalar::Arg(0) + 1.0);
        cx.running.extend([(2, new_mean), (3, new_var), (4, new_batches)]);
        cx.saved = vec![mean, inverse];
        normalise(cx.flow, [x, mean, inverse, weight, bias])
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let (x, g, weight) = (cx.inputs[0], cx.grad, cx.params[0]);
        let &[mean, inverse] = cx.saved else { return };
        let dims = Dims::param(&self.axes);
        let n = self.count(cx.flow.dims(x));
        let normal = (Scalar::Arg(1) - Scalar::Arg(2)) * Scalar::Arg(3);
        let products = cx.flow.map(&[g, x, mean, inverse], Scalar::Arg(0) * normal.clone());
        let dweight = cx.flow.sum_to(products, &dims);
        let dbias = cx.flow.sum_to(g, &dims);
        cx.param_grads[0] = Some(dweight);
        cx.param_grads[1] = Some(dbias);
        let centred = Scalar::Arg(0) - Scalar::Arg(4) / n.clone() - normal * (Scalar::Arg(5) / n);
        cx.input_map(0, &[g, x, mean, inverse, dbias, dweight, weight], centred * Scalar::Arg(3) * Scalar::Arg(6));
    }
}

impl BatchNorm {
    /// How many values one statistic is taken over, T counted only if the operand has it.
    fn count(&self, dims: &Dims) -> Scalar {
        let own: usize = self.axes.iter().map(|a| a.size).product();
        // Time steps are static: a training step runs all of them.
        let time = if dims.time { Scalar::Steps } else { Scalar::Const(1.0) };
        Scalar::Batch * time * (dims.elements() / own) as f64
    }

    fn statistics<F: Real>(&self, e: &Eval<'_, F>) -> Statistics<F> {
        let x = e.inputs[0];
        let mut s = Statistics {
            axes: self.axes.iter().map(|a| 2 + e.signals[0].position(&a.name).unwrap_or(0)).collect(),
            shape: x.shape().to_vec(),
            mean: ArrayD::zeros(vec![]),
            variance: ArrayD::zeros(vec![]),
            inverse: ArrayD::zeros(vec![]),
            count: 1.0,
        };
        s.count = (0..x.ndim()).filter(|a| !s.axes.contains(a)).map(|a| x.shape()[a]).product::<usize>() as f64;
        if e.train {
            let n = real::<F>(s.count);
            s.mean = s.sum(x) / n;
            let centred = x - &s.mean;
            s.variance = s.sum(&(&centred * &centred)) / n;
        } else {
            s.mean = s.spread(e.params[2]);
            s.variance = s.spread(e.params[3]);
        }
        s.inverse = s.variance.mapv(|v| F::one() / (v + real(self.epsilon)).sqrt());
        s
    }
}

/// Statistics in the reference's layout: the operand's rank, extent 1 where they do not vary.
struct Statistics<F> {
    axes: Vec<usize>,
    shape: Vec<usize>,
    mean: ArrayD<F>,
    variance: ArrayD<F>,
    inverse: ArrayD<F>,
    count: f64,
}

impl<F: Real> Statistics<F> {
    /// Sums over all axes but the statistic's own, keeping the rank.
    fn sum(&self, a: &ArrayD<F>) -> ArrayD<F> {
        let mut sum = a.clone();
        for axis in (0..a.ndim()).filter(|i| !self.axes.contains(i)) {
            sum = sum.sum_axis(At(axis)).insert_axis(At(axis));
        }
        sum
    }

    /// A parameter in the operand's rank; its own axes may be in another order.
    fn spread(&self, p: &ArrayD<F>) -> ArrayD<F> {
        let shape: Vec<usize> = (0..self.shape.len()).map(|i| if self.axes.contains(&i) { self.shape[i] } else { 1 }).collect();
        ArrayD::from_shape_fn(shape, |place| {
            let index: Vec<usize> = self.axes.iter().map(|a| place[*a]).collect();
            p[index.as_slice()]
        })
    }

    /// The reverse of [`Statistics::spread`].
    fn gather(&self, a: &ArrayD<F>) -> ArrayD<F> {
        let shape: Vec<usize> = self.axes.iter().map(|i| self.shape[*i]).collect();
        ArrayD::from_shape_fn(shape, |place| {
            let mut index = vec![0; self.shape.len()];
            self.axes.iter().enumerate().for_each(|(i, axis)| index[*axis] = place[i]);
            a[index.as_slice()]
        })
    }
}

fn inverse_deviation(flow: &mut Flow, variance: FlowId, epsilon: f64) -> FlowId {
    flow.map(&[variance], Scalar::Const(1.0) / (Scalar::Arg(0) + epsilon).un(Un::Sqrt))
}

/// (x - mean) · (inverse · weight) + bias: subtracting first loses nothing where the mean is large.
fn normalise(flow: &mut Flow, [x, mean, inverse, weight, bias]: [FlowId; 5]) -> FlowId {
    let scale = flow.map(&[inverse, weight], Scalar::Arg(0) * Scalar::Arg(1));
    flow.map(&[x, mean, scale, bias], (Scalar::Arg(0) - Scalar::Arg(1)) * Scalar::Arg(2) + Scalar::Arg(3))
}
