//! Sums of four. Where many inputs fire, every four neighbouring inputs have a table of the sums of all their subsets, and a row that fires
//! much adds one number of each table instead of up to four weights (the "four Russians": Arlazarov, Dinic, Kronrod and Faradzev, Soviet
//! Mathematics Doklady 11, 1970). A tile's tables are made once for a block of rows that has such a row.
//!
//! Whether a row is added up this way hangs on its own spikes, and whether a loop has tables on its extents: how the loop is cut changes no sum.
//!
//! Where a row is half a word and so are its outputs, all rows are: to add a sum for every four of the word, fired or not, takes less than to find
//! the few that did, as no branch can be guessed wrong.

use super::Fuser;
use super::body::Body;
use super::events::MOST_POSITIONS;
use crate::flow::{Bin, Def, FlowId};
use crate::kernel::{Bound, Cond, Expr, Int, IntExpr, Place, Stmt, Var};
use crate::program::Purpose;

/// Inputs of a table.
pub(super) const FOUR: usize = 4;
/// Places of a table: one for every subset of its inputs.
pub(super) const SUMS: usize = 1 << FOUR;
/// Of how many inputs one has to fire so that a row is added up by fours: with 20 % of them, these are 0.74 of the additions.
pub(super) const MANY: i64 = 5;
/// With fewer inputs, weights stay in the first cache, and tables would not.
const FEWEST_INPUTS: usize = 256;
/// With fewer rows and time steps of a sample, tables cost what they give; where many threads share these, they may cost more, as which rows are
/// added up how must not hang on that.
const FEWEST_READERS: usize = 512;

/// Inputs and outputs of rows that are added up from their word.
const HALF_A_WORD: usize = 32;

/// The tables of a contraction's weights.
pub(super) struct Tables {
    /// Where the weights of the first input are, and the first table, in the tile at hand.
    weights: Place,
    tables: Place,
    inputs: usize,
    /// More than zero if some row of the block reads them; all do, where there is none.
    wanted: Option<Int>,
}

impl Fuser<'_> {
    /// Rows of this event-driven contraction may be added up by fours.
    pub(super) fn in_fours(&self, id: FlowId) -> bool {
        let (operand, inputs) = self.inputs_of(id);
        let whole = |id: &FlowId| self.flow.dims(*id).axes.last().is_some_and(|a| a.size.is_multiple_of(FOUR));
        let whole = match &self.flow.get(operand).def {
            Def::Concat { parts, .. } => parts.iter().all(whole),
            _ => whole(&operand),
        };
        whole && (FEWEST_INPUTS..=MOST_POSITIONS * FOUR / SUMS).contains(&inputs) && self.many_readers(id)
    }

    /// Rows of this event-driven contraction are added up by fours from their word.
    pub(super) fn by_word(&self, id: FlowId) -> bool {
        let (operand, inputs) = self.inputs_of(id);
        let outputs = self.flow.dims(id).axes.last().map_or(1, |a| a.size);
        let alone = matches!(self.flow.get(id).def, Def::Product { .. }) && !matches!(self.flow.get(operand).def, Def::Concat { .. });
        alone && inputs <= HALF_A_WORD && outputs <= HALF_A_WORD && self.many_readers(id)
    }

    /// So many rows and time steps of a sample read the same weights that tables are worth it.
    fn many_readers(&self, id: FlowId) -> bool {
        let dims = self.flow.dims(id);
        let rows: usize = dims.axes.iter().rev().skip(1).map(|a| a.size).product();
        let readers = rows * if dims.time { self.time } else { 1 };
        !self.flow.dims(self.flow.get(id).def.inputs()[1]).time && readers >= FEWEST_READERS
    }

    /// What a contraction sums over innermost, and how many inputs that are with the taps of its window.
    pub(super) fn inputs_of(&self, id: FlowId) -> (FlowId, usize) {
        let def = &self.flow.get(id).def;
        let operand = def.inputs()[0];
        let taps = if let Def::Conv { window, .. } = def { window.kernel[0] * window.kernel[1] } else { 1 };
        (operand, taps * self.flow.dims(operand).axes.last().map_or(1, |a| a.size))
    }
}

