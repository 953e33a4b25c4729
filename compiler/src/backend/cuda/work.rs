//! A step of a program as what a device is told to do, in order: calls of libraries, and launches of our kernels.
//!
//! Launches cost time of their own, so small work rides along. What is small and follows a kernel is done by that kernel's last
//! block (a *chain*); what several groups do alike, each on its own buffers, is one launch (*side by side*); and the parts of
//! sums are added when something first needs one of them, all at once.

use super::calls::{Base, Call, calls};
use super::masked::{self, Kind};
use super::schedule::{Grid, schedule};
use super::{Printer, THREADS, Unsupported};
use crate::kernel::{Format, Stmt};
use crate::program::{BufferId, Group, KernelId, Loop, Program, Purpose};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A kernel on its arguments.
#[derive(Clone, Debug)]
pub struct Task<'p> {
    /// The loop.
    pub of: &'p Loop,
    /// Extent of its outermost loop.
    pub extent: usize,
    /// Into how many ranges that is cut, or was cut by the loop whose sums this one adds.
    pub ranges: usize,
    /// Blocks, if it is launched itself.
    pub blocks: usize,
}

/// The parts of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// The first byte of the parts, f32 each.
    pub from: usize,
    /// How many.
    pub parts: usize,
    /// Elements of the result.
    pub size: usize,
    /// Its place.
    pub to: super::calls::Place,
}

/// One thing that a device is told to do.
#[derive(Clone, Debug)]
pub enum Work<'p> {
    /// A library's call, or a copy or zeros for one; and what it is for.
    Call(Call, &'p str),
    /// Sums of parts, side by side.
    Sums(Vec<Sum>),
    /// A kernel, and small ones that its last block runs after it.
    Chain(Vec<Task<'p>>),
    /// The same kernel on several arguments.
    Side(Vec<Task<'p>>),
}

/// What a step is made of.
#[derive(Clone, Debug)]
pub struct Step<'p> {
    /// In order.
    pub work: Vec<Work<'p>>,
    /// Bytes that are needed aside.
    pub aside: usize,
    /// Bytes that the parts of sums need.
    pub parts: usize,
}

/// The most elements that a block works on after others.
const SMALL: u64 = 2048;
/// Arguments of a launch, in bytes, of the 4096 that there may be.
const MOST_ARGUMENTS: usize = 3584;
/// Parts of sums that wait to be added, in bytes.
const MOST_PARTS: usize = 256 << 20;
/// Bytes of `Call`, as the prelude has it.
const CALL: usize = 48;

/// The work of a step for so many samples and time steps.
///
/// # Errors
/// A program of folded inference.
pub fn step(program: &Program, samples: usize, steps: usize) -> Result<Step<'_>, Unsupported> {
    let contracted = program.groups.iter().flat_map(|g| &g.contracts).map(|c| c.out().buffer);
    let mut planner = Planner { step: Step { work: vec![], aside: 0, parts: 0 }, sums: vec![], parts: 0, contracted: contracted.collect() };
    let batches = side_by_side(program)?;
    let mut groups = program.groups.iter().enumerate();
    while let Some((i, group)) = groups.next() {
        for contract in &group.contracts {
            let what = group.loops.first().map_or("the network", |l| l.label.as_str());
            planner.contract(calls(program, contract, samples, steps), what);
        }
        if let Some(end) = batches.get(&i) {
            for _ in i + 1..*end {
                groups.next();
            }
            let mut alike: BTreeMap<KernelId, Vec<Task<'_>>> = BTreeMap::new();
            for task in program.groups[i..*end].iter().map(|g| tasks(program, g, samples)) {
                task?.into_iter().for_each(|t| alike.entry(t.of.kernel).or_default().push(t));
            }
            for tasks in alike.into_values() {
                planner.before(&tasks);
                planner.step.work.push(if tasks.len() == 1 { Work::Chain(tasks) } else { Work::Side(tasks) });
            }
        } else {
            let tasks = tasks(program, group, samples)?;
            planner.before(&tasks);
            let alone = tasks.iter().flat_map(|t| &t.of.args).any(|b| planner.contracted.contains(b));
            for (i, task) in tasks.into_iter().enumerate() {
                planner.task(program, task, i == 0 && alone)?;
            }
        }
    }
    planner.add();
    Ok(planner.step)
}

