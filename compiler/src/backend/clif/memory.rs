//! Addresses, loads and stores of one lane or several.

use super::*;

/// start + index · factor, by shifts and additions: of the digits -1, 0 and 1 that the factor has in base two (in the form
/// where no two neighbours are other than 0).
pub(super) fn add_multiple(b: &mut FunctionBuilder<'_>, start: Value, index: Value, factor: i64) -> Value {
    let (mut sum, mut rest, mut place) = (start, factor, 0);
    while rest != 0 {
        let zeros = rest.trailing_zeros();
        rest >>= zeros;
        place += zeros;
        let digit = 2 - (rest & 3);
        let term = if place == 0 { index } else { b.ins().ishl_imm_u(index, i64::from(place)) };
        sum = if digit > 0 { b.ins().iadd(sum, term) } else { b.ins().isub(sum, term) };
        rest -= digit;
    }
    sum
}

impl Emitter<'_> {
    /// start + Σ index · factor · size
    pub(super) fn affine(&mut self, start: Value, terms: &[(Int, i64)], size: i64) -> Value {
        let mut sum = start;
        for (int, factor) in terms {
            let index = self.int(*int);
            let factor = factor * size;
            sum = if self.may_multiply && factor.count_ones() > 1 {
                let term = self.b.ins().imul_imm_s(index, factor);
                self.b.ins().iadd(sum, term)
            } else {
                add_multiple(&mut self.b, sum, index, factor)
            };
        }
        sum
    }

    pub(super) fn address(&mut self, place: &Place, size: i64) -> Value {
        let base = self.args[place.arg];
        // What the innermost index adds comes last, so that the rest can be computed before the loop.
        let mut terms = place.terms.clone();
        terms.sort_by_key(|(i, _)| (Some(*i) == self.lane, *i));
        let start = if place.offset == 0 { base } else { self.b.ins().iadd_imm_s(base, place.offset * size) };
        self.affine(start, &terms, size)
    }

    /// How far lanes of a place are apart.
    pub(super) fn lane_stride(&self, place: &Place) -> i64 {
        place.terms.iter().filter(|(i, _)| Some(*i) == self.lane).map(|(_, s)| *s).sum()
    }

    pub(super) fn load(&mut self, place: &Place) -> Vec<Value> {
        let address = self.address(place, 4);
        if self.width == 1 {
            let x = self.b.ins().load(F32, self.flags, address, 0);
            return vec![self.b.ins().splat(F32X4, x)];
        }
        match self.lane_stride(place) {
            1 => (0..self.width).map(|i| self.b.ins().load(F32X4, self.flags, address, 16 * i as i32)).collect(),
            0 => {
                let x = self.b.ins().load(F32, self.flags, address, 0);
                let all = self.b.ins().splat(F32X4, x);
                vec![all; self.width]
            }
            stride => (0..self.width)
                .map(|i| {
                    let mut vector = None;
                    for lane in 0..4 {
                        let offset = self.lane_offset(stride, 4 * i + lane);
                        let x = self.b.ins().load(F32, self.flags, address, offset);
                        vector = Some(match vector {
                            None => self.b.ins().splat(F32X4, x),
                            Some(v) => self.b.ins().insertlane(v, x, lane as u8),
                        });
                    }
                    vector.unwrap_or(address)
                })
                .collect(),
        }
    }

    /// Distances of lanes are small: they are strides of one sample.
    pub(super) fn lane_offset(&self, stride: i64, lane: usize) -> i32 {
        i32::try_from(stride * lane as i64 * 4).unwrap_or(i32::MAX)
    }

    pub(super) fn store(&mut self, place: &Place, values: &[Value]) {
        let address = self.address(place, 4);
        if self.width == 1 {
            let x = self.b.ins().extractlane(values[0], 0);
            self.b.ins().store(self.flags, x, address, 0);
            return;
        }
        match self.lane_stride(place) {
            1 => {
                for (i, value) in values.iter().enumerate() {
                    self.b.ins().store(self.flags, *value, address, 16 * i as i32);
                }
            }
            // Equal places get the last lane's number.
            stride => {
                for (i, value) in values.iter().enumerate() {
                    for lane in 0..4 {
                        let x = self.b.ins().extractlane(*value, lane as u8);
                        let offset = self.lane_offset(stride, 4 * i + lane);
                        self.b.ins().store(self.flags, x, address, offset);
                    }
                }
            }
        }
    }

    pub(super) fn combine(&mut self, place: &Place, value: &Expr, max: bool, error: Option<&Place>) {
        let values = self.expr(value);
        let bin = if max { Bin::Max } else { Bin::Add };
        if self.width > 1 && self.lane_stride(place) == 0 {
            // All lanes go to one place: vectors first, then lanes from the first to the last.
            let mut all = values[0];
            for value in &values[1..] {
                all = self.bin(bin, all, *value);
            }
            let mut sum = {
                let x = self.b.ins().extractlane(all, 0);
                self.b.ins().splat(F32X4, x)
            };
            for lane in 1..4 {
                let x = self.b.ins().extractlane(all, lane);
                let x = self.b.ins().splat(F32X4, x);
                sum = self.bin(bin, sum, x);
            }
            let address = self.address(place, 4);
            let old = self.b.ins().load(F32, self.flags, address, 0);
            let old = self.b.ins().splat(F32X4, old);
            let new = match error {
                None => self.bin(bin, old, sum),
                Some(place) => {
                    let address = self.address(place, 4);
                    let error = self.b.ins().load(F32, self.flags, address, 0);
                    let error = self.b.ins().splat(F32X4, error);
                    let (new, error) = self.compensated(old, error, sum);
                    let x = self.b.ins().extractlane(error, 0);
                    self.b.ins().store(self.flags, x, address, 0);
                    new
                }
            };
            let x = self.b.ins().extractlane(new, 0);
            self.b.ins().store(self.flags, x, address, 0);
            return;
        }
        let old = self.load(place);
        if let Some(at) = error {
            let errors = self.load(at);
            let sums = old.into_iter().zip(errors).zip(values);
            let (new, errors): (Vec<Value>, Vec<Value>) = sums.map(|((o, e), v)| self.compensated(o, e, v)).unzip();
            self.store(at, &errors);
            return self.store(place, &new);
        }
        let new: Vec<Value> = old.into_iter().zip(values).map(|(o, v)| self.bin(bin, o, v)).collect();
        self.store(place, &new);
    }

    /// The sum of `old` and what `value` is more than `error`, and by how much rounding has made it too large.
    fn compensated(&mut self, old: Value, error: Value, value: Value) -> (Value, Value) {
        let value = self.bin(Bin::Sub, value, error);
        let new = self.bin(Bin::Add, old, value);
        let gained = self.bin(Bin::Sub, new, old);
        (new, self.bin(Bin::Sub, gained, value))
    }

    pub(super) fn scratch_address(&mut self, array: usize, index: Int) -> Value {
        let base = self.b.ins().stack_addr(I64, self.scratch[array], 0);
        self.affine(base, &[(index, 1)], 32)
    }
}
