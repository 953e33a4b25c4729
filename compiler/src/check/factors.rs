//! Where each constant factor goes: into the map before it, the neuron or the map after it, or into exponents.

use super::{Context, Destination, MAX_STEPS};
use crate::ops::{Linearity, Multiplication, Selection};
use crate::types::NodeId;
use std::collections::BTreeSet;

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
    // What lies behind a factor is asked first from the end: a step that cannot pass its own factor on passes no other.
    let mut behind: Vec<Option<Destination>> = vec![None; cx.graph.nodes.len()];
    for id in cx.graph.ids().rev() {
        behind[id.index()] = own(cx, id).and_then(|factor| after(cx, &factor, &behind));
    }
    for id in cx.graph.ids() {
        let Some(factor) = own(cx, id) else { continue };
        let destination = if cx.graph.node(id).encoder {
            Destination::Encoder
        } else {
            before(cx, &factor).or(behind[id.index()]).or_else(|| shift(&factor)).unwrap_or(Destination::Residue)
        };
        cx.plan[id.index()].factor = Some(destination);
    }
}

/// The constant factor of a node.
fn own(cx: &Context<'_>, id: NodeId) -> Option<Factor> {
    let node = cx.graph.node(id);
    node.op.multiplies(&cx.graph.input_signals(node)).into_iter().find_map(|m| match m {
        Multiplication::Factor { axes, value } => Some(Factor { node: id, axes, value, shifts: value.is_none() }),
        _ => None,
    })
}

/// (a) The map before it takes it, if it varies only over that map's output axis and nothing else reads the way there.
fn before(cx: &Context<'_>, factor: &Factor) -> Option<Destination> {
    let mut at = *cx.graph.node(factor.node).inputs.first()?;
    for _ in 0..MAX_STEPS {
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
    None
}

/// (b), (c) The neurons and maps that read it take it, with only linear steps between.
fn after(cx: &Context<'_>, factor: &Factor, behind: &[Option<Destination>]) -> Option<Destination> {
    let (mut waiting, mut seen) = (vec![(factor.node, 0)], BTreeSet::new());
    let mut takers = Vec::new();
    while let Some((at, steps)) = waiting.pop() {
        if at == cx.graph.output || cx.readers[at.index()].is_empty() || steps > MAX_STEPS {
            return None;
        }
        for &next in cx.readers[at.index()].iter().filter(|n| seen.insert(**n)) {
            let node = cx.graph.node(next);
            if node.encoder {
                return None;
            }
            if node.op.selection() == Selection::Neuron {
                takers.push(Destination::Neuron(next));
                continue;
            }
            let passes = match node.op.linearity() {
                Linearity::Map { input_axis, zero_padded, .. } => {
                    if factor.axes.iter().any(|a| *a != input_axis) || (factor.shifts && zero_padded) {
                        return None;
                    }
                    takers.push(Destination::After(next));
                    continue;
                }
                Linearity::Affine => true,
                Linearity::Sum(axes) => factor.axes.iter().all(|a| !axes.contains(a)),
                Linearity::WindowSum => !factor.shifts && factor.axes.iter().all(|a| a != "H" && a != "W"),
                Linearity::None | Linearity::View | Linearity::Add => false,
            };
            // A factor of its own that stays here would meet this one.
            if !passes || (own(cx, next).is_some() && behind[next.index()].is_none()) {
                return None;
            }
            waiting.push((next, steps + 1));
        }
    }
    match takers.as_slice() {
        [one] => Some(*one),
        _ => Some(Destination::Readers),
    }
}

/// (d) A power of two changes exponents.
fn shift(factor: &Factor) -> Option<Destination> {
    let value = factor.value?;
    crate::flow::power_of_two(value).map(|_| Destination::Shift)
}