fn tasks<'p>(program: &'p Program, group: &'p Group, samples: usize) -> Result<Vec<Task<'p>>, Unsupported> {
    let mut ranges = 1;
    let task = |(i, l): (usize, &'p Loop)| {
        let extent = l.extent.unwrap_or(samples);
        let grid = schedule(&program.kernels[l.kernel.index()])?.grid;
        if i == 0 {
            ranges = grid.ranges(extent);
        }
        Ok(Task { of: l, extent, ranges, blocks: grid.blocks(extent) })
    };
    group.loops.iter().enumerate().map(task).collect()
}

struct Planner<'p> {
    step: Step<'p>,
    /// Sums that wait.
    sums: Vec<Sum>,
    parts: usize,
    /// The results of contractions. What reads one follows no other kernel, whether sums come between them or not: so what is
    /// launched does not hang on the number of samples.
    contracted: BTreeSet<BufferId>,
}

impl<'p> Planner<'p> {
    fn contract(&mut self, calls: Vec<Call>, what: &'p str) {
        let end = |base| calls.iter().map(|c| c.end(base)).max().unwrap_or(0);
        self.step.aside = self.step.aside.max(end(Base::Aside));
        let waited = |call: &Call, sums: &[Sum]| call.places().iter().any(|p| sums.iter().any(|s| s.to.base == p.base));
        if self.parts + end(Base::Parts) > MOST_PARTS || calls.iter().any(|c| waited(c, &self.sums)) {
            self.add();
        }
        let (first, size) = (self.parts, end(Base::Parts).next_multiple_of(256));
        self.parts += size;
        self.step.parts = self.step.parts.max(self.parts);
        for call in calls {
            let call = call.shifted(Base::Parts, first);
            if waited(&call, &self.sums) {
                self.add();
            }
            match call {
                Call::Sum { from, parts, size, to } => self.sums.push(Sum { from: from.at, parts, size, to }),
                other => self.step.work.push(Work::Call(other, what)),
            }
        }
    }

    /// Adds all that waits.
    fn add(&mut self) {
        if !self.sums.is_empty() {
            self.step.work.push(Work::Sums(std::mem::take(&mut self.sums)));
        }
        self.parts = 0;
    }

