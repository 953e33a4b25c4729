//! Spikes as bits with another axis innermost.

use super::*;

/// Bits of a word.
const WORD: usize = 64;

/// Emits the bits of a transpose.
pub(in crate::fuse) fn transpose(fuser: &mut Fuser<'_>, item: usize, id: FlowId) -> Vec<Loop> {
    let flow = fuser.flow;
    let tensor = flow.get(id);
    let Def::Transpose { of } = tensor.def else { return vec![] };
    let (from, to) = (fuser.bits_view(of), fuser.bits_view(id));
    let [Some(x), Some(y)] = [of, id].map(|i| flow.dims(i).axes.last().cloned()) else { return vec![] };
    let mut body = Body::new(fuser, item);
    body.batch = Some(body.int());
    for axis in tensor.dims.axes.iter().filter(|a| a.name != x.name && a.name != y.name) {
        let index = body.int();
        body.levels.push(Level { axes: vec![axis.name.clone()], size: axis.size, index });
    }
    let (at, step) = body.another_pass();
    let apart = |view: &View, axis: &str| view.axis(axis).map_or(0, |(_, stride)| stride as i64);
    let (rows_apart, columns_apart) = (apart(&from, &y.name), apart(&to, &x.name));
    let [source, target] = [&from, &to].map(|view| body.place(view, at));
    // Blocks of 64 columns by 64 rows, and what is left of both.
    let blocks = |size: usize| {
        [(0, size / WORD, WORD), (size / WORD, usize::from(!size.is_multiple_of(WORD)), size % WORD)].into_iter().filter(|b| b.1 > 0)
    };
    let mut stmts = vec![];
    for (first_column, count, columns) in blocks(x.size) {
        let column = body.int();
        let mut inner = vec![];
        for (first_row, count, rows) in blocks(y.size) {
            let row = body.int();
            let (mut source, mut target) = (source.clone(), target.clone());
            source.terms.extend([(row, WORD as i64 * rows_apart), (column, 1)]);
            target.terms.extend([(column, WORD as i64 * columns_apart), (row, 1)]);
            let block = Stmt::Transpose { from: source, rows_apart, rows, to: target, columns_apart, columns };
            inner.push(over(row, first_row, first_row + count, vec![block]));
        }
        stmts.push(over(column, first_column, first_column + count, inner));
    }
    if tensor.dims.time {
        stmts = vec![Stmt::For { index: step, from: Bound::Const(0), to: Bound::Steps, reverse: false, lanes: 1, body: stmts }];
    }
    let [begin, end, part] = [(); 3].map(|()| body.int());
    for (i, (index, size)) in body.levels.iter().map(|l| (l.index, l.size)).enumerate().rev() {
        let (from, to) = if i == 0 { (Bound::Int(begin), Bound::Int(end)) } else { (Bound::Const(0), Bound::Const(size as i64)) };
        stmts = vec![Stmt::For { index, from, to, reverse: false, lanes: 1, body: stmts }];
    }
    let cut = body.cut();
    body.in_parts(tiles::Rows { cut, begin, end, part, body: stmts }, &tensor.label, tensor.region)
}

fn over(index: Int, from: usize, to: usize, body: Vec<Stmt>) -> Stmt {
    Stmt::For { index, from: Bound::Const(from as i64), to: Bound::Const(to as i64), reverse: false, lanes: 1, body }
}
