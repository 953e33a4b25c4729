//! A program: buffers, and groups of contractions with one loop each, in order. Serialisable; knows no device.

use crate::flow::{ConvPart, Region, Sink, Source, Window};
use crate::fuse::Choice;
use crate::kernel::{Format, Kernel};
use crate::types::index;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write;

index!(
    /// A buffer of a [`Program`].
    BufferId, "@"
);
index!(
    /// A kernel of a [`Program`].
    KernelId, "k"
);

/// What a buffer is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Given by the caller.
    Source(Source),
    /// Between groups.
    Temporary,
    /// Kept between calls of a streaming program; starts at these bits.
    State(u32),
}

/// Memory for one tensor, or for several side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Path of the node it was first needed for.
    pub label: String,
    /// How its numbers are kept.
    #[serde(default)]
    pub format: Format,
    /// Elements per sample (or in all, if it does not vary over samples).
    pub elements: usize,
    /// Varies over samples.
    pub batch: bool,
    /// Varies over ranges of the outermost loop: partial sums.
    pub ranges: bool,
    /// What it is for.
    pub purpose: Purpose,
    /// If not zero: the last axis lies in tiles of so many, each tile by itself, the last one filled up with zeros.
    #[serde(default)]
    pub tile: usize,
}

impl Buffer {
    /// Values whose last axis has this extent as the buffer keeps them.
    pub fn tiled(&self, values: &[f32], last: usize) -> Vec<f32> {
        if self.tile == 0 || last == 0 {
            return values.to_vec();
        }
        let rows = values.len() / last;
        let mut out = vec![0.0; last.div_ceil(self.tile) * rows * self.tile];
        for (row, from) in values.chunks(last).enumerate() {
            for (tile, part) in from.chunks(self.tile).enumerate() {
                let at = (tile * rows + row) * self.tile;
                out[at..at + part.len()].copy_from_slice(part);
            }
        }
        out
    }
}

/// A tensor in a buffer: where it starts and how far its dims are apart, in elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The buffer.
    pub buffer: BufferId,
    /// First element.
    pub offset: usize,
    /// Distance of samples; 0 if it does not vary over them.
    pub batch: usize,
    /// Distance of time steps; 0 if it does not vary over them.
    pub time: usize,
    /// Name, extent and distance of every axis in physical order.
    pub axes: Vec<(String, usize, usize)>,
}

impl View {
    /// The extent and distance of an axis.
    pub fn axis(&self, name: &str) -> Option<(usize, usize)> {
        self.axes.iter().find(|(n, ..)| n == name).map(|(_, size, stride)| (*size, *stride))
    }
}

/// A contraction that a library computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contract {
    /// Σ over labels that the result lacks; a label for every dim, `B` and `T` first where a view has them.
    Product {
        /// Left.
        a: View,
        /// Right.
        b: View,
        /// Result.
        out: View,
        /// Labels of a.
        a_labels: Vec<String>,
        /// Labels of b.
        b_labels: Vec<String>,
        /// Labels of the result.
        out_labels: Vec<String>,
    },
    /// Numbers summed where there is a spike, as in [`crate::flow::Def::Masked`].
    Masked {
        /// Spikes, as bits.
        of: Vec<View>,
        /// Numbers.
        by: View,
        /// Result.
        out: View,
        /// Labels of the spikes.
        of_labels: Vec<String>,
        /// Of the numbers.
        by_labels: Vec<String>,
        /// Of the result.
        out_labels: Vec<String>,
    },
    /// Whether some number of these is not finite: 0 or 1.
    Overflow {
        /// Whole buffers, f32.
        of: Vec<View>,
        /// Result, one number.
        out: View,
    },
    /// A product of a convolution.
    Conv {
        /// Left, as in [`crate::flow::Def::Conv`].
        a: View,
        /// Right.
        b: View,
        /// Result.
        out: View,
        /// Which product.
        part: ConvPart,
        /// Geometry.
        window: Window,
    },
}

