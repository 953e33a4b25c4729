//! Convolution over `H` and `W`.

use super::linear::{bias_grad, no_axis, rows, with_bias};
use super::*;
use crate::flow::{ConvPart, Def, Window};
use crate::types::Kind;
use ndarray::{Array2, ArrayBase, ArrayView2, ArrayViewMutD, Axis as At, IxDyn, RawData, Slice, s};

/// `conv(C = 64, kernel = 3, stride = 1, pad = 1, bias = true)`; padding is explicit, `pad = (1, 2)` means one row of
/// zeros before and two after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// Channels of the operand.
    pub channels_in: usize,
    /// Channels of the result.
    pub channels: usize,
    /// Geometry.
    pub window: Window,
    /// Adds a bias.
    pub bias: bool,
    /// How the weight starts.
    pub init: Init,
    /// How the bias starts.
    pub bias_init: Init,
}

/// Reads `kernel`, `stride` and `pad`.
pub(crate) fn read_window(args: &mut Arguments, stride: Option<usize>, pad: Option<usize>) -> Result<Window, Problem> {
    Ok(Window { kernel: args.pair("kernel", 1, None)?, stride: args.pair("stride", 1, stride)?, pad: args.pair("pad", 0, pad)? })
}

/// Reads the window of a pool, whose padding alone never fills it.
pub(crate) fn read_pool(args: &mut Arguments, stride: Option<usize>) -> Result<Window, Problem> {
    let window = read_window(args, stride, Some(0))?;
    if window.pad.iter().any(|p| window.kernel.iter().any(|k| p >= k)) {
        return Err(Problem::new("shape::extent", "the padding of a pool must be smaller than its kernel"));
    }
    Ok(window)
}

/// The operand's axes with `H` and `W` as the window leaves them.
pub(crate) fn windowed(window: &Window, signal: &Signal) -> Result<Vec<Axis>, Problem> {
    let mut axes = signal.axes.clone();
    for (i, name) in ["H", "W"].into_iter().enumerate() {
        let axis = axes.iter_mut().find(|a| a.name == name).ok_or_else(|| no_axis(signal, name))?;
        let size = axis.size;
        axis.size = window.out(i, size).ok_or_else(|| {
            let [before, after] = window.pad;
            let message = format!("a kernel of {} does not fit axis {name} = {size} with {before} + {after} rows of zeros", window.kernel[i]);
            Problem::new("shape::extent", message)
        })?;
    }
    Ok(axes)
}

impl Operator for Conv {
    fn read(args: &mut Arguments, inputs: &[Signal]) -> Result<Self, Problem> {
        let channels_in = inputs[0].size("C").ok_or_else(|| no_axis(&inputs[0], "C"))?;
        if let Some(other) = inputs[0].axes.iter().find(|a| !["C", "H", "W"].contains(&a.name.as_str())) {
            let problem = Problem::new("shape::axis", format!("`conv` works over C, H and W; {} has {} too", inputs[0], other.name));
            return Err(problem.help(format!("merge it into another axis, e.g. `merge({}, C -> C)`", other.name)));
        }
        let channels = args.required_int("C", 1)?;
        let window = read_window(args, Some(1), Some(0))?;
        let area = window.kernel[0].saturating_mul(window.kernel[1]);
        let bias = args.bool("bias")?.unwrap_or(true);
        let init = args.init(channels_in.saturating_mul(area), channels.saturating_mul(area))?;
        let bound = 1.0 / (channels_in.saturating_mul(area) as f64).sqrt();
        let bias_init = args.float("bias_init")?.map_or(Init::Uniform(bound), Init::Constant);
        Ok(Conv { channels_in, channels, window, bias, init, bias_init })
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let mut axes = windowed(&self.window, &inputs[0])?;
        axes.iter_mut().filter(|a| a.name == "C").for_each(|a| a.size = self.channels);
        let kind = if inputs[0].kind == Kind::Analog { Kind::Analog } else { Kind::Current };
        Ok(Signal::real(kind, axes, inputs[0].varies))
    }

