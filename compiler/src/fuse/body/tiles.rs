//! Loops in tiles of lanes: rows in parts that threads share and blocks that lists of spikes are made for; tiles of the innermost axis. Where
//! there are few rows, the tiles are what threads share: each reads its part of the weights, not all of them.

use super::*;
use crate::fuse::schedule::{Shared, blocks};
use crate::kernel::Int;
use crate::program::How;

/// How the rows of a loop are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fuse) struct Cut {
    /// Parts of a sample, a power of two.
    pub(in crate::fuse) parts: usize,
    /// Extent of the first level in a block.
    pub(in crate::fuse) block: usize,
    /// Blocks of a part.
    pub(in crate::fuse) blocks: usize,
    /// Rows of a block.
    pub(in crate::fuse) rows: usize,
    /// Tiles of a part, if parts are made of tiles and have all rows.
    tiles: Option<usize>,
}

/// Statements over rows of a cut loop's first level, from one index to before another.
pub(super) struct Rows {
    pub(super) cut: Cut,
    pub(super) begin: Int,
    pub(super) end: Int,
    /// The part's number.
    pub(super) part: Int,
    pub(super) body: Vec<Stmt>,
}

impl Body<'_, '_> {
    /// How the rows are cut.
    pub(in crate::fuse) fn cut(&self) -> Cut {
        let first = self.levels.first().map_or(1, |l| l.size);
        let inner: usize = self.levels.iter().skip(1).map(|l| l.size).product();
        let tiles = self.columns.as_ref().filter(|c| c.outermost).map_or(0, |c| c.size.div_ceil(c.lanes));
        if self.choice.as_ref().is_some_and(|c| c.shared == Shared::Tiles) {
            let parts = self.fuser.parts(tiles);
            return Cut { parts, block: first, blocks: 1, rows: first * inner, tiles: Some(tiles.div_ceil(parts)) };
        }
        let parts = self.fuser.parts(first);
        let (block, blocks) = blocks(first.div_ceil(parts), inner);
        Cut { parts, block, blocks, rows: block * inner, tiles: None }
    }

    /// Puts an element into loops over tiles and rows.
    pub(super) fn finish_tiles(mut self, element: &[Stmt], label: &str, region: Region) -> Vec<Loop> {
        let cut = self.cut();
        let Some(columns) = self.columns.take() else { return vec![] };
        let [begin, end, part, from_tile, to_tile, last_tile] = [(); 6].map(|()| self.int());
        let (block, first, last) = (self.int(), self.block.unwrap_or_else(|| self.int()), self.int());
        let lists = self.lists_of_a_block(first, last);
        let levels = std::mem::take(&mut self.levels);
        let constant = |n: usize| Bound::Const(n as i64);
        let over = |index, from, to, lanes, body| Stmt::For { index, from, to, reverse: false, lanes, body };
        let multiplies = !self.inside.is_empty() && self.inside.iter().all(|i| i.how == How::Multiplies);
        let count = [self.int(), self.int()];
        let rows = |body: Vec<Stmt>, from: Int, to: Int| {
            levels.iter().enumerate().rev().fold(body, |body, (i, level)| {
                if multiplies
                    && i > 0
                    && let Some(groups) = abreast::in_groups(level.index, level.size, count, &body)
                {
                    return groups;
                }
                let (from, to) = if i == 0 { (Bound::Int(from), Bound::Int(to)) } else { (constant(0), constant(level.size)) };
                vec![over(level.index, from, to, 1, body)]
            })
        };
        // All tiles of whole lanes, and the last one.
        let (whole, rest) = (columns.size / columns.lanes, columns.size % columns.lanes);
        let wide = |lanes: usize| vec![over(columns.lane, constant(0), constant(lanes), lanes as u8, element.to_vec())];
        let tables =
            [columns.lanes, rest].map(|lanes| if lanes > 0 { self.make_tables(columns.lane, lanes, columns.lanes) } else { vec![] });
        let tiles = |inner: &dyn Fn(Vec<Stmt>) -> Vec<Stmt>| {
            let mut body = vec![];
            let (mut from, mut to) = (constant(0), constant(whole));
            if let Some(own) = cut.tiles {
                body.push(Stmt::LetInt(from_tile, IntExpr::Affine(vec![(part, own as i64)], 0)));
                body.push(Stmt::LetInt(to_tile, IntExpr::Affine(vec![(part, own as i64)], own as i64)));
                body.push(Stmt::SetInt(to_tile, IntExpr::Least(to_tile, whole as i64)));
                (from, to) = (Bound::Int(from_tile), Bound::Int(to_tile));
            }
            if whole > 0 {
                let each = tables[0].iter().cloned().chain(inner(wide(columns.lanes))).collect();
                body.push(over(columns.tile, from, to, 1, each));
            }
            if rest > 0 {
                let mut last = vec![Stmt::LetInt(columns.tile, IntExpr::Const(whole as i64))];
                last.extend(tables[1].iter().cloned().chain(inner(wide(rest))));
                match cut.tiles {
                    None => body.extend(last),
                    Some(own) => {
                        body.push(Stmt::LetInt(last_tile, IntExpr::Affine(vec![(from_tile, -1)], whole as i64)));
                        body.push(Stmt::If(Cond::Within(last_tile, own as i64), last));
                    }
                }
            }
            body
        };
        let body = if columns.outermost {
            let inside = tiles(&|body| rows(body, first, last));
            let from = |by: usize| IntExpr::Affine(vec![(begin, 1), (block, cut.block as i64)], by as i64);
            let mut each = vec![Stmt::LetInt(first, from(0)), Stmt::LetInt(last, from(cut.block))];
            each.push(Stmt::SetInt(last, IntExpr::Least(last, levels.first().map_or(1, |l| l.size) as i64)));
            each.extend(lists);
            each.extend(inside);
            vec![over(block, constant(0), constant(cut.blocks), 1, each)]
        } else {
            rows(tiles(&|body| body), begin, end)
        };
        self.levels = levels;
        self.in_parts(Rows { cut, begin, end, part, body }, label, region)
    }