impl Contract {
    /// Its operands and its result, which comes last.
    pub fn views(&self) -> Vec<&View> {
        match self {
            Contract::Product { a, b, out, .. } | Contract::Conv { a, b, out, .. } => vec![a, b, out],
            Contract::Masked { of, by, out, .. } => of.iter().chain([by, out]).collect(),
            Contract::Overflow { of, out } => of.iter().chain([out]).collect(),
        }
    }

    /// Its result.
    pub fn out(&self) -> &View {
        match self {
            Contract::Product { out, .. } | Contract::Masked { out, .. } | Contract::Conv { out, .. } | Contract::Overflow { out, .. } => {
                out
            }
        }
    }
}

/// A kernel with its arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loop {
    /// The kernel.
    pub kernel: KernelId,
    /// The buffer of each argument.
    pub args: Vec<BufferId>,
    /// Extent of the outermost loop; `None` for the number of samples, or of their parts.
    pub extent: Option<usize>,
    /// Parts of a sample, a power of two.
    #[serde(default = "one")]
    pub parts: usize,
    /// Elements in one range of the outermost loop.
    pub grain: usize,
    /// What it computes, for people.
    pub label: String,
    /// Where in the network it belongs: whether it may multiply.
    pub region: Region,
    /// Contractions inside it.
    #[serde(default)]
    pub inside: Vec<Inside>,
    /// How it is cut, if it is a loop of an inference with a contraction.
    #[serde(default)]
    pub choice: Option<Choice>,
}

/// A contraction inside a loop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// The path of its node.
    pub path: String,
    /// How its operand is read.
    pub how: How,
}

/// How a contraction reads its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Goes through lists of the spikes that are there.
    Visits,
    /// Adds a sum for every four values, whichever of them are spikes.
    Fours,
    /// Looks at every value, and adds where there is a spike.
    Tests,
    /// Counts the ones that two words of spikes share.
    Counts,
    /// Multiplies.
    Multiplies,
}

impl How {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            How::Visits => "visits spikes",
            How::Fours => "adds by fours",
            How::Tests => "tests all",
            How::Counts => "counts words",
            How::Multiplies => "multiplies",
        }
    }
}

fn one() -> usize {
    1
}

impl Loop {
    /// How its contractions read their operands, for people.
    pub fn how(&self) -> String {
        let mut all: Vec<&str> = self.inside.iter().map(|i| i.how.text()).collect();
        all.sort_unstable();
        all.dedup();
        all.join(", ")
    }

    /// Extent of the outermost loop for so many samples.
    pub fn extent(&self, samples: usize) -> usize {
        self.extent.unwrap_or(samples * self.parts)
    }
}

/// Contractions and the loop they feed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Contractions, in order.
    pub contracts: Vec<Contract>,
    /// Loops run after them; one, and the sums over its ranges.
    pub loops: Vec<Loop>,
    /// Hangs on static input only: a streaming program runs it at the first call.
    pub once: bool,
}

/// A way in or out: a kernel whose first argument is the program's memory and whose second is the caller's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// The kernel; its range is the samples.
    pub kernel: KernelId,
    /// The program's memory, its axes in the caller's order.
    pub view: View,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Memory.
    pub buffers: Vec<Buffer>,
    /// Kernels, each once.
    pub kernels: Vec<Kernel>,
    /// The groups in order.
    pub groups: Vec<Group>,
    /// Results.
    pub sinks: Vec<(Sink, View)>,
    /// Copies the caller's input `[B, (T,) axes...]` in.
    pub enter: Option<Door>,
    /// Copies the logits `[B, K]` out.
    pub leave: Option<Door>,
    /// Time steps it has room for.
    pub time: usize,
}

