//! Functions of numbers: bits, shifts, polynomials.

use super::*;
use crate::lower::hyper;

impl Emitter<'_> {
    pub(super) fn nonzero(&mut self, x: Value) -> Value {
        let zero = self.splat(0.0);
        self.b.ins().fcmp(FloatCC::NotEqual, x, zero)
    }

    pub(super) fn choose(&mut self, code: FloatCC, a: Value, b: Value, x: Value, y: Value) -> Value {
        let mask = self.b.ins().fcmp(code, a, b);
        let mask = self.as_float(mask);
        self.b.ins().bitselect(mask, x, y)
    }

    pub(super) fn bin(&mut self, f: Bin, a: Value, b: Value) -> Value {
        match f {
            Bin::Add => self.b.ins().fadd(a, b),
            Bin::Sub => self.b.ins().fsub(a, b),
            Bin::Mul => self.b.ins().fmul(a, b),
            Bin::Div => self.b.ins().fdiv(a, b),
            // The forms that become one instruction.
            Bin::Min => self.choose(FloatCC::LessThan, a, b, a, b),
            Bin::Max => self.choose(FloatCC::LessThan, b, a, a, b),
            Bin::BitAnd => self.b.ins().band(a, b),
            Bin::BitXor => self.b.ins().bxor(a, b),
        }
    }

    pub(super) fn un(&mut self, f: Un, x: Value) -> Value {
        match f {
            Un::Neg => self.b.ins().fneg(x),
            Un::Abs => self.b.ins().fabs(x),
            Un::Sqrt => self.b.ins().sqrt(x),
            Un::Exp => self.exp(x),
            Un::Ln => self.ln(x),
            Un::Shift(k) => self.shift(x, k),
            Un::Doubled(_) => unreachable!("fusion spells it out"),
        }
    }

    pub(super) fn as_int(&mut self, x: Value) -> Value {
        self.b.ins().bitcast(I32X4, MemFlagsData::new(), x)
    }

    pub(super) fn as_float(&mut self, x: Value) -> Value {
        self.b.ins().bitcast(F32X4, MemFlagsData::new(), x)
    }

    /// x · 2^-k: the exponent field less k, or a signed zero where it would leave the normal range.
    pub(super) fn shift(&mut self, x: Value, k: i8) -> Value {
        let bits = self.as_int(x);
        let field = self.splat_int(0x7f80_0000);
        let exponent = self.b.ins().band(bits, field);
        let by = self.splat_int(i32::from(k) << 23);
        let moved = self.b.ins().isub(bits, by);
        let least = self.splat_int(i32::from(k.max(0)) << 23);
        let normal = self.b.ins().icmp(IntCC::SignedGreaterThan, exponent, least);
        let sign = self.splat_int(i32::MIN);
        let zero = self.b.ins().band(bits, sign);
        let result = self.b.ins().bitselect(normal, moved, zero);
        self.as_float(result)
    }

    /// Horner's rule.
    pub(super) fn polynomial(&mut self, x: Value, coefficients: &[f32]) -> Value {
        let mut sum = self.splat(coefficients[0]);
        for c in &coefficients[1..] {
            let product = self.b.ins().fmul(sum, x);
            let c = self.splat(*c);
            sum = self.b.ins().fadd(product, c);
        }
        sum
    }

    /// e^x = 2^n e^r with |r| ≤ ln 2 / 2 and a polynomial of degree 6 (coefficients of Cephes' expf); within 2 ULP for
    /// -86.6 ≤ x ≤ 88.7, and as at these bounds beyond them.
    pub(super) fn exp(&mut self, x: Value) -> Value {
        let (low, high) = (self.splat(-86.6), self.splat(88.722_83));
        let x = self.bin(Bin::Max, x, low);
        let x = self.bin(Bin::Min, x, high);
        let log2e = self.splat(std::f32::consts::LOG2_E);
        let scaled = self.b.ins().fmul(x, log2e);
        // Added to this number, a small one is rounded, and stands in the lowest bits.
        let round = self.splat(12_582_912.0);
        let rounded = self.b.ins().fadd(scaled, round);
        let n = self.b.ins().fsub(rounded, round);
        // ln 2 in two parts, so that n · ln 2 is subtracted exactly.
        let (big, small) = (self.splat(0.693_359_4), self.splat(-2.121_944_4e-4));
        let first = self.b.ins().fmul(n, big);
        let r = self.b.ins().fsub(x, first);
        let second = self.b.ins().fmul(n, small);
        let r = self.b.ins().fsub(r, second);
        let p = self.polynomial(r, &[1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5]);
        let square = self.b.ins().fmul(r, r);
        let p = self.b.ins().fmul(p, square);
        let p = self.b.ins().fadd(p, r);
        let one = self.splat(1.0);
        let p = self.b.ins().fadd(p, one);
        // 2 p · 2^(n - 1): n may be 128, one more than an exponent holds.
        let twice = self.b.ins().fadd(p, p);
        let bits = self.as_int(rounded);
        let bits = self.b.ins().ishl_imm_u(bits, 23);
        let bias = self.splat_int(126 << 23);
        let bits = self.b.ins().iadd(bits, bias);
        let power = self.as_float(bits);
        self.b.ins().fmul(twice, power)
    }

    /// ln x = e ln 2 + ln m with m from √½ to √2 and a polynomial of degree 9 (coefficients of Cephes' logf); x > 0.
    pub(super) fn ln(&mut self, x: Value) -> Value {
        let bits = self.as_int(x);
        let offset = self.splat_int(0x3f35_04f3);
        let above = self.b.ins().isub(bits, offset);
        let e = self.b.ins().sshr_imm_u(above, 23);
        let moved = self.b.ins().ishl_imm_u(e, 23);
        let mantissa = self.b.ins().isub(bits, moved);
        let m = self.as_float(mantissa);
        let one = self.splat(1.0);
        let f = self.b.ins().fsub(m, one);
        let p = self.polynomial(
            f,
            &[
                7.037_683_6e-2, -0.115_146_1, 0.116_769_98, -0.124_201_41, 0.142_493_23, -0.166_680_57, 0.200_007_15, -0.249_999_94,
                0.333_333_3,
            ],
        );
        let square = self.b.ins().fmul(f, f);
        let cube = self.b.ins().fmul(square, f);
        let p = self.b.ins().fmul(p, cube);
        let e = self.b.ins().fcvt_from_sint(F32X4, e);
        let (small, big, half) = (self.splat(-2.121_944_4e-4), self.splat(0.693_359_4), self.splat(0.5));
        let low = self.b.ins().fmul(e, small);
        let p = self.b.ins().fadd(p, low);
        let half_square = self.b.ins().fmul(square, half);
        let p = self.b.ins().fsub(p, half_square);
        let sum = self.b.ins().fadd(f, p);
        let high = self.b.ins().fmul(e, big);
        self.b.ins().fadd(sum, high)
    }

    /// Numbers from 0 to below 1: an integer hash of element, site and seed (Wellons' `lowbias32`), its upper 24 bits.
    pub(super) fn random(&mut self, site: u32, terms: &[(Int, i64)]) -> Value {
        let zero = self.b.ins().iconst(I64, 0);
        let element = self.affine(zero, terms, 1);
        let element = self.b.ins().ireduce(I32, element);
        let seed = self.b.ins().load(F32, self.flags, self.ctx, context::HYPER + 4 * hyper::SEED as i32);
        let seed = self.b.ins().fcvt_to_sint_sat(I32, seed);
        // Sites and seeds far apart, so that no two count through the same numbers.
        let seed = self.b.ins().imul_imm_s(seed, 0x9e37_79b9u32 as i32 as i64);
        let start = self.b.ins().iadd_imm_s(seed, i64::from(site.wrapping_mul(0x85eb_ca6b) as i32));
        let stride: i64 = terms.iter().filter(|(i, _)| Some(*i) == self.lane).map(|(_, s)| *s).sum();
        let stride = if self.lanes == 1 { 0 } else { stride };
        let mut lanes = None;
        for lane in 0..4 {
            let place = self.b.ins().iadd_imm_s(element, stride * (4 * self.part as i64 + lane));
            let place = self.b.ins().imul_imm_s(place, 0x9e37_79b9u32 as i32 as i64);
            let mut x = self.b.ins().bxor(place, start);
            for (shift, factor) in [(16, 0x7feb_352du32), (15, 0x846c_a68b), (16, 1)] {
                let high = self.b.ins().ushr_imm_u(x, shift);
                x = self.b.ins().bxor(x, high);
                x = self.b.ins().imul_imm_s(x, i64::from(factor as i32));
            }
            let x = self.b.ins().ushr_imm_u(x, 8);
            let x = self.b.ins().fcvt_from_sint(F32, x);
            lanes = Some(match lanes {
                None => self.b.ins().splat(F32X4, x),
                Some(v) => self.b.ins().insertlane(v, x, lane as u8),
            });
        }
        let unit = self.splat(2f32.powi(-24));
        self.b.ins().fmul(lanes.unwrap_or(unit), unit)
    }
}
