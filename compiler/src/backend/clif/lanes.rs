//! What the lanes of a tile do where that is not Cranelift's: functions in wider vectors, which kernels call.

use super::Emitter;
use super::image::Body;
use crate::backend::avx2::{self, Input, May, Piece};
use crate::backend::context;
use crate::kernel::{Bound, Stmt, over_rows};
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{InstBuilder, StackSlotData, StackSlotKind, Value};
use cranelift_frontend::FunctionBuilder;

/// Where a frame begins: at a multiple of so many bytes.
const LINE: u32 = 64;

/// A function for the lanes of a loop.
#[derive(Debug)]
pub(super) struct Lanes {
    /// The address of the loop's body, which tells it from others.
    body: usize,
    lanes: usize,
    pub(super) piece: Piece,
}

/// The functions for all loops over lanes in a body that can be written.
pub(super) fn found(body: &[Stmt], may: May) -> Vec<Lanes> {
    let mut found = vec![];
    for stmt in body {
        match stmt {
            Stmt::For { index, from: Bound::Const(first), to: Bound::Const(end), lanes, body, .. } if *lanes > 1 => {
                // As they are run: so many at once, and what is left.
                let (all, at_once) = ((end - first).max(0) as usize, usize::from(*lanes));
                if over_rows(body) {
                    match avx2::rows(body, *index, at_once, may) {
                        Some(piece) => found.push(Lanes { body: body.as_ptr() as usize, lanes: at_once, piece }),
                        None => found.extend(self::found(body, may)),
                    }
                    continue;
                }
                let some = [(all / at_once > 0).then_some(at_once), (!all.is_multiple_of(at_once)).then_some(all % at_once)];
                for lanes in some.into_iter().flatten() {
                    let piece = avx2::piece(body, *index, lanes, may);
                    found.extend(piece.map(|piece| Lanes { body: body.as_ptr() as usize, lanes, piece }));
                }
            }
            Stmt::For { body, .. } | Stmt::While(_, body) | Stmt::If(_, body) => found.extend(self::found(body, may)),
            _ => {}
        }
    }
    found
}

/// Room for what these functions work in: the largest needs it all.
pub(super) fn frame(all: &[Lanes], b: &mut FunctionBuilder<'_>) -> Option<Value> {
    let most = all.iter().map(|l| l.piece.frame).max()?;
    let size = u32::try_from(most).ok()? + LINE;
    let slot = b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, size, 4));
    let start = b.ins().stack_addr(I64, slot, i64::from(LINE - 1) as i32);
    Some(b.ins().band_imm_s(start, -i64::from(LINE)))
}

impl Emitter<'_> {
    /// The number of the function for so many lanes of a loop with this body.
    pub(super) fn called(&self, body: &[Stmt], lanes: usize) -> Option<usize> {
        self.plant.lanes[self.number].iter().position(|l| l.body == body.as_ptr() as usize && l.lanes == lanes)
    }

    /// Hands it what it needs, and calls it.
    pub(super) fn call(&mut self, number: usize) {
        let (plant, kernel) = (self.plant, self.number);
        // There is one wherever there are such functions.
        let Some(frame) = self.frame else { return };
        self.places.clear();
        for (i, input) in plant.lanes[kernel][number].piece.inputs.iter().enumerate() {
            let value = match input {
                Input::Address(place, size) => self.address(place, *size),
                Input::Bits(place) => self.address_of_bits(place),
                Input::Int(int) => self.int(*int),
                Input::Steps => self.b.ins().load(I64, self.flags, self.ctx, context::STEPS),
            };
            self.b.ins().store(self.flags, value, frame, 8 * i as i32);
        }
        if let Some(function) = plant.number(|b| matches!(b, Body::Lanes(k, n) if (*k, *n) == (kernel, number))) {
            let function = plant.import(&mut self.b, function);
            self.b.ins().call(function, &[frame]);
        }
    }
}
