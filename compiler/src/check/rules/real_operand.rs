//! `real_operand`: a weight may only be multiplied with a spike, or with a count of at most 64 spikes; then it is
//! added once for every spike. On a real value it would be a multiplication.

use super::residue;
use crate::check::{Context, How, Residue};
use crate::ops::Selection;
use crate::types::{Kind, NodeId, Signal};
use snnc_grammar::Remedy;

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
            let mut found = residue(cx, "check::real_operand", id, message, label, "pool over fewer values, or fire before this");
            found.remedies.extend(fire_before(cx, id));
            Err(found)
        }
        Kind::Current | Kind::Analog => {
            if let Some(with) = cx.chains.composable(cx, id) {
                return Ok(How::Compose(with));
            }
            let message = format!("`{word}` multiplies weights with a real value");
            let label = format!("its operand is {}, not a `spike`", operand.kind.with_article());
            let remedy = fire_before(cx, id);
            // A neuron that fires in the same block has a name there.
            let help = if remedy.is_some() {
                "put a neuron before it: `… |> lif |> …`"
            } else {
                "put a neuron before it: `… |> LIF(tau = 2.0) |> …`"
            };
            let mut found = residue(cx, "check::real_operand", id, message, label, help);
            found.remedies.extend(remedy);
            Err(found)
        }
    }
}

/// A neuron of the same block use, written once more before the map.
fn fire_before(cx: &Context<'_>, id: NodeId) -> Option<Remedy> {
    let node = cx.graph.node(id);
    let neuron = cx.graph.ids().map(|i| cx.graph.node(i)).find(|other| {
        let here = other.calls == node.calls && other.span.file == node.span.file;
        here && !other.encoder && other.op.selection() == Selection::Neuron && other.span != other.defined.unwrap_or_default()
    })?;
    Some(Remedy::Before { stage: node.span, neuron: neuron.span })
}
