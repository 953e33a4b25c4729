//! Event-driven contractions: nothing is multiplied, a weight is added where there is a spike.
//!
//! Spikes are kept as bits, a row of words for every place. Before a loop goes through its tiles, the spikes that each of a block's rows
//! reads become a list of their positions in the weights, once for all tiles: windows and parts of a concat side by side. Then a
//! tile's sums stay in registers while the list is walked.

use super::Fuser;
use super::body::{At, Body, Columns};
use super::contract::{at_source, taps};
use super::fours::{FOUR, MANY, SUMS};
use crate::flow::{Bin, ConvPart, Def, FlowId, Operand, Scalar, Source, Window};
use crate::kernel::{Bound, Cond, Expr, Int, IntExpr, LINE, Place, Stmt, Var};
use crate::program::{BufferId, Purpose, View};

/// Spikes of a word that are written at once, whether they are there or not: most words have fewer, so that seldom a branch is guessed wrong.
const AT_ONCE: usize = 8;
/// Lines that are fetched at once: an instruction each.
const MOST_LINES: usize = 128;
/// Positions are kept in 16 bits.
pub(super) const MOST_POSITIONS: usize = 1 << 16;

/// The spikes that rows of a contraction read, as lists.
pub(in crate::fuse) struct List {
    operand: FlowId,
    window: Option<Window>,
    /// An axis of the loop, and the operand's axis that goes with it.
    rows: Vec<(String, String)>,
    steps: i64,
    /// Spikes one by one.
    alone: Entries,
    /// Fours of inputs of which some fire, for rows where many do.
    fours: Option<Entries>,
}

/// Lists of rows, one behind the other.
#[derive(Clone, Copy)]
struct Entries {
    /// Where each list begins, and all of them.
    starts: BufferId,
    entries: BufferId,
    /// Distances of ranges in both.
    apart: [i64; 2],
    /// Where the next entry goes.
    cursor: Int,
}

/// A word of a row's bits, or the first bits of one.
struct Word {
    place: Place,
    bits: usize,
    /// The position of its first bit.
    terms: Vec<(Int, i64)>,
    before: usize,
}

