//! Contractions of spikes along another axis than the innermost, such as those that mix tokens, or whose outputs are another axis: what they
//! sum over is put innermost, and so is their result, up to the neuron that makes spikes of it. In between stand transposes, which cost
//! little: spikes are bits.

use super::views::renumber;
use super::{Fuser, Target};
use crate::flow::{Def, Dims, Flow, FlowId, Operand, Source, Tensor};
use crate::kernel::Format;
use std::collections::{HashMap, HashSet};

/// The flow with such contractions over the innermost axis, and its formats.
pub(super) fn with_outputs_innermost(flow: Flow, formats: Vec<Format>, target: Target, time: usize) -> (Flow, Vec<Format>) {
    if !target.infers() {
        return (flow, formats);
    }
    let chains = chains(&Fuser::new(&flow, formats, target, time));
    if chains.is_empty() {
        let formats = vec![Format::F32; flow.tensors.len()];
        return (flow, formats);
    }
    let mut turned: HashMap<FlowId, &str> = HashMap::new();
    for chain in &chains {
        turned.extend(chain.members.iter().map(|id| (*id, chain.axis.as_str())));
    }
    let mut out = Rewriter {
        out: Flow { label: flow.label.clone(), input: flow.input.clone(), ..Flow::default() },
        map: vec![],
        transposed: HashMap::new(),
    };
    for (i, tensor) in flow.tensors.iter().enumerate() {
        let own = turned.get(&FlowId::new(i)).copied();
        let mut tensor = tensor.clone();
        if let (Def::Product { a, b, a_labels, out_labels, .. }, Some(axis)) = (&mut tensor.def, own) {
            let summed = a_labels.iter().position(|l| !out_labels.contains(l)).unwrap_or(0);
            let last = flow.dims(*a).labels()[summed].clone();
            *a = out.with_innermost(*a, flow.dims(*a), &last);
            *b = out.map[b.index()];
            innermost(a_labels, summed);
            let at = tensor.dims.labels().iter().position(|l| l == axis).unwrap_or(0);
            innermost(out_labels, at);
        } else {
            renumber(&mut tensor.def, |id| match (own, turned.get(&id)) {
                (Some(_), Some(_)) => out.map[id.index()],
                _ => out.as_it_was(id, flow.dims(id)),
            });
        }
        if let Some(axis) = own {
            tensor.dims = with_last(&tensor.dims, axis);
        }
        out.out.tensors.push(tensor);
        out.map.push(FlowId::new(out.out.tensors.len() - 1));
    }
    let sinks: Vec<_> = flow.sinks.iter().map(|(sink, id)| (sink.clone(), out.as_it_was(*id, flow.dims(*id)))).collect();
    out.out.sinks = sinks;
    let formats = vec![Format::F32; out.out.tensors.len()];
    (out.out, formats)
}

/// A contraction, and the maps and neurons behind it that only they read.
struct Chain {
    /// The result's axis that goes innermost.
    axis: String,
    members: HashSet<FlowId>,
}

/// All that can be turned: what leaves them are spikes that are only read as bits.
fn chains(fuser: &Fuser<'_>) -> Vec<Chain> {
    let flow = fuser.flow;
    let mut readers: HashMap<FlowId, Vec<FlowId>> = HashMap::new();
    for id in fuser.ids() {
        flow.get(id).def.inputs().into_iter().for_each(|input| readers.entry(input).or_default().push(id));
    }
    let found: Vec<(FlowId, Chain)> = fuser.ids().filter_map(|id| Some((id, chain(fuser, &readers, id)?))).collect();
    let heads: HashSet<FlowId> = found.iter().map(|(id, _)| *id).collect();
    let reads_bits = |id: FlowId| fuser.event_driven(id) || heads.contains(&id);
    let sink = |id: FlowId| flow.sinks.iter().any(|(_, sink)| *sink == id);
    let fits = |chain: &Chain| {
        // Where the result is innermost already, nobody notices.
        let as_it_is = |id: &FlowId| flow.dims(*id).axes.last().is_some_and(|a| a.name == chain.axis);
        chain.members.iter().all(|id| {
            if as_it_is(id) {
                return true;
            }
            let mut outside = readers.get(id).into_iter().flatten().filter(|r| !chain.members.contains(r)).peekable();
            let spikes = fuser.fired_in_rows(*id);
            (spikes || !sink(*id) && outside.peek().is_none())
                && outside.all(|r| match flow.get(*r).def {
                    Def::Concat { .. } => !sink(*r) && readers.get(r).is_some_and(|all| all.iter().all(|r| fuser.event_driven(*r))),
                    _ => reads_bits(*r),
                })
        })
    };
    found.into_iter().map(|(_, chain)| chain).filter(fits).collect()
}

