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
        Contract::Product { a, b, out, a_labels, b_labels, out_labels, a_spikes, b_spikes } => {
            let places = [a, b, out].map(|v| at(memory, v));
            let [a, b, out] = [dims(a, a_labels, call), dims(b, b_labels, call), dims(out, out_labels, call)];
            product(&a, &b, &out, places, [*a_spikes, *b_spikes]);
        }
        Contract::Conv { a, b, out, part, window, spikes } => conv(a, b, out, *part, *window, *spikes, memory, call),
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

fn product(a: &[Dim<'_>], b: &[Dim<'_>], out: &[Dim<'_>], [pa, pb, po]: [Pointer; 3], [a_spikes, b_spikes]: [bool; 2]) {
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
    // Rows that lie side by side are worth more than many rows, where the rest is small.
    let last = |axes: &[Axis<2>]| axes.last().map_or(1, |a| a.size);
    if last(&columns) * last(&terms) <= NARROW_AREA
        && let Some(beside) = rows.iter().position(|r| r.strides == [1, 1] && r.size >= 16)
    {
        let axis = rows.remove(beside);
        rows.push(axis);
    }
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
    if a_spikes && inner.len() == 1 && block.sparse() {
        return sparse_product(&block, &places, inner[0], [pa, pb, po]);
    }
    if b_spikes && inner.len() == 1 && places.len() == 1 && block.sparse_outer() {
        return sparse_gradient(&block, places[0], inner[0], [pa, pb, po]);
    }
    if block.narrow() {
        return narrow(&block, &places, &inner, [pa, pb, po]);
    }
    if block.dots() && places.len() == 1 {
        return dots(&block, places[0], &inner, [pa, pb, po]);
    }
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
                rows,
                n.size,
                len,
                out,
                column,
                row,
                add,
                a,
                k.strides[0],
                m.strides[0],
                b,
                n.strides[0],
                k.strides[1],
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

/// The longest axis that the loops below are used for: for the axial maps of mixers, a library's packing costs more than the
/// product.
const NARROW: usize = 64;
/// The largest product of columns and terms for the same.
const NARROW_AREA: usize = 1024;

impl Block {
    /// Few columns and terms, rows side by side: sums of scaled rows.
    fn narrow(&self) -> bool {
        self.m.strides == [1, 1] && self.n.size <= NARROW && self.k.size <= NARROW && self.n.size * self.k.size <= NARROW_AREA
    }

    /// Few rows and columns, terms side by side: dot products.
    fn dots(&self) -> bool {
        self.k.strides == [1, 1] && self.m.size <= NARROW && self.n.size <= NARROW && self.m.size * self.n.size <= NARROW_AREA
    }
}

impl Block {
    /// Rows of spikes side by side, rows of results side by side, and not so few that their packing shows.
    fn sparse(&self) -> bool {
        self.k.strides[0] == 1 && self.n.strides[1] == 1 && self.k.size * self.n.size > NARROW_AREA && self.m.size >= 16
    }

    /// The same for a weight's gradient: b's rows are spikes, a's are gradients; terms are the places.
    fn sparse_outer(&self) -> bool {
        self.n.strides[0] == 1 && self.m.strides[0] == 1 && self.m.size * self.n.size > NARROW_AREA && self.k.size >= 256
    }
}

/// Rows of spikes times weights: for every spike its row of weights is added.
fn sparse_product(block: &Block, places: &[[isize; 3]], inner: [isize; 2], p: [Pointer; 3]) {
    let (m, n, k) = (&block.m, &block.n, &block.k);
    for place in places {
        // [terms][columns], so that a spike's weights lie side by side.
        let mut weights = vec![0.0f32; k.size * n.size];
        for column in 0..n.size {
            for term in 0..k.size {
                let offset = place[1] + inner[1] + column as isize * n.strides[0] + term as isize * k.strides[1];
                // SAFETY: within the view.
                weights[term * n.size + column] = unsafe { *p[1].0.offset(offset) };
            }
        }
        let parts = m.size.div_ceil(ROWS);
        (0..parts).into_par_iter().for_each_init(Vec::new, |list, part| {
            let (first, rows) = (part * ROWS, (m.size - part * ROWS).min(ROWS));
            // SAFETY: rows lie within the views, and parts are disjoint.
            unsafe {
                let x = p[0].0.offset(place[0] + inner[0] + first as isize * m.strides[0]);
                let out = p[2].0.offset(place[2] + first as isize * m.strides[1]);
                sparse_rows(x, m.strides[0], k.size, &weights, out, m.strides[1], n.size, rows, list);
            }
        });
    }
}

/// The gradient of weights of spikes: for every spike the row of gradients is added to its weights'.
fn sparse_gradient(block: &Block, place: [isize; 3], inner: [isize; 2], p: [Pointer; 3]) {
    let (m, n, k) = (&block.m, &block.n, &block.k);
    let parts = k.size.div_ceil(TERMS);
    let partial: Vec<Vec<f32>> = (0..parts)
        .into_par_iter()
        .map(|part| {
            let (first, rows) = (part * TERMS, (k.size - part * TERMS).min(TERMS));
            let mut sums = vec![0.0f32; n.size * m.size];
            // SAFETY: rows lie within the views.
            unsafe {
                let x = p[1].0.offset(place[1] + inner[1] + first as isize * k.strides[1]);
                let g = p[0].0.offset(place[0] + inner[0] + first as isize * k.strides[0]);
                sparse_outer(x, k.strides[1], n.size, g, k.strides[0], m.size, &mut sums, rows, &mut Vec::new());
            }
            sums
        })
        .collect();
    for i in 0..m.size {
        for j in 0..n.size {
            let sum: f32 = partial.iter().map(|own| own[j * m.size + i]).sum();
            let offset = place[2] + i as isize * m.strides[1] + j as isize * n.strides[1];
            // SAFETY: within the result's view.
            unsafe { *p[2].0.offset(offset) = sum };
        }
    }
}

/// Runs `f` with the widest vectors the machine has.
macro_rules! widest {
    ($name:ident, $wide:ident, ($($arg:ident : $ty:ty),*) $body:block) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $wide($($arg: $ty),*) $body

        /// # Safety
        /// The pointers and strides must be those of views.
        unsafe fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                // SAFETY: the features are there; the rest is the caller's promise.
                return unsafe { $wide($($arg),*) };
            }
            $body
        }
    };
}