impl Body<'_, '_> {
    /// Where the first table of weights is that lie at a place, those of the first input.
    pub(super) fn table(&mut self, id: FlowId, inputs: usize, weights: Place, wanted: Option<Int>) -> Place {
        let (lanes, range) = (self.columns.as_ref().map_or(1, |c| c.lanes), self.range());
        let label = format!("{} fours", self.fuser.flow.get(id).label);
        let elements = inputs.div_ceil(FOUR) * SUMS * lanes;
        let buffer = self.fuser.buffer(&label, elements, false, Purpose::Temporary);
        self.fuser.program.buffers[buffer.index()].ranges = true;
        let lane = self.columns.as_ref().map(|c| (c.lane(), 1));
        let terms = [(range, elements as i64)].into_iter().chain(lane).collect();
        let tables = Place { arg: self.arg(buffer), terms, offset: 0 };
        self.tables.push(Tables { weights, tables: tables.clone(), inputs, wanted });
        tables
    }

    /// Makes all tables of a tile of so many lanes, the rows of which are so many numbers apart.
    pub(super) fn make_tables(&mut self, lane: Int, lanes: usize, apart: usize) -> Vec<Stmt> {
        let tables = std::mem::take(&mut self.tables);
        let made = tables.iter().flat_map(|t| self.make(t, lane, lanes, apart as i64)).collect();
        self.tables = tables;
        made
    }

    fn make(&mut self, t: &Tables, lane: Int, lanes: usize, apart: i64) -> Vec<Stmt> {
        let over = |index, to: usize, lanes, body| Stmt::For {
            index,
            from: Bound::Const(0),
            to: Bound::Const(to as i64),
            reverse: false,
            lanes,
            body,
        };
        let [four, last] = [self.int(), self.int()];
        let (whole, rest) = (t.inputs / FOUR, t.inputs % FOUR);
        let mut stmts = vec![];
        if whole > 0 {
            let sums = self.sums(t, four, FOUR, apart);
            stmts.push(over(four, whole, 1, vec![over(lane, lanes, lanes as u8, sums)]));
        }
        if rest > 0 {
            let sums = self.sums(t, last, rest, apart);
            stmts.extend([Stmt::LetInt(last, IntExpr::Const(whole as i64)), over(lane, lanes, lanes as u8, sums)]);
        }
        match t.wanted {
            Some(wanted) => vec![Stmt::If(Cond::Positive(wanted), stmts)],
            None => stmts,
        }
    }

    /// The sums of all subsets of so many inputs, those of a table.
    fn sums(&mut self, t: &Tables, table: Int, inputs: usize, apart: i64) -> Vec<Stmt> {
        let at = |place: &Place, rows: usize, row: usize| {
            let terms = place.terms.iter().copied().chain([(table, apart * rows as i64)]).collect();
            Place { terms, offset: place.offset + apart * row as i64, ..place.clone() }
        };
        let weights: Vec<Var> = (0..inputs).map(|_| self.var()).collect();
        let mut body: Vec<Stmt> = vec![];
        if t.wanted.is_none() {
            body.push(Stmt::Store(at(&t.tables, SUMS, 0), Expr::Const(0.0)));
        }
        for (i, weight) in weights.iter().enumerate() {
            body.push(Stmt::Let(*weight, Expr::Load(at(&t.weights, FOUR, i))));
        }
        // The sum of a subset is that without its last input, and that one.
        let mut sums: Vec<Option<Var>> = vec![None; 1 << inputs];
        for subset in 1..sums.len() {
            let last = subset.ilog2() as usize;
            let var = match sums[subset - (1 << last)] {
                None => weights[last],
                Some(others) => {
                    let var = self.var();
                    let value = Expr::Bin(Bin::Add, Box::new(Expr::Var(others)), Box::new(Expr::Var(weights[last])));
                    body.push(Stmt::Let(var, value));
                    var
                }
            };
            body.push(Stmt::Store(at(&t.tables, SUMS, subset), Expr::Var(var)));
            sums[subset] = Some(var);
        }
        body
    }
}
