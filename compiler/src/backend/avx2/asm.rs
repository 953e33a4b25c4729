//! Instructions of x86-64 with AVX2 as bytes: those that [`super`] writes, in vectors of 256 bits, which Cranelift does not have.
//!
//! Encodings are those of Intel's manual, volume 2; the tests read them back with a disassembler.

/// A general register, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gpr(pub(super) u8);

/// The first argument; where the frame begins.
pub(super) const FRAME: Gpr = Gpr(7);
/// Registers that a function may use without keeping what is in them, by the convention of System V.
pub(super) const FREE: [Gpr; 8] = [Gpr(0), Gpr(1), Gpr(2), Gpr(6), Gpr(8), Gpr(9), Gpr(10), Gpr(11)];

/// A vector register, by its number: eight numbers of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ymm(pub(super) u8);

/// A place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mem {
    pub(super) base: Gpr,
    pub(super) index: Option<Gpr>,
    pub(super) offset: i32,
}

impl Mem {
    pub(super) fn at(base: Gpr, offset: i32) -> Mem {
        Mem { base, index: None, offset }
    }
}

/// The last operand of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Reg(Ymm),
    Mem(Mem),
    /// A constant behind the code, by its number.
    Constant(usize),
}

/// An instruction of two or three vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Op {
    map: u8,
    prefix: u8,
    code: u8,
}

const fn plain(code: u8) -> Op {
    Op { map: 1, prefix: 0, code }
}

const fn on_ints(code: u8) -> Op {
    Op { map: 1, prefix: 1, code }
}

pub(super) const LOAD: Op = plain(0x10);
pub(super) const STORE: Op = plain(0x11);
pub(super) const AND: Op = plain(0x54);
/// What is not in the first, and in the second.
pub(super) const AND_NOT: Op = plain(0x55);
pub(super) const XOR: Op = plain(0x57);
pub(super) const ADD: Op = plain(0x58);
pub(super) const MUL: Op = plain(0x59);
pub(super) const SUB: Op = plain(0x5c);
pub(super) const MIN: Op = plain(0x5d);
pub(super) const MAX: Op = plain(0x5f);
pub(super) const SUB_INTS: Op = on_ints(0xfa);
pub(super) const GREATER_INTS: Op = on_ints(0x66);
pub(super) const AND_INTS: Op = on_ints(0xdb);
const BROADCAST: Op = Op { map: 2, prefix: 1, code: 0x18 };
const MASKED_LOAD: Op = Op { map: 2, prefix: 1, code: 0x2c };
/// dst += a · b
pub(super) const FUSED: Op = Op { map: 2, prefix: 1, code: 0xb8 };
const COMPARE: Op = plain(0xc2);
const BLEND: Op = Op { map: 3, prefix: 1, code: 0x4a };
const UPPER_HALF: Op = Op { map: 3, prefix: 1, code: 0x19 };
const ONE_LANE: Op = Op { map: 3, prefix: 1, code: 0x17 };
const LOWER_TWO: Op = plain(0x13);
const MASK: Op = plain(0x50);
const WHOLE: Op = Op { map: 1, prefix: 2, code: 0x2c };

/// Comparisons `a ? b`.
pub(super) const EQUAL: u8 = 0;
pub(super) const LESS: u8 = 1;
pub(super) const AT_MOST: u8 = 2;
pub(super) const NOT_EQUAL: u8 = 4;

/// Conditions of jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// Unsigned: the first is at least the second.
    NotBelow,
    /// Signed: the first is at least the second.
    NotLess,
    /// Signed: the first is at most the second.
    NotMore,
    Equal,
    NotEqual,
    /// Unsigned: the first is less.
    Below,
}

/// A place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// Code in the making.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    bytes: Vec<u8>,
    labels: Vec<Option<usize>>,
    /// Where the distance to a label goes, which counts from behind it.
    jumps: Vec<(usize, Label)>,
    constants: Vec<[u32; 8]>,
    /// Where the distance to a constant goes, and what it counts from.
    reads: Vec<(usize, usize, usize)>,
}

