//! One loop of the schedule to kernels: the loop itself, and the sums over its ranges.
//!
//! Inside an element the time steps run in passes, each forwards or backwards; between the passes stands what does not
//! vary over T. A value is computed in the pass that needs it; what a later pass needs of a recurrence goes through an
//! array of the kernel's own.

mod abreast;
mod counts;
mod doublings;
mod roots;
mod tiles;
mod transpose;

pub(super) use counts::counts;
pub(super) use transpose::transpose;

use super::events::List;
use super::fours::Tables;
use super::schedule::Choice;
use super::{ELEMENTS, Fuser, SAMPLES, Space, Target};
use crate::flow::{Bin, Cmp, Def, Dims, FlowId, Region, Scalar, Source, Un};
use crate::kernel::{Bound, Cond, Expr, Format, Int, IntExpr, Kernel, Place, Stmt, Var};
use crate::program::{BufferId, Inside, Loop, Purpose, View};
use doublings::Doubling;
use std::collections::HashMap;

/// Elements that the innermost loop runs at once.
const LANES: u8 = 8;

/// Lanes of a tile are multiples of so many: their bits are whole bytes.
pub(super) const LANES_OF_BITS: usize = 8;
/// What walking through the spikes for one more tile costs, in lanes.
pub(super) const TILE_COST: usize = 8;

/// Shorter rows of elements are no tiles: loops over them would cost more than sharing them gives.
const FEWEST_IN_A_ROW: usize = 16;

/// Where a statement stands: before pass k (or after the last), or in pass k.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum At {
    Gap(usize),
    Pass(usize),
}

/// When a value is there.
#[derive(Clone, Copy, Debug)]
enum Slot {
    /// From this gap on, the same for all time steps.
    Gap(usize),
    /// In any pass from this one on, computed where it is needed.
    From(usize),
    /// Computed in this pass only.
    In(usize),
}

/// One level of the loop nest around an element.
pub(super) struct Level {
    /// The axes merged into it, outermost first.
    axes: Vec<String>,
    pub(super) size: usize,
    pub(super) index: Int,
}

/// The innermost axis of a loop whose elements are computed in tiles of so many lanes.
pub(super) struct Columns {
    axis: String,
    size: usize,
    pub(super) lanes: usize,
    tile: Int,
    lane: Int,
    /// Every tile goes through all rows of a block before the next: its weights stay near.
    outermost: bool,
}

impl Columns {
    pub(super) fn tile(&self) -> Int {
        self.tile
    }

    pub(super) fn lane(&self) -> Int {
        self.lane
    }

    /// There is one tile.
    pub(super) fn alone(&self) -> bool {
        self.size <= self.lanes
    }
}

struct Pass {
    reverse: bool,
    body: Vec<Stmt>,
    index: Int,
    doublings: Vec<Doubling>,
}

pub(super) struct Body<'f, 'a> {
    pub(super) fuser: &'f mut Fuser<'a>,
    item: usize,
    pub(super) batch: Option<Int>,
    pub(super) levels: Vec<Level>,
    pub(super) columns: Option<Columns>,
    /// Spikes that are visited.
    pub(super) lists: Vec<List>,
    /// Sums of their weights.
    pub(super) tables: Vec<Tables>,
    /// The number of the range, if something hangs on it.
    pub(super) range: Option<Int>,
    /// Contractions so far.
    pub(super) inside: Vec<Inside>,
    /// How a loop of contractions is cut.
    choice: Option<Choice>,
    /// Where the first level begins in the block at hand.
    pub(super) block: Option<Int>,
    args: Vec<BufferId>,
    next_int: u32,
    next_var: u32,
    passes: Vec<Pass>,
    gaps: Vec<Vec<Stmt>>,
    slots: HashMap<FlowId, Slot>,
    memo: HashMap<(FlowId, usize, At), Var>,
    scratch: HashMap<(FlowId, usize), usize>,
    /// The time step that the call begins with, if something here hangs on it.
    first: Option<Int>,
}

