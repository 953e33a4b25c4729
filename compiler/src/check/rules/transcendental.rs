//! `transcendental`: exponentials, roots and divisions by a signal are computed by multiplying.

use super::residue;
use crate::check::{Context, How, Residue};
use crate::types::NodeId;

pub(crate) fn check(cx: &Context<'_>, id: NodeId, what: &str) -> Result<How, Box<Residue>> {
    let message = format!("`{what}` is computed by multiplying");
    Err(residue(
        cx,
        "check::transcendental",
        id,
        message,
        "not in the encoder".into(),
        "move it into the encoder, or let a neuron take its place",
    ))
}
