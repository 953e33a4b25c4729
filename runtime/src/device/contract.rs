//! Contractions by a GEMM library, cut into parts that do not depend on the number of threads.
#![allow(unsafe_code, reason = "the GEMM library takes pointers and strides")]

use super::cpu::{Call, Pointer};
use gemm::{Parallelism, gemm};
use rayon::prelude::*;
use snnc_compiler::flow::{ConvPart, Window};
use snnc_compiler::program::{Contract, View};

/// Rows of one part of a product.
const ROWS: usize = 1024;
/// Terms of one partial sum.
const TERMS: usize = 4096;

pub(super) fn run(contract: &Contract, memory: &[Pointer], call: &Call) {
    match contract {
        Contract::Product { a, b, out, a_labels, b_labels, out_labels } => {
            product(&dims(a, a_labels, call), &dims(b, b_labels, call), &dims(out, out_labels, call), [a, b, out].map(|v| at(memory, v)));
        }
        Contract::Conv { a, b, out, part, window } => conv(a, b, out, *part, *window, memory, call),
    }
}

fn at(memory: &[Pointer], view: &View) -> Pointer {
    // SAFETY: a view's offset lies in its buffer.
    Pointer(unsafe { memory[view.buffer.index()].0.add(view.offset) })
}

/// Label, extent, distance.
type Dim<'a> = (&'a str, usize, isize);

fn dims<'a>(view: &View, labels: &'a [String], call: &Call) -> Vec<Dim<'a>> {
    let mut out = Vec::new();
    let mut names = labels.iter().map(String::as_str);
    if view.batch > 0 {
        out.extend(names.next().map(|n| (n, call.batch, view.batch as isize)));
    }
    if view.time > 0 {
        out.extend(names.next().map(|n| (n, call.steps, view.time as isize)));
    }
    for (name, (_, size, stride)) in names.zip(&view.axes) {
        out.push((name, *size, *stride as isize));
    }
    out
}

/// A loop over extents with distances in two or three operands.
#[derive(Clone, Debug)]
struct Axis<const N: usize> {
    size: usize,
    strides: [isize; N],
}

/// Merges axes that follow each other without gap in all operands; the largest comes last.
fn merged<const N: usize>(mut axes: Vec<Axis<N>>) -> Vec<Axis<N>> {
    axes.retain(|a| a.size > 1);
    axes.sort_by_key(|a| std::cmp::Reverse(a.strides));
    let mut out: Vec<Axis<N>> = Vec::new();
    for axis in axes {
        match out.last_mut() {
            Some(outer) if outer.strides.iter().zip(&axis.strides).all(|(o, i)| *o == i * axis.size as isize) => {
                outer.size *= axis.size;
                outer.strides = axis.strides;
            }
            _ => out.push(axis),
        }
    }
    out.sort_by_key(|a| a.size);
    out
}

/// The offsets of all combinations of axes.
fn offsets<const N: usize>(axes: &[Axis<N>]) -> Vec<[isize; N]> {
    let mut all = vec![[0; N]];
    for axis in axes {
        let mut next = Vec::with_capacity(all.len() * axis.size);
        for base in &all {
            for i in 0..axis.size as isize {
                let mut offset = *base;
                offset.iter_mut().zip(axis.strides).for_each(|(o, s)| *o += i * s);
                next.push(offset);
            }
        }
        all = next;
    }
    all
}

