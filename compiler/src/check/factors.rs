//! Where each constant factor goes: into the map before it, the neuron or the map after it, or into exponents.

use super::{Context, Destination, MAX_STEPS};
use crate::ops::{Linearity, Multiplication, Selection};
use crate::types::{Kind, NodeId};
use std::collections::BTreeSet;

/// A factor to be placed.
struct Factor {
    node: NodeId,
    axes: Vec<String>,
    value: Option<f64>,
    /// A shift comes with it (batch norm).
    shifts: bool,
    /// It is what a neuron's spikes are worth: positive, and known where spikes are seen.
    amplitude: bool,
}

/// Plans all factors, in graph order, so that a later one finds the earlier ones placed.
pub(super) fn plan(cx: &mut Context<'_>) {
    // What lies behind a factor is asked first from the end: a step that cannot pass its own factor on passes no other.
    let mut behind: Vec<Option<Destination>> = vec![None; cx.graph.nodes.len()];
    for id in cx.graph.ids().rev() {
        let Some(factor) = own(cx, id) else { continue };
        behind[id.index()] = after(cx, &factor, cx.readers[id.index()].clone(), &behind);
        if factor.amplitude && behind[id.index()].is_none() {
            let mut waiting = cx.readers[id.index()].clone();
            while let Some(reader) = waiting.pop() {
                if after(cx, &factor, vec![reader], &behind).is_some() {
                    continue;
                }
                // Where spikes only move, those that read them behind it may select.
                if moves_spikes(cx, reader) {
                    waiting.extend(&cx.readers[reader.index()]);
                } else {
                    cx.plan[reader.index()].selects = true;
                }
            }
        }
    }
    for id in cx.graph.ids() {
        let Some(factor) = own(cx, id) else { continue };
        let destination = if cx.graph.node(id).encoder {
            Destination::Encoder
        } else {
            let moved = before(cx, &factor).or(behind[id.index()]).or_else(|| shift(&factor));
            moved.or_else(|| select(cx, &factor)).unwrap_or(Destination::Residue)
        };
        cx.plan[id.index()].factor = Some(destination);
    }
}

/// The constant factor of a node.
fn own(cx: &Context<'_>, id: NodeId) -> Option<Factor> {
    let node = cx.graph.node(id);
    node.op.multiplies(&cx.graph.input_signals(node)).into_iter().find_map(|m| match m {
        Multiplication::Factor { axes, value } => {
            let amplitude = node.op.selection() == Selection::Neuron;
            Some(Factor { node: id, axes, value, shifts: value.is_none() && !amplitude, amplitude })
        }
        _ => None,
    })
}

/// (a) The map before it takes it, if it varies only over that map's output axis and nothing else reads the way there.
fn before(cx: &Context<'_>, factor: &Factor) -> Option<Destination> {
    if factor.amplitude || inside(cx, factor) {
        return None;
    }
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
            Linearity::WindowSum(_) => {
                // The padding of a window sum is no value of the map; its shift would be missing there.
                let kept = !matches!(cx.plan[at.index()].factor, None | Some(Destination::Before(_)));
                if kept || factor.shifts || factor.axes.iter().any(|a| a == "H" || a == "W") {
                    return None;
                }
            }
            Linearity::Identity => {}
            Linearity::View(moved) if node.inputs.len() == 1 && factor.axes.iter().all(|a| !moved.contains(a)) => {}
            Linearity::None | Linearity::View(_) | Linearity::Add | Linearity::Each => return None,
        }
        at = *node.inputs.first()?;
    }
    None
}