/// Emits a loop and the loops that finish its sums.
pub(super) fn emit(fuser: &mut Fuser<'_>, item: usize, space: &Space, roots: &[FlowId]) -> Vec<Loop> {
    let flow = fuser.flow;
    let label = roots.last().map_or(String::new(), |r| flow.get(*r).label.clone());
    let time = fuser.time;
    let mut body = Body::new(fuser, item);
    if space.dims.batch {
        body.batch = Some(body.int());
    }
    let across = if let [only] = roots { body.fuser.across(*only) } else { None };
    match &across {
        Some(axis) => body.make_levels(&Fuser::turned(&space.dims, axis), roots, true),
        None => body.make_levels(&space.dims, roots, false),
    }
    let mut finish = Vec::new();
    let mut start = Vec::new();
    for root in roots {
        body.root(*root, &mut start, &mut finish);
    }
    body.finish(start, finish, &label, time, space.region)
}

impl<'f, 'a> Body<'f, 'a> {
    fn new(fuser: &'f mut Fuser<'a>, item: usize) -> Self {
        Body {
            fuser,
            item,
            batch: None,
            levels: vec![],
            columns: None,
            lists: vec![],
            tables: vec![],
            range: None,
            inside: vec![],
            choice: None,
            block: None,
            args: vec![],
            next_int: 0,
            next_var: 0,
            passes: vec![],
            gaps: vec![vec![]],
            slots: HashMap::new(),
            memo: HashMap::new(),
            scratch: HashMap::new(),
            first: None,
        }
    }
}

impl Body<'_, '_> {
    pub(super) fn int(&mut self) -> Int {
        self.next_int += 1;
        Int(self.next_int - 1)
    }

    pub(super) fn var(&mut self) -> Var {
        self.next_var += 1;
        Var(self.next_var - 1)
    }

    pub(super) fn arg(&mut self, buffer: BufferId) -> usize {
        if let Some(known) = self.args.iter().position(|a| *a == buffer) {
            return known;
        }
        self.args.push(buffer);
        self.args.len() - 1
    }

    /// An inference's loop over elements alone, whose rows threads may share as well.
    fn shares_rows(&self, space: &Dims, roots: &[FlowId]) -> bool {
        let element = |id: &FlowId| matches!(self.fuser.flow.get(*id).def, Def::Map { .. } | Def::Scan { .. });
        let wide = space.axes.len() > 1 && space.axes.last().is_some_and(|a| a.size >= FEWEST_IN_A_ROW);
        self.fuser.target.infers() && space.batch && wide && roots.iter().all(element)
    }

    /// Axes whose neighbours lie side by side in every tensor involved become one level.
    fn make_levels(&mut self, space: &Dims, roots: &[FlowId], across: bool) {
        let tiled = across || roots.iter().any(|id| self.fuser.tiles(*id)) || self.shares_rows(space, roots);
        if let (Some(last), true) = (space.axes.last(), tiled) {
            let outermost = roots.iter().any(|id| self.fuser.weighs(*id));
            let outer = &space.axes[..space.axes.len() - 1];
            let first = outer.first().map_or(1, |a| a.size);
            let inner = outer.iter().skip(1).map(|a| a.size).product();
            self.choice = self.fuser.choice(roots, [first, inner], last.size);
            let lanes = self.choice.as_ref().map_or_else(|| self.fuser.lanes_for(last.size), |c| c.lanes);
            if self.choice.is_none() {
                self.choice = self.fuser.priced(roots, [first * inner, last.size], lanes, self.fuser.parts(first));
            }
            let (tile, lane) = (self.int(), self.int());
            self.columns = Some(Columns { axis: last.name.clone(), size: last.size, lanes, tile, lane, outermost });
            for axis in &space.axes[..space.axes.len() - 1] {
                let index = self.int();
                self.levels.push(Level { axes: vec![axis.name.clone()], size: axis.size, index });
            }
            return;
        }
        let mut involved: Vec<FlowId> = Vec::new();
        let mut merge = true;
        for root in roots {
            involved.push(*root);
            involved.extend(self.fuser.reads(*root));
            merge &= !self.fuser.gathers(*root);
        }
        // Maps inside may broadcast too, but only what they read lies in memory.
        let views: Vec<View> =
            involved.iter().filter_map(|id| self.fuser.views[id.index()].clone()).filter(|v| v.buffer != BufferId(u32::MAX)).collect();
        let mut levels: Vec<Level> = Vec::new();
        for axis in &space.axes {
            let joins = merge
                && levels.last().is_some_and(|level| {
                    let before = level.axes.last().map_or("", String::as_str);
                    views.iter().all(|v| match (v.axis(before), v.axis(&axis.name)) {
                        (Some((_, outer)), Some((size, inner))) => outer == size * inner,
                        (None, None) => true,
                        _ => false,
                    })
                });
            match levels.last_mut() {
                Some(level) if joins => {
                    level.axes.push(axis.name.clone());
                    level.size *= axis.size;
                }
                _ => {
                    let index = self.int();
                    levels.push(Level { axes: vec![axis.name.clone()], size: axis.size, index });
                }
            }
        }
        let columns = levels.last().map_or(1, |l| l.size);
        let rows = levels.iter().rev().skip(1).map(|l| l.size).product();
        self.choice = self.fuser.priced(roots, [rows, columns], usize::from(LANES), 1);
        if levels.is_empty() && self.batch.is_none() {
            let index = self.int();
            levels.push(Level { axes: vec![], size: 1, index });
        }
        self.levels = levels;
    }

