//! `snnc energy`

mod plot;

use crate::args::{EnergyArgs, Format};
use crate::{Failure, model, report};
use serde_json::json;
use snnc_compiler::text::grouped;
use snnc_runtime::data::Dataset;
use snnc_runtime::energy::{Costs, Done, Energy, given, measure};
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
        (Some(file), _) => (given(&loaded.checked, file).map_err(Failure::failed)?, format!("rates of {}", file.display())),
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
            (energy, format!("rates measured on {samples} pictures of `{name}`"))
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

fn human(verdict: &str, energy: &Energy, costs: &Costs, source: &str) {
    let rows: Vec<Vec<String>> = energy
        .layers
        .iter()
        .map(|l| {
            let (done, rate) = match l.done {
                Done::Mac => ("MAC", String::new()),
                Done::Ac => ("AC", format!("{:.2} %", 100.0 * l.rate)),
            };
            let operations = report::short(l.operations());
            vec![l.path.clone(), grouped(l.dense), rate, operations, done.to_owned(), report::joules(l.energy(costs))]
        })
        .collect();
    print!("{}", report::table(&["layer", "dense operations", "rate", "done", "as", "energy"], &rows));
    println!("\n{verdict}");
    println!("rates       {source}");
    let (macs, acs) = (energy.operations(Done::Mac), energy.operations(Done::Ac));
    println!("operations  {} MAC, {} AC per sample", report::short(macs), report::short(acs));
    println!("energy      {} per sample ({} pJ per MAC, {} pJ per AC)", report::joules(energy.conventional(costs)), costs.mac, costs.ac);
    let others = if energy.others > 0 { format!(", {} other multiplications", report::short(energy.others as f64)) } else { String::new() };
    println!(
        "with more   {} per sample with {} neuron updates{others} and memory ({} pJ per word of 32 bits)",
        report::joules(energy.whole(costs)),
        report::short(energy.updates as f64),
        costs.word
    );
}
