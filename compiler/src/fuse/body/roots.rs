//! What a loop leaves in memory: stored values, sums over its ranges, bits of spikes.

use super::*;

impl Body<'_, '_> {
    /// Emits what a root leaves behind.
    pub(super) fn root(&mut self, id: FlowId, start: &mut Vec<Stmt>, finish: &mut Vec<(Kernel, Vec<BufferId>, usize)>) {
        let flow = self.fuser.flow;
        let elementwise = self.fuser.over_time_only(id);
        if let (Def::Reduce { input, max }, false) = (&flow.get(id).def, elementwise) {
            return self.reduce(id, *input, *max, start, finish);
        }
        let at = match self.slot(id) {
            Slot::Gap(g) => At::Gap(g),
            Slot::From(k) => At::Pass(self.pass(k, None)),
            Slot::In(k) => At::Pass(k),
        };
        let var = self.value(id, at);
        if self.fuser.stored[id.index()] {
            let view = self.fuser.view(id);
            let place = self.place(&view, at);
            self.push(at, Stmt::Store(place, Expr::Var(var)));
        }
        if self.wants_bits(id) {
            let view = self.fuser.bits_view(id);
            let mut place = self.place(&view, at);
            place.terms.iter_mut().for_each(|(_, stride)| *stride *= 64);
            place.offset *= 64;
            place.terms.extend(self.along_columns(1));
            self.push(at, Stmt::StoreBits(place, var));
        }
    }

    pub(super) fn reduce(
        &mut self,
        id: FlowId,
        input: FlowId,
        max: bool,
        start: &mut Vec<Stmt>,
        finish: &mut Vec<(Kernel, Vec<BufferId>, usize)>,
    ) {
        let flow = self.fuser.flow;
        let at = match self.slot(input) {
            Slot::Gap(g) => At::Gap(g),
            Slot::From(k) => At::Pass(self.pass(k, None)),
            Slot::In(k) => At::Pass(k),
        };
        let value = Expr::Var(self.value(input, at));
        let dims = flow.dims(id).clone();
        let result = self.fuser.view(id);
        let steps = if dims.time { self.fuser.time } else { 1 };
        let elements = dims.elements() * steps;
        let first = if max { f32::NEG_INFINITY } else { 0.0 };
        if dims.batch || self.batch.is_none() {
            let place = self.place(&result, at);
            if !self.fuser.keeps(id) {
                start.push(self.clear(&result, elements, first));
            }
            self.combine(at, place, value, max, dims.time, None);
            return;
        }
        // Every range has sums of its own, and what rounding made them too large; a second loop adds them in order.
        let label = format!("{} ranges", flow.get(id).label);
        let own = if max { elements } else { 2 * elements };
        let partial = self.fuser.buffer(&label, own, false, Purpose::Temporary);
        self.fuser.program.buffers[partial.index()].ranges = true;
        let view = View { buffer: partial, offset: 0, ..contiguous(&result) };
        let range = self.int();
        start.push(Stmt::LetInt(range, IntExpr::Range));
        let mut place = self.place(&view, at);
        place.terms.push((range, own as i64));
        let error = (!max).then(|| Place { offset: place.offset + elements as i64, ..place.clone() });
        let index = self.int();
        let clear = Place { arg: place.arg, terms: vec![(range, own as i64), (index, 1)], offset: 0 };
        start.push(Stmt::For {
            index,
            from: Bound::Const(0),
            to: Bound::Const(own as i64),
            reverse: false,
            lanes: LANES,
            body: vec![Stmt::Store(clear, Expr::Const(first))],
        });
        self.combine(at, place, value, max, dims.time, error);
        finish.push((sum_ranges(elements, first, max), vec![partial, result.buffer], elements));
    }

    /// Combines a value with a result in memory; over the time steps of an element it is combined in a register first, if
    /// the result does not vary over them.
    pub(super) fn combine(&mut self, at: At, place: Place, value: Expr, max: bool, varies: bool, error: Option<Place>) {
        let At::Pass(pass) = at else { return self.push(at, Stmt::Combine { place, value, max, error }) };
        if varies {
            return self.push(at, Stmt::Combine { place, value, max, error });
        }
        let (bin, first) = if max { (Bin::Max, f32::NEG_INFINITY) } else { (Bin::Add, 0.0) };
        let sum = self.bind(At::Gap(pass), Expr::Const(first));
        self.push(at, Stmt::Set(sum, Expr::Bin(bin, Box::new(Expr::Var(sum)), Box::new(value))));
        self.push(At::Gap(pass + 1), Stmt::Combine { place, value: Expr::Var(sum), max, error });
    }

    /// Sets a result to its start for every sample of the range.
    pub(super) fn clear(&mut self, view: &View, elements: usize, first: f32) -> Stmt {
        let arg = self.arg(view.buffer);
        let index = self.int();
        let mut place = Place { arg, terms: vec![(index, 1)], offset: view.offset as i64 };
        let sample = self.int();
        if view.batch > 0 {
            place.terms.push((sample, view.batch as i64));
        }
        let elements_loop = Stmt::For {
            index,
            from: Bound::Const(0),
            to: Bound::Const(elements as i64),
            reverse: false,
            lanes: LANES,
            body: vec![Stmt::Store(place, Expr::Const(first))],
        };
        if view.batch == 0 {
            return elements_loop;
        }
        Stmt::For { index: sample, from: Bound::Begin, to: Bound::End, reverse: false, lanes: 1, body: vec![elements_loop] }
    }
}

/// The same axes laid out without gaps.
fn contiguous(view: &View) -> View {
    let mut view = view.clone();
    let mut stride = 1;
    for (_, size, s) in view.axes.iter_mut().rev() {
        *s = stride;
        stride *= *size;
    }
    if view.time > 0 {
        view.time = stride;
    }
    view
}

/// Adds the sums of all ranges in order.
fn sum_ranges(elements: usize, first: f32, max: bool) -> Kernel {
    let (i, r, sum) = (Int(0), Int(1), Var(0));
    let own = if max { elements } else { 2 * elements };
    let part = |offset| Expr::Load(Place { arg: 0, terms: vec![(r, own as i64), (i, 1)], offset });
    let bin = |bin, a, b| Expr::Bin(bin, Box::new(a), Box::new(b));
    let add = match max {
        true => bin(Bin::Max, Expr::Var(sum), part(0)),
        false => bin(Bin::Add, Expr::Var(sum), bin(Bin::Sub, part(0), part(elements as i64))),
    };
    let over = Stmt::For { index: r, from: Bound::Const(0), to: Bound::Ranges, reverse: false, lanes: 1, body: vec![Stmt::Set(sum, add)] };
    let store = Stmt::Store(Place { arg: 1, terms: vec![(i, 1)], offset: 0 }, Expr::Var(sum));
    let body = vec![Stmt::Let(sum, Expr::Const(first)), over, store];
    let all = Stmt::For { index: i, from: Bound::Begin, to: Bound::End, reverse: false, lanes: LANES, body };
    Kernel { args: vec![Format::F32; 2], scratch: 0, time: 0, body: vec![all] }
}
