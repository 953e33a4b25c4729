//! Kernels to machine code through Cranelift.
//!
//! A program becomes one [`Image`]: its kernels, and the functions that drive them. All that they need they reach through
//! the context, calls between them are relative, and nothing else is called, so the bytes can stand anywhere. Numbers are
//! held in 128-bit vectors: two per number where eight lanes run at once; otherwise one, all lanes equal. Outside the encoder
//! nothing is multiplied, addresses neither: their constant factors are shifts and additions.

mod drive;
mod image;
mod math;
mod memory;

pub use image::{HEADER, Image, Symbol, Target, image};

use super::context;
use crate::flow::{Bin, Cmp, Un};
use crate::kernel::{Bound, Cond, Expr, Int, IntExpr, Kernel, Place, Stmt, Var};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::immediates::V128Imm;
use cranelift_codegen::ir::types::{F32, F32X4, I32, I32X4, I64};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, StackSlot, StackSlotData, StackSlotKind, Value};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::{FunctionBuilder, Variable};
use std::collections::HashMap;

/// The most bytes of a kernel's own arrays: they stand on a thread's stack.
const MOST_SCRATCH: usize = 512 << 10;

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
    kernel: &Kernel,
    may_multiply: bool,
    mut builder: FunctionBuilder<'_>,
    params: &[Value],
    frontend: TargetFrontendConfig,
) -> Result<(), CodeError> {
    let [ctx, table, begin, end, range] = *params else { return Err(CodeError("a kernel has five parameters".into())) };
    let flags = MemFlagsData::new().with_notrap();
    let args = (0..kernel.args.len()).map(|i| builder.ins().load(I64, flags, table, 8 * i as i32)).collect();
    if kernel.scratch * kernel.time * 32 > MOST_SCRATCH {
        let text =
            format!("{} time steps are too many for one pass backwards; the membranes of one element do not fit the stack", kernel.time);
        return Err(CodeError(text));
    }
    let room = u32::try_from(kernel.time * 32).map_err(|_| CodeError("too many time steps".into()))?;
    let scratch =
        (0..kernel.scratch).map(|_| builder.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, room, 4))).collect();
    let mut emitter = Emitter {
        b: builder,
        ctx,
        begin,
        end,
        range,
        args,
        scratch,
        ints: HashMap::new(),
        vars: HashMap::new(),
        lane: None,
        width: 1,
        flags,
        may_multiply,
    };
    emitter.stmts(&kernel.body);
    emitter.b.ins().return_(&[]);
    emitter.b.finalize(frontend);
    Ok(())
}

struct Emitter<'a> {
    b: FunctionBuilder<'a>,
    ctx: Value,
    begin: Value,
    end: Value,
    range: Value,
    args: Vec<Value>,
    scratch: Vec<StackSlot>,
    ints: HashMap<Int, Variable>,
    vars: HashMap<Var, Vec<Variable>>,
    /// The index whose elements are the lanes.
    lane: Option<Int>,
    /// Vectors per number.
    width: usize,
    flags: MemFlagsData,
    /// Belongs where multiplying is allowed: addresses may be, too.
    may_multiply: bool,
}

