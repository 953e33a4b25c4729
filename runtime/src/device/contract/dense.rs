//! Dense products by a library.

use super::*;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use std::ops::Range;

/// A matrix in memory: its first element, and how far rows and columns are apart.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) at: *mut f32,
    pub(super) row: isize,
    pub(super) column: isize,
}

/// out (m x n) = a (m x k) · b (k x n), or added to it.
///
/// # Safety
/// The matrices must lie in memory with these extents; nobody else may use `out` meanwhile.
pub(super) unsafe fn multiply([m, n, k]: [usize; 3], out: Matrix, add: bool, a: Matrix, b: Matrix) {
    // SAFETY: the caller's promise.
    unsafe {
        let a = MatRef::from_raw_parts(a.at.cast_const(), m, k, a.row, a.column);
        let b = MatRef::from_raw_parts(b.at.cast_const(), k, n, b.row, b.column);
        let out = MatMut::from_raw_parts_mut(out.at, m, n, out.row, out.column);
        matmul(out, if add { Accum::Add } else { Accum::Replace }, a, b, 1.0, Par::Seq);
    }
    clear_upper_halves();
}

/// The library leaves values in the upper halves of vector registers; generated code, which moves lower halves with
/// instructions that keep the upper ones, would run an order of magnitude slower.
#[inline]
fn clear_upper_halves() {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the feature is there.
        unsafe { std::arch::x86_64::_mm256_zeroupper() }
    }
}

impl Block {
    /// out (+)= a · b for some rows and terms.
    fn run(&self, rows: usize, terms: Range<usize>, from: [isize; 3], p: [Pointer; 3], add: bool) {
        // SAFETY: offsets are those of views.
        let out = Matrix { at: unsafe { p[2].get().offset(from[2]) }, row: self.m.strides[1], column: self.n.strides[1] };
        self.into(rows, terms, [from[0], from[1]], [p[0], p[1]], out, add);
    }

    /// The same into any matrix.
    fn into(&self, rows: usize, terms: Range<usize>, from: [isize; 2], p: [Pointer; 2], out: Matrix, add: bool) {
        let skip = terms.start as isize;
        // SAFETY: strides and extents are those of views, and ranges of rows and terms lie within them.
        unsafe {
            let a = Matrix { at: p[0].get().offset(from[0] + skip * self.k.strides[0]), row: self.m.strides[0], column: self.k.strides[0] };
            let b = Matrix { at: p[1].get().offset(from[1] + skip * self.k.strides[1]), row: self.k.strides[1], column: self.n.strides[0] };
            multiply([rows, self.n.size, terms.len()], out, add, a, b);
        }
    }
}

/// One product for every place; many terms of a small result are cut into parts.
pub(super) fn product(block: &Block, places: &[[isize; 3]], inner: &[[isize; 2]], p: [Pointer; 3], team: &Team) {
    let total = block.k.size * inner.len();
    if total > TERMS && block.m.size * block.n.size * places.len() <= 1 << 18 {
        return summed(block, places, inner, p, team);
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
                block.run(rows, 0..block.k.size, from, p, i > 0);
            }
        }
    };
    let tasks = places.len().div_ceil(chunk) * parts;
    if small {
        (0..tasks).for_each(task);
    } else {
        team.each(tasks, task);
    }
}

/// A small result of many terms: partial sums over fixed parts of the terms, added in order.
fn summed(block: &Block, places: &[[isize; 3]], inner: &[[isize; 2]], p: [Pointer; 3], team: &Team) {
    let size = block.m.size * block.n.size;
    // One long axis of terms is cut; of several, the places of the others are shared out.
    let (long, short) = if inner.len() == 1 { (block.k.size, 1) } else { (inner.len(), block.k.size) };
    let per = long.div_ceil(PARTS).max(TERMS / short);
    let parts = long.div_ceil(per);
    for place in places {
        let mut partial = vec![0.0f32; parts * size];
        let base = Pointer(partial.as_mut_ptr());
        team.each(parts, |part| {
            // SAFETY: every part has a matrix of its own.
            let own = Pointer(unsafe { base.get().add(part * size) });
            let range = part * per..((part + 1) * per).min(long);
            let (which, terms) = if inner.len() == 1 { (0..1, range) } else { (range, 0..block.k.size) };
            for (i, [ta, tb]) in inner[which].iter().enumerate() {
                let out = Matrix { at: own.get(), row: block.n.size as isize, column: 1 };
                block.into(block.m.size, terms.clone(), [place[0] + ta, place[1] + tb], [p[0], p[1]], out, i > 0);
            }
        });
        let (sum, rest) = partial.split_at_mut(size);
        add_all(sum, rest);
        for i in 0..block.m.size {
            for j in 0..block.n.size {
                let offset = place[2] + i as isize * block.m.strides[1] + j as isize * block.n.strides[1];
                // SAFETY: within the result's view.
                unsafe { *p[2].0.offset(offset) = sum[i * block.n.size + j] };
            }
        }
    }
}

/// Adds matrices that follow each other to the first.
pub(super) fn add_all(sum: &mut [f32], rest: &[f32]) {
    for part in rest.chunks(sum.len()) {
        sum.iter_mut().zip(part).for_each(|(s, x)| *s += x);
    }
}