    /// Spikes whose readers want them as bits, too.
    fn wants_bits(&self, id: FlowId) -> bool {
        self.fuser.target.infers() && self.fuser.read_as_bits(id)
    }

    /// The place of an element in a view; `at` tells the time step.
    pub(super) fn place(&mut self, view: &View, at: At) -> Place {
        Place { arg: self.arg(view.buffer), terms: self.terms(view, at), offset: view.offset as i64 }
    }

    /// The indices of an element in a view, with their strides.
    fn terms(&mut self, view: &View, at: At) -> Vec<(Int, i64)> {
        let mut terms = Vec::new();
        if let (Some(b), true) = (self.batch, view.batch > 0) {
            terms.push((b, view.batch as i64));
        }
        if let At::Pass(k) = at {
            terms.extend(self.steps(view, self.passes[k].index));
        }
        for level in &self.levels {
            if let Some((_, stride)) = level.axes.last().and_then(|a| view.axis(a))
                && level.size > 1
            {
                terms.push((level.index, stride as i64));
            }
        }
        if let Some((_, stride)) = self.columns.as_ref().and_then(|c| view.axis(&c.axis)) {
            terms.extend(self.along_columns(stride as i64));
        }
        terms
    }

    /// The terms of the innermost axis, whose neighbours are so far apart.
    pub(super) fn along_columns(&self, stride: i64) -> Vec<(Int, i64)> {
        self.columns.iter().flat_map(|c| [(c.tile, stride * c.lanes as i64), (c.lane, stride)]).collect()
    }

    /// The terms of an axis, whose neighbours are so far apart, or of samples or time steps.
    pub(super) fn along(&self, label: &str, stride: i64, at: At) -> Vec<(Int, i64)> {
        if self.columns.as_ref().is_some_and(|c| c.axis == label) {
            return self.along_columns(stride);
        }
        self.index_of(label, at).map(|i| (i, stride)).into_iter().collect()
    }

    /// The axis of a tiled loop's lanes.
    pub(super) fn lanes_along(&self) -> Option<String> {
        self.columns.as_ref().map(|c| c.axis.clone())
    }

    /// The index that differs from lane to lane.
    pub(super) fn lane(&self, axis: &str, at: At) -> Option<Int> {
        match &self.columns {
            Some(c) => (c.axis == axis).then_some(c.lane),
            None => self.index_of(axis, at),
        }
    }

