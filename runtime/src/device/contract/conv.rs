//! Convolutions over `H` and `W` as products of patches.

use super::*;

/// A picture: distances of samples, steps, rows, columns, channels, and extents.
struct Picture {
    base: Pointer,
    batch: usize,
    steps: usize,
    time: usize,
    size: [usize; 2],
    stride: [usize; 2],
    channels: usize,
    channel: usize,
}

impl Picture {
    fn of(view: &View, memory: &[Pointer], call: &Call) -> Picture {
        let axis = |name| view.axis(name).unwrap_or((1, 0));
        let ((h, sh), (w, sw), (c, sc)) = (axis("H"), axis("W"), axis("C"));
        let steps = if view.time > 0 { call.steps } else { 1 };
        let base = at(memory, view);
        Picture { base, batch: view.batch, steps, time: view.time, size: [h, w], stride: [sh, sw], channels: c, channel: sc }
    }

    /// Rows times columns.
    fn places(&self) -> usize {
        self.size[0] * self.size[1]
    }

    fn image(&self, sample: usize, step: usize) -> *mut f32 {
        // SAFETY: sample and step lie within the view.
        unsafe { self.base.0.add(sample * self.batch + step * self.time) }
    }
}

/// Places of the result that one product should have at least, if so many follow each other.
const PLACES: usize = 256;

/// One convolution: its operand `x`, its result `y` (or their gradients), and how they are cut into products.
struct Conv {
    x: Picture,
    y: Picture,
    window: Window,
    /// Time steps of a sample in one product.
    steps: usize,
    /// The operand is its own matrix of patches.
    direct: bool,
}

pub(super) fn run(a: &View, b: &View, out: &View, part: ConvPart, window: Window, memory: &[Pointer], call: &Call, team: &Team) {
    let (pictures, grads, weights) = match part {
        ConvPart::Result => (a, out, b),
        ConvPart::Operand => (out, a, b),
        ConvPart::Weight => (a, b, out),
    };
    let (x, y) = (Picture::of(pictures, memory, call), Picture::of(grads, memory, call));
    debug_assert_eq!(x.steps, y.steps, "both vary over time, or neither");
    let (places, follow) = (y.places(), |p: &Picture| p.time == p.places() * p.stride[1]);
    let steps = if follow(&y) { (PLACES / places).clamp(1, y.steps) } else { 1 };
    let direct = window.pointwise() && x.stride[0] == x.stride[1] * x.size[1] && (steps == 1 || follow(&x));
    let conv = Conv { x, y, window, steps, direct };
    match part {
        ConvPart::Result => conv.result(at(memory, weights), call, team),
        ConvPart::Operand => conv.operand(at(memory, weights), call, team),
        ConvPart::Weight => conv.weight(at(memory, weights), call, team),
    }
}

