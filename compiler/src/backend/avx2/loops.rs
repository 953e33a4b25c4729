//! Statements in order: loops, conditions, and the sums that stay in registers through them.

use super::asm::{self, FREE, Gpr, Mem, Operand, When, Ymm};
use super::{Around, Home, Input, MOST_WRITTEN_OUT, Other, Writer, Written};
use crate::flow::Bin;
use crate::kernel::{Bound, Cond, Expr, Int, IntExpr, LINE, Place, Stmt, Var, mentioned};
use std::collections::HashSet;

/// The sums that loops of a body add up: what each of these loops sets, and nothing else.
pub(super) fn sums(body: &[Stmt]) -> HashSet<Var> {
    let mut found = HashSet::new();
    for stmt in body {
        match stmt {
            Stmt::For { body: inner, .. } | Stmt::If(_, inner) | Stmt::While(_, inner) => match sum_of(stmt) {
                Some(var) => {
                    found.insert(var);
                }
                None => found.extend(sums(inner)),
            },
            _ => {}
        }
    }
    found
}

/// The one number that a loop sets, if that is all it does.
fn sum_of(stmt: &Stmt) -> Option<Var> {
    fn only(body: &[Stmt], found: &mut Option<Var>) -> bool {
        body.iter().all(|stmt| match stmt {
            Stmt::Set(var, _) => *found.get_or_insert(*var) == *var,
            Stmt::LetInt(..) | Stmt::SetInt(..) => true,
            Stmt::For { body, .. } | Stmt::If(_, body) => only(body, found),
            _ => false,
        })
    }
    let (Stmt::For { body, .. } | Stmt::While(_, body)) = stmt else { return None };
    let mut found = None;
    if only(body, &mut found) { found } else { None }
}

/// A loop that adds the weights of a word's ones to a sum.
struct Ones {
    word: Int,
    /// Where weights are, those of the lowest bit.
    weights: Place,
    /// Bytes between those of neighbouring bits.
    apart: i64,
}

fn ones(cond: &Cond, body: &[Stmt]) -> Option<Ones> {
    let [
        Stmt::LetInt(bit, IntExpr::TrailingZeros(read)),
        Stmt::Set(sum, Expr::Bin(Bin::Add, a, b)),
        Stmt::SetInt(word, IntExpr::ClearLowest(cleared)),
    ] = body
    else {
        return None;
    };
    let (Expr::Var(same), Expr::Load(weights)) = (&**a, &**b) else { return None };
    let (weights, apart) = split(weights, *bit);
    (same == sum && *cond == Cond::NotZero(*word) && read == word && cleared == word).then_some(Ones {
        word: *word,
        weights,
        apart: 4 * apart,
    })
}

/// A place without an integer, and how far that moves it.
fn split(place: &Place, int: Int) -> (Place, i64) {
    let (own, terms): (Vec<_>, Vec<_>) = place.terms.iter().copied().partition(|(i, _)| *i == int);
    (Place { terms, ..place.clone() }, own.iter().map(|(_, s)| s).sum::<i64>())
}

/// A loop that adds the weights of listed positions to a sum.
struct Visit {
    /// Where positions are listed, at the beginning.
    entries: Place,
    sum: Var,
    /// Where weights are, those of the first position.
    weights: Place,
    /// Bytes between those of neighbouring positions.
    apart: i64,
}

fn visit(index: Int, body: &[Stmt]) -> Option<Visit> {
    let [Stmt::LetInt(position, IntExpr::Half(entry)), Stmt::Set(sum, Expr::Bin(Bin::Add, a, b))] = body else { return None };
    let (Expr::Var(same), Expr::Load(weights)) = (&**a, &**b) else { return None };
    let ((entries, 1), (weights, apart)) = (split(entry, index), split(weights, *position)) else { return None };
    (same == sum).then_some(Visit { entries, sum: *sum, weights, apart: 4 * apart })
}

/// A loop that adds a sum for each of a word's digits, the lowest first.
struct Digits {
    word: Int,
    /// Bits of a digit.
    bits: u8,
    /// Where the sum for the first digit being zero is.
    sums: Place,
    /// Bytes between those of neighbouring digits, and of a digit's values.
    apart: [i64; 2],
}

