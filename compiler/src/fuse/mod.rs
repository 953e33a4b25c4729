//! Tensor primitives to a [`Program`]: what is stored, what is recomputed, and which primitives share a loop.
//!
//! Everything element-wise that runs over the same samples and axes goes into one loop, scans over T included; only what a
//! contraction, a window, a view or a later loop reads is stored. Maps are cheap and are computed again where they are
//! needed. In training a contraction is a step of its own, computed by a library; at inference it is part of the loop
//! that reads it, and works on spikes.

mod axial;
mod bits;
mod body;
mod contract;
mod doors;
mod dots;
mod events;
mod formats;
mod fours;
mod rows;
mod schedule;
mod views;

pub use schedule::{Choice, Expected, Shared};

use crate::flow::{Def, Dims, Flow, FlowId, Region, Sink, Source};
use crate::kernel::{Format, Kernel};
use crate::program::{Buffer, BufferId, Contract, Group, KernelId, Loop, Program, Purpose, View};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A map that would read more stored tensors than this is stored itself.
const MAX_LEAVES: usize = 8;
/// The most roots of one loop: registers are assigned in a time that grows with the square of its length.
const MAX_ROOTS: usize = 64;
/// Samples in one range of a loop.
const SAMPLES: usize = 4;
/// Elements in one range of a loop that does not run over samples.
const ELEMENTS: usize = 16_384;

/// What the program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A training step, or a run of the unfolded network: contractions are computed by a library; what varies over samples is
    /// kept in this format.
    Train(Format),
    /// Folded inference: contractions are generated, and a call runs all time steps.
    Infer,
    /// Folded inference of any number of time steps a call: states are kept between calls.
    Stream,
}

impl Target {
    /// Is folded inference.
    fn infers(self) -> bool {
        matches!(self, Target::Infer | Target::Stream)
    }
}

/// Groups primitives and lays out memory; an inference is cut the same on every machine.
pub fn fuse(flow: &Flow, target: Target, time: usize) -> Program {
    fuse_for(flow, target, time, &Expected::default())
}

/// The same, with an inference cut for a machine and for what is expected to fire.
pub fn fuse_for(flow: &Flow, target: Target, time: usize, expected: &Expected) -> Program {
    let format = if let Target::Train(format) = target { format } else { Format::F32 };
    let (flow, formats) = bits::with_bits(formats::with_formats(views::with_copies(flow, format != Format::F32), format));
    let (flow, formats) = axial::with_outputs_innermost(flow, formats, target, time);
    let mut fuser = Fuser::new(&flow, formats, target, time);
    fuser.expected = expected.clone();
    fuser.find_visited();
    fuser.choose_stored();
    fuser.find_beginnings();
    fuser.schedule();
    fuser.emit()
}

/// A step of the schedule.
enum Item {
    Loop {
        space: Space,
        roots: Vec<FlowId>,
    },
    Contract(FlowId),
    /// Of bits alone, in a loop of its own.
    OfBits(FlowId),
}

/// What a loop runs over, and where in the network it belongs.
#[derive(Clone, PartialEq, Eq)]
struct Space {
    dims: Dims,
    region: Region,
}

struct Fuser<'a> {
    flow: &'a Flow,
    /// How each tensor is kept, if it is stored.
    formats: Vec<Format>,
    target: Target,
    time: usize,
    expected: Expected,
    /// Has a place in memory.
    stored: Vec<bool>,
    /// Is computed in a loop of its own right, not inside its readers.
    root: Vec<bool>,
    /// The item that computes a root.
    item_of: Vec<Option<usize>>,
    items: Vec<Item>,
    program: Program,
    kernels: HashMap<String, KernelId>,
    views: Vec<Option<View>>,
    /// Spikes that are also kept as bits.
    bits: HashMap<FlowId, View>,
    /// What event-driven contractions read.
    visited: HashSet<FlowId>,
    /// How many others, and results, read each tensor.
    readers: Vec<usize>,
    /// Contractions of an inference that only one map reads, which adds a parameter: the map, and the parameter.
    begins: HashMap<FlowId, (FlowId, FlowId)>,
    /// Is read as numbers, not only as bits.
    numbers: Vec<bool>,
    /// Lengths of rows with what fills them up, where something does.
    filled: BTreeMap<FlowId, usize>,
    /// Weights that lie in tiles of so many outputs.
    tiled: HashMap<(FlowId, usize), View>,
}

