//! SARIF 2.1.0 (OASIS, 2020), as code scanning services take it.

use super::{Finding, Outcome, Suppressed, position};
use serde_json::{Value, json};
use snnc_compiler::explain::{page, pages};
use snnc_grammar::{Modules, Remedy, Severity, SourceMap, Span};
use std::path::Path;

pub(crate) fn report(outcomes: &[Outcome]) {
    let codes: Vec<&str> = pages().map(|(code, _)| code).collect();
    let rules: Vec<Value> = codes.iter().map(|code| rule(code)).collect();
    let mut results = Vec::new();
    for o in outcomes {
        let mut modules = Modules::new(&o.sources);
        results.extend(o.findings.iter().map(|f| result(o, f, &codes, &mut modules)));
    }
    let run = json!({
        "tool": { "driver": {
            "name": "snnc", "version": env!("CARGO_PKG_VERSION"), "semanticVersion": env!("CARGO_PKG_VERSION"), "rules": rules,
        } },
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": { "SRCROOT": { "description": { "text": "the folder in which snnc was run" } } },
        "results": results,
    });
    println!("{:#}", json!({ "$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run] }));
}

/// A rule with its page.
fn rule(code: &str) -> Value {
    let text = page(code).unwrap_or_default().trim();
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let name: String = code.split(['_', ':']).filter(|w| !w.is_empty()).map(title).collect();
    json!({
        "id": format!("snnc::{code}"), "name": name,
        "shortDescription": { "text": first },
        "fullDescription": { "text": if rest.trim().is_empty() { first } else { rest.trim() } },
        "help": { "text": text, "markdown": text },
    })
}

fn title(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or(String::new(), |c| c.to_ascii_uppercase().to_string() + chars.as_str())
}

fn result(o: &Outcome, finding: &Finding, codes: &[&str], modules: &mut Modules<'_>) -> Value {
    let d = &finding.diagnostic;
    let level = match d.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let help = d.help.as_ref().map_or(String::new(), |h| format!("\nHelp: {h}"));
    let mut value = json!({
        "ruleId": format!("snnc::{}", d.code), "level": level,
        "message": { "text": format!("{}{help}", d.message) },
        "partialFingerprints": { "snncLine/v1": finding.fingerprint },
    });
    if let Some(index) = codes.iter().position(|c| *c == d.code) {
        value["ruleIndex"] = json!(index);
    }
    // A file that cannot be read has no place in it.
    let place = d
        .labels
        .first()
        .map_or_else(|| json!({ "physicalLocation": { "artifactLocation": uri(&o.path) } }), |l| location(&o.sources, l.span, &l.text));
    value["locations"] = json!([place]);
    let related: Vec<Value> = d
        .labels
        .iter()
        .skip(1)
        .enumerate()
        .map(|(i, l)| {
            let mut place = location(&o.sources, l.span, &l.text);
            place["id"] = json!(i + 1);
            place
        })
        .collect();
    if !related.is_empty() {
        value["relatedLocations"] = json!(related);
    }
    if let Some(why) = &finding.suppressed {
        let (kind, text) = match why {
            Suppressed::Source => ("inSource", d.labels.iter().find_map(|l| l.text.strip_prefix("admitted: ")).unwrap_or("allow")),
            Suppressed::Allowed => ("external", "allowed by `--allow` or the policy"),
            Suppressed::Baseline => ("external", "stands in the baseline"),
        };
        value["suppressions"] = json!([{ "kind": kind, "justification": text }]);
        if *why == Suppressed::Baseline {
            value["baselineState"] = json!("unchanged");
        }
    }
    let fixes: Vec<Value> = d.remedies.iter().filter_map(|remedy| fix(o, remedy, modules)).collect();
    if !fixes.is_empty() {
        value["fixes"] = json!(fixes);
    }
    value
}

fn fix(o: &Outcome, remedy: &Remedy, modules: &mut Modules<'_>) -> Option<Value> {
    let edit = remedy.edit(modules)?;
    let source = o.sources.get(edit.span.file)?;
    let replacement = json!({ "deletedRegion": region(&source.text, edit.span), "insertedContent": { "text": edit.text } });
    let change = json!({ "artifactLocation": uri(&source.name), "replacements": [replacement] });
    Some(json!({ "description": { "text": remedy.says() }, "artifactChanges": [change] }))
}

fn location(sources: &SourceMap, span: Span, text: &str) -> Value {
    let Some(source) = sources.get(span.file) else { return json!({ "message": { "text": text } }) };
    let mut region = region(&source.text, span);
    region["snippet"] = json!({ "text": sources.text(span) });
    json!({
        "physicalLocation": { "artifactLocation": uri(&source.name), "region": region },
        "message": { "text": text },
    })
}

fn region(text: &str, span: Span) -> Value {
    let ((line, column), (end_line, end_column)) = (position(text, span.start), position(text, span.end));
    json!({ "startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column })
}

/// Files below the folder are relative to it; a library's file is none of them.
fn uri(name: &str) -> Value {
    let name = super::seen(name);
    let escaped: String = name
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() || b"-._~/".contains(&b) { (b as char).to_string() } else { format!("%{b:02X}") })
        .collect();
    match name.strip_prefix('<').filter(|_| !Path::new(&name).exists()) {
        Some(_) => json!({ "uri": format!("snnc:/{}", escaped.trim_start_matches("%3C").trim_end_matches("%3E")) }),
        None if name.starts_with('/') => json!({ "uri": format!("file://{escaped}") }),
        None => json!({ "uri": escaped.trim_start_matches("./"), "uriBaseId": "SRCROOT" }),
    }
}
