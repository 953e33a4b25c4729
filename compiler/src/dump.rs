//! Stages without a printer of their own, as stable text.

use crate::check::Checked;
use crate::flow::{Def, Flow};
use crate::fold::Folded;
use crate::graph;
use std::fmt::Write;

/// What becomes of every node.
pub fn plan(checked: &Checked) -> String {
    let graph = checked.inference();
    let mut out = format!("plan {} ({})\n", graph.name, checked.findings().verdict);
    for (id, plan) in graph.ids().zip(&checked.plan().nodes) {
        let node = graph.node(id);
        let factor = plan.factor.map_or(String::new(), |d| format!(", factor {d:?}"));
        let ramp = plan.ramp.map_or(String::new(), |r| format!(", held {}^-t", r.leak));
        let _ = writeln!(out, "  {id} {} : {:?}{factor}{ramp}, {}  // {}", node.op.word(), plan.how, plan.signal, node.path);
    }
    for choice in &checked.plan().choices {
        let instead = choice.instead.as_ref().map_or(String::new(), |(fold, bytes)| format!("; {fold}: {bytes} bytes"));
        let _ = writeln!(out, "  {} at {}: {} weights, {} bytes{instead}", choice.fold, choice.path, choice.weights, choice.bytes);
    }
    out
}

/// The folded graph, and where its parameters come from.
pub fn folded(folded: &Folded) -> String {
    let mut out = graph::print(&folded.graph);
    for (i, (param, expr)) in folded.graph.params.iter().zip(&folded.prepare).enumerate() {
        let _ = writeln!(out, "  ${i} {} = {}", param.path, expr.text(&folded.originals));
    }
    out
}

/// Tensor primitives, one per line.
pub fn flow(flow: &Flow) -> String {
    let mut out = String::from("flow\n");
    for (i, tensor) in flow.tensors.iter().enumerate() {
        let inputs: Vec<String> = tensor.def.inputs().iter().map(ToString::to_string).collect();
        let what = match &tensor.def {
            Def::Source(source) => format!("{source:?}"),
            Def::Map { body, .. } => format!("map {body:?}"),
            Def::Scan { next, outputs, reverse, .. } => {
                format!("scan{} next {next:?} outputs {outputs:?}", if *reverse { " reverse" } else { "" })
            }
            Def::Reduce { max, .. } => (if *max { "largest" } else { "sum" }).to_owned(),
            Def::Product { a_labels, b_labels, out_labels, .. } => {
                format!("product [{}] . [{}] -> [{}]", a_labels.join(" "), b_labels.join(" "), out_labels.join(" "))
            }
            Def::Masked { of_labels, by_labels, out_labels, .. } => {
                format!("masked [{}] . [{}] -> [{}]", of_labels.join(" "), by_labels.join(" "), out_labels.join(" "))
            }
            Def::Conv { part, window, .. } => format!("conv {part:?} {window:?}"),
            Def::Pool { max, window, .. } => format!("pool {} {window:?}", if *max { "largest" } else { "sum" }),
            Def::PoolGrad { max, window, .. } => format!("pool gradient {} {window:?}", if *max { "largest" } else { "sum" }),
            Def::Overflow { .. } => "overflow".to_owned(),
            Def::Concat { axis, .. } => format!("concat {axis}"),
            Def::Slice { axis, start, .. } => format!("slice {axis} from {start}"),
            Def::Transpose { .. } => "transpose".to_owned(),
            Def::Reshape { from, to, .. } => {
                let to: Vec<String> = to.iter().map(|a| format!("{} = {}", a.name, a.size)).collect();
                format!("reshape {} to {}", from.join(", "), to.join(", "))
            }
        };
        let mut dims: Vec<String> = Vec::new();
        dims.extend(tensor.dims.batch.then(|| "B".to_owned()));
        dims.extend(tensor.dims.time.then(|| "T".to_owned()));
        dims.extend(tensor.dims.axes.iter().map(|a| format!("{} = {}", a.name, a.size)));
        let _ = writeln!(out, "  t{i}[{}] = {what} ({})  // {}", dims.join(", "), inputs.join(", "), tensor.label);
    }
    for (sink, id) in &flow.sinks {
        let _ = writeln!(out, "  {sink:?} <- {id}");
    }
    out
}
