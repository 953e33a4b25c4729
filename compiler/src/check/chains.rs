//! Chains of linear maps between one spike source and one reader: one map, if its weights are no more than the parts'.

use super::{Context, How, MAX_STEPS};
use crate::ops::Linearity;
use crate::types::{Kind, NodeId};
use std::collections::HashMap;

/// Which maps have been joined.
#[derive(Default)]
pub(crate) struct Chains {
    /// Maps that stand for a chain: how many weights it has.
    weights: HashMap<NodeId, u64>,
    /// Maps that stand for a chain: of how many maps.
    lengths: HashMap<NodeId, usize>,
    /// Maps that another one stands for.
    joined: HashMap<NodeId, NodeId>,
}

/// The map that a map's operand comes from, if only linear steps with one reader lie between, and whether one of those
/// sums over an axis of a window.
pub(crate) fn source(cx: &Context<'_>, id: NodeId) -> Option<NodeId> {
    let mut at = *cx.graph.node(id).inputs.first()?;
    for _ in 0..MAX_STEPS {
        cx.only_reader(at)?;
        let node = cx.graph.node(at);
        if node.encoder {
            return None;
        }
        match node.op.linearity() {
            Linearity::Map { .. } => return Some(at),
            Linearity::Affine | Linearity::Sum(_) => match cx.plan[at.index()].factor {
                Some(factor) if factor.stays() => return None,
                _ => at = *node.inputs.first()?,
            },
            Linearity::Identity => at = *node.inputs.first()?,
            Linearity::None | Linearity::WindowSum | Linearity::View | Linearity::Add => return None,
        }
    }
    None
}

impl Chains {
    /// The map with which `id` can be composed; that one goes away and `id` stands for both, or, if `id` maps each
    /// place to itself, the other way round.
    pub(crate) fn composable(&self, cx: &Context<'_>, id: NodeId) -> Option<NodeId> {
        let first = source(cx, id)?;
        let stands = *self.joined.get(&first).unwrap_or(&first);
        // The chain starts at spikes.
        let operand = *cx.graph.node(stands).inputs.first()?;
        if !matches!(cx.plan[stands.index()].how, How::Accumulate | How::AccumulateCount(_))
            || cx.plan[operand.index()].signal.kind > Kind::Count
        {
            return None;
        }
        let (Linearity::Map { output_axis, .. }, Linearity::Map { input_axis, pointwise, .. }) =
            (cx.graph.node(first).op.linearity(), cx.graph.node(id).op.linearity())
        else {
            return None;
        };
        if output_axis != input_axis || !pointwise || self.lengths.get(&stands).is_some_and(|n| *n >= MAX_STEPS) {
            return None;
        }
        let (parts, whole) = (self.count(cx, stands) + self.own(cx, id), self.composed(cx, stands, id));
        (whole <= parts).then_some(stands)
    }

    /// Notes that `id` is composed into `with`, which has `weights` then.
    pub(crate) fn join(&mut self, with: NodeId, id: NodeId, weights: u64) {
        self.joined.insert(id, with);
        *self.lengths.entry(with).or_insert(1) += 1;
        self.weights.insert(with, weights);
    }

    /// Weights of one map.
    fn own(&self, cx: &Context<'_>, id: NodeId) -> u64 {
        let node = cx.graph.node(id);
        node.params.first().map_or(0, |p| cx.graph.param(*p).elements() as u64)
    }

    fn count(&self, cx: &Context<'_>, id: NodeId) -> u64 {
        self.weights.get(&id).copied().unwrap_or_else(|| self.own(cx, id))
    }

    /// Weights of the composition: those of the first map with the second's outputs.
    pub(crate) fn composed(&self, cx: &Context<'_>, first: NodeId, second: NodeId) -> u64 {
        let extent = |id: NodeId, i: usize| cx.graph.node(id).params.first().map_or(1, |p| cx.graph.param(*p).axes[i].size as u64);
        let (inputs, outputs) = (|id| extent(id, 1), |id| extent(id, 0));
        // What the chain gives so far is what the second map reads.
        self.count(cx, first) / inputs(second).max(1) * outputs(second)
    }
}