/// (b), (c) The neurons and maps that read it take it, with only linear steps between.
fn after(cx: &Context<'_>, factor: &Factor, readers: Vec<NodeId>, behind: &[Option<Destination>]) -> Option<Destination> {
    if factor.node == cx.graph.output || inside(cx, factor) {
        return None;
    }
    let (mut waiting, mut seen) = (vec![(readers, 0)], BTreeSet::new());
    let mut takers = Vec::new();
    while let Some((readers, steps)) = waiting.pop() {
        if readers.is_empty() || steps > MAX_STEPS {
            return None;
        }
        for next in readers {
            if !seen.insert(next) {
                continue;
            }
            let node = cx.graph.node(next);
            if node.encoder {
                return None;
            }
            if node.op.selection() == Selection::Neuron {
                takers.push(Destination::Neuron(next));
                continue;
            }
            let stays = own(cx, next).filter(|_| behind[next.index()].is_none());
            let passes = match node.op.linearity() {
                // It selects its own factor, and this one with it.
                Linearity::Sum(_) | Linearity::WindowSum(_)
                    if factor.amplitude && stays.as_ref().is_some_and(|own| shift(own).is_none()) =>
                {
                    takers.push(Destination::Select);
                    continue;
                }
                Linearity::Map { input_axis, output_axis, window } => {
                    // Zeros around its operand are not shifted, and a map to time steps has no bias.
                    let whole = window.pad == [0, 0] && output_axis != "T";
                    if factor.axes.iter().any(|a| *a != input_axis) || (factor.shifts && !whole) {
                        return None;
                    }
                    takers.push(Destination::After(next));
                    continue;
                }
                Linearity::Affine | Linearity::Identity => true,
                Linearity::Sum(axes) => factor.axes.iter().all(|a| !axes.contains(a)),
                Linearity::WindowSum(_) => !factor.shifts && factor.axes.iter().all(|a| a != "H" && a != "W"),
                Linearity::View(_) => factor.axes.is_empty() && !factor.shifts && node.inputs.len() == 1,
                Linearity::None => factor.amplitude && node.op.selection() == Selection::Maximum,
                Linearity::Add | Linearity::Each => false,
            };
            // A factor of its own that stays here would meet this one.
            if !passes || next == cx.graph.output || stays.is_some() {
                return None;
            }
            waiting.push((cx.readers[next.index()].clone(), steps + 1));
        }
    }
    match takers.as_slice() {
        [one] => Some(*one),
        _ => Some(Destination::Readers),
    }
}

/// It stands within its node's sum: not the same for all that is summed.
fn inside(cx: &Context<'_>, factor: &Factor) -> bool {
    matches!(cx.graph.node(factor.node).op.linearity(), Linearity::Sum(axes) if factor.axes.iter().any(|a| axes.contains(a)))
}

/// Every spike that is summed selects the constant; an amplitude is selected where spikes are read.
fn select(cx: &Context<'_>, factor: &Factor) -> Option<Destination> {
    let node = cx.graph.node(factor.node);
    let sums = matches!(node.op.linearity(), Linearity::Sum(_) | Linearity::WindowSum(_));
    let spikes = node.inputs.first().is_some_and(|i| fires(cx, *i));
    (factor.amplitude || (sums && spikes)).then_some(Destination::Select)
}

/// It gives the spikes of its one operand, in other places or the largest of some.
fn moves_spikes(cx: &Context<'_>, id: NodeId) -> bool {
    let node = cx.graph.node(id);
    let moves = matches!(node.op.linearity(), Linearity::Identity | Linearity::View(_)) || node.op.selection() == Selection::Maximum;
    moves && !node.encoder && node.inputs.len() == 1 && node.signal.kind == Kind::Spike && id != cx.graph.output
}

/// Its value is 0 or 1 in the folded network, or carries an amplitude with it.
fn fires(cx: &Context<'_>, id: NodeId) -> bool {
    let node = cx.graph.node(id);
    let passes = || !node.encoder && !cx.plan[id.index()].selects && node.inputs.first().is_some_and(|i| fires(cx, *i));
    node.signal.kind == Kind::Spike && (!node.signal.scaled || node.op.selection() == Selection::Neuron && !node.encoder || passes())
}

/// (d) A power of two changes exponents.
fn shift(factor: &Factor) -> Option<Destination> {
    let value = factor.value.filter(|_| !factor.amplitude)?;
    crate::flow::power_of_two(value).map(|_| Destination::Shift)
}