    fn params(&self, _: &[Signal]) -> Vec<ParamSpec> {
        let out = Axis::new("out", self.channels);
        let [kh, kw] = self.window.kernel;
        let axes = vec![out.clone(), Axis::new("in", self.channels_in), Axis::new("kh", kh), Axis::new("kw", kw)];
        let mut specs = vec![ParamSpec { name: "weight", axes, init: self.init, role: Role::Trained, min: None }];
        if self.bias {
            specs.push(ParamSpec { name: "bias", axes: vec![out], init: self.bias_init, role: Role::Trained, min: None });
        }
        specs
    }

    fn linearity(&self) -> Linearity {
        Linearity::Map { input_axis: "C".into(), output_axis: "C".into(), window: self.window }
    }

    fn unshifted(&self) -> Self {
        Conv { bias: false, ..self.clone() }
    }

    fn widened(&self, window: Window) -> Option<Self> {
        Some(Conv { window, ..self.clone() })
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![Multiplication::Weights]
    }

    fn work(&self, _: &[Signal], out: &Signal) -> u64 {
        let terms = [self.channels_in, self.window.kernel[0], self.window.kernel[1]].iter().fold(1u64, |n, k| n.saturating_mul(*k as u64));
        (out.elements() as u64).saturating_mul(terms.saturating_add(u64::from(self.bias)))
    }

    fn around(&self, inputs: &[Signal], out: &Signal) -> u64 {
        let extents = |i: usize| ["H", "W"].get(i).map_or((1, 1), |n| (inputs[0].size(n).unwrap_or(1), out.size(n).unwrap_or(1)));
        let (all, inside) = (0..2).fold((1u64, 1u64), |(all, inside), i| {
            let (size, places) = extents(i);
            let reached = (0..places).map(|p| self.window.reached(i, p, size) as u64).sum::<u64>();
            (all.saturating_mul((places * self.window.kernel[i]) as u64), inside.saturating_mul(reached))
        });
        (all - inside).saturating_mul((self.channels_in * self.channels) as u64)
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let (x, w, b) = (e.inputs[0], e.params[0], e.params.get(1));
        let at = Places::of(e.signals[0]);
        let mut shape = x.raw_dim();
        for (i, name) in ["H", "W"].into_iter().enumerate() {
            shape[at.space[i]] = e.out.size(name).unwrap_or(1);
        }
        shape[at.channel] = self.channels;
        let mut y = ArrayD::zeros(shape);
        if let Some(b) = b {
            at.maps(y.view_mut()).assign(b);
        }
        for tap in self.taps(&at, x.shape(), y.shape()) {
            let product = rows(&part(at.maps(x.view()), tap.operand)).dot(&tap.weight(w).t());
            add(part(at.maps(y.view_mut()), tap.result), &product);
        }
        y.into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let (x, w) = (e.inputs[0], e.params[0]);
        let at = Places::of(e.signals[0]);
        let mut dx = ArrayD::zeros(x.raw_dim());
        let mut dw = ArrayD::zeros(w.raw_dim());
        for tap in self.taps(&at, x.shape(), grad.shape()) {
            let g = rows(&part(at.maps(grad.view()), tap.result));
            let [kh, kw] = tap.kernel;
            dw.slice_mut(s![.., .., kh, kw]).assign(&g.t().dot(&rows(&part(at.maps(x.view()), tap.operand))));
            add(part(at.maps(dx.view_mut()), tap.operand), &g.dot(&tap.weight(w)));
        }
        let db = self.bias.then(|| rows(&at.maps(grad.view())).sum_axis(At(0)).into_dyn());
        Grads { inputs: vec![dx], params: [Some(dw)].into_iter().chain(db.map(Some)).collect() }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let dims = cx.dims();
        let def = Def::Conv { a: cx.inputs[0], b: cx.params[0], part: ConvPart::Result, window: self.window };
        let y = cx.flow.push(def, dims);
        with_bias(cx, y, "C")
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        if cx.wanted[0] {
            let dims = cx.flow.dims(cx.inputs[0]).clone();
            let def = Def::Conv { a: cx.grad, b: cx.params[0], part: ConvPart::Operand, window: self.window };
            let dx = cx.flow.push(def, dims);
            cx.input_grad(0, dx);
        }
        let dims = cx.flow.dims(cx.params[0]).clone();
        let def = Def::Conv { a: cx.inputs[0], b: cx.grad, part: ConvPart::Weight, window: self.window };
        let dw = cx.flow.push(def, dims);
        cx.param_grad(0, dw);
        bias_grad(cx, "C");
    }
}

