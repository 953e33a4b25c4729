//! How a loop of an inference is cut: how many lanes a tile has, and what threads share. A model of what each way costs, from the loop's
//! extents, the spikes that are expected and the machine's caches, picks the cheapest. No choice changes a number: sums keep their order.
//!
//! Its constants are nanoseconds of one core at 3 GHz or so, measured with the loops themselves (docs/benchmarks.md); what counts is how they
//! relate.

use super::Fuser;
use super::body::{LANES_OF_BITS, TILE_COST};
use super::contract::digits;
use super::dots::{adding, counting};
use super::fours::{FOUR, MANY, SUMS};
use crate::flow::{Def, FlowId, Operand};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Rows of a block, half of them to twice as many: so many that weights are seldom fetched again, so few that lists of spikes stay near.
const ROWS: usize = 128;
/// The way through one row's list: loops, addresses, and a branch that is guessed wrong.
const WALK: f64 = 9.0;
/// A spike on such a way takes no less.
const SPIKE: f64 = 1.4;
/// Eight additions, by where the weights are: in the first cache, in the second, beyond.
const ADD: [f64; 3] = [0.26, 0.34, 0.44];
/// What eight more lanes add to that outside the first cache.
const WIDER: f64 = 0.02;
/// Eight products, where several rows share a weight, and where they cannot.
const PRODUCT: [f64; 2] = [0.2, 0.36];
/// A look at an input, where there is no list.
const LOOK: f64 = 1.7;
/// A table of eight lanes.
const TABLE: f64 = 6.0;
/// What becomes of eight sums at a time step: residual, neuron, bits.
const NEURONS: f64 = 0.9;
/// Listing a row's spikes: for the row, a word of 64 bits, a spike.
const LIST: [f64; 3] = [4.0, 3.0, 0.5];
/// A byte of weights from beyond the second cache.
const BYTE: f64 = 0.08;

/// What an inference is cut for. Its speed hangs on this, its results do not.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// Threads that share the work.
    pub threads: usize,
    /// The most lanes of a tile: what registers hold.
    pub lanes: usize,
    /// Bytes of the first and the second cache of a core.
    pub caches: [usize; 2],
    /// Without vectors of 256 bits, where the machine has them.
    pub narrow: bool,
    /// Firing rates of what layers read, by the layers' paths.
    pub rates: BTreeMap<String, f64>,
    /// The rate of all others.
    pub rate: f64,
}

impl Default for Expected {
    /// The same on every machine: two threads, registers of sixteen vectors of 128 bits, caches of 32 KB and 512 KB, 15 % firing.
    fn default() -> Expected {
        Expected { threads: 2, lanes: 48, caches: [32 << 10, 512 << 10], narrow: false, rates: BTreeMap::new(), rate: 0.15 }
    }
}

/// What threads share of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shared {
    /// Each has some rows, and reads all weights.
    Rows,
    /// Each has some tiles of outputs, reads their weights, and lists all rows' spikes.
    Tiles,
}

/// How a loop of contractions is cut, and what that is expected to cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Rows (places) of a sample.
    pub rows: usize,
    /// Inputs, of all contractions with their taps.
    pub inputs: usize,
    /// Outputs.
    pub outputs: usize,
    /// Expected part of the inputs that fire.
    pub rate: f64,
    /// Lanes of a tile.
    pub lanes: usize,
    /// What threads share.
    pub shared: Shared,
    /// Parts that a sample is cut into for them.
    pub parts: usize,
    /// Expected seconds for one sample, on as many threads as it was cut for.
    pub seconds: f64,
}

/// What a contraction reads at every row and time step.
struct Reads {
    inputs: usize,
    /// Time steps.
    steps: usize,
    rate: f64,
    way: Way,
}

/// How inputs are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// All, which are multiplied.
    Multiplies,
    /// All, and for each digit of their counts.
    Tests(u32),
    /// Those that are listed.
    Visits,
    /// Those that are listed, by fours.
    Fours,
    /// All fours of a word.
    Word,
}

impl Reads {
    /// Rows of weights, or of their tables.
    fn rows(&self) -> usize {
        if self.way == Way::Fours { self.inputs / FOUR * SUMS } else { self.inputs }
    }

    /// Entries of a list, or what else is looked at.
    fn entries(&self) -> f64 {
        let inputs = self.inputs as f64;
        match self.way {
            Way::Multiplies => inputs,
            Way::Tests(digits) => inputs * f64::from(digits),
            Way::Visits => inputs * self.rate,
            Way::Fours => inputs / FOUR as f64 * (1.0 - (1.0 - self.rate).powi(FOUR as i32)),
            Way::Word => (inputs / FOUR as f64).ceil(),
        }
    }

    fn listed(&self) -> bool {
        matches!(self.way, Way::Visits | Way::Fours)
    }

