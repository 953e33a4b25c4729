//! Convolution over `H` and `W`.

use super::linear::{bias_grad, no_axis, with_bias};
use super::*;
use crate::flow::{ConvPart, Def, Window};
use crate::types::Kind;

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
        Linearity::Map {
            input_axis: "C".into(),
            output_axis: "C".into(),
            zero_padded: self.window.pad != [0, 0],
            pointwise: self.window.pointwise(),
        }
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![Multiplication::Weights]
    }

    fn work(&self, _: &[Signal], out: &Signal) -> u64 {
        let terms = [self.channels_in, self.window.kernel[0], self.window.kernel[1]].iter().fold(1u64, |n, k| n.saturating_mul(*k as u64));
        (out.elements() as u64).saturating_mul(terms.saturating_add(u64::from(self.bias)))
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let (x, w, b) = (e.inputs[0], e.params[0], e.params.get(1));
        let at = Places::of(e.signals[0]);
        let mut shape = x.raw_dim();
        for (i, name) in ["H", "W"].into_iter().enumerate() {
            shape[at.space[i]] = e.out.size(name).unwrap_or(1);
        }
        shape[at.channel] = self.channels;
        ArrayD::from_shape_fn(shape, |place| {
            let o = place[at.channel];
            let mut sum = b.map_or(F::zero(), |b| b[[o].as_slice()]);
            self.taps(&at, x.shape(), &place, |source, i, kh, kw| sum += w[[o, i, kh, kw].as_slice()] * x[source]);
            sum
        })
        .into()
    }

    fn vjp<F: Real>(&self, e: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let (x, w) = (e.inputs[0], e.params[0]);
        let at = Places::of(e.signals[0]);
        let mut dx = ArrayD::zeros(x.raw_dim());
        let mut dw = ArrayD::zeros(w.raw_dim());
        let mut db = ArrayD::zeros(vec![self.channels]);
        for (place, &g) in grad.indexed_iter() {
            let o = place[at.channel];
            db[[o].as_slice()] += g;
            self.taps(&at, x.shape(), &place, |source, i, kh, kw| {
                dx[source] += g * w[[o, i, kh, kw].as_slice()];
                dw[[o, i, kh, kw].as_slice()] += g * x[source];
            });
        }
        let params = [Some(dw)].into_iter().chain(self.bias.then_some(Some(db))).collect();
        Grads { inputs: vec![dx], params }
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
}

impl Conv {
    /// Calls `f(source, in, kh, kw)` for every weight that meets a value at this place of the result.
    fn taps(&self, at: &Places, shape: &[usize], place: &ndarray::IxDyn, mut f: impl FnMut(&ndarray::IxDyn, usize, usize, usize)) {
        let mut source = place.clone();
        for kh in 0..self.window.kernel[0] {
            for kw in 0..self.window.kernel[1] {
                let mut inside = true;
                for (axis, k) in [(0, kh), (1, kw)] {
                    let y = (place[at.space[axis]] * self.window.stride[axis] + k).wrapping_sub(self.window.pad[0]);
                    inside &= y < shape[at.space[axis]];
                    source[at.space[axis]] = y;
                }
                if inside {
                    for i in 0..self.channels_in {
                        source[at.channel] = i;
                        f(&source, i, kh, kw);
                    }
                }
            }
        }
    }
}