impl Assembler {
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    pub(super) fn here(&mut self, label: Label) {
        self.labels[label.0] = Some(self.bytes.len());
    }

    /// The number of a constant of eight words.
    pub(super) fn constant(&mut self, words: [u32; 8]) -> usize {
        if let Some(known) = self.constants.iter().position(|c| *c == words) {
            return known;
        }
        self.constants.push(words);
        self.constants.len() - 1
    }

    fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    fn word(&mut self, word: i32) {
        self.bytes.extend_from_slice(&word.to_le_bytes());
    }

    /// The bytes that name operands: `reg`, and a register or a place in memory; behind them come `after` bytes.
    fn operands(&mut self, reg: u8, operand: Operand, after: usize) {
        let reg = (reg & 7) << 3;
        match operand {
            Operand::Reg(Ymm(rm)) => self.byte(0xc0 | reg | rm & 7),
            Operand::Constant(number) => {
                self.byte(reg | 5);
                let at = self.bytes.len();
                self.word(0);
                self.reads.push((at, at + 4 + after, number));
            }
            Operand::Mem(Mem { base, index, offset }) => {
                // No base here is one of those that mean something else without an offset.
                let mode = match offset {
                    0 => 0,
                    -128..=127 => 0x40,
                    _ => 0x80,
                };
                match index {
                    Some(index) => {
                        self.byte(mode | reg | 4);
                        self.byte((index.0 & 7) << 3 | base.0 & 7);
                    }
                    None => self.byte(mode | reg | base.0 & 7),
                }
                match mode {
                    0x40 => self.byte(offset as u8),
                    0x80 => self.word(offset),
                    _ => {}
                }
            }
        }
    }

    fn vex(&mut self, op: Op, wide: bool, reg: u8, first: u8, operand: Operand, after: usize) {
        let (x, b) = match operand {
            Operand::Reg(Ymm(rm)) => (0, rm >> 3),
            Operand::Mem(Mem { base, index, .. }) => (index.map_or(0, |i| i.0 >> 3), base.0 >> 3),
            Operand::Constant(_) => (0, 0),
        };
        self.byte(0xc4);
        self.byte((!(reg >> 3) & 1) << 7 | (!x & 1) << 6 | (!b & 1) << 5 | op.map);
        self.byte((!first & 15) << 3 | u8::from(wide) << 2 | op.prefix);
        self.byte(op.code);
        self.operands(reg, operand, after);
    }

    /// `dst = a op b`
    pub(super) fn three(&mut self, op: Op, dst: Ymm, a: Ymm, b: Operand) {
        self.vex(op, true, dst.0, a.0, b, 0);
    }

    pub(super) fn load(&mut self, dst: Ymm, from: Operand) {
        self.vex(LOAD, true, dst.0, 0, from, 0);
    }

    pub(super) fn store(&mut self, to: Mem, value: Ymm) {
        self.vex(STORE, true, value.0, 0, Operand::Mem(to), 0);
    }

    /// A number in all lanes.
    pub(super) fn broadcast(&mut self, dst: Ymm, from: Operand) {
        self.vex(BROADCAST, true, dst.0, 0, from, 0);
    }

    /// The lanes whose sign is set in `mask`; the others are zero, and are not read.
    pub(super) fn load_masked(&mut self, dst: Ymm, mask: Ymm, from: Mem) {
        self.vex(MASKED_LOAD, true, dst.0, mask.0, Operand::Mem(from), 0);
    }