fn chain(fuser: &Fuser<'_>, readers: &HashMap<FlowId, Vec<FlowId>>, id: FlowId) -> Option<Chain> {
    let flow = fuser.flow;
    let tensor = flow.get(id);
    let Def::Product { a, b, a_labels, b_labels, out_labels } = &tensor.def else { return None };
    let spikes = tensor.operand == Operand::Spikes && fuser.fired_in_rows(*a);
    if !spikes || !matches!(flow.get(*b).def, Def::Source(Source::Param(_))) {
        return None;
    }
    let of_weights: Vec<&String> = b_labels.iter().filter(|l| *l != "T").collect();
    let [summed, made] = *of_weights.as_slice() else { return None };
    let place = out_labels.iter().position(|l| l == made)?;
    let others = |labels: &[String], one: &String| labels.iter().filter(|l| *l != one).cloned().collect::<Vec<_>>();
    let same = others(a_labels, summed) == others(out_labels, made);
    let innermost = a_labels.last() == Some(summed) && place + 1 == out_labels.len();
    if !same || innermost || !a_labels.contains(summed) || out_labels.contains(summed) || a_labels.contains(made) {
        return None;
    }
    let axis = tensor.dims.labels()[place].clone();
    let mut members: HashSet<FlowId> = [id].into();
    let mut waiting: Vec<FlowId> = vec![id];
    while let Some(next) = waiting.pop() {
        for reader in readers.get(&next).into_iter().flatten() {
            let read = flow.get(*reader);
            let along = matches!(read.def, Def::Map { .. } | Def::Scan { .. }) && read.dims == tensor.dims;
            let known = read.def.inputs().iter().all(|i| members.contains(i) || !flow.dims(*i).batch);
            if along && known && members.insert(*reader) {
                waiting.push(*reader);
            }
        }
    }
    Some(Chain { axis, members })
}

struct Rewriter {
    out: Flow,
    /// The new number of every tensor.
    map: Vec<FlowId>,
    /// What stands for a tensor with its axes in this order.
    transposed: HashMap<(FlowId, Vec<String>), FlowId>,
}

impl Rewriter {
    /// A tensor with its axes as they were.
    fn as_it_was(&mut self, id: FlowId, dims: &Dims) -> FlowId {
        self.ordered(self.map[id.index()], dims)
    }

    /// With this axis innermost.
    fn with_innermost(&mut self, id: FlowId, dims: &Dims, axis: &str) -> FlowId {
        self.ordered(self.map[id.index()], &with_last(dims, axis))
    }

    fn ordered(&mut self, id: FlowId, dims: &Dims) -> FlowId {
        let source = self.out.get(id);
        if source.dims == *dims {
            return id;
        }
        let key = (id, dims.labels());
        if let Some(known) = self.transposed.get(&key) {
            return *known;
        }
        let tensor = Tensor { def: Def::Transpose { of: id }, dims: dims.clone(), operand: Operand::Real, ..source.clone() };
        self.out.tensors.push(tensor);
        let new = FlowId::new(self.out.tensors.len() - 1);
        self.transposed.insert(key, new);
        new
    }
}

fn with_last(dims: &Dims, axis: &str) -> Dims {
    let mut dims = dims.clone();
    if let Some(at) = dims.axes.iter().position(|a| a.name == axis) {
        innermost(&mut dims.axes, at);
    }
    dims
}

fn innermost<T>(all: &mut Vec<T>, at: usize) {
    let last = all.remove(at);
    all.push(last);
}