impl Fuser<'_> {
    /// Spikes that some contraction reads as bits.
    pub(super) fn read_as_bits(&self, id: FlowId) -> bool {
        self.visited.contains(&id) && self.fired_in_rows(id)
    }

    /// What event-driven contractions visit: their operands, and the parts of those; and what is read as numbers.
    pub(super) fn find_visited(&mut self) {
        let flow = self.flow;
        let counted: Vec<_> = self.ids().filter_map(|id| self.counts(id)).collect();
        self.visited.extend(counted.iter().flat_map(|c| c.operands));
        for id in self.ids().filter(|id| self.event_driven(*id)).collect::<Vec<_>>() {
            let operand = flow.get(id).def.inputs()[0];
            self.visited.insert(operand);
            if let Def::Concat { parts, .. } = &flow.get(operand).def {
                self.visited.extend(parts);
            }
        }
        if !self.target.infers() {
            return;
        }
        self.numbers = vec![false; flow.tensors.len()];
        flow.sinks.iter().for_each(|(_, id)| self.numbers[id.index()] = true);
        for id in self.ids().rev() {
            if let (Def::Transpose { of }, true) = (&flow.get(id).def, self.visited.contains(&id)) {
                self.visited.insert(*of);
            }
            let tiled = self.weighs(id);
            for (i, input) in flow.get(id).def.inputs().into_iter().enumerate() {
                let bits = i == 0 && self.event_driven(id) || self.counts(id).is_some();
                if let (Def::Reshape { .. }, false) = (&flow.get(id).def, self.numbers[id.index()]) {
                    continue;
                }
                let whole = matches!(flow.get(id).def, Def::Concat { .. } | Def::Transpose { .. })
                    && self.visited.contains(&id)
                    && !self.numbers[id.index()];
                self.numbers[input.index()] |= !(bits || whole || i == 1 && tiled);
            }
        }
    }

    /// Sums of an inference that need not begin with zero.
    pub(super) fn find_beginnings(&mut self) {
        if !self.target.infers() {
            return;
        }
        let flow = self.flow;
        for id in self.ids() {
            let Def::Map { inputs, body } = &flow.get(id).def else { continue };
            let adds = *body == Scalar::Arg(0) + Scalar::Arg(1) || *body == Scalar::Arg(1) + Scalar::Arg(0);
            let [a, b] = inputs[..] else { continue };
            for (sum, param) in [(a, b), (b, a)] {
                let param_is = self.is_param(param);
                let fits = flow.dims(sum) == flow.dims(id) && flow.dims(param).broadcasts_to(flow.dims(id));
                let alone = self.readers[sum.index()] == 1 && !self.stored[sum.index()];
                if adds && param_is && fits && alone && self.weighs(sum) && self.region(sum) == self.region(id) {
                    self.begins.insert(sum, (id, param));
                }
            }
        }
    }

    /// A parameter, perhaps under other axes.
    pub(super) fn is_param(&self, id: FlowId) -> bool {
        match self.flow.get(id).def {
            Def::Source(Source::Param(_)) => true,
            Def::Reshape { of, .. } => self.is_param(of),
            _ => false,
        }
    }

    /// Spikes computed by a loop over their places.
    pub(super) fn fired_in_rows(&self, id: FlowId) -> bool {
        let tensor = self.flow.get(id);
        let computed = match tensor.def {
            Def::Scan { .. } | Def::Map { .. } | Def::Pool { .. } => true,
            Def::Transpose { of } => self.fired_in_rows(of),
            _ => false,
        };
        tensor.spikes && computed && tensor.dims.batch && !tensor.dims.axes.is_empty()
    }

    /// Reads its operand as bits alone.
    pub(super) fn reads_bits(&self, id: FlowId) -> bool {
        self.event_driven(id) || self.counts(id).is_some() || matches!(self.flow.get(id).def, Def::Transpose { .. })
    }

    /// Is computed in tiles of the innermost axis.
    pub(super) fn tiles(&self, id: FlowId) -> bool {
        self.weighs(id) || self.target.infers() && self.read_as_bits(id)
    }

    /// A contraction with weights whose outputs are the result's innermost axis.
    pub(super) fn weighs(&self, id: FlowId) -> bool {
        if !self.target.infers() {
            return false;
        }
        let (weights, outputs) = match &self.flow.get(id).def {
            Def::Conv { b, part: ConvPart::Result, .. } => (*b, true),
            Def::Product { b, a_labels, b_labels, out_labels, .. } => {
                (*b, out_labels.last().is_some_and(|l| b_labels.last() == Some(l) && !a_labels.contains(l)))
            }
            _ => return false,
        };
        let dims = self.flow.dims(id);
        outputs && dims.batch && !dims.axes.is_empty() && matches!(self.flow.get(weights).def, Def::Source(Source::Param(_)))
    }

    /// A contraction of spikes with weights over the spikes' innermost axis alone (and a window).
    pub(super) fn event_driven(&self, id: FlowId) -> bool {
        let tensor = self.flow.get(id);
        if tensor.operand != Operand::Spikes || !self.weighs(id) {
            return false;
        }
        if let Def::Product { a_labels, b_labels, out_labels, .. } = &tensor.def {
            let last_only = a_labels.last().is_some_and(|l| b_labels.contains(l) && !out_labels.contains(l));
            let summed = a_labels.iter().filter(|l| !out_labels.contains(l)).count();
            let weighs = b_labels.iter().filter(|l| *l != "T").count() == 2;
            if !last_only || summed != 1 || !weighs {
                return false;
            }
        }
        let (operand, inputs) = self.inputs_of(id);
        let fired = match &self.flow.get(operand).def {
            Def::Concat { parts, axis } => {
                self.flow.dims(operand).axes.last().is_some_and(|a| a.name == *axis) && parts.iter().all(|p| self.fired_in_rows(*p))
            }
            _ => self.fired_in_rows(operand),
        };
        fired && inputs <= MOST_POSITIONS
    }

    /// The bits of a spike tensor: rows of words, one bit for every place of the innermost axis; behind them stands anything.
    pub(super) fn bits_view(&mut self, id: FlowId) -> View {
        if let Some(view) = self.bits.get(&id) {
            return view.clone();
        }
        let flow = self.flow;
        let dims = flow.dims(id);
        let (row, outer) = dims.axes.split_last().map_or((1, &[][..]), |(last, outer)| (last.size, outer));
        let mut stride = row.div_ceil(64);
        let mut axes = Vec::new();
        for axis in outer.iter().rev() {
            axes.insert(0, (axis.name.clone(), axis.size, stride));
            stride *= axis.size;
        }
        let steps = if dims.time { self.time } else { 1 };
        let label = format!("{} bits", flow.get(id).label);
        let buffer = self.buffer(&label, 2 * stride * steps, dims.batch, Purpose::Temporary);
        let view =
            View { buffer, offset: 0, batch: if dims.batch { stride * steps } else { 0 }, time: if dims.time { stride } else { 0 }, axes };
        self.bits.insert(id, view.clone());
        view
    }

    /// Weights whose last axis, the outputs, lies in tiles of so many; the distances are those within a tile.
    pub(super) fn tiled(&mut self, weights: FlowId, lanes: usize) -> View {
        if let Some(known) = self.tiled.get(&(weights, lanes)) {
            return known.clone();
        }
        let flow = self.flow;
        let (dims, label) = (flow.dims(weights).clone(), flow.get(weights).label.clone());
        let Def::Source(source) = flow.get(weights).def else { return self.view(weights) };
        let mut stride = lanes;
        let mut axes = Vec::new();
        for (i, axis) in dims.axes.iter().enumerate().rev() {
            if i + 1 == dims.axes.len() {
                axes.insert(0, (axis.name.clone(), axis.size, 1));
                continue;
            }
            axes.insert(0, (axis.name.clone(), axis.size, stride));
            stride *= axis.size;
        }
        let steps = if dims.time { self.time } else { 1 };
        let outputs = dims.axes.last().map_or(1, |a| a.size);
        let buffer = self.buffer(&label, stride * steps * outputs.div_ceil(lanes), false, Purpose::Source(source));
        self.program.buffers[buffer.index()].tile = lanes;
        let view = View { buffer, offset: 0, batch: 0, time: if dims.time { stride } else { 0 }, axes };
        self.tiled.insert((weights, lanes), view.clone());
        view
    }
}

