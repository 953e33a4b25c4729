//! Doublings that hang on the time step. A sum that comes out of its loop in registers is doubled there, all lanes together, in another
//! loop. For other numbers what comes after stands once for every step, so that each is doubled on its way.

use super::*;
use crate::kernel::mentioned;

/// Where a number is doubled in a pass.
pub(super) struct Doubling {
    /// Statements before.
    at: usize,
    var: Var,
    /// So many times for every time step before.
    times: u8,
}

impl Body<'_, '_> {
    /// A number doubled so many times for every time step before.
    pub(super) fn doubled(&mut self, of: FlowId, times: u8, at: At) -> Var {
        let mut var = self.value(of, at);
        // What others read stays as it is, and so does what is the same at all time steps.
        if self.fuser.readers[of.index()] > 1 || !self.fuser.flow.dims(of).time {
            var = self.bind(at, Expr::Var(var));
        }
        let At::Pass(k) = at else { return var };
        if self.sum_alone(of) {
            let [end, index] = [(); 2].map(|()| self.int());
            let terms = self.steps_so_far(self.passes[k].index).into_iter().map(|(i, _)| (i, i64::from(times))).collect();
            self.push(at, Stmt::LetInt(end, IntExpr::Affine(terms, 0)));
            let body = vec![twice(var)];
            self.push(at, Stmt::For { index, from: Bound::Const(0), to: Bound::Int(end), reverse: false, lanes: 1, body });
        } else {
            let pass = &mut self.passes[k];
            pass.doublings.push(Doubling { at: pass.body.len(), var, times });
        }
        var
    }

    /// A contraction, with or without a parameter that its sum begins with, that nobody else reads.
    fn sum_alone(&self, id: FlowId) -> bool {
        let sum = |id: &FlowId| matches!(self.fuser.flow.get(*id).def, Def::Product { .. } | Def::Conv { .. }) && self.here(*id);
        let tensor = self.fuser.flow.get(id);
        let begun = tensor.def.inputs().iter().any(|i| sum(i) && self.fuser.begins.get(i).is_some_and(|(map, _)| *map == id));
        (sum(&id) || begun) && self.fuser.readers[id.index()] == 1 && tensor.dims.time && !self.fuser.stored[id.index()]
    }

    /// The time step, from the beginning of the sequence.
    fn steps_so_far(&mut self, step: Int) -> Vec<(Int, i64)> {
        let mut terms = vec![(step, 1)];
        if self.fuser.target == Target::Stream {
            let begun = self.first.unwrap_or_else(|| self.int());
            self.first = Some(begun);
            terms.push((begun, 1));
        }
        terms
    }

    /// What is done in a pass.
    pub(super) fn spelt(&mut self, mut pass: Pass) -> Vec<Stmt> {
        while let Some(Doubling { at, var, times }) = pass.doublings.pop() {
            let mut own = pass.body.split_off(at);
            let after = own.split_off(goes_along(&own));
            let terms = self.steps_so_far(pass.index);
            for step in 0..self.fuser.time {
                let doubled = (0..step * usize::from(times)).map(|_| twice(var));
                let (here, body) = (self.int(), doubled.chain(own.iter().cloned()).collect());
                pass.body.push(Stmt::LetInt(here, IntExpr::Affine(terms.clone(), -(step as i64))));
                pass.body.push(Stmt::If(Cond::Within(here, 1), body));
            }
            pass.body.extend(after);
        }
        pass.body
    }
}

/// How many statements may stand once for every step: no loops, and nothing that others read.
fn goes_along(body: &[Stmt]) -> usize {
    let alone =
        |stmt: &Stmt| matches!(stmt, Stmt::Let(..) | Stmt::Set(..) | Stmt::Store(..) | Stmt::StoreBits(..) | Stmt::StoreScratch(..));
    let mut count = body.iter().take_while(|stmt| alone(stmt)).count();
    loop {
        let read = mentioned(&body[count..]);
        let declares = |stmt: &Stmt| matches!(stmt, Stmt::Let(var, _) if read.contains(var));
        match body[..count].iter().position(declares) {
            Some(first) => count = first,
            None => return count,
        }
    }
}

fn twice(var: Var) -> Stmt {
    Stmt::Set(var, Expr::Bin(Bin::Add, Box::new(Expr::Var(var)), Box::new(Expr::Var(var))))
}
