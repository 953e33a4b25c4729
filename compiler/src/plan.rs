//! Where every buffer of a program lies: weights in one piece of memory, all else in another, where buffers that are
//! never needed at once share their places.

use crate::flow::Source;
use crate::program::{Contract, Group, Loop, Program, Purpose};

/// Buffers start at multiples of this many words (64 bytes, a cache line).
const ALIGN: u128 = 16;
/// Words between large buffers (five cache lines): extents are often powers of two, and addresses that are equal but
/// for multiples of 4096 bytes would evict each other from the first cache and make loads wait for stores.
const STAGGER: u128 = 5 * ALIGN;

/// The memory of a program for a number of samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// First word, of four bytes, of every buffer, among the weights or in the rest.
    pub offsets: Vec<u128>,
    /// Words of every buffer.
    pub sizes: Vec<u128>,
    /// Which buffers are weights: parameters, which several runs of a program may share.
    pub weighs: Vec<bool>,
    /// Words of all weights.
    pub weights: u128,
    /// Words of the rest.
    pub total: u128,
}

impl Plan {
    /// Bytes in all.
    pub fn bytes(&self) -> u128 {
        (self.total + self.weights) * 4
    }
}

/// Into how many ranges a loop is cut.
pub fn ranges(l: &Loop, batch: usize) -> usize {
    l.extent(batch).div_ceil(l.grain).max(1)
}

/// Lays out memory for up to `batch` samples. Sources, states, results and what is computed once keep their places; the
/// others share theirs, the largest placed first, each at the lowest place that is free while it lives.
pub fn plan(program: &Program, batch: usize) -> Plan {
    plan_with(program, batch, |l| ranges(l, batch))
}

/// The same where loops are cut otherwise: into so many ranges.
pub fn plan_with(program: &Program, batch: usize, ranges: impl Fn(&Loop) -> usize) -> Plan {
    let lives = lifetimes(program);
    let weighs: Vec<bool> = program.buffers.iter().map(|b| matches!(b.purpose, Purpose::Source(Source::Param(_)))).collect();
    let sizes = sizes(program, batch, ranges);
    let mut offsets = vec![0; sizes.len()];
    let (mut weights, mut total) = (0, 0);
    // Those in tiles in the order of their loops: behind a loop's last tile lies the next loop's first.
    for i in (0..sizes.len()).filter(|i| weighs[*i]) {
        offsets[i] = weights;
        weights += room(sizes[i]);
    }
    let mut order: Vec<usize> = (0..sizes.len()).filter(|i| !weighs[*i]).collect();
    order.sort_by_key(|i| std::cmp::Reverse((lives[*i].is_none(), sizes[*i])));
    // (offset, end, buffer) of what has a place already, by offset.
    let mut placed: Vec<(u128, u128, usize)> = Vec::new();
    for i in order {
        let room = room(sizes[i]);
        let mut start = 0;
        if let Some((first, last)) = lives[i] {
            for (offset, end, other) in &placed {
                let together = lives[*other].is_none_or(|(f, l)| f <= last && first <= l);
                if together && *end > start {
                    if *offset >= start + room {
                        break;
                    }
                    start = *end;
                }
            }
        } else {
            start = total;
        }
        offsets[i] = start;
        total = total.max(start + room);
        let at = placed.partition_point(|p| p.0 <= start);
        placed.insert(at, (start, start + room, i));
    }
    Plan { offsets, sizes, weighs, weights, total }
}

/// The words a buffer takes, with what keeps its neighbour apart.
fn room(size: u128) -> u128 {
    let aligned = size.div_ceil(ALIGN) * ALIGN;
    if aligned >= 1024 { aligned + STAGGER } else { aligned }
}

fn sizes(program: &Program, batch: usize, ranges: impl Fn(&Loop) -> usize) -> Vec<u128> {
    let mut counts = vec![1; program.buffers.len()];
    for first in program.groups.iter().filter_map(|g| g.loops.first()) {
        for arg in &first.args {
            counts[arg.index()] = ranges(first);
        }
    }
    let over = |own: bool, n: usize| if own { n as u128 } else { 1 };
    let size = |(b, n): (&crate::program::Buffer, &usize)| {
        (b.elements as u128 * over(b.batch, batch) * over(b.ranges, *n) * b.format.bytes(8) as u128).div_ceil(32)
    };
    program.buffers.iter().zip(&counts).map(size).collect()
}

/// The first and last group that touches a buffer; `None` if it must keep its place.
fn lifetimes(program: &Program) -> Vec<Option<(usize, usize)>> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; program.buffers.len()];
    let mut fixed: Vec<bool> = program.buffers.iter().map(|b| b.purpose != Purpose::Temporary).collect();
    for (_, view) in &program.sinks {
        fixed[view.buffer.index()] = true;
    }
    for (i, group) in program.groups.iter().enumerate() {
        for buffer in touched(group) {
            fixed[buffer] |= group.once;
            lives[buffer] = Some(lives[buffer].map_or((i, i), |(first, _)| (first, i)));
        }
    }
    lives.into_iter().zip(fixed).map(|(life, fixed)| life.filter(|_| !fixed)).collect()
}

fn touched(group: &Group) -> impl Iterator<Item = usize> {
    let views = group.contracts.iter().flat_map(Contract::views);
    let args = group.loops.iter().flat_map(|l| &l.args);
    views.map(|v| v.buffer.index()).chain(args.map(|a| a.index()))
}
