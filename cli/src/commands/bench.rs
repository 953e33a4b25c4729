//! `snnc bench`

use super::backend;
use crate::args::{BenchArgs, BenchInferArgs, BenchStepArgs, Format, Precision};
use crate::report::table;
use crate::{Failure, model};
use serde_json::{Value, json};
use snnc_compiler::backend::context::HYPERS;
use snnc_compiler::check::Checked;
use snnc_compiler::lower::{Optimizer, Watch, hyper};
use snnc_compiler::program::Inside;
use snnc_compiler::text::bytes;
use snnc_runtime::calibrate::{calibrated, firing_rate, pictures};
use snnc_runtime::device::Backend;
use snnc_runtime::device::cuda::bench::{self, Measured};
use snnc_runtime::energy::{self, Done, Layer};
use snnc_runtime::kept::{self, Start};
use snnc_runtime::machine;
use snnc_runtime::session::{Inference, Mode, Unfolded};
use snnc_runtime::train::checkpoint::{model_file, replace};
use snnc_runtime::weights::{Weights, to_bytes};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

/// Side of the matrices that a device's rates are measured with.
const SIDE: usize = 8192;

pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    match args {
        BenchArgs::Step(args) => step(args),
        BenchArgs::Infer(args) => infer(args),
    }
}