    /// Adds what these will need.
    fn before(&mut self, tasks: &[Task<'_>]) {
        let touched = |b: &BufferId| self.sums.iter().any(|s| s.to.base == Base::Buffer(*b));
        if tasks.iter().flat_map(|t| &t.of.args).any(touched) {
            self.add();
        }
    }

    /// A kernel of its own, or behind the one before.
    fn task(&mut self, program: &Program, task: Task<'p>, alone: bool) -> Result<(), Unsupported> {
        let schedule = schedule(&program.kernels[task.of.kernel.index()])?;
        let elements = |n: usize| n as u64 * schedule.nests.iter().map(super::schedule::Nest::inner).sum::<u64>();
        let small =
            !alone && matches!(schedule.grid, Grid::Elements { .. } | Grid::Whole) && task.of.extent.is_some_and(|n| elements(n) <= SMALL);
        let bytes = |t: &Task<'_>| 8 * t.of.args.len() + CALL;
        match self.step.work.last_mut() {
            Some(Work::Chain(tasks)) if small && tasks.iter().map(bytes).sum::<usize>() + bytes(&task) <= MOST_ARGUMENTS => {
                tasks.push(task);
            }
            _ => self.step.work.push(Work::Chain(vec![task])),
        }
        Ok(())
    }
}

/// Runs of groups that may run at once, and of which several are alike: first group and the one behind the last.
fn side_by_side(program: &Program) -> Result<BTreeMap<usize, usize>, Unsupported> {
    let mut found = BTreeMap::new();
    let mut start = 0;
    while start < program.groups.len() {
        let mut end = start;
        let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
        let mut kernels = Vec::new();
        // Temporary buffers share places: those that end here may lie where others begin.
        let (mut ends, mut begins) = (false, false);
        while let Some(group) = program.groups.get(end) {
            let [l] = &group.loops[..] else { break };
            let kernel = &program.kernels[l.kernel.index()];
            if !group.contracts.is_empty() || !matches!(schedule(kernel)?.grid, Grid::Elements { .. }) {
                break;
            }
            let stored = stored(&kernel.body);
            let (own_written, own_read): (Vec<_>, Vec<_>) = l.args.iter().enumerate().partition(|(i, _)| stored.contains(i));
            let hangs = own_written.iter().any(|(_, b)| read.contains(*b) || written.contains(*b))
                || own_read.iter().any(|(_, b)| written.contains(*b));
            let temporary = |some: &[(usize, &BufferId)]| some.iter().any(|(_, b)| program.buffer(**b).purpose == Purpose::Temporary);
            let (own_ends, own_begins) = (temporary(&own_read), temporary(&own_written));
            if hangs || (ends || own_ends) && (begins || own_begins) {
                break;
            }
            (ends, begins) = (ends || own_ends, begins || own_begins);
            read.extend(own_read.into_iter().map(|(_, b)| *b));
            written.extend(own_written.into_iter().map(|(_, b)| *b));
            kernels.push(l.kernel);
            end += 1;
        }
        let distinct: BTreeSet<_> = kernels.iter().collect();
        // Two launches for two kernels are none less; and what is small may ride along elsewhere.
        if kernels.len() >= 2 * distinct.len().max(1) {
            found.insert(start, end);
            start = end;
        } else {
            start += 1;
        }
    }
    Ok(found)
}

/// The arguments that a kernel writes.
fn stored(body: &[Stmt]) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for stmt in body {
        match stmt {
            Stmt::Store(place, _)
            | Stmt::StoreWord(place, _)
            | Stmt::StoreHalf(place, _)
            | Stmt::StoreBits(place, _)
            | Stmt::Transpose { to: place, .. }
            | Stmt::Combine { place, .. } => {
                found.insert(place.arg);
            }
            Stmt::For { body, .. } | Stmt::While(_, body) | Stmt::If(_, body) => found.extend(stored(body)),
            Stmt::Let(..) | Stmt::Set(..) | Stmt::LetInt(..) | Stmt::SetInt(..) | Stmt::StoreScratch(..) | Stmt::Prefetch(..) => {}
        }
    }
    found
}

/// A launch's function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// These kernels, in order.
    Chain(Vec<KernelId>),
    /// A kernel on several arguments.
    Side(KernelId),
    /// A sum that bits mask.
    Masked(Kind),
}

impl Work<'_> {
    /// The function that launches it, if it is ours.
    pub fn entry(&self) -> Option<Entry> {
        match self {
            Work::Chain(tasks) => Some(Entry::Chain(tasks.iter().map(|t| t.of.kernel).collect())),
            Work::Side(tasks) => Some(Entry::Side(tasks[0].of.kernel)),
            Work::Call(Call::Masked(masked), _) => Some(Entry::Masked(masked.kind)),
            Work::Call(..) | Work::Sums(_) => None,
        }
    }
}

impl Entry {
    /// Its name in the text.
    pub fn name(&self) -> String {
        match self {
            Entry::Chain(kernels) => kernels.iter().fold("chain".to_owned(), |name, k| format!("{name}_{}", k.index())),
            Entry::Side(kernel) => format!("side_{}", kernel.index()),
            Entry::Masked(kind) => kind.name(),
        }
    }

    /// The kernels it runs.
    pub fn kernels(&self) -> &[KernelId] {
        match self {
            Entry::Chain(kernels) => kernels,
            Entry::Side(kernel) => std::slice::from_ref(kernel),
            Entry::Masked(_) => &[],
        }
    }

    /// Whether it takes several structures of arguments.
    pub fn side(&self) -> bool {
        !matches!(self, Entry::Chain(_))
    }

    /// Whether its threads wait for each other.
    pub fn waits(&self, program: &Program) -> bool {
        let alone = |id: &KernelId| {
            let kernel = &program.kernels[id.index()];
            let elements = matches!(schedule(kernel).map(|s| s.grid), Ok(Grid::Elements { .. }));
            elements && !kernel.args.contains(&Format::Bit)
        };
        self.kernels().len() != 1 || !self.kernels().iter().all(alone)
    }

