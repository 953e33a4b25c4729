//! Spikes as bits where a gradient of weights reads them: a sixteenth of what a library's product would keep from forward to
//! backward, in a training step in 16 bits.

use super::views::renumber;
use crate::flow::{ConvPart, Def, Flow, FlowId, Scalar};
use crate::kernel::Format;
use std::collections::HashMap;

/// The most labels that are summed over.
const SUMMED: usize = 5;

/// The flow with products of spikes and gradients as sums that bits mask, and the format of every tensor.
pub(super) fn with_bits((flow, formats): (Flow, Vec<Format>)) -> (Flow, Vec<Format>) {
    let mut out = Flow { label: flow.label.clone(), input: flow.input.clone(), ..Flow::default() };
    let mut pass = Pass { flow: &flow, map: Vec::new(), formats: Vec::new(), bits: HashMap::new() };
    for (id, format) in (0..flow.tensors.len()).map(FlowId::new).zip(&formats) {
        let mut tensor = flow.get(id).clone();
        match pass.masked(&mut out, id, &formats) {
            Some(masked) => tensor.def = masked,
            None => renumber(&mut tensor.def, |operand| pass.map[operand.index()]),
        }
        out.tensors.push(tensor);
        pass.formats.push(*format);
        pass.map.push(FlowId::new(out.tensors.len() - 1));
    }
    out.sinks = flow.sinks.iter().map(|(s, id)| (s.clone(), pass.map[id.index()])).collect();
    (out, pass.formats)
}

struct Pass<'f> {
    flow: &'f Flow,
    /// The new number of every tensor.
    map: Vec<FlowId>,
    /// Of the new ones.
    formats: Vec<Format>,
    /// Bits of some tensors: what lies side by side.
    bits: HashMap<FlowId, Vec<FlowId>>,
}

impl Pass<'_> {
    /// A product of spikes and narrow numbers over all samples, as one that reads bits.
    fn masked(&mut self, out: &mut Flow, id: FlowId, formats: &[Format]) -> Option<Def> {
        let ([of, by], [of_labels, by_labels, out_labels]) = operands(self.flow, id)?;
        let (spikes, numbers) = (self.flow.get(of), self.flow.get(by));
        let summed = spikes.dims.batch && numbers.dims.batch && !self.flow.dims(id).batch;
        if !summed || !spikes.spikes || formats[by.index()] == Format::F32 || !fits(&of_labels, &by_labels, &out_labels) {
            return None;
        }
        let own = of_labels.iter().find(|l| out_labels.contains(l))?;
        // The axis of this label.
        let at = of_labels.iter().position(|l| l == own)?;
        let axis = spikes.dims.labels()[at].clone();
        let of = self.bits(out, of, &axis)?;
        Some(Def::Masked { of, by: self.map[by.index()], of_labels, by_labels, out_labels })
    }

    /// Bits of a tensor of spikes: of its parts, if it is made of several side by side along this axis.
    fn bits(&mut self, out: &mut Flow, id: FlowId, along: &str) -> Option<Vec<FlowId>> {
        if let Some(known) = self.bits.get(&id) {
            return Some(known.clone());
        }
        let tensor = self.flow.get(id);
        let found = match &tensor.def {
            Def::Concat { parts, axis } => {
                let all: Option<Vec<Vec<FlowId>>> = parts.iter().map(|part| self.bits(out, *part, along)).collect();
                let all = all?.concat();
                (axis == along).then_some(all)?
            }
            // Copies that libraries need.
            Def::Map { inputs, body: Scalar::Arg(0) } if self.flow.dims(inputs[0]) == &tensor.dims => self.bits(out, inputs[0], along)?,
            Def::Scan { .. } | Def::Map { .. } => {
                out.label.clone_from(&tensor.label);
                let bits = out.map_to(&[self.map[id.index()]], Scalar::Arg(0), tensor.dims.clone());
                out.tensors[bits.index()].spikes = true;
                self.formats.push(Format::Bit);
                vec![bits]
            }
            _ => return None,
        };
        self.bits.insert(id, found.clone());
        Some(found)
    }
}

/// Whether a device's kernel takes operands with dims of these labels: the result has one label of each, and both lie alike, with what is
/// summed last, or the others.
fn fits(of: &[String], by: &[String], out: &[String]) -> bool {
    let kept = |labels: &[String], others: &[String]| labels.iter().filter(|l| out.contains(l) && !others.contains(l)).count();
    let summed = of.iter().filter(|l| by.contains(l)).count();
    let alike = match (of.last(), by.last()) {
        (Some(a), Some(b)) => a == b || (out.contains(a) && out.contains(b)),
        _ => false,
    };
    // The rest of the result's labels has one place each, as those of a window that looks at one.
    kept(of, by) == 1
        && kept(by, of) == 1
        && of.len() == summed + 1
        && by.len() == summed + 1
        && !out.iter().any(|l| of.contains(l) && by.contains(l))
        && (1..=SUMMED).contains(&summed)
        && alike
}

/// Spikes and numbers of what may be a product of both, with labels for the dims of both and of the result.
fn operands(flow: &Flow, id: FlowId) -> Option<([FlowId; 2], [Vec<String>; 3])> {
    match &flow.get(id).def {
        Def::Product { a, b, a_labels, b_labels, out_labels } => {
            let labels = |of: &[String], by: &[String]| [of.to_vec(), by.to_vec(), out_labels.clone()];
            match (flow.get(*a).spikes, flow.get(*b).spikes) {
                (true, false) => Some(([*a, *b], labels(a_labels, b_labels))),
                (false, true) => Some(([*b, *a], labels(b_labels, a_labels))),
                _ => None,
            }
        }
        Def::Conv { a, b, part: ConvPart::Weight, window } if window.pointwise() => {
            let channels = |of: FlowId, name: &str| -> Vec<String> {
                flow.dims(of).labels().into_iter().map(|l| if l == "C" { name.to_owned() } else { l }).collect()
            };
            Some(([*a, *b], [channels(*a, "in"), channels(*b, "out"), flow.dims(id).labels()]))
        }
        _ => None,
    }
}