/// Where the axes of a picture are in a reference array.
pub(crate) struct Places {
    pub(crate) channel: usize,
    pub(crate) space: [usize; 2],
}

impl Places {
    pub(crate) fn of(signal: &Signal) -> Places {
        let at = |name| 2 + signal.position(name).unwrap_or(0);
        Places { channel: at("C"), space: [at("H"), at("W")] }
    }

    /// The array with its axes in the order of everything else, H, W, C.
    fn maps<S: RawData>(&self, array: ArrayBase<S, IxDyn>) -> ArrayBase<S, IxDyn> {
        let last = [self.space[0], self.space[1], self.channel];
        let order: Vec<usize> = (0..array.ndim()).filter(|axis| !last.contains(axis)).chain(last).collect();
        array.permuted_axes(order)
    }
}

/// One place of a kernel, and where along H and W it meets values.
struct Tap {
    kernel: [usize; 2],
    operand: [Slice; 2],
    result: [Slice; 2],
}

impl Tap {
    /// The weights of this place: [C of the result, C of the operand].
    fn weight<'w, F>(&self, w: &'w ArrayD<F>) -> ArrayView2<'w, F> {
        w.slice(s![.., .., self.kernel[0], self.kernel[1]])
    }
}

/// A part along H and W of an array in the order of [`Places::maps`].
fn part<S: RawData>(mut maps: ArrayBase<S, IxDyn>, slices: [Slice; 2]) -> ArrayBase<S, IxDyn> {
    let axes = maps.ndim();
    maps.slice_each_axis_inplace(|d| match axes - d.axis.index() {
        3 => slices[0],
        2 => slices[1],
        _ => Slice::from(..),
    });
    maps
}

/// Adds the rows of a matrix to an array.
fn add<F: Real>(maps: ArrayViewMutD<'_, F>, rows: &Array2<F>) {
    maps.into_iter().zip(rows).for_each(|(y, x)| *y += *x);
}

impl Conv {
    /// Every place of the kernel that meets a value.
    fn taps(&self, at: &Places, operand: &[usize], result: &[usize]) -> Vec<Tap> {
        let Window { kernel, stride, pad } = self.window;
        let along = |axis: usize, k: usize| {
            let (size, out, stride) = (operand[at.space[axis]], result[at.space[axis]], stride[axis]);
            let first = pad[0].saturating_sub(k).div_ceil(stride);
            let end = (size + pad[0]).saturating_sub(k).div_ceil(stride).min(out);
            let from = (first * stride + k).wrapping_sub(pad[0]);
            (first < end).then(|| (Slice::from(from..=from + (end - first - 1) * stride).step_by(stride as isize), Slice::from(first..end)))
        };
        let mut taps = Vec::new();
        for kh in 0..kernel[0] {
            for kw in 0..kernel[1] {
                if let (Some(h), Some(w)) = (along(0, kh), along(1, kw)) {
                    taps.push(Tap { kernel: [kh, kw], operand: [h.0, w.0], result: [h.1, w.1] });
                }
            }
        }
        taps
    }
}