/// The place of weights in a tile: where the loop's tile begins, and its lanes.
pub(super) fn weights(body: &mut Body<'_, '_>, id: FlowId, at: At) -> (View, Place) {
    let Some(columns) = &body.columns else { unreachable!("what weighs is computed in tiles") };
    let (tile, lane, lanes) = (columns.tile(), columns.lane(), columns.lanes);
    let view = body.fuser.tiled(id, lanes);
    let buffer = &body.fuser.program.buffers[view.buffer.index()];
    let outputs = view.axes.last().map_or(1, |(_, size, _)| *size);
    let apart = buffer.elements / outputs.div_ceil(lanes);
    let mut terms = vec![(tile, apart as i64), (lane, 1)];
    if let Some(t) = body.index_of("T", at) {
        terms.extend(body.steps(&view, t));
    }
    let place = Place { arg: body.arg(view.buffer), terms, offset: 0 };
    (view, place)
}

/// Emits the sum of the weights of all spikes that the body's place reads. `rows` says which axis of the loop goes with which of the operand.
pub(super) fn sum(
    body: &mut Body<'_, '_>,
    id: FlowId,
    operand: FlowId,
    window: Option<Window>,
    rows: Vec<(String, String)>,
    by: FlowId,
    at: At,
) -> Var {
    let acc = body.sum_from_start(id, at);
    let (_, mut w) = weights(body, by, at);
    let lanes = body.columns.as_ref().map_or(1, |c| c.lanes) as i64;
    let inputs = body.fuser.flow.dims(operand).axes.last().map_or(1, |a| a.size);
    let whole = !matches!(body.fuser.flow.get(operand).def, Def::Concat { .. });
    if body.fuser.by_word(id) {
        let place = body.row_of_bits(operand, &rows, at);
        let word = body.word_of(place, inputs, at);
        let [index, four] = [(); 2].map(|()| body.int());
        let mut sums = body.table(by, inputs, w, None);
        sums.terms.extend([(index, SUMS as i64 * lanes), (four, lanes)]);
        let add = Expr::Bin(Bin::Add, Box::new(Expr::Var(acc)), Box::new(Expr::Load(sums)));
        let each = vec![
            Stmt::LetInt(four, IntExpr::And(word, SUMS as i64 - 1)),
            Stmt::Set(acc, add),
            Stmt::SetInt(word, IntExpr::Quotient(word, SUMS as i64)),
        ];
        let to = Bound::Const(inputs.div_ceil(FOUR) as i64);
        body.push(at, Stmt::For { index, from: Bound::Const(0), to, reverse: false, lanes: 1, body: each });
        return acc;
    }
    // One word that one tile goes through: a list would be read only once.
    if window.is_none() && whole && inputs <= 64 && body.columns.as_ref().is_some_and(Columns::alone) {
        let place = body.row_of_bits(operand, &rows, at);
        let (word, bit) = (body.word_of(place, inputs, at), body.int());
        w.terms.push((bit, lanes));
        let add = Expr::Bin(Bin::Add, Box::new(Expr::Var(acc)), Box::new(Expr::Load(w)));
        let each =
            vec![Stmt::LetInt(bit, IntExpr::TrailingZeros(word)), Stmt::Set(acc, add), Stmt::SetInt(word, IntExpr::ClearLowest(word))];
        body.push(at, Stmt::While(Cond::NotZero(word), each));
        return acc;
    }
    let list = body.list(operand, window, rows, body.fuser.in_fours(id));
    let outputs = body.fuser.flow.dims(id).axes.last().map_or(1, |a| a.size);
    body.prefetch(&w, outputs, at);
    let alone = body.lists[list].alone;
    visit(body, list, alone, acc, w.clone(), at);
    if let Some(fours) = body.lists[list].fours {
        let (_, inputs) = body.fuser.inputs_of(id);
        let table = body.table(by, inputs, w, Some(fours.cursor));
        visit(body, list, fours, acc, table, at);
    }
    acc
}

