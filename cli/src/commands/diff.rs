//! `snnc diff`

use crate::args::{DiffArgs, DiffFormat, ModelArgs};
use crate::model::{Loaded, load};
use crate::{Failure, report};
use serde_json::{Value, json};
use snnc_compiler::check::Residue;
use snnc_compiler::graph::{Graph, Node};
use snnc_compiler::ops::Role;
use snnc_compiler::text::{grouped, printable, several};
use snnc_runtime::energy::{Costs, Done, at_rate};
use std::collections::{BTreeMap, BTreeSet};

/// Layers that are named one by one in a table; the others are counted.
const SHOWN: usize = 40;

/// The numbers of one version.
struct Numbers {
    verdict: String,
    time: u64,
    parameters: u64,
    residues: u64,
    admitted: u64,
    extra_weights: u64,
    encoder_share: f64,
    macs: f64,
    acs: f64,
    energy: f64,
}

impl Numbers {
    fn of(loaded: &Loaded, rate: f64) -> Numbers {
        let (graph, findings) = (loaded.checked.graph(), loaded.checked.findings());
        let energy = at_rate(&loaded.checked, rate);
        Numbers {
            verdict: findings.verdict.to_string(),
            time: graph.time as u64,
            parameters: graph.trained(),
            residues: findings.residues.len() as u64,
            admitted: findings.admitted(),
            extra_weights: loaded.checked.plan().extra_weights(),
            encoder_share: findings.encoder_share(),
            macs: energy.operations(Done::Mac),
            acs: energy.operations(Done::Ac),
            energy: energy.conventional(&Costs::default()),
        }
    }
}

/// How a node differs.
struct Change {
    path: String,
    before: Option<String>,
    after: Option<String>,
}

