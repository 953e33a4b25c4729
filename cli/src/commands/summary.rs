//! `snnc summary`

use crate::args::{Format, SummaryArgs};
use crate::{Failure, model, report};
use serde_json::json;
use snnc_compiler::check::How;
use snnc_compiler::ops::{Multiplication, Role};
use snnc_compiler::text::grouped;
use snnc_runtime::energy::{Costs, Done, at_rate};
use std::collections::HashMap;

pub(crate) fn run(args: &SummaryArgs) -> Result<(), Failure> {
    let loaded = model::load(&args.model)?;
    let graph = loaded.checked.graph();
    let mut rows = Vec::new();
    let (mut maps, mut products) = (0u64, 0u64);
    let dense = graph.dense();
    let findings = loaded.checked.findings();
    let energy = at_rate(&loaded.checked, args.rate);
    let inference = loaded.checked.inference();
    let how: HashMap<&str, How> =
        inference.nodes.iter().zip(&loaded.checked.plan().nodes).map(|(node, plan)| (node.path.as_str(), plan.how)).collect();
    for id in graph.ids() {
        let node = graph.node(id);
        let parameters: u64 =
            node.params.iter().map(|p| graph.param(*p)).filter(|p| p.role == Role::Trained).map(|p| p.elements() as u64).sum();
        let kind = match how.get(node.path.as_str()) {
            Some(How::Encoder | How::Residue) => "MAC",
            _ => "AC",
        };
        let all = dense[id.index()];
        if node.op.multiplies(&graph.input_signals(node)).contains(&Multiplication::Weights) {
            maps += all;
        } else {
            products += all;
        }
        let kind = if all > 0 { kind } else { "" };
        rows.push((node.path.clone(), node.op.word(), node.signal.to_string(), parameters, all, kind));
    }
    let (macs, acs, costs) = (energy.operations(Done::Mac), energy.operations(Done::Ac), Costs::default());
    let most = at_rate(&loaded.checked, 1.0).operations(Done::Ac);
    let millijoule = energy.conventional(&costs);
    if args.report.format == Format::Json {
        let layers: Vec<_> = rows
            .iter()
            .map(|(path, op, signal, parameters, all, kind)| {
                json!({ "path": path, "operator": op, "signal": signal, "parameters": parameters, "dense_operations": all, "kind": kind })
            })
            .collect();
        println!(
            "{:#}",
            json!({
                "name": graph.name, "time": graph.time, "parameters": graph.trained(), "dense_operations": maps,
                "dense_products": products, "published": facts(&loaded), "macs": macs, "dense_acs": most, "rate": args.rate,
                "acs": acs, "other_multiplications": energy.others, "energy_mj": millijoule, "verdict": findings.verdict, "encoder_share": findings.encoder_share(), "layers": layers,
            })
        );
        return Ok(());
    }
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(path, op, signal, parameters, all, kind)| {
            let count = |n: u64| if n == 0 { String::new() } else { grouped(n) };
            vec![path, op.to_owned(), signal, count(parameters), count(all), kind.to_owned()]
        })
        .collect();
    print!("{}", report::table(&["path", "operator", "signal", "parameters", "operations", "done as"], &cells));
    println!("\n{}", loaded.verdict_line());
    println!("parameters  {}", grouped(graph.trained()));
    let also = if products > 0 { format!(", and {} in products of signals", grouped(products)) } else { String::new() };
    println!("dense       {} operations of weights per sample at T = {}{also}", grouped(maps), graph.time);
    let still = if graph.node(graph.input).signal.varies { "" } else { ", a still picture at every time step, as the papers count" };
    println!("as MAC      {} per sample{still}", report::short(macs));
    if energy.others > 0 {
        println!("besides     {} multiplications of residues that are no layers, not charged", report::short(energy.others as f64));
    }
    println!(
        "as AC       {} per sample at a firing rate of {:.0} % ({} at 100 %)",
        report::short(acs),
        100.0 * args.rate,
        report::short(most)
    );
    println!("energy      {} per sample ({} pJ per MAC, {} pJ per AC)", report::joules(millijoule), costs.mac, costs.ac);
    if !facts(&loaded).is_empty() {
        println!(
            "published   {} (by its authors, not by us)",
            facts(&loaded).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(())
}

/// What the paper says of this variant.
fn facts(loaded: &model::Loaded) -> Vec<report::Published> {
    let variant = loaded.package.variants.iter().find(|v| v.name.name == loaded.checked.graph().name);
    variant.and_then(|v| v.published.as_deref()).unwrap_or_default().iter().map(report::Published::of).collect()
}