    /// The terms of a time step in a view. A parameter that varies over time steps is there for all of them; everything else
    /// for those of the call.
    pub(super) fn steps(&mut self, view: &View, step: Int) -> Vec<(Int, i64)> {
        if view.time == 0 {
            return vec![];
        }
        let mut terms = vec![(step, view.time as i64)];
        let known = self.fuser.program.buffers.get(view.buffer.index());
        if known.is_some_and(|b| matches!(b.purpose, Purpose::Source(Source::Param(_)))) {
            let first = self.first.unwrap_or_else(|| self.int());
            self.first = Some(first);
            terms.push((first, view.time as i64));
        }
        terms
    }

    /// Index of the level of an axis, or of samples or time.
    pub(super) fn index_of(&self, label: &str, at: At) -> Option<Int> {
        match label {
            "B" => self.batch,
            "T" => match at {
                At::Pass(k) => Some(self.passes[k].index),
                At::Gap(_) => None,
            },
            axis => self.levels.iter().find(|l| l.axes.last().is_some_and(|a| a == axis)).map(|l| l.index),
        }
    }

    pub(super) fn push(&mut self, at: At, stmt: Stmt) {
        match at {
            At::Gap(k) => {
                while self.gaps.len() <= k {
                    self.gaps.push(vec![]);
                }
                self.gaps[k].push(stmt);
            }
            At::Pass(k) => self.passes[k].body.push(stmt),
        }
    }

    pub(super) fn bind(&mut self, at: At, value: Expr) -> Var {
        let var = self.var();
        self.push(at, Stmt::Let(var, value));
        var
    }

    /// The first pass from `from` on that runs in this direction.
    fn pass(&mut self, from: usize, reverse: Option<bool>) -> usize {
        if let Some(found) = (from..self.passes.len()).find(|k| reverse.is_none_or(|r| self.passes[*k].reverse == r)) {
            return found;
        }
        let index = self.int();
        self.passes.push(Pass { reverse: reverse.unwrap_or(false), body: vec![], index, doublings: vec![] });
        while self.gaps.len() <= self.passes.len() {
            self.gaps.push(vec![]);
        }
        self.passes.len() - 1
    }

    /// A pass of its own, whose statements are the caller's, and its index.
    pub(super) fn another_pass(&mut self) -> (At, Int) {
        let index = self.int();
        self.passes.push(Pass { reverse: false, body: vec![], index, doublings: vec![] });
        (At::Pass(self.passes.len() - 1), index)
    }

    /// Computed in this loop, rather than read from memory.
    fn here(&self, id: FlowId) -> bool {
        if self.fuser.root[id.index()] {
            return self.fuser.item_of[id.index()] == Some(self.item);
        }
        !self.fuser.stored[id.index()]
    }

    fn slot(&mut self, id: FlowId) -> Slot {
        if let Some(slot) = self.slots.get(&id) {
            return *slot;
        }
        let flow = self.fuser.flow;
        let tensor = flow.get(id);
        let varies = tensor.dims.time;
        let slot = if !self.here(id) {
            if varies { Slot::From(0) } else { Slot::Gap(0) }
        } else {
            // Operands of windows and contractions lie in memory: they are there from the start.
            let inputs = if self.fuser.gathers(id) { vec![] } else { tensor.def.inputs() };
            let (mut gap, mut from) = (0, 0);
            for input in inputs {
                match self.slot(input) {
                    Slot::Gap(g) => gap = gap.max(g),
                    Slot::From(k) | Slot::In(k) => from = from.max(k),
                }
            }
            let earliest = gap.max(from);
            match &tensor.def {
                Def::Scan { reverse, .. } => Slot::In(self.pass(earliest, Some(*reverse))),
                Def::Reduce { input, .. } => match self.slot(*input) {
                    Slot::Gap(g) => Slot::Gap(g),
                    Slot::From(k) => Slot::Gap(self.pass(k, None) + 1),
                    Slot::In(k) => Slot::Gap(k + 1),
                },
                Def::Map { .. } if varies => Slot::From(earliest),
                Def::Map { .. } => Slot::Gap(gap),
                _ if varies => Slot::In(self.pass(0, None)),
                _ => Slot::Gap(0),
            }
        };
        self.slots.insert(id, slot);
        slot
    }

    /// The variable that holds a tensor's element at a place.
    pub(super) fn value(&mut self, id: FlowId, at: At) -> Var {
        self.output(id, 0, at)
    }