fn infer(args: &BenchInferArgs) -> Result<(), Failure> {
    let loaded = model::load(&args.model)?;
    let (checked, graph) = (&loaded.checked, loaded.checked.graph());
    let (batch, repeats) = (args.batch as usize, args.repeats as usize);
    let human = args.report.format == Format::Human;
    let pictures = pictures(graph, batch, 2);
    let started = args.weights.as_deref().map(|path| first_result(checked, &model_file(path), &pictures, batch)).transpose()?;
    if let Some(path) = args.keep.as_deref().filter(|path| path.exists() && !args.force) {
        return Err(Failure::Usage(format!("{} exists; --force replaces it", path.display())));
    }
    if human && args.weights.is_none() {
        eprintln!("looking for random weights at which {:.1} % of neurons fire", 100.0 * args.rate);
    }
    let weights = match &args.weights {
        Some(path) => Weights::read(&model_file(path), graph, None).map_err(Failure::failed)?,
        None => calibrated(checked, args.rate, 1).map_err(Failure::failed)?,
    };
    if let Some(path) = &args.keep {
        let bytes = to_bytes(&weights.tensors(graph)).map_err(Failure::Failed)?;
        replace(path, &bytes).map_err(Failure::failed)?;
    }
    let mut session = Inference::new(checked, &weights, batch, Watch::Spikes).map_err(Failure::failed)?;
    let rate = firing_rate(&mut session, graph, &pictures, batch).map_err(Failure::failed)?;
    drop(session);
    if args.weights.is_none() && (rate - args.rate).abs() > 0.2 * args.rate {
        eprintln!(
            "note: {:.1} % of neurons fire, not {:.1} %: that was looked for on another picture, and biases may move it no further",
            100.0 * rate,
            100.0 * args.rate
        );
    }
    let energy = energy::on(checked, &weights, &pictures, batch).map_err(Failure::failed)?;
    let additions = energy.operations(Done::Ac) * batch as f64;
    let of_path =
        |path: &str| energy.layers.iter().filter(|l| l.path == path && l.done == Done::Ac).map(Layer::operations).sum::<f64>() + 0.0;
    // The mean of its contractions, by their dense operations.
    let rate_of = |inside: &[Inside]| {
        let own = energy.layers.iter().filter(|l| l.done == Done::Ac && inside.iter().any(|i| i.path == l.path));
        let (done, dense) = own.fold((0.0, 0.0), |(done, dense), l| (done + l.rate * l.dense as f64, dense + l.dense as f64));
        (dense > 0.0).then_some(done / dense)
    };
    let begun = Instant::now();
    let mut session = Inference::new(checked, &weights, batch, Watch::Nothing).map_err(Failure::failed)?;
    let made = begun.elapsed().as_secs_f64();
    let mut seconds = Vec::new();
    for i in 0..repeats + 3 {
        let start = Instant::now();
        session.run(&pictures, batch).map_err(Failure::failed)?;
        if i >= 3 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let limit = additions_per_second();
    session.measure();
    let mut layers: Vec<Timed> = Vec::new();
    for i in 0..repeats.min(10) {
        session.run(&pictures, batch).map_err(Failure::failed)?;
        for (j, (l, seconds)) in session.seconds().enumerate() {
            if i == 0 {
                let additions = l.inside.iter().map(|inside| of_path(&inside.path)).sum::<f64>() * batch as f64 + 0.0;
                let fires = rate_of(&l.inside);
                layers.push(Timed { label: l.label.clone(), inside: l.inside.clone(), how: l.how(), seconds: vec![], additions, fires });
            }
            layers[j].seconds.push(seconds);
        }
    }
    let middle = median(&seconds);
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let late = sorted[(sorted.len() * 95).div_ceil(100) - 1];
    let share = additions / middle / limit;
    if human {
        println!(
            "an inference of {}, {batch} sample{}, {}, {:.1} % of neurons firing",
            graph.name,
            if batch == 1 { "" } else { "s" },
            threads(machine::expected(1).threads),
            100.0 * rate
        );
        println!("latency        {:.3} ms, the median of {repeats}; 95 % within {:.3} ms", 1e3 * middle, 1e3 * late);
        println!("images         {:.1} a second", batch as f64 / middle);
        println!(
            "additions      {}, {} a second, {:.1} % of the {:.1} G that registers take",
            large(additions),
            large(additions / middle),
            100.0 * share,
            limit / 1e9
        );
        println!("made           in {made:.3} s: folded, compiled, weights packed");
        if let Some(started) = &started {
            let from = match (started.start.kept, &started.start.unkept) {
                (true, _) => "from the cache".to_owned(),
                (false, None) => "made, and kept for the next one".to_owned(),
                (false, Some(why)) => format!("made, and not kept: {why}"),
            };
            println!("start          {:.3} s with the first result, {from}", started.seconds);
            if let Some(peak) = started.peak {
                println!(
                    "memory         {} at most until then; the weights are {}",
                    bytes(u128::from(peak)),
                    bytes(u128::from(started.weights))
                );
            }
        }
    }
    if human {
        println!("\n{}", table(&["ms", "of all", "M additions", "of limit", "fires", "how", "loop"], &rows(&layers, limit)));
    }
    let layers: Vec<Value> = layers
        .iter()
        .map(|l| json!({ "layer": l.label, "median_s": median(&l.seconds), "additions": l.additions, "firing_rate": l.fires, "contractions": l.inside }))
        .collect();
    let report = json!({
        "layers": layers,
        "model": graph.name, "batch": batch, "threads": machine::expected(1).threads,
        "median_s": middle, "p95_s": late, "images_per_s": batch as f64 / middle,
        "firing_rate": rate, "additions": additions, "additions_per_s": additions / middle,
        "limit_additions_per_s": limit, "share_of_limit": share, "made_s": made,
        "start": started.map(|s| json!({ "seconds": s.seconds, "kept": s.start.kept, "peak_bytes": s.peak, "weights_bytes": s.weights })),
    });
    if !human {
        println!("{report:#}");
    }
    Ok(())
}

/// How a process that has done nothing yet gets to its first result.
struct Started {
    seconds: f64,
    start: Start,
    /// The most memory until then, in bytes.
    peak: Option<u64>,
    /// Of the file of weights, in bytes.
    weights: u64,
}

fn first_result(checked: &Checked, path: &Path, pictures: &[f32], batch: usize) -> Result<Started, Failure> {
    let begun = Instant::now();
    let (mut session, start) = kept::open(checked, path, batch, Watch::Nothing, false).map_err(Failure::failed)?;
    session.run(pictures, batch).map_err(Failure::failed)?;
    let weights = std::fs::metadata(path).map_or(0, |m| m.len());
    Ok(Started { seconds: begun.elapsed().as_secs_f64(), start, peak: machine::peak(), weights })
}

/// `1 thread`, `2 threads`.
pub(super) fn threads(count: usize) -> String {
    format!("{count} thread{}", if count == 1 { "" } else { "s" })
}

/// A count in thousands, millions or billions.
fn large(n: f64) -> String {
    match n {
        1e9.. => format!("{:.2} G", n / 1e9),
        1e6.. => format!("{:.2} M", n / 1e6),
        _ => format!("{:.1} k", n / 1e3),
    }
}

/// A loop that was timed.
struct Timed {
    label: String,
    inside: Vec<Inside>,
    how: String,
    seconds: Vec<f64>,
    additions: f64,
    /// Part of what it reads that fires.
    fires: Option<f64>,
}

/// The loops that take longest; and what all others take.
fn rows(layers: &[Timed], limit: f64) -> Vec<Vec<String>> {
    const MOST: usize = 30;
    let all: f64 = layers.iter().map(|l| median(&l.seconds)).sum();
    let row = |seconds: f64, additions: f64, fires: Option<f64>, how: &str, label: String| {
        let counted = |text: String| if additions > 0.0 { text } else { String::new() };
        vec![
            format!("{:.3}", 1e3 * seconds),
            format!("{:.1} %", 100.0 * seconds / all),
            counted(format!("{:.2}", additions / 1e6)),
            counted(format!("{:.1} %", 100.0 * additions / seconds / limit)),
            fires.map(|f| format!("{:.1} %", 100.0 * f)).unwrap_or_default(),
            how.to_owned(),
            label,
        ]
    };
    let mut sorted: Vec<&Timed> = layers.iter().collect();
    sorted.sort_by(|a, b| median(&b.seconds).total_cmp(&median(&a.seconds)));
    let mut rows: Vec<Vec<String>> =
        sorted.iter().take(MOST).map(|l| row(median(&l.seconds), l.additions, l.fires, &l.how, l.label.clone())).collect();
    if let Some(others) = sorted.get(MOST..).filter(|o| !o.is_empty()) {
        let seconds = others.iter().map(|l| median(&l.seconds)).sum();
        let additions = others.iter().map(|l| l.additions).sum();
        rows.push(row(seconds, additions, None, "", format!("{} others", others.len())));
    }
    rows
}

/// Additions of f32 that all threads can do in a second, in registers of 128 bits.
fn additions_per_second() -> f64 {
    const CHAINS: usize = 12;
    const ROUNDS: usize = 4_000_000;
    fn chains(start: f32) -> [[f32; 4]; CHAINS] {
        let mut all = [[start; 4]; CHAINS];
        for _ in 0..ROUNDS {
            for chain in &mut all {
                for lane in chain.iter_mut() {
                    *lane += start;
                }
            }
        }
        all
    }
    let best = (0..5).map(|_| {
        let start = Instant::now();
        rayon::broadcast(|_| black_box(chains(black_box(1e-9))));
        start.elapsed().as_secs_f64()
    });
    (CHAINS * 4 * ROUNDS * rayon::current_num_threads()) as f64 / best.fold(f64::INFINITY, f64::min)
}

fn step(args: &BenchStepArgs) -> Result<(), Failure> {
    let loaded = model::load(&args.model)?;
    let (backend, device) = backend::chosen(args.backend, args.precision)?;
    if args.by.is_some() && backend == Backend::Cpu {
        return Err(Failure::Usage("--by kernel needs a GPU: --backend cuda".into()));
    }
    let optimizer = loaded.recipe(None).map_or(Optimizer::Sgd { momentum: 0.9, weight_decay: 0.0 }, |r| r.optimizer);
    let (batch, repeats) = (args.batch as usize, args.repeats as usize);
    let human = args.report.format == Format::Human;
    if human {
        let name = &loaded.checked.graph().name;
        println!("a training step of {name}, {batch} samples, {}, on {device}", args.precision.name());
    }
    let mut report = if backend == Backend::Cpu {
        on_cpu(&loaded.checked, optimizer, batch, repeats, human)?
    } else {
        let measured = bench::step(
            &loaded.checked,
            optimizer,
            (args.precision.format(), args.precision == Precision::Tf32),
            batch,
            repeats,
            args.by.is_some(),
            SIDE,
        );
        on_device(&measured.map_err(Failure::failed)?, batch, human)
    };
    report["model"] = json!(loaded.checked.graph().name);
    report["batch"] = json!(batch);
    report["precision"] = json!(args.precision.name());
    report["device"] = json!(device);
    if !human {
        println!("{report:#}");
    }
    Ok(())
}

pub(super) fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = |i: usize| sorted.get(i).copied().unwrap_or(0.0);
    f64::midpoint(middle(sorted.len().saturating_sub(1) / 2), middle(sorted.len() / 2))
}