/// Adds the rows at `w` that a list's entries say to a sum.
fn visit(body: &mut Body<'_, '_>, list: usize, entries: Entries, acc: Var, mut w: Place, at: At) {
    let lanes = body.columns.as_ref().map_or(1, |c| c.lanes) as i64;
    let starts = body.start_of_list(list, &entries, at);
    let mut end = starts.clone();
    end.offset += 1;
    let [from, to, index, position] = [(); 4].map(|()| body.int());
    let terms = vec![(body.range(), entries.apart[1]), (index, 1)];
    let entry = Place { arg: body.arg(entries.entries), terms, offset: 0 };
    w.terms.push((position, lanes));
    let add = Expr::Bin(Bin::Add, Box::new(Expr::Var(acc)), Box::new(Expr::Load(w)));
    let each = vec![Stmt::LetInt(position, IntExpr::Half(entry)), Stmt::Set(acc, add)];
    body.push(at, Stmt::LetInt(from, IntExpr::Word(starts)));
    body.push(at, Stmt::LetInt(to, IntExpr::Word(end)));
    body.push(at, Stmt::For { index, from: Bound::Int(from), to: Bound::Int(to), reverse: false, lanes: 1, body: each });
}

impl Body<'_, '_> {
    /// The word at a place, of which so many bits are the body's.
    fn word_of(&mut self, place: Place, bits: usize, at: At) -> Int {
        let word = self.int();
        self.push(at, Stmt::LetInt(word, IntExpr::Word(place)));
        if bits < 64 {
            self.push(at, Stmt::SetInt(word, IntExpr::And(word, (1i64 << bits) - 1)));
        }
        word
    }

