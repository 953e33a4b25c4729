//! Blocks of bits, transposed in registers.

use super::*;

/// Rows and columns of a block: a word each.
const WORD: usize = 64;

/// A [`Stmt::Transpose`].
pub(super) struct Block64<'a> {
    pub(super) from: &'a Place,
    pub(super) rows_apart: i64,
    pub(super) rows: usize,
    pub(super) to: &'a Place,
    pub(super) columns_apart: i64,
    pub(super) columns: usize,
}

impl Emitter<'_> {
    /// Several small square blocks lie side by side in as many words as the shorter side needs; in each of them halves are swapped, then
    /// quarters, and so on.
    pub(super) fn transpose(&mut self, block: &Block64<'_>) {
        let side = block.rows.min(block.columns).next_power_of_two().clamp(8, WORD);
        let blocks = WORD / side;
        let [from, to] = [block.from, block.to].map(|place| self.address(place, 8));
        let offset = |apart: i64, index: usize| i32::try_from(8 * apart * index as i64).unwrap_or(i32::MAX);
        let load = |e: &mut Self, row: usize| e.b.ins().load(I64, e.flags, from, offset(block.rows_apart, row));
        let low = if side == WORD { -1 } else { (1i64 << side) - 1 };
        let mut words: Vec<Option<Value>> = vec![None; side];
        if block.rows > side {
            for row in 0..block.rows {
                let mut word = load(self, row);
                let place = row / side * side;
                word = self.mask(word, low);
                if place > 0 {
                    word = self.b.ins().ishl_imm_u(word, place as i64);
                }
                let known = &mut words[row % side];
                *known = Some(known.map_or(word, |known| self.b.ins().bor(known, word)));
            }
        } else {
            for (row, word) in words.iter_mut().enumerate().take(block.rows) {
                *word = Some(load(self, row));
            }
        }
        let mut distance = side / 2;
        while distance > 0 {
            let mask = (0..WORD).filter(|bit| bit & distance == 0).fold(0u64, |mask, bit| mask | 1 << bit).cast_signed();
            for first in (0..side).filter(|row| row & distance == 0) {
                self.swap(&mut words, first, first + distance, mask);
            }
            distance /= 2;
        }
        for column in 0..block.columns {
            let (word, place) = (words[column % side], column / side * side);
            let word = match word {
                None => self.b.ins().iconst(I64, 0),
                Some(word) => {
                    let word = if place > 0 { self.b.ins().ushr_imm_u(word, place as i64) } else { word };
                    // The rows of a packed block are all there are.
                    if blocks > 1 && block.rows <= side { self.mask(word, low) } else { word }
                }
            };
            self.b.ins().store(self.flags, word, to, offset(block.columns_apart, column));
        }
    }

    /// Swaps what the mask leaves out of the first word with what it leaves of the second.
    fn swap(&mut self, words: &mut [Option<Value>], first: usize, second: usize, mask: i64) {
        let distance = (second - first) as i64;
        match (words[first], words[second]) {
            (None, None) => {}
            (Some(a), None) => {
                let moved = self.b.ins().ushr_imm_u(a, distance);
                words[second] = Some(self.mask(moved, mask));
                words[first] = Some(self.mask(a, mask));
            }
            (a, Some(b)) => {
                let a = a.unwrap_or_else(|| self.b.ins().iconst(I64, 0));
                let moved = self.b.ins().ushr_imm_u(a, distance);
                let differ = self.b.ins().bxor(moved, b);
                let differ = self.mask(differ, mask);
                let back = self.b.ins().ishl_imm_u(differ, distance);
                words[first] = Some(self.b.ins().bxor(a, back));
                words[second] = Some(self.b.ins().bxor(b, differ));
            }
        }
    }

    fn mask(&mut self, word: Value, mask: i64) -> Value {
        if mask == -1 {
            return word;
        }
        let mask = self.b.ins().iconst(I64, mask);
        self.b.ins().band(word, mask)
    }
}
