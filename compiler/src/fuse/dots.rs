//! Products of spikes with another signal, as attention has them: their lanes go along an axis that only the other signal has, so that one
//! look at a spike is for all of them. In memory that axis lies innermost.

use super::Fuser;
use crate::flow::{Def, Dims, FlowId, Operand, Source};
use crate::types::Axis;

impl Fuser<'_> {
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