    /// The number of the range, for what each range has of its own.
    pub(super) fn range(&mut self) -> Int {
        let range = self.range.unwrap_or_else(|| self.int());
        self.range = Some(range);
        range
    }

    /// Brings the next tile's weights nearer while this one's are added: each row and time step its share of them. Behind the last tile's
    /// lie those of the next loop. Weights that stay in the second cache need none of this, and tiles that do not fit in it gain nothing.
    fn prefetch(&mut self, weights: &Place, outputs: usize, at: At) {
        let (Some(columns), Some(step)) = (&self.columns, self.index_of("T", at)) else { return };
        let tile = columns.tile();
        let Some((_, apart)) = weights.terms.iter().find(|(int, _)| *int == tile) else { return };
        let (bytes, cache) = (4 * *apart as usize, self.fuser.expected.caches[1]);
        if columns.alone() || bytes * outputs.div_ceil(columns.lanes) < cache / 4 || bytes > cache {
            return;
        }
        let share = (*apart as usize).div_ceil(self.cut().rows * self.fuser.time);
        let mut terms = vec![(tile, *apart), (step, share as i64)];
        terms.extend(self.rows_of_block((share * self.fuser.time) as i64));
        let place = Place { arg: weights.arg, terms, offset: *apart };
        self.push(at, Stmt::Prefetch(place, (4 * share).div_ceil(LINE).min(MOST_LINES)));
    }

    /// The number of the body's row in its block, times a stride.
    fn rows_of_block(&self, mut stride: i64) -> Vec<(Int, i64)> {
        let mut terms = vec![];
        for (i, level) in self.levels.iter().enumerate().rev() {
            terms.push((level.index, stride));
            if let (0, Some(first)) = (i, self.block) {
                terms.push((first, -stride));
            }
            stride *= level.size as i64;
        }
        terms
    }

    /// The lists of an operand's rows.
    fn list(&mut self, operand: FlowId, window: Option<Window>, rows: Vec<(String, String)>, fours: bool) -> usize {
        let same = |l: &List| (l.operand, l.window, &l.rows, l.fours.is_some()) == (operand, window, &rows, fours);
        if let Some(known) = self.lists.iter().position(same) {
            return known;
        }
        let dims = self.fuser.flow.dims(operand).clone();
        let steps = if dims.time { self.fuser.time } else { 1 };
        let taps = window.map_or(1, |w| w.kernel[0] * w.kernel[1]);
        let inputs = taps * dims.axes.last().map_or(1, |a| a.size);
        let label = self.fuser.flow.get(operand).label.clone();
        let alone = self.entries(&format!("{label} spikes"), steps, inputs);
        let fours = fours.then(|| self.entries(&format!("{label} fours"), steps, inputs / FOUR));
        self.block = Some(self.block.unwrap_or_else(|| self.int()));
        self.lists.push(List { operand, window, rows, steps: steps as i64, alone, fours });
        self.lists.len() - 1
    }

