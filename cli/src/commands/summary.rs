//! `snnc summary`

use crate::args::{Format, SummaryArgs};
use crate::{Failure, model, report};
use serde_json::json;
use snnc_compiler::check::How;
use snnc_compiler::ops::Role;

/// Energy of a multiply-accumulate and of an accumulate in 45 nm, in picojoule (Horowitz 2014).
const MAC_PJ: f64 = 4.6;
const AC_PJ: f64 = 0.9;

pub(crate) fn run(args: &SummaryArgs) -> Result<(), Failure> {
    let loaded = model::load(&args.model)?;
    let graph = loaded.checked.graph();
    let mut rows = Vec::new();
    let (mut encoder, mut residues, mut acs) = (0u64, 0u64, 0u64);
    let findings = loaded.checked.findings();
    for id in graph.ids() {
        let node = graph.node(id);
        let parameters: u64 =
            node.params.iter().map(|p| graph.param(*p)).filter(|p| p.role == Role::Trained).map(|p| p.elements() as u64).sum();
        let work = graph.work(id);
        match loaded.checked.plan().nodes[id.index()].how {
            How::Encoder => encoder += work,
            // What no fold removes multiplies at every place, weights or not.
            How::Residue => {
                let places = findings.residues.iter().filter(|r| r.node == id).map(|r| r.multiplications);
                residues += work.max(places.sum());
            }
            _ => acs += work,
        }
        rows.push((node.path.clone(), node.op.word(), node.signal.to_string(), parameters, work, node.encoder));
    }
    let macs = encoder + residues;
    let additions = acs as f64 * args.rate;
    let energy = (macs as f64 * MAC_PJ + additions * AC_PJ) * 1e-9;
    if args.format == Format::Json {
        let layers: Vec<_> = rows
            .iter()
            .map(|(path, op, signal, parameters, work, encoder)| {
                json!({ "path": path, "operator": op, "signal": signal, "parameters": parameters, "operations": work, "encoder": encoder })
            })
            .collect();
        println!(
            "{:#}",
            json!({
                "name": graph.name, "time": graph.time, "parameters": graph.trained(), "macs": macs, "dense_acs": acs, "rate": args.rate,
                "acs": additions, "energy_mj": energy, "verdict": findings.verdict, "encoder_share": findings.encoder_share(), "layers": layers,
            })
        );
        return Ok(());
    }
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(path, op, signal, parameters, work, _)| {
            let count = |n: u64| if n == 0 { String::new() } else { report::grouped(n) };
            vec![path, op.to_owned(), signal, count(parameters), count(work)]
        })
        .collect();
    print!("{}", report::table(&["path", "operator", "signal", "parameters", "operations"], &cells));
    println!("\n{}", loaded.verdict_line());
    println!("parameters  {}", report::grouped(graph.trained()));
    println!("encoder     {} MAC per sample", report::short(encoder as f64));
    if residues > 0 {
        println!("residues    {} MAC per sample", report::short(residues as f64));
    }
    println!(
        "the rest    {} AC per sample at a firing rate of {:.0} % ({} at 100 %)",
        report::short(additions),
        100.0 * args.rate,
        report::short(acs as f64)
    );
    println!("energy      {} per sample ({MAC_PJ} pJ per MAC, {AC_PJ} pJ per AC)", joules(energy));
    Ok(())
}

/// Millijoule, microjoule or nanojoule, whichever leaves a digit before the point.
fn joules(millijoule: f64) -> String {
    match millijoule {
        e if e >= 0.1 => format!("{e:.3} mJ"),
        e if e >= 1e-4 => format!("{:.3} µJ", e * 1e3),
        e => format!("{:.3} nJ", e * 1e6),
    }
}