impl Conv {
    fn taps(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// Columns of the matrix of patches.
    fn terms(&self) -> usize {
        self.x.channels * self.taps()
    }

    /// First time steps of the products of a sample, with how many there are.
    fn cuts(&self) -> impl Iterator<Item = (usize, usize)> {
        let (all, each) = (self.y.steps, self.steps);
        (0..all).step_by(each).map(move |first| (first, each.min(all - first)))
    }

    /// Index into weights `[o, i, kh, kw]` and into `[kh, kw, i, o]`, the order in which patches are read.
    fn each_weight(&self, mut f: impl FnMut(usize, usize)) {
        let (inputs, outputs, taps) = (self.x.channels, self.y.channels, self.taps());
        for o in 0..outputs {
            for i in 0..inputs {
                for k in 0..taps {
                    f((o * inputs + i) * taps + k, (k * inputs + i) * outputs + o);
                }
            }
        }
    }

    fn packed(&self, weights: Pointer) -> Vec<f32> {
        let mut packed = vec![0.0; self.terms() * self.y.channels];
        // SAFETY: the weight has as many elements.
        self.each_weight(|theirs, ours| packed[ours] = unsafe { *weights.get().add(theirs) });
        packed
    }

    fn result_matrix(&self, sample: usize, step: usize) -> Matrix {
        Matrix { at: self.y.image(sample, step), row: self.y.stride[1] as isize, column: self.y.channel as isize }
    }

    fn result(&self, weights: Pointer, call: &Call, team: &Team) {
        let mut packed = self.packed(weights);
        let outputs = self.y.channels;
        let weights = Pointer(packed.as_mut_ptr());
        team.each_with(call.batch, |patches: &mut Vec<f32>, sample| {
            let weights = Matrix { at: weights.get(), row: outputs as isize, column: 1 };
            for (first, steps) in self.cuts() {
                let matrix = self.patches(sample, first, steps, patches);
                let (out, rows) = (self.result_matrix(sample, first), steps * self.y.places());
                // SAFETY: extents and strides are those of the views.
                unsafe { multiply([rows, outputs, self.terms()], out, false, matrix, weights) };
            }
        });
    }

    fn operand(&self, weights: Pointer, call: &Call, team: &Team) {
        let mut packed = self.packed(weights);
        let weights = Pointer(packed.as_mut_ptr());
        let terms = self.terms();
        team.each_with(call.batch, |patches: &mut Vec<f32>, sample| {
            for (first, steps) in self.cuts() {
                let rows = steps * self.y.places();
                let out = if self.direct {
                    Matrix { at: self.x.image(sample, first), row: self.x.stride[1] as isize, column: self.x.channel as isize }
                } else {
                    patches.resize(rows * terms, 0.0);
                    Matrix { at: patches.as_mut_ptr(), row: terms as isize, column: 1 }
                };
                let transposed = Matrix { at: weights.get(), row: 1, column: self.y.channels as isize };
                // SAFETY: extents and strides are those of the views; samples are disjoint.
                unsafe { multiply([rows, terms, self.y.channels], out, false, self.result_matrix(sample, first), transposed) };
                if !self.direct {
                    self.scatter(sample, first, steps, patches);
                }
            }
        });
    }

    fn weight(&self, gradient: Pointer, call: &Call, team: &Team) {
        let (terms, outputs) = (self.terms(), self.y.channels);
        let per = call.batch.div_ceil(PARTS);
        let parts = call.batch.div_ceil(per);
        let size = terms * outputs;
        let mut partial = vec![0.0f32; parts * size];
        let base = Pointer(partial.as_mut_ptr());
        team.each_with(parts, |patches: &mut Vec<f32>, part| {
            // SAFETY: every part has a matrix of its own.
            let out = Matrix { at: unsafe { base.get().add(part * size) }, row: outputs as isize, column: 1 };
            for sample in part * per..((part + 1) * per).min(call.batch) {
                for (step, steps) in self.cuts() {
                    let matrix = self.patches(sample, step, steps, patches);
                    let (grad, rows) = (self.result_matrix(sample, step), steps * self.y.places());
                    let transposed = Matrix { at: matrix.at, row: matrix.column, column: matrix.row };
                    // SAFETY: extents and strides are those of the views.
                    unsafe { multiply([terms, outputs, rows], out, true, transposed, grad) };
                }
            }
        });
        let (sum, rest) = partial.split_at_mut(size);
        dense::add_all(sum, rest);
        // SAFETY: the gradient has as many elements.
        self.each_weight(|theirs, ours| unsafe { *gradient.get().add(theirs) = sum[ours] });
    }

    /// The operand's values under the window of every place of the result, as rows.
    fn patches(&self, sample: usize, first: usize, steps: usize, patches: &mut Vec<f32>) -> Matrix {
        let x = &self.x;
        if self.direct {
            return Matrix { at: x.image(sample, first), row: x.stride[1] as isize, column: x.channel as isize };
        }
        let terms = self.terms();
        patches.clear();
        patches.resize(steps * self.y.places() * terms, 0.0);
        for (step, patches) in patches.chunks_mut(self.y.places() * terms).enumerate() {
            let image = x.image(sample, first + step);
            each_tap(x, self.window, &self.y, |row, tap, source| {
                let start = row * terms + tap * x.channels;
                let to = &mut patches[start..start + x.channels];
                // SAFETY: the source lies inside the image.
                unsafe {
                    if x.channel == 1 {
                        to.copy_from_slice(std::slice::from_raw_parts(image.add(source), x.channels));
                    } else {
                        to.iter_mut().enumerate().for_each(|(c, v)| *v = *image.add(source + c * x.channel));
                    }
                }
            });
        }
        Matrix { at: patches.as_mut_ptr(), row: terms as isize, column: 1 }
    }

    /// Sums the gradients of patches at the places they came from.
    fn scatter(&self, sample: usize, first: usize, steps: usize, patches: &[f32]) {
        let x = &self.x;
        let terms = self.terms();
        for step in 0..steps {
            let image = x.image(sample, first + step);
            for h in 0..x.size[0] {
                for w in 0..x.size[1] {
                    for c in 0..x.channels {
                        // SAFETY: inside the image.
                        unsafe { *image.add(h * x.stride[0] + w * x.stride[1] + c * x.channel) = 0.0 };
                    }
                }
            }
            let patches = &patches[step * self.y.places() * terms..];
            each_tap(x, self.window, &self.y, |row, tap, source| {
                let start = row * terms + tap * x.channels;
                for (c, v) in patches[start..start + x.channels].iter().enumerate() {
                    // SAFETY: inside the image.
                    unsafe { *image.add(source + c * x.channel) += v };
                }
            });
        }
    }
}

/// Calls `f(row, tap, offset)` for every place of the result and every tap that lies inside the operand.
fn each_tap(x: &Picture, window: Window, y: &Picture, mut f: impl FnMut(usize, usize, usize)) {
    for oh in 0..y.size[0] {
        for ow in 0..y.size[1] {
            for kh in 0..window.kernel[0] {
                let h = (oh * window.stride[0] + kh).wrapping_sub(window.pad[0]);
                if h >= x.size[0] {
                    continue;
                }
                for kw in 0..window.kernel[1] {
                    let w = (ow * window.stride[1] + kw).wrapping_sub(window.pad[0]);
                    if w < x.size[1] {
                        f(oh * y.size[1] + ow, kh * window.kernel[1] + kw, h * x.stride[0] + w * x.stride[1]);
                    }
                }
            }
        }
    }
}