    /// Room for lists of up to so many entries for each row of a block.
    fn entries(&mut self, label: &str, steps: usize, most: usize) -> Entries {
        let rows = self.cut().rows * steps;
        let (lists, most) = (rows + 1, (rows * most + 2 * AT_ONCE).next_multiple_of(2));
        let mut buffer = |name: &str, elements| {
            let buffer = self.fuser.buffer(&format!("{label}{name}"), elements, false, Purpose::Temporary);
            self.fuser.program.buffers[buffer.index()].ranges = true;
            buffer
        };
        let (starts, entries) = (buffer(" starts", 2 * lists), buffer("", most / 2));
        Entries { starts, entries, apart: [lists as i64, most as i64], cursor: self.int() }
    }

    /// Where it is kept at which entry the list of the body's place begins; behind it stands its end.
    fn start_of_list(&mut self, list: usize, entries: &Entries, at: At) -> Place {
        let mut terms = vec![(self.range(), entries.apart[0])];
        let stride = self.lists[list].steps;
        if let (Some(t), true) = (self.index_of("T", at), stride > 1 || self.fuser.flow.dims(self.lists[list].operand).time) {
            terms.push((t, 1));
        }
        terms.extend(self.rows_of_block(stride));
        Place { arg: self.arg(entries.starts), terms, offset: 0 }
    }

    /// Makes the lists of a block's rows, which begin and end here on the first level.
    pub(super) fn lists_of_a_block(&mut self, first: Int, last: Int) -> Vec<Stmt> {
        self.block = Some(first);
        (0..self.lists.len()).flat_map(|list| self.lists_of_rows(list, first, last)).collect()
    }

    fn lists_of_rows(&mut self, list: usize, first: Int, last: Int) -> Vec<Stmt> {
        let flow = self.fuser.flow;
        let List { operand, window, alone, fours, .. } = self.lists[list];
        let (at, step) = self.another_pass();
        let kinds: Vec<Entries> = [alone].into_iter().chain(fours).collect();
        let mut stmts = vec![];
        for kind in &kinds {
            stmts.push(Stmt::StoreWord(self.start_of_list(list, kind, at), kind.cursor));
        }
        let one_by_one = self.words_of_a_row(list, at, &mut |body, word| body.spikes_of_a_word(alone, &word));
        match fours {
            None => stmts.extend(one_by_one),
            Some(fours) => {
                let taps = window.map_or(1, |w| w.kernel[0] * w.kernel[1]);
                let inputs = (taps * flow.dims(operand).axes.last().map_or(1, |a| a.size)) as i64;
                let [count, many, few] = [(); 3].map(|()| self.int());
                stmts.push(Stmt::LetInt(count, IntExpr::Const(0)));
                stmts.extend(self.words_of_a_row(list, at, &mut |body, word| body.count_a_word(count, &word)));
                let least = inputs / MANY;
                stmts.push(Stmt::LetInt(many, IntExpr::Affine(vec![(count, 1)], -least)));
                stmts.push(Stmt::LetInt(few, IntExpr::Affine(vec![(count, -1)], least - 1)));
                let in_fours = self.words_of_a_row(list, at, &mut |body, word| body.fours_of_a_word(fours, word));
                stmts.push(Stmt::If(Cond::Within(many, inputs + 1), in_fours));
                stmts.push(Stmt::If(Cond::Within(few, inputs + 1), one_by_one));
            }
        }
        for kind in &kinds {
            let mut end = self.start_of_list(list, kind, at);
            end.offset += 1;
            stmts.push(Stmt::StoreWord(end, kind.cursor));
        }
        if flow.dims(operand).time {
            stmts = vec![Stmt::For { index: step, from: Bound::Const(0), to: Bound::Steps, reverse: false, lanes: 1, body: stmts }];
        }
        for (i, (index, size)) in self.levels.iter().map(|l| (l.index, l.size)).enumerate().rev() {
            let (from, to) = if i == 0 { (Bound::Int(first), Bound::Int(last)) } else { (Bound::Const(0), Bound::Const(size as i64)) };
            stmts = vec![Stmt::For { index, from, to, reverse: false, lanes: 1, body: stmts }];
        }
        kinds.iter().map(|kind| Stmt::LetInt(kind.cursor, IntExpr::Const(0))).chain(stmts).collect()
    }

