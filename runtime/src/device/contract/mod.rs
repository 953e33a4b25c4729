//! Contractions of training steps, cut into parts that do not depend on the number of threads: by a library of dense
//! products, or by loops of our own where its packing would cost more than the product.
#![allow(unsafe_code, reason = "operands are views: pointers and strides")]

mod conv;
mod dense;
mod narrow;

use super::cpu::{Call, Pointer};
use super::team::Team;
use dense::{Matrix, multiply};
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
            let [a, b, out] = [dims(a, a_labels, call), dims(b, b_labels, call), dims(out, out_labels, call)];
            product(&a, &b, &out, places, team);
        }
        Contract::Conv { a, b, out, part, window } => conv::run(a, b, out, *part, *window, memory, call, team),
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

fn product(a: &[Dim<'_>], b: &[Dim<'_>], out: &[Dim<'_>], [pa, pb, po]: [Pointer; 3], team: &Team) {
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
    if last(&columns) * last(&terms) <= narrow::AREA
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