pub(crate) fn run(args: &DiffArgs) -> Result<(), Failure> {
    let open = |model: &str| load(&ModelArgs { model: model.to_owned(), settings: args.settings.clone() });
    let (a, b) = (open(&args.a)?, open(&args.b)?);
    let (before, after) = (Numbers::of(&a, args.rate), Numbers::of(&b, args.rate));
    let changes = changes(a.checked.graph(), b.checked.graph());
    let residues = |l: &Loaded| -> BTreeSet<(&'static str, String)> {
        l.checked.findings().residues.iter().map(|r: &Residue| (r.rule, r.path.clone())).collect()
    };
    let (old, new) = (residues(&a), residues(&b));
    let appeared: Vec<_> = new.difference(&old).collect();
    let gone: Vec<_> = old.difference(&new).collect();
    let count = |n: u64| grouped(n);
    let percent = |x: f64| format!("{:.2} %", 100.0 * x);
    let counted =
        |name: &str, of: fn(&Numbers) -> u64| row(name, count(of(&before)), count(of(&after)), difference(of(&before), of(&after)));
    let measured = |name: &str, of: fn(&Numbers) -> f64, text: fn(f64) -> String| {
        row(name, text(of(&before)), text(of(&after)), relative(of(&before), of(&after)))
    };
    let points = 100.0 * (after.encoder_share - before.encoder_share);
    let rows: Vec<[String; 4]> = vec![
        row("verdict", before.verdict.clone(), after.verdict.clone(), "changed".into()),
        counted("time steps", |n| n.time),
        row("parameters", count(before.parameters), count(after.parameters), relative(before.parameters as f64, after.parameters as f64)),
        counted("weights added by folds", |n| n.extra_weights),
        counted("residues", |n| n.residues),
        counted("admitted multiplications", |n| n.admitted),
        row("encoder", percent(before.encoder_share), percent(after.encoder_share), format!("{points:+.2} points")),
        measured("MAC", |n| n.macs, report::short),
        measured("AC", |n| n.acs, report::short),
        measured("energy", |n| n.energy, report::joules),
    ];
    // Two versions of one network are told apart by what was typed.
    let names = (&a.checked.graph().name, &b.checked.graph().name);
    let (from, to) = if names.0 == names.1 { (&args.a, &args.b) } else { names };
    let folds = |l: &Loaded| -> BTreeMap<(String, String), u64> {
        l.checked.plan().choices.iter().filter(|c| c.weights > 0).map(|c| ((c.fold.clone(), c.path.clone()), c.weights)).collect()
    };
    let (old_folds, new_folds) = (folds(&a), folds(&b));
    let mut told: Vec<String> = Vec::new();
    told.extend(appeared.iter().map(|(rule, path)| format!("new residue `{rule}` at {}", code(path))));
    told.extend(gone.iter().map(|(rule, path)| format!("no residue `{rule}` any more at {}", code(path))));
    let (added, dropped): (Vec<_>, Vec<_>) = (
        new_folds.iter().filter(|(k, _)| !old_folds.contains_key(*k)).collect(),
        old_folds.iter().filter(|(k, _)| !new_folds.contains_key(*k)).collect(),
    );
    let list = |of: &[(&(String, String), &u64)], what: &str| -> Vec<String> {
        let say = |((fold, path), weights): &(&(String, String), &u64)| {
            format!("{what} `fold({fold})` at {}: {}", code(path), several(**weights, "weight"))
        };
        let rest = of.len().saturating_sub(SHOWN);
        of.iter()
            .take(SHOWN)
            .map(say)
            .chain((rest > 0).then(|| format!("{what} folds at {} more", several(rest as u64, "place"))))
            .collect()
    };
    told.extend(list(&added, "new"));
    told.extend(list(&dropped, "no more"));
    match args.format {
        DiffFormat::Json => {
            let side = |n: &Numbers| {
                json!({
                    "verdict": n.verdict, "time": n.time, "parameters": n.parameters, "residues": n.residues,
                    "admitted_multiplications": n.admitted, "extra_weights": n.extra_weights, "encoder_share": n.encoder_share, "macs": n.macs, "acs": n.acs,
                    "energy_mj": n.energy,
                })
            };
            let nodes: Vec<_> = changes.iter().map(|c| json!({ "path": c.path, "before": c.before, "after": c.after })).collect();
            let list = |of: &[&(&str, String)]| of.iter().map(|(rule, path)| json!({ "rule": rule, "path": path })).collect::<Vec<_>>();
            println!(
                "{:#}",
                json!({
                    "a": args.a, "b": args.b, "rate": args.rate, "before": side(&before), "after": side(&after), "nodes": nodes,
                    "new_residues": list(&appeared), "gone_residues": list(&gone),
                })
            );
        }
        DiffFormat::Human => {
            let cells: Vec<Vec<String>> = rows.iter().map(|r| r.to_vec()).collect();
            print!("{}", report::table(&["", &printable(from), &printable(to), "change"], &cells));
            println!("\n{}", basis(args.rate));
            if !told.is_empty() {
                println!();
            }
            told.iter().for_each(|line| println!("{line}"));
            if changes.is_empty() {
                println!("\nno node differs");
            } else {
                println!("\n{} differ", nodes(changes.len()));
            }
            for c in changes.iter().take(SHOWN) {
                match (&c.before, &c.after) {
                    (Some(before), Some(after)) => println!("~ {}  {before} -> {after}", c.path),
                    (Some(before), None) => println!("- {}  {before}", c.path),
                    (None, after) => println!("+ {}  {}", c.path, after.as_deref().unwrap_or_default()),
                }
            }
            more(changes.len());
        }
        DiffFormat::Markdown => {
            // A comment's first line says what matters: does it still multiply nothing?
            let rank = |n: &Numbers| ["strict", "admitted", "violated"].iter().position(|v| *v == n.verdict);
            let sign = match after.verdict.as_str() {
                "violated" => "❌",
                _ if rank(&after) > rank(&before) => "⚠️",
                _ => "✅",
            };
            println!(
                "### {sign} `{}` is {}{}\n",
                names.1,
                after.verdict,
                if before.verdict == after.verdict { String::new() } else { format!(" (was {})", before.verdict) }
            );
            println!("| | {} | {} | change |\n|---|---:|---:|---:|", code(&args.a), code(&args.b));
            for [name, before, after, change] in &rows {
                println!("| {name} | {before} | {after} | {change} |");
            }
            println!("\n{}", basis(args.rate));
            if !told.is_empty() {
                println!();
            }
            told.iter().for_each(|line| println!("- {line}"));
            if !changes.is_empty() {
                println!("\n<details><summary>{} differ</summary>\n\n| node | before | after |\n|---|---|---|", nodes(changes.len()));
                for c in changes.iter().take(SHOWN) {
                    let cell = |x: &Option<String>| x.as_ref().map_or(String::new(), |x| code(x));
                    println!("| {} | {} | {} |", code(&c.path), cell(&c.before), cell(&c.after));
                }
                more(changes.len());
                println!("\n</details>");
            }
        }
    }
    Ok(())
}