impl<'a> Fuser<'a> {
    fn new(flow: &'a Flow, formats: Vec<Format>, target: Target, time: usize) -> Self {
        let n = flow.tensors.len();
        let mut readers = vec![0; n];
        let sinks = flow.sinks.iter().map(|(_, id)| *id);
        flow.tensors.iter().flat_map(|t| t.def.inputs()).chain(sinks).for_each(|id| readers[id.index()] += 1);
        let program = Program { buffers: vec![], kernels: vec![], groups: vec![], sinks: vec![], enter: None, leave: None, time };
        Fuser {
            flow,
            filled: rows::filled(flow, &formats),
            formats,
            target,
            time,
            expected: Expected::default(),
            stored: vec![false; n],
            root: vec![false; n],
            item_of: vec![None; n],
            items: Vec::new(),
            program,
            kernels: HashMap::new(),
            views: vec![None; n],
            bits: HashMap::new(),
            visited: HashSet::new(),
            readers,
            begins: HashMap::new(),
            numbers: vec![true; n],
            tiled: HashMap::new(),
        }
    }

    fn ids(&self) -> impl DoubleEndedIterator<Item = FlowId> + use<> {
        (0..self.flow.tensors.len()).map(FlowId::new)
    }

    /// Computed by a library, as a step of its own.
    fn library(&self, id: FlowId) -> bool {
        let contracts = matches!(self.flow.get(id).def, Def::Product { .. } | Def::Masked { .. } | Def::Conv { .. } | Def::Overflow { .. });
        !self.target.infers() && contracts
    }

    /// Reads its operands at other places than its own, so they must lie in memory.
    fn gathers(&self, id: FlowId) -> bool {
        matches!(
            self.flow.get(id).def,
            Def::Product { .. }
                | Def::Conv { .. }
                | Def::Overflow { .. }
                | Def::Masked { .. }
                | Def::Pool { .. }
                | Def::PoolGrad { .. }
                | Def::Concat { .. }
                | Def::Slice { .. }
                | Def::Reshape { .. }
                | Def::Transpose { .. }
        )
    }

    /// A training step in 16 bits: on a device that computes much faster than it moves.
    fn narrow(&self) -> bool {
        matches!(self.target, Target::Train(format) if format != Format::F32)
    }

    /// What reading a tensor costs: its elements per sample, if it varies over them. A recurrence that hangs on two tensors like
    /// itself, such as a gradient before a neuron, is computed again by each loop that needs it: to keep it would cost as much
    /// to read, and to write.
    fn weight(&self, id: FlowId) -> usize {
        let dims = self.flow.dims(id);
        if dims.batch { dims.elements() * if dims.time { self.time } else { 1 } } else { 0 }
    }

    /// Where a tensor belongs.
    fn region(&self, id: FlowId) -> Region {
        if self.target.infers() { self.flow.get(id).region } else { Region::Training }
    }

    fn is_source(&self, id: FlowId) -> bool {
        matches!(self.flow.get(id).def, Def::Source(_))
    }

    /// A sum (or maximum) over T alone: every element keeps its own.
    fn over_time_only(&self, id: FlowId) -> bool {
        let Def::Reduce { input, .. } = self.flow.get(id).def else { return false };
        let (from, to) = (self.flow.dims(input), self.flow.dims(id));
        from.time && !to.time && from.batch == to.batch && from.axes == to.axes
    }

