//! The functions around the kernels: taking batches in, walking the loops, handing results out. All that an inference does
//! outside the kernels is here, so that the proof covers it; only threads are the caller's.

use super::image::{Body, HEADER, Plant};
use super::memory::add_multiple;
use super::{CodeError, context};
use crate::program::{Loop, Purpose};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F32X4, I32, I64};
use cranelift_codegen::ir::{Block, InstBuilder, MemFlagsData, Value};
use cranelift_frontend::FunctionBuilder;

/// Writes one function.
pub(super) fn write(plant: &Plant<'_>, body: &Body, b: FunctionBuilder<'_>, params: &[Value]) -> Result<(), CodeError> {
    let missing = || CodeError("a function has too few parameters".into());
    let (ctx, rest) = params.split_first().ok_or_else(missing)?;
    let mut w = Writer { plant, b, ctx: *ctx, flags: MemFlagsData::new().with_notrap() };
    match (body, rest) {
        (Body::Kernel(_) | Body::Lanes(..), _) => return Err(CodeError("a kernel is no driver".into())),
        (Body::Drive(i), [from, to]) => w.drive(*i, *from, *to)?,
        (Body::Init, [memory, weights]) => w.init(*memory, *weights)?,
        (Body::Reset, []) => w.reset(),
        (Body::Enter, [input, samples, steps]) => w.enter(*input, *samples, *steps)?,
        (Body::Leave, [logits]) => w.leave(*logits)?,
        (Body::Step, []) => w.step()?,
        (Body::Run { all }, [input, samples, logits]) => w.run(*all, *input, *samples, *logits)?,
        _ => return Err(missing()),
    }
    w.b.finalize(plant.target.isa().frontend_config());
    Ok(())
}

struct Writer<'p, 'b> {
    plant: &'p Plant<'p>,
    b: FunctionBuilder<'b>,
    ctx: Value,
    flags: MemFlagsData,
}

impl Writer<'_, '_> {
    fn load(&mut self, offset: i32) -> Value {
        self.b.ins().load(I64, self.flags, self.ctx, offset)
    }

    fn store(&mut self, value: Value, offset: i32) {
        self.b.ins().store(self.flags, value, self.ctx, offset);
    }

    fn constant(&mut self, value: i64) -> Value {
        self.b.ins().iconst(I64, value)
    }

    fn call(&mut self, wanted: impl Fn(&Body) -> bool, args: &[Value]) -> Result<Option<Value>, CodeError> {
        let number = self.plant.number(wanted).ok_or_else(|| CodeError("a function that is called is not there".into()))?;
        let function = self.plant.import(&mut self.b, number);
        let call = self.b.ins().call(function, args);
        Ok(self.b.inst_results(call).first().copied())
    }

    fn the_loop(&self, index: usize) -> Result<Loop, CodeError> {
        self.plant.program.loops().nth(index).map(|(_, l)| l.clone()).ok_or_else(|| CodeError("there is no such loop".into()))
    }

    /// A block that the code goes on in.
    fn begin(&mut self, block: Block) {
        self.b.switch_to_block(block);
    }

    /// `while more() { body() }`: the condition and the body are written where they stand.
    fn repeat(
        &mut self,
        more: impl FnOnce(&mut Self) -> Value,
        body: impl FnOnce(&mut Self) -> Result<(), CodeError>,
    ) -> Result<(), CodeError> {
        let (head, inside, exit) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().jump(head, &[]);
        self.begin(head);
        let again = more(self);
        self.b.ins().brif(again, inside, &[], exit, &[]);
        self.begin(inside);
        self.b.seal_block(inside);
        body(self)?;
        self.b.ins().jump(head, &[]);
        self.b.seal_block(head);
        self.begin(exit);
        self.b.seal_block(exit);
        Ok(())
    }

    /// Runs the ranges of a loop from one to before another.
    fn drive(&mut self, index: usize, from: Value, to: Value) -> Result<(), CodeError> {
        let l = self.the_loop(index)?;
        let table = self.b.ins().iadd_imm_s(self.ctx, i64::from(self.plant.tables[index]));
        let extent = match l.extent {
            Some(n) => self.constant(n as i64),
            None => self.units(&l),
        };
        let range = self.b.declare_var(I64);
        let grain = l.grain as i64;
        self.b.def_var(range, from);
        self.repeat(
            |w| {
                let now = w.b.use_var(range);
                w.b.ins().icmp(IntCC::SignedLessThan, now, to)
            },
            |w| {
                let (number, zero) = (w.b.use_var(range), w.constant(0));
                let first = add_multiple(&mut w.b, zero, number, grain);
                let end = w.b.ins().iadd_imm_s(first, grain);
                let end = w.b.ins().smin(end, extent);
                let ctx = w.ctx;
                w.call(|b| matches!(b, Body::Kernel(i) if *i == l.kernel.index()), &[ctx, table, first, end, number])?;
                let next = w.b.ins().iadd_imm_s(number, 1);
                w.b.def_var(range, next);
                Ok(())
            },
        )?;
        self.b.ins().return_(&[]);
        Ok(())
    }

