//! What a training step launches on CUDA, and what that moves: `snnc dump --stage fused`.

use crate::report::table;
use snnc_compiler::backend::cuda::Unsupported;
use snnc_compiler::backend::cuda::cost::{Cost, costs};
use snnc_compiler::backend::cuda::work::step;
use snnc_compiler::graph::Graph;
use snnc_compiler::ops::Selection;
use snnc_compiler::program::Program;
use snnc_compiler::text::{bytes, grouped};
use snnc_runtime::device::cuda::gpu;

/// The launches in order; with `cost` what each moves, then the sums by part of the model.
pub(super) fn text(graph: &Graph, program: &Program, batch: usize, cost: bool) -> Result<String, Unsupported> {
    let all = costs(program, &step(program, batch, program.time)?);
    let named = |c: &Cost| {
        let others = c.what.len() - 1;
        format!("{}{}", c.what[0], if others == 0 { String::new() } else { format!(" and {others} more") })
    };
    if !cost {
        let rows: Vec<Vec<String>> = all.iter().enumerate().map(|(i, c)| vec![i.to_string(), c.kind.to_owned(), named(c)]).collect();
        return Ok(table(&["launch", "kind", "for"], &rows));
    }
    let shown = |n: u64| bytes(u128::from(n));
    let products = |n: u64| if n == 0 { String::new() } else { format!("{:.2}", n as f64 / 1e9) };
    let mut out = {
        let row = |(i, c): (usize, &Cost)| {
            vec![i.to_string(), c.kind.to_owned(), shown(c.read), shown(c.written), products(c.operations), named(c)]
        };
        let rows: Vec<Vec<String>> = all.iter().enumerate().map(row).collect();
        table(&["launch", "kind", "read", "written", "GFLOP", "for"], &rows)
    };
    let mut parts: Vec<(String, usize, u64, u64)> = Vec::new();
    for c in &all {
        let name = part(&c.what[0]);
        let at = parts.iter().position(|p| p.0 == name).unwrap_or(parts.len());
        if at == parts.len() {
            parts.push((name, 0, 0, 0));
        }
        let (_, launches, moved, operations) = &mut parts[at];
        (*launches, *moved, *operations) = (*launches + 1, *moved + c.read + c.written, *operations + c.operations);
    }
    let rows: Vec<Vec<String>> =
        parts.iter().map(|(name, n, moved, operations)| vec![name.clone(), n.to_string(), shown(*moved), products(*operations)]).collect();
    out += &format!("\n{}", table(&["part", "launches", "moved", "GFLOP"], &rows));
    let (moved, operations) = all.iter().fold((0, 0), |(m, o), c| (m + c.read + c.written, o + c.operations));
    let updates = updates(graph) * batch as u64;
    out += &format!(
        "\nin all: {} launches, {} moved, {:.2} TFLOP of products, for {batch} samples\n",
        all.len(),
        shown(moved),
        operations as f64 / 1e12
    );
    if updates > 0 {
        out += &format!("neuron updates: {}, at {:.1} bytes each, forward and backward\n", grouped(updates), moved as f64 / updates as f64);
    }
    out += &format!("planned peak memory: {}\n", bytes(gpu::bytes(program, batch)?));
    Ok(out)
}

/// The innermost numbered part that a path belongs to: what a launch forwards and one backwards have in common.
fn part(path: &str) -> String {
    let path = path.strip_prefix("grad.").unwrap_or(path);
    let numbered: Vec<&str> = path.split('.').collect();
    match numbered.iter().rposition(|p| p.contains('[')) {
        Some(last) => numbered[..=last].join("."),
        None => numbered[0].to_owned(),
    }
}

/// Membranes that one sample's step brings up to date: neurons times time steps.
fn updates(graph: &Graph) -> u64 {
    let neurons = graph.nodes.iter().filter(|n| n.op.selection() == Selection::Neuron);
    neurons.map(|n| n.signal.elements() as u64 * if n.signal.varies { graph.time as u64 } else { 1 }).sum()
}
