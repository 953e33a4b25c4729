//! Products of several rows with the same weights.

use super::asm::{self, Operand, Ymm};
use super::{Writer, Written};
use crate::flow::Bin;
use crate::kernel::{Expr, Place, Stmt};

impl Writer<'_> {
    /// A product for the sums of all rows: what each row reads, and one vector of weights after the other.
    pub(super) fn products(&mut self, x: &Place, weights: &Place) -> Written {
        let (mut read, sums) = (vec![], self.parts());
        for row in 0..self.rows {
            self.part = row;
            read.push(self.load(x, None)?);
        }
        for first in (0..sums).step_by(self.rows) {
            self.part = first;
            let weight = self.load(weights, None)?;
            for (row, x) in read.iter().enumerate() {
                let sum = Ymm((first + row) as u8);
                if self.may.fuse {
                    self.a.three(asm::FUSED, sum, *x, Operand::Reg(weight));
                    continue;
                }
                let product = self.registers.take()?;
                self.a.three(asm::MUL, product, *x, Operand::Reg(weight));
                self.a.three(asm::ADD, sum, sum, Operand::Reg(product));
                self.registers.done(product);
            }
            self.registers.done(weight);
        }
        read.into_iter().for_each(|x| self.registers.done(x));
        self.part = 0;
        Ok(())
    }

    /// The places of a product that is added to the resident sum, if all rows share one of them.
    pub(super) fn shared_product<'s>(&self, run: &'s [Stmt]) -> Option<(&'s Place, &'s Place)> {
        let [Stmt::Set(sum, Expr::Bin(Bin::Add, now, term))] = run else { return None };
        let Expr::Bin(Bin::Mul, x, weights) = &**term else { return None };
        let (Expr::Var(same), Expr::Load(x), Expr::Load(weights)) = (&**now, &**x, &**weights) else { return None };
        let resident = self.rows > 1 && self.may.multiply && self.resident == Some(*sum) && same == sum;
        let shared = self.stride(x) == 0 && self.stride(weights) == 1 && self.stride_of(weights, self.row) == 0;
        (resident && shared).then_some((x, weights))
    }
}