fn digits(index: Int, body: &[Stmt]) -> Option<Digits> {
    let [
        Stmt::LetInt(digit, IntExpr::And(read, mask)),
        Stmt::Set(sum, Expr::Bin(Bin::Add, a, b)),
        Stmt::SetInt(word, IntExpr::Quotient(divided, base)),
    ] = body
    else {
        return None;
    };
    let (Expr::Var(same), Expr::Load(sums)) = (&**a, &**b) else { return None };
    let (sums, value) = split(sums, *digit);
    let (sums, next) = split(&sums, index);
    let fits = same == sum && read == word && divided == word && *mask == base - 1 && base.count_ones() == 1;
    fits.then_some(Digits { word: *word, bits: base.trailing_zeros() as u8, sums, apart: [4 * next, 4 * value] })
}

impl Writer<'_> {
    /// Writes all of it.
    pub(super) fn piece(&mut self) -> Written {
        self.within(self.body, &mut Self::whole)
    }

    /// Writes statements in order.
    fn block(&mut self, body: &[Stmt]) -> Written {
        let mut rest = body;
        while let Some((stmt, after)) = rest.split_first() {
            match stmt {
                Stmt::LetInt(int, value) | Stmt::SetInt(int, value @ IntExpr::And(..)) => {
                    self.let_int(*int, value)?;
                    rest = after;
                }
                Stmt::Prefetch(place, lines) => {
                    let at = self.place(place, Some(4))?;
                    (0..*lines as i32).for_each(|i| self.a.prefetch(Mem { offset: at.offset + LINE as i32 * i, ..at }));
                    rest = after;
                }
                // A sum begins in its registers.
                Stmt::Let(var, _) if self.sums.contains(var) => {
                    self.put_away(None, rest)?;
                    self.resident = Some(*var);
                    self.run(std::slice::from_ref(stmt))?;
                    rest = after;
                }
                _ if self.lanewise(stmt) => {
                    // Integers that are sums of others may be known before.
                    let begins = |stmt: &Stmt| matches!(stmt, Stmt::Let(var, _) if self.sums.contains(var));
                    let affine = |stmt: &Stmt| matches!(stmt, Stmt::LetInt(_, IntExpr::Affine(..)));
                    let count = rest.iter().take_while(|s| affine(s) || self.lanewise(s) && !begins(s)).count();
                    let (run, after) = rest.split_at(count);
                    let mut stmts = vec![];
                    for stmt in run {
                        match stmt {
                            Stmt::LetInt(int, value) => self.let_int(*int, value)?,
                            other => stmts.push(other.clone()),
                        }
                    }
                    self.run(&stmts)?;
                    rest = after;
                }
                Stmt::For { .. } | Stmt::While(..) => {
                    if let Some(sum) = sum_of(stmt) {
                        self.bring(sum, rest)?;
                        self.nest(stmt)?;
                    } else {
                        self.put_away(None, rest)?;
                        self.repeated(stmt, &mut Self::whole)?;
                    }
                    rest = after;
                }
                Stmt::If(cond, inner) => {
                    self.put_away(None, rest)?;
                    self.meet();
                    let over = self.a.label();
                    self.unless(cond, over)?;
                    self.within(inner, &mut Self::whole)?;
                    self.meet();
                    self.a.here(over);
                    rest = after;
                }
                _ => return Err(Other),
            }
        }
        Ok(())
    }

    /// Writes a body, and leaves no sum in registers.
    fn whole(&mut self, body: &[Stmt]) -> Written {
        self.block(body)?;
        self.put_away(None, &[])
    }

    /// Brings a sum to its registers.
    fn bring(&mut self, sum: Var, rest: &[Stmt]) -> Written {
        if self.resident == Some(sum) {
            return Ok(());
        }
        self.put_away(Some(sum), rest)?;
        if self.homes.get(&sum).is_none_or(|(_, uniform)| *uniform) {
            return Err(Other);
        }
        for part in 0..self.parts() {
            self.part = part;
            let from = self.home(sum, false);
            self.a.load(Ymm(part as u8), Operand::Mem(from));
        }
        self.part = 0;
        self.resident = Some(sum);
        Ok(())
    }

    /// Takes the resident sum to its home, if somebody reads it after this: in the statements that are left, or in what is around them.
    fn put_away(&mut self, next: Option<Var>, rest: &[Stmt]) -> Written {
        let Some(sum) = self.resident.filter(|sum| Some(*sum) != next) else { return Ok(()) };
        let declared_here = self.open.last().is_some_and(|known| known.contains(&sum));
        let read = mentioned(rest).contains(&sum) || !declared_here;
        if read {
            self.settle(sum);
            for part in 0..self.parts() {
                self.part = part;
                let to = self.home(sum, false);
                self.a.store(to, Ymm(part as u8));
            }
            self.part = 0;
        }
        self.resident = None;
        Ok(())
    }

    /// A loop all of whose statements set the resident sum.
    fn nest(&mut self, stmt: &Stmt) -> Written {
        match stmt {
            Stmt::For { index, from: Bound::Int(from), to: Bound::Int(to), reverse: false, lanes: 1, body } => {
                let visit = visit(*index, body).ok_or(Other)?;
                self.visits(&visit, *from, *to)
            }
            Stmt::For { from: Bound::Const(0), to: Bound::Int(to), reverse: false, lanes: 1, body, .. } if twice(body) => {
                self.doubled(*to, body)
            }
            Stmt::For { index, from: Bound::Const(0), to: Bound::Const(count), reverse: false, lanes: 1, body } => {
                match digits(*index, body) {
                    Some(digits) => self.digits(&digits, *count),
                    None => self.repeated(stmt, &mut Self::in_nest),
                }
            }
            Stmt::For { .. } => self.repeated(stmt, &mut Self::in_nest),
            Stmt::While(cond, body) => {
                let ones = ones(cond, body).ok_or(Other)?;
                self.ones(&ones)
            }
            _ => Err(Other),
        }
    }

    /// Adds the weights of a word's ones to the resident sum.
    fn ones(&mut self, ones: &Ones) -> Written {
        // A row of a tile has room for all lanes of the last vector.
        if self.rows > 1 || self.stride(&ones.weights) != 1 || ones.apart < 32 * self.parts() as i64 {
            return Err(Other);
        }
        let (rows, offset) = self.address(&ones.weights, Some(4))?;
        let Some(Home::Slot(word)) = self.ints.get(&ones.word) else { return Err(Other) };
        let (left, first, row, term) = (FREE[3], FREE[1], FREE[0], FREE[4]);
        let from = Self::at_slot(*word);
        self.meet();
        self.a.read(left, from);
        self.a.read(first, Self::at_slot(rows));
        let (top, out) = (self.a.label(), self.a.label());
        self.a.compare_constant(left, 0);
        self.a.jump(When::Equal, out);
        self.a.here(top);
        self.a.lowest_one(term, left);
        self.times(row, term, ones.apart);
        for part in 0..self.parts() {
            let at = Mem { base: first, index: Some(row), offset: offset + 32 * part as i32 };
            self.a.three(asm::ADD, Ymm(part as u8), Ymm(part as u8), Operand::Mem(at));
        }
        self.a.clear_lowest(left);
        self.a.jump(When::NotEqual, top);
        self.a.here(out);
        self.a.write(from, left);
        self.meet();
        Ok(())
    }

    /// Adds the sums of so many of a word's digits to the resident sum.
    fn digits(&mut self, digits: &Digits, count: i64) -> Written {
        let [next, value] = digits.apart;
        // What is stored has room for all lanes of the last vector.
        if self.rows > 1 || self.stride(&digits.sums) != 1 || value < 32 * self.parts() as i64 {
            return Err(Other);
        }
        let (sums, offset) = self.address(&digits.sums, Some(4))?;
        let Some(Home::Slot(word)) = self.ints.get(&digits.word) else { return Err(Other) };
        let (left, first, row, digit) = (FREE[3], FREE[1], FREE[0], FREE[4]);
        let word = Self::at_slot(*word);
        self.meet();
        self.a.read(left, word);
        self.a.read(first, Self::at_slot(sums));
        for i in 0..count {
            self.a.copy(digit, left);
            self.a.and_constant(digit, (1 << digits.bits) - 1);
            self.times(row, digit, value);
            for part in 0..self.parts() {
                let behind = i64::from(offset) + next * i + 32 * part as i64;
                let at = Mem { base: first, index: Some(row), offset: i32::try_from(behind).map_err(|_| Other)? };
                self.a.three(asm::ADD, Ymm(part as u8), Ymm(part as u8), Operand::Mem(at));
            }
            self.a.shift_right(left, digits.bits);
        }
        self.a.write(word, left);
        self.meet();
        Ok(())
    }

    /// Doubles the resident sum so often. No address is needed for that, so that the count may stay in the register that none is in.
    fn doubled(&mut self, times: Int, body: &[Stmt]) -> Written {
        let left = self.int(times)?;
        self.meet();
        let (top, out) = (self.a.label(), self.a.label());
        self.a.compare_constant(left, 0);
        self.a.jump(When::NotMore, out);
        self.a.here(top);
        self.run(body)?;
        self.a.add_constant(left, -1);
        self.a.jump(When::NotEqual, top);
        self.a.here(out);
        self.meet();
        Ok(())
    }

    fn in_nest(&mut self, body: &[Stmt]) -> Written {
        for stmt in body {
            match stmt {
                Stmt::LetInt(int, value) => self.let_int(*int, value)?,
                Stmt::Set(..) => self.run(std::slice::from_ref(stmt))?,
                Stmt::For { .. } => self.nest(stmt)?,
                Stmt::If(cond, body) => {
                    let over = self.a.label();
                    self.meet();
                    self.unless(cond, over)?;
                    self.in_nest(body)?;
                    self.meet();
                    self.a.here(over);
                }
                _ => return Err(Other),
            }
        }
        Ok(())
    }

    /// A loop, or what it does so often, one after the other.
    fn repeated(&mut self, stmt: &Stmt, each: &mut dyn FnMut(&mut Self, &[Stmt]) -> Written) -> Written {
        let Stmt::For { index, from: Bound::Const(0), to, reverse: false, lanes: 1, body } = stmt else { return Err(Other) };
        if let Bound::Const(end) = to
            && extent(stmt).is_some_and(|n| n <= MOST_WRITTEN_OUT)
        {
            for i in 0..*end {
                self.ints.insert(*index, Home::Affine(vec![], i));
                self.within(body, each)?;
            }
            return Ok(());
        }
        // Some turns of a long loop are written out.
        let inner = body.iter().map(extent).sum::<Option<usize>>();
        let turns = match (to, inner) {
            (Bound::Const(end), Some(inner)) => {
                [8, 4, 2].into_iter().find(|n| end % n == 0 && *n as usize * inner <= MOST_WRITTEN_OUT).unwrap_or(1)
            }
            _ => 1,
        };
        let to = if let Bound::Const(end) = to { Bound::Const(end / turns) } else { *to };
        self.fresh -= 1;
        let turn = Int(self.fresh);
        let counter = self.late_slot()?;
        let at = Self::at_slot(counter);
        let (top, out) = (self.a.label(), self.a.label());
        let end = match to {
            Bound::Steps => Some(self.input(&Input::Steps)),
            Bound::Int(_) | Bound::Const(_) => None,
            _ => return Err(Other),
        };
        self.meet();
        self.a.set(FREE[0], 0);
        self.a.write(at, FREE[0]);
        self.ints.insert(turn, Home::Slot(counter));
        self.around.push(Around { index: turn, moves: vec![] });
        self.a.here(top);
        match (to, end) {
            (Bound::Const(end), _) => {
                self.a.read(FREE[0], at);
                self.a.compare_constant(FREE[0], i32::try_from(end).map_err(|_| Other)?);
            }
            (_, Some(slot)) => {
                self.a.read(FREE[0], at);
                self.a.read(FREE[1], Self::at_slot(slot));
                self.a.compare_ints(FREE[0], FREE[1]);
            }
            (Bound::Int(to), None) => {
                let end = self.int(to)?;
                self.a.copy(FREE[1], end);
                self.a.read(FREE[0], at);
                self.a.compare_ints(FREE[0], FREE[1]);
            }
            _ => return Err(Other),
        }
        self.a.jump(When::NotLess, out);
        self.meet();
        for i in 0..turns {
            self.ints.insert(*index, Home::Affine(vec![(turn, turns)], i));
            self.within(body, each)?;
        }
        self.meet();
        let moves = self.around.pop().map(|l| l.moves).unwrap_or_default();
        for (slot, by) in &moves {
            self.a.add_to_memory(Self::at_slot(*slot), i32::try_from(*by).map_err(|_| Other)?);
        }
        self.a.add_to_memory(at, 1);
        self.a.jump(When::Always, top);
        self.a.here(out);
        // Addresses begin anew with the loop, unless it is the outermost.
        if let Bound::Const(end) = to {
            for (slot, by) in &moves {
                self.a.add_to_memory(Self::at_slot(*slot), i32::try_from(-by * end).map_err(|_| Other)?);
            }
        } else if !moves.is_empty() && !self.around.is_empty() {
            return Err(Other);
        }
        self.meet();
        Ok(())
    }

    /// Writes a loop's body; what is declared in it ends with it, and what was loaded before belongs to other indices.
    fn within(&mut self, body: &[Stmt], each: &mut dyn FnMut(&mut Self, &[Stmt]) -> Written) -> Written {
        let declared = body.iter().filter_map(|s| if let Stmt::Let(var, _) = s { Some(*var) } else { None }).collect();
        self.open.push(declared);
        self.registers.forget();
        let done = each(self, body);
        self.open.pop();
        done
    }

    /// `dst = a · factor`; the second is lost.
    fn times(&mut self, dst: Gpr, a: Gpr, factor: i64) {
        let zeros = factor.trailing_zeros() as u8;
        match factor >> zeros {
            1 => self.a.copy(dst, a),
            odd @ (3 | 5 | 9) => self.a.scaled(dst, a, (odd - 1).trailing_zeros() as u8),
            _ => {
                // By the digits of the factor, the last first.
                self.a.set(dst, 0);
                let mut rest = factor;
                while rest != 0 {
                    let zeros = rest.trailing_zeros();
                    self.a.shift_left(a, zeros as u8);
                    rest >>= zeros;
                    let digit = 2 - (rest & 3);
                    if digit > 0 {
                        self.a.add(dst, a);
                    } else {
                        self.a.subtract(dst, a);
                    }
                    rest -= digit;
                }
                return;
            }
        }
        if zeros > 0 {
            self.a.shift_left(dst, zeros);
        }
    }

    /// Adds the weights of listed positions to the resident sum.
    fn visits(&mut self, visit: &Visit, from: Int, to: Int) -> Written {
        debug_assert_eq!(self.resident, Some(visit.sum));
        // A row of a tile has room for all lanes of the last vector.
        if self.rows > 1 || self.stride(&visit.weights) != 1 || visit.apart < 32 * self.parts() as i64 {
            return Err(Other);
        }
        let (entries, behind) = self.address(&visit.entries, Some(2))?;
        let (rows, offset) = self.address(&visit.weights, Some(4))?;
        let (Some(Home::Slot(from)), Some(Home::Slot(to))) = (self.ints.get(&from), self.ints.get(&to)) else { return Err(Other) };
        let (from, to) = (*from, *to);
        let (now, end, first, row, term) = (FREE[3], FREE[2], FREE[1], FREE[0], FREE[4]);
        self.meet();
        self.a.read(now, Self::at_slot(from));
        self.a.read(end, Self::at_slot(to));
        self.a.read(term, Self::at_slot(entries));
        self.a.add(now, now);
        self.a.add(end, end);
        self.a.add(now, term);
        self.a.add(end, term);
        self.a.read(first, Self::at_slot(rows));
        let (top, out) = (self.a.label(), self.a.label());
        self.a.compare_ints(now, end);
        self.a.jump(When::NotBelow, out);
        self.a.here(top);
        self.a.read_half(term, Mem::at(now, behind));
        self.times(row, term, visit.apart);
        for part in 0..self.parts() {
            let at = Mem { base: first, index: Some(row), offset: offset + 32 * part as i32 };
            self.a.three(asm::ADD, Ymm(part as u8), Ymm(part as u8), Operand::Mem(at));
        }
        self.a.add_constant(now, 2);
        self.a.compare_ints(now, end);
        self.a.jump(When::Below, top);
        self.a.here(out);
        self.meet();
        Ok(())
    }
}

/// Only adds a number to itself.
fn twice(body: &[Stmt]) -> bool {
    body.iter().all(|stmt| match stmt {
        Stmt::Set(sum, Expr::Bin(Bin::Add, a, b)) => **a == Expr::Var(*sum) && **b == Expr::Var(*sum),
        _ => false,
    })
}

/// How many statements a loop becomes when it is written out, with all loops in it; `None` if one's extent is not known.
fn extent(stmt: &Stmt) -> Option<usize> {
    match stmt {
        Stmt::For { from: Bound::Const(0), to: Bound::Const(to), body, .. } => {
            let inner: usize = body.iter().map(extent).sum::<Option<usize>>()?;
            Some(inner * usize::try_from(*to).ok()?)
        }
        Stmt::For { .. } | Stmt::While(..) => None,
        Stmt::If(_, body) => body.iter().map(extent).sum(),
        Stmt::LetInt(..) => Some(0),
        _ => Some(1),
    }
}
