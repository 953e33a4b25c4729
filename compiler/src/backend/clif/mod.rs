//! Kernels to machine code through Cranelift.
//!
//! A program becomes one [`Image`]: its kernels, and the functions that drive them. All that they need they reach through
//! the context, calls between them are relative, and nothing else is called, so the bytes can stand anywhere. Numbers are
//! held in 128-bit vectors: one for every four lanes that run at once; otherwise one, all lanes equal. What concerns each lane
//! alone is written vector by vector, so that a chain of such statements needs few registers. Outside the encoder
//! nothing is multiplied, addresses neither: their constant factors are shifts and additions.

mod bits;
mod drive;
mod image;
mod lanes;
mod math;
mod memory;
mod parked;

pub use image::{HEADER, Image, Symbol, Target, image};

use super::context;
use crate::flow::{Bin, Cmp, Un};
use crate::kernel::{Bound, Cond, Expr, Int, IntExpr, Place, Stmt, Var, changing, over_rows};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::immediates::V128Imm;
use cranelift_codegen::ir::types::{F32, F32X4, I32, I32X4, I64};
use cranelift_codegen::ir::{Block, InstBuilder, MemFlagsData, StackSlot, StackSlotData, StackSlotKind, Value};
use cranelift_frontend::{FunctionBuilder, Variable};
use image::Plant;
use std::collections::{HashMap, HashSet};

/// The most bytes of a kernel's own arrays: they stand on a thread's stack.
const MOST_SCRATCH: usize = 512 << 10;

/// Vectors whose bits are written at once.
const PARTS_OF_BITS: usize = 4;

/// Up to so many lanes numbers need few registers.
const FEW_LANES: usize = 8;

/// Why no code could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeError(pub String);

impl std::fmt::Display for CodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no machine code: {}", self.0)
    }
}

impl std::error::Error for CodeError {}

/// Writes a kernel's function: context, addresses of its arguments, the range of its outermost loop and the range's number.
fn kernel(
    plant: &Plant<'_>,
    number: usize,
    (may_multiply, fuses): (bool, bool),
    mut builder: FunctionBuilder<'_>,
    params: &[Value],
) -> Result<(), CodeError> {
    let kernel = &plant.program.kernels[number];
    let [ctx, table, begin, end, range] = *params else { return Err(CodeError("a kernel has five parameters".into())) };
    let flags = MemFlagsData::new().with_notrap();
    let args = (0..kernel.args.len()).map(|i| builder.ins().load(I64, flags, table, 8 * i as i32)).collect();
    let lane_bytes = 4 * lanes(&kernel.body).next_multiple_of(4).max(8);
    if kernel.scratch * kernel.time * lane_bytes > MOST_SCRATCH {
        let text =
            format!("{} time steps are too many for one pass backwards; the membranes of one element do not fit the stack", kernel.time);
        return Err(CodeError(text));
    }
    let room = u32::try_from(kernel.time * lane_bytes).map_err(|_| CodeError("too many time steps".into()))?;
    let scratch =
        (0..kernel.scratch).map(|_| builder.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, room, 4))).collect();
    let frame = lanes::frame(&plant.lanes[number], &mut builder);
    let mut emitter = Emitter {
        b: builder,
        plant,
        number,
        frame,
        ctx,
        begin,
        end,
        range,
        args,
        scratch,
        lane_bytes: lane_bytes as i64,
        ints: HashMap::new(),
        order: HashMap::new(),
        declared: 0,
        parked: if lanes(&kernel.body) > FEW_LANES { parked::parked(&kernel.body) } else { HashSet::new() },
        vars: HashMap::new(),
        masks: HashMap::new(),
        changing: changing(&kernel.body),
        places: HashMap::new(),
        lane: None,
        lanes: 1,
        width: 1,
        part: 0,
        flags,
        may_multiply,
        fuses,
    };
    emitter.stmts(&kernel.body);
    emitter.b.ins().return_(&[]);
    emitter.b.finalize(plant.target.isa().frontend_config());
    Ok(())
}

