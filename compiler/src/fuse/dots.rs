//! Products of spikes with another signal, as attention has them: their lanes go along an axis that only the other signal has, so that one
//! look at a spike is for all of them. In memory that axis lies innermost.

use super::Fuser;
use crate::flow::{Def, Dims, FlowId, Operand, Source};
use crate::types::Axis;

/// A product of spikes with spikes over all places of both: how many ones the bits of two channels share over the places.
pub(super) struct Counts {
    /// The spikes, whose places are rows of bits.
    pub(super) operands: [FlowId; 2],
    /// Places of both.
    pub(super) places: usize,
    /// The label of an axis that both share with the result, and its extent.
    pub(super) shared: Option<(String, usize)>,
    /// Labels and extents of the axes that either shares with the result.
    pub(super) own: [(String, usize); 2],
}

/// Nanoseconds for a word of two channels that is counted, and for what becomes of the sum.
const COUNT: [f64; 2] = [0.35, 1.0];
/// Nanoseconds for a look at a spike, and for eight lanes that are added.
const LOOK: f64 = 3.3;
const LANES: f64 = 0.6;

/// Nanoseconds for a place of such a product that is counted over so many places.
pub(super) fn counting(places: usize) -> f64 {
    places.div_ceil(64) as f64 * COUNT[0] + COUNT[1]
}

/// Nanoseconds for a place of such a product, one of so many lanes, that is added up over so many places, of which this part fires.
pub(super) fn adding(places: usize, lanes: usize, rate: f64) -> f64 {
    places as f64 * (LOOK / lanes.max(1) as f64 + rate * LANES / 8.0)
}

impl Fuser<'_> {
    /// How a product of two signals of spikes is counted in words, if that takes less than to add up one signal where the other fires.
    pub(super) fn counts(&self, id: FlowId) -> Option<Counts> {
        let tensor = self.flow.get(id);
        let Def::Product { a, b, a_labels, b_labels, out_labels } = &tensor.def else { return None };
        if !self.target.infers() || tensor.operand != Operand::Spikes {
            return None;
        }
        let [(first, a_places, a_kept), (second, b_places, b_kept)] =
            [(self.rows_of_bits(*a, a_labels)?), (self.rows_of_bits(*b, b_labels)?)];
        let times = [first, second, id].map(|id| self.flow.dims(id).time);
        let known = |l: &(String, usize)| out_labels.contains(&l.0);
        if a_places != b_places || a_places.iter().any(known) || times[0] != times[1] || times[0] != times[2] {
            return None;
        }
        let (shared, own) = match (a_kept.as_slice(), b_kept.as_slice()) {
            ([k], [v]) if k.0 != v.0 => (None, [k, v]),
            ([g, k], [same, v]) if g == same && k.0 != v.0 => (Some(g.clone()), [k, v]),
            _ => return None,
        };
        let places: usize = a_places.iter().map(|(_, size)| size).product();
        let less = counting(places) < adding(places, own[1].1.min(self.expected.lanes), self.rate_of(id));
        let all = own.iter().chain(&shared.as_ref()).all(|l| known(l));
        (all && less).then(|| Counts { operands: [first, second], places, shared, own: own.map(Clone::clone) })
    }

    /// Spikes that are kept as rows of bits: with the labels of their places and of what lies within a row, perhaps under several axes.
    fn rows_of_bits(&self, id: FlowId, labels: &[String]) -> Option<(FlowId, Vec<(String, usize)>, Vec<(String, usize)>)> {
        let (source, within) = match &self.flow.get(id).def {
            Def::Reshape { of, from, to } if self.flow.dims(*of).axes.last().is_some_and(|a| *from == [a.name.clone()]) => (*of, to.len()),
            _ => (id, 1),
        };
        let dims = self.flow.dims(id);
        let outer = labels.len().checked_sub(dims.axes.len())?;
        let all: Vec<(String, usize)> = labels[outer..].iter().cloned().zip(dims.axes.iter().map(|a| a.size)).collect();
        let (places, kept) = all.split_at_checked(all.len().checked_sub(within)?)?;
        self.fired_in_rows(source).then(|| (source, places.to_vec(), kept.to_vec()))
    }

    /// The axis of such a product's result that its lanes go along.
    pub(super) fn across(&self, id: FlowId) -> Option<String> {
        let tensor = self.flow.get(id);
        let Def::Product { a, b, a_labels, b_labels, out_labels } = &tensor.def else { return None };
        let signals = [a, b].iter().all(|i| self.flow.dims(**i).batch && !matches!(self.flow.get(**i).def, Def::Source(Source::Param(_))));
        if !self.target.infers() || tensor.operand != Operand::Spikes || !signals || !tensor.dims.batch {
            return None;
        }
        let label = b_labels.last().filter(|l| !a_labels.contains(l))?;
        let axis = tensor.dims.labels().get(out_labels.iter().position(|l| l == label)?)?.clone();
        let at = tensor.dims.axes.iter().position(|a| a.name == axis)?;
        // The axes before it and behind it change places: what is made one with the next of them must lie beside it.
        let next = tensor.dims.axes.get(at + 1).map(|a| a.name.clone());
        let torn =
            next.is_some_and(|next| self.views_of(id).any(|from| from.is_none_or(|from| from.contains(&axis) && from.contains(&next))));
        (!torn).then_some(axis)
    }

    /// Of every view of a tensor the axes that it gives others for; `None` where that cannot be said of the tensor's own.
    fn views_of(&self, id: FlowId) -> impl Iterator<Item = Option<&[String]>> {
        self.flow.tensors.iter().enumerate().filter(move |(_, t)| t.def.inputs().contains(&id)).filter_map(move |(i, t)| match &t.def {
            Def::Reshape { from, .. } => {
                let again = |t: &crate::flow::Tensor| {
                    let views = matches!(t.def, Def::Reshape { .. } | Def::Transpose { .. } | Def::Slice { .. });
                    views && t.def.inputs().contains(&FlowId::new(i))
                };
                Some(if self.flow.tensors.iter().any(again) { None } else { Some(from.as_slice()) })
            }
            Def::Transpose { .. } | Def::Slice { .. } | Def::Concat { .. } => Some(None),
            _ => None,
        })
    }

    /// Dims in the order in which they lie in memory: those behind an axis come first, and it comes last.
    pub(super) fn turned(dims: &Dims, axis: &str) -> Dims {
        let mut dims = dims.clone();
        if let Some(at) = dims.axes.iter().position(|a: &Axis| a.name == axis) {
            dims.axes.rotate_left(at + 1);
        }
        dims
    }
}
