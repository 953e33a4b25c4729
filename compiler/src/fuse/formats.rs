//! Mixed precision: what a training program keeps in 16 bits, and the copies that libraries need of what it does not.
//!
//! Narrow is what varies over samples: activations, spikes, their gradients. Parameters, statistics, other sums and results stay f32,
//! and so does all that is computed inside a loop (Micikevicius et al., "Mixed Precision Training", ICLR 2018).

use super::views::{home, parts};
use crate::flow::{Def, Flow, FlowId, Scalar, Sink, Source};
use crate::kernel::Format;
use std::collections::{HashMap, HashSet};

/// The flow with narrow copies of what a product reads that is kept in f32, and the format of every tensor.
pub(super) fn with_formats(flow: Flow, format: Format) -> (Flow, Vec<Format>) {
    if format == Format::F32 {
        let count = flow.tensors.len();
        return (flow, vec![Format::F32; count]);
    }
    let results: HashSet<FlowId> = flow.sinks.iter().filter(|(s, _)| !matches!(s, Sink::Spikes(_))).map(|(_, id)| *id).collect();
    let own = |flow: &Flow, id: FlowId, results: &HashSet<FlowId>| {
        let tensor = flow.get(id);
        let narrow = match tensor.def {
            Def::Source(source) => source == Source::Input,
            // The largest is compared with what it was taken of.
            Def::Reduce { max: true, .. } => false,
            // A sum over time steps alone is an element's own.
            Def::Reduce { input, .. } if flow.dims(input).elements() != tensor.dims.elements() || !flow.dims(input).batch => false,
            _ => tensor.dims.batch && !tensor.dims.axes.is_empty(),
        };
        if narrow && !results.contains(&id) { format } else { Format::F32 }
    };
    let part_of = parts(&flow);
    let kept: Vec<Format> = (0..flow.tensors.len()).map(FlowId::new).map(|id| own(&flow, home(&flow, &part_of, id), &results)).collect();
    let mut out = Flow { label: flow.label.clone(), input: flow.input.clone(), ..Flow::default() };
    let (mut formats, mut map, mut copies) = (Vec::new(), HashMap::new(), HashMap::new());
    // Copies of parameters come first: all of them are one launch.
    let operands = flow.tensors.iter().filter_map(|t| if let Def::Product { a, b, .. } = &t.def { Some([*a, *b]) } else { None }).flatten();
    let weights = operands.chain(pointwise(&flow)).filter(|id| matches!(flow.get(*id).def, Def::Source(Source::Param(_))));
    for id in weights {
        if map.contains_key(&id) {
            continue;
        }
        out.tensors.push(flow.get(id).clone());
        formats.push(Format::F32);
        map.insert(id, FlowId::new(out.tensors.len() - 1));
        copies.insert(id, copy(&mut out, &mut formats, map[&id], format));
    }
    for id in (0..flow.tensors.len()).map(FlowId::new) {
        if map.contains_key(&id) {
            continue;
        }
        let mut tensor = flow.get(id).clone();
        let convolved = matches!(tensor.def, Def::Conv { window, .. } if !window.pointwise());
        let contracted = matches!(tensor.def, Def::Product { .. } | Def::Conv { .. });
        super::views::renumber(&mut tensor.def, |operand| {
            // A convolution's weight is copied to another layout anyway.
            let weight = convolved && matches!(flow.get(operand).def, Def::Source(Source::Param(_)));
            if !contracted || weight || kept[operand.index()] == format {
                return map[&operand];
            }
            *copies.entry(operand).or_insert_with(|| copy(&mut out, &mut formats, map[&operand], format))
        });
        // A library convolves into what it reads.
        let wide = kept[id.index()] == Format::F32;
        let narrowed = convolved && wide && tensor.dims.batch;
        out.tensors.push(tensor);
        formats.push(if narrowed { format } else { kept[id.index()] });
        let mut new = FlowId::new(out.tensors.len() - 1);
        if narrowed {
            new = copy(&mut out, &mut formats, new, Format::F32);
        }
        map.insert(id, new);
    }
    out.sinks = flow.sinks.iter().map(|(s, id)| (s.clone(), map[id])).collect();
    (out, formats)
}

/// The weights of convolutions that look at one place: libraries take them as those of products.
fn pointwise(flow: &Flow) -> impl Iterator<Item = FlowId> {
    flow.tensors.iter().filter_map(|t| match t.def {
        Def::Conv { b, window, .. } if window.pointwise() => Some(b),
        _ => None,
    })
}

fn copy(out: &mut Flow, formats: &mut Vec<Format>, of: FlowId, format: Format) -> FlowId {
    let source = out.get(of);
    let (dims, label, spikes) = (source.dims.clone(), source.label.clone(), source.spikes);
    out.label = label;
    let id = out.map_to(&[of], Scalar::Arg(0), dims);
    out.tensors[id.index()].spikes = spikes;
    formats.push(format);
    id
}
