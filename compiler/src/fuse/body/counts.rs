//! Products of spikes with spikes, counted: with places innermost, as bits of words, a place of the result is the number of ones that two rows
//! share.

use super::*;
use crate::fuse::dots::Counts;
use crate::program::How;

/// Bits of a word.
const WORD: usize = 64;

/// Emits such a product.
pub(in crate::fuse) fn counts(fuser: &mut Fuser<'_>, item: usize, id: FlowId, counts: &Counts) -> Vec<Loop> {
    let tensor = fuser.flow.get(id);
    let mut body = Body::new(fuser, item);
    body.batch = Some(body.int());
    body.inside.push(Inside { path: tensor.label.clone(), how: How::Counts });
    let (shared, groups) = counts.shared.as_ref().map_or((None, 1), |(label, size)| (Some(label), *size));
    let group = body.int();
    body.levels.push(Level { axes: shared.cloned().into_iter().collect(), size: groups, index: group });
    let (at, step) = body.another_pass();
    let [begin, end, part, range] = [(); 4].map(|()| body.int());
    let words = counts.places.div_ceil(WORD);
    let mut stmts = vec![];
    let mut rows = vec![];
    for (operand, (_, size)) in counts.operands.iter().zip(&counts.own) {
        let (place, turn) = body.turned(*operand, counts.places, [begin, end], (*size, range), at);
        stmts.extend(turn);
        rows.push(place);
    }
    let own = [body.int(), body.int()];
    for i in 0..2 {
        let apart = (counts.own[i].1 * words) as i64;
        rows[i].terms.extend([(group, apart), (own[i], words as i64)]);
    }
    let view = body.fuser.view(id);
    let mut to = body.place(&view, at);
    let stride = |label: &str| {
        // The result's axes may be called otherwise than its labels.
        let Def::Product { out_labels, .. } = &tensor.def else { return 0 };
        let axis = out_labels.iter().position(|l| l == label).map(|i| tensor.dims.labels()[i].clone());
        axis.and_then(|axis| view.axis(&axis)).map_or(0, |(_, stride)| stride as i64)
    };
    to.terms.retain(|(index, _)| *index != group);
    to.terms.extend(shared.map(|label| (group, stride(label))));
    to.terms.extend([(own[0], stride(&counts.own[0].0)), (own[1], stride(&counts.own[1].0))]);
    // A row of the first operand, and how many ones each of the second's shares with it.
    let mut outer = vec![];
    let mut inner = vec![];
    let count = body.int();
    inner.push(Stmt::LetInt(count, IntExpr::Const(0)));
    for word in 0..words as i64 {
        let [mine, theirs, both, ones] = [(); 4].map(|()| body.int());
        let behind = |place: &Place| Place { offset: place.offset + word, ..place.clone() };
        outer.push(Stmt::LetInt(mine, IntExpr::Word(behind(&rows[0]))));
        inner.push(Stmt::LetInt(theirs, IntExpr::Word(behind(&rows[1]))));
        inner.push(Stmt::LetInt(both, IntExpr::Both(mine, theirs)));
        inner.push(Stmt::LetInt(ones, IntExpr::Ones(both)));
        inner.push(Stmt::SetInt(count, IntExpr::Affine(vec![(count, 1), (ones, 1)], 0)));
    }
    inner.push(Stmt::Store(to, Expr::Integer(count)));
    let constant = |n: usize| Bound::Const(n as i64);
    let over = |index, from, to, body| Stmt::For { index, from, to, reverse: false, lanes: 1, body };
    outer.push(over(own[1], constant(0), constant(counts.own[1].1), inner));
    let each = over(own[0], constant(0), constant(counts.own[0].1), outer);
    stmts.push(over(group, Bound::Int(begin), Bound::Int(end), vec![each]));
    if tensor.dims.time {
        stmts = vec![over(step, constant(0), Bound::Steps, stmts)];
    }
    stmts.insert(0, Stmt::LetInt(range, IntExpr::Range));
    let cut = body.cut();
    body.choice = body.fuser.priced(&[id], [groups * counts.own[0].1, counts.own[1].1], 1, cut.parts);
    body.in_parts(tiles::Rows { cut, begin, end, part, body: stmts }, &tensor.label, tensor.region)
}

impl Body<'_, '_> {
    /// The bits of some groups of an operand's channels with places innermost: where the first channel's are, and what puts them there.
    fn turned(&mut self, operand: FlowId, places: usize, groups: [Int; 2], (size, range): (usize, Int), at: At) -> (Place, Vec<Stmt>) {
        let from = self.fuser.bits_view(operand);
        let channels = self.fuser.flow.dims(operand).axes.last().map_or(1, |a| a.size);
        let (blocks, words) = (channels.div_ceil(WORD), places.div_ceil(WORD));
        let label = format!("{} counted", self.fuser.flow.get(operand).label);
        let elements = 2 * blocks * WORD * words;
        let buffer = self.fuser.buffer(&label, elements, false, Purpose::Temporary);
        self.fuser.program.buffers[buffer.index()].ranges = true;
        let to = Place { arg: self.arg(buffer), terms: vec![(range, elements as i64 / 2)], offset: 0 };
        // Rows of places lie one behind the other.
        let mut source = Place { arg: self.arg(from.buffer), terms: vec![], offset: from.offset as i64 };
        source.terms.extend(self.batch.filter(|_| from.batch > 0).map(|b| (b, from.batch as i64)));
        if let (At::Pass(k), true) = (at, from.time > 0) {
            source.terms.push((self.passes[k].index, from.time as i64));
        }
        let [first, last, column] = [(); 3].map(|()| self.int());
        let affine = |int: Int, offset: usize| IntExpr::Affine(vec![(int, size as i64)], offset as i64);
        let mut stmts = vec![Stmt::LetInt(first, affine(groups[0], 0)), Stmt::LetInt(last, affine(groups[1], WORD - 1))];
        stmts.extend([first, last].map(|int| Stmt::SetInt(int, IntExpr::Quotient(int, WORD as i64))));
        let mut inner = vec![];
        for (word, rows) in (0..words).map(|w| (w, WORD.min(places - w * WORD))) {
            let (mut source, mut target) = (source.clone(), to.clone());
            source.terms.push((column, 1));
            source.offset += (word * WORD * blocks) as i64;
            target.terms.push((column, (WORD * words) as i64));
            target.offset += word as i64;
            let (rows_apart, columns_apart) = (blocks as i64, words as i64);
            inner.push(Stmt::Transpose { from: source, rows_apart, rows, to: target, columns_apart, columns: WORD });
        }
        stmts.push(Stmt::For { index: column, from: Bound::Int(first), to: Bound::Int(last), reverse: false, lanes: 1, body: inner });
        (to, stmts)
    }
}
