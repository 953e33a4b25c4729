//! `snnc predict`

use crate::args::{Format, PredictArgs};
use crate::{Failure, model};
use serde_json::json;
use snnc_compiler::lower::Watch;
use snnc_runtime::data::Dataset;
use snnc_runtime::pictures;
use snnc_runtime::train::checkpoint::{model_file, replace};

pub(crate) fn run(args: &PredictArgs) -> Result<(), Failure> {
    let loaded = model::load(&args.model)?;
    let graph = loaded.checked.graph();
    let input = &graph.node(graph.input).signal;
    let mut inputs: Vec<(String, Vec<f32>, Option<usize>)> = Vec::new();
    for path in &args.images {
        let pixels = pictures::read(path, input).map_err(Failure::failed)?;
        inputs.push((path.to_string_lossy().into_owned(), pixels, None));
    }
    if !args.sample.is_empty() {
        let data = Dataset::named(&loaded.recipe(None)?.data).map_err(|e| Failure::Usage(e.to_string()))?;
        data.fits(graph).map_err(Failure::failed)?;
        let count = data.test.labels.len();
        let mut pixels = Vec::new();
        for range in &args.sample {
            if range.end > count {
                let wanted = range.start.max(count);
                return Err(Failure::Usage(format!("`{}` has {count} test pictures; there is no {wanted}", data.name)));
            }
        }
        for index in args.sample.iter().flat_map(Clone::clone) {
            data.gather(&data.test, &[index], 0.0, 0, 0, &mut pixels);
            inputs.push((format!("{} {index}", data.name), pixels.clone(), Some(data.test.labels[index])));
        }
    }
    if let Some(path) = &args.write {
        let raw: Vec<u8> = inputs.iter().flat_map(|(_, pixels, _)| pixels.iter().flat_map(|x| x.to_le_bytes())).collect();
        replace(path, &raw).map_err(Failure::failed)?;
    }
    let mut session = model::inference(&loaded.checked, &model_file(&args.trained.weights), (Watch::Spikes, false))?;
    for (name, pixels, label) in inputs {
        let logits = session.run(&pixels, 1).map_err(Failure::failed)?;
        let spikes: u64 = session.spikes(graph.time).iter().flat_map(|(_, s)| s).sum();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let powers: Vec<f64> = logits.iter().map(|l| f64::from(l - logits[order[0]]).exp()).collect();
        let total: f64 = powers.iter().sum();
        let p = |k: usize| powers[k] / total;
        match args.report.format {
            Format::Json => println!(
                "{}",
                json!({ "input": name, "class": order[0], "probability": p(order[0]), "label": label, "logits": logits, "spikes": spikes })
            ),
            Format::Human => {
                let known = label.map_or(String::new(), |l| format!("  (it is {l})"));
                let others: Vec<String> = order.iter().skip(1).take(2).map(|k| format!("{k} {:.1} %", 100.0 * p(*k))).collect();
                println!("{name}: {} at {:.1} %{known}; then {}; {spikes} spikes", order[0], 100.0 * p(order[0]), others.join(", "));
            }
        }
    }
    Ok(())
}