fn basis(rate: f64) -> String {
    let rate = 100.0 * rate;
    format!(
        "AC and energy at a firing rate of {rate:.0} %, 4.6 pJ per MAC and 0.9 pJ per AC (45 nm), a still picture encoded at every time step."
    )
}

fn more(count: usize) {
    if count > SHOWN {
        println!("\nand {} more (`snnc diff --format json` lists all)", count - SHOWN);
    }
}

fn nodes(count: usize) -> String {
    several(count as u64, "node")
}

/// A line of the table; where both are the same, nothing changed.
fn row(name: &str, before: String, after: String, change: String) -> [String; 4] {
    let change = if before == after { String::new() } else { change };
    [name.to_owned(), before, after, change]
}

fn difference(before: u64, after: u64) -> String {
    format!("{}{}", if after > before { "+" } else { "-" }, grouped(after.abs_diff(before)))
}

fn relative(before: f64, after: f64) -> String {
    if before > 0.0 { format!("{:+.2} %", 100.0 * (after / before - 1.0)) } else { "new".to_owned() }
}

/// What a node is: operator, signal, parameters; and what its operator was told, by name.
fn described(g: &Graph, n: &Node) -> (String, BTreeMap<String, String>) {
    let trained = n.params.iter().map(|p| g.param(*p)).filter(|p| p.role == Role::Trained);
    let parameters: u64 = trained.map(|p| p.elements() as u64).sum();
    let counted = if parameters > 0 { format!(", {}", several(parameters, "parameter")) } else { String::new() };
    let place = if n.encoder { ", encoder" } else { "" };
    let mut arguments = BTreeMap::new();
    flatten("", &serde_json::to_value(&n.op).unwrap_or_default(), &mut arguments);
    let reads: Vec<&str> = n.inputs.iter().map(|i| g.node(*i).path.as_str()).collect();
    arguments.insert("reads".into(), reads.join(", "));
    (format!("{} {}{counted}{place}", n.op.word(), n.signal), arguments)
}

/// Every value in a tree, by the last name above it.
fn flatten(name: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| flatten(name, value, into)),
        Value::Array(axes) if !axes.is_empty() && axes.iter().all(|a| a["name"].is_string() && a["size"].is_u64()) => {
            let axes: Vec<String> = axes.iter().map(|a| format!("{} = {}", a["name"].as_str().unwrap_or_default(), a["size"])).collect();
            into.insert(name.to_owned(), format!("[{}]", axes.join(", ")));
        }
        other => {
            into.insert(name.to_owned(), other.to_string());
        }
    }
}

/// Nodes that are only in one version, or differ, in the order of the newer one.
fn changes(a: &Graph, b: &Graph) -> Vec<Change> {
    let old: BTreeMap<&str, _> = a.nodes.iter().map(|n| (n.path.as_str(), described(a, n))).collect();
    let new: BTreeSet<&str> = b.nodes.iter().map(|n| n.path.as_str()).collect();
    let gone = a.nodes.iter().filter(|n| !new.contains(n.path.as_str()));
    let gone = gone.map(|n| Change { path: n.path.clone(), before: Some(described(a, n).0), after: None });
    let changed = b.nodes.iter().filter_map(|n| {
        let after = described(b, n);
        let Some(before) = old.get(n.path.as_str()) else {
            return Some(Change { path: n.path.clone(), before: None, after: Some(after.0) });
        };
        if *before == after {
            return None;
        }
        // Of the arguments, those that differ.
        let text = |this: &(String, BTreeMap<String, String>), other: &BTreeMap<String, String>| {
            let differ = this.1.iter().filter(|(k, v)| other.get(*k) != Some(v)).map(|(k, v)| format!("{k} = {v}"));
            std::iter::once(this.0.clone()).chain(differ).collect::<Vec<_>>().join(", ")
        };
        Some(Change { path: n.path.clone(), before: Some(text(before, &after.1)), after: Some(text(&after, &before.1)) })
    });
    changed.chain(gone).collect()
}

/// A text as code in a cell of a table.
fn code(text: &str) -> String {
    let text = printable(text).replace('|', "\\|");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let space = if longest > 0 { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}