fn times(seconds: &[f64], batch: usize, human: bool) -> Value {
    let (middle, least) = (median(seconds), seconds.iter().copied().fold(f64::INFINITY, f64::min));
    let most = seconds.iter().copied().fold(0.0, f64::max);
    if human {
        println!("step           {:.3} ms, the median of {} ({:.3} to {:.3})", 1e3 * middle, seconds.len(), 1e3 * least, 1e3 * most);
        println!("images         {:.0} a second", batch as f64 / middle);
    }
    json!({ "median_s": middle, "least_s": least, "most_s": most, "images_per_s": batch as f64 / middle })
}

fn on_cpu(checked: &Checked, optimizer: Optimizer, batch: usize, repeats: usize, human: bool) -> Result<Value, Failure> {
    let graph = checked.graph();
    let weights = Weights::initial(graph, 1);
    let mut session = Unfolded::new(checked, &weights, batch, Mode::Train(optimizer)).map_err(Failure::failed)?;
    let (picture, targets) = bench::example(graph, batch);
    let mut numbers = [0.0; HYPERS];
    numbers[hyper::RATE] = 1e-6;
    (numbers[hyper::CORRECT1], numbers[hyper::CORRECT2]) = (1.0, 1.0);
    let mut seconds = Vec::new();
    for i in 0..repeats + 2 {
        let start = Instant::now();
        session.run(&picture, &targets, batch, numbers).map_err(Failure::failed)?;
        if i >= 2 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let mut report = times(&seconds, batch, human);
    let memory = session.bytes();
    if human {
        println!("memory         {}", bytes(memory));
    }
    report["memory_bytes"] = json!(memory as u64);
    Ok(report)
}

fn on_device(measured: &Measured, batch: usize, human: bool) -> Value {
    let mut report = times(&measured.seconds, batch, human);
    let [arithmetic, memory] = measured.floors();
    let ratio = median(&measured.seconds) / arithmetic.max(memory);
    report["memory_bytes"] = json!(measured.bytes);
    report["launches"] = json!(measured.launches);
    report["floors"] = json!({ "arithmetic_s": arithmetic, "memory_s": memory, "times_the_larger": ratio });
    report["rates"] = json!({ "bytes_per_s": measured.rates.bytes, "operations_per_s": measured.rates.operations });
    // The same kind of work for the same part, forwards or backwards.
    let mut groups: BTreeMap<(String, &str), (usize, f64, u64, u64)> = BTreeMap::new();
    for (cost, seconds) in &measured.by_launch {
        let (count, time, moved, operations) = groups.entry((cost.what[0].clone(), cost.kind)).or_default();
        (*count, *time) = (*count + 1, *time + seconds);
        (*moved, *operations) = (*moved + cost.read + cost.written, *operations + cost.operations);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let kernel = |((what, kind), (count, seconds, moved, operations)): &((String, &str), (usize, f64, u64, u64))| json!({ "for": what, "kind": kind, "launches": count, "seconds": seconds, "bytes": moved, "operations": operations });
    report["kernels"] = groups.iter().map(kernel).collect();
    if human {
        println!("memory         {}", bytes(measured.bytes as u128));
        println!("launches       {}", measured.launches);
        println!(
            "arithmetic     {:.3} ms: {:.2} TFLOP at {:.0} TFLOP/s, measured",
            1e3 * arithmetic,
            measured.operations as f64 / 1e12,
            measured.rates.operations / 1e12
        );
        println!(
            "memory traffic {:.3} ms: {} at {}/s, measured",
            1e3 * memory,
            bytes(u128::from(measured.moved)),
            bytes(measured.rates.bytes as u128)
        );
        println!("ratio          {ratio:.2} times the larger");
        if !groups.is_empty() {
            let row = |((what, kind), (count, seconds, moved, operations)): &((String, &str), (usize, f64, u64, u64))| {
                let share = (*moved as f64 / measured.rates.bytes).max(*operations as f64 / measured.rates.operations) / seconds;
                vec![
                    format!("{:.3}", 1e3 * seconds),
                    count.to_string(),
                    (*kind).to_owned(),
                    bytes(u128::from(*moved)),
                    format!("{:.0} %", 100.0 * share),
                    what.clone(),
                ]
            };
            let rows: Vec<Vec<String>> = groups.iter().map(row).collect();
            println!("\n{}", table(&["ms", "launches", "kind", "moved", "of the limit", "for"], &rows));
        }
    }
    report
}
