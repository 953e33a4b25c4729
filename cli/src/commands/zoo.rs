//! `snnc zoo`

use crate::args::{Format, ZooArgs};
use crate::{Failure, report};
use serde_json::{Value, json};
use snnc_compiler::resolve::resolve;
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
        let mut entries: Vec<(String, Vec<String>)> = package
            .variants
            .iter()
            .map(|v| {
                let facts = v.published.iter().flatten().map(|f| {
                    let on = f.on.as_ref().map_or(String::new(), |c| format!(" on {}", c.callee.name));
                    format!("{} {}{on}", f.name.name, f.value)
                });
                (v.name.name.clone(), facts.collect())
            })
            .collect();
        if entries.is_empty() {
            entries.extend(package.models.iter().map(|m| (m.name.name.clone(), vec![])));
        }
        for (name, facts) in entries {
            list.push(json!({ "model": format!("{path}#{name}"), "published": facts, "about": about }));
            rows.push(vec![format!("{path}#{name}"), facts.join(", ")]);
        }
    }
    match args.format {
        Format::Json => println!("{:#}", Value::Array(list)),
        Format::Human => {
            print!("{}", report::table(&["model", "published (by its authors, not by us)"], &rows));
            println!("\nnext:\n  snnc train quickstart/digits\n  snnc check mixer/mlp_spe#MlpSpeT");
        }
    }
    Ok(())
}