    fn output(&mut self, id: FlowId, output: usize, at: At) -> Var {
        // What does not vary over T is computed before the passes that read it.
        let home = match (self.slot(id), at) {
            (Slot::Gap(g), _) => At::Gap(g),
            (Slot::In(k), At::Pass(now)) if k != now => {
                if let Some(known) = self.memo.get(&(id, output, at)) {
                    return *known;
                }
                let source = self.output(id, output, At::Pass(k));
                let next = self.scratch.len();
                let array = *self.scratch.entry((id, output)).or_insert(next);
                if array == next {
                    let index = self.passes[k].index;
                    self.push(At::Pass(k), Stmt::StoreScratch(array, index, Expr::Var(source)));
                }
                let index = self.passes[now].index;
                let var = self.bind(at, Expr::Scratch(array, index));
                self.memo.insert((id, output, at), var);
                return var;
            }
            (_, at) => at,
        };
        let home = if self.again(id) { at } else { home };
        if let Some(known) = self.memo.get(&(id, output, home)) {
            return *known;
        }
        let mut var = self.compute(id, output, home);
        // A recurrence rounds what it gives itself, as that may be asked for later.
        if !matches!(self.fuser.flow.get(id).def, Def::Scan { .. }) && self.rounds(id) {
            var = self.bind(home, self.kept(id, Expr::Var(var)));
        }
        self.memo.insert((id, output, home), var);
        var
    }

    /// A parameter that differs from lane to lane: to load it where it is needed takes no register in between.
    fn again(&self, id: FlowId) -> bool {
        let Some(columns) = &self.columns else { return false };
        self.fuser.is_param(id) && self.fuser.flow.dims(id).axis(&columns.axis).is_some()
    }

    /// Computed here, and kept with less digits than it has here.
    fn rounds(&self, id: FlowId) -> bool {
        let narrow = matches!(self.fuser.formats[id.index()], Format::F16 | Format::Bf16);
        narrow && self.fuser.stored[id.index()] && self.here(id) && !self.fuser.flow.get(id).spikes
    }

    /// A value as it is kept: who reads it here sees what others will read from memory.
    fn kept(&self, id: FlowId, value: Expr) -> Expr {
        if self.rounds(id) { Expr::Rounded(self.fuser.formats[id.index()], Box::new(value)) } else { value }
    }

