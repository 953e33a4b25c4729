//! What folds that must be asked for would do: for a residue that one would remove, its cost; for one that was asked for and
//! does nothing, a warning.

use super::{Context, How, Residue, compose, time};
use crate::graph::{Fold, Graph};
use crate::text::grouped;
use crate::types::NodeId;
use snnc_grammar::{Diagnostic, Label, Remedy, Severity, Span};
use std::collections::BTreeMap;

/// The most places in the source for which an offer is worked out.
const MAX_PLACES: usize = 32;

/// Adds to the residues of every place what a fold that was not asked for there would cost.
pub(super) fn offer(cx: &Context<'_>, residues: &mut [Residue]) {
    // What is written once is folded together: a neuron's definition, or a statement of a loop.
    let mut places: BTreeMap<(&str, Span), Vec<usize>> = BTreeMap::new();
    for (i, residue) in residues.iter().enumerate().filter(|(_, r)| matches!(r.rule, "leak" | "real_operand")) {
        places.entry((residue.rule, residue.span)).or_default().push(i);
    }
    for ((rule, span), group) in places.into_iter().take(MAX_PLACES) {
        let nodes: Vec<NodeId> = group.iter().map(|i| residues[*i].node).collect();
        if rule == "leak" {
            leak(cx, residues, &group, &nodes, span);
            continue;
        }
        if nodes.iter().any(|id| cx.graph.asked(cx.graph.node(*id), Fold::Compose).is_some()) {
            if let Some((value, why)) = nodes.iter().find_map(|id| compose::blocker(cx.graph, *id)) {
                refuse(residues, &group, Fold::Compose, &format!("`{}` is on the way, and {why}", cx.graph.node(value).path));
            }
        } else if let Some(weights) = compose::cost(cx.graph, &nodes) {
            let what = " for the terms of the sum";
            group.iter().for_each(|i| mark(&mut residues[*i], Fold::Compose, span, weights, what));
        }
    }
}

fn leak(cx: &Context<'_>, residues: &mut [Residue], group: &[usize], nodes: &[NodeId], span: Span) {
    if time::asked(cx.graph, nodes[0]) {
        let blocked = nodes.iter().find_map(|id| time::blocker(cx, *id));
        blocked.into_iter().for_each(|why| refuse(residues, group, Fold::Time, &why));
        return;
    }
    let ramps = time::plan(cx, |id| nodes.binary_search(&id).is_ok() || time::asked(cx.graph, id));
    // Half of it is no remedy.
    if nodes.iter().all(|id| ramps.contains_key(id)) {
        let held = cx.graph.ids().filter_map(|id| Some((id, cx.plan[id.index()].ramp?))).collect();
        let weights = |ramps| time::extra(cx, ramps).iter().map(|(_, n)| n).sum::<u64>();
        let encoder = match time::encoder_extra(cx, &ramps).saturating_sub(time::encoder_extra(cx, &held)) {
            0 => String::new(),
            more => format!(", {} more multiplications in the encoder", grouped(more)),
        };
        let what = format!(" for the {} time steps{encoder}", cx.graph.time);
        let weights = weights(&ramps).saturating_sub(weights(&held));
        group.iter().for_each(|i| mark(&mut residues[*i], Fold::Time, span, weights, &what));
    }
}

/// Says why what was asked for is not done.
fn refuse(residues: &mut [Residue], group: &[usize], fold: Fold, why: &str) {
    let what = if fold == Fold::Time { "leak" } else { "map" };
    let usual = &residues[group[0]].help;
    let help = format!("`fold({})` cannot take this {what}: {why}; else {usual}", fold.name());
    group.iter().for_each(|i| residues[*i].help.clone_from(&help));
}

fn mark(residue: &mut Residue, fold: Fold, at: Span, weights: u64, what: &str) {
    let (name, more) = (fold.name(), if weights == 0 { "no".to_owned() } else { grouped(weights) });
    residue.help.push_str(&format!("; or, for the same results, `fold({name})` before the statement: {more} more weights{what}"));
    residue.remedies.push(Remedy::Mark { at, mark: format!("fold({name})") });
}

/// Warnings about folds that were asked for and do nothing.
pub(super) fn unused(written: &Graph, cx: &Context<'_>, composed: &[(String, u64)]) -> Vec<Diagnostic> {
    let mut used = vec![false; written.folds.len()];
    let mut note = |graph: &Graph, id: NodeId, fold| graph.asked(graph.node(id), fold).into_iter().for_each(|i| used[i] = true);
    for id in cx.graph.ids() {
        if cx.plan[id.index()].ramp.is_some() {
            note(cx.graph, id, Fold::Time);
        }
        if matches!(cx.plan[id.index()].how, How::Compose(_)) {
            note(cx.graph, id, Fold::Compose);
        }
    }
    for id in written.ids().filter(|id| composed.iter().any(|(path, _)| *path == written.node(*id).path)) {
        note(written, id, Fold::Compose);
    }
    let unused = written.folds.iter().zip(used).filter(|(_, used)| !used);
    unused
        .map(|(asked, _)| Diagnostic {
            code: "check::fold",
            severity: Severity::Warning,
            message: format!("`fold({})` does nothing here", asked.fold.name()),
            labels: vec![Label { span: asked.span, text: "it removes nothing".into() }],
            help: Some("remove it, or see what the residues under it say".into()),
            remedies: vec![],
        })
        .collect()
}