/// Elements kept in registers.
const STRIP: usize = 48;

widest!(scaled_rows, scaled_rows_wide, (block: &Block, a: *const f32, b: *const f32, out: *mut f32, add: bool) {
    let (m, n, k) = (&block.m, &block.n, &block.k);
    let mut first = 0;
    while first < m.size {
        let width = (m.size - first).min(STRIP);
        for column in 0..n.size {
            let mut sums = [0.0f32; STRIP];
            for term in 0..k.size {
                // SAFETY: all offsets lie within the views.
                let (factor, row) = unsafe {
                    let factor = *b.offset(column as isize * n.strides[0] + term as isize * k.strides[1]);
                    (factor, std::slice::from_raw_parts(a.offset(term as isize * k.strides[0] + first as isize), width))
                };
                if width == STRIP {
                    for i in 0..STRIP {
                        sums[i] += factor * row[i];
                    }
                } else {
                    for i in 0..width {
                        sums[i] += factor * row[i];
                    }
                }
            }
            // SAFETY: as above.
            let to = unsafe { std::slice::from_raw_parts_mut(out.offset(column as isize * n.strides[1] + first as isize), width) };
            for i in 0..width {
                to[i] = if add { to[i] + sums[i] } else { sums[i] };
            }
        }
        first += width;
    }
});

