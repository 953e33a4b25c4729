//! Residues as diagnostics: one for each place in the source, with the chain of definitions that makes the value real.

use super::{Context, Residue};
use crate::types::{Kind, NodeId};
use snnc_grammar::{Diagnostic, Severity, Span};
use std::collections::BTreeMap;

/// The longest chain that is shown.
const MAX_LABELS: usize = 5;

/// One error for every rule and place with residues that nothing admits.
pub(super) fn residues(cx: &Context<'_>, residues: &[Residue]) -> Vec<Diagnostic> {
    places(cx, residues.iter().filter(|r| !r.admitted), Severity::Error)
}

/// One note for every rule and place with residues that an `allow` admits.
pub(super) fn admitted(cx: &Context<'_>, residues: &[Residue]) -> Vec<Diagnostic> {
    places(cx, residues.iter().filter(|r| r.admitted), Severity::Note)
}

fn places<'r>(cx: &Context<'_>, residues: impl Iterator<Item = &'r Residue>, severity: Severity) -> Vec<Diagnostic> {
    let mut places: BTreeMap<(Span, &str), Vec<&Residue>> = BTreeMap::new();
    for residue in residues {
        places.entry((residue.span, residue.rule)).or_default().push(residue);
    }
    let mut list: Vec<(NodeId, Diagnostic)> = places
        .into_values()
        .filter_map(|group| {
            let first = *group.first()?;
            let often = match group.len() {
                1 => format!(" (at `{}`)", first.path),
                n => format!(" (at {n} places, first at `{}`)", first.path),
            };
            let mut diagnostic = Diagnostic {
                code: first.code,
                severity,
                message: format!("{}{often}", first.message),
                labels: vec![snnc_grammar::Label { span: first.span, text: first.label.clone() }],
                help: Some(first.help.clone()),
                remedies: first.remedies.clone(),
            };
            if let Some(allow) = cx.graph.node(first.node).allows.iter().rev().map(|i| &cx.graph.allows[*i]).find(|a| a.rule == first.rule)
            {
                diagnostic = diagnostic.label(allow.span, format!("admitted: {}", allow.reason));
            }
            for (span, text) in chain(cx, first) {
                diagnostic = diagnostic.label(span, text);
            }
            Some((first.node, diagnostic))
        })
        .collect();
    list.sort_by_key(|(id, _)| *id);
    list.into_iter().map(|(_, d)| d).collect()
}

/// The definitions that make a residue's operand real, nearest first, and the block uses around it.
fn chain(cx: &Context<'_>, residue: &Residue) -> Vec<(Span, String)> {
    let graph = cx.graph;
    let mut labels: Vec<(Span, String)> = Vec::new();
    let add = |span: Span, text: String, labels: &mut Vec<(Span, String)>| {
        if span != residue.span && labels.iter().all(|(s, _)| *s != span) && labels.len() < MAX_LABELS {
            labels.push((span, text));
        }
    };
    if residue.rule == "leak" {
        add(graph.node(residue.node).span, "applied here".into(), &mut labels);
    }
    if residue.rule == "unfoldable_scale" {
        if let Some(input) = graph.node(residue.node).inputs.first() {
            let node = graph.node(*input);
            add(node.span, format!("what is scaled is made by this `{}`", node.op.word()), &mut labels);
        }
        for reader in &cx.readers[residue.node.index()] {
            let node = graph.node(*reader);
            add(node.span, format!("read by this `{}`", node.op.word()), &mut labels);
        }
    }
    if matches!(residue.rule, "real_operand" | "real_product") {
        // Follow the weakest operand until something makes real values out of spikes.
        let mut at = residue.node;
        while let Some(next) = graph.node(at).inputs.iter().copied().max_by_key(|i| graph.node(*i).signal.kind) {
            let node = graph.node(next);
            if node.signal.kind <= Kind::Spike {
                break;
            }
            let from: Vec<String> = node.inputs.iter().map(|i| format!("`{}`", graph.node(*i).signal.kind)).collect();
            let origin = if from.is_empty() { String::new() } else { format!(" from {}", from.join(" and ")) };
            add(node.span, format!("`{}` makes {}{origin}", node.op.word(), node.signal.kind.with_article()), &mut labels);
            at = next;
        }
    }
    for call in graph.node(residue.node).calls.iter().rev() {
        add(*call, "in this use".into(), &mut labels);
    }
    labels
}