impl Program {
    /// The buffer with this id.
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.index()]
    }

    /// All loops in the order in which they run, each with its group.
    pub fn loops(&self) -> impl Iterator<Item = (&Group, &Loop)> {
        self.groups.iter().flat_map(|g| g.loops.iter().map(move |l| (g, l)))
    }

    /// The buffers of a source.
    pub fn sources(&self, source: Source) -> impl Iterator<Item = BufferId> {
        let own = self.buffers.iter().enumerate().filter(move |(_, b)| b.purpose == Purpose::Source(source));
        own.map(|(i, _)| BufferId::new(i))
    }

    /// The buffer of a source, if the program reads or writes it.
    pub fn source(&self, source: Source) -> Option<BufferId> {
        self.buffers.iter().position(|b| b.purpose == Purpose::Source(source)).map(BufferId::new)
    }
}

/// SHA-256 of the program's text.
pub fn digest(program: &Program) -> [u8; 32] {
    Sha256::digest(print(program)).into()
}

/// The program as stable text.
pub fn print(program: &Program) -> String {
    let mut out = format!("program (T = {})\n", program.time);
    for (i, b) in program.buffers.iter().enumerate() {
        let over = if b.batch {
            " per sample"
        } else if b.ranges {
            " per range"
        } else {
            ""
        };
        let tile = if b.tile > 0 { format!(" in tiles of {}", b.tile) } else { String::new() };
        let format = if b.format == Format::F32 { String::new() } else { format!(" of {}", b.format.name()) };
        let _ = writeln!(out, "  @{i}: {} elements{format}{over}{tile}, {:?}  // {}", b.elements, b.purpose, b.label);
    }
    for (i, group) in program.groups.iter().enumerate() {
        let _ = writeln!(out, "group {i}{}", if group.once { " once" } else { "" });
        for contract in &group.contracts {
            let _ = match contract {
                Contract::Product { a, b, out: o, a_labels, b_labels, out_labels, .. } => writeln!(
                    out,
                    "  contract {}[{}] = {}[{}] . {}[{}]",
                    o.buffer,
                    out_labels.join(" "),
                    a.buffer,
                    a_labels.join(" "),
                    b.buffer,
                    b_labels.join(" ")
                ),
                Contract::Masked { of, by, out: o, of_labels, by_labels, out_labels } => {
                    let of: Vec<String> = of.iter().map(|v| v.buffer.to_string()).collect();
                    let [o_l, of_l, by_l] = [out_labels, of_labels, by_labels].map(|l| l.join(" "));
                    writeln!(out, "  contract {}[{o_l}] = {}[{of_l}] masks {}[{by_l}]", o.buffer, of.join(", "), by.buffer)
                }
                Contract::Overflow { of, out: o } => {
                    let of: Vec<String> = of.iter().map(|v| v.buffer.to_string()).collect();
                    writeln!(out, "  contract {} = overflow of {}", o.buffer, of.join(", "))
                }
                Contract::Conv { a, b, out: o, part, window, .. } => writeln!(
                    out,
                    "  contract {} = conv {:?}({}, {}) kernel {:?} stride {:?} pad {:?}",
                    o.buffer, part, a.buffer, b.buffer, window.kernel, window.stride, window.pad
                ),
            };
        }
        for l in &group.loops {
            let args: Vec<String> = l.args.iter().map(ToString::to_string).collect();
            let region = match l.region {
                Region::Free | Region::Training => "",
                Region::Encoder => "encoder ",
                Region::Residue => "residue ",
            };
            let parts = if l.parts > 1 { format!(" in {} parts", l.parts) } else { String::new() };
            let _ = writeln!(out, "  {region}loop {}({}){parts}  // {}", l.kernel, args.join(", "), l.label);
        }
    }
    for (door, word) in [(&program.enter, "enter"), (&program.leave, "leave")] {
        if let Some(door) = door {
            let _ = writeln!(out, "{word} {}({}, outside)", door.kernel, door.view.buffer);
        }
    }
    for (i, kernel) in program.kernels.iter().enumerate() {
        let _ = writeln!(out, "kernel k{i} ({} arguments)", kernel.args.len());
        out.push_str(&crate::kernel::print(kernel));
    }
    out
}