widest!(sparse_rows, sparse_rows_wide, (
    x: *const f32, x_row: isize, terms: usize, weights: &[f32], out: *mut f32, out_row: isize, columns: usize, rows: usize, list: &mut Vec<u32>
) {
    for row in 0..rows as isize {
        // SAFETY: the caller's promise.
        let (spikes, to) = unsafe {
            (std::slice::from_raw_parts(x.offset(row * x_row), terms), std::slice::from_raw_parts_mut(out.offset(row * out_row), columns))
        };
        find_spikes(spikes, list);
        let mut first = 0;
        while first < columns {
            let width = (columns - first).min(STRIP);
            let mut sums = [0.0f32; STRIP];
            if width == STRIP {
                for term in list.iter() {
                    let start = *term as usize * columns + first;
                    let row = &weights[start..start + STRIP];
                    for i in 0..STRIP {
                        sums[i] += row[i];
                    }
                }
            } else {
                for term in list.iter() {
                    let start = *term as usize * columns + first;
                    for (sum, w) in sums.iter_mut().zip(&weights[start..start + width]) {
                        *sum += w;
                    }
                }
            }
            to[first..first + width].copy_from_slice(&sums[..width]);
            first += width;
        }
    }
});

widest!(sparse_outer, sparse_outer_wide, (
    x: *const f32, x_row: isize, terms: usize, g: *const f32, g_row: isize, columns: usize, sums: &mut [f32], rows: usize, list: &mut Vec<u32>
) {
    for row in 0..rows as isize {
        // SAFETY: the caller's promise.
        let (spikes, gradients) = unsafe {
            (std::slice::from_raw_parts(x.offset(row * x_row), terms), std::slice::from_raw_parts(g.offset(row * g_row), columns))
        };
        find_spikes(spikes, list);
        for term in list.iter() {
            let start = *term as usize * columns;
            for (sum, g) in sums[start..start + columns].iter_mut().zip(gradients) {
                *sum += g;
            }
        }
    }
});

/// The indices of values that are not zero.
#[inline(always)]
fn find_spikes(row: &[f32], list: &mut Vec<u32>) {
    list.clear();
    list.resize(row.len(), 0);
    let mut count = 0;
    for (i, x) in row.iter().enumerate() {
        // Written always, kept if it counts: no branch to guess.
        list[count] = i as u32;
        count += usize::from(*x != 0.0);
    }
    list.truncate(count);
}

widest!(dot_products, dot_products_wide, (block: &Block, a: *const f32, b: *const f32, own: &mut [f32]) {
    const LANES: usize = 16;
    let (m, n, k) = (&block.m, &block.n, &block.k);
    for row in 0..m.size {
        for column in 0..n.size {
            // SAFETY: all offsets lie within the views.
            let (x, y) = unsafe {
                (
                    std::slice::from_raw_parts(a.offset(row as isize * m.strides[0]), k.size),
                    std::slice::from_raw_parts(b.offset(column as isize * n.strides[0]), k.size),
                )
            };
            let mut sums = [0.0f32; LANES];
            let (xs, x_rest) = x.as_chunks::<LANES>();
            let (ys, y_rest) = y.as_chunks::<LANES>();
            for (x, y) in xs.iter().zip(ys) {
                for i in 0..LANES {
                    sums[i] += x[i] * y[i];
                }
            }
            let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
            own[row * n.size + column] += sums.iter().sum::<f32>() + rest;
        }
    }
});

fn narrow(block: &Block, places: &[[isize; 3]], inner: &[[isize; 2]], p: [Pointer; 3]) {
    let chunk = (4 * ROWS / block.m.size.max(1)).max(1);
    places.par_chunks(chunk).for_each(|places| {
        for place in places {
            for (i, [ta, tb]) in inner.iter().enumerate() {
                // SAFETY: offsets are those of views; places of the result are disjoint.
                unsafe {
                    scaled_rows(block, p[0].0.offset(place[0] + ta), p[1].0.offset(place[1] + tb), p[2].0.offset(place[2]), i > 0);
                }
            }
        }
    });
}

