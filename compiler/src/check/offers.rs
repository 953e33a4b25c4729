//! What folds that must be asked for would do: for a residue that one would remove, its cost; for one that was asked for and
//! does nothing, a warning.

use super::{Context, How, Ramp, Residue, compose, time};
use crate::graph::{Fold, Graph};
use crate::text::several;
use crate::types::NodeId;
use snnc_grammar::{Diagnostic, Label, Remedy, Severity, Span};
use std::collections::{BTreeMap, BTreeSet};

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
            if let Some((value, why)) = compose::blocker(cx.graph, &nodes) {
                refuse(residues, &group, Fold::Compose, &format!("`{}` is on the way, and {why}", cx.graph.node(value).path));
            }
        } else if let Some(weights) = compose::cost(cx.graph, &nodes) {
            group.iter().for_each(|i| mark(&mut residues[*i], Fold::Compose, span, &more(weights)));
        }
    }
}

fn leak(cx: &Context<'_>, residues: &mut [Residue], group: &[usize], nodes: &[NodeId], span: Span) {
    let asked = time::asked(cx.graph, nodes[0]);
    if asked && let Some(why) = nodes.iter().find_map(|id| time::blocker(cx, *id)) {
        let also = together(cx, residues, nodes).map(|(also, more)| format!(" (with {also} too it can: {more})"));
        refuse(residues, group, Fold::Time, &format!("{why}{}", also.unwrap_or_default()));
    }
    if asked {
        return;
    }
    let ramps = time::plan(cx, |id| nodes.binary_search(&id).is_ok() || time::asked(cx.graph, id));
    // Half of it is no remedy.
    if nodes.iter().all(|id| ramps.contains_key(id)) {
        let held = cx.graph.ids().filter_map(|id| Some((id, cx.plan[id.index()].ramp?))).collect();
        let encoder = match time::encoder_extra(cx, &ramps).saturating_sub(time::encoder_extra(cx, &held)) {
            0 => String::new(),
            more => format!(", {} in the encoder", several(more, "more multiplication")),
        };
        let weights = tables(cx, &ramps).saturating_sub(tables(cx, &held));
        let cost = format!("{} for the {} time steps{encoder}", more(weights), cx.graph.time);
        group.iter().for_each(|i| mark(&mut residues[*i], Fold::Time, span, &cost));
    } else if let Some((also, more)) = together(cx, residues, nodes) {
        let help = format!("; or, for the same results, `fold(time)` before the statement together with {also}: {more}");
        group.iter().for_each(|i| residues[*i].help.push_str(&help));
    }
}

/// Where these leaks can go into tables once maps of real values are composed: which maps, and what both cost.
fn together(cx: &Context<'_>, residues: &[Residue], leaky: &[NodeId]) -> Option<(String, String)> {
    let real = residues.iter().filter(|r| r.rule == "real_operand").map(|r| r.node);
    let maps: Vec<NodeId> = real.filter(|id| cx.graph.asked(cx.graph.node(*id), Fold::Compose).is_none()).collect();
    let (spelt, done) = compose::spelt_out(cx.graph, &maps);
    let done: Vec<(String, u64)> = done.into_iter().filter_map(|(path, weights)| Some((path, weights?))).collect();
    let (last, others) = done.split_last()?;
    let (cx, _) = super::decided(&spelt, &BTreeMap::new());
    let leaky: BTreeSet<&str> = leaky.iter().map(|id| residues.iter().find(|r| r.node == *id).map_or("", |r| r.path.as_str())).collect();
    let named = |id: NodeId| leaky.contains(spelt.node(id).path.as_str());
    let ramps = time::plan(&cx, |id| named(id) || time::asked(&spelt, id));
    let all = ramps.keys().filter(|id| named(**id)).count() == leaky.len();
    let also = match others.len() {
        0 => format!("`fold(compose)` before that of `{}`", last.0),
        n => format!("`fold(compose)` before those of `{}` and {}", last.0, several(n as u64, "other map")),
    };
    let weights = done.iter().map(|(_, weights)| weights).sum::<u64>() + tables(&cx, &ramps);
    all.then(|| (also, format!("{} in all", more(weights))))
}

/// The weights that tables add.
fn tables(cx: &Context<'_>, ramps: &BTreeMap<NodeId, Ramp>) -> u64 {
    time::extra(cx, ramps).iter().map(|(_, n)| n).sum()
}

fn more(weights: u64) -> String {
    if weights == 0 { "no more weights".to_owned() } else { several(weights, "more weight") }
}

/// Says why what was asked for is not done.
fn refuse(residues: &mut [Residue], group: &[usize], fold: Fold, why: &str) {
    let what = if fold == Fold::Time { "leak" } else { "map" };
    let usual = &residues[group[0]].help;
    let help = format!("`fold({})` cannot take this {what}: {why}; else {usual}", fold.name());
    group.iter().for_each(|i| residues[*i].help.clone_from(&help));
}

fn mark(residue: &mut Residue, fold: Fold, at: Span, cost: &str) {
    let name = fold.name();
    residue.help.push_str(&format!("; or, for the same results, `fold({name})` before the statement: {cost}"));
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
