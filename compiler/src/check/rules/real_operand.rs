//! `real_operand`: a weight may only be multiplied with a spike, or with a count of at most 64 spikes; then it is
//! added once for every spike. On a real value it would be a multiplication.

use super::residue;
use crate::check::{Context, How, Residue};
use crate::types::{Kind, NodeId, Signal};

/// The largest count for which adding a weight once per spike is accepted.
pub(crate) const MAX_COUNT: u64 = 64;

pub(crate) fn check(cx: &Context<'_>, id: NodeId, operand: &Signal) -> Result<How, Box<Residue>> {
    let word = cx.graph.node(id).op.word();
    match operand.kind {
        Kind::Spike => Ok(How::Accumulate),
        Kind::Count if operand.bound <= MAX_COUNT => Ok(How::AccumulateCount(operand.bound)),
        Kind::Count => {
            let message = format!("`{word}` multiplies weights with a count of up to {} spikes", operand.bound);
            let label = format!("a count may be added up at most {MAX_COUNT} times");
            Err(residue(cx, "real_operand", id, message, label, "pool over fewer values, or fire before this"))
        }
        Kind::Current | Kind::Analog => {
            if let Some(with) = cx.chains.composable(cx, id) {
                return Ok(How::Compose(with));
            }
            let message = format!("`{word}` multiplies weights with a real value");
            let label = format!("its operand is {}, not a `spike`", operand.kind.with_article());
            Err(residue(cx, "real_operand", id, message, label, "put a neuron before it: `… |> lif |> …`"))
        }
    }
}
