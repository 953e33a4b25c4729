//! `snnc certify`

mod page;

use crate::args::{CertifyArgs, Format, ModelArgs, SettingArgs};
use crate::{Failure, model, report};
use snnc_compiler::backend::clif::Target;
use snnc_compiler::flow::Region;
use snnc_compiler::text::{bytes, grouped, several};
use snnc_runtime::certificate::{Certificate, Input, certify, differences};
use snnc_runtime::data::Dataset;
use snnc_runtime::train::checkpoint::{model_file, replace};
use snnc_runtime::weights::Weights;
use std::collections::BTreeMap;
use std::path::Path;

/// Differences that are shown.
const SHOWN: usize = 20;

pub(crate) fn run(args: &CertifyArgs) -> Result<(), Failure> {
    if let Some(file) = &args.verify {
        return verify(args, file);
    }
    let Some(model) = &args.model else {
        return Err(Failure::Usage("name a MODEL, or a certificate with `--verify FILE`".into()));
    };
    if let Some(out) = &args.out
        && out.extension().is_none_or(|e| e != "json" && e != "html")
    {
        return Err(Failure::Usage(format!("`-o {}`: name a file that ends with .json or .html", out.display())));
    }
    let target = if args.target == "host" { Target::host() } else { Target::named(&args.target) };
    let target = target.map_err(|e| Failure::Usage(e.0))?;
    let certificate = derive(model, &args.settings, args.weights.as_deref(), data(args)?.as_ref(), &target, args.batch as usize)?;
    let json = || serde_json::to_string_pretty(&certificate).map(|t| t + "\n").map_err(Failure::failed);
    if let Some(out) = &args.out {
        let page = out.extension().is_some_and(|e| e == "html");
        let text = if page { page::html(&certificate).map_err(Failure::failed)? } else { json()? };
        replace(out, text.as_bytes()).map_err(Failure::failed)?;
    }
    match args.report.format {
        Format::Json => print!("{}", json()?),
        Format::Human => human(&certificate),
    }
    if let Some(out) = &args.out {
        eprintln!("wrote {}", out.display());
    }
    if certificate.verdict == "violated" || !certificate.code.census.findings.is_empty() { Err(Failure::Findings) } else { Ok(()) }
}

/// The data to count spikes on, and how many samples.
fn data(args: &CertifyArgs) -> Result<Option<(Dataset, usize)>, Failure> {
    let Some(name) = &args.data else { return Ok(None) };
    if args.weights.is_none() {
        return Err(Failure::Usage("spikes are counted with weights; give `--weights W`, too".into()));
    }
    let data = Dataset::named(name).map_err(|e| Failure::Usage(e.to_string()))?;
    Ok(Some((data, args.samples.map_or(usize::MAX, |n| n as usize))))
}

fn derive(
    model: &str,
    settings: &SettingArgs,
    weights: Option<&Path>,
    data: Option<&(Dataset, usize)>,
    target: &Target,
    batch: usize,
) -> Result<Certificate, Failure> {
    let loaded = model::load(&ModelArgs { model: model.to_owned(), settings: settings.clone() })?;
    let graph = loaded.checked.graph();
    if let Some((data, _)) = data {
        data.fits(graph).map_err(Failure::failed)?;
    }
    let weights = weights.map(|w| Weights::read(&model_file(w), graph, None)).transpose().map_err(Failure::failed)?;
    let input = Input {
        model,
        set: settings.set.clone(),
        time: settings.time,
        sources: &loaded.sources,
        checked: &loaded.checked,
        weights: weights.as_ref(),
        data: data.map(|(d, n)| (d, *n)),
        target,
        batch,
    };
    certify(&input).map_err(Failure::failed)
}

/// A certificate from a file.
pub(super) fn read(file: &Path) -> Result<Certificate, Failure> {
    let shown = file.display();
    let text = super::text(file).map_err(|e| Failure::Usage(format!("cannot read `{shown}`: {e}")))?;
    Certificate::read(&text).map_err(|reason| Failure::Failed(format!("`{shown}` is no certificate: {reason}")))
}

