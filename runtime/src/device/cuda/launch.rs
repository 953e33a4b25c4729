//! A step's work with addresses: what is left to be told to a driver and to libraries.

use super::Arguments;
use crate::device::cpu::Call;
use snnc_compiler::backend::cuda::calls::{self, Base, Place};
use snnc_compiler::backend::cuda::work::{Entry, Step, Task, Work};
use snnc_compiler::kernel::Format;
use snnc_compiler::program::BufferId;

/// Where things lie, by address.
pub(super) struct Addresses<'a> {
    /// Every buffer's first byte.
    pub(super) buffers: &'a [u64],
    /// Memory for copies.
    pub(super) aside: u64,
    /// Memory for the parts of sums.
    pub(super) parts: u64,
    /// The numbers that the caller sets.
    pub(super) hyper: u64,
    /// The count of a launch's blocks that are done, zero between launches.
    pub(super) done: u64,
}

impl Addresses<'_> {
    pub(super) fn of(&self, place: Place) -> u64 {
        let base = match place.base {
            Base::Buffer(id) => self.buffers[id.index()],
            Base::Aside => self.aside,
            Base::Parts => self.parts,
        };
        base + place.at as u64
    }

    fn buffer(&self, id: BufferId) -> u64 {
        self.buffers[id.index()]
    }
}

/// A launch of a function of ours.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    /// Its name.
    pub(super) name: String,
    /// Blocks.
    pub(super) blocks: usize,
    /// Its structure of arguments, or several of them one after the other.
    pub(super) arguments: Vec<u8>,
    /// How many, if it takes where they are.
    pub(super) count: Option<usize>,
    /// What it computes, for people.
    pub(super) what: String,
}

/// One thing to be told.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// To a library; what it is for.
    Library(calls::Call, String),
    /// To the driver: zeros from here on, so many bytes.
    Zero(u64, usize),
    /// To the driver: a launch.
    Launch(Launch),
}

/// Arguments in the order and layout of a C structure whose members have eight bytes.
#[derive(Default)]
struct Packed(Vec<u8>);

impl Packed {
    fn word(&mut self, x: u64) -> &mut Packed {
        self.0.extend(x.to_ne_bytes());
        self
    }

    fn task(&mut self, task: &Task<'_>, call: &Call, at: &Addresses<'_>) {
        task.of.args.iter().for_each(|b| {
            self.word(at.buffer(*b));
        });
        Arguments::of(task.extent, task.ranges, call, at.hyper).pack(&mut self.0);
    }
}

/// Some that are done side by side: their structures, with the number of its first block behind each.
fn side(all: impl Iterator<Item = (Packed, usize)>) -> (Vec<u8>, usize, usize) {
    let (mut bytes, mut blocks, mut count) = (Packed::default(), 0, 0);
    for (own, needed) in all {
        bytes.0.extend(own.0);
        bytes.word(blocks as u64);
        blocks += needed;
        count += 1;
    }
    (bytes.0, blocks, count)
}

/// Blocks for elements that a thread of its own computes each, of many that run side by side.
fn blocks(elements: usize) -> usize {
    elements.div_ceil(256).clamp(1, 1 << 12)
}

/// The step's work in order, each with its number in the step.
pub(super) fn told(step: &Step<'_>, at: &Addresses<'_>, call: &Call) -> Vec<(usize, Told)> {
    let numbered = |(i, work)| one(work, at, call).into_iter().map(move |told| (i, told));
    step.work.iter().enumerate().flat_map(numbered).collect()
}