    fn choose_stored(&mut self) {
        let mut leaves: Vec<BTreeSet<FlowId>> = vec![BTreeSet::new(); self.flow.tensors.len()];
        for (_, id) in &self.flow.sinks {
            self.stored[id.index()] = true;
        }
        for id in self.ids() {
            let tensor = self.flow.get(id);
            for input in tensor.def.inputs() {
                // What may multiply and what may not share no loop.
                let apart = self.gathers(id) || (self.region(input) != self.region(id) && !self.is_source(input));
                if apart && self.numbers[input.index()] {
                    self.stored[input.index()] = true;
                }
            }
            match &tensor.def {
                Def::Source(_) | Def::Concat { .. } | Def::Transpose { .. } | Def::Reshape { .. } => {
                    self.stored[id.index()] = self.numbers[id.index()];
                }
                Def::Slice { .. } => self.stored[id.index()] = true,
                Def::Map { inputs, .. } => {
                    // A small tensor read by a larger loop would be computed again for every sample.
                    for input in inputs {
                        let small = !self.flow.dims(*input).batch && tensor.dims.batch;
                        if small && !self.is_source(*input) {
                            self.stored[input.index()] = true;
                        }
                    }
                }
                Def::Scan { inputs, .. } => {
                    for input in inputs {
                        if !self.flow.dims(*input).batch && tensor.dims.batch {
                            self.stored[input.index()] = true;
                        }
                    }
                }
                _ => {}
            }
        }
        // What only one map reads of a recurrence that is kept is kept as that map, such as the sum of two gradients.
        let mut readers: HashMap<FlowId, usize> = HashMap::new();
        for id in self.ids().filter(|id| !self.over_time_only(*id)) {
            self.flow.get(id).def.inputs().iter().for_each(|input| *readers.entry(*input).or_default() += 1);
        }
        // A second walk: which maps are stored is known now, but for those with too many leaves.
        for id in self.ids() {
            let tensor = self.flow.get(id);
            let mut again = false;
            if matches!(tensor.def, Def::Map { .. } | Def::Scan { .. }) && !self.stored[id.index()] {
                let mut own = BTreeSet::new();
                for input in tensor.def.inputs() {
                    own.extend(leaves[input.index()].iter().copied());
                }
                if matches!(tensor.def, Def::Map { .. }) {
                    // Where memory is what counts, what does not vary over samples counts little.
                    let count = own.iter().filter(|leaf| !self.narrow() || self.flow.dims(**leaf).batch).count();
                    let kept = |i: &FlowId| self.narrow() && self.root[i.index()] && !self.stored[i.index()] && readers.get(i) == Some(&1);
                    let scanned = |i: &FlowId| matches!(self.flow.get(*i).def, Def::Scan { .. }) && self.flow.dims(*i) == &tensor.dims;
                    let instead = tensor.def.inputs().iter().any(|i| kept(i) && scanned(i));
                    let several = readers.get(&id).is_some_and(|n| *n > 1);
                    self.stored[id.index()] = count > MAX_LEAVES || several && (instead || self.stands_for_a_sum(id, &own, &readers));
                } else {
                    again = self.narrow() && own.iter().map(|leaf| self.weight(*leaf)).sum::<usize>() <= 2 * self.weight(id);
                }
                leaves[id.index()] = own;
            }
            self.root[id.index()] = match tensor.def {
                Def::Source(_) | Def::Concat { .. } | Def::Slice { .. } | Def::Reshape { .. } => false,
                Def::Map { .. } => self.stored[id.index()] || self.read_as_bits(id),
                Def::Transpose { .. } => self.read_as_bits(id),
                _ => !again,
            };
            if self.stored[id.index()] || self.root[id.index()] {
                leaves[id.index()] = [id].into();
            }
            if let Def::Reduce { .. } | Def::PoolGrad { .. } = tensor.def {
                self.stored[id.index()] = true;
            }
            if self.library(id) {
                self.stored[id.index()] = true;
            }
        }
    }

    /// At inference: whether a map of several tensors is all that becomes of a contraction, so that to keep it costs no more than to keep the
    /// contraction's result, and its readers read less.
    fn stands_for_a_sum(&self, id: FlowId, leaves: &BTreeSet<FlowId>, readers: &HashMap<FlowId, usize>) -> bool {
        if !self.target.infers() || leaves.iter().filter(|leaf| self.flow.dims(**leaf).batch).count() < 2 {
            return false;
        }
        let inputs = |at: FlowId| self.flow.get(at).def.inputs();
        let mut waiting = inputs(id);
        while let Some(at) = waiting.pop() {
            match self.flow.get(at).def {
                _ if readers.get(&at) != Some(&1) => {}
                Def::Product { .. } | Def::Conv { .. } => return self.weighs(at) && self.flow.dims(at) == self.flow.dims(id),
                Def::Map { .. } if !self.stored[at.index()] => waiting.extend(inputs(at)),
                _ => {}
            }
        }
        false
    }

    /// The roots and stored tensors that computing `id` reads, not looking through them.
    fn reads(&self, id: FlowId) -> Vec<FlowId> {
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        let mut waiting = self.flow.get(id).def.inputs();
        while let Some(next) = waiting.pop() {
            if !seen.insert(next) {
                continue;
            }
            if self.root[next.index()] || self.stored[next.index()] {
                found.push(next);
            } else {
                waiting.extend(self.flow.get(next).def.inputs());
            }
        }
        found
    }

    /// The item after which a tensor is in memory; `None` if it is from the start.
    fn ready(&self, id: FlowId) -> Option<usize> {
        match &self.flow.get(id).def {
            Def::Source(_) => None,
            Def::Slice { of, .. } | Def::Reshape { of, .. } => self.ready(*of),
            Def::Concat { parts, .. } => parts.iter().filter_map(|p| self.ready(*p)).max(),
            Def::Transpose { of } => self.item_of[id.index()].or_else(|| self.ready(*of)),
            _ => self.item_of[id.index()],
        }
    }

