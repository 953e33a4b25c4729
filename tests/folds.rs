//! Every fold, by running the graph before and after it in f64.

use ndarray::{ArrayD, IxDyn};
use snnc_compiler::check::Checked;
use snnc_compiler::fold::{fold, prepare};
use snnc_compiler::graph::Settings;
use snnc_compiler::ops::Role;
use snnc_runtime::reference;
use snnc_tests::{Numbers, checked_text, distance, small_zoo};

/// Random parameters; running variances positive, batch-norm scales of both signs and sometimes nearly zero.
pub(crate) fn random_parameters(checked: &Checked, seed: u64) -> Vec<ArrayD<f64>> {
    let mut numbers = Numbers(seed);
    let graph = checked.graph();
    graph
        .params
        .iter()
        .map(|p| {
            let shape = p.shape();
            let scale = p.path.ends_with("batchnorm.weight");
            ArrayD::from_shape_simple_fn(IxDyn(&shape), || {
                let x = numbers.uniform() * 2.0 - 1.0;
                match p.role {
                    _ if p.path.ends_with("running_var") => 0.5 + x.abs(),
                    Role::Trained if p.min.is_some() => 0.3 + x.abs(),
                    Role::Trained if scale && x.abs() < 0.1 => 0.0,
                    Role::Trained if scale => 1.5 * x,
                    _ => x,
                }
            })
        })
        .collect()
}

/// Logits before and after folding agree, and so does every neuron's number of spikes.
pub(crate) fn agrees(checked: &Checked, seed: u64) {
    let graph = checked.graph();
    let params = random_parameters(checked, seed);
    let signal = &graph.node(graph.input).signal;
    let mut shape = vec![2];
    shape.extend(signal.varies.then_some(graph.time));
    shape.extend(signal.axes.iter().map(|a| a.size));
    let mut numbers = Numbers(seed ^ 77);
    let batch = ArrayD::from_shape_simple_fn(IxDyn(&shape), || numbers.uniform() * 4.0 - 2.0);
    let input = reference::arrange(graph, batch);
    let before = reference::run(graph, &params, &input, None, false);
    let folded = fold(checked);
    let axes = |i: usize| folded.graph.params[i].axes.iter().map(|a| (a.name.clone(), a.size)).collect::<Vec<_>>();
    let new: Vec<_> = folded.prepare.iter().enumerate().map(|(i, e)| prepare(e, &|id| params[id.index()].clone(), &axes(i))).collect();
    let after = reference::run(&folded.graph, &new, &input, None, false);
    assert_eq!(before.spikes, after.spikes, "spikes differ after folding");
    let list = |a: &ArrayD<f64>| a.iter().copied().collect::<Vec<_>>();
    let off = distance(&list(&after.logits), &list(&before.logits), 1e-3);
    assert!(off < 1e-9, "logits are off by {off:e}");
    let fires = before.spikes.is_empty() || before.spikes.iter().any(|(_, s)| s.iter().any(|n| *n > 0));
    assert!(fires, "nothing fires");
}

#[test]
fn every_model_of_the_zoo() {
    for (name, checked) in small_zoo() {
        println!("{name}");
        agrees(&checked, 1);
    }
}

/// A model around one line: spikes `s` of two axes sets go in, something with a head comes out.
fn model(line: &str) -> Checked {
    let text = format!(
        "model M {{\n time T = 3\n input x: analog[C = 3, H = 4, W = 4]\n neuron lif = LIF(tau = 2.0)\n neuron sub = LIF(tau = 4.0, threshold = 0.5, reset = soft)\n \
         neuron ifn = IF(threshold = 0.7, reset = hard(0.1), fire = \">\")\n \
         encoder {{ e = x |> conv(C = 4, kernel = 3, stride = 1, pad = 1) }}\n s = e |> lif\n {line}\n output y |> mean(T)\n}}"
    );
    checked_text(&text, &Settings::default())
}

fn strict(line: &str) {
    let checked = model(line);
    assert!(checked.findings().residues.is_empty(), "{line}: {:?}", checked.findings().residues);
    for seed in 1..4 {
        agrees(&checked, seed);
        crate::agreement::agrees(&checked, seed);
    }
}

