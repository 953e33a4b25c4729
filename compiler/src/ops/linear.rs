//! A linear map over one named axis, the same for all other places. The axis may be `T`, from or to, where the network need
//! not run one time step at a time.

use super::*;
use crate::flow::{Def, Dims, Flow, Scalar, Window};
use ndarray::{Array2, ArrayViewD, Axis as At, IxDyn};

/// `linear(C -> D = 10, bias = true)`: y\[…, o, …\] = Σ_i W\[o, i\] x\[…, i, …\] + b\[o\]. `linear(T -> R = 2)` sums over the time
/// steps (a static operand counts as T equal ones); `linear(R -> T)` gives a value for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// Summed over.
    pub from: Axis,
    /// Takes its place.
    pub to: Axis,
    /// Adds a bias.
    pub bias: bool,
    /// How the weight starts.
    pub init: Init,
    /// How the bias starts.
    pub bias_init: Init,
}

impl Operator for Linear {
    fn read(args: &mut Arguments, inputs: &[Signal]) -> Result<Self, Problem> {
        let example = "linear(C -> C = 10)";
        let (from, to) = args.required_arrow(example)?;
        let ([(from, from_span)], [(to, size, to_span)]) = (from.as_slice(), to.as_slice()) else {
            return Err(Problem::new("build::type", "`linear` maps one axis to one axis").help(format!("for example `{example}`")));
        };
        let signal = &inputs[0];
        let in_size = match signal.size(from) {
            _ if from == "T" => args.time,
            Some(n) => n,
            None => return Err(no_axis(signal, from).at(*from_span)),
        };
        if to == "T" && (from == "T" || signal.varies) {
            let problem = Problem::new("shape::axis", format!("{signal} varies over T already")).at(*to_span);
            return Err(problem.help("map from T first: `linear(T -> R = 2)`"));
        }
        if let Some(n) = size.filter(|n| to == "T" && usize::try_from(*n).ok() != Some(args.time)) {
            return Err(Problem::new("shape::extent", format!("T is {}, not {n}", args.time)).at(*to_span));
        }
        let out_size = match size {
            _ if to == "T" => args.time,
            Some(n) => usize::try_from(*n).ok().filter(|n| (1..=i32::MAX as usize).contains(n)).ok_or_else(|| {
                Problem::new("shape::extent", format!("axis `{to}` would have extent {n}")).at(*to_span)
            })?,
            None if to == from => in_size,
            None => {
                let help = format!("write `linear({from} -> {to} = size)`");
                return Err(Problem::new("build::missing_argument", format!("the size of `{to}` is missing")).at(*to_span).help(help));
            }
        };
        if to != from && signal.size(to).is_some() {
            return Err(Problem::new("shape::axis", format!("there is an axis `{to}` already in {signal}")).at(*to_span));
        }
        let bias = args.bool("bias")?.unwrap_or(to != "T");
        if bias && to == "T" {
            return Err(Problem::new("build::value", "a map to T has no bias").help("write `bias = false`"));
        }
        let init = args.init(in_size, out_size)?;
        let bias_init = args.float("bias_init")?.map_or(Init::Uniform(1.0 / (in_size as f64).sqrt()), Init::Constant);
        Ok(Linear { from: Axis::new(from, in_size), to: Axis::new(to, out_size), bias, init, bias_init })
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let signal = &inputs[0];
        let kind = if signal.kind == Kind::Analog { Kind::Analog } else { Kind::Current };
        let (from_time, to_time) = (self.from.name == "T", self.to.name == "T");
        let mut axes = signal.axes.clone();
        match (axes.iter().position(|a| a.name == self.from.name), to_time) {
            (Some(at), true) => drop(axes.remove(at)),
            (Some(at), false) => axes[at] = self.to.clone(),
            (None, true) => {}
            (None, false) => axes.insert(0, self.to.clone()),
        }
        Ok(Signal::real(kind, axes, to_time || (signal.varies && !from_time)))
    }

    fn params(&self, _: &[Signal]) -> Vec<ParamSpec> {
        let (out, from) = (Axis::new("out", self.to.size), Axis::new("in", self.from.size));
        let mut specs = vec![ParamSpec { name: "weight", axes: vec![out.clone(), from], init: self.init, role: Role::Trained, min: None }];
        if self.bias {
            specs.push(ParamSpec { name: "bias", axes: vec![out], init: self.bias_init, role: Role::Trained, min: None });
        }
        specs
    }

