//! Gradients of weights whose operand is spikes kept as bits: a kernel of ours on tensor cores, in place of a library's product.
//!
//! A library would read spikes as numbers of 16 bits, and they would stay in memory from forward to backward. This reads a bit
//! each, and makes them numbers on their way to shared memory. The sum is cut into parts, which are added in order.

use super::calls::{BUSY, Base, Call, Place};
use crate::backend::product::{Axis, Dim, Loops, dims};
use crate::kernel::Format;
use crate::program::{Contract, Program, View};

/// What the functions are made of.
pub const TEMPLATE: &str = include_str!("masked.cu");

/// Terms of a sum that a block takes at once.
const TERMS: usize = 32;
/// Loops over terms besides the innermost.
const OUTER: usize = 4;
/// The fewest terms that are worth a part of their own.
const LEAST_TERMS: usize = 512;
/// Blocks for each multiprocessor.
const BLOCKS: usize = 2;

/// One of the functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// Of the numbers.
    pub format: Format,
    /// Terms lie side by side, in spikes and numbers; otherwise rows of the one and columns of the other do.
    pub along: bool,
    /// Side of the tile that a block computes.
    pub tile: usize,
}

impl Kind {
    /// Its name in the text.
    pub fn name(self) -> String {
        format!("masked_{}_{}_{}", self.format.name(), if self.along { "terms" } else { "rows" }, self.tile)
    }

    /// Its text, behind [`TEMPLATE`].
    pub fn text(self) -> String {
        let (name, brain) = (self.name(), self.format == Format::Bf16);
        format!(
            "typedef Masked {name}_arguments;\n\
             extern \"C\" __global__ void __launch_bounds__(256, 2) {name}(const Masked *all, const int count) {{\n    \
             masked<{brain}, {}, {}>(all, count);\n}}\n",
            self.along, self.tile
        )
    }
}

/// A matrix of spikes: some rows of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The buffer.
    pub place: Place,
    /// Its first bit there.
    pub bit: usize,
    /// How many.
    pub count: usize,
    /// From row to row of the spikes, and of the result.
    pub next: [usize; 2],
    /// The first row's distance in the result.
    pub to: usize,
    /// Terms: the innermost loop over them, and the others, the outermost first, with distances in spikes and numbers.
    pub terms: Axis<2>,
    /// The others.
    pub outer: [Axis<2>; OUTER],
}

impl Rows {
    /// Tiles along the terms.
    fn steps(&self) -> usize {
        self.terms.size.div_ceil(TERMS) * self.outer.iter().map(|a| a.size).product::<usize>()
    }
}

/// d\[m, n\] = Σ b\[k, n\] over all k with a spike at \[m, k\].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masked {
    /// Which function.
    pub kind: Kind,
    /// The spikes, side by side.
    pub rows: Vec<Rows>,
    /// The numbers.
    pub by: Place,
    /// How many columns, and their distance in the numbers and the result.
    pub columns: Axis<2>,
    /// How many numbers lie side by side at a multiple of as many: 1, 2 or 8.
    pub run: usize,
    /// Result, or the first of its parts.
    pub to: Place,
    /// Into how many parts the sum is cut, and the distance between them.
    pub parts: [usize; 2],
}

impl Masked {
    /// Blocks for some of the rows.
    pub fn blocks(&self, rows: &Rows) -> usize {
        rows.count.div_ceil(self.kind.tile) * self.columns.size.div_ceil(self.kind.tile) * self.parts[0]
    }

    /// Terms of every sum.
    pub fn terms(&self) -> usize {
        self.rows.first().map_or(0, |r| r.terms.size * r.outer.iter().map(|a| a.size).product::<usize>())
    }

    /// Rows of the result.
    pub fn height(&self) -> usize {
        self.rows.iter().map(|r| r.count).sum()
    }
}