    /// Where the bits of the body's place begin; `rows` says which axis of the loop goes with which of the spikes.
    fn row_of_bits(&mut self, spikes: FlowId, rows: &[(String, String)], at: At) -> Place {
        let view = self.fuser.bits_view(spikes);
        let mut terms = Vec::new();
        if let (Some(b), true) = (self.batch, view.batch > 0) {
            terms.push((b, view.batch as i64));
        }
        if let (Some(t), true) = (self.index_of("T", at), view.time > 0) {
            terms.push((t, view.time as i64));
        }
        for (own, theirs) in rows {
            if let Some((_, stride)) = view.axis(theirs) {
                terms.extend(self.along(own, stride as i64, at));
            }
        }
        Place { arg: self.arg(view.buffer), terms, offset: view.offset as i64 }
    }

    /// Goes through the words of what the body's place reads: of every tap inside the operand, and of every part of a concat.
    fn words_of_a_row(&mut self, list: usize, at: At, f: &mut dyn FnMut(&mut Body<'_, '_>, Word) -> Vec<Stmt>) -> Vec<Stmt> {
        let flow = self.fuser.flow;
        let List { operand, window, .. } = self.lists[list];
        let Some(window) = window else { return self.words_of_a_tap(list, None, at, f) };
        let size = ["H", "W"].map(|n| flow.dims(operand).axis(n).map_or(1, |x| x.size));
        let inputs = flow.dims(operand).axes.last().map_or(1, |a| a.size) as i64;
        taps(self, window, size, at, &mut |body, source, tap| {
            let terms = vec![(tap[0], window.kernel[1] as i64 * inputs), (tap[1], inputs)];
            body.words_of_a_tap(list, Some(&(source, terms)), at, f)
        })
    }

    /// The same of one tap, with the place that it reads; positions behind it begin elsewhere.
    fn words_of_a_tap(
        &mut self,
        list: usize,
        tap: Option<&([Int; 2], Vec<(Int, i64)>)>,
        at: At,
        f: &mut dyn FnMut(&mut Body<'_, '_>, Word) -> Vec<Stmt>,
    ) -> Vec<Stmt> {
        let flow = self.fuser.flow;
        let operand = self.lists[list].operand;
        let parts = match &flow.get(operand).def {
            Def::Concat { parts, .. } => parts.clone(),
            _ => vec![operand],
        };
        let mut stmts = vec![];
        let base = tap.map(|(_, terms)| {
            let base = self.int();
            stmts.push(Stmt::LetInt(base, IntExpr::Affine(terms.clone(), 0)));
            (base, 1)
        });
        let mut before = 0;
        for part in parts {
            let channels = flow.dims(part).axes.last().map_or(1, |a| a.size);
            let view = self.fuser.bits_view(part);
            let place = match tap {
                Some((source, _)) => at_source(self, &view, *source, at),
                None => {
                    let rows = self.lists[list].rows.clone();
                    self.row_of_bits(part, &rows, at)
                }
            };
            let (whole, rest) = (channels / 64, channels % 64);
            if whole > 0 {
                let (index, mut place) = (self.int(), place.clone());
                place.terms.push((index, 1));
                let terms = base.into_iter().chain([(index, 64)]).collect();
                let body = f(self, Word { place, bits: 64, terms, before });
                let to = Bound::Const(whole as i64);
                stmts.push(Stmt::For { index, from: Bound::Const(0), to, reverse: false, lanes: 1, body });
            }
            if rest > 0 {
                let mut place = place;
                place.offset += whole as i64;
                stmts.extend(f(self, Word { place, bits: rest, terms: base.into_iter().collect(), before: before + 64 * whole }));
            }
            before += channels;
        }
        stmts
    }

