//! Rows that begin where tensor cores load at once: what products over channels read and write in 16 bits has its innermost axis filled
//! up to whole loads. Nobody reads what fills up. Products along other axes take rows and channels as one. A convolution's library wants
//! rows without gaps, and may fill them up itself (cuDNN documentation, "Legacy API", "Data and Filter Formats").

use super::views::{home, parts};
use crate::flow::{Def, Dims, Flow, FlowId, Source};
use crate::kernel::Format;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers of 16 bits that a thread loads at once, 16 bytes. What it is worth a device has yet to say.
const AT_ONCE: usize = 8;

/// The lengths of the rows that are filled up, by the tensor whose memory they are in.
pub(super) fn filled(flow: &Flow, formats: &[Format]) -> BTreeMap<FlowId, usize> {
    let part_of = parts(flow);
    let home = |id: FlowId| home(flow, &part_of, id);
    let mut multiplied: BTreeSet<FlowId> = BTreeSet::new();
    let mut gapless: BTreeSet<FlowId> = BTreeSet::new();
    for (id, tensor) in flow.tensors.iter().enumerate().map(|(i, t)| (FlowId::new(i), t)) {
        let all = || tensor.def.inputs().into_iter().chain([id]).map(home);
        match &tensor.def {
            Def::Product { a, b, a_labels, b_labels, out_labels } => {
                let operands = [(*a, a_labels), (*b, b_labels)];
                let summed = operands.iter().filter(|(_, labels)| labels.last().is_some_and(|l| !out_labels.contains(l)));
                multiplied.extend(summed.map(|(id, _)| home(*id)));
                let goes_on = |(id, labels): &(FlowId, &Vec<String>)| flow.dims(*id).batch && labels.last() == out_labels.last();
                if !operands.iter().any(goes_on) {
                    multiplied.insert(home(id));
                }
            }
            Def::Conv { window, .. } if window.pointwise() => multiplied.extend(all()),
            Def::Conv { .. } | Def::Overflow { .. } => gapless.extend(all()),
            // Axes become others as one.
            Def::Reshape { of, .. } => gapless.extend([home(*of)]),
            _ => {}
        }
    }
    let length = |id: FlowId| {
        let tensor = flow.get(id);
        let (outer, row) = row(&tensor.dims);
        let several = outer > 0 || tensor.dims.batch || tensor.dims.time;
        let narrow = matches!(formats[id.index()], Format::F16 | Format::Bf16);
        let own = narrow && tensor.def != Def::Source(Source::Input);
        (own && several && row > AT_ONCE && !row.is_multiple_of(AT_ONCE)).then(|| row.next_multiple_of(AT_ONCE))
    };
    multiplied.difference(&gapless).filter_map(|id| Some((*id, length(*id)?))).collect()
}

/// How many axes stand before the innermost that has several places, and its extent.
pub(super) fn row(dims: &Dims) -> (usize, usize) {
    let several = dims.axes.iter().enumerate().rev().find(|(_, axis)| axis.size > 1);
    several.map_or((0, 1), |(at, axis)| (at, axis.size))
}
