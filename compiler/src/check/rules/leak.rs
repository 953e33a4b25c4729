//! `leak`: a membrane may leak by a factor of 2^-k or 1 - 2^-k, which is a shift (and a subtraction).

use super::residue;
use crate::check::{Context, How, Residue};
use crate::flow::shift_of;
use crate::types::NodeId;
use snnc_grammar::Remedy;

/// A factor of 2^-k or 1 - 2^-k.
pub(crate) fn is_shift(leak: f64) -> bool {
    shift_of(leak).is_some() || shift_of(1.0 - leak).is_some()
}

pub(crate) fn check(cx: &Context<'_>, id: NodeId, leak: f64) -> Result<How, Box<Residue>> {
    if is_shift(leak) || cx.plan[id.index()].ramp.is_some() {
        return Ok(How::Compare);
    }
    let near = (1..=16).flat_map(|k| [2f64.powi(-k), 1.0 - 2f64.powi(-k)]).min_by(|a, b| (a - leak).abs().total_cmp(&(b - leak).abs()));
    let tau = near.map_or(2.0, |n| 1.0 / (1.0 - n));
    let message = format!("the membrane leaks by a factor of {leak:.6}, which is no shift");
    let help = format!("use a leak of 2^-k or 1 - 2^-k; the nearest is `tau = {tau:?}`");
    let mut found = residue(cx, "check::leak", id, message, "this leak is a multiplication at every time step".into(), &help);
    // The mistake is where the neuron is defined, not where it is applied.
    if let Some(call) = cx.graph.node(id).defined {
        found.span = call;
        found.remedies.push(Remedy::Argument { call, name: "tau", value: format!("{tau:?}") });
    }
    Err(found)
}
