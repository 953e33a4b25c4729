//! What all lanes of a tile do, in vectors of 256 bits: Cranelift's have 128.
//!
//! A piece is the body of a loop over lanes: sums over lists of spikes or over windows, and what becomes of them. Its sums stay in
//! registers, and what comes behind them reads them there; all other numbers that outlive a run of statements have a place in a frame, which
//! the caller has, with what the piece needs from outside: addresses and integers. Every lane does what the kernel says, in its order, so
//! the numbers are those that Cranelift's code computes, but for the encoder, whose products and sums are fused where the machine can.
//! A piece that holds anything else than what is here is left to Cranelift.

mod asm;
mod loops;
mod products;
mod vectors;

use crate::kernel::{Cond, Expr, Int, IntExpr, Place, Stmt, Var, changing, each_read, mentioned};
use asm::{Assembler, FRAME, FREE, Gpr, Mem};

use std::collections::{HashMap, HashSet};
use vectors::Registers;

/// Lanes of a vector.
const LANES: usize = 8;
/// Fewer lanes are left to Cranelift: calls cost more than wider vectors give.
const FEWEST: usize = 16;
/// Vectors of a sum that stay in registers; four registers are left.
const MOST_PARTS: usize = 12;
/// Places of eight bytes at the beginning of a frame: addresses and integers.
const SLOTS: usize = 96;
/// Statements that loops of a known extent may become when they are written out.
const MOST_WRITTEN_OUT: usize = 72;

/// What the caller writes into a slot of the frame, the first of them first.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Input {
    /// The address of a place, whose elements have so many bytes.
    Address(Place, i64),
    /// The address of a place among bits.
    Bits(Place),
    /// An integer.
    Int(Int),
    /// Time steps of the call.
    Steps,
}

/// A piece of a kernel.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    pub(super) inputs: Vec<Input>,
    /// Bytes of the frame, which begins at a multiple of 64.
    pub(super) frame: usize,
}

/// What the code may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct May {
    /// Belongs where multiplying is allowed.
    pub(super) multiply: bool,
    /// What adds a product to a number does that in one instruction: everywhere or nowhere, so that no tile rounds otherwise than its neighbour.
    pub(super) fuse: bool,
}

/// Not a piece that can be written here.
#[derive(Clone, Copy, Debug)]
struct Other;

type Written<T = ()> = Result<T, Other>;

/// What an integer is.
#[derive(Clone, Debug)]
enum Home {
    /// Σ index · factor + constant of others.
    Affine(Vec<(Int, i64)>, i64),
    /// In a slot of the frame.
    Slot(usize),
}

/// An address in a slot, which loops move along.
#[derive(Clone, Debug)]
struct Address {
    input: Input,
    /// Indices of loops inside the piece, and by how many bytes they move it.
    inner: Vec<(Int, i64)>,
    slot: usize,
}

/// A loop around what is being written.
struct Around {
    index: Int,
    /// Slots with addresses that move along, by so many bytes.
    moves: Vec<(usize, i64)>,
}

struct Writer<'k> {
    a: Assembler,
    body: &'k [Stmt],
    /// The index whose elements are the lanes.
    lane: Int,
    lanes: usize,
    /// The index of rows that are computed at once, and how many there are. Vectors of a number are those of a row's first lanes, by
    /// rows, then those of the next lanes.
    row: Option<Int>,
    rows: usize,
    may: May,
    inputs: Vec<(Input, usize)>,
    addresses: Vec<Address>,
    /// Slots that the caller fills, from the first on, and those that the piece fills, from the last on down.
    slots: usize,
    own: usize,
    ints: HashMap<Int, Home>,
    /// Which addresses are in which general registers.
    bases: Vec<(usize, Gpr)>,
    around: Vec<Around>,
    /// Where numbers that outlive a run are in the frame, and whether all lanes are the same.
    homes: HashMap<Var, (i32, bool)>,
    frame: usize,
    /// Numbers that are read from memory wherever they are needed.
    loads: HashMap<Var, Place>,
    registers: Registers,
    /// The sum that is in the first registers.
    resident: Option<Var>,
    /// Sums that some loop adds up.
    sums: HashSet<Var>,
    /// The arguments that are written.
    stored: HashSet<usize>,
    /// Numbers that are set after they were declared.
    changing: HashSet<Var>,
    /// What the bodies around declare, the innermost last.
    open: Vec<HashSet<Var>>,
    /// The number of the last integer that is the piece's own.
    fresh: u32,
    /// How often each number is mentioned.
    mentions: HashMap<Var, usize>,
    /// The vector at hand.
    part: usize,
}