    /// Puts rows into a loop over the parts of all samples.
    pub(super) fn in_parts(mut self, rows: Rows, label: &str, region: Region) -> Vec<Loop> {
        let Rows { cut, begin, end, part, mut body } = rows;
        let sample = self.int();
        let size = cut.block * cut.blocks;
        let mut each = vec![];
        let batch = self.batch.unwrap_or(sample);
        if cut.parts > 1 {
            each.push(Stmt::LetInt(batch, IntExpr::Quotient(sample, cut.parts as i64)));
            each.push(Stmt::LetInt(part, IntExpr::Affine(vec![(sample, 1), (batch, -(cut.parts as i64))], 0)));
        } else {
            each.push(Stmt::LetInt(batch, IntExpr::Affine(vec![(sample, 1)], 0)));
            each.push(Stmt::LetInt(part, IntExpr::Const(0)));
        }
        // Of the rows, unless parts have all of them.
        let rows = if cut.tiles.is_some() { vec![] } else { vec![(part, size as i64)] };
        each.push(Stmt::LetInt(begin, IntExpr::Affine(rows, 0)));
        each.push(Stmt::LetInt(end, IntExpr::Affine(vec![(begin, 1)], size as i64)));
        each.push(Stmt::SetInt(end, IntExpr::Least(end, self.levels.first().map_or(1, |l| l.size) as i64)));
        each.append(&mut body);
        let all = Stmt::For { index: sample, from: Bound::Begin, to: Bound::End, reverse: false, lanes: 1, body: each };
        let range = self.range.map(|range| Stmt::LetInt(range, IntExpr::Range));
        let step = self.first.map(|int| Stmt::LetInt(int, IntExpr::First));
        let body = range.into_iter().chain(step).chain([all]).collect();
        let args = self.args.iter().map(|b| self.fuser.program.buffer(*b).format).collect();
        let kernel = Kernel { args, scratch: self.scratch.len(), time: self.fuser.time, body };
        let args = std::mem::take(&mut self.args);
        let mut own = self.fuser.push_loop(kernel, args, None, 1, label.to_owned(), region);
        (own.parts, own.inside, own.choice) = (cut.parts, self.inside, self.choice);
        vec![own]
    }
}
