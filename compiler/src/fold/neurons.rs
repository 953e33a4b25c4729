//! Neurons: what their operand carries goes into threshold, bias, sign and reset, and a leak that goes away into
//! their tables.

use super::{Carry, Expr, Folder};
use crate::flow::shift_of;
use crate::ops::neuron::Reset;
use crate::ops::{Op, folded_fire};
use crate::types::{Axis, NodeId, STEPS};

impl Folder<'_> {
    /// A neuron with all constants folded into its own.
    pub(super) fn neuron(&mut self, id: NodeId, input: NodeId, carry: &Carry) -> NodeId {
        let node = self.old.node(id);
        let Op::Fire(fire) = &node.op else {
            return self.push(id, node.op.clone(), vec![input], node.params.clone(), true);
        };
        let n = &fire.neuron;
        let signal = &self.nodes[input.index()].signal;
        let mut names: Vec<String> = Vec::new();
        for expr in carry.scale.iter().chain(&carry.shift) {
            expr.axes(&mut names);
        }
        let mut axes: Vec<Axis> = signal.axes.iter().filter(|a| names.contains(&a.name)).cloned().collect();
        let (signed, biased) = (carry.scale.is_some(), carry.shift.is_some());
        let scale = carry.scale.clone().unwrap_or(Expr::Const(1.0));
        let shift = carry.shift.clone().unwrap_or(Expr::Const(0.0));
        let threshold = n.fires_expr(&node.params) / Expr::Const(n.drive());
        // What the quotients below have above their bar: where they would be too large, the operand is too small to count.
        let constants = (threshold.clone() * threshold + shift.clone() * shift.clone()).sqrt();
        let sign = scale.clone().sign(constants.clone());
        let size = scale.magnitude(constants);
        let unit = size.clone() * Expr::Const(n.drive());
        let reset = match n.reset {
            Reset::Hard(r) => Expr::Const(r),
            Reset::Soft => n.threshold_expr(&node.params),
        };
        let values =
            [("threshold", n.fires_expr(&node.params) / unit.clone()), ("bias", shift / size), ("sign", sign), ("reset", reset / unit)];
        let mut neuron = n.clone();
        let mut table = None;
        let doublings = shift_of(n.leak()).map_or(0, |k| doublings(k, self.old.time));
        if doublings > 0 {
            neuron.tau = None;
            axes.insert(0, Axis::new(STEPS, self.old.time));
            let powers = (0..self.old.time).map(|t| 2f64.powi(i32::from(doublings) * t as i32)).collect();
            table = Some(Expr::List(powers, STEPS.into()));
        }
        if let Some(ramp) = self.plan[id.index()].ramp {
            neuron.tau = None;
            axes.insert(0, Axis::new(STEPS, self.old.time));
            table = Some(Expr::List(ramp.table(self.old.time), STEPS.into()));
        }
        let held = |name: &str, value: Expr| match &table {
            Some(table) if name != "sign" => value * table.clone(),
            _ => value,
        };
        let params = values.map(|(name, value)| self.param(format!("{}.{name}", node.path), axes.clone(), held(name, value))).to_vec();
        let op = Op::FoldedFire(folded_fire::FoldedFire { neuron, axes, signed, biased, doublings });
        self.push(id, op, vec![input], params, false)
    }
}

/// The most doublings of an operand at the last time step that cost less than a shift of the membrane at every step.
const MOST_DOUBLINGS: usize = 6;

/// How often the operand is doubled for each time step before, where a leak of 2^-k is done so; 0 where it stays a shift. A halving by the
/// exponent looks whether it is zero; doublings are additions, exact as well.
fn doublings(k: i8, time: usize) -> u8 {
    let k = u8::try_from(k).unwrap_or(0);
    if usize::from(k) * time.saturating_sub(1) <= MOST_DOUBLINGS { k } else { 0 }
}