    /// The first so many lanes, less than eight.
    pub(super) fn store_some(&mut self, to: Mem, value: Ymm, lanes: usize, free: Ymm) {
        let mut rest = lanes;
        let (mut at, mut from) = (to, value);
        if rest >= 4 {
            self.vex(STORE, false, value.0, 0, Operand::Mem(to), 0);
            if rest == 4 {
                return;
            }
            self.vex(UPPER_HALF, true, value.0, 0, Operand::Reg(free), 1);
            self.byte(1);
            (at, from, rest) = (Mem { offset: to.offset + 16, ..to }, free, rest - 4);
        }
        if rest >= 2 {
            self.vex(LOWER_TWO, false, from.0, 0, Operand::Mem(at), 0);
        }
        if rest % 2 == 1 {
            let lane = rest as u8 - 1;
            self.vex(ONE_LANE, false, from.0, 0, Operand::Mem(Mem { offset: at.offset + 4 * i32::from(lane), ..at }), 1);
            self.byte(lane);
        }
    }

    /// All ones where `a ? b`.
    pub(super) fn compare(&mut self, how: u8, dst: Ymm, a: Ymm, b: Operand) {
        self.vex(COMPARE, true, dst.0, a.0, b, 1);
        self.byte(how);
    }

    /// `yes` where the sign of the mask is set, else `no`.
    pub(super) fn blend(&mut self, dst: Ymm, no: Ymm, yes: Operand, mask: Ymm) {
        self.vex(BLEND, true, dst.0, no.0, yes, 1);
        self.byte(mask.0 << 4);
    }

    /// The signs of all lanes.
    pub(super) fn signs(&mut self, dst: Gpr, mask: Ymm) {
        self.vex(MASK, true, dst.0, 0, Operand::Reg(mask), 0);
    }

    /// To code that knows only the lower halves.
    pub(super) fn leave(&mut self) {
        self.bytes.extend_from_slice(&[0xc5, 0xf8, 0x77, 0xc3]);
    }

    fn integer(&mut self, long: bool, code: &[u8], reg: u8, at: Operand) {
        let (x, b) = match at {
            Operand::Reg(Ymm(rm)) => (0, rm >> 3),
            Operand::Mem(Mem { base, index, .. }) => (index.map_or(0, |i| i.0 >> 3), base.0 >> 3),
            Operand::Constant(_) => (0, 0),
        };
        self.byte(0x40 | u8::from(long) << 3 | (reg >> 3) << 2 | x << 1 | b);
        self.bytes.extend_from_slice(code);
        self.operands(reg, at, 0);
    }

    fn both(&mut self, code: u8, dst: Gpr, source: Gpr) {
        self.integer(true, &[code], source.0, Operand::Reg(Ymm(dst.0)));
    }

    pub(super) fn copy(&mut self, dst: Gpr, source: Gpr) {
        self.both(0x89, dst, source);
    }

    pub(super) fn add(&mut self, dst: Gpr, source: Gpr) {
        self.both(0x01, dst, source);
    }

    pub(super) fn subtract(&mut self, dst: Gpr, source: Gpr) {
        self.both(0x29, dst, source);
    }

    pub(super) fn compare_ints(&mut self, a: Gpr, b: Gpr) {
        self.both(0x39, a, b);
    }

    pub(super) fn set(&mut self, dst: Gpr, value: i32) {
        self.integer(true, &[0xc7], 0, Operand::Reg(Ymm(dst.0)));
        self.word(value);
    }

    pub(super) fn add_constant(&mut self, dst: Gpr, value: i32) {
        self.integer(true, &[0x81], 0, Operand::Reg(Ymm(dst.0)));
        self.word(value);
    }

    pub(super) fn and_constant(&mut self, dst: Gpr, value: i32) {
        self.integer(false, &[0x81], 4, Operand::Reg(Ymm(dst.0)));
        self.word(value);
    }

    pub(super) fn compare_constant(&mut self, a: Gpr, value: i32) {
        self.integer(true, &[0x81], 7, Operand::Reg(Ymm(a.0)));
        self.word(value);
    }

    pub(super) fn shift_left(&mut self, dst: Gpr, by: u8) {
        self.integer(true, &[0xc1], 4, Operand::Reg(Ymm(dst.0)));
        self.byte(by);
    }