impl Emitter<'_> {
    fn stmts(&mut self, body: &[Stmt]) {
        for stmt in body {
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Let(var, value) => {
                let values = self.expr(value);
                let variables: Vec<Variable> = values.iter().map(|_| self.b.declare_var(F32X4)).collect();
                for (variable, value) in variables.iter().zip(values) {
                    self.b.def_var(*variable, value);
                }
                self.vars.insert(*var, variables);
            }
            Stmt::Set(var, value) => {
                let values = self.expr(value);
                let variables = self.vars.get(var).cloned().unwrap_or_default();
                for (variable, value) in variables.into_iter().zip(values) {
                    self.b.def_var(variable, value);
                }
            }
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
                let values = self.expr(value);
                self.store(place, &values);
            }
            Stmt::Combine { place, value, max, error } => self.combine(place, value, *max, error.as_ref()),
            Stmt::StoreScratch(array, index, value) => {
                let values = self.expr(value);
                let base = self.scratch_address(*array, *index);
                for (i, value) in values.into_iter().enumerate() {
                    self.b.ins().store(self.flags, value, base, 16 * i as i32);
                }
            }
            Stmt::StoreWord(place, int) => {
                let address = self.address(place, 8);
                let value = self.int(*int);
                self.b.ins().store(self.flags, value, address, 0);
            }
            Stmt::For { index, from, to, reverse, lanes, body } => {
                let (from, to) = (self.bound(*from), self.bound(*to));
                if *lanes > 1 {
                    self.wide_loop(*index, from, to, body);
                } else {
                    self.counted(*index, from, to, *reverse, 1, body);
                }
            }
            Stmt::While(cond, body) => {
                let (head, inside, exit) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
                self.b.ins().jump(head, &[]);
                self.b.switch_to_block(head);
                let holds = self.cond(cond);
                self.b.ins().brif(holds, inside, &[], exit, &[]);
                self.b.switch_to_block(inside);
                self.b.seal_block(inside);
                self.stmts(body);
                self.b.ins().jump(head, &[]);
                self.b.seal_block(head);
                self.b.switch_to_block(exit);
                self.b.seal_block(exit);
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

    /// Eight lanes as long as they last, then one element at a time.
    fn wide_loop(&mut self, index: Int, from: Value, to: Value, body: &[Stmt]) {
        let count = self.b.ins().isub(to, from);
        let whole = self.b.ins().band_imm_s(count, -8);
        let middle = self.b.ins().iadd(from, whole);
        (self.lane, self.width) = (Some(index), 2);
        self.counted(index, from, middle, false, 8, body);
        (self.lane, self.width) = (Some(index), 1);
        self.counted(index, middle, to, false, 1, body);
        (self.lane, self.width) = (None, 1);
    }

    fn counted(&mut self, index: Int, from: Value, to: Value, reverse: bool, step: i64, body: &[Stmt]) {
        let start = if reverse { self.b.ins().iadd_imm_s(to, -1) } else { from };
        self.let_int(index, start);
        let (head, inside, exit) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().jump(head, &[]);
        self.b.switch_to_block(head);
        let now = self.int(index);
        let more = if reverse {
            self.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, now, from)
        } else {
            self.b.ins().icmp(IntCC::SignedLessThan, now, to)
        };
        self.b.ins().brif(more, inside, &[], exit, &[]);
        self.b.switch_to_block(inside);
        self.b.seal_block(inside);
        self.stmts(body);
        let now = self.int(index);
        let next = self.b.ins().iadd_imm_s(now, if reverse { -step } else { step });
        if let Some(variable) = self.ints.get(&index) {
            self.b.def_var(*variable, next);
        }
        self.b.ins().jump(head, &[]);
        self.b.seal_block(head);
        self.b.switch_to_block(exit);
        self.b.seal_block(exit);
    }

    fn let_int(&mut self, int: Int, value: Value) {
        let variable = self.b.declare_var(I64);
        self.b.def_var(variable, value);
        self.ints.insert(int, variable);
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
            IntExpr::Truncate(place) => {
                let address = self.address(place, 4);
                let x = self.b.ins().load(F32, self.flags, address, 0);
                self.b.ins().fcvt_to_sint_sat(I64, x)
            }
            IntExpr::Less(i) => {
                let i = self.int(*i);
                self.b.ins().iadd_imm_s(i, -1)
            }
            IntExpr::Quotient(i, by) => {
                let i = self.int(*i);
                if by.count_ones() == 1 {
                    self.b.ins().sshr_imm_u(i, i64::from(by.trailing_zeros()))
                } else {
                    self.b.ins().udiv_imm_u(i, *by)
                }
            }
            IntExpr::Gather(word, spikes, at) => {
                let parts = self.var(*spikes);
                let mut bits = self.b.ins().iconst(I64, 0);
                for (i, part) in parts.into_iter().enumerate() {
                    let mask = self.nonzero(part);
                    let mut four = self.b.ins().vhigh_bits(I64, mask);
                    if self.width == 1 {
                        four = self.b.ins().band_imm_u(four, 1);
                    }
                    let moved = self.b.ins().ishl_imm_u(four, 4 * i as i64);
                    bits = self.b.ins().bor(bits, moved);
                }
                let at = self.int(*at);
                let moved = self.b.ins().ishl(bits, at);
                let word = self.int(*word);
                self.b.ins().bor(word, moved)
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
        }
    }

    fn var(&mut self, var: Var) -> Vec<Value> {
        let variables = self.vars.get(&var).cloned().unwrap_or_default();
        variables.into_iter().map(|v| self.b.use_var(v)).collect()
    }

    fn constant(&mut self, c: f32) -> Vec<Value> {
        let v = self.splat(c);
        vec![v; self.width]
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
    fn context(&mut self, offset: i32) -> Vec<Value> {
        let x = self.b.ins().load(F32, self.flags, self.ctx, offset);
        let v = self.b.ins().splat(F32X4, x);
        vec![v; self.width]
    }

    fn expr(&mut self, e: &Expr) -> Vec<Value> {
        match e {
            Expr::Var(v) => self.var(*v),
            Expr::Const(c) => self.constant(*c),
            Expr::Batch => self.context(context::BATCH),
            Expr::Steps => self.context(context::STEPS_REAL),
            Expr::Hyper(i) => self.context(context::HYPER + 4 * *i as i32),
            Expr::Load(place) => self.load(place),
            Expr::Random(site, terms) => self.random(*site, terms),
            Expr::Scratch(array, index) => {
                let base = self.scratch_address(*array, *index);
                (0..self.width).map(|i| self.b.ins().load(F32X4, self.flags, base, 16 * i as i32)).collect()
            }
            // Only f32 comes here: other formats are a device's.
            Expr::Rounded(_, a) => self.expr(a),
            Expr::Masked(a, mask) => {
                let (a, mask) = (self.expr(a), self.expr(mask));
                a.into_iter()
                    .zip(mask)
                    .map(|(a, m)| {
                        let m = self.nonzero(m);
                        let m = self.b.ins().bitcast(F32X4, MemFlagsData::new(), m);
                        self.b.ins().band(a, m)
                    })
                    .collect()
            }
            Expr::Un(f, a) => {
                let a = self.expr(a);
                a.into_iter().map(|a| self.un(*f, a)).collect()
            }
            Expr::Bin(f, a, b) => {
                let (a, b) = (self.expr(a), self.expr(b));
                a.into_iter().zip(b).map(|(a, b)| self.bin(*f, a, b)).collect()
            }
            Expr::Select(cmp, parts) => {
                let [a, b, x, y] = &**parts;
                let [a, b, x, y] = [a, b, x, y].map(|p| self.expr(p));
                let code = match cmp {
                    Cmp::Ge => FloatCC::GreaterThanOrEqual,
                    Cmp::Gt => FloatCC::GreaterThan,
                    Cmp::Eq => FloatCC::Equal,
                };
                (0..a.len()).map(|i| self.choose(code, a[i], b[i], x[i], y[i])).collect()
            }
        }
    }
}