#[test]
fn a_scale_goes_into_the_map_before() {
    strict("y = s |> conv(C = 5, kernel = 3, pad = 1, bias = false) |> batchnorm(C) |> lif |> mean(H, W) |> linear(C -> C = 3)");
    strict("a = s |> linear(H -> H) |> batchnorm(H)\n y = a * 0.3 |> lif |> mean(H, W) |> linear(C -> C = 3)");
}

#[test]
fn a_scale_goes_into_the_map_after() {
    strict("y = s |> batchnorm(C) |> mean(H, W) |> linear(C -> C = 3)");
    strict("y = s * 0.3 |> conv(C = 5, kernel = 2, stride = 2) |> lif |> mean(H, W) |> linear(C -> C = 3)");
}

#[test]
fn a_scale_goes_into_the_neuron() {
    for neuron in ["lif", "sub", "ifn"] {
        strict(&format!("y = s |> batchnorm(C, H) |> {neuron} |> mean(H, W) |> linear(C -> C = 3)"));
        strict(&format!("y = s |> linear(C -> C) |> batchnorm(H, W) |> {neuron} |> mean(H, W) |> linear(C -> C = 3)"));
    }
}

#[test]
fn a_power_of_two_is_a_shift() {
    strict("a = s |> linear(C -> C)\n b = a * 0.25\n y = a + b |> lif |> mean(H, W) |> linear(C -> C = 3)");
    strict("a = s |> linear(C -> C)\n b = a * -2.0\n y = a + b |> lif |> mean(H, W) |> linear(C -> C = 3)");
}

#[test]
fn pools() {
    strict("y = s |> max_pool(kernel = 2, stride = 2) |> linear(C -> C) |> lif |> mean(H, W) |> linear(C -> C = 3)");
    strict("y = s |> avg_pool(kernel = 2, stride = 2) |> linear(C -> C) |> lif |> mean(H, W) |> linear(C -> C = 3)");
    strict("y = s |> linear(C -> C) |> avg_pool(kernel = 2, stride = 2) |> batchnorm(C) |> lif |> mean(H, W) |> linear(C -> C = 3)");
    strict("y = s |> linear(C -> C = 3) |> mean(H) |> mean(W)");
    strict("y = s |> avg_pool(kernel = 3, stride = 2, pad = 1) |> lif |> mean(H, W) |> linear(C -> C = 3)");
}

#[test]
fn a_map_of_too_large_counts_still_takes_the_factors_around_it() {
    let checked = checked_text(
        "model M {\n time T = 2\n input x: analog[C = 2, H = 9, W = 9]\n neuron lif = LIF(tau = 2.0)\n \
         encoder { e = x |> conv(C = 3, kernel = 3, pad = 1) }\n \
         output e |> lif |> mean(H, W) |> linear(C -> C = 3) |> mean(T)\n}",
        &Settings::default(),
    );
    assert_eq!(checked.findings().residues.len(), 1);
    agrees(&checked, 3);
}

#[test]
fn chains_of_linear_maps() {
    strict("y = s |> linear(C -> C = 8) |> batchnorm(C) |> linear(C -> C = 4) |> batchnorm(C) |> lif |> mean(H, W) |> linear(C -> C = 3)");
    strict("y = s |> conv(C = 8, kernel = 3, pad = 1) |> conv(C = 2, kernel = 1) |> lif |> mean(H, W) |> linear(C -> C = 3)");
    strict("y = s |> linear(C -> C = 6) |> mean(H, W) |> linear(C -> C = 3)");
}

#[test]
fn products_with_spikes() {
    strict("a = s |> linear(C -> C)\n y = a * s |> lif |> mean(H, W) |> linear(C -> C = 3)");
    strict("a = s |> linear(C -> C)\n y = s * a |> lif |> mean(H, W) |> linear(C -> C = 3)");
    strict("k = s |> linear(H -> H) |> lif\n p = s * k\n y = p |> linear(W -> W) |> lif |> mean(H, W) |> linear(C -> C = 3)");
    strict(
        "k = s |> linear(H -> H) |> lif\n p = s * k\n a = s |> linear(W -> W)\n y = dot(H; a, p) |> lif |> mean(W) |> linear(C -> C = 3)",
    );
    strict("k = s |> linear(H -> H) |> lif\n y = dot(H; s, k) |> lif |> mean(W) |> linear(C -> C = 3)");
}