    fn linearity(&self) -> Linearity {
        Linearity::Map {
            input_axis: self.from.name.clone(),
            output_axis: self.to.name.clone(),
            window: Window::POINT,
        }
    }

    fn unshifted(&self) -> Self {
        Linear { bias: false, ..self.clone() }
    }

    fn streams(&self) -> bool {
        self.from.name != "T" && self.to.name != "T"
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![Multiplication::Weights]
    }

    fn work(&self, _: &[Signal], out: &Signal) -> u64 {
        (out.elements() as u64).saturating_mul(self.from.size as u64 + u64::from(self.bias))
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let x = self.last(e.inputs[0], e.signals[0], e.time);
        let mut y = rows(&x.view()).dot(&rows(&e.params[0].view()).t());
        if let Some(b) = e.params.get(1) {
            y += *b;
        }
        let mut shape = x.raw_dim();
        shape[x.ndim() - 1] = self.to.size;
        back(shaped(&y, shape), self.place(e.out, &self.to)).into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let x = self.last(e.inputs[0], e.signals[0], e.time);
        let grad = rows(&forth(grad.clone(), self.place(e.out, &self.to)).view());
        let dx = shaped(&grad.dot(&rows(&e.params[0].view())), x.raw_dim());
        let dw = grad.t().dot(&rows(&x.view())).into_dyn();
        let db = self.bias.then(|| grad.sum_axis(At(0)).into_dyn());
        let params = [Some(dw)].into_iter().chain(db.map(Some)).collect();
        Grads { inputs: vec![back(dx, self.place(e.signals[0], &self.from))], params }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        if self.copies(cx.signals[0]) {
            let sums = self.sums(cx.flow, cx.params[0]);
            let y = cx.flow.map_to(&[cx.inputs[0], sums], Scalar::Arg(0) * Scalar::Arg(1), dims);
            return with_bias(cx, y, &self.to.name);
        }
        let x_labels = cx.flow.dims(cx.inputs[0]).labels();
        let out_labels = relabel(dims.labels(), &self.to.name, "out");
        let product = Def::Product {
            a: cx.inputs[0],
            b: cx.params[0],
            a_labels: relabel(x_labels, &self.from.name, "in"),
            b_labels: cx.flow.dims(cx.params[0]).labels(),
            out_labels,
        };
        let y = cx.flow.push(product, dims);
        with_bias(cx, y, &self.to.name)
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let x_dims = cx.flow.dims(cx.inputs[0]).clone();
        let w_dims = cx.flow.dims(cx.params[0]).clone();
        if self.copies(cx.signals[0]) {
            let sums = self.sums(cx.flow, cx.params[0]);
            cx.input_map(0, &[cx.grad, sums], Scalar::Arg(0) * Scalar::Arg(1));
            // The same for every step that the operand stands for.
            let products = cx.flow.map(&[cx.grad, cx.inputs[0]], Scalar::Arg(0) * Scalar::Arg(1));
            let once = cx.flow.sum_to(products, &Dims::param(std::slice::from_ref(&self.to)));
            let once = renamed(cx.flow, once, "out");
            let dw = cx.flow.map_to(&[once], Scalar::Arg(0), w_dims);
            cx.param_grad(0, dw);
            return bias_grad(cx, &self.to.name);
        }
        let x_labels = relabel(x_dims.labels(), &self.from.name, "in");
        let g_labels = relabel(cx.flow.dims(cx.grad).labels(), &self.to.name, "out");
        let w_labels = w_dims.labels();
        if cx.wanted[0] {
            let def = Def::Product {
                a: cx.grad,
                b: cx.params[0],
                a_labels: g_labels.clone(),
                b_labels: w_labels.clone(),
                out_labels: x_labels.clone(),
            };
            let dx = cx.flow.push(def, x_dims);
            cx.input_grad(0, dx);
        }
        let def = Def::Product { a: cx.grad, b: cx.inputs[0], a_labels: g_labels, b_labels: x_labels, out_labels: w_labels };
        let dw = cx.flow.push(def, w_dims);
        cx.param_grad(0, dw);
        bias_grad(cx, &self.to.name);
    }
}

impl Linear {
    /// The operand is one value that stands for T equal ones.
    fn copies(&self, operand: &Signal) -> bool {
        self.from.name == "T" && !operand.varies
    }

