//! What folds that must be asked for would do: for a residue that one would remove, its cost; for one that was asked for and
//! does nothing, a warning.

use super::{Context, How, Ramp, Residue, compose, time};
use crate::graph::{Fold, Graph};
use crate::types::NodeId;
use snnc_grammar::{Diagnostic, Label, Remedy, Severity, Span};
use std::collections::{BTreeMap, HashMap};

/// Adds to every residue what a fold that was not asked for would cost.
pub(super) fn offer(cx: &Context<'_>, residues: &mut [Residue]) {
    // Neurons of one definition are folded together.
    let mut known: HashMap<Option<Span>, BTreeMap<NodeId, Ramp>> = HashMap::new();
    for residue in residues {
        let node = cx.graph.node(residue.node);
        match residue.rule {
            "leak" if time::asked(cx.graph, residue.node) => {
                if let Some((value, reader)) = time::blocker(cx, residue.node) {
                    let by = reader.map_or("does not pass it on".into(), |r| format!("`{}` reads it as it is", cx.graph.node(r).path));
                    residue.help = format!("`fold(time)` cannot take this leak: `{}` is on the way, and {by}", cx.graph.node(value).path);
                }
            }
            "leak" => {
                let same = |id: NodeId| cx.graph.node(id).defined == node.defined && (node.defined.is_some() || id == residue.node);
                let ramps = known.entry(node.defined).or_insert_with(|| time::plan(cx, |id| same(id) || time::asked(cx.graph, id)));
                if !ramps.contains_key(&residue.node) {
                    continue;
                }
                let weights = time::extra(cx, ramps).iter().map(|(_, n)| n).sum();
                mark(residue, Fold::Time, node.defined.unwrap_or(node.span), weights, &format!(" for the {} time steps", cx.graph.time));
            }
            "real_operand" if cx.graph.asked(node, Fold::Compose).is_none() => {
                if let Some(weights) = compose::cost(cx.graph, residue.node) {
                    mark(residue, Fold::Compose, node.span, weights, " for the terms of the sum");
                }
            }
            _ => {}
        }
    }
}

fn mark(residue: &mut Residue, fold: Fold, at: Span, weights: u64, what: &str) {
    let name = fold.name();
    residue
        .help
        .push_str(&format!("; or, for the same results, `fold({name})` before the statement: {} more weights{what}", grouped(weights)));
    residue.remedies.push(Remedy::Mark { at, mark: format!("fold({name})") });
}

/// 1,234,567
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
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
            labels: vec![Label { span: asked.span, text: "no residue that it removes".into() }],
            help: Some("remove it, or see what the residues under it say".into()),
            remedies: vec![],
        })
        .collect()
}