/// Where a vector of a number is kept.
#[derive(Clone, Copy)]
enum Home {
    Variable(Variable),
    Slot(StackSlot),
}

struct Emitter<'a> {
    b: FunctionBuilder<'a>,
    plant: &'a Plant<'a>,
    /// The kernel's.
    number: usize,
    /// What functions for lanes work in.
    frame: Option<Value>,
    ctx: Value,
    begin: Value,
    end: Value,
    range: Value,
    args: Vec<Value>,
    scratch: Vec<StackSlot>,
    /// Bytes of an element of these.
    lane_bytes: i64,
    ints: HashMap<Int, Variable>,
    /// Where an integer was declared, counted in order: what was declared before a loop does not change in it.
    order: HashMap<Int, usize>,
    /// Integers declared so far.
    declared: usize,
    /// The vectors of a number.
    vars: HashMap<Var, Vec<Home>>,
    /// Numbers that wait in memory while a loop that needs the registers runs.
    parked: HashSet<Var>,
    /// Where numbers that are spikes came from: for each vector, the lanes that are not zero. As long as they stay what they are.
    masks: HashMap<(Var, usize), Value>,
    /// Numbers that are set after they were declared.
    changing: HashSet<Var>,
    /// Addresses of places, as long as no integer changes.
    places: HashMap<(Place, i64), Value>,
    /// The index whose elements are the lanes.
    lane: Option<Int>,
    /// How many there are.
    lanes: usize,
    /// Vectors per number.
    width: usize,
    /// The vector that is written.
    part: usize,
    flags: MemFlagsData,
    /// Belongs where multiplying is allowed: addresses may be, too.
    may_multiply: bool,
    /// What adds a product to a number does that in one instruction.
    fuses: bool,
}

/// The most lanes that run at once.
fn lanes(body: &[Stmt]) -> usize {
    let own = |stmt: &Stmt| match stmt {
        Stmt::For { lanes: own, body, .. } => lanes(body).max(usize::from(*own)),
        Stmt::While(_, body) | Stmt::If(_, body) => lanes(body),
        _ => 1,
    };
    body.iter().map(own).max().unwrap_or(1)
}