    /// Connects context, memory and weights, unless the weights are those of another program.
    fn init(&mut self, memory: Value, weights: Value) -> Result<(), CodeError> {
        let id = self.b.ins().load(I64, self.flags, weights, 0);
        let own = self.constant(self.plant.id.cast_signed());
        let same = self.b.ins().icmp(IntCC::Equal, id, own);
        self.insist(same);
        self.store(weights, context::WEIGHTS);
        let weights = self.b.ins().iadd_imm_s(weights, HEADER as i64);
        let zero = self.constant(0);
        for offset in (0..context::ARGS).step_by(8).filter(|o| *o != context::WEIGHTS) {
            self.store(zero, offset);
        }
        let place = |w: &mut Self, buffer: usize, to: i32| {
            let base = if w.plant.plan.weighs[buffer] { weights } else { memory };
            let address = w.b.ins().iadd_imm_s(base, w.plant.plan.offsets[buffer] as i64 * 4);
            w.store(address, to);
        };
        let doors = [(&self.plant.program.enter, context::ENTER), (&self.plant.program.leave, context::LEAVE)];
        for (door, to) in doors {
            if let Some(door) = door {
                place(self, door.view.buffer.index(), to);
            }
        }
        for (table, (_, l)) in self.plant.tables.iter().zip(self.plant.program.loops()) {
            for (i, arg) in l.args.iter().enumerate() {
                place(self, arg.index(), table + 8 * i as i32);
            }
        }
        let ctx = self.ctx;
        self.call(|b| matches!(b, Body::Reset), &[ctx])?;
        self.give(0);
        Ok(())
    }

    /// Goes on if a condition holds; otherwise the function gives 1.
    fn insist(&mut self, holds: Value) {
        let (on, refused) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(holds, on, &[], refused, &[]);
        self.begin(refused);
        self.b.seal_block(refused);
        self.give(1);
        self.begin(on);
        self.b.seal_block(on);
    }

    fn give(&mut self, value: i64) {
        let value = self.b.ins().iconst(I32, value);
        self.b.ins().return_(&[value]);
    }

    /// Sets all states to their start.
    fn reset(&mut self) {
        let zero = self.constant(0);
        self.store(zero, context::STARTED);
        self.store(zero, context::NEXT);
        let sizes = &self.plant.plan.sizes;
        for (i, buffer) in self.plant.program.buffers.iter().enumerate() {
            let Purpose::State(bits) = buffer.purpose else { continue };
            let mut slots = self.plant.tables.iter().zip(self.plant.program.loops());
            let slot = slots.find_map(|(table, (_, l))| Some(table + 8 * l.args.iter().position(|a| a.index() == i)? as i32));
            let Some(slot) = slot else { continue };
            let from = self.load(slot);
            // Buffers have room for whole vectors.
            let to = self.b.ins().iadd_imm_s(from, sizes[i].next_multiple_of(4) as i64 * 4);
            let value = self.b.ins().f32const(f32::from_bits(bits));
            let value = self.b.ins().splat(F32X4, value);
            let at = self.b.declare_var(I64);
            self.b.def_var(at, from);
            let filled = self.repeat(
                |w| {
                    let now = w.b.use_var(at);
                    w.b.ins().icmp(IntCC::UnsignedLessThan, now, to)
                },
                |w| {
                    let now = w.b.use_var(at);
                    w.b.ins().store(w.flags, value, now, 0);
                    let next = w.b.ins().iadd_imm_s(now, 16);
                    w.b.def_var(at, next);
                    Ok(())
                },
            );
            debug_assert!(filled.is_ok());
        }
        self.b.ins().return_(&[]);
    }