fn dots(block: &Block, place: [isize; 3], inner: &[[isize; 2]], p: [Pointer; 3]) {
    let size = block.m.size * block.n.size;
    let chunk = (4 * TERMS / block.k.size.max(1)).max(1);
    let partial: Vec<Vec<f32>> = inner
        .par_chunks(chunk)
        .map(|inner| {
            let mut own = vec![0.0f32; size];
            for [ta, tb] in inner {
                // SAFETY: offsets are those of views.
                unsafe { dot_products(block, p[0].0.offset(place[0] + ta), p[1].0.offset(place[1] + tb), &mut own) };
            }
            own
        })
        .collect();
    for i in 0..block.m.size {
        for j in 0..block.n.size {
            let sum: f32 = partial.iter().map(|own| own[i * block.n.size + j]).sum();
            let offset = place[2] + i as isize * block.m.strides[1] + j as isize * block.n.strides[1];
            // SAFETY: within the result's view.
            unsafe { *p[2].0.offset(offset) = sum };
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
            // SAFETY: every part has a matrix of its own.
            let own = Pointer(unsafe { base.get().add(part * size) });
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

#[allow(clippy::too_many_arguments, reason = "the parts of one contraction")]
fn conv(a: &View, b: &View, out: &View, part: ConvPart, window: Window, spikes: bool, memory: &[Pointer], call: &Call) {
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
        ConvPart::Result => (0..images).into_par_iter().for_each_init(
            || (Vec::new(), Vec::new()),
            |(patches, list), n| {
                let (sample, step) = which(n);
                let (matrix, row, column) = patches_of(&x, sample, step, window, &y, patches, direct);
                if spikes && column == 1 && y.channel == 1 {
                    // SAFETY: as below.
                    return unsafe { sparse_rows(matrix, row, terms, &packed, y.image(sample, step), spread, outputs, rows, list) };
                }
                // SAFETY: all strides and extents are those of the views, the patches' matrix is rows · terms.
                unsafe {
                    gemm(
                        rows,
                        outputs,
                        terms,
                        y.image(sample, step),
                        y.channel as isize,
                        spread,
                        false,
                        matrix,
                        column,
                        row,
                        packed.as_ptr(),
                        1,
                        outputs as isize,
                        1.0,
                        1.0,
                        false,
                        false,
                        false,
                        Parallelism::None,
                    );
                }
            },
        ),
        ConvPart::Operand => (0..images).into_par_iter().for_each_init(Vec::new, |patches: &mut Vec<f32>, n| {
            let (sample, step) = which(n);
            if direct && x.stride[0] == x.stride[1] * x.size[1] {
                // Every place of the operand is one row: no patches.
                let step = step.min(x.steps - 1);
                // SAFETY: as above.
                return unsafe {
                    gemm(
                        rows,
                        terms,
                        outputs,
                        x.image(sample, step),
                        x.channel as isize,
                        x.stride[1] as isize,
                        false,
                        y.image(sample, step),
                        y.channel as isize,
                        spread,
                        packed.as_ptr(),
                        outputs as isize,
                        1,
                        1.0,
                        1.0,
                        false,
                        false,
                        false,
                        Parallelism::None,
                    );
                };
            }
            patches.resize(rows * terms, 0.0);
            // SAFETY: as above.
            unsafe {
                gemm(
                    rows,
                    terms,
                    outputs,
                    patches.as_mut_ptr(),
                    1,
                    terms as isize,
                    false,
                    y.image(sample, step),
                    y.channel as isize,
                    spread,
                    packed.as_ptr(),
                    outputs as isize,
                    1,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    Parallelism::None,
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
                    let (mut sum, mut patches, mut list) = (vec![0.0f32; terms * outputs], Vec::new(), Vec::new());
                    for sample in part * per..((part + 1) * per).min(call.batch) {
                        for step in 0..y.steps {
                            let (matrix, row, column) = patches_of(&x, sample, step, window, &y, &mut patches, direct);
                            if spikes && column == 1 && y.channel == 1 {
                                // SAFETY: as above.
                                unsafe {
                                    sparse_outer(matrix, row, terms, y.image(sample, step), spread, outputs, &mut sum, rows, &mut list);
                                }
                                continue;
                            }
                            // SAFETY: as above.
                            unsafe {
                                gemm(
                                    terms,
                                    outputs,
                                    rows,
                                    sum.as_mut_ptr(),
                                    1,
                                    outputs as isize,
                                    true,
                                    matrix,
                                    row,
                                    column,
                                    y.image(sample, step),
                                    y.channel as isize,
                                    spread,
                                    1.0,
                                    1.0,
                                    false,
                                    false,
                                    false,
                                    Parallelism::None,
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