    /// The samples and axes a root's loop runs over, and its region.
    fn space(&self, id: FlowId) -> Space {
        let dims = match self.flow.get(id).def {
            Def::Reduce { input, .. } => self.flow.dims(input),
            _ => self.flow.dims(id),
        };
        Space { dims: Dims { time: false, ..dims.clone() }, region: self.region(id) }
    }

    /// Recurrences that nobody reads from memory, such as the membranes of a backward pass, are computed by the loop that
    /// needs them, however early they could be.
    fn waits(&self, id: FlowId) -> bool {
        let scan = matches!(self.flow.get(id).def, Def::Scan { .. });
        scan && !self.target.infers() && !self.stored[id.index()]
    }

    fn schedule(&mut self) {
        let waiting: Vec<bool> = self.ids().map(|id| self.root[id.index()] && self.waits(id)).collect();
        for id in self.ids() {
            if self.root[id.index()] && !waiting[id.index()] {
                self.schedule_one(id, &waiting);
            }
        }
        // What another item reads must be stored; bits are.
        for id in self.ids().filter(|i| self.root[i.index()] && !self.reads_bits(*i)).collect::<Vec<_>>() {
            for read in self.reads(id) {
                if self.root[read.index()] && self.item_of[read.index()] != self.item_of[id.index()] {
                    self.stored[read.index()] = true;
                }
            }
        }
    }

    /// Neighbouring threads make a word of bits, and threads that add up have other neighbours.
    fn apart(&self, roots: &[FlowId], members: &[FlowId]) -> bool {
        // At inference a sample's sums are one loop's, and what is tiled is cut into parts.
        let bits = |id: &FlowId| self.formats[id.index()] == Format::Bit || self.tiles(*id);
        let sums = |id: &FlowId| matches!(self.flow.get(*id).def, Def::Reduce { .. }) && !self.over_time_only(*id);
        let [some, others] = [roots, members].map(|all| (all.iter().any(bits), all.iter().any(sums)));
        some.0 && others.1 || some.1 && others.0
    }

    /// Puts a root into the first loop that it can share, with the waiting ones that it reads.
    fn schedule_one(&mut self, id: FlowId, waiting: &[bool]) {
        if self.library(id) {
            self.item_of[id.index()] = Some(self.items.len());
            self.items.push(Item::Contract(id));
            return;
        }
        if matches!(self.flow.get(id).def, Def::Transpose { .. }) || self.counts(id).is_some() {
            self.item_of[id.index()] = Some(self.items.len());
            self.items.push(Item::OfBits(id));
            return;
        }
        let space = self.space(id);
        let mut members = vec![id];
        let mut reads = Vec::new();
        let mut found = self.reads(id);
        while let Some(read) = found.pop() {
            if waiting[read.index()] && self.item_of[read.index()].is_none() {
                if self.space(read) == space {
                    if !members.contains(&read) {
                        members.push(read);
                        found.extend(self.reads(read));
                    }
                    continue;
                }
                self.schedule_one(read, waiting);
            }
            reads.push(read);
        }
        // Element-wise results of a loop can be read in that loop; all else only after it.
        let mut first = 0;
        for read in &reads {
            if let Some(item) = self.ready(*read) {
                let own = match self.flow.get(*read).def {
                    Def::Reduce { .. } => self.over_time_only(*read),
                    Def::Map { .. } | Def::Scan { .. } | Def::Pool { .. } | Def::PoolGrad { .. } => true,
                    Def::Product { .. } | Def::Conv { .. } => self.target.infers(),
                    _ => false,
                };
                let same = own && !self.gathers(id) && self.space(*read) == space;
                first = first.max(if same { item } else { item + 1 });
            }
        }
        let joined = (first..self.items.len()).find(|i| match &self.items[*i] {
            Item::Loop { space: s, roots } => {
                *s == space
                    && !self.apart(roots, &members)
                    && roots.len() + members.len() <= MAX_ROOTS
                    && roots.iter().any(|r| reads.contains(r) || self.reads(*r).iter().any(|x| reads.contains(x)))
            }
            Item::Contract(_) | Item::OfBits(_) => false,
        });
        let item = joined.unwrap_or(self.items.len());
        members.sort();
        for id in &members {
            self.item_of[id.index()] = Some(item);
        }
        match self.items.get_mut(item) {
            Some(Item::Loop { roots, .. }) => roots.extend(members),
            _ => self.items.push(Item::Loop { space, roots: members }),
        }
    }