    /// A word of bits, without those that belong to others.
    fn bits_of(&mut self, word: &Word) -> (Int, Vec<Stmt>) {
        let int = self.int();
        let mut stmts = vec![Stmt::LetInt(int, IntExpr::Word(word.place.clone()))];
        if word.bits < 64 {
            stmts.push(Stmt::SetInt(int, IntExpr::And(int, (1i64 << word.bits) - 1)));
        }
        (int, stmts)
    }

    /// Appends the positions of a word's ones to a list.
    fn spikes_of_a_word(&mut self, to: Entries, word: &Word) -> Vec<Stmt> {
        let [ones, next, bit, position] = [(); 4].map(|()| self.int());
        let (range, arg, cursor) = (self.range(), self.arg(to.entries), to.cursor);
        let (left, mut stmts) = self.bits_of(word);
        stmts.push(Stmt::LetInt(ones, IntExpr::Ones(left)));
        stmts.push(Stmt::LetInt(next, IntExpr::Affine(vec![(cursor, 1), (ones, 1)], 0)));
        let mut some = vec![];
        for i in 0..AT_ONCE {
            let terms = word.terms.iter().copied().chain([(bit, 1)]).collect();
            some.push(Stmt::LetInt(bit, IntExpr::TrailingZeros(left)));
            some.push(Stmt::LetInt(position, IntExpr::Affine(terms, word.before as i64)));
            let entry = Place { arg, terms: vec![(range, to.apart[1]), (cursor, 1)], offset: i as i64 };
            some.push(Stmt::StoreHalf(entry, position));
            some.push(Stmt::SetInt(left, IntExpr::ClearLowest(left)));
        }
        some.push(Stmt::SetInt(cursor, IntExpr::Affine(vec![(cursor, 1)], AT_ONCE as i64)));
        stmts.push(Stmt::While(Cond::NotZero(left), some));
        stmts.push(Stmt::SetInt(cursor, IntExpr::Affine(vec![(next, 1)], 0)));
        stmts
    }

    /// Adds a word's ones to a count.
    fn count_a_word(&mut self, count: Int, word: &Word) -> Vec<Stmt> {
        let ones = self.int();
        let (bits, mut stmts) = self.bits_of(word);
        stmts.push(Stmt::LetInt(ones, IntExpr::Ones(bits)));
        stmts.push(Stmt::SetInt(count, IntExpr::Affine(vec![(count, 1), (ones, 1)], 0)));
        stmts
    }

    /// Appends a word's fours that are not empty to a list: each writes its entry, and the next one goes behind it if it is to stay.
    fn fours_of_a_word(&mut self, to: Entries, word: Word) -> Vec<Stmt> {
        let [bits, four, position] = [(); 3].map(|()| self.int());
        let (range, arg, cursor) = (self.range(), self.arg(to.entries), to.cursor);
        let sums = SUMS as i64;
        let mut stmts = vec![Stmt::LetInt(bits, IntExpr::Word(word.place))];
        for i in 0..word.bits / FOUR {
            let terms = word.terms.iter().map(|(int, factor)| (*int, factor * sums / FOUR as i64)).chain([(four, 1)]).collect();
            stmts.push(Stmt::LetInt(four, IntExpr::Quotient(bits, 1 << (FOUR * i))));
            stmts.push(Stmt::SetInt(four, IntExpr::And(four, sums - 1)));
            stmts.push(Stmt::LetInt(position, IntExpr::Affine(terms, sums * (word.before / FOUR + i) as i64)));
            let entry = Place { arg, terms: vec![(range, to.apart[1]), (cursor, 1)], offset: 0 };
            stmts.push(Stmt::StoreHalf(entry, position));
            stmts.push(Stmt::SetInt(four, IntExpr::Least(four, 1)));
            stmts.push(Stmt::SetInt(cursor, IntExpr::Affine(vec![(cursor, 1), (four, 1)], 0)));
        }
        stmts
    }
}