    /// Its text: the structure of its arguments, and the function, which calls those of its kernels.
    pub fn text(&self, program: &Program) -> String {
        if let Entry::Masked(kind) = self {
            return kind.text();
        }
        let name = self.name();
        let mut fields = String::new();
        let mut calls = Vec::new();
        for (j, kernel) in self.kernels().iter().enumerate() {
            let args = &program.kernels[kernel.index()].args;
            let mut given = String::new();
            for (i, format) in args.iter().enumerate() {
                let _ = writeln!(fields, "    {} *a{j}_{i};", c_type(*format));
                let _ = write!(given, "e.a{j}_{i}, ");
            }
            let _ = writeln!(fields, "    Call c{j};");
            calls.push(format!("{kernel}({given}e.c{j}"));
        }
        let bounds = format!("extern \"C\" __global__ void __launch_bounds__({THREADS})");
        if self.side() {
            return format!(
                "struct {name}_arguments {{\n{fields}    long long first;\n}};\n\
                 {bounds} {name}(const {name}_arguments *all, const int count) {{\n    \
                 const int i = entry(all, count);\n    const {name}_arguments &e = all[i];\n    \
                 const int blocks = (i + 1 < count ? (int)all[i + 1].first : (int)gridDim.x) - (int)e.first;\n    \
                 {}, (int)blockIdx.x - (int)e.first, blocks);\n}}\n",
                calls[0]
            );
        }
        let mut body = format!("    {}, blockIdx.x, gridDim.x);\n", calls[0]);
        for (i, call) in calls.iter().enumerate().skip(1) {
            body += if i == 1 { "    if (!last_block(e.done)) return;\n" } else { "    __syncthreads();\n" };
            let _ = writeln!(body, "    {call}, 0, 1);");
        }
        format!("struct {name}_arguments {{\n{fields}    unsigned *done;\n}};\n{bounds} {name}(const {name}_arguments e) {{\n{body}}}\n")
    }
}

/// The C type of numbers of a format.
fn c_type(format: Format) -> &'static str {
    match format {
        Format::F32 => "float",
        Format::F16 => "f16",
        Format::Bf16 => "bf16",
        // Words of bits.
        Format::Bit => "unsigned",
    }
}

/// The functions of some kernels and of what launches them.
///
/// # Errors
/// A program of folded inference.
pub fn text(program: &Program, entries: &[Entry]) -> Result<String, Unsupported> {
    let kernels: BTreeSet<KernelId> = entries.iter().flat_map(|e| e.kernels().iter().copied()).collect();
    let mut out = String::new();
    if entries.iter().any(|e| matches!(e, Entry::Masked(_))) {
        out += masked::TEMPLATE;
    }
    for kernel in kernels {
        out += &function(program, kernel)?;
        out.push('\n');
    }
    for entry in entries {
        out += &entry.text(program);
        out.push('\n');
    }
    Ok(out)
}

/// A kernel as a function of one block.
fn function(program: &Program, id: KernelId) -> Result<String, Unsupported> {
    let kernel = &program.kernels[id.index()];
    let schedule = schedule(kernel)?;
    let args: Vec<String> = kernel.args.iter().enumerate().map(|(i, format)| format!("{} *a{i}", c_type(*format))).collect();
    let mut printer = Printer { out: String::new(), depth: 1, formats: &kernel.args, sums: vec![] };
    printer.line("const int tid = threadIdx.x;");
    for i in 0..kernel.scratch {
        printer.line(&format!("float s{i}[{}];", kernel.time));
    }
    printer.kernel(&schedule)?;
    Ok(format!("__device__ void {id}({}, const Call &c, const int block, const int blocks) {{\n{}}}\n", args.join(", "), printer.out))
}

/// All functions that a step launches, each once.
///
/// # Errors
/// A program of folded inference.
pub fn entries(program: &Program) -> Result<Vec<Entry>, Unsupported> {
    // What is launched does not hang on the number of samples.
    let step = step(program, 1, program.time)?;
    let all: BTreeSet<Entry> = step.work.iter().filter_map(Work::entry).collect();
    Ok(all.into_iter().collect())
}
