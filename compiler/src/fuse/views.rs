//! Where tensors lie: views of buffers, parts of a concat inside the whole, updates in place.

use super::{Fuser, rows, updates};
use crate::flow::{ConvPart, Def, Dims, Flow, FlowId, Operand, Scalar, Source, Tensor};
use crate::kernel::Format;
use crate::program::{BufferId, Purpose, View};
use crate::types::Axis;
use std::collections::{HashMap, HashSet};

/// The flow with a copy wherever a concat cannot have a part written straight into it (one that lies elsewhere already, or
/// does not vary over T where the whole does), and where a library cannot read a part of one. A device's library reads only a
/// part of the rows at once where a product keeps the concat's axis: so there such parts lie by themselves, too.
pub(super) fn with_copies(flow: &Flow, device: bool) -> Flow {
    let mut apart: HashSet<(FlowId, &str)> = HashSet::new();
    for tensor in flow.tensors.iter().filter(|_| device) {
        if let Def::Product { a, b, out_labels, .. } = &tensor.def {
            apart.extend(out_labels.iter().flat_map(|label| [(*a, label.as_str()), (*b, label.as_str())]));
        }
    }
    let mut out = Flow { label: flow.label.clone(), input: flow.input.clone(), ..Flow::default() };
    let mut map: Vec<FlowId> = Vec::with_capacity(flow.tensors.len());
    let mut claimed: HashSet<FlowId> = HashSet::new();
    for tensor in &flow.tensors {
        let mut tensor = renumbered(tensor, &map);
        // A library's convolution takes rows that follow each other.
        if let Def::Conv { a: grad, part: ConvPart::Operand, .. } | Def::Conv { b: grad, part: ConvPart::Weight, .. } = &mut tensor.def
            && matches!(&out.get(*grad).def, Def::Slice { axis, .. } if axis == "W")
        {
            *grad = copy(&mut out, *grad, &tensor.label);
        }
        if let Def::Overflow { of } = &mut tensor.def {
            for part in of.iter_mut().filter(|of| matches!(out.get(**of).def, Def::Slice { .. })).collect::<Vec<_>>() {
                *part = copy(&mut out, *part, &tensor.label);
            }
        }
        if let Def::Concat { parts, axis } = &mut tensor.def {
            let before = flow.get(FlowId::new(map.len())).def.inputs();
            for (part, before) in parts.iter_mut().zip(before) {
                let alone = apart.contains(&(before, axis.as_str()));
                let source = out.get(*part);
                let own = match source.def {
                    Def::Map { .. } | Def::Scan { .. } | Def::Product { .. } | Def::Pool { .. } => true,
                    Def::Conv { .. } => axis != "W",
                    _ => false,
                };
                let fits = source.dims.time == tensor.dims.time && source.dims.batch == tensor.dims.batch;
                let updated = updates(flow, *part).is_some();
                if own && fits && !updated && !alone && claimed.insert(*part) {
                    continue;
                }
                let varies = tensor.dims.time;
                *part = copy(&mut out, *part, &tensor.label);
                out.tensors[part.index()].dims.time = varies;
                claimed.insert(*part);
            }
        }
        out.tensors.push(tensor);
        map.push(FlowId::new(out.tensors.len() - 1));
    }
    out.sinks = flow.sinks.iter().map(|(s, id)| (s.clone(), map[id.index()])).collect();
    out
}

fn copy(flow: &mut Flow, of: FlowId, label: &str) -> FlowId {
    let source = flow.get(of);
    let (dims, spikes, region) = (source.dims.clone(), source.spikes, source.region);
    let def = Def::Map { inputs: vec![of], body: Scalar::Arg(0) };
    flow.tensors.push(Tensor { def, dims, label: label.to_owned(), spikes, operand: Operand::Real, region });
    FlowId::new(flow.tensors.len() - 1)
}

fn renumbered(tensor: &Tensor, map: &[FlowId]) -> Tensor {
    let mut tensor = tensor.clone();
    renumber(&mut tensor.def, |id| map[id.index()]);
    tensor
}

