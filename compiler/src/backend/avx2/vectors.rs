//! Numbers: which registers hold what, and statements that concern every lane alone, vector by vector.

use super::asm::{self, Mem, Op, Operand, Ymm};
use super::{LANES, Other, Writer, Written};
use crate::flow::{Bin, Cmp, Un};
use crate::kernel::{Expr, Place, Stmt, Var, mentioned};
use std::collections::{HashMap, HashSet};

/// Vector registers of the machine.
const ALL: usize = 16;

/// What a register holds.
#[derive(Clone, Debug)]
enum Held {
    Value(Expr),
    /// All ones where the comparison holds.
    Mask(Cmp, Expr, Expr),
    /// All ones where the number, which is 0 or 1, is 1.
    Spikes(Var),
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        match (self, other) {
            (Held::Value(a), Held::Value(b)) => same(a, b),
            (Held::Mask(how, a, b), Held::Mask(other, c, d)) => how == other && same(a, c) && same(b, d),
            (Held::Spikes(a), Held::Spikes(b)) => a == b,
            _ => false,
        }
    }
}

/// The same to the last bit: zeros differ by their signs.
fn same(a: &Expr, b: &Expr) -> bool {
    match (a, b) {
        (Expr::Const(a), Expr::Const(b)) => a.to_bits() == b.to_bits(),
        (Expr::Rounded(f, a), Expr::Rounded(g, b)) => f == g && same(a, b),
        (Expr::Un(f, a), Expr::Un(g, b)) => f == g && same(a, b),
        (Expr::Bin(f, a, b), Expr::Bin(g, c, d)) => f == g && same(a, c) && same(b, d),
        (Expr::Masked(a, b), Expr::Masked(c, d)) => same(a, c) && same(b, d),
        (Expr::Select(f, a), Expr::Select(g, b)) => f == g && a.iter().zip(&**b).all(|(a, b)| same(a, b)),
        (a, b) => a == b,
    }
}

/// The vector registers.
pub(super) struct Registers {
    held: Vec<Vec<Held>>,
    /// How many still need what is there.
    pins: [usize; ALL],
    used: [usize; ALL],
    now: usize,
    /// The first are a sum's.
    pub(super) reserved: usize,
}

impl Registers {
    pub(super) fn new(reserved: usize) -> Registers {
        Registers { held: vec![vec![]; ALL], pins: [0; ALL], used: [0; ALL], now: 0, reserved }
    }

    /// A register for something new, pinned; what nobody needs goes, the oldest first.
    pub(super) fn take(&mut self) -> Written<Ymm> {
        let free = (self.reserved..ALL).filter(|r| self.pins[*r] == 0);
        let register = free.min_by_key(|r| (!self.held[*r].is_empty(), self.used[*r])).ok_or(Other)?;
        self.held[register].clear();
        self.pin(register);
        Ok(Ymm(register as u8))
    }

    fn pin(&mut self, register: usize) {
        self.now += 1;
        (self.used[register], self.pins[register]) = (self.now, self.pins[register] + 1);
    }

    /// Not needed any more, by one.
    pub(super) fn done(&mut self, register: Ymm) {
        let register = usize::from(register.0);
        if register >= self.reserved {
            self.pins[register] = self.pins[register].saturating_sub(1);
        }
    }

    fn find(&mut self, wanted: &Held) -> Option<Ymm> {
        let register = self.held.iter().position(|all| all.contains(wanted))?;
        self.pin(register);
        Some(Ymm(register as u8))
    }

    fn knows(&self, wanted: &Held) -> bool {
        self.held.iter().any(|all| all.contains(wanted))
    }

    fn hold(&mut self, register: Ymm, what: Held) {
        if usize::from(register.0) >= self.reserved {
            self.held[usize::from(register.0)].push(what);
        }
    }

    /// Keeps only what this says yes to.
    fn keep(&mut self, mut wanted: impl FnMut(&Held) -> bool) {
        self.held.iter_mut().for_each(|all| all.retain(&mut wanted));
    }

    pub(super) fn forget(&mut self) {
        self.keep(|_| false);
        self.pins = [0; ALL];
    }
}

fn mentions(e: &Expr, var: Var) -> bool {
    let mut read = HashSet::new();
    crate::kernel::reads(e, &mut read);
    read.contains(&var)
}