    fn emit(mut self) -> Program {
        self.lay_out();
        let mut pending: Vec<Contract> = Vec::new();
        for index in 0..self.items.len() {
            match &self.items[index] {
                Item::Contract(id) => {
                    let contract = self.contract(*id);
                    pending.push(contract);
                }
                Item::OfBits(id) => {
                    let id = *id;
                    let loops = match self.counts(id) {
                        Some(counts) => body::counts(&mut self, index, id, &counts),
                        None => body::transpose(&mut self, index, id),
                    };
                    self.program.groups.push(Group { contracts: std::mem::take(&mut pending), loops, once: false });
                }
                Item::Loop { space, roots } => {
                    let (space, roots) = (space.clone(), roots.clone());
                    let loops = body::emit(&mut self, index, &space, &roots);
                    let once = self.target.infers() && self.is_static(&roots);
                    self.program.groups.push(Group { contracts: std::mem::take(&mut pending), loops, once });
                }
            }
        }
        if !pending.is_empty() {
            self.program.groups.push(Group { contracts: pending, loops: vec![], once: false });
        }
        for (sink, id) in &self.flow.sinks {
            if let Some(view) = self.views[id.index()].clone() {
                self.program.sinks.push((sink.clone(), view));
            }
        }
        self.program.enter = self.enter();
        self.program.leave = self.leave();
        self.program
    }

    /// Hangs on nothing that varies over T.
    fn is_static(&self, roots: &[FlowId]) -> bool {
        let mut waiting: Vec<FlowId> = roots.to_vec();
        let mut seen = BTreeSet::new();
        while let Some(id) = waiting.pop() {
            if self.flow.dims(id).time {
                return false;
            }
            if seen.insert(id) {
                waiting.extend(self.flow.get(id).def.inputs());
            }
        }
        true
    }

    fn view(&self, id: FlowId) -> View {
        match &self.views[id.index()] {
            Some(view) => view.clone(),
            // Only stored tensors are asked for: a compiler bug, which no buffer of that number will hide.
            None => View { buffer: BufferId(u32::MAX), offset: 0, batch: 0, time: 0, axes: vec![] },
        }
    }

    fn contract(&self, id: FlowId) -> Contract {
        match &self.flow.get(id).def {
            Def::Product { a, b, a_labels, b_labels, out_labels } => Contract::Product {
                a: self.view(*a),
                b: self.view(*b),
                out: self.view(id),
                a_labels: a_labels.clone(),
                b_labels: b_labels.clone(),
                out_labels: out_labels.clone(),
            },
            Def::Conv { a, b, part, window } => {
                Contract::Conv { a: self.view(*a), b: self.view(*b), out: self.view(id), part: *part, window: *window }
            }
            Def::Masked { of, by, of_labels, by_labels, out_labels } => Contract::Masked {
                of: of.iter().map(|id| self.view(*id)).collect(),
                by: self.view(*by),
                out: self.view(id),
                of_labels: of_labels.clone(),
                by_labels: by_labels.clone(),
                out_labels: out_labels.clone(),
            },
            Def::Overflow { of } => Contract::Overflow { of: of.iter().map(|id| self.view(*id)).collect(), out: self.view(id) },
            other => unreachable!("{other:?} is no contraction"),
        }
    }

    fn buffer(&mut self, label: &str, elements: usize, batch: bool, purpose: Purpose) -> BufferId {
        self.program.buffers.push(Buffer {
            label: label.to_owned(),
            elements,
            batch,
            ranges: false,
            purpose,
            format: Format::F32,
            tile: 0,
        });
        BufferId::new(self.program.buffers.len() - 1)
    }

    /// The kernel, added once however often it is used.
    fn kernel(&mut self, kernel: Kernel, region: Region) -> KernelId {
        let key = format!("{region:?} {kernel:?}");
        if let Some(known) = self.kernels.get(&key) {
            return *known;
        }
        let id = KernelId::new(self.program.kernels.len());
        self.program.kernels.push(kernel);
        self.kernels.insert(key, id);
        id
    }

    fn push_loop(
        &mut self,
        kernel: Kernel,
        args: Vec<BufferId>,
        extent: Option<usize>,
        grain: usize,
        label: String,
        region: Region,
    ) -> Loop {
        Loop { kernel: self.kernel(kernel, region), args, extent, parts: 1, grain, label, region, inside: vec![], choice: None }
    }
}

/// Where an updated source is written.
fn updates(flow: &Flow, id: FlowId) -> Option<Source> {
    flow.sinks.iter().find_map(|(sink, t)| match sink {
        Sink::Update(source) if *t == id => Some(*source),
        _ => None,
    })
}
