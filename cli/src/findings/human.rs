//! For people.

use super::{Model, Outcome, Suppressed};
use crate::report;
use snnc_compiler::text::{grouped, printable};
use snnc_grammar::Diagnostic;
use std::collections::BTreeMap;

/// Findings on the standard error, verdicts on the standard output.
pub(crate) fn report(outcomes: &[Outcome], notes: &[String]) {
    for o in outcomes {
        let open: Vec<Diagnostic> = o.open().map(|f| f.diagnostic.clone()).collect();
        // What it comes to is decided from the outcome.
        let _ = report::show(&o.sources, &open);
    }
    summary(outcomes, notes);
}

/// The table of verdicts, and what was accepted.
pub(crate) fn summary(outcomes: &[Outcome], notes: &[String]) {
    let mut rows = Vec::new();
    for o in outcomes {
        if o.models.is_empty() && o.findings.is_empty() {
            let blocks = format!("library, {} block{}", o.blocks, if o.blocks == 1 { "" } else { "s" });
            rows.push(vec![printable(&o.path), blocks, String::new(), String::new(), String::new()]);
        }
        for Model { checked, .. } in &o.models {
            let findings = checked.findings();
            let residues = match (findings.residues.len(), findings.admitted()) {
                (0, _) => "none".to_owned(),
                (n, 0) => format!("{n}, not admitted"),
                (n, m) => format!("{n} ({} multiplications admitted)", report::short(m as f64)),
            };
            rows.push(vec![
                format!("{}#{}", printable(&o.path), checked.graph().name),
                findings.verdict.to_string(),
                grouped(checked.graph().trained()),
                format!("{:.2} %", 100.0 * findings.encoder_share()),
                residues,
            ]);
        }
    }
    if !rows.is_empty() {
        print!("{}", report::table(&["model", "verdict", "parameters", "encoder", "residues"], &rows));
    }
    for o in outcomes {
        for model in &o.models {
            admitted(o, model);
        }
    }
    let count = |why: Suppressed| outcomes.iter().flat_map(|o| &o.findings).filter(|f| f.suppressed == Some(why.clone())).count();
    for (n, why) in [(count(Suppressed::Allowed), "allowed by `--allow` or the policy"), (count(Suppressed::Baseline), "in the baseline")] {
        if n > 0 {
            println!("\n{n} finding{} {why}", if n == 1 { "" } else { "s" });
        }
    }
    for note in notes {
        println!("\n{}", printable(note));
    }
}

/// The admitted residues of a model, by rule and place.
fn admitted(o: &Outcome, model: &Model) {
    let mut places: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for r in model.checked.findings().residues.iter().filter(|r| r.admitted) {
        places.entry((r.rule, printable(&o.sources.place(r.span)))).or_default().push(&r.path);
    }
    for ((rule, place), paths) in places {
        let plural = if paths.len() == 1 { "" } else { "s" };
        println!("\n{}: {} admitted residue{plural} `{rule}` at {place}:", model.checked.graph().name, paths.len());
        for path in paths {
            println!("  {path}");
        }
    }
}