fn one(work: &Work<'_>, at: &Addresses<'_>, call: &Call) -> Vec<Told> {
    let mut out = Vec::new();
    {
        let name = work.entry().map(|e: Entry| e.name()).unwrap_or_default();
        match work {
            Work::Call(calls::Call::Zero { at: place, size }, _) => out.push(Told::Zero(at.of(*place), place.format.bytes(*size))),
            Work::Call(calls::Call::Copy { from, to, size, strides }, what) => {
                let mut own = Packed::default();
                own.word(at.of(*from)).word(at.of(*to));
                size.iter().chain(strides.iter().flatten()).for_each(|n| {
                    own.word(*n as u64);
                });
                // A copy that converts nothing is one of bits.
                let name = match (from.format.bytes(1), to.format.bytes(1)) {
                    (2, 2) => "copy_f16_f16".to_owned(),
                    _ => format!("copy_{}_{}", from.format.name(), to.format.name()),
                };
                let (blocks, what) =
                    (size.iter().product::<usize>().div_ceil(256).clamp(1, 1 << 16), format!("copy an operand for `{what}`"));
                out.push(Told::Launch(Launch { name, blocks, arguments: own.0, count: None, what }));
            }
            Work::Call(calls::Call::Overflow { of, to }, _) => {
                out.push(Told::Zero(at.of(*to), 4));
                let all = of.iter().map(|(place, size)| {
                    let mut own = Packed::default();
                    own.word(at.of(*place)).word(at.of(*to)).word(*size as u64);
                    (own, blocks(*size))
                });
                let (arguments, blocks, count) = side(all);
                let what = "look for gradients that are not finite".into();
                out.push(Told::Launch(Launch { name: "overflow".into(), blocks, arguments, count: Some(count), what }));
            }
            Work::Call(calls::Call::Masked(masked), what) => {
                let all = masked.rows.iter().map(|rows| {
                    let mut own = Packed::default();
                    let sizes = [rows.bit, rows.count, masked.columns.size, rows.terms.size];
                    let outer = |i: usize| rows.outer.iter().map(move |a| a.strides[i] as usize);
                    own.word(at.of(rows.place)).word(at.of(masked.by)).word(at.of(masked.to) + 4 * rows.to as u64);
                    let numbers = sizes.into_iter().chain(rows.outer.iter().map(|a| a.size));
                    let numbers = numbers.chain([rows.next[0], rows.terms.strides[0] as usize]).chain(outer(0));
                    let numbers = numbers.chain([masked.columns.strides[0] as usize, rows.terms.strides[1] as usize]).chain(outer(1));
                    let numbers = numbers.chain([rows.next[1], masked.columns.strides[1] as usize, masked.parts[1]]);
                    numbers.chain([masked.parts[0], masked.run]).for_each(|n| {
                        own.word(n as u64);
                    });
                    (own, masked.blocks(rows))
                });
                let (arguments, blocks, count) = side(all);
                let what = format!("sum where there are spikes for `{what}`");
                out.push(Told::Launch(Launch { name, blocks, arguments, count: Some(count), what }));
            }
            Work::Call(library, what) => out.push(Told::Library(library.clone(), (*what).to_owned())),
            Work::Sums(sums) => {
                let all = sums.iter().map(|sum| {
                    let mut own = Packed::default();
                    own.word(at.parts + sum.from as u64).word(at.of(sum.to)).word(sum.parts as u64).word(sum.size as u64);
                    own.word(match sum.to.format {
                        Format::F16 => 1,
                        Format::Bf16 => 2,
                        Format::F32 | Format::Bit => 0,
                    });
                    (own, blocks(sum.size))
                });
                let (arguments, blocks, count) = side(all);
                let what = "add the parts of products".into();
                out.push(Told::Launch(Launch { name: "sum_parts".into(), blocks, arguments, count: Some(count), what }));
            }
            Work::Side(tasks) => {
                let all = tasks.iter().map(|task| {
                    let mut own = Packed::default();
                    own.task(task, call, at);
                    (own, task.blocks)
                });
                let (arguments, blocks, count) = side(all);
                let what = format!("run {} loops like `{}`", tasks.len(), tasks[0].of.label);
                out.push(Told::Launch(Launch { name, blocks, arguments, count: Some(count), what }));
            }
            Work::Chain(tasks) => {
                let mut own = Packed::default();
                tasks.iter().for_each(|task| own.task(task, call, at));
                own.word(at.done);
                let what = format!("run the loops of `{}`", tasks[0].of.label);
                out.push(Told::Launch(Launch { name, blocks: tasks[0].blocks, arguments: own.0, count: None, what }));
            }
        }
    }
    out
}