/// Gives every operand its new number.
pub(super) fn renumber(def: &mut Def, mut new: impl FnMut(FlowId) -> FlowId) {
    let mut at = |id: &mut FlowId| *id = new(*id);
    match def {
        Def::Source(_) => {}
        Def::Map { inputs, .. } | Def::Scan { inputs, .. } => inputs.iter_mut().for_each(at),
        Def::Slice { of, .. } | Def::Reshape { of, .. } | Def::Transpose { of } => at(of),
        Def::Reduce { input, .. } | Def::Pool { input, .. } => at(input),
        Def::Product { a, b, .. } | Def::Conv { a, b, .. } => {
            at(a);
            at(b);
        }
        Def::PoolGrad { input, grad, .. } => {
            at(input);
            at(grad);
        }
        Def::Concat { parts: all, .. } | Def::Overflow { of: all } => all.iter_mut().for_each(at),
        Def::Masked { of, by, .. } => of.iter_mut().chain([by]).for_each(at),
    }
}

/// For every part of a concat: the whole, along which axis, and where it begins.
pub(super) type Parts = HashMap<FlowId, (FlowId, String, usize)>;

/// The parts of all concats.
pub(super) fn parts(flow: &Flow) -> Parts {
    let mut part_of = Parts::new();
    for (i, tensor) in flow.tensors.iter().enumerate() {
        if let Def::Concat { parts, axis } = &tensor.def {
            let mut start = 0;
            for part in parts {
                part_of.insert(*part, (FlowId::new(i), axis.clone(), start));
                start += flow.dims(*part).axis(axis).map_or(0, |a| a.size);
            }
        }
    }
    part_of
}

/// The tensor whose memory this one lies in.
pub(super) fn home(flow: &Flow, part_of: &Parts, id: FlowId) -> FlowId {
    match (part_of.get(&id), &flow.get(id).def) {
        (Some((whole, ..)), _) => home(flow, part_of, *whole),
        (None, Def::Slice { of, .. } | Def::Reshape { of, .. } | Def::Transpose { of }) => home(flow, part_of, *of),
        _ => id,
    }
}

impl Fuser<'_> {
    /// Gives every stored tensor its view.
    pub(super) fn lay_out(&mut self) {
        // A part of a concat lies in it; the whole comes after its parts in the flow, so it is laid out first.
        let part_of = parts(self.flow);
        for id in self.ids() {
            if self.stored[id.index()] && self.views[id.index()].is_none() {
                self.views[id.index()] = Some(self.place(id, &part_of));
            }
        }
    }

    fn place(&mut self, id: FlowId, part_of: &Parts) -> View {
        let flow = self.flow;
        let tensor = flow.get(id);
        if let Some((whole, axis, start)) = part_of.get(&id).filter(|(whole, ..)| self.stored[whole.index()]) {
            if self.views[whole.index()].is_none() {
                self.views[whole.index()] = Some(self.place(*whole, part_of));
            }
            return slice(&self.view(*whole), axis, *start, &tensor.dims);
        }
        if let Def::Slice { of, axis, start } = &tensor.def {
            return slice(&self.view(*of), axis, *start, &tensor.dims);
        }
        if let Def::Reshape { of, from, to } = &tensor.def {
            return reshape(self.view(*of), from, to);
        }
        if let Def::Transpose { of } = &tensor.def {
            let own = self.view(*of);
            let axes = tensor.dims.axes.iter().filter_map(|a| own.axes.iter().find(|(name, ..)| *name == a.name).cloned());
            return View { axes: axes.collect(), ..own };
        }
        // In place, if the new value of a source is all that is stored of it.
        if let Some(source) = updates(flow, id)
            && let Some(own) = self.source_view(source)
        {
            let same = own.axes.iter().map(|(_, size, _)| size).product::<usize>() == tensor.dims.elements();
            if same {
                return fresh(own.buffer, &tensor.dims, self.time);
            }
        }
        let steps = if tensor.dims.time { self.time } else { 1 };
        let format = self.formats[id.index()];
        let purpose = match tensor.def {
            Def::Source(source) => Purpose::Source(source),
            _ if self.keeps(id) => Purpose::State(0),
            _ => Purpose::Temporary,
        };
        let label = tensor.label.clone();
        // Bits of a time step begin with a word, and rows may be filled up.
        let (outer, row) = rows::row(&tensor.dims);
        let rows = tensor.dims.elements() / row;
        let next = self.filled.get(&id).copied().unwrap_or(row);
        let plane = if format == Format::Bit { tensor.dims.elements().next_multiple_of(32) } else { rows * next };
        let buffer = self.buffer(&label, plane * steps, tensor.dims.batch, purpose);
        self.program.buffers[buffer.index()].format = format;
        if let Some(axis) = self.across(id) {
            let own = fresh(buffer, &Self::turned(&tensor.dims, &axis), self.time);
            let axes = tensor.dims.axes.iter().filter_map(|a| own.axes.iter().find(|(name, ..)| *name == a.name).cloned());
            return View { axes: axes.collect(), ..own };
        }
        let mut view = fresh(buffer, &tensor.dims, self.time);
        view.axes[..outer].iter_mut().for_each(|(_, _, stride)| *stride = *stride / row * next);
        let [batch, time] = [view.batch, view.time].map(|distance| distance / tensor.dims.elements().max(1) * plane);
        let view = View { batch, time, ..view };
        if self.steps_lie_side_by_side(id) { with_steps_inside(view, self.time) } else { view }
    }

    /// An inference goes through all time steps of a row before the next: there they are one stretch of memory, not many that are far apart,
    /// which caches and what fetches ahead would not keep up with.
    fn steps_lie_side_by_side(&self, id: FlowId) -> bool {
        let tensor = self.flow.get(id);
        let computed = matches!(tensor.def, Def::Map { .. } | Def::Scan { .. } | Def::Product { .. } | Def::Conv { .. } | Def::Pool { .. });
        // Axes that a view makes one must lie nested.
        let viewed = self
            .flow
            .tensors
            .iter()
            .any(|t| matches!(t.def, Def::Reshape { of, .. } | Def::Transpose { of } | Def::Slice { of, .. } if of == id));
        self.target.infers() && computed && !viewed && tensor.dims.time && tensor.dims.axes.len() > 1
    }

    /// A sum over T that goes on from call to call.
    pub(super) fn keeps(&self, id: FlowId) -> bool {
        let Def::Reduce { input, .. } = self.flow.get(id).def else { return false };
        self.target == super::Target::Stream && self.flow.dims(input).time && !self.flow.dims(id).time
    }

    fn source_view(&self, source: Source) -> Option<View> {
        let at = self.flow.tensors.iter().position(|t| t.def == Def::Source(source))?;
        self.views[at].clone()
    }
}

