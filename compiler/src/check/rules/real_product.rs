//! `real_product`: a product of two signals must have a spike among them; then it is a selection, and a dot product an
//! AND with a count, or a masked accumulation.

use super::residue;
use crate::check::{Context, How, Residue};
use crate::types::{Kind, NodeId, Signal};

pub(crate) fn check(cx: &Context<'_>, id: NodeId, operands: &[Signal], summed: bool) -> Result<How, Box<Residue>> {
    let spikes = operands.iter().filter(|s| s.kind == Kind::Spike).count();
    match (spikes, summed) {
        (0, _) => {
            let kinds: Vec<String> = operands.iter().map(|s| format!("`{}`", s.kind)).collect();
            let message = format!("a product of two signals of which neither is a spike: {}", kinds.join(" and "));
            Err(residue(cx, "check::real_product", id, message, "multiplies two values".into(), "let one of them fire first: `… |> lif`"))
        }
        (_, false) => Ok(How::Select),
        (2, true) => Ok(How::AndCount),
        (_, true) => Ok(How::MaskedAccumulate),
    }
}