    /// Zeros come in.
    pub(super) fn shift_right(&mut self, dst: Gpr, by: u8) {
        self.integer(true, &[0xc1], 5, Operand::Reg(Ymm(dst.0)));
        self.byte(by);
    }

    /// How many zeros are below the lowest one (BMI1).
    pub(super) fn lowest_one(&mut self, dst: Gpr, of: Gpr) {
        self.byte(0xf3);
        self.integer(true, &[0x0f, 0xbc], dst.0, Operand::Reg(Ymm(of.0)));
    }

    /// Clears the lowest one, and compares what is left with zero (BMI1).
    pub(super) fn clear_lowest(&mut self, of: Gpr) {
        self.byte(0xc4);
        self.byte(0xc2 | (!(of.0 >> 3) & 1) << 5);
        self.byte(0x80 | (!of.0 & 15) << 3);
        self.byte(0xf3);
        self.byte(0xc8 | of.0 & 7);
    }

    /// `dst = a + a · 2, 4 or 8`, as an address.
    pub(super) fn scaled(&mut self, dst: Gpr, a: Gpr, scale: u8) {
        self.byte(0x48 | (dst.0 >> 3) << 2 | (a.0 >> 3) << 1 | a.0 >> 3);
        self.byte(0x8d);
        self.byte((dst.0 & 7) << 3 | 4);
        self.byte(scale << 6 | (a.0 & 7) << 3 | a.0 & 7);
    }

    pub(super) fn read(&mut self, dst: Gpr, from: Mem) {
        self.integer(true, &[0x8b], dst.0, Operand::Mem(from));
    }

    pub(super) fn write(&mut self, to: Mem, value: Gpr) {
        self.integer(true, &[0x89], value.0, Operand::Mem(to));
    }

    /// The lowest byte.
    pub(super) fn write_byte(&mut self, to: Mem, value: Gpr) {
        self.integer(false, &[0x88], value.0, Operand::Mem(to));
    }

    /// Sixteen bits, not negative.
    pub(super) fn read_half(&mut self, dst: Gpr, from: Mem) {
        self.integer(false, &[0x0f, 0xb7], dst.0, Operand::Mem(from));
    }

    pub(super) fn add_to_memory(&mut self, to: Mem, value: i32) {
        self.integer(true, &[0x81], 0, Operand::Mem(to));
        self.word(value);
    }

    /// Brings a cache line to the second cache.
    pub(super) fn prefetch(&mut self, at: Mem) {
        self.integer(false, &[0x0f, 0x18], 2, Operand::Mem(at));
    }

    /// A number in memory as an integer of 32 bits, towards zero.
    pub(super) fn whole(&mut self, dst: Gpr, from: Mem) {
        self.vex(WHOLE, false, dst.0, 0, Operand::Mem(from), 0);
    }

    /// Compares 32 bits in memory with zero.
    pub(super) fn is_zero(&mut self, at: Mem) {
        self.integer(false, &[0x83], 7, Operand::Mem(at));
        self.byte(0);
    }

    pub(super) fn jump(&mut self, when: When, to: Label) {
        match when {
            When::Always => self.byte(0xe9),
            _ => {
                self.byte(0x0f);
                self.byte(match when {
                    When::NotBelow => 0x83,
                    When::NotLess => 0x8d,
                    When::NotMore => 0x8e,
                    When::NotEqual => 0x85,
                    When::Below => 0x82,
                    When::Always | When::Equal => 0x84,
                });
            }
        }
        self.jumps.push((self.bytes.len(), to));
        self.word(0);
    }