/// Writes the body of a loop over so many lanes; `None` if it is left to Cranelift.
pub(super) fn piece(body: &[Stmt], lane: Int, lanes: usize, may: May) -> Option<Piece> {
    write(body, (lane, lanes), None, may)
}

/// Writes the body of a loop over so many rows: where the row is, and a loop over its lanes.
pub(super) fn rows(body: &[Stmt], row: Int, rows: usize, may: May) -> Option<Piece> {
    let [Stmt::LetInt(index, value), Stmt::For { index: lane, lanes, body, .. }] = body else { return None };
    write(body, (*lane, usize::from(*lanes)), Some((row, rows, *index, value)), may)
}

fn write(body: &[Stmt], (lane, lanes): (Int, usize), abreast: Option<(Int, usize, Int, &IntExpr)>, may: May) -> Option<Piece> {
    let sums = loops::sums(body);
    let rows = abreast.map_or(1, |(_, rows, ..)| rows);
    let parts = lanes.div_ceil(LANES) * rows;
    if lanes < LANES || lanes < FEWEST && sums.is_empty() || parts > MOST_PARTS || !mentioned(body).is_empty() {
        return None;
    }
    let mut mentions = HashMap::new();
    count(body, &mut mentions);
    let reserved = if sums.is_empty() { 0 } else { parts };
    let mut writer = Writer {
        a: Assembler::default(),
        body,
        lane,
        lanes,
        row: abreast.map(|(row, ..)| row),
        rows,
        may,
        inputs: vec![],
        addresses: vec![],
        slots: 0,
        own: 0,
        ints: HashMap::new(),
        bases: vec![],
        around: vec![],
        homes: HashMap::new(),
        frame: 8 * SLOTS,
        loads: HashMap::new(),
        registers: Registers::new(reserved),
        resident: None,
        sums,
        stored: stored(body),
        changing: changing(body),
        open: vec![],
        fresh: u32::MAX,
        mentions,
        part: 0,
    };
    if let Some((_, _, index, value)) = abreast {
        writer.let_int(index, value).ok()?;
    }
    writer.piece().ok()?;
    writer.a.leave();
    if writer.slots + writer.own > SLOTS {
        return None;
    }
    let mut inputs: Vec<(Input, usize)> = std::mem::take(&mut writer.inputs);
    inputs.extend(writer.addresses.iter().map(|a| (a.input.clone(), a.slot)));
    inputs.sort_by_key(|(_, slot)| *slot);
    let inputs = inputs.into_iter().map(|(input, _)| input).collect();
    Some(Piece { frame: writer.frame, inputs, bytes: writer.a.finish()? })
}

/// How often each number is mentioned.
fn count(body: &[Stmt], into: &mut HashMap<Var, usize>) {
    let expr = |e: &Expr, into: &mut HashMap<Var, usize>| each_read(e, &mut |var| *into.entry(var).or_default() += 1);
    for stmt in body {
        match stmt {
            Stmt::Let(var, value) | Stmt::Set(var, value) => {
                *into.entry(*var).or_default() += 1;
                expr(value, into);
            }
            Stmt::Store(_, value) | Stmt::StoreScratch(_, _, value) | Stmt::Combine { value, .. } => expr(value, into),
            Stmt::StoreBits(_, var) => *into.entry(*var).or_default() += 1,
            Stmt::For { body, .. } | Stmt::While(_, body) | Stmt::If(_, body) => count(body, into),
            Stmt::LetInt(..)
            | Stmt::SetInt(..)
            | Stmt::StoreWord(..)
            | Stmt::StoreHalf(..)
            | Stmt::Prefetch(..)
            | Stmt::Transpose { .. } => {}
        }
    }
}

/// The arguments that are written.
fn stored(body: &[Stmt]) -> HashSet<usize> {
    let mut all = HashSet::new();
    for stmt in body {
        match stmt {
            Stmt::Store(place, _) | Stmt::StoreBits(place, _) => {
                all.insert(place.arg);
            }
            Stmt::For { body, .. } | Stmt::While(_, body) | Stmt::If(_, body) => all.extend(stored(body)),
            _ => {}
        }
    }
    all
}

