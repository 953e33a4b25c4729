//! The ways in and out: the caller's input is copied in, the logits out.

use super::Fuser;
use crate::flow::{Def, FlowId, Sink, Source};
use crate::kernel::{Bound, Expr, Format, Int, IntExpr, Kernel, Place, Stmt};
use crate::program::{Door, View};

/// Elements that the innermost loop copies at once.
const LANES: u8 = 8;

impl Fuser<'_> {
    /// From `[B, (T,) axes...]` in the caller's order to the input's place.
    pub(super) fn enter(&mut self) -> Option<Door> {
        let id = self.ids().find(|id| self.flow.get(*id).def == Def::Source(Source::Input))?;
        let order = self.flow.input.clone();
        self.door(id, &order, true)
    }

    /// From the place of the logits to `[B, K]`.
    pub(super) fn leave(&mut self) -> Option<Door> {
        let id = self.flow.sinks.iter().find(|(sink, _)| *sink == Sink::Logits)?.1;
        let order: Vec<String> = self.flow.dims(id).axes.iter().map(|a| a.name.clone()).collect();
        self.door(id, &order, false)
    }

    fn door(&mut self, id: FlowId, order: &[String], inwards: bool) -> Option<Door> {
        let view = self.views[id.index()].clone()?;
        let kernel = copy(&view, order, inwards);
        let region = self.region(id);
        let axes = order.iter().filter_map(|name| view.axes.iter().find(|(n, ..)| n == name).cloned()).collect();
        Some(Door { kernel: self.kernel(kernel, region), view: View { axes, ..view } })
    }
}

/// Argument 0 is the program's memory, argument 1 the caller's, which is read or written from front to back.
fn copy(view: &View, order: &[String], inwards: bool) -> Kernel {
    let (next, sample, step) = (Int(0), Int(1), Int(2));
    let mut inside = Place { arg: 0, terms: vec![], offset: view.offset as i64 };
    let mut outside = Place { arg: 1, terms: vec![(next, 1)], offset: 0 };
    if view.batch > 0 {
        inside.terms.push((sample, view.batch as i64));
    }
    if view.time > 0 {
        inside.terms.push((step, view.time as i64));
    }
    let axes: Vec<(Int, usize)> = order
        .iter()
        .enumerate()
        .filter_map(|(i, name)| {
            let (size, stride) = view.axis(name)?;
            let index = Int(3 + i as u32);
            inside.terms.push((index, stride as i64));
            Some((index, size))
        })
        .collect();
    // The innermost axis runs several elements at once, and the caller's place moves on by all of them.
    let row = axes.last().map_or(1, |(index, size)| {
        outside.terms.push((*index, 1));
        *size
    });
    let (from, to) = if inwards { (outside, inside) } else { (inside, outside) };
    let mut body = vec![Stmt::Store(to, Expr::Load(from))];
    for (depth, (index, size)) in axes.iter().rev().enumerate() {
        let lanes = if depth == 0 { LANES } else { 1 };
        let (from, to) = (Bound::Const(0), Bound::Const(*size as i64));
        body = vec![Stmt::For { index: *index, from, to, reverse: false, lanes, body }];
        if depth == 0 {
            body.push(Stmt::SetInt(next, IntExpr::Affine(vec![(next, 1)], row as i64)));
        }
    }
    if axes.is_empty() {
        body.push(Stmt::SetInt(next, IntExpr::Affine(vec![(next, 1)], 1)));
    }
    if view.time > 0 {
        body = vec![Stmt::For { index: step, from: Bound::Const(0), to: Bound::Steps, reverse: false, lanes: 1, body }];
    }
    let samples = Stmt::For { index: sample, from: Bound::Begin, to: Bound::End, reverse: false, lanes: 1, body };
    let body = vec![Stmt::LetInt(next, IntExpr::Const(0)), samples];
    Kernel { args: vec![Format::F32; 2], scratch: 0, time: 0, body }
}
