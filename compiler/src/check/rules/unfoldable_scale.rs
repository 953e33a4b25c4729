//! `unfoldable_scale`: a constant factor must go into the map before or after it, into a neuron's threshold, or be a
//! power of two.

use super::residue;
use crate::check::{Context, Destination, How, MAX_STEPS, Residue};
use crate::ops::{Linearity, Multiplication};
use crate::types::NodeId;
use snnc_grammar::Remedy;

pub(crate) fn check(cx: &Context<'_>, id: NodeId, factor: Option<Destination>) -> Result<How, Box<Residue>> {
    match factor {
        Some(Destination::Residue) | None => {}
        Some(Destination::Select) => return Ok(How::Select),
        Some(_) => return Ok(How::Fold),
    }
    let node = cx.graph.node(id);
    let operands = cx.graph.input_signals(node);
    let factor = node.op.multiplies(&operands).into_iter().find_map(|m| match m {
        Multiplication::Factor { axes, value } => Some((axes, value)),
        _ => None,
    });
    let what = factor.as_ref().map_or_else(
        || "the factor".into(),
        |(axes, value)| match value {
            Some(v) => format!("the factor {v}"),
            None => format!("the scale over {}", axes.join(", ")),
        },
    );
    let message = format!("{what} of `{}` cannot be folded away", node.op.word());
    let readers = &cx.readers[id.index()];
    let label = match readers.as_slice() {
        [one] => {
            let reader = cx.graph.node(*one);
            format!("it reaches `{}`, and neither the maps around it nor a neuron can take it", reader.op.word())
        }
        [] => "it is the output, and the map before it cannot take it".to_owned(),
        many => format!("it is read by {} others, and the map before it cannot take it", many.len()),
    };
    let affine = node.op.linearity() == Linearity::Affine;
    let help = match factor.and_then(|(_, value)| value) {
        Some(v) if affine => {
            format!("scale by a power of two, the nearest is {}; or let a neuron or a map with weights read it alone", nearest_power(v))
        }
        Some(_) => "take it over a power of two of values; or let a neuron or a map with weights read it alone".into(),
        None if affine => "normalise over the output axis of the map before it, or let a neuron read it alone".into(),
        None => "weigh all alike: one factor for all can be folded away".into(),
    };
    let mut found = residue(cx, "check::unfoldable_scale", id, message, label, &help);
    if affine {
        let axes = map_before(cx, id);
        found.remedies.extend(axes.map(|axis| Remedy::Axes { call: node.span, axes: vec![axis] }));
    }
    Err(found)
}

fn nearest_power(v: f64) -> f64 {
    let below = 2f64.powf(v.abs().log2().floor());
    (if v.abs() - below < 2.0 * below - v.abs() { below } else { 2.0 * below }).copysign(v)
}

/// The output axis of the map that a scale stands behind, if nothing else reads the way there.
fn map_before(cx: &Context<'_>, id: NodeId) -> Option<String> {
    let mut at = *cx.graph.node(id).inputs.first()?;
    for _ in 0..MAX_STEPS {
        cx.only_reader(at)?;
        match cx.graph.node(at).op.linearity() {
            Linearity::Map { output_axis, .. } => return Some(output_axis),
            Linearity::Identity => at = *cx.graph.node(at).inputs.first()?,
            _ => return None,
        }
    }
    None
}