impl Held {
    fn mentions(&self, var: Var) -> bool {
        match self {
            Held::Value(e) => mentions(e, var),
            Held::Mask(_, a, b) => mentions(a, var) || mentions(b, var),
            Held::Spikes(v) => *v == var,
        }
    }
}

/// What a run of statements needs to know about its numbers.
struct Run {
    /// Nobody else mentions them.
    local: HashSet<Var>,
    /// The last statement that mentions each of these.
    last: HashMap<Var, usize>,
    /// Registers that stay until then, or until the end.
    held: Vec<(Var, Ymm)>,
    /// Numbers that are not yet in their homes.
    dirty: Vec<(Var, Ymm)>,
    /// The same in all lanes.
    uniform: HashSet<Var>,
}

impl Writer<'_> {
    /// Concerns every lane alone.
    pub(super) fn lanewise(&self, stmt: &Stmt) -> bool {
        matches!(stmt, Stmt::Let(..) | Stmt::Set(..) | Stmt::Store(..) | Stmt::StoreBits(..))
    }

    /// Lanes of the vector at hand.
    fn here(&self) -> usize {
        (self.lanes - LANES * self.vector()).min(LANES)
    }

    /// Writes statements that concern every lane alone, vector by vector.
    pub(super) fn run(&mut self, run: &[Stmt]) -> Written {
        if let Some((x, weights)) = self.shared_product(run) {
            return self.products(x, weights);
        }
        let mut own = HashMap::new();
        super::count(run, &mut own);
        let is_local = |var: &Var| self.mentions.get(var) == own.get(var) && self.resident != Some(*var);
        let local: HashSet<Var> = own.keys().copied().filter(is_local).collect();
        let mut last = HashMap::new();
        for (i, stmt) in run.iter().enumerate() {
            last.extend(mentioned_here(stmt).into_iter().map(|var| (var, i)));
        }
        let mut state = Run { local, last, held: vec![], dirty: vec![], uniform: HashSet::new() };
        for part in 0..self.parts() {
            self.part = part;
            for (i, stmt) in run.iter().enumerate() {
                self.statement(stmt, &mut state)?;
                // Nobody reads these again in this vector.
                let over = |var: &Var| state.local.contains(var) && state.last.get(var) == Some(&i) && !state.uniform.contains(var);
                let (done, held) = std::mem::take(&mut state.held).into_iter().partition(|(var, _)| over(var));
                state.held = held;
                done.into_iter().for_each(|(_, register): (Var, Ymm)| self.registers.done(register));
            }
            for (var, register) in std::mem::take(&mut state.dirty) {
                let at = self.home(var, false);
                self.a.store(at, register);
                self.registers.done(register);
            }
            let uniform = &state.uniform;
            let stays = |held: &(Var, Ymm)| uniform.contains(&held.0);
            for (_, register) in state.held.iter().filter(|h| !stays(h)) {
                self.registers.done(*register);
            }
            state.held.retain(stays);
            self.forget_lanes(&state.uniform);
        }
        self.part = 0;
        state.held.iter().for_each(|(_, register)| self.registers.done(*register));
        self.forget_lanes(&HashSet::new());
        Ok(())
    }

    fn same_in_all(&self, place: &Place) -> bool {
        self.stride(place) == 0 && self.stride_of(place, self.row) == 0
    }

    /// Keeps what is the same for all vectors.
    fn forget_lanes(&mut self, uniform: &HashSet<Var>) {
        let mut registers = std::mem::replace(&mut self.registers, Registers::new(0));
        registers.keep(|held| matches!(held, Held::Value(e) if self.uniform(e, uniform)));
        self.registers = registers;
    }

    /// The same in all lanes.
    fn uniform(&self, e: &Expr, known: &HashSet<Var>) -> bool {
        match e {
            Expr::Const(_) => true,
            Expr::Load(place) => self.same_in_all(place),
            Expr::Var(var) => match self.loads.get(var) {
                Some(place) => self.same_in_all(place),
                None => known.contains(var) || self.homes.get(var).is_some_and(|(_, uniform)| *uniform),
            },
            _ => false,
        }
    }

    fn statement(&mut self, stmt: &Stmt, run: &mut Run) -> Written {
        match stmt {
            Stmt::Let(var, _) if run.uniform.contains(var) => {}
            // Read where it is needed: that takes no register in between.
            Stmt::Let(var, Expr::Load(place)) if !self.changing.contains(var) && !self.stored.contains(&place.arg) => {
                self.loads.insert(*var, place.clone());
            }
            Stmt::Let(var, value) => {
                let uniform = !self.changing.contains(var) && self.resident != Some(*var) && self.uniform(value, &run.uniform);
                if uniform {
                    run.uniform.insert(*var);
                }
                if let (Expr::Select(cmp, parts), true) = (value, run.local.contains(var))
                    && let [a, b, Expr::Const(1.0), Expr::Const(0.0)] = &**parts
                {
                    let mask = self.mask(*cmp, a, b)?;
                    self.registers.hold(mask, Held::Spikes(*var));
                    run.held.push((*var, mask));
                    return Ok(());
                }
                if !uniform && !run.local.contains(var) {
                    let parts = self.parts();
                    self.homes.entry(*var).or_insert_with(|| home_of(&mut self.frame, parts, false));
                }
                self.change(*var, value, run)?;
                if uniform && !run.local.contains(var) {
                    let (offset, _) = *self.homes.entry(*var).or_insert_with(|| home_of(&mut self.frame, 1, true));
                    let (_, register) = run.held.pop().ok_or(Other)?;
                    self.a.store(Mem::at(asm::FRAME, offset), register);
                    run.held.push((*var, register));
                }
            }
            Stmt::Set(var, value) => self.change(*var, value, run)?,
            Stmt::Store(place, value) => {
                if self.stride(place) != 1 {
                    return Err(Other);
                }
                let register = self.value(value)?;
                let lanes = self.here();
                if lanes == LANES {
                    let to = self.lane_place(place)?;
                    self.a.store(to, register);
                } else {
                    let free = self.registers.take()?;
                    let to = self.lane_place(place)?;
                    self.a.store_some(to, register, lanes, free);
                    self.registers.done(free);
                }
                self.registers.done(register);
            }
            Stmt::StoreBits(place, var) => {
                let mask = match self.registers.find(&Held::Spikes(*var)) {
                    Some(mask) => mask,
                    None => self.nonzero(&Expr::Var(*var))?,
                };
                let mut to = self.place(place, None)?;
                to.offset += self.vector() as i32;
                let bits = asm::FREE[0];
                self.a.signs(bits, mask);
                if self.here() < LANES {
                    self.a.and_constant(bits, (1 << self.here()) - 1);
                }
                self.a.write_byte(to, bits);
                self.registers.done(mask);
            }
            _ => return Err(Other),
        }
        Ok(())
    }

    /// Gives a number a value.
    fn change(&mut self, var: Var, value: &Expr, run: &mut Run) -> Written {
        let resident = self.resident == Some(var);
        let wanted = resident.then_some(Ymm(self.part as u8));
        let mut register = match self.fused(var, value, wanted)? {
            Some(register) => register,
            None => self.value_in(value, wanted)?,
        };
        self.registers.keep(|held| !held.mentions(var));
        if resident {
            return Ok(());
        }
        // Registers of a sum change with it.
        if usize::from(register.0) < self.registers.reserved {
            let own = self.registers.take()?;
            self.a.load(own, Operand::Reg(register));
            register = own;
        }
        for list in [&mut run.held, &mut run.dirty] {
            for (_, register) in list.extract_if(.., |(known, _)| *known == var) {
                self.registers.done(register);
            }
        }
        self.registers.hold(register, Held::Value(Expr::Var(var)));
        let list = if run.local.contains(&var) || run.uniform.contains(&var) { &mut run.held } else { &mut run.dirty };
        list.push((var, register));
        if !run.local.contains(&var) && !run.uniform.contains(&var) {
            self.homes.get(&var).ok_or(Other)?;
        }
        Ok(())
    }

    /// Adds a product to a number in one instruction, if this does that and it may be.
    fn fused(&mut self, var: Var, value: &Expr, wanted: Option<Ymm>) -> Written<Option<Ymm>> {
        let Expr::Bin(Bin::Add, sum, term) = value else { return Ok(None) };
        let (true, true, Expr::Bin(Bin::Mul, a, b)) = (self.may.fuse, **sum == Expr::Var(var), &**term) else { return Ok(None) };
        let dst = match wanted {
            Some(own) => own,
            None => {
                let now = self.value(sum)?;
                let dst = self.registers.take()?;
                self.a.load(dst, Operand::Reg(now));
                self.registers.done(now);
                dst
            }
        };
        let a = self.value(a)?;
        let (b, held) = self.operand(b)?;
        self.a.three(asm::FUSED, dst, a, b);
        held.into_iter().chain([a]).for_each(|r| self.registers.done(r));
        Ok(Some(dst))
    }

    /// Where a number is in the frame.
    pub(super) fn home(&self, var: Var, uniform: bool) -> Mem {
        let offset = self.homes.get(&var).map_or(0, |(offset, _)| *offset);
        Mem::at(asm::FRAME, if uniform { offset } else { offset + 32 * self.part as i32 })
    }

    /// Makes a home for a number.
    pub(super) fn settle(&mut self, var: Var) {
        let parts = self.parts();
        self.homes.entry(var).or_insert_with(|| home_of(&mut self.frame, parts, false));
    }

    /// The vector at hand of a place.
    fn lane_place(&mut self, place: &Place) -> Written<Mem> {
        let mut at = self.place(place, Some(4))?;
        at.offset += 4 * (LANES * self.vector()) as i32;
        Ok(at)
    }

    /// The vector at hand of an expression, pinned.
    fn value(&mut self, e: &Expr) -> Written<Ymm> {
        self.value_in(e, None)
    }

    /// The same, in this register if it must be computed or fetched.
    fn value_in(&mut self, e: &Expr, wanted: Option<Ymm>) -> Written<Ymm> {
        if let Some(known) = self.registers.find(&Held::Value(e.clone())) {
            return Ok(self.moved(known, wanted));
        }
        let register = match e {
            Expr::Var(var) => {
                if let Some(place) = self.loads.get(var) {
                    return self.value_in(&Expr::Load(place.clone()), wanted);
                }
                if self.resident == Some(*var) {
                    return Ok(self.moved(Ymm(self.part as u8), wanted));
                }
                if let Some(mask) = self.registers.find(&Held::Spikes(*var)) {
                    let one = Operand::Constant(self.a.constant([1f32.to_bits(); 8]));
                    return self.result(e, asm::AND, (mask, one, None), wanted);
                }
                let (_, uniform) = *self.homes.get(var).ok_or(Other)?;
                let dst = self.into(wanted)?;
                let from = self.home(*var, uniform);
                self.a.load(dst, Operand::Mem(from));
                dst
            }
            Expr::Const(c) => {
                let dst = self.into(wanted)?;
                if c.to_bits() == 0 {
                    self.a.three(asm::XOR, dst, dst, Operand::Reg(dst));
                } else {
                    let number = self.a.constant([c.to_bits(); 8]);
                    self.a.load(dst, Operand::Constant(number));
                }
                dst
            }
            Expr::Load(place) => self.load(place, wanted)?,
            Expr::Rounded(_, a) => return self.value_in(a, wanted),
            Expr::Un(f, a) => return self.un(e, *f, a, wanted),
            Expr::Bin(f, a, b) => {
                let op = match f {
                    Bin::Add => asm::ADD,
                    Bin::Sub => asm::SUB,
                    Bin::Mul if self.may.multiply => asm::MUL,
                    Bin::Min => asm::MIN,
                    Bin::Max => asm::MAX,
                    Bin::BitAnd => asm::AND,
                    Bin::BitXor => asm::XOR,
                    Bin::Mul | Bin::Div => return Err(Other),
                };
                let a = self.value(a)?;
                let (b, held) = self.operand(b)?;
                return self.result(e, op, (a, b, held), wanted);
            }
            Expr::Masked(a, mask) => {
                let mask = self.nonzero(mask)?;
                let (a, held) = self.operand(a)?;
                return self.result(e, asm::AND, (mask, a, held), wanted);
            }
            Expr::Select(cmp, parts) => {
                let [a, b, x, y] = &**parts;
                let mask = self.mask(*cmp, a, b)?;
                // A zero is what a mask leaves.
                let zero = |e: &Expr| matches!(e, Expr::Const(0.0));
                let (op, rest) = if zero(x) { (asm::AND_NOT, y) } else { (asm::AND, x) };
                if zero(x) || zero(y) {
                    let (rest, held) = self.operand(rest)?;
                    return self.result(e, op, (mask, rest, held), wanted);
                }
                let y = self.value(y)?;
                let (x, held) = self.operand(x)?;
                let dst = self.into(wanted)?;
                self.a.blend(dst, y, x, mask);
                held.into_iter().chain([mask, y]).for_each(|r| self.registers.done(r));
                dst
            }
            Expr::Batch | Expr::Steps | Expr::Integer(_) | Expr::Hyper(_) | Expr::Scratch(..) | Expr::Random(..) => return Err(Other),
        };
        self.note(e, register);
        Ok(register)
    }

    /// A register for a result.
    fn into(&mut self, wanted: Option<Ymm>) -> Written<Ymm> {
        wanted.map_or_else(|| self.registers.take(), Ok)
    }

    /// Moves what is in a register to another, if it must be there.
    fn moved(&mut self, from: Ymm, wanted: Option<Ymm>) -> Ymm {
        match wanted {
            Some(dst) if dst != from => {
                self.a.load(dst, Operand::Reg(from));
                self.registers.done(from);
                dst
            }
            _ => from,
        }
    }

    /// Reads what the piece writes.
    fn may_change(&self, e: &Expr) -> bool {
        match e {
            Expr::Load(place) => self.stored.contains(&place.arg),
            Expr::Rounded(_, a) | Expr::Un(_, a) => self.may_change(a),
            Expr::Masked(a, b) | Expr::Bin(_, a, b) => self.may_change(a) || self.may_change(b),
            Expr::Select(_, parts) => parts.iter().any(|e| self.may_change(e)),
            _ => false,
        }
    }

    /// Remembers what a register holds, unless that may change in memory.
    fn note(&mut self, e: &Expr, register: Ymm) {
        if !self.may_change(e) {
            self.registers.hold(register, Held::Value(e.clone()));
        }
    }

    /// One instruction whose operands are not needed after it.
    fn result(&mut self, e: &Expr, op: Op, (a, b, held): (Ymm, Operand, Option<Ymm>), wanted: Option<Ymm>) -> Written<Ymm> {
        let dst = self.into(wanted)?;
        self.a.three(op, dst, a, b);
        held.into_iter().chain([a]).for_each(|r| self.registers.done(r));
        self.note(e, dst);
        Ok(dst)
    }

    /// An expression as the last operand of an instruction that is written next, and the register it pins.
    fn operand(&mut self, e: &Expr) -> Written<(Operand, Option<Ymm>)> {
        if let Expr::Var(var) = e
            && let Some(place) = self.loads.get(var)
        {
            return self.operand(&Expr::Load(place.clone()));
        }
        if !self.registers.knows(&Held::Value(e.clone())) {
            match e {
                Expr::Load(place) if self.stride(place) == 1 && self.here() == LANES => {
                    return Ok((Operand::Mem(self.lane_place(place)?), None));
                }
                Expr::Const(c) if c.to_bits() != 0 => return Ok((Operand::Constant(self.a.constant([c.to_bits(); 8])), None)),
                Expr::Var(var) if self.resident != Some(*var) && !self.registers.knows(&Held::Spikes(*var)) => {
                    let (_, uniform) = *self.homes.get(var).ok_or(Other)?;
                    if !uniform {
                        return Ok((Operand::Mem(self.home(*var, false)), None));
                    }
                }
                _ => {}
            }
        }
        let register = self.value(e)?;
        Ok((Operand::Reg(register), Some(register)))
    }

    pub(super) fn load(&mut self, place: &Place, wanted: Option<Ymm>) -> Written<Ymm> {
        let stride = self.stride(place);
        let dst = self.into(wanted)?;
        match (stride, self.here()) {
            (0, _) => {
                let from = self.place(place, Some(4))?;
                self.a.broadcast(dst, Operand::Mem(from));
            }
            (1, LANES) => {
                let from = self.lane_place(place)?;
                self.a.load(dst, Operand::Mem(from));
            }
            (1, here) => {
                let mask = self.registers.take()?;
                let number = self.a.constant(std::array::from_fn(|i| if i < here { u32::MAX } else { 0 }));
                self.a.load(mask, Operand::Constant(number));
                let from = self.lane_place(place)?;
                self.a.load_masked(dst, mask, from);
                self.registers.done(mask);
            }
            _ => return Err(Other),
        }
        Ok(dst)
    }

    /// All ones where the comparison holds, pinned.
    fn mask(&mut self, cmp: Cmp, a: &Expr, b: &Expr) -> Written<Ymm> {
        let held = Held::Mask(cmp, a.clone(), b.clone());
        if let Some(known) = self.registers.find(&held) {
            return Ok(known);
        }
        // `a ≥ b` is `b ≤ a`: false where one is no number.
        let how = match cmp {
            Cmp::Ge => asm::AT_MOST,
            Cmp::Gt => asm::LESS,
            Cmp::Eq => asm::EQUAL,
        };
        let first = self.value(a)?;
        let second = self.value(b)?;
        let dst = self.registers.take()?;
        self.a.compare(how, dst, second, Operand::Reg(first));
        [first, second].into_iter().for_each(|r| self.registers.done(r));
        if !self.may_change(a) && !self.may_change(b) {
            self.registers.hold(dst, held);
        }
        Ok(dst)
    }

    /// All ones where a number is not zero, pinned.
    fn nonzero(&mut self, e: &Expr) -> Written<Ymm> {
        if let Expr::Var(var) = e
            && let Some(mask) = self.registers.find(&Held::Spikes(*var))
        {
            return Ok(mask);
        }
        let (value, zero) = (self.value(e)?, self.value(&Expr::Const(0.0))?);
        let dst = self.registers.take()?;
        self.a.compare(asm::NOT_EQUAL, dst, value, Operand::Reg(zero));
        [value, zero].into_iter().for_each(|r| self.registers.done(r));
        Ok(dst)
    }

    fn un(&mut self, e: &Expr, f: Un, a: &Expr, wanted: Option<Ymm>) -> Written<Ymm> {
        let mut constant = |word: u32| Operand::Constant(self.a.constant([word; 8]));
        match f {
            Un::Neg => {
                let sign = constant(1 << 31);
                let a = self.value(a)?;
                self.result(e, asm::XOR, (a, sign, None), wanted)
            }
            Un::Abs => {
                let rest = constant(u32::MAX >> 1);
                let a = self.value(a)?;
                self.result(e, asm::AND, (a, rest, None), wanted)
            }
            // The exponent field less k, or a signed zero where it would leave the normal range.
            Un::Shift(k) => {
                let (field, sign) = (constant(0x7f80_0000), constant(1 << 31));
                let (by, least) = (constant((i32::from(k) << 23) as u32), constant((i32::from(k.max(0)) << 23) as u32));
                let a = self.value(a)?;
                let (normal, zero) = (self.registers.take()?, self.registers.take()?);
                self.a.three(asm::AND_INTS, normal, a, field);
                self.a.load(zero, least);
                self.a.three(asm::GREATER_INTS, normal, normal, Operand::Reg(zero));
                self.a.three(asm::AND_INTS, zero, a, sign);
                let dst = self.into(wanted)?;
                self.a.three(asm::SUB_INTS, dst, a, by);
                self.a.blend(dst, zero, Operand::Reg(dst), normal);
                [a, normal, zero].into_iter().for_each(|r| self.registers.done(r));
                self.note(e, dst);
                Ok(dst)
            }
            Un::Sqrt | Un::Exp | Un::Ln | Un::Doubled(_) => Err(Other),
        }
    }
}

/// A new place in a frame.
fn home_of(frame: &mut usize, parts: usize, uniform: bool) -> (i32, bool) {
    let at = *frame as i32;
    *frame += if uniform { 32 } else { 32 * parts };
    (at, uniform)
}

/// The numbers that a statement reads or sets.
fn mentioned_here(stmt: &Stmt) -> HashSet<Var> {
    let mut all = mentioned(std::slice::from_ref(stmt));
    if let Stmt::Let(var, _) = stmt {
        all.insert(*var);
    }
    all
}