/// Derives a certificate again, from its source (or the model that is named) and weights, and says what differs.
fn verify(args: &CertifyArgs, file: &Path) -> Result<(), Failure> {
    let shown = file.display();
    let mut given = read(file)?;
    let settings = SettingArgs { set: given.subject.set.clone(), time: given.subject.time };
    let model = args.model.clone().unwrap_or_else(|| given.subject.model.clone());
    if given.hashes.weights.is_none() && given.measured.is_some() {
        return Err(Failure::Failed(format!("`{shown}` is no certificate: it has a measurement, and no weights")));
    }
    let mut left_out = "";
    if given.hashes.weights.is_some() && args.weights.is_none() {
        if !args.without_weights {
            let message = format!("`{shown}` is for weights: give them with `--weights W`");
            return Err(Failure::Usage(format!("{message}, or compare all else with `--without-weights`")));
        }
        left_out = ", but for its weights, which were not compared";
        (given.hashes.weights, given.hashes.folded_weights, given.measured) = (None, None, None);
    }
    let measured = given.measured.as_ref();
    let data = measured.map(|m| Dataset::named(&m.data).map(|d| (d, m.samples))).transpose().map_err(Failure::failed)?;
    let code = &given.code;
    let target =
        Target::exactly(&code.triple, &code.flags).map_err(|e| Failure::Failed(format!("`{shown}` cannot be derived again: {}", e.0)))?;
    let derived = derive(&model, &settings, args.weights.as_deref(), data.as_ref(), &target, code.batch)?;
    let lines = differences(&given, &derived);
    let violated = derived.verdict == "violated" || !derived.code.census.findings.is_empty();
    if args.report.format == Format::Json {
        let weights = left_out.is_empty();
        let json = serde_json::json!({
            "certificate": shown.to_string(), "model": model, "holds": lines.is_empty(), "verdict": derived.verdict,
            "weights_compared": weights, "differences": lines,
        });
        println!("{json:#}");
    } else if lines.is_empty() {
        println!("{shown} holds: {} is {}, derived again from {model}{left_out}", given.subject.name, given.verdict);
    } else {
        println!("{shown} does not hold for {model}:");
        for line in lines.iter().take(SHOWN) {
            println!("  {line}");
        }
        if lines.len() > SHOWN {
            println!("  and {} more", lines.len() - SHOWN);
        }
    }
    if lines.is_empty() && !violated { Ok(()) } else { Err(Failure::Findings) }
}

