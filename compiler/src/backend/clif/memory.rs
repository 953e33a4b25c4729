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
        terms.sort_by_key(|(i, _)| (Some(*i) == self.lane, self.order.get(i).copied()));
        let start = if place.offset == 0 { base } else { self.b.ins().iadd_imm_s(base, place.offset * size) };
        self.affine(start, &terms, size)
    }

    /// How far lanes of a place are apart.
    pub(super) fn lane_stride(&self, place: &Place) -> i64 {
        place.terms.iter().filter(|(i, _)| Some(*i) == self.lane).map(|(_, s)| *s).sum()
    }

    /// The address of a place that vectors of a run share.
    fn shared(&mut self, place: &Place) -> Value {
        let key = (place.clone(), 4);
        if let Some(known) = self.places.get(&key) {
            return *known;
        }
        let address = self.address(place, 4);
        self.places.insert(key, address);
        address
    }

    /// Lanes of the vector at hand: four, or those that are left.
    fn here(&self) -> usize {
        (self.lanes - 4 * self.part).min(4)
    }

    pub(super) fn load(&mut self, place: &Place) -> Value {
        let address = self.shared(place);
        let stride = if self.lane.is_some() && self.lanes > 1 { self.lane_stride(place) } else { 0 };
        match (stride, self.here()) {
            (0, _) => {
                let x = self.b.ins().load(F32, self.flags, address, 0);
                self.b.ins().splat(F32X4, x)
            }
            (1, 4) => self.b.ins().load(F32X4, self.flags, address, 16 * self.part as i32),
            (stride, here) => {
                let first = self.lane_offset(stride, 4 * self.part);
                let x = self.b.ins().load(F32, self.flags, address, first);
                let mut vector = self.b.ins().splat(F32X4, x);
                for lane in 1..here {
                    let offset = self.lane_offset(stride, 4 * self.part + lane);
                    let x = self.b.ins().load(F32, self.flags, address, offset);
                    vector = self.b.ins().insertlane(vector, x, lane as u8);
                }
                vector
            }
        }
    }

    /// Distances of lanes are small: they are strides of one sample.
    pub(super) fn lane_offset(&self, stride: i64, lane: usize) -> i32 {
        i32::try_from(stride * lane as i64 * 4).unwrap_or(i32::MAX)
    }

    pub(super) fn store(&mut self, place: &Place, value: Value) {
        let address = self.shared(place);
        let stride = if self.lane.is_some() && self.lanes > 1 { self.lane_stride(place) } else { 0 };
        match (stride, self.here()) {
            (1, 4) => {
                self.b.ins().store(self.flags, value, address, 16 * self.part as i32);
            }
            (stride, here) => {
                // Equal places get the last lane's number.
                for lane in if stride == 0 { here - 1..here } else { 0..here } {
                    let x = self.b.ins().extractlane(value, lane as u8);
                    let offset = self.lane_offset(stride, 4 * self.part + lane);
                    self.b.ins().store(self.flags, x, address, offset);
                }
            }
        }
    }

    /// Where the bits of all lanes begin.
    pub(super) fn address_of_bits(&mut self, place: &Place) -> Value {
        // What moves by whole bytes, and indices that move by single bits and are multiples of eight.
        let (bytes, single): (Vec<_>, Vec<_>) = place.terms.iter().copied().partition(|(_, stride)| stride % 8 == 0);
        let terms = bytes.into_iter().map(|(int, stride)| (int, stride / 8)).collect();
        let address = self.address(&Place { arg: place.arg, terms, offset: place.offset / 8 }, 1);
        if single.is_empty() {
            return address;
        }
        let zero = self.b.ins().iconst(I64, 0);
        let bit = self.affine(zero, &single, 1);
        let byte = self.b.ins().ushr_imm_u(bit, 3);
        self.b.ins().iadd(address, byte)
    }

    /// The bits of four lanes for each vector from this one on, up to sixteen, in whole bytes.
    pub(super) fn store_bits(&mut self, address: Value, from: usize, bits: Value) {
        let lanes = (self.lanes - 4 * from).min(4 * PARTS_OF_BITS);
        let bits = if lanes.is_multiple_of(4) { bits } else { self.b.ins().band_imm_u(bits, (1i64 << lanes) - 1) };
        let at = (4 * from / 8) as i32;
        if lanes > 8 {
            self.b.ins().istore16(self.flags, bits, address, at);
        } else {
            self.b.ins().istore8(self.flags, bits, address, at);
        }
    }

    pub(super) fn combine(&mut self, place: &Place, value: &Expr, max: bool, error: Option<&Place>) {
        let bin = if max { Bin::Max } else { Bin::Add };
        if self.lanes > 1 && self.lane_stride(place) == 0 {
            return self.combine_all(place, value, bin, error);
        }
        for part in 0..self.width {
            self.part = part;
            let value = self.expr(value);
            let old = self.load(place);
            match error {
                None => {
                    let new = self.bin(bin, old, value);
                    self.store(place, new);
                }
                Some(at) => {
                    let error = self.load(at);
                    let (new, error) = self.compensated(old, error, value);
                    self.store(at, error);
                    self.store(place, new);
                }
            }
        }
        self.part = 0;
    }

    /// All lanes go to one place: whole vectors first, then lanes from the first to the last, then what is left of a vector.
    fn combine_all(&mut self, place: &Place, value: &Expr, bin: Bin, error: Option<&Place>) {
        let (whole, rest) = (self.lanes / 4, self.lanes % 4);
        let mut all: Option<Value> = None;
        let mut sum: Option<Value> = None;
        for part in 0..self.width {
            self.part = part;
            let value = self.expr(value);
            if part < whole {
                all = Some(all.map_or(value, |all| self.bin(bin, all, value)));
            }
            if part + 1 == whole || part == whole {
                let (from, lanes) = if part < whole { (all.unwrap_or(value), 4) } else { (value, rest) };
                for lane in 0..lanes {
                    let x = self.b.ins().extractlane(from, lane as u8);
                    let x = self.b.ins().splat(F32X4, x);
                    sum = Some(sum.map_or(x, |sum| self.bin(bin, sum, x)));
                }
            }
        }
        self.part = 0;
        let Some(sum) = sum else { return };
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
        self.affine(base, &[(index, 1)], self.lane_bytes)
    }
}
