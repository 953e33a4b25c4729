//! Where each constant factor goes: into the map before it, the neuron or the map after it, or into exponents.

use super::{Context, Destination};
use crate::ops::{Linearity, Multiplication, Selection};
use crate::types::NodeId;

/// A factor to be placed.
struct Factor {
    node: NodeId,
    axes: Vec<String>,
    value: Option<f64>,
    /// A shift comes with it (batch norm).
    shifts: bool,
}

/// Plans all factors, in graph order, so that a later one finds the earlier ones placed.
pub(super) fn plan(cx: &mut Context<'_>) {
    for id in cx.graph.ids() {
        let node = cx.graph.node(id);
        let operands = cx.graph.input_signals(node);
        for product in node.op.multiplies(&operands) {
            let Multiplication::Factor { axes, value } = product else { continue };
            let factor = Factor { node: id, axes, value, shifts: value.is_none() };
            let destination = if node.encoder {
                Destination::Encoder
            } else {
                before(cx, &factor).or_else(|| after(cx, &factor)).or_else(|| shift(&factor)).unwrap_or(Destination::Residue)
            };
            cx.plan[id.index()].factor = Some(destination);
        }
    }
}

/// (a) The map before it takes it, if it varies only over that map's output axis and nothing else reads the way there.
fn before(cx: &Context<'_>, factor: &Factor) -> Option<Destination> {
    let mut at = *cx.graph.node(factor.node).inputs.first()?;
    loop {
        cx.only_reader(at)?;
        let node = cx.graph.node(at);
        if node.encoder {
            return None;
        }
        match node.op.linearity() {
            Linearity::Map { output_axis, .. } => {
                return factor.axes.iter().all(|a| *a == output_axis).then_some(Destination::Before(at));
            }
            // A step whose own factor went elsewhere would have to be divided out again.
            Linearity::Affine => match cx.plan[at.index()].factor {
                Some(Destination::Before(_)) => {}
                _ => return None,
            },
            Linearity::Sum(axes) => {
                let kept = !matches!(cx.plan[at.index()].factor, None | Some(Destination::Before(_)));
                if kept || factor.axes.iter().any(|a| axes.contains(a)) {
                    return None;
                }
            }
            Linearity::WindowSum => {
                // The padding of a window sum is no value of the map; its shift would be missing there.
                let kept = !matches!(cx.plan[at.index()].factor, None | Some(Destination::Before(_)));
                if kept || factor.shifts || factor.axes.iter().any(|a| a == "H" || a == "W") {
                    return None;
                }
            }
            Linearity::None | Linearity::View | Linearity::Add => return None,
        }
        at = *node.inputs.first()?;
    }
}

/// (b), (c) The neuron or map that is its only reader takes it, with only linear steps between.
fn after(cx: &Context<'_>, factor: &Factor) -> Option<Destination> {
    let mut at = factor.node;
    loop {
        let next = cx.only_reader(at)?;
        let node = cx.graph.node(next);
        if node.encoder {
            return None;
        }
        if node.op.selection() == Selection::Neuron {
            return Some(Destination::Neuron(next));
        }
        match node.op.linearity() {
            Linearity::Map { input_axis, zero_padded, .. } => {
                let fits = factor.axes.iter().all(|a| *a == input_axis) && !(factor.shifts && zero_padded);
                return fits.then_some(Destination::After(next));
            }
            Linearity::Affine => {}
            Linearity::Sum(axes) => {
                if factor.axes.iter().any(|a| axes.contains(a)) {
                    return None;
                }
            }
            Linearity::WindowSum => {
                if factor.shifts || factor.axes.iter().any(|a| a == "H" || a == "W") {
                    return None;
                }
            }
            Linearity::None | Linearity::View | Linearity::Add => return None,
        }
        at = next;
    }
}

/// (d) A power of two changes exponents.
fn shift(factor: &Factor) -> Option<Destination> {
    let value = factor.value?;
    let (mantissa, exponent) = (value.abs().log2().fract(), value.abs().log2());
    (value != 0.0 && mantissa == 0.0 && exponent.abs() <= 30.0).then_some(Destination::Shift)
}
