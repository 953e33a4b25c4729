//! `snnc zoo`

use crate::args::{SettingArgs, ZooArgs, ZooFormat};
use crate::{Failure, args, model, report};
use serde_json::{Value, json};
use snnc_compiler::resolve::resolve;
use snnc_compiler::text::grouped;
use snnc_grammar::SourceMap;
use snnc_runtime::library::{Library, open};

pub(crate) fn run(args: &ZooArgs) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut list: Vec<Value> = Vec::new();
    for (path, _) in snnc_zoo::MODELS {
        let mut sources = SourceMap::default();
        let package = open(&mut sources, path).map_err(|e| vec![e]).and_then(|f| resolve(&mut sources, f, &Library));
        let package = package.map_err(|e| report::show(&sources, &e).err().unwrap_or(Failure::Findings))?;
        let about = package.doc.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        let facts = |v: &snnc_grammar::ast::Variant| v.published.iter().flatten().map(report::Published::of).collect::<Vec<_>>();
        let mut entries: Vec<_> = package.variants.iter().map(|v| (v.name.name.clone(), facts(v))).collect();
        if entries.is_empty() {
            entries.extend(package.models.iter().map(|m| (m.name.name.clone(), vec![])));
        }
        for (name, facts) in entries {
            let settings = SettingArgs { set: vec![], time: None };
            let loaded = model::load(&args::ModelArgs { model: format!("{path}#{name}"), settings })?;
            let (graph, findings) = (loaded.checked.graph(), loaded.checked.findings());
            let residues: Vec<Value> = findings.residues.iter().map(|r| json!({ "rule": r.rule, "path": r.path })).collect();
            let shown = facts.iter().filter(|f| !f.is("params")).map(ToString::to_string).collect::<Vec<_>>().join(", ");
            rows.push(vec![
                format!("{path}#{name}"),
                findings.verdict.to_string(),
                grouped(graph.trained()),
                graph.time.to_string(),
                shown,
            ]);
            list.push(json!({
                "file": path, "variant": name, "parameters": graph.trained(), "time_steps": graph.time,
                "verdict": findings.verdict, "residues": residues, "published": facts, "about": about,
            }));
        }
    }
    let header = ["model", "verdict", "parameters", "T", "published (by its authors, not by us)"];
    match args.format {
        ZooFormat::Json => println!("{:#}", Value::Array(list)),
        ZooFormat::Markdown => {
            println!("| {} |\n|---|---|---:|---:|---|", header.join(" | "));
            rows.iter().for_each(|row| println!("| `{}` | {} |", row[0], row[1..].join(" | ")));
        }
        ZooFormat::Human => {
            print!("{}", report::table(&header, &rows));
            println!("\nnext:\n  snnc train quickstart/digits\n  snnc check mixer/mlp_spe#MlpSpeT");
        }
    }
    Ok(())
}