    /// The weight summed over its inputs, along the result's axis.
    fn sums(&self, flow: &mut Flow, weight: FlowId) -> FlowId {
        let sums = flow.sum_to(weight, &Dims::param(&[Axis::new("out", self.to.size)]));
        renamed(flow, sums, &self.to.name)
    }

    /// Where an axis is in a reference array: time steps first, then samples.
    fn place(&self, signal: &Signal, axis: &Axis) -> usize {
        if axis.name == "T" { 0 } else { 2 + signal.position(&axis.name).unwrap_or(0) }
    }

    /// The operand with the axis summed over last, all time steps there if it is `T`.
    fn last<F: Real>(&self, x: &ArrayD<F>, signal: &Signal, time: usize) -> ArrayD<F> {
        let wide = if self.from.name == "T" { concat::over_time(x, time) } else { x.clone() };
        forth(wide, self.place(signal, &self.from))
    }
}

/// An axis of a reference array brought to its end; where it was the time steps, one is left.
fn forth<F: Real>(x: ArrayD<F>, from: usize) -> ArrayD<F> {
    let mut order: Vec<usize> = (0..x.ndim()).filter(|i| *i != from).collect();
    order.push(from);
    let moved = x.permuted_axes(order);
    if from == 0 { moved.insert_axis(At(0)) } else { moved }
}

/// The way back.
fn back<F: Real>(y: ArrayD<F>, to: usize) -> ArrayD<F> {
    let y = if to == 0 { y.index_axis_move(At(0), 0) } else { y };
    let mut order: Vec<usize> = (0..y.ndim() - 1).collect();
    order.insert(to, y.ndim() - 1);
    y.permuted_axes(order).as_standard_layout().into_owned()
}

/// The problem of an axis that a signal does not have.
pub(crate) fn no_axis(signal: &Signal, name: &str) -> Problem {
    let problem = Problem::new("shape::axis", format!("{signal} has no axis `{name}`"));
    match crate::value::nearest(name, signal.axes.iter().map(|a| a.name.as_str())) {
        Some(near) => problem.help(format!("did you mean `{near}`?")),
        None => problem.help(format!("its axes are {}", signal.axes_text())),
    }
}

/// Renames a label.
pub(crate) fn relabel(labels: Vec<String>, from: &str, to: &str) -> Vec<String> {
    labels.into_iter().map(|l| if l == from { to.to_owned() } else { l }).collect()
}

/// Adds the second parameter along `axis`, if there is one.
pub(crate) fn with_bias(cx: &mut Forward<'_>, y: FlowId, axis: &str) -> FlowId {
    let Some(&bias) = cx.params.get(1) else { return y };
    let bias = renamed(cx.flow, bias, axis);
    cx.flow.map(&[y, bias], Scalar::Arg(0) + Scalar::Arg(1))
}

/// The gradient of the bias: the sum over all but `axis`.
pub(crate) fn bias_grad(cx: &mut Backward<'_>, axis: &str) {
    if cx.params.len() > 1 {
        let size = cx.out.size(axis).unwrap_or(1);
        let dims = Dims::param(&[Axis::new(axis, size)]);
        cx.param_grads[1] = Some(cx.flow.sum_to(cx.grad, &dims));
    }
}

/// A one-dimensional tensor read along another axis name.
pub(crate) fn renamed(flow: &mut Flow, vector: FlowId, axis: &str) -> FlowId {
    let own = flow.dims(vector).axes[0].clone();
    flow.reshape(vector, &[own.name], vec![Axis::new(axis, own.size)])
}

use crate::types::Kind;
/// The last axis against all others.
pub(crate) fn rows<F: Real>(maps: &ArrayViewD<'_, F>) -> Array2<F> {
    let channels = maps.shape().last().copied().unwrap_or(1);
    let values = maps.iter().copied().collect::<Vec<F>>();
    Array2::from_shape_vec((values.len() / channels.max(1), channels), values).unwrap_or_else(|_| Array2::zeros((0, channels)))
}

fn shaped<F: Real>(rows: &Array2<F>, shape: IxDyn) -> ArrayD<F> {
    let standard = rows.as_standard_layout().into_owned();
    standard.into_shape_with_order(shape.clone()).unwrap_or_else(|_| ArrayD::zeros(shape))
}