    /// Nanoseconds for an entry that so many vectors of eight lanes take up.
    fn adds(&self, vectors: f64, caches: &[usize]) -> f64 {
        match self.way {
            Way::Multiplies => return vectors * PRODUCT[usize::from(vectors > 4.0)],
            Way::Tests(_) => return LOOK + self.rate * vectors * ADD[0],
            Way::Word => return SPIKE / 2.0 + vectors * ADD[0],
            Way::Visits | Way::Fours => {}
        }
        let size = self.rows() as f64 * vectors * 32.0;
        let level = caches.iter().position(|c| size <= *c as f64).unwrap_or(2);
        let near = (caches[0] as f64 / size).min(1.0);
        let far = ADD[level.max(1)] + WIDER * vectors;
        (vectors * (near * ADD[0] + (1.0 - near) * far)).max(SPIKE)
    }
}

impl Fuser<'_> {
    /// The part of what a contraction reads that is expected to fire.
    pub(super) fn rate_of(&self, id: FlowId) -> f64 {
        self.expected.rates.get(&self.flow.get(id).label).copied().unwrap_or(self.expected.rate)
    }

    /// Terms of a contraction's sum, those at edges of a window as well.
    fn terms_of(&self, id: FlowId) -> usize {
        match &self.flow.get(id).def {
            Def::Product { a, a_labels, out_labels, .. } => {
                let sizes = self.flow.dims(*a).axes.iter().rev().map(|axis| axis.size);
                a_labels.iter().rev().zip(sizes).filter(|(label, _)| !out_labels.contains(label)).map(|(_, size)| size).product()
            }
            _ => self.inputs_of(id).1,
        }
    }

    fn steps_of(&self, id: FlowId) -> usize {
        if self.flow.dims(id).time { self.time } else { 1 }
    }

    fn reads_of(&self, id: FlowId) -> Reads {
        let inputs = self.terms_of(id);
        let rate = self.rate_of(id);
        let way = match self.flow.get(id).operand {
            Operand::Real => Way::Multiplies,
            _ if self.event_driven(id) && self.by_word(id) => Way::Word,
            _ if self.event_driven(id) && self.in_fours(id) && rate * MANY as f64 >= 1.0 => Way::Fours,
            _ if self.event_driven(id) => Way::Visits,
            Operand::Spikes => Way::Tests(1),
            Operand::Count(most) => Way::Tests(digits(most)),
        };
        Reads { inputs, steps: self.steps_of(id), rate, way }
    }

    /// The cheapest way to cut a loop with so many rows, of which the outermost level has `first`, and so many outputs. `None` if no
    /// contraction in it reads weights.
    pub(super) fn choice(&self, roots: &[FlowId], [first, inner]: [usize; 2], outputs: usize) -> Option<Choice> {
        let reads: Vec<Reads> = roots.iter().filter(|id| self.weighs(**id)).map(|id| self.reads_of(*id)).collect();
        if reads.is_empty() {
            return None;
        }
        let expected = &self.expected;
        let threads = expected.threads.max(1);
        let most = parts_for(threads);
        // Contractions beside those whose weights are in tiles take as long however these are cut.
        let others: Vec<FlowId> = self.contractions(roots).filter(|id| !self.weighs(*id)).collect();
        let more = |lanes: usize| others.iter().map(|id| self.place_of(*id, lanes)).sum::<f64>();
        let terms = others.iter().map(|id| (self.terms_of(*id), self.rate_of(*id)));
        let all: Vec<(usize, f64)> = reads.iter().map(|r| (r.inputs, r.rate)).chain(terms).collect();
        let (rows, inputs) = (first * inner, all.iter().map(|(inputs, _)| inputs).sum::<usize>());
        let rate = all.iter().map(|(inputs, rate)| *inputs as f64 * rate).sum::<f64>() / inputs as f64;
        let mut best: Option<Choice> = None;
        for lanes in (1..=expected.lanes / LANES_OF_BITS).rev().map(|n| n * LANES_OF_BITS) {
            let tiles = outputs.div_ceil(lanes);
            for shared in [Shared::Rows, Shared::Tiles] {
                let (count, each) = match shared {
                    Shared::Rows => (first, inner),
                    Shared::Tiles => (tiles, 1),
                };
                let parts = if shared == Shared::Tiles && (rows > ROWS || tiles < most) { continue } else { parts_of(count, most) };
                // The part that has most of it takes longest, and some thread has so many parts.
                let turns = parts.div_ceil(threads.min(parts)) as f64;
                let share = (count.div_ceil(parts) * each) as f64;
                let (own_rows, own_tiles) = if shared == Shared::Rows { (share, tiles as f64) } else { (rows as f64, share) };
                let most_steps = roots.iter().map(|id| self.steps_of(*id)).max().unwrap_or(1);
                let mut time = 0.0;
                for r in &reads {
                    let steps = own_rows * r.steps as f64;
                    let (words, entries) = (r.inputs.div_ceil(64) as f64, r.entries());
                    if r.listed() {
                        time += steps * (LIST[0] + words * LIST[1] + entries * LIST[2]);
                    }
                    let vectors = lanes.div_ceil(8) as f64;
                    time += steps * own_tiles * (WALK + entries * r.adds(vectors, &expected.caches));
                    if matches!(r.way, Way::Fours | Way::Word) {
                        let blocks = (own_rows / ROWS as f64).max(1.0);
                        time += blocks * own_tiles * r.inputs.div_ceil(FOUR) as f64 * vectors * TABLE;
                    }
                    time += own_tiles * (lanes * r.inputs * 4) as f64 * BYTE;
                }
                time += own_rows * most_steps as f64 * own_tiles * lanes.div_ceil(8) as f64 * NEURONS;
                time += own_rows * own_tiles * lanes.min(outputs) as f64 * more(lanes.min(outputs));
                let seconds = time * turns * 1e-9;
                if best.as_ref().is_none_or(|b| seconds < b.seconds) {
                    best = Some(Choice { rows, inputs, outputs, rate, lanes, shared, parts, seconds });
                }
            }
        }
        best
    }

    fn contractions(&self, roots: &[FlowId]) -> impl Iterator<Item = FlowId> {
        roots.iter().copied().filter(|id| matches!(self.flow.get(*id).def, Def::Conv { .. } | Def::Product { .. }))
    }

    /// Nanoseconds for a place of such a contraction, one of so many lanes, in all time steps.
    fn place_of(&self, id: FlowId, lanes: usize) -> f64 {
        let terms = self.terms_of(id);
        let step = match self.flow.get(id).operand {
            Operand::Real => terms as f64 * PRODUCT[1] / lanes.min(8) as f64,
            _ if self.counts(id).is_some() => counting(terms),
            _ => adding(terms, lanes, self.rate_of(id)),
        };
        step * self.steps_of(id) as f64
    }

    /// What a loop is expected to cost that nothing is picked for: products of two signals, and sums whose weights all lanes share. `None` if
    /// it has no contraction, or is no inference's.
    pub(super) fn priced(&self, roots: &[FlowId], [rows, outputs]: [usize; 2], lanes: usize, parts: usize) -> Option<Choice> {
        let sums: Vec<FlowId> = self.contractions(roots).collect();
        if sums.is_empty() || !self.target.infers() {
            return None;
        }
        let lanes = lanes.min(outputs);
        let most_steps = roots.iter().map(|id| self.steps_of(*id)).max().unwrap_or(1);
        let (mut inputs, mut firing, mut place) = (0, 0.0, most_steps as f64 * NEURONS / 8.0);
        for id in sums {
            let (terms, rate) = (self.terms_of(id), self.rate_of(id));
            (inputs, firing) = (inputs + terms, firing + terms as f64 * rate);
            place += self.place_of(id, lanes);
        }
        let turns = parts.div_ceil(self.expected.threads.clamp(1, parts.max(1))) as f64;
        let seconds = place * (rows * outputs) as f64 / parts as f64 * turns * 1e-9;
        Some(Choice { rows, inputs, outputs, rate: firing / inputs as f64, lanes, shared: Shared::Rows, parts, seconds })
    }

    /// Lanes of a tile of a loop that reads no weights: as few tiles as there can be, and few lanes left over.
    pub(super) fn lanes_for(&self, size: usize) -> usize {
        let cost = |lanes: usize| {
            let (whole, rest) = (size / lanes, size % lanes);
            let last = if rest > 0 { rest.next_multiple_of(4) + TILE_COST + 1 } else { 0 };
            whole * (lanes + TILE_COST) + last
        };
        let all = (1..=self.expected.lanes / LANES_OF_BITS).rev().map(|n| LANES_OF_BITS * n);
        all.min_by_key(|lanes| cost(*lanes)).unwrap_or(LANES_OF_BITS)
    }

    /// Parts of so many rows or tiles, which threads share.
    pub(super) fn parts(&self, count: usize) -> usize {
        parts_of(count, parts_for(self.expected.threads))
    }
}

/// Rows in a block of a part that has so many, in so many rows of the first level; and how many blocks there are.
pub(super) fn blocks(part: usize, inner: usize) -> (usize, usize) {
    let part = part.max(1);
    // Whole blocks, so that parts are equally large.
    let whole = (1..=part).rev().find(|n| part.is_multiple_of(*n) && n * inner <= 2 * ROWS).filter(|n| 2 * n * inner >= ROWS);
    let block = whole.unwrap_or_else(|| {
        let blocks = part.div_ceil((ROWS / inner.max(1)).clamp(1, part));
        part.div_ceil(blocks)
    });
    (block, part.div_ceil(block))
}

/// A power of two, and no less than there are threads.
fn parts_for(threads: usize) -> usize {
    threads.max(1).next_power_of_two()
}

fn parts_of(count: usize, most: usize) -> usize {
    (0..=most.ilog2()).rev().map(|n| 1 << n).find(|n| *n <= count).unwrap_or(1)
}