fn product(a: &[Dim<'_>], b: &[Dim<'_>], out: &[Dim<'_>], [pa, pb, po]: [Pointer; 3]) {
    let find = |dims: &[Dim<'_>], label: &str| dims.iter().find(|(l, ..)| *l == label).map(|(_, _, s)| *s);
    let (mut rows, mut columns, mut shared) = (Vec::new(), Vec::new(), Vec::new());
    for (label, size, so) in out {
        match (find(a, label), find(b, label)) {
            (Some(sa), None) => rows.push(Axis { size: *size, strides: [sa, *so] }),
            (None, Some(sb)) => columns.push(Axis { size: *size, strides: [sb, *so] }),
            (Some(sa), Some(sb)) => shared.push(Axis { size: *size, strides: [sa, sb, *so] }),
            (None, None) => {}
        }
    }
    let mut terms: Vec<Axis<2>> = Vec::new();
    for (label, size, sa) in a {
        if find(out, label).is_none() {
            // A label that the other operand lacks is summed with it standing still.
            terms.push(Axis { size: *size, strides: [*sa, find(b, label).unwrap_or(0)] });
        }
    }
    for (label, size, sb) in b {
        if find(out, label).is_none() && find(a, label).is_none() {
            terms.push(Axis { size: *size, strides: [0, *sb] });
        }
    }
    let one = || Axis { size: 1, strides: [0, 0] };
    let (mut rows, mut columns, mut terms) = (merged(rows), merged(columns), merged(terms));
    let (m, n, k) = (rows.pop().unwrap_or_else(one), columns.pop().unwrap_or_else(one), terms.pop().unwrap_or_else(one));
    let mut places: Vec<[isize; 3]> = Vec::new();
    for [a0, b0, o0] in offsets(&merged(shared)) {
        for [a1, o1] in offsets(&rows) {
            for [b1, o2] in offsets(&columns) {
                places.push([a0 + a1, b0 + b1, o0 + o1 + o2]);
            }
        }
    }
    let inner = offsets(&terms);
    let total = k.size * inner.len();
    let block = Block { m, n, k };
    if total > 2 * TERMS && block.m.size * block.n.size * places.len() <= 1 << 18 {
        return summed(&block, &places, &inner, [pa, pb, po]);
    }
    let parts = block.m.size.div_ceil(ROWS);
    let small = places.len() * parts == 1 || block.m.size * block.n.size * total * places.len() < 1 << 16;
    // Few elements at many places: several places in one task.
    let chunk = (ROWS / block.m.size.max(1)).max(1);
    let task = |c: usize| {
        for place in places.iter().skip(c / parts * chunk).take(chunk) {
            let first = c % parts * ROWS;
            let rows = (block.m.size - first).min(ROWS);
            for (i, [ta, tb]) in inner.iter().enumerate() {
                let [oa, ob, oo] = *place;
                let from = [oa + ta + first as isize * block.m.strides[0], ob + tb, oo + first as isize * block.m.strides[1]];
                block.run(rows, 0..block.k.size, from, [pa, pb, po], i > 0, None);
            }
        }
    };
    let tasks = places.len().div_ceil(chunk) * parts;
    if small {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().for_each(task);
    }
}

/// The axes of one matrix product: rows, columns, terms, with distances in (a, out), (b, out), (a, b).
struct Block {
    m: Axis<2>,
    n: Axis<2>,
    k: Axis<2>,
}

impl Block {
    /// out (+)= a · b for some rows and terms; `dense` puts the result into a matrix of its own, rows of n.
    fn run(&self, rows: usize, terms: std::ops::Range<usize>, from: [isize; 3], p: [Pointer; 3], add: bool, dense: Option<Pointer>) {
        let [m, n, k] = [&self.m, &self.n, &self.k];
        let skip = terms.start as isize;
        // SAFETY: strides and extents are those of views, and ranges of rows and terms lie within them.
        unsafe {
            let a = p[0].0.offset(from[0] + skip * k.strides[0]);
            let b = p[1].0.offset(from[1] + skip * k.strides[1]);
            let (out, column, row) = match dense {
                None => (p[2].0.offset(from[2]), n.strides[1], m.strides[1]),
                Some(own) => (own.0, 1, n.size as isize),
            };
            let len = terms.len();
            gemm(
                rows, n.size, len, out, column, row, add, a, k.strides[0], m.strides[0], b, n.strides[0], k.strides[1], 1.0, 1.0, false,
                false, false, Parallelism::None,
            );
        }
    }
}

/// A small result of many terms: partial sums over fixed parts of the terms, added in order.
fn summed(block: &Block, places: &[[isize; 3]], inner: &[[isize; 2]], p: [Pointer; 3]) {
    let size = block.m.size * block.n.size;
    for place in places {
        let per = if inner.len() == 1 { TERMS.min(block.k.size) } else { block.k.size };
        let cuts = block.k.size.div_ceil(per);
        let each = (TERMS / block.k.size.max(1)).max(1);
        let parts = if inner.len() == 1 { cuts } else { inner.len().div_ceil(each) };
        let mut partial = vec![0.0f32; parts * size];
        let base = Pointer(partial.as_mut_ptr());
        (0..parts).into_par_iter().for_each(|part| {
            let base = base;
            // SAFETY: every part has a matrix of its own.
            let own = Pointer(unsafe { base.0.add(part * size) });
            let (which, terms) = if inner.len() == 1 {
                (0..1, part * per..((part + 1) * per).min(block.k.size))
            } else {
                (part * each..((part + 1) * each).min(inner.len()), 0..block.k.size)
            };
            for (i, [ta, tb]) in inner[which].iter().enumerate() {
                block.run(block.m.size, terms.clone(), [place[0] + ta, place[1] + tb, 0], p, i > 0, Some(own));
            }
        });
        for i in 0..block.m.size {
            for j in 0..block.n.size {
                let sum: f32 = (0..parts).map(|part| partial[part * size + i * block.n.size + j]).sum();
                let offset = place[2] + i as isize * block.m.strides[1] + j as isize * block.n.strides[1];
                // SAFETY: within the result's view.
                unsafe { *p[2].0.offset(offset) = sum };
            }
        }
    }
}

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

    fn image(&self, sample: usize, step: usize) -> *mut f32 {
        // SAFETY: sample and step lie within the view.
        unsafe { self.base.0.add(sample * self.batch + step * self.time) }
    }
}

fn conv(a: &View, b: &View, out: &View, part: ConvPart, window: Window, memory: &[Pointer], call: &Call) {
    let (pictures, grads, weights) = match part {
        ConvPart::Result => (a, out, b),
        ConvPart::Operand => (out, a, b),
        ConvPart::Weight => (a, b, out),
    };
    let (x, y) = (Picture::of(pictures, memory, call), Picture::of(grads, memory, call));
    let w = at(memory, weights);
    let [kh, kw] = window.kernel;
    let taps = kh * kw;
    let (inputs, outputs, terms) = (x.channels, y.channels, x.channels * taps);
    let rows = y.size[0] * y.size[1];
    // [o, i, kh, kw] as [kh, kw, i, o], the order in which patches are read.
    let order = |o: usize, i: usize, k: usize| ((o * inputs + i) * taps + k, (k * inputs + i) * outputs + o);
    let mut packed = vec![0.0f32; terms * outputs];
    if part != ConvPart::Weight {
        for o in 0..outputs {
            for i in 0..inputs {
                for k in 0..taps {
                    let (theirs, ours) = order(o, i, k);
                    // SAFETY: the weight has `terms · outputs` elements.
                    packed[ours] = unsafe { *w.0.add(theirs) };
                }
            }
        }
    }
    let direct = window.pointwise();
    // A row of the result follows the one before at this distance, within one image.
    let spread = y.stride[1] as isize;
    debug_assert_eq!(y.stride[0], y.stride[1] * y.size[1], "rows of a picture follow each other");
    let images = call.batch * y.steps;
    let which = |n: usize| (n / y.steps, n % y.steps);
    match part {
        ConvPart::Result => (0..images).into_par_iter().for_each_init(Vec::new, |patches, n| {
            let (sample, step) = which(n);
            let (matrix, row, column) = patches_of(&x, sample, step, window, &y, patches, direct);
            // SAFETY: all strides and extents are those of the views, the patches' matrix is rows · terms.
            unsafe {
                gemm(
                    rows, outputs, terms, y.image(sample, step), y.channel as isize, spread, false, matrix, column, row,
                    packed.as_ptr(), 1, outputs as isize, 1.0, 1.0, false, false, false, Parallelism::None,
                );
            }
        }),
        ConvPart::Operand => (0..images).into_par_iter().for_each_init(Vec::new, |patches: &mut Vec<f32>, n| {
            let (sample, step) = which(n);
            patches.resize(rows * terms, 0.0);
            // SAFETY: as above.
            unsafe {
                gemm(
                    rows, terms, outputs, patches.as_mut_ptr(), 1, terms as isize, false, y.image(sample, step), y.channel as isize,
                    spread, packed.as_ptr(), outputs as isize, 1, 1.0, 1.0, false, false, false, Parallelism::None,
                );
            }
            scatter(&x, sample, step, window, &y, patches);
        }),
        ConvPart::Weight => {
            let parts = call.batch.min(16);
            let per = call.batch.div_ceil(parts);
            let partial: Vec<Vec<f32>> = (0..parts)
                .into_par_iter()
                .map(|part| {
                    let (mut sum, mut patches) = (vec![0.0f32; terms * outputs], Vec::new());
                    for sample in part * per..((part + 1) * per).min(call.batch) {
                        for step in 0..y.steps {
                            let (matrix, row, column) = patches_of(&x, sample, step, window, &y, &mut patches, direct);
                            // SAFETY: as above.
                            unsafe {
                                gemm(
                                    terms, outputs, rows, sum.as_mut_ptr(), 1, outputs as isize, true, matrix, row, column,
                                    y.image(sample, step), y.channel as isize, spread, 1.0, 1.0, false, false, false, Parallelism::None,
                                );
                            }
                        }
                    }
                    sum
                })
                .collect();
            for o in 0..outputs {
                for i in 0..inputs {
                    for k in 0..taps {
                        let (theirs, ours) = order(o, i, k);
                        let sum: f32 = partial.iter().map(|p| p[ours]).sum();
                        // SAFETY: the gradient has `terms · outputs` elements.
                        unsafe { *w.0.add(theirs) = sum };
                    }
                }
            }
        }
    }
}

/// The operand's values under the window of every place of the result, as rows; with its distances of rows and columns.
fn patches_of(
    x: &Picture,
    sample: usize,
    step: usize,
    window: Window,
    y: &Picture,
    patches: &mut Vec<f32>,
    direct: bool,
) -> (*const f32, isize, isize) {
    let step = step.min(x.steps - 1);
    let image = x.image(sample, step);
    if direct && x.stride[0] == x.stride[1] * x.size[1] {
        return (image, x.stride[1] as isize, x.channel as isize);
    }
    let terms = x.channels * window.kernel[0] * window.kernel[1];
    patches.clear();
    patches.resize(y.size[0] * y.size[1] * terms, 0.0);
    each_tap(x, window, y, |row, tap, source| {
        let start = row * terms + tap * x.channels;
        let to = &mut patches[start..start + x.channels];
        for (c, v) in to.iter_mut().enumerate() {
            // SAFETY: the source lies inside the image.
            *v = unsafe { *image.add(source + c * x.channel) };
        }
    });
    (patches.as_ptr(), terms as isize, 1)
}

/// Adds the gradients of patches to the places they came from.
fn scatter(x: &Picture, sample: usize, step: usize, window: Window, y: &Picture, patches: &[f32]) {
    let image = x.image(sample, step);
    let terms = x.channels * window.kernel[0] * window.kernel[1];
    for h in 0..x.size[0] {
        for w in 0..x.size[1] {
            for c in 0..x.channels {
                // SAFETY: inside the image.
                unsafe { *image.add(h * x.stride[0] + w * x.stride[1] + c * x.channel) = 0.0 };
            }
        }
    }
    each_tap(x, window, y, |row, tap, source| {
        let start = row * terms + tap * x.channels;
        for (c, v) in patches[start..start + x.channels].iter().enumerate() {
            // SAFETY: inside the image.
            unsafe { *image.add(source + c * x.channel) += v };
        }
    });
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
