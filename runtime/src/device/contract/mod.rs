//! Contractions of training steps, cut into parts that do not depend on the number of threads: by a library of dense
//! products, or by loops of our own where its packing would cost more than the product.
#![allow(unsafe_code, reason = "operands are views: pointers and strides")]

mod conv;
mod dense;
mod narrow;

use super::cpu::{Call, Pointer};
use super::team::Team;
use dense::{Matrix, multiply};
use snnc_compiler::backend::product::{Axis, Dim, Loops, dims, offsets};
use snnc_compiler::flow::{ConvPart, Window};
use snnc_compiler::program::{Contract, View};

/// Rows of one part of a product.
const ROWS: usize = 256;
/// Most partial sums of one product.
const PARTS: usize = 16;
/// Least terms of one partial sum.
const TERMS: usize = 512;

/// Runs `f` with the widest vectors the machine has.
macro_rules! widest {
    ($name:ident, $wide:ident, ($($arg:ident : $ty:ty),*) $body:block) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $wide($($arg: $ty),*) $body

        /// # Safety
        /// The pointers and strides must be those of views.
        pub(super) unsafe fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                // SAFETY: the features are there; the rest is the caller's promise.
                return unsafe { $wide($($arg),*) };
            }
            $body
        }
    };
}
use widest;

pub(super) fn run(contract: &Contract, memory: &[Pointer], call: &Call, team: &Team) {
    match contract {
        Contract::Product { a, b, out, a_labels, b_labels, out_labels } => {
            let places = [a, b, out].map(|v| at(memory, v));
            let [a, b, out] = [(a, a_labels), (b, b_labels), (out, out_labels)].map(|(v, labels)| dims(v, labels, call.batch, call.steps));
            product(&a, &b, &out, places, team);
        }
        Contract::Masked { .. } => unreachable!("spikes are bits in 16-bit training alone, which is a device's"),
        Contract::Overflow { of, out } => {
            let finite = |view: &View| {
                let size = view.axes.iter().map(|(_, size, _)| size).product();
                // SAFETY: the view is a whole buffer of so many numbers.
                let values = unsafe { std::slice::from_raw_parts(at(memory, view).0, size) };
                values.iter().all(|x| x.is_finite())
            };
            let found = if of.iter().all(finite) { 0.0 } else { 1.0 };
            // SAFETY: the result is one number.
            unsafe { *at(memory, out).0 = found };
        }
        Contract::Conv { a, b, out, part, window } => conv::run(a, b, out, *part, *window, memory, call, team),
    }
}

fn at(memory: &[Pointer], view: &View) -> Pointer {
    // SAFETY: a view's offset lies in its buffer.
    Pointer(unsafe { memory[view.buffer.index()].0.add(view.offset) })
}

fn product(a: &[Dim<'_>], b: &[Dim<'_>], out: &[Dim<'_>], [pa, pb, po]: [Pointer; 3], team: &Team) {
    let Loops { mut rows, mut columns, shared, mut terms } = Loops::of(a, b, out);
    // Rows that lie side by side are worth more than many rows, where the rest is small.
    let last = |axes: &[Axis<2>]| axes.last().map_or(1, |a| a.size);
    if last(&columns) * last(&terms) <= narrow::AREA
        && let Some(beside) = rows.iter().position(|r| r.strides == [1, 1] && r.size >= 16)
    {
        let axis = rows.remove(beside);
        rows.push(axis);
    }
    let (m, n, k) = (rows.pop().unwrap_or(Axis::ONE), columns.pop().unwrap_or(Axis::ONE), terms.pop().unwrap_or(Axis::ONE));
    let mut places: Vec<[isize; 3]> = Vec::new();
    for [a0, b0, o0] in offsets(&shared) {
        for [a1, o1] in offsets(&rows) {
            for [b1, o2] in offsets(&columns) {
                places.push([a0 + a1, b0 + b1, o0 + o1 + o2]);
            }
        }
    }
    let inner = offsets(&terms);
    let block = Block { m, n, k };
    if block.narrow() {
        return narrow::rows(&block, &places, &inner, [pa, pb, po], team);
    }
    if block.dots() && places.len() == 1 {
        return narrow::dots(&block, places[0], &inner, [pa, pb, po], team);
    }
    dense::product(&block, &places, &inner, [pa, pb, po], team);
}

/// The axes of one matrix product: rows, columns, terms, with distances in (a, out), (b, out), (a, b).
struct Block {
    m: Axis<2>,
    n: Axis<2>,
    k: Axis<2>,
}