    fn compute(&mut self, id: FlowId, output: usize, at: At) -> Var {
        if !self.here(id) {
            let view = self.fuser.view(id);
            let place = self.place(&view, at);
            return self.bind(at, Expr::Load(place));
        }
        let flow = self.fuser.flow;
        match &flow.get(id).def {
            // The sum began with what is added.
            Def::Map { inputs, .. } if inputs.iter().any(|i| self.fuser.begins.get(i).is_some_and(|(map, _)| *map == id)) => {
                let sum = inputs.iter().find(|i| self.fuser.begins.contains_key(i)).copied().unwrap_or(id);
                self.value(sum, at)
            }
            Def::Map { inputs, body: Scalar::Un(Un::Doubled(k), _) } => self.doubled(inputs[0], *k, at),
            Def::Map { inputs, body } => {
                let args: Vec<Expr> = inputs.iter().map(|i| Expr::Var(self.value(*i, at))).collect();
                let whole = self.whole(flow.dims(id));
                let element = self.terms(&whole, at);
                self.bind(at, expr(body, &args, &[], &element))
            }
            Def::Scan { inputs, init, next, outputs, .. } => {
                let args: Vec<Expr> = inputs.iter().map(|i| Expr::Var(self.value(*i, at))).collect();
                let At::Pass(k) = at else { return self.bind(at, Expr::Const(0.0)) };
                let mut states = Vec::new();
                let mut kept = Vec::new();
                for start in init {
                    let place = self.state(id, *start as f32);
                    let value = place.clone().map_or(Expr::Const(*start as f32), Expr::Load);
                    let var = self.bind(At::Gap(k), value);
                    states.push(Expr::Var(var));
                    kept.push((var, place));
                }
                let mut first = None;
                for (i, out) in outputs.iter().enumerate() {
                    let value = expr(out, &args, &states, &[]);
                    let var = self.bind(at, if i == 0 { self.kept(id, value) } else { value });
                    self.memo.insert((id, i, at), var);
                    first = first.or((i == output).then_some(var));
                }
                let news: Vec<Var> = next.iter().map(|n| self.bind(at, expr(n, &args, &states, &[]))).collect();
                for ((var, place), new) in kept.into_iter().zip(news) {
                    self.push(at, Stmt::Set(var, Expr::Var(new)));
                    if let Some(place) = place {
                        self.push(At::Gap(k + 1), Stmt::Store(place, Expr::Var(var)));
                    }
                }
                first.unwrap_or(Var(0))
            }
            // Only a sum over T alone is read in its own loop.
            Def::Reduce { input, max } => {
                let pass = match self.slot(*input) {
                    Slot::From(k) => self.pass(k, None),
                    Slot::In(k) => k,
                    Slot::Gap(_) => return self.value(*input, at),
                };
                let start = if *max { f32::NEG_INFINITY } else { 0.0 };
                let place = self.fuser.keeps(id).then(|| self.fuser.view(id)).map(|v| self.place(&v, at));
                let sum = self.bind(At::Gap(pass), place.map_or(Expr::Const(start), Expr::Load));
                let value = Expr::Var(self.value(*input, At::Pass(pass)));
                let bin = if *max { Bin::Max } else { Bin::Add };
                self.push(At::Pass(pass), Stmt::Set(sum, Expr::Bin(bin, Box::new(Expr::Var(sum)), Box::new(value))));
                sum
            }
            Def::Product { .. } | Def::Conv { .. } | Def::Pool { .. } | Def::PoolGrad { .. } => super::contract::inline(self, id, at),
            Def::Source(_)
            | Def::Concat { .. }
            | Def::Slice { .. }
            | Def::Reshape { .. }
            | Def::Transpose { .. }
            | Def::Overflow { .. }
            | Def::Masked { .. } => self.bind(at, Expr::Const(0.0)),
        }
    }

    /// The variable that a contraction's sum is added up in: what is added to the sum, or zero.
    pub(super) fn sum_from_start(&mut self, id: FlowId, at: At) -> Var {
        let start = match self.fuser.begins.get(&id).copied() {
            Some((_, param)) => {
                let view = self.fuser.view(param);
                Expr::Load(self.place(&view, at))
            }
            None => Expr::Const(0.0),
        };
        self.bind(at, start)
    }

    /// Where a scan keeps its state between calls.
    fn state(&mut self, id: FlowId, start: f32) -> Option<Place> {
        if self.fuser.target != Target::Stream {
            return None;
        }
        let flow = self.fuser.flow;
        let dims = Dims { time: false, ..flow.dims(id).clone() };
        let label = format!("{} state", flow.get(id).label);
        let buffer = self.fuser.buffer(&label, dims.elements(), dims.batch, Purpose::State(start.to_bits()));
        let view = View { buffer, ..self.whole(&dims) };
        Some(self.place(&view, At::Gap(0)))
    }

    /// A tensor of these dims by itself, without gaps, in no buffer yet.
    fn whole(&self, dims: &Dims) -> View {
        let mut stride = 1;
        let mut axes = Vec::new();
        for axis in dims.axes.iter().rev() {
            axes.insert(0, (axis.name.clone(), axis.size, stride));
            stride *= axis.size;
        }
        let time = if dims.time { stride } else { 0 };
        let steps = if dims.time { self.fuser.time } else { 1 };
        let batch = if dims.batch { stride * steps } else { 0 };
        View { buffer: BufferId(u32::MAX), offset: 0, batch, time, axes }
    }