fn human(c: &Certificate) {
    let (t, census) = (&c.totals, &c.code.census);
    let number = |n: u64| grouped(n);
    println!("{} (T = {}) is {}\n", c.subject.name, c.subject.steps, c.verdict);
    let mut rows: Vec<Vec<String>> = vec![
        vec!["additions of weights, where there is a spike".into(), number(t.accumulates), "if all neurons fired at all steps".into()],
        vec!["comparisons".into(), number(t.comparisons), "neurons, largest values".into()],
    ];
    let mut add = |what: &str, n: u64, note: &str| {
        if n > 0 {
            rows.push(vec![what.to_owned(), number(n), note.to_owned()]);
        }
    };
    add("ANDs of spikes with spikes, counted", t.and_counts, "");
    add("additions of values, where there is a spike", t.masked_accumulates, "if all neurons fired at all steps");
    add("selections by a spike", t.selections, "");
    add("changes of exponents", t.shifts, "factors and leaks of 2^-k");
    let still = !c.written.iter().any(|w| w.how == "encoder" && w.signal.contains("[T"));
    let once = if still { "once for all time steps; " } else { "" };
    let share = 100.0 * t.encoder_share;
    add("multiply-accumulates of the encoder", t.encoder_macs, &format!("{once}{share:.2} % of all operations as written"));
    add("multiplications of residues", t.residue_multiplications, &format!("at {}, admitted or not", several(t.residues, "place")));
    print!("{}", report::table(&["operations per inference of one sample", "count", ""], &rows));
    if let Some(m) = &c.measured {
        println!(
            "\non {} pictures of `{}`: {} additions of weights per picture, at the mean firing rates",
            m.samples,
            m.data,
            report::short(m.accumulates)
        );
    }
    let mut destinations: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for w in &c.written {
        if let Some(f) = &w.factor {
            *destinations.entry((w.operator.as_str(), f.destination.as_str())).or_default() += 1;
        }
    }
    let meaning = |d: &str| match d {
        "before" => "into the weights of the map before it",
        "after" => "into the weights of the map after it",
        "neuron" => "into threshold, bias and reset of the neuron that reads it",
        "readers" => "into all that read it",
        "select" => "selected where there is a spike",
        "shift" => "a change of exponent",
        "encoder" => "stays, in the encoder",
        _ => "stays: a residue",
    };
    let rows: Vec<Vec<String>> =
        destinations.iter().map(|((op, d), n)| vec![(*op).to_owned(), number(*n), meaning(d).to_owned()]).collect();
    if !rows.is_empty() {
        print!("\n{}", report::table(&["constant factors of", "places", "where they go"], &rows));
    }
    let residues: Vec<Vec<String>> = c
        .written
        .iter()
        .filter_map(|w| {
            let done = c.executed.iter().find(|e| e.path == w.path && e.how == "residue").map_or(w.multiplications, |e| e.count);
            Some(vec![w.residue.clone()?, w.path.clone(), number(done), w.place.clone()])
        })
        .collect();
    if !residues.is_empty() {
        print!("\n{}", report::table(&["residue", "at", "multiplications", "place"], &residues));
    }
    let mut folds: BTreeMap<&str, (usize, u64, u64, u64)> = BTreeMap::new();
    for choice in &c.choices {
        let (places, weights, bytes, instead) = folds.entry(choice.fold.as_str()).or_default();
        *places += 1;
        *weights += choice.weights;
        *bytes += choice.bytes;
        *instead += choice.instead.as_ref().map_or(0, |o| o.bytes);
    }
    let meaning = |fold: &str| match fold {
        "time" => "tables over the time steps, as asked for",
        "compose" => "maps composed, or spelt out for the terms of a sum, as asked for",
        "pool" => "convolutions that look through the pool before them",
        _ => "counts of pools, added as often as they say",
    };
    let size = |n: u64| bytes(u128::from(n));
    let other = |n: u64| if n > 0 { size(n) } else { "no other way".to_owned() };
    let folds = folds.iter().map(|(fold, (places, weights, bytes, instead))| {
        vec![meaning(fold).to_owned(), places.to_string(), number(*weights), size(*bytes), other(*instead)]
    });
    let folds: Vec<Vec<String>> = folds.collect();
    if !folds.is_empty() {
        print!("\n{}", report::table(&["folds that cost memory", "places", "weights added", "bytes", "the other way"], &folds));
    }
    let multiplying = c.prepare.iter().filter(|p| p.multiplies).count();
    println!(
        "\nweights     {} as written, {} folded; {multiplying} of {} folded parameters are multiplied, once per set of weights",
        number(t.weights_written),
        number(t.weights_folded),
        c.prepare.len()
    );
    let of = |region| census.of(region);
    let ((free, bad), (encoder, inside), (residue, admitted)) = (of(Region::Free), of(Region::Encoder), of(Region::Residue));
    println!(
        "census      {} for {}: {bad} of {} instructions outside the encoder multiply",
        bytes(c.code.bytes as u128),
        c.code.triple,
        number(free)
    );
    println!("            {inside} of {} in the encoder, {admitted} of {} in residues", number(encoder), number(residue));
    for finding in &census.findings {
        println!("            {} at {:#x}: `{}` {}", finding.function, finding.offset, finding.instruction, finding.wrong);
    }
    for (name, hash) in &c.hashes.sources {
        println!("source      {hash}  {name}");
    }
    println!("program     {}\ncode        {}", c.hashes.program, c.hashes.code);
    if let Some(weights) = &c.hashes.weights {
        println!("weights     {weights}");
    }
    println!("snnc        {}, form {}", c.snnc, c.schema);
    println!("\nevery operation and every instruction by itself: -o FILE.html, or -o FILE.json");
}