    fn enter(&mut self, input: Value, samples: Value, steps: Value) -> Result<(), CodeError> {
        self.store(input, context::ENTER + 8);
        self.store(samples, context::SAMPLES);
        self.store(steps, context::STEPS);
        let first = self.load(context::NEXT);
        self.store(first, context::FIRST);
        let next = self.b.ins().iadd(first, steps);
        self.store(next, context::NEXT);
        for (count, offset) in [(samples, context::BATCH), (steps, context::STEPS_REAL)] {
            let real = self.b.ins().fcvt_from_sint(F32, count);
            self.b.ins().store(self.flags, real, self.ctx, offset);
        }
        // What hangs on no input has none.
        if let Some(door) = &self.plant.program.enter {
            self.door(context::ENTER, samples, door.kernel.index())?;
        }
        self.b.ins().return_(&[]);
        Ok(())
    }

    fn leave(&mut self, logits: Value) -> Result<(), CodeError> {
        self.store(logits, context::LEAVE + 8);
        let samples = self.load(context::SAMPLES);
        if let Some(door) = &self.plant.program.leave {
            self.door(context::LEAVE, samples, door.kernel.index())?;
        }
        self.b.ins().return_(&[]);
        Ok(())
    }

    fn door(&mut self, table: i32, samples: Value, kernel: usize) -> Result<(), CodeError> {
        let table = self.b.ins().iadd_imm_s(self.ctx, i64::from(table));
        let (zero, ctx) = (self.constant(0), self.ctx);
        self.call(|b| matches!(b, Body::Kernel(i) if *i == kernel), &[ctx, table, zero, samples, zero])?;
        Ok(())
    }

    /// All loops in order, on this thread.
    fn step(&mut self) -> Result<(), CodeError> {
        let program = self.plant.program;
        let mut index = 0;
        for group in &program.groups {
            let after = group.once.then(|| self.b.create_block());
            if let Some(after) = after {
                let inside = self.b.create_block();
                let started = self.load(context::STARTED);
                self.b.ins().brif(started, after, &[], inside, &[]);
                self.begin(inside);
                self.b.seal_block(inside);
            }
            if let [first, _, ..] = group.loops.as_slice() {
                let ranges = self.ranges(first)?;
                self.store(ranges, context::RANGES);
            }
            for l in &group.loops {
                let (zero, ranges, ctx) = (self.constant(0), self.ranges(l)?, self.ctx);
                self.call(|b| matches!(b, Body::Drive(i) if *i == index), &[ctx, zero, ranges])?;
                index += 1;
            }
            if let Some(after) = after {
                self.b.ins().jump(after, &[]);
                self.begin(after);
                self.b.seal_block(after);
            }
        }
        let one = self.constant(1);
        self.store(one, context::STARTED);
        self.b.ins().return_(&[]);
        Ok(())
    }

    /// Parts of all samples.
    fn units(&mut self, l: &Loop) -> Value {
        let samples = self.load(context::SAMPLES);
        self.b.ins().ishl_imm_u(samples, i64::from(l.parts.trailing_zeros()))
    }

    /// Into how many ranges a loop is cut.
    fn ranges(&mut self, l: &Loop) -> Result<Value, CodeError> {
        if let Some(extent) = l.extent {
            return Ok(self.constant(extent.div_ceil(l.grain).max(1) as i64));
        }
        if !l.grain.is_power_of_two() {
            return Err(CodeError("samples are cut by a number that is no power of two".into()));
        }
        let units = self.units(l);
        let last = self.b.ins().iadd_imm_s(units, l.grain as i64 - 1);
        Ok(self.b.ins().sshr_imm_u(last, i64::from(l.grain.trailing_zeros())))
    }

    /// A whole inference, or one more time step of one.
    fn run(&mut self, all: bool, input: Value, samples: Value, logits: Value) -> Result<(), CodeError> {
        let most = self.constant(self.plant.batch as i64);
        let less = self.b.ins().iadd_imm_s(samples, -1);
        let within = self.b.ins().icmp(IntCC::UnsignedLessThan, less, most);
        self.insist(within);
        let ctx = self.ctx;
        if all {
            self.call(|b| matches!(b, Body::Reset), &[ctx])?;
        } else {
            // Tables over the time steps end with the last.
            let done = self.load(context::NEXT);
            let left = self.b.ins().icmp_imm_s(IntCC::UnsignedLessThan, done, self.plant.program.time as i64);
            self.insist(left);
        }
        let steps = self.constant(if all { self.plant.program.time as i64 } else { 1 });
        self.call(|b| matches!(b, Body::Enter), &[ctx, input, samples, steps])?;
        self.call(|b| matches!(b, Body::Step), &[ctx])?;
        self.call(|b| matches!(b, Body::Leave), &[ctx, logits])?;
        self.give(0);
        Ok(())
    }
}