    /// Puts the passes into the loop nest.
    fn finish(
        mut self,
        start: Vec<Stmt>,
        finish: Vec<(Kernel, Vec<BufferId>, usize)>,
        label: &str,
        time: usize,
        region: Region,
    ) -> Vec<Loop> {
        let mut element: Vec<Stmt> = Vec::new();
        let passes = std::mem::take(&mut self.passes);
        let mut gaps = std::mem::take(&mut self.gaps).into_iter();
        element.extend(gaps.next().unwrap_or_default());
        for pass in passes {
            let (index, reverse) = (pass.index, pass.reverse);
            let body = self.spelt(pass);
            if !body.is_empty() {
                let (from, to) = (Bound::Const(0), Bound::Steps);
                element.push(Stmt::For { index, from, to, reverse, lanes: 1, body });
            }
            element.extend(gaps.next().unwrap_or_default());
        }
        if self.columns.is_some() {
            return self.finish_tiles(&element, label, region);
        }
        let levels = std::mem::take(&mut self.levels);
        let outermost = self.batch.is_none();
        let mut body = element;
        let count = levels.len();
        for (i, level) in levels.iter().enumerate().rev() {
            let ranged = outermost && i == 0;
            let innermost = i + 1 == count;
            let (from, to) = if ranged { (Bound::Begin, Bound::End) } else { (Bound::Const(0), Bound::Const(level.size as i64)) };
            let lanes = if innermost && !crate::kernel::decides(&body, level.index) { LANES } else { 1 };
            body = vec![Stmt::For { index: level.index, from, to, reverse: false, lanes, body }];
        }
        if let Some(batch) = self.batch {
            body = vec![Stmt::For { index: batch, from: Bound::Begin, to: Bound::End, reverse: false, lanes: 1, body }];
        }
        let sums = !start.is_empty();
        let first = self.first.map(|int| Stmt::LetInt(int, IntExpr::First));
        let body = first.into_iter().chain(start).chain(body).collect();
        let args = self.args.iter().map(|b| self.fuser.program.buffer(*b).format).collect();
        let kernel = Kernel { args, scratch: self.scratch.len(), time, body };
        let (extent, grain) = if self.batch.is_some() {
            // An inference has few samples, each with much to do.
            (None, if self.fuser.target.infers() { 1 } else { SAMPLES })
        } else {
            let inner: usize = levels.iter().skip(1).map(|l| l.size).product();
            let size = levels.first().map_or(1, |l| l.size);
            let grain = if sums { size } else { (ELEMENTS / inner.max(1)).max(1) };
            (Some(size), grain)
        };
        let args = std::mem::take(&mut self.args);
        let own = self.fuser.push_loop(kernel, args, extent, grain, label.to_owned(), region);
        let mut loops = vec![Loop { inside: self.inside, choice: self.choice, ..own }];
        for (kernel, args, elements) in finish {
            loops.push(self.fuser.push_loop(kernel, args, Some(elements), elements, format!("{label} sum"), region));
        }
        loops
    }
}

/// A scalar with its leaves replaced.
fn expr(body: &Scalar, args: &[Expr], states: &[Expr], element: &[(Int, i64)]) -> Expr {
    let part = |p: &Scalar| expr(p, args, states, element);
    match body {
        Scalar::Arg(i) => args[*i].clone(),
        Scalar::State(i) => states[*i].clone(),
        Scalar::Const(c) => Expr::Const(*c as f32),
        Scalar::Batch => Expr::Batch,
        Scalar::Steps => Expr::Steps,
        Scalar::Hyper(i) => Expr::Hyper(*i),
        Scalar::Random(site) => Expr::Random(*site, element.to_vec()),
        Scalar::Un(f, a) => Expr::Un(*f, Box::new(part(a))),
        Scalar::Bin(f, a, b) => Expr::Bin(*f, Box::new(part(a)), Box::new(part(b))),
        Scalar::Select(cmp, parts) => {
            let [a, b, x, y] = &**parts;
            Expr::Select(*cmp, Box::new([a, b, x, y].map(part)))
        }
    }
}

/// A spike of a number: its bits where `a >= b`.
pub(super) fn at_least(x: Expr, least: f32, value: Expr) -> Expr {
    Expr::Select(Cmp::Ge, Box::new([x, Expr::Const(least), value, Expr::Const(0.0)]))
}