impl Writer<'_> {
    /// Vectors of a number.
    fn parts(&self) -> usize {
        self.lanes.div_ceil(LANES) * self.rows
    }

    /// Which of its row's the vector at hand is.
    fn vector(&self) -> usize {
        self.part / self.rows
    }

    fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    fn at_slot(slot: usize) -> Mem {
        Mem::at(FRAME, 8 * slot as i32)
    }

    /// The slot of something from outside.
    fn input(&mut self, input: &Input) -> usize {
        if let Some((_, slot)) = self.inputs.iter().find(|(known, _)| known == input) {
            return *slot;
        }
        let slot = self.slot();
        self.inputs.push((input.clone(), slot));
        slot
    }

    /// Terms over integers that are not sums of others.
    fn resolved(&self, terms: &[(Int, i64)], offset: i64) -> (Vec<(Int, i64)>, i64) {
        let mut found: Vec<(Int, i64)> = vec![];
        let mut constant = offset;
        for (int, factor) in terms {
            let own = match self.ints.get(int) {
                Some(Home::Affine(own, add)) => {
                    constant += factor * add;
                    own.iter().map(|(i, f)| (*i, f * factor)).collect()
                }
                _ => vec![(*int, *factor)],
            };
            for (int, factor) in own {
                match found.iter_mut().find(|(i, _)| *i == int) {
                    Some((_, sum)) => *sum += factor,
                    None => found.push((int, factor)),
                }
            }
        }
        found.retain(|(_, factor)| *factor != 0);
        found.sort_unstable();
        (found, constant)
    }

    /// Where the address of a place is kept, and how many bytes behind it the place is. A place counts elements of so many bytes, or
    /// bits, where that is `None`.
    fn address(&mut self, place: &Place, size: Option<i64>) -> Written<(usize, i32)> {
        let (terms, offset) = self.resolved(&place.terms, place.offset);
        let bytes = |n: i64| match size {
            Some(size) => Ok(n * size),
            None if n % 8 == 0 => Ok(n / 8),
            None => Err(Other),
        };
        let mut inner = vec![];
        let mut outer = vec![];
        for (int, factor) in terms {
            match self.ints.get(&int) {
                // Every row has its own.
                None if Some(int) == self.row => {}
                None => outer.push((int, factor)),
                // An integer that was read says nothing before it is.
                Some(_) if self.around.iter().all(|l| l.index != int) => return Err(Other),
                Some(_) => inner.push((int, bytes(factor)?)),
            }
        }
        // Vectors of a number follow it.
        let behind = i32::try_from(bytes(offset)?).ok().filter(|n| *n < i32::MAX - 4096).ok_or(Other)?;
        let place = Place { arg: place.arg, terms: outer, offset: 0 };
        let input = size.map_or(Input::Bits(place.clone()), |size| Input::Address(place, size));
        let known = self.addresses.iter().find(|a| a.input == input && a.inner == inner).map(|a| a.slot);
        let slot = match known {
            Some(slot) => slot,
            None => {
                let slot = self.slot();
                self.addresses.push(Address { input, inner: inner.clone(), slot });
                slot
            }
        };
        for (int, by) in inner {
            if let Some(around) = self.around.iter_mut().find(|l| l.index == int)
                && !around.moves.contains(&(slot, by))
            {
                around.moves.push((slot, by));
            }
        }
        Ok((slot, behind))
    }

    /// A place in memory, its address in a register until others are needed.
    fn place(&mut self, place: &Place, size: Option<i64>) -> Written<Mem> {
        let (slot, behind) = self.address(place, size)?;
        // As far behind the first row's as the row at hand is behind that.
        let apart = self.stride_of(place, self.row) * (self.part % self.rows) as i64;
        let apart = match size {
            Some(size) => apart * size,
            None if apart % 8 == 0 => apart / 8,
            None => return Err(Other),
        };
        let behind = i32::try_from(i64::from(behind) + apart).ok().filter(|n| *n < i32::MAX - 4096).ok_or(Other)?;
        Ok(Mem::at(self.base(slot), behind))
    }

    fn base(&mut self, slot: usize) -> Gpr {
        if let Some(i) = self.bases.iter().position(|(known, _)| *known == slot) {
            let known = self.bases.remove(i);
            self.bases.push(known);
            return known.1;
        }
        // The first is for what is used at once.
        let free = FREE[1..].iter().find(|r| self.bases.iter().all(|(_, used)| used != *r)).copied();
        let register = free.unwrap_or_else(|| self.bases.remove(0).1);
        self.a.read(register, Self::at_slot(slot));
        self.bases.push((slot, register));
        register
    }

    /// An integer in the first register; the second is used, too.
    fn int(&mut self, int: Int) -> Written<Gpr> {
        let (terms, constant) = match self.ints.get(&int) {
            Some(Home::Affine(terms, constant)) => (terms.clone(), *constant),
            _ => (vec![(int, 1)], 0),
        };
        let (sum, term) = (FREE[0], FREE[1]);
        self.bases.retain(|(_, r)| *r != term);
        if terms.iter().any(|(int, _)| Some(*int) == self.row) {
            return Err(Other);
        }
        let alone = matches!(terms.as_slice(), [(_, 1)]);
        if !alone {
            self.a.set(sum, i32::try_from(constant).map_err(|_| Other)?);
        }
        for (int, factor) in terms {
            let slot = match self.ints.get(&int) {
                Some(Home::Slot(slot)) => *slot,
                Some(Home::Affine(..)) => return Err(Other),
                None => self.input(&Input::Int(int)),
            };
            if alone {
                self.a.read(sum, Self::at_slot(slot));
                if constant != 0 {
                    self.a.add_constant(sum, i32::try_from(constant).map_err(|_| Other)?);
                }
                continue;
            }
            // By the digits of the factor.
            let (mut rest, mut place) = (factor, 0);
            while rest != 0 {
                let zeros = rest.trailing_zeros();
                (rest, place) = (rest >> zeros, place + zeros);
                let digit = 2 - (rest & 3);
                self.a.read(term, Self::at_slot(slot));
                self.a.shift_left(term, place as u8);
                if digit > 0 {
                    self.a.add(sum, term);
                } else {
                    self.a.subtract(sum, term);
                }
                rest -= digit;
            }
        }
        Ok(sum)
    }

    /// How far lanes of a place are apart.
    fn stride(&self, place: &Place) -> i64 {
        self.stride_of(place, Some(self.lane))
    }

    fn stride_of(&self, place: &Place, index: Option<Int>) -> i64 {
        let (terms, _) = self.resolved(&place.terms, 0);
        terms.iter().filter(|(i, _)| Some(*i) == index).map(|(_, s)| *s).sum()
    }

    /// One integer for all rows.
    fn for_all_rows(&self, place: &Place) -> Written {
        if self.stride_of(place, self.row) == 0 { Ok(()) } else { Err(Other) }
    }

    /// Nothing is known of registers where the flow of control meets.
    fn meet(&mut self) {
        self.bases.clear();
        self.registers.forget();
    }

    fn let_int(&mut self, int: Int, value: &IntExpr) -> Written {
        match value {
            IntExpr::Affine(terms, offset) => {
                let (terms, offset) = self.resolved(terms, *offset);
                self.ints.insert(int, Home::Affine(terms, offset));
            }
            IntExpr::Const(c) => {
                self.ints.insert(int, Home::Affine(vec![], *c));
            }
            IntExpr::Word(place) => {
                self.for_all_rows(place)?;
                let from = self.place(place, Some(8))?;
                let slot = self.late_slot()?;
                self.a.read(FREE[0], from);
                self.a.write(Self::at_slot(slot), FREE[0]);
                self.ints.insert(int, Home::Slot(slot));
            }
            IntExpr::And(of, mask) if *of == int => {
                let Some(Home::Slot(slot)) = self.ints.get(&int) else { return Err(Other) };
                let at = Self::at_slot(*slot);
                self.a.read(FREE[0], at);
                // Of the lowest bits.
                let above = mask.leading_zeros() as u8;
                if *mask <= 0 || (mask + 1).count_ones() != 1 {
                    return Err(Other);
                }
                self.a.shift_left(FREE[0], above);
                self.a.shift_right(FREE[0], above);
                self.a.write(at, FREE[0]);
            }
            _ => return Err(Other),
        }
        Ok(())
    }

    /// A slot that the piece fills itself, from the last on down.
    fn late_slot(&mut self) -> Written<usize> {
        self.own += 1;
        SLOTS.checked_sub(self.own).ok_or(Other)
    }

    /// Jumps to a label unless a condition holds.
    fn unless(&mut self, cond: &Cond, to: asm::Label) -> Written {
        match cond {
            Cond::Within(int, n) => {
                let value = self.int(*int)?;
                self.a.compare_constant(value, i32::try_from(*n).map_err(|_| Other)?);
                self.a.jump(asm::When::NotBelow, to);
            }
            Cond::Spike(place) if self.stride(place) == 0 => {
                self.for_all_rows(place)?;
                let at = self.place(place, Some(4))?;
                self.a.is_zero(at);
                self.a.jump(asm::When::Equal, to);
            }
            Cond::Digit(place, digit) if self.stride(place) == 0 && *digit < 31 => {
                self.for_all_rows(place)?;
                let at = self.place(place, Some(4))?;
                self.a.whole(FREE[0], at);
                self.a.and_constant(FREE[0], 1 << digit);
                self.a.jump(asm::When::Equal, to);
            }
            _ => return Err(Other),
        }
        Ok(())
    }
}