/// A view of a whole buffer.
fn fresh(buffer: BufferId, dims: &Dims, time: usize) -> View {
    let mut stride = 1;
    let mut axes = Vec::new();
    for axis in dims.axes.iter().rev() {
        axes.insert(0, (axis.name.clone(), axis.size, stride));
        stride *= axis.size;
    }
    let steps = if dims.time { time } else { 1 };
    View { buffer, offset: 0, batch: if dims.batch { stride * steps } else { 0 }, time: if dims.time { stride } else { 0 }, axes }
}

/// A view of a whole buffer with all time steps of a row, the last axis, side by side.
fn with_steps_inside(mut view: View, time: usize) -> View {
    let row = view.axes.last().map_or(1, |(_, size, stride)| size * stride);
    let outer = view.axes.len() - 1;
    view.axes[..outer].iter_mut().for_each(|(_, _, stride)| *stride *= time);
    view.time = row;
    view
}

/// A view with some axes under others; those that go lie nested.
fn reshape(mut view: View, from: &[String], to: &[Axis]) -> View {
    let gone: Vec<(String, usize, usize)> = from.iter().filter_map(|n| view.axes.iter().find(|(m, ..)| m == n).cloned()).collect();
    let nested = gone.windows(2).all(|w| w[0].2 == w[1].1 * w[1].2);
    debug_assert!(nested && gone.len() == from.len(), "{from:?} do not lie nested in {view:?}");
    let mut stride = gone.last().map_or(1, |(.., s)| *s);
    let at = view.axes.iter().position(|(n, ..)| from.contains(n)).unwrap_or(0);
    view.axes.retain(|(n, ..)| !from.contains(n));
    for axis in to.iter().rev() {
        view.axes.insert(at, (axis.name.clone(), axis.size, stride));
        stride *= axis.size;
    }
    view
}

/// Part of a view along an axis.
fn slice(whole: &View, axis: &str, start: usize, dims: &Dims) -> View {
    let mut view = whole.clone();
    for (name, size, stride) in &mut view.axes {
        if name == axis {
            view.offset += start * *stride;
            *size = dims.axis(axis).map_or(*size, |a| a.size);
        }
    }
    view
}
