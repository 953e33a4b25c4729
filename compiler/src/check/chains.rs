//! Chains of linear maps between one spike source and one reader: one map, if its weights are no more than the parts'.

use super::{Context, Destination, How, MAX_STEPS};
use crate::flow::Window;
use crate::graph::Fold;
use crate::ops::Linearity;
use crate::types::{Kind, NodeId};
use std::collections::{BTreeMap, HashMap};

/// Which maps have been joined.
#[derive(Default)]
pub(crate) struct Chains {
    /// Maps that stand for a chain.
    whole: BTreeMap<NodeId, Whole>,
    /// Maps that another one stands for.
    joined: HashMap<NodeId, NodeId>,
}

/// A chain as one map.
#[derive(Clone, Copy)]
pub(crate) struct Whole {
    /// Inputs and outputs of its weight.
    inputs: u64,
    outputs: u64,
    window: Window,
    /// Of how many maps.
    length: usize,
    /// Weights of all of them, each by itself.
    parts: u64,
}

impl Whole {
    fn weights(&self) -> u64 {
        let [h, w] = self.window.kernel;
        self.inputs.saturating_mul(self.outputs).saturating_mul((h * w) as u64)
    }
}

/// The map that a map's operand comes from, if only linear steps with one reader lie between, and whether one of those
/// sums over an axis of a window.
pub(crate) fn source(cx: &Context<'_>, id: NodeId) -> Option<NodeId> {
    let Linearity::Map { input_axis: axis, window, .. } = cx.graph.node(id).op.linearity() else { return None };
    let mut at = *cx.graph.node(id).inputs.first()?;
    for _ in 0..MAX_STEPS {
        cx.only_reader(at)?;
        let node = cx.graph.node(at);
        if node.encoder {
            return None;
        }
        match node.op.linearity() {
            Linearity::Map { .. } => return Some(at),
            // What a factor between the maps would do behind them, nothing does any more: the first map must take it.
            Linearity::Affine | Linearity::Sum(_) => match cx.plan[at.index()].factor {
                None | Some(Destination::Before(_)) => at = *node.inputs.first()?,
                Some(_) => return None,
            },
            Linearity::Identity => at = *node.inputs.first()?,
            Linearity::View(moved) if node.inputs.len() == 1 && window.pointwise() && !moved.contains(&axis) => {
                at = *node.inputs.first()?;
            }
            Linearity::None | Linearity::WindowSum(_) | Linearity::View(_) | Linearity::Add | Linearity::Each => return None,
        }
    }
    None
}

/// No value from the map `first` to the map `last` has an axis of this name that is another than the maps' own: theirs will be
/// called so.
fn is_free(cx: &Context<'_>, axis: &str, first: NodeId, last: NodeId) -> bool {
    let mut at = last;
    let mut taken = false;
    while at != first {
        let Some(before) = cx.graph.node(at).inputs.first() else { return false };
        at = *before;
        taken |= cx.graph.node(at).signal.size(axis).is_some();
        if let Linearity::Map { output_axis, .. } = cx.graph.node(at).op.linearity() {
            if taken && output_axis != axis {
                return false;
            }
            taken = false;
        }
    }
    true
}

impl Chains {
    /// The map that stands for a chain which `id` can be added to; `id` goes away then, and the other is the map of both.
    pub(crate) fn composable(&self, cx: &Context<'_>, id: NodeId) -> Option<NodeId> {
        self.composed(cx, id).map(|(stands, _)| stands)
    }

    /// The same with the chain that comes out.
    fn composed(&self, cx: &Context<'_>, id: NodeId) -> Option<(NodeId, Whole)> {
        let first = source(cx, id)?;
        let stands = *self.joined.get(&first).unwrap_or(&first);
        // The chain starts at spikes.
        let operand = *cx.graph.node(stands).inputs.first()?;
        if !matches!(cx.plan[stands.index()].how, How::Accumulate | How::AccumulateCount(_))
            || cx.plan[operand.index()].signal.kind > Kind::Count
        {
            return None;
        }
        let (Linearity::Map { output_axis, .. }, Linearity::Map { input_axis, output_axis: last, window, .. }) =
            (cx.graph.node(first).op.linearity(), cx.graph.node(id).op.linearity())
        else {
            return None;
        };
        let chain = self.whole(cx, stands)?;
        let size = ["H", "W"].map(|n| cx.graph.node(operand).signal.size(n).unwrap_or(1));
        let room = window.pointwise() || cx.graph.node(stands).op.widened(window).is_some();
        // A map to time steps is one of its own: no other has them for its result.
        if output_axis != input_axis || last == "T" || !room || chain.length >= MAX_STEPS || !is_free(cx, &last, stands, id) {
            return None;
        }
        let own = cx.graph.param(*cx.graph.node(id).params.first()?);
        let whole = Whole {
            inputs: chain.inputs,
            outputs: own.axes.first()?.size as u64,
            window: chain.window.then(&window, size, true)?,
            length: chain.length + 1,
            parts: chain.parts + own.elements() as u64,
        };
        let asked = cx.graph.asked(cx.graph.node(id), Fold::Compose).is_some();
        (asked || whole.weights() <= whole.parts).then_some((stands, whole))
    }

    /// Notes that `id` is composed into the chain before it.
    pub(crate) fn join(cx: &mut Context<'_>, id: NodeId) {
        let Some((with, whole)) = cx.chains.composed(cx, id) else { return };
        cx.chains.joined.insert(id, with);
        cx.chains.whole.insert(with, whole);
        // Through a pool before it, the chain looks further than its first map alone.
        if let Some(window) = &mut cx.plan[with.index()].window {
            *window = whole.window;
        }
    }

    /// Maps that stand for a chain with more weights than its parts, as was asked for, and how many more.
    pub(crate) fn grown(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        let more = |(id, whole): (&NodeId, &Whole)| Some((*id, whole.weights().checked_sub(whole.parts).filter(|n| *n > 0)?));
        self.whole.iter().filter_map(more)
    }

    /// Weights of the chain that a map stands for.
    pub(crate) fn weights(&self, cx: &Context<'_>, map: NodeId) -> Option<u64> {
        self.whole(cx, map).map(|w| w.weights())
    }

    /// The chain that a map stands for, itself if there is none.
    fn whole(&self, cx: &Context<'_>, map: NodeId) -> Option<Whole> {
        if let Some(known) = self.whole.get(&map) {
            return Some(*known);
        }
        let node = cx.graph.node(map);
        let Linearity::Map { window, .. } = node.op.linearity() else { return None };
        let window = cx.plan[map.index()].window.unwrap_or(window);
        let weight = cx.graph.param(*node.params.first()?);
        let size = |i: usize| weight.axes.get(i).map_or(1, |a| a.size as u64);
        let alone = Whole { inputs: size(1), outputs: size(0), window, length: 1, parts: 0 };
        Some(Whole { parts: alone.weights(), ..alone })
    }
}