/// The calls of a [`Contract::Masked`] for so many samples and time steps.
pub(super) fn calls(program: &Program, contract: &Contract, samples: usize, steps: usize) -> Vec<Call> {
    let Contract::Masked { of, by, out, of_labels, by_labels, out_labels } = contract else { return vec![] };
    let numbers = dims(by, by_labels, samples, steps);
    let result = dims(out, out_labels, samples, steps);
    let along = of_labels.last() == by_labels.last();
    let (mut columns, mut rows, mut to) = (Axis::ONE, Vec::new(), 0);
    for view in of {
        let spikes = dims(view, of_labels, samples, steps);
        let part = Loops::of(&spikes, &numbers, &sliced(&result, &spikes));
        columns = part.columns.into_iter().next().unwrap_or(Axis::ONE);
        let own = part.rows.into_iter().next();
        // One row by itself: how far the next one's result would be.
        let next = own.as_ref().map_or([0, 0], |r| r.strides.map(|s| s as usize));
        let count = own.map_or(1, |r| r.size);
        let (terms, outer) = nested(part.terms, along);
        let place = Place { at: 0, ..Place::of(program, &View { offset: 0, ..view.clone() }) };
        rows.push(Rows { place, bit: view.offset, count, next, to, terms, outer });
        to += count * row_distance(&result, &spikes);
    }
    let by_place = Place::of(program, by);
    let distances = rows.iter().flat_map(|r: &Rows| r.outer.iter().chain([&r.terms]).map(|a| a.strides[1]));
    let distances: Vec<usize> = distances.chain([columns.strides[0]]).map(|d| d as usize).collect();
    let run = [8, 2].into_iter().find(|n| by_place.at.is_multiple_of(2 * n) && distances.iter().all(|d| *d == 1 || d % n == 0));
    let height: usize = rows.iter().map(|r| r.count).sum();
    // Large tiles need fewer readings, small ones waste less at the edges.
    let wasted = |tile: usize| rows.iter().map(|r| r.count.next_multiple_of(tile)).sum::<usize>() * columns.size.next_multiple_of(tile);
    let tile = if wasted(128) * 8 <= wasted(64) * 9 { 128 } else { 64 };
    let kind = Kind { format: by_place.format, along, tile };
    let whole = Place::of(program, out);
    let size = height * columns.size;
    let mut masked = Masked { kind, rows, by: by_place, columns, run: run.unwrap_or(1), to: whole, parts: [1, 0] };
    let dense = result.iter().map(|(_, size, _)| size).product::<usize>() == size && gapless(&result);
    let tiles: usize = masked.rows.iter().map(|r| masked.blocks(r)).sum();
    let most = masked.rows.iter().map(Rows::steps).min().unwrap_or(1) * TERMS / LEAST_TERMS;
    let parts = (BLOCKS * BUSY / tiles.max(1)).min(most).max(1);
    if parts == 1 || !dense {
        return vec![Call::Masked(masked)];
    }
    let from = Place { base: Base::Parts, at: 0, format: Format::F32 };
    masked.parts = [parts, size];
    masked.to = from;
    vec![Call::Masked(masked), Call::Sum { from, parts, size, to: whole }]
}

/// The result's dims with as many rows as these spikes have.
fn sliced<'a>(result: &[Dim<'a>], spikes: &[Dim<'_>]) -> Vec<Dim<'a>> {
    let own = |label: &str| spikes.iter().find(|(l, ..)| *l == label).map(|(_, size, _)| *size);
    result.iter().map(|(label, size, stride)| (*label, own(label).unwrap_or(*size), *stride)).collect()
}

/// From row to row of the result.
fn row_distance(result: &[Dim<'_>], spikes: &[Dim<'_>]) -> usize {
    result.iter().find(|(label, ..)| spikes.iter().any(|(l, ..)| l == label)).map_or(0, |(.., stride)| *stride as usize)
}

/// Whether a tensor's elements follow each other in some order.
fn gapless(dims: &[Dim<'_>]) -> bool {
    let mut sorted: Vec<_> = dims.iter().filter(|(_, size, _)| *size > 1).collect();
    sorted.sort_by_key(|(.., stride)| *stride);
    let mut next = 1;
    sorted.into_iter().all(|(_, size, stride)| {
        let follows = *stride == next;
        next *= *size as isize;
        follows
    })
}

/// The innermost loop over terms, and the others, the outermost first.
fn nested(mut all: Vec<Axis<2>>, along: bool) -> (Axis<2>, [Axis<2>; OUTER]) {
    let inner = if along { all.iter().position(|a| a.strides == [1, 1]) } else { all.len().checked_sub(1) };
    let terms = inner.map_or(Axis::ONE, |i| all.remove(i));
    all.sort_by_key(|a| std::cmp::Reverse(a.strides));
    let mut outer = [const { Axis::ONE }; OUTER];
    let first = OUTER - all.len();
    outer[first..].clone_from_slice(&all);
    (terms, outer)
}
