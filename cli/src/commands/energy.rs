//! `snnc energy`

mod plot;

use crate::args::{EnergyArgs, Format};
use crate::{Failure, model, report};
use serde_json::json;
use snnc_compiler::text::{grouped, printable};
use snnc_runtime::data::Dataset;
use snnc_runtime::energy::{Costs, Done, Energy, Layer, given, measure};
use snnc_runtime::train::checkpoint::{model_file, replace};
use snnc_runtime::weights::Weights;

pub(crate) fn run(args: &EnergyArgs) -> Result<(), Failure> {
    let plotted = args.plot.as_ref().map(|path| (path, path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_owned()));
    if let Some((path, kind)) = &plotted
        && !["svg", "html"].contains(&kind.as_str())
    {
        return Err(Failure::Usage(format!("`--plot {}`: name a file that ends with .svg or .html", path.display())));
    }
    let loaded = model::load(&args.model)?;
    let graph = loaded.checked.graph();
    let costs = Costs { mac: args.mac_pj, ac: args.ac_pj, word: args.word_pj };
    let (energy, source) = match (&args.rates, &args.weights) {
        (Some(file), _) => (
            given(&loaded.checked, file).map_err(Failure::failed)?,
            format!("rates of {}", printable(&file.file_name().unwrap_or_default().to_string_lossy())),
        ),
        (None, Some(weights)) => {
            let name = match &args.data {
                Some(name) => name.clone(),
                None => loaded.recipe(None)?.data,
            };
            let data = Dataset::named(&name).map_err(|e| Failure::Usage(e.to_string()))?;
            data.fits(graph).map_err(Failure::failed)?;
            let weights = Weights::read(&model_file(weights), graph, None).map_err(Failure::failed)?;
            let samples = args.samples.map_or(usize::MAX, |n| n as usize).min(data.test.labels.len());
            let energy = measure(&loaded.checked, &weights, &data, samples).map_err(Failure::failed)?;
            (energy, format!("rates measured on {samples} pictures of {name}"))
        }
        (None, None) => return Err(Failure::Usage("give `--weights W` (rates are measured) or `--rates FILE`".into())),
    };
    if let Some((path, kind)) = &plotted {
        let title = format!("{} at T = {}, {source}", graph.name, graph.time);
        let svg = plot::svg(&energy, &costs, &title);
        let text = if kind == "svg" { svg } else { plot::html(&energy, &costs, &title, &svg) };
        replace(path, text.as_bytes()).map_err(Failure::failed)?;
    }
    if args.report.format == Format::Json {
        let layers: Vec<_> = energy
            .layers
            .iter()
            .map(|l| {
                json!({
                    "path": l.path, "operator": l.operator, "done": l.done, "dense": l.dense, "bound": l.bound, "rate": l.rate,
                    "operations": l.operations(), "energy_mj": l.energy(&costs),
                })
            })
            .collect();
        println!(
            "{:#}",
            json!({
                "model": graph.name, "time": graph.time, "source": source, "costs_pj": costs, "layers": layers,
                "macs": energy.operations(Done::Mac), "acs": energy.operations(Done::Ac), "energy_mj": energy.conventional(&costs),
                "neuron_updates": energy.updates, "other_multiplications": energy.others, "energy_with_memory_mj": energy.whole(&costs),
            })
        );
    } else {
        human(&loaded.verdict_line(), &energy, &costs, &source);
        if let Some((path, _)) = plotted {
            println!("wrote {}", path.display());
        }
    }
    Ok(())
}

/// The heads of the table's columns; all energies have the unit of the largest.
fn head(energy: &Energy, costs: &Costs) -> Vec<String> {
    let (unit, _) = unit(energy, costs);
    ["layer", "dense operations", "rate", "done", "as"].map(str::to_owned).into_iter().chain([format!("energy, {unit}")]).collect()
}

fn rows(energy: &Energy, costs: &Costs) -> Vec<Vec<String>> {
    let (_, size) = unit(energy, costs);
    let row = |l: &Layer| {
        let (done, rate) = match l.done {
            Done::Mac => ("MAC", String::new()),
            Done::Ac if l.bound > 1 => ("AC", format!("{:.2} % × {}", 100.0 * l.rate, l.bound)),
            Done::Ac => ("AC", format!("{:.2} %", 100.0 * l.rate)),
        };
        let operations = grouped(l.operations().round() as u64);
        vec![l.path.clone(), grouped(l.dense), rate, operations, done.to_owned(), format!("{:.3}", size * l.energy(costs))]
    };
    energy.layers.iter().map(row).collect()
}

/// The unit of all layers' energies, and how many of it a millijoule is.
fn unit(energy: &Energy, costs: &Costs) -> (&'static str, f64) {
    let most = energy.layers.iter().map(|l| l.energy(costs)).fold(0.0, f64::max);
    [("mJ", 1.0), ("µJ", 1e3)].into_iter().find(|(_, size)| most * size >= 0.1).unwrap_or(("nJ", 1e6))
}

/// What the numbers do not say of themselves.
fn notes(energy: &Energy) -> Vec<String> {
    let mut notes = vec!["Operations are counted as the papers do: a still picture is encoded at every time step.".to_owned()];
    if energy.layers.iter().any(|l| l.bound > 1) {
        notes.push("A rate × n is that of counts of up to n spikes, each of which is an addition.".to_owned());
    }
    notes
}

fn human(verdict: &str, energy: &Energy, costs: &Costs, source: &str) {
    let head = head(energy, costs);
    let heads: Vec<&str> = head.iter().map(String::as_str).collect();
    print!("{}", report::table(&heads, &rows(energy, costs)));
    println!("\n{verdict}");
    println!("rates       {}", source.trim_start_matches("rates "));
    let (macs, acs) = (energy.operations(Done::Mac), energy.operations(Done::Ac));
    println!("operations  {} MAC, {} AC per sample", report::short(macs), report::short(acs));
    println!("energy      {} per sample ({} pJ per MAC, {} pJ per AC)", report::joules(energy.conventional(costs)), costs.mac, costs.ac);
    let others = if energy.others > 0 { format!(", {} other multiplications", report::short(energy.others as f64)) } else { String::new() };
    println!(
        "with all    {} per sample: also {} neuron updates{others} and memory ({} pJ per word of 32 bits)",
        report::joules(energy.whole(costs)),
        report::short(energy.updates as f64),
        costs.word
    );
    println!("\n{}", notes(energy).join("\n"));
}
