//! `snnc check`

use super::files;
use crate::args::{CheckArgs, Format};
use crate::{Failure, model, report};
use serde_json::{Value, json};
use snnc_compiler::check::{Checked, check};
use snnc_compiler::graph::{Settings, build, instantiate};
use snnc_compiler::resolve::resolve;
use snnc_grammar::{Diagnostic, SourceMap};
use snnc_runtime::library::{Library, open};
use std::collections::BTreeMap;
use std::path::Path;

/// What checking one file gave.
struct Outcome {
    path: String,
    sources: SourceMap,
    diagnostics: Vec<Diagnostic>,
    models: Vec<Checked>,
    blocks: usize,
}

pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let settings = model::settings(&args.settings)?;
    let mut outcomes = Vec::new();
    for path in &args.paths {
        let (file, variant) = model::split(path);
        if Path::new(file).is_dir() {
            let found = files(Path::new(file))?;
            if found.is_empty() {
                return Err(Failure::Usage(format!("there is no `.snn` file in `{file}`")));
            }
            outcomes.extend(found.iter().map(|f| one(&f.to_string_lossy(), None, &settings)));
        } else if let Some(found) = library(file) {
            outcomes.extend(found.into_iter().map(|f| one(f, None, &settings)));
        } else {
            outcomes.push(one(file, variant, &settings));
        }
    }
    match args.format {
        Format::Json => json_report(&outcomes),
        Format::Human => human_report(&outcomes),
    }
}

/// The built-in models under `zoo/` or `mixer/`, where there is no such folder.
fn library(path: &str) -> Option<Vec<&'static str>> {
    let folder = if path == "zoo" || path == "zoo/" { "" } else { path };
    let found: Vec<&str> = snnc_zoo::MODELS.iter().map(|(name, _)| *name).filter(|name| name.starts_with(folder)).collect();
    let is_folder = path.starts_with("zoo") || folder.ends_with('/');
    (is_folder && !found.is_empty() && !Path::new(path).exists()).then_some(found)
}

fn one(path: &str, variant: Option<&str>, settings: &Settings) -> Outcome {
    let mut sources = SourceMap::default();
    let (mut models, mut diagnostics, mut blocks) = (Vec::new(), Vec::new(), 0);
    let result = (|| -> Result<(), Vec<Diagnostic>> {
        let file = open(&mut sources, path).map_err(|e| vec![e])?;
        let package = resolve(&mut sources, file, &Library)?;
        diagnostics.extend(snnc_compiler::recipe::errors(&package));
        blocks = package.scopes.get(&file).map_or(0, |s| s.values().filter(|b| b.file == file).count());
        let mut names: Vec<Option<String>> = package.variants.iter().map(|v| Some(v.name.name.clone())).collect();
        // A model that no variant stands for is checked with its defaults.
        for m in &package.models {
            if !package.variants.iter().any(|v| v.model.callee.name == m.name.name) {
                names.push(Some(m.name.name.clone()));
            }
        }
        if let Some(v) = variant {
            names = vec![Some(v.to_owned())];
        }
        for name in names {
            let built = instantiate(&mut sources, &package, name.as_deref(), settings).and_then(|i| build(&package, &i));
            match built {
                Ok(graph) => {
                    let checked = check(graph);
                    diagnostics.extend(checked.findings().diagnostics.iter().cloned());
                    models.push(checked);
                }
                Err(errors) => diagnostics.extend(errors),
            }
        }
        Ok(())
    })();
    diagnostics.extend(result.err().unwrap_or_default());
    // Variants share their source: the same mistake is said once.
    let mut seen: Vec<Diagnostic> = Vec::new();
    diagnostics.retain(|d| {
        let known = seen.iter().any(|s| s.code == d.code && s.span() == d.span());
        seen.push(d.clone());
        !known
    });
    Outcome { path: path.to_owned(), sources, diagnostics, models, blocks }
}

fn human_report(outcomes: &[Outcome]) -> Result<(), Failure> {
    let result = worst(outcomes.iter().map(|o| report::show(&o.sources, &o.diagnostics)));
    let mut rows = Vec::new();
    for o in outcomes {
        if o.models.is_empty() && o.diagnostics.is_empty() {
            let blocks = format!("library, {} block{}", o.blocks, if o.blocks == 1 { "" } else { "s" });
            rows.push(vec![o.path.clone(), blocks, String::new(), String::new(), String::new()]);
        }
        for checked in &o.models {
            let findings = checked.findings();
            let residues = match (findings.residues.len(), findings.admitted()) {
                (0, _) => "none".to_owned(),
                (n, 0) => format!("{n}, not admitted"),
                (n, m) => format!("{n} ({} multiplications admitted)", report::short(m as f64)),
            };
            rows.push(vec![
                format!("{}#{}", o.path, checked.graph().name),
                findings.verdict.to_string(),
                report::grouped(checked.graph().trained()),
                format!("{:.2} %", 100.0 * findings.encoder_share()),
                residues,
            ]);
        }
    }
    if !rows.is_empty() {
        print!("{}", report::table(&["model", "verdict", "parameters", "encoder", "residues"], &rows));
    }
    for o in outcomes {
        for checked in &o.models {
            admitted(o, checked);
        }
    }
    result
}

/// The admitted residues of a model, by rule and place.
fn admitted(o: &Outcome, checked: &Checked) {
    let mut places: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for r in checked.findings().residues.iter().filter(|r| r.admitted) {
        places.entry((r.rule, o.sources.place(r.span))).or_default().push(&r.path);
    }
    for ((rule, place), paths) in places {
        let plural = if paths.len() == 1 { "" } else { "s" };
        println!("\n{}: {} admitted residue{plural} `{rule}` at {place}:", checked.graph().name, paths.len());
        for path in paths {
            println!("  {path}");
        }
    }
}

fn json_report(outcomes: &[Outcome]) -> Result<(), Failure> {
    let models = |o: &Outcome| -> Vec<Value> {
        o.models
            .iter()
            .map(|c| {
                let f = c.findings();
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
                    "name": c.graph().name, "verdict": f.verdict, "parameters": c.graph().trained(), "time": c.graph().time,
                    "encoder_share": f.encoder_share(), "residues": residues,
                })
            })
            .collect()
    };
    let files: Vec<Value> = outcomes
        .iter()
        .map(|o| {
            let diagnostics: Vec<Value> = o.diagnostics.iter().map(|d| report::json(&o.sources, d)).collect();
            json!({ "path": o.path, "models": models(o), "diagnostics": diagnostics })
        })
        .collect();
    println!("{:#}", json!({ "files": files }));
    worst(outcomes.iter().map(|o| report::outcome(&o.sources, &o.diagnostics)))
}

/// A wrong command line outweighs findings.
fn worst(results: impl Iterator<Item = Result<(), Failure>>) -> Result<(), Failure> {
    let mut worst = Ok(());
    for next in results {
        worst = match (worst, next) {
            (Err(Failure::Usage(u)), _) | (_, Err(Failure::Usage(u))) => Err(Failure::Usage(u)),
            (worst, next) => worst.and(next),
        };
    }
    worst
}