    /// The code, with its constants behind it; `None` if it jumps to nowhere.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        for (at, label) in &self.jumps {
            let to = self.labels[label.0]?;
            let distance = to as i64 - (*at as i64 + 4);
            self.bytes[*at..at + 4].copy_from_slice(&i32::try_from(distance).ok()?.to_le_bytes());
        }
        if !self.constants.is_empty() {
            // What lies between is never reached.
            self.bytes.resize(self.bytes.len().next_multiple_of(32), 0);
        }
        let first = self.bytes.len();
        for (at, from, number) in &self.reads {
            let distance = i32::try_from((first + 32 * number) as i64 - *from as i64).ok()?;
            self.bytes[*at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        self.bytes.extend(self.constants.iter().flatten().flat_map(|w| w.to_le_bytes()));
        Some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstone::prelude::*;

    /// What a disassembler reads.
    #[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    fn read(write: impl FnOnce(&mut Assembler)) -> Vec<String> {
        let mut a = Assembler::default();
        write(&mut a);
        let bytes = a.finish().unwrap();
        let capstone = Capstone::new().x86().mode(arch::x86::ArchMode::Mode64).build().unwrap();
        let all = capstone.disasm_all(&bytes, 0).unwrap();
        all.iter().map(|i| format!("{} {}", i.mnemonic().unwrap(), i.op_str().unwrap()).trim().to_owned()).collect()
    }

    #[test]
    fn vectors_are_encoded() {
        let (low, high) = (Mem::at(FRAME, 64), Mem { base: Gpr(1), index: Some(Gpr(9)), offset: 352 });
        let found = read(|a| {
            a.three(ADD, Ymm(3), Ymm(12), Operand::Mem(high));
            a.three(SUB, Ymm(13), Ymm(2), Operand::Reg(Ymm(9)));
            a.three(AND_NOT, Ymm(1), Ymm(2), Operand::Reg(Ymm(3)));
            a.three(FUSED, Ymm(5), Ymm(14), Operand::Mem(Mem::at(Gpr(10), 0)));
            a.load(Ymm(15), Operand::Mem(low));
            a.store(Mem::at(Gpr(8), -32), Ymm(4));
            a.broadcast(Ymm(6), Operand::Mem(Mem::at(Gpr(6), 1024)));
            a.load_masked(Ymm(1), Ymm(9), low);
            a.compare(AT_MOST, Ymm(10), Ymm(11), Operand::Reg(Ymm(12)));
            a.blend(Ymm(1), Ymm(2), Operand::Reg(Ymm(3)), Ymm(12));
            a.signs(Gpr(9), Ymm(13));
            a.three(SUB_INTS, Ymm(1), Ymm(2), Operand::Reg(Ymm(8)));
            a.three(GREATER_INTS, Ymm(1), Ymm(2), Operand::Reg(Ymm(8)));
            a.leave();
        });
        let wanted = [
            "vaddps ymm3, ymm12, ymmword ptr [rcx + r9 + 0x160]",
            "vsubps ymm13, ymm2, ymm9",
            "vandnps ymm1, ymm2, ymm3",
            "vfmadd231ps ymm5, ymm14, ymmword ptr [r10]",
            "vmovups ymm15, ymmword ptr [rdi + 0x40]",
            "vmovups ymmword ptr [r8 - 0x20], ymm4",
            "vbroadcastss ymm6, dword ptr [rsi + 0x400]",
            "vmaskmovps ymm1, ymm9, ymmword ptr [rdi + 0x40]",
            "vcmpleps ymm10, ymm11, ymm12",
            "vblendvps ymm1, ymm2, ymm3, ymm12",
            "vmovmskps r9d, ymm13",
            "vpsubd ymm1, ymm2, ymm8",
            "vpcmpgtd ymm1, ymm2, ymm8",
            "vzeroupper",
            "ret",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn the_first_lanes_are_stored() {
        let some = |lanes| read(|a| a.store_some(Mem::at(Gpr(8), 8), Ymm(11), lanes, Ymm(12)));
        let (four, upper) = ("vmovups xmmword ptr [r8 + 8], xmm11", "vextractf128 xmm12, ymm11, 1");
        assert_eq!(some(1), ["vextractps dword ptr [r8 + 8], xmm11, 0"]);
        assert_eq!(some(3), ["vmovlps qword ptr [r8 + 8], xmm11", "vextractps dword ptr [r8 + 0x10], xmm11, 2"]);
        assert_eq!(some(4), [four]);
        assert_eq!(some(5), [four, upper, "vextractps dword ptr [r8 + 0x18], xmm12, 0"]);
        let seven = [four, upper, "vmovlps qword ptr [r8 + 0x18], xmm12", "vextractps dword ptr [r8 + 0x20], xmm12, 2"];
        assert_eq!(some(7), seven);
    }

    #[test]
    fn integers_are_encoded() {
        let found = read(|a| {
            a.read(Gpr(0), Mem::at(FRAME, 8));
            a.read(Gpr(11), Mem::at(FRAME, 512));
            a.write(Mem::at(Gpr(8), 8), Gpr(1));
            a.write_byte(Mem::at(Gpr(9), 3), Gpr(6));
            a.read_half(Gpr(10), Mem::at(Gpr(6), 0));
            a.copy(Gpr(1), Gpr(8));
            a.add(Gpr(8), Gpr(1));
            a.subtract(Gpr(2), Gpr(9));
            a.compare_ints(Gpr(6), Gpr(2));
            a.set(Gpr(9), -3);
            a.add_constant(Gpr(6), 2);
            a.and_constant(Gpr(9), 63);
            a.compare_constant(Gpr(0), 224);
            a.shift_left(Gpr(9), 6);
            a.shift_right(Gpr(8), 8);
            a.lowest_one(Gpr(8), Gpr(6));
            a.lowest_one(Gpr(1), Gpr(10));
            a.clear_lowest(Gpr(6));
            a.clear_lowest(Gpr(10));
            a.scaled(Gpr(0), Gpr(9), 1);
            a.add_to_memory(Mem::at(FRAME, 16), 100_000);
            a.is_zero(Mem::at(Gpr(8), 4));
            a.prefetch(Mem::at(Gpr(9), 128));
            a.whole(Gpr(0), Mem::at(Gpr(9), 4));
            a.whole(Gpr(8), Mem::at(Gpr(6), 400));
        });
        let wanted = [
            "mov rax, qword ptr [rdi + 8]",
            "mov r11, qword ptr [rdi + 0x200]",
            "mov qword ptr [r8 + 8], rcx",
            "mov byte ptr [r9 + 3], sil",
            "movzx r10d, word ptr [rsi]",
            "mov rcx, r8",
            "add r8, rcx",
            "sub rdx, r9",
            "cmp rsi, rdx",
            "mov r9, 0xfffffffffffffffd",
            "add rsi, 2",
            "and r9d, 0x3f",
            "cmp rax, 0xe0",
            "shl r9, 6",
            "shr r8, 8",
            "tzcnt r8, rsi",
            "tzcnt rcx, r10",
            "blsr rsi, rsi",
            "blsr r10, r10",
            "lea rax, [r9 + r9*2]",
            "add qword ptr [rdi + 0x10], 0x186a0",
            "cmp dword ptr [r8 + 4], 0",
            "prefetcht1 byte ptr [r9 + 0x80]",
            "vcvttss2si eax, dword ptr [r9 + 4]",
            "vcvttss2si r8d, dword ptr [rsi + 0x190]",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn jumps_and_constants_are_found() {
        let found = read(|a| {
            let (top, out) = (a.label(), a.label());
            a.here(top);
            a.jump(When::NotBelow, out);
            a.jump(When::Always, top);
            a.here(out);
            let one = a.constant([1; 8]);
            let two = a.constant([2; 8]);
            assert_eq!(a.constant([1; 8]), one);
            a.compare(LESS, Ymm(0), Ymm(1), Operand::Constant(two));
            a.load(Ymm(0), Operand::Constant(one));
        });
        assert_eq!(found[..2], ["jae 0xb", "jmp 0"]);
        // Constants begin at 32 bytes: behind 11, 10 and 9 bytes of code.
        assert_eq!(found[2..4], ["vcmpltps ymm0, ymm1, ymmword ptr [rip + 0x2b]", "vmovups ymm0, ymmword ptr [rip + 2]"]);
    }
}
