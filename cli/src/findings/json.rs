//! For programs: docs/schemas/check.schema.json.

use super::{Finding, Outcome, Suppressed};
use crate::report;
use serde_json::{Value, json};

pub(crate) fn report(outcomes: &[Outcome]) {
    let models = |o: &Outcome| -> Vec<Value> {
        o.models
            .iter()
            .map(|m| {
                let (graph, f) = (m.checked.graph(), m.checked.findings());
                let residues: Vec<Value> = f
                    .residues
                    .iter()
                    .map(|r| {
                        json!({
                            "rule": r.rule, "path": r.path, "place": o.sources.place(r.span), "admitted": r.admitted,
                            "multiplications": r.multiplications, "message": r.message,
                        })
                    })
                    .collect();
                json!({
                    "name": graph.name, "verdict": f.verdict, "parameters": graph.trained(), "time": graph.time,
                    "encoder_share": f.encoder_share(), "residues": residues,
                })
            })
            .collect()
    };
    let finding = |o: &Outcome, f: &Finding| {
        let mut value = report::json(&o.sources, &f.diagnostic);
        let suppressed = f.suppressed.as_ref().map(|s| match s {
            Suppressed::Source => "source",
            Suppressed::Allowed => "allowed",
            Suppressed::Baseline => "baseline",
        });
        value["suppressed"] = json!(suppressed);
        value["fingerprint"] = json!(f.fingerprint);
        value
    };
    let files: Vec<Value> = outcomes
        .iter()
        .map(|o| {
            let all: Vec<Value> = o.findings.iter().map(|f| finding(o, f)).collect();
            json!({ "path": o.path, "models": models(o), "diagnostics": all })
        })
        .collect();
    println!("{:#}", json!({ "files": files }));
}