impl Emitter<'_> {
    fn stmts(&mut self, body: &[Stmt]) {
        let mut rest = body;
        while !rest.is_empty() {
            // A sum that waits elsewhere leaves its registers at once.
            let waits = |stmt: &Stmt| matches!(stmt, Stmt::Let(var, Expr::Var(_)) if self.parked.contains(var));
            let waiting = rest.iter().take_while(|stmt| waits(stmt)).count();
            let count = if waiting > 0 { waiting } else { rest.iter().take_while(|stmt| self.lanewise(stmt) && !waits(stmt)).count() };
            let (run, after) = rest.split_at(count.max(1));
            rest = after;
            if count == 0 { self.stmt(&run[0]) } else { self.run(run) }
        }
    }

    /// Concerns every lane alone.
    fn lanewise(&self, stmt: &Stmt) -> bool {
        match stmt {
            Stmt::Let(..) | Stmt::Set(..) | Stmt::StoreScratch(..) | Stmt::StoreBits(..) => true,
            // Equal places get the last lane's number.
            Stmt::Store(place, _) => self.width == 1 || self.lane_stride(place) != 0,
            _ => false,
        }
    }

    /// Statements that concern every lane alone, vector by vector.
    fn run(&mut self, run: &[Stmt]) {
        self.places.clear();
        for stmt in run {
            if let Stmt::Let(var, value) = stmt {
                let count = if self.width > 1 && self.uniform(value) && !self.changing.contains(var) { 1 } else { self.width };
                let parked = self.parked.contains(var);
                let home = |_| match parked {
                    true => Home::Slot(self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, 16, 4))),
                    false => Home::Variable(self.b.declare_var(F32X4)),
                };
                self.vars.insert(*var, (0..count).map(home).collect());
            }
        }
        let mut bits: Vec<Option<Value>> = vec![None; run.len()];
        let mut starts: Vec<Option<Value>> = vec![None; run.len()];
        for part in 0..self.width {
            self.part = part;
            for ((stmt, bits), start) in run.iter().zip(&mut bits).zip(&mut starts) {
                match stmt {
                    // The same for all lanes.
                    Stmt::Let(var, _) if part > 0 && self.vars.get(var).is_some_and(|v| v.len() == 1) => {}
                    Stmt::Let(var, value) | Stmt::Set(var, value) => {
                        let mask = if let Expr::Select(cmp, parts) = value { self.spikes(*cmp, parts) } else { None };
                        let value = match mask {
                            Some(mask) => {
                                let mask = self.as_float(mask);
                                let one = self.splat(1.0);
                                self.b.ins().band(mask, one)
                            }
                            None => self.fused(stmt).unwrap_or_else(|| self.expr(value)),
                        };
                        match mask {
                            Some(mask) => self.masks.insert((*var, part), mask),
                            None => self.masks.remove(&(*var, part)),
                        };
                        match self.vars.get(var).and_then(|v| v.get(part)) {
                            Some(Home::Variable(variable)) => self.b.def_var(*variable, value),
                            Some(Home::Slot(slot)) => {
                                let address = self.b.ins().stack_addr(I64, *slot, 0);
                                self.b.ins().store(self.flags, value, address, 0);
                            }
                            None => {}
                        }
                    }
                    Stmt::Store(place, value) => {
                        let value = self.expr(value);
                        self.store(place, value);
                    }
                    Stmt::StoreScratch(array, index, value) => {
                        let value = self.expr(value);
                        let base = self.scratch_address(*array, *index);
                        self.b.ins().store(self.flags, value, base, 16 * part as i32);
                    }
                    Stmt::StoreBits(place, var) => {
                        let mask = self.nonzero_var(*var);
                        let four = self.b.ins().vhigh_bits(I64, mask);
                        let within = part % PARTS_OF_BITS;
                        let moved = if within == 0 { four } else { self.b.ins().ishl_imm_u(four, 4 * within as i64) };
                        let all = bits.map_or(moved, |before| self.b.ins().bor(before, moved));
                        *bits = Some(all);
                        // Written soon, so that no mask waits.
                        if within + 1 == PARTS_OF_BITS || part + 1 == self.width {
                            let address = start.unwrap_or_else(|| self.address_of_bits(place));
                            (*start, *bits) = (Some(address), None);
                            self.store_bits(address, part - within, all);
                        }
                    }
                    _ => {}
                }
            }
        }
        self.part = 0;
        self.masks.clear();
    }

    /// A number with a product added to it in one instruction, if the statement does that and it may be.
    fn fused(&mut self, stmt: &Stmt) -> Option<Value> {
        let Stmt::Set(var, Expr::Bin(Bin::Add, sum, term)) = stmt else { return None };
        let (true, true, Expr::Bin(Bin::Mul, a, b)) = (self.fuses, **sum == Expr::Var(*var), &**term) else { return None };
        let [sum, a, b] = [sum, a, b].map(|e| self.expr(e));
        Some(self.b.ins().fma(a, b, sum))
    }

    /// The same for all lanes, and one load: sums are left to every vector, whose operand it may be.
    fn uniform(&self, e: &Expr) -> bool {
        match e {
            Expr::Load(place) => self.lane_stride(place) == 0,
            Expr::Batch | Expr::Steps | Expr::Hyper(_) => true,
            _ => false,
        }
    }

    /// `if a cmp b { 1 } else { 0 }` as a mask.
    fn spikes(&mut self, cmp: Cmp, parts: &[Expr; 4]) -> Option<Value> {
        let [a, b, Expr::Const(1.0), Expr::Const(0.0)] = parts else { return None };
        let (a, b) = (self.expr(a), self.expr(b));
        Some(self.compare(cmp, a, b))
    }

    fn nonzero_var(&mut self, var: Var) -> Value {
        if let Some(mask) = self.masks.get(&(var, self.part)) {
            return *mask;
        }
        let x = self.var(var);
        self.nonzero(x)
    }

    fn stmt(&mut self, stmt: &Stmt) {
        self.places.clear();
        match stmt {
            Stmt::Let(..) | Stmt::Set(..) | Stmt::StoreScratch(..) | Stmt::StoreBits(..) => self.run(std::slice::from_ref(stmt)),
            Stmt::LetInt(int, value) => {
                let value = self.int_expr(value);
                self.let_int(*int, value);
            }
            Stmt::SetInt(int, value) => {
                let value = self.int_expr(value);
                match self.ints.get(int) {
                    Some(variable) => self.b.def_var(*variable, value),
                    None => self.let_int(*int, value),
                }
            }
            Stmt::Store(place, value) => {
                for part in 0..self.width {
                    self.part = part;
                    let value = self.expr(value);
                    self.store(place, value);
                }
                self.part = 0;
            }
            Stmt::Combine { place, value, max, error } => self.combine(place, value, *max, error.as_ref()),
            Stmt::StoreWord(place, int) => {
                let address = self.address(place, 8);
                let value = self.int(*int);
                self.b.ins().store(self.flags, value, address, 0);
            }
            Stmt::StoreHalf(place, int) => {
                let address = self.address(place, 2);
                let value = self.int(*int);
                self.b.ins().istore16(self.flags, value, address, 0);
            }
            // There is no instruction for it.
            Stmt::Prefetch(..) => {}
            Stmt::Transpose { from, rows_apart, rows, to, columns_apart, columns } => {
                let (rows_apart, columns_apart) = (*rows_apart, *columns_apart);
                self.transpose(&bits::Block64 { from, rows_apart, rows: *rows, to, columns_apart, columns: *columns });
            }
            // Rows abreast, one after the other if there is no function for them.
            Stmt::For { index, from: Bound::Const(first), to: Bound::Const(end), lanes, body, .. } if *lanes > 1 && over_rows(body) => {
                match self.called(body, usize::from(*lanes)) {
                    Some(called) => {
                        // Addresses are those of the first lane.
                        if let [_, Stmt::For { index: lane, .. }] = body.as_slice() {
                            let first = self.b.ins().iconst(I64, 0);
                            self.let_int(*lane, first);
                        }
                        self.call(called);
                    }
                    None => {
                        let [from, to] = [*first, *end].map(|n| self.b.ins().iconst(I64, n));
                        self.counted(*index, from, to, false, 1, body);
                    }
                }
            }
            Stmt::For { index, from, to, reverse, lanes, body } => match (from, to) {
                (Bound::Const(first), Bound::Const(end)) if *lanes > 1 => self.wide(*index, *first, *end, i64::from(*lanes), body),
                _ => {
                    let (from, to) = (self.bound(*from), self.bound(*to));
                    if *lanes > 1 {
                        self.wide_open(*index, from, to, body);
                    } else {
                        self.counted(*index, from, to, *reverse, 1, body);
                    }
                }
            },
            Stmt::While(cond, body) => {
                let head = self.b.create_block();
                self.b.ins().jump(head, &[]);
                self.b.switch_to_block(head);
                let holds = self.cond(cond);
                let over = self.b.ins().icmp_imm_s(IntCC::Equal, holds, 0);
                self.turn(head, over, |e| e.stmts(body));
            }
            Stmt::If(cond, body) => {
                let (inside, exit) = (self.b.create_block(), self.b.create_block());
                let holds = self.cond(cond);
                self.b.ins().brif(holds, inside, &[], exit, &[]);
                self.b.switch_to_block(inside);
                self.b.seal_block(inside);
                self.stmts(body);
                self.b.ins().jump(exit, &[]);
                self.b.switch_to_block(exit);
                self.b.seal_block(exit);
            }
        }
    }

    /// So many lanes as long as they last, then what is left at once.
    fn wide(&mut self, index: Int, first: i64, end: i64, lanes: i64, body: &[Stmt]) {
        let (whole, rest) = ((end - first).max(0) / lanes, (end - first).max(0) % lanes);
        let from = self.b.ins().iconst(I64, first);
        let middle = self.b.ins().iconst(I64, first + whole * lanes);
        if whole > 1 {
            match self.called(body, lanes as usize) {
                Some(called) => self.counted_as(index, [from, middle], false, lanes, |e| e.call(called)),
                None => self.with_lanes(index, lanes as usize, |e| e.counted(index, from, middle, false, lanes, body)),
            }
        } else if whole == 1 {
            self.let_int(index, from);
            self.at_once(index, lanes as usize, body);
        }
        if rest > 0 {
            self.let_int(index, middle);
            self.at_once(index, rest as usize, body);
        }
    }

    /// All lanes at once.
    fn at_once(&mut self, index: Int, lanes: usize, body: &[Stmt]) {
        match self.called(body, lanes) {
            Some(called) => self.call(called),
            None => self.with_lanes(index, lanes, |e| e.stmts(body)),
        }
    }

    fn with_lanes(&mut self, index: Int, lanes: usize, f: impl FnOnce(&mut Self)) {
        (self.lane, self.lanes, self.width) = (Some(index), lanes, lanes.div_ceil(4));
        f(self);
        (self.lane, self.lanes, self.width) = (None, 1, 1);
    }

    /// Eight lanes as long as they last, then one element at a time.
    fn wide_open(&mut self, index: Int, from: Value, to: Value, body: &[Stmt]) {
        let count = self.b.ins().isub(to, from);
        let whole = self.b.ins().band_imm_s(count, -8);
        let middle = self.b.ins().iadd(from, whole);
        self.with_lanes(index, 8, |e| e.counted(index, from, middle, false, 8, body));
        self.with_lanes(index, 1, |e| e.counted(index, middle, to, false, 1, body));
    }

    fn counted(&mut self, index: Int, from: Value, to: Value, reverse: bool, step: i64, body: &[Stmt]) {
        self.counted_as(index, [from, to], reverse, step, |e| e.stmts(body));
    }

    fn counted_as(&mut self, index: Int, [from, to]: [Value; 2], reverse: bool, step: i64, body: impl FnOnce(&mut Self)) {
        let start = if reverse { self.b.ins().iadd_imm_s(to, -1) } else { from };
        self.let_int(index, start);
        let head = self.b.create_block();
        self.b.ins().jump(head, &[]);
        self.b.switch_to_block(head);
        let now = self.int(index);
        let over = if reverse {
            self.b.ins().icmp(IntCC::SignedLessThan, now, from)
        } else {
            self.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, now, to)
        };
        self.turn(head, over, |e| {
            body(e);
            let now = e.int(index);
            let next = e.b.ins().iadd_imm_s(now, if reverse { -step } else { step });
            if let Some(variable) = e.ints.get(&index) {
                e.b.def_var(*variable, next);
            }
        });
    }

    /// A turn of a loop, from its head on: what does not change in the loop Cranelift takes out of it only if the way out comes first.
    fn turn(&mut self, head: Block, over: Value, body: impl FnOnce(&mut Self)) {
        let (exit, inside) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(over, exit, &[], inside, &[]);
        self.b.switch_to_block(inside);
        self.b.seal_block(inside);
        body(self);
        self.b.ins().jump(head, &[]);
        self.b.seal_block(head);
        self.b.switch_to_block(exit);
        self.b.seal_block(exit);
    }

    fn let_int(&mut self, int: Int, value: Value) {
        let variable = self.b.declare_var(I64);
        self.b.def_var(variable, value);
        self.ints.insert(int, variable);
        self.declared += 1;
        self.order.insert(int, self.declared);
    }

    fn int(&mut self, int: Int) -> Value {
        match self.ints.get(&int) {
            Some(variable) => self.b.use_var(*variable),
            None => self.b.ins().iconst(I64, 0),
        }
    }

    fn bound(&mut self, bound: Bound) -> Value {
        match bound {
            Bound::Const(c) => self.b.ins().iconst(I64, c),
            Bound::Steps => self.b.ins().load(I64, self.flags, self.ctx, context::STEPS),
            Bound::Ranges => self.b.ins().load(I64, self.flags, self.ctx, context::RANGES),
            Bound::Begin => self.begin,
            Bound::End => self.end,
            Bound::Int(i) => self.int(i),
        }
    }

    fn int_expr(&mut self, e: &IntExpr) -> Value {
        match e {
            IntExpr::Const(c) => self.b.ins().iconst(I64, *c),
            IntExpr::Range => self.range,
            IntExpr::First => self.b.ins().load(I64, self.flags, self.ctx, context::FIRST),
            IntExpr::Affine(terms, offset) => {
                let start = self.b.ins().iconst(I64, *offset);
                self.affine(start, terms, 1)
            }
            IntExpr::Word(place) => {
                let address = self.address(place, 8);
                self.b.ins().load(I64, self.flags, address, 0)
            }
            IntExpr::TrailingZeros(i) => {
                let i = self.int(*i);
                self.b.ins().ctz(i)
            }
            IntExpr::ClearLowest(i) => {
                let i = self.int(*i);
                let less = self.b.ins().iadd_imm_s(i, -1);
                self.b.ins().band(i, less)
            }
            IntExpr::Quotient(i, by) => {
                let i = self.int(*i);
                if by.count_ones() == 1 {
                    self.b.ins().sshr_imm_u(i, i64::from(by.trailing_zeros()))
                } else {
                    self.b.ins().udiv_imm_u(i, *by)
                }
            }
            IntExpr::Half(place) => {
                let address = self.address(place, 2);
                self.b.ins().uload16(I64, self.flags, address, 0)
            }
            IntExpr::Ones(i) => {
                let i = self.int(*i);
                self.b.ins().popcnt(i)
            }
            IntExpr::Both(a, b) => {
                let (a, b) = (self.int(*a), self.int(*b));
                self.b.ins().band(a, b)
            }
            IntExpr::And(i, mask) => {
                let i = self.int(*i);
                let mask = self.b.ins().iconst(I64, *mask);
                self.b.ins().band(i, mask)
            }
            IntExpr::Least(i, n) => {
                let i = self.int(*i);
                let n = self.b.ins().iconst(I64, *n);
                self.b.ins().smin(i, n)
            }
        }
    }

    fn cond(&mut self, cond: &Cond) -> Value {
        match cond {
            Cond::NotZero(i) => {
                let i = self.int(*i);
                self.b.ins().icmp_imm_s(IntCC::NotEqual, i, 0)
            }
            Cond::Positive(i) => {
                let i = self.int(*i);
                self.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, i, 0)
            }
            Cond::Within(i, n) => {
                let i = self.int(*i);
                self.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, i, *n)
            }
            Cond::Spike(place) => {
                let address = self.address(place, 4);
                let bits = self.b.ins().load(I32, self.flags, address, 0);
                self.b.ins().icmp_imm_s(IntCC::NotEqual, bits, 0)
            }
            Cond::Digit(place, digit) => {
                let address = self.address(place, 4);
                let count = self.b.ins().load(F32, self.flags, address, 0);
                let count = self.b.ins().fcvt_to_sint_sat(I64, count);
                let mask = self.b.ins().iconst(I64, 1 << digit);
                self.b.ins().band(count, mask)
            }
        }
    }

    /// The vector at hand of a number.
    fn var(&mut self, var: Var) -> Value {
        match self.vars.get(&var).and_then(|v| v.get(self.part).or(v.first())) {
            Some(Home::Variable(variable)) => self.b.use_var(*variable),
            Some(Home::Slot(slot)) => {
                let address = self.b.ins().stack_addr(I64, *slot, 0);
                self.b.ins().load(F32X4, self.flags, address, 0)
            }
            None => self.splat(0.0),
        }
    }

    fn splat(&mut self, c: f32) -> Value {
        let bytes: Vec<u8> = [c; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
        let data = self.b.func.dfg.constants.insert(V128Imm::from(bytes.as_slice()).into());
        self.b.ins().vconst(F32X4, data)
    }

    fn splat_int(&mut self, c: i32) -> Value {
        let bytes: Vec<u8> = [c; 4].iter().flat_map(|x| x.to_le_bytes()).collect();
        let data = self.b.func.dfg.constants.insert(V128Imm::from(bytes.as_slice()).into());
        self.b.ins().vconst(I32X4, data)
    }

    /// A number of the context, in all lanes.
    fn context(&mut self, offset: i32) -> Value {
        let x = self.b.ins().load(F32, self.flags, self.ctx, offset);
        self.b.ins().splat(F32X4, x)
    }

    fn compare(&mut self, cmp: Cmp, a: Value, b: Value) -> Value {
        let code = match cmp {
            Cmp::Ge => FloatCC::GreaterThanOrEqual,
            Cmp::Gt => FloatCC::GreaterThan,
            Cmp::Eq => FloatCC::Equal,
        };
        self.b.ins().fcmp(code, a, b)
    }

    /// The vector at hand of an expression.
    fn expr(&mut self, e: &Expr) -> Value {
        match e {
            Expr::Var(v) => self.var(*v),
            Expr::Const(c) => self.splat(*c),
            Expr::Batch => self.context(context::BATCH),
            Expr::Steps => self.context(context::STEPS_REAL),
            Expr::Integer(i) => {
                let i = self.int(*i);
                let x = self.b.ins().fcvt_from_sint(F32, i);
                self.b.ins().splat(F32X4, x)
            }
            Expr::Hyper(i) => self.context(context::HYPER + 4 * *i as i32),
            Expr::Load(place) => self.load(place),
            Expr::Random(site, terms) => self.random(*site, terms),
            Expr::Scratch(array, index) => {
                let base = self.scratch_address(*array, *index);
                self.b.ins().load(F32X4, self.flags, base, 16 * self.part as i32)
            }
            // Only f32 comes here: other formats are a device's.
            Expr::Rounded(_, a) => self.expr(a),
            Expr::Masked(a, mask) => {
                let (a, mask) = (self.expr(a), self.expr(mask));
                let mask = self.nonzero(mask);
                let mask = self.as_float(mask);
                self.b.ins().band(a, mask)
            }
            Expr::Un(f, a) => {
                let a = self.expr(a);
                self.un(*f, a)
            }
            Expr::Bin(f, a, b) => {
                let (a, b) = (self.expr(a), self.expr(b));
                self.bin(*f, a, b)
            }
            Expr::Select(cmp, parts) => {
                let [a, b, x, y] = &**parts;
                let (left, right) = (self.expr(a), self.expr(b));
                let mask = self.compare(*cmp, left, right);
                let mask = self.as_float(mask);
                // A zero is what a mask leaves.
                match (x, y) {
                    (Expr::Const(0.0), y) => {
                        let y = self.expr(y);
                        self.b.ins().band_not(y, mask)
                    }
                    (x, Expr::Const(0.0)) => {
                        let x = self.expr(x);
                        self.b.ins().band(x, mask)
                    }
                    (x, y) => {
                        let (x, y) = (self.expr(x), self.expr(y));
                        self.b.ins().bitselect(mask, x, y)
                    }
                }
            }
        }
    }
}
