//! Every fold, by running the graph before and after it in f64.

use ndarray::{ArrayD, IxDyn};
use snnc_compiler::check::{Checked, How, check};
use snnc_compiler::fold::{fold, prepare};
use snnc_compiler::graph::Settings;
use snnc_compiler::ops::Role;
use snnc_compiler::types::ParamId;
use snnc_grammar::Modules;
use snnc_runtime::reference;
use snnc_tests::{Numbers, build_text, checked_text, distance, small_zoo};

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
    agrees_with(checked, &random_parameters(checked, seed), seed);
}

fn agrees_with(checked: &Checked, params: &[ArrayD<f64>], seed: u64) {
    let graph = checked.graph();
    let signal = &graph.node(graph.input).signal;
    let mut shape = vec![2];
    shape.extend(signal.varies.then_some(graph.time));
    shape.extend(signal.axes.iter().map(|a| a.size));
    let mut numbers = Numbers(seed ^ 77);
    let batch = ArrayD::from_shape_simple_fn(IxDyn(&shape), || numbers.uniform() * 4.0 - 2.0);
    let input = reference::arrange(graph, batch);
    let before = reference::run(graph, params, &input, None, false);
    let folded = fold(checked);
    let axes = |i: usize| folded.graph.params[i].axes.iter().map(|a| (a.name.clone(), a.size)).collect::<Vec<_>>();
    let new: Vec<_> = folded.prepare.iter().enumerate().map(|(i, e)| prepare(e, &|id| params[id.index()].clone(), &axes(i))).collect();
    let after = reference::run(&folded.graph, &new, &input, None, false);
    assert_eq!(before.spikes, after.spikes, "spikes differ after folding");
    let list = |a: &ArrayD<f64>| a.iter().copied().collect::<Vec<_>>();
    for (i, values) in new.iter().enumerate() {
        assert!(folded.held(ParamId::new(i), values).is_ok(), "{} leaves f32", folded.graph.params[i].path);
    }
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
    model_of(4, line)
}

/// The same for pictures of another extent.
fn model_of(size: usize, line: &str) -> Checked {
    let text = format!(
        "model M {{\n time T = 3\n input x: analog[C = 3, H = {size}, W = {size}]\n neuron lif = LIF(tau = 2.0)\n neuron sub = LIF(tau = 4.0, threshold = 0.5, reset = soft)\n \
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
fn every_channel_keeps_its_scale_however_large_the_others_are() {
    let checked = model("y = s |> batchnorm(C) |> lif |> mean(H, W) |> linear(C -> C = 3)");
    for scales in [[1e13, 1.5, -1e-13, 0.0], [-1e20, 1e-20, 1.5, 1e-45], [1.5, -1.5, 1e-12, 1e-12]] {
        let mut params = random_parameters(&checked, 1);
        let at = |name: &str| checked.graph().params.iter().position(|p| p.path.ends_with(name)).unwrap();
        params[at("batchnorm.weight")] = ndarray::arr1(&scales).into_dyn();
        params[at("batchnorm.bias")] = ndarray::arr1(&[0.1, 1.5, -0.2, 0.7]).into_dyn();
        agrees_with(&checked, &params, 1);
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

/// The choices of a model: fold, path, weights that it adds.
fn choices(checked: &Checked) -> Vec<(String, String, u64)> {
    checked.plan().choices.iter().map(|c| (c.fold.clone(), c.path.clone(), c.weights)).collect()
}

/// The folded network's weights that have a place for every time step.
fn tables(checked: &Checked) -> Vec<String> {
    let folded = fold(checked);
    let params = folded.graph.params.iter().filter(|p| p.axes.first().is_some_and(|a| a.name == "step"));
    params.map(|p| p.path.clone()).collect()
}

#[test]
fn a_convolution_looks_through_the_pool_before_it() {
    // 4 x 2 x 2 counts at 3 steps are 48 values; 4 x 5 x 3 x 3 weights would become four times as many.
    let conv = "y = s |> avg_pool(kernel = 2, stride = 2) |> conv(C = 5, kernel = 3, pad = 1) |> lif |> mean(H, W) |> linear(C -> C = 3)";
    strict(conv);
    assert_eq!(choices(&model(conv))[0].0, "counts");
    // A convolution of few weights looks through it.
    let few = "y = s |> avg_pool(kernel = 2, stride = 2) |> conv(C = 1, kernel = 1) |> lif |> mean(H, W) |> linear(C -> C = 3)";
    strict(few);
    assert_eq!(choices(&model(few)), [("pool".to_owned(), "y.conv".to_owned(), 12)]);
    // Windows that overlap, and a pool with zeros around it.
    for (pool, conv) in [
        ("kernel = 3, stride = 1", "kernel = 2, stride = 1"),
        ("kernel = 3, stride = 2, pad = 1", "kernel = 2, stride = 1"),
        ("kernel = 2, stride = 2", "kernel = 2, stride = 1, pad = 1"),
    ] {
        let line = format!("y = s |> avg_pool({pool}) |> conv(C = 1, {conv}, bias = false) |> lif |> mean(H, W) |> linear(C -> C = 3)");
        let checked = model_of(6, &line);
        assert_eq!(choices(&checked)[0].0, "pool", "{line}");
        agrees(&checked, 1);
        crate::agreement::agrees(&checked, 1);
    }
    // What the convolution's zeros stand for is not what such a pool gives at the border.
    let border = "y = s |> avg_pool(kernel = 3, stride = 1) |> conv(C = 1, kernel = 2, pad = 1) |> lif |> mean(H, W) |> linear(C -> C = 3)";
    strict(border);
    assert!(choices(&model(border)).is_empty());
}

#[test]
fn counts_too_large_to_be_added_are_looked_through() {
    let line = |pool: usize| {
        format!(
            "model M {{\n time T = 2\n input x: analog[C = 2, H = 20, W = 20]\n neuron lif = LIF(tau = 2.0)\n encoder {{ e = x |> conv(C = 3, kernel = 3, pad = 1) }}\n \
             y = e |> lif |> avg_pool(kernel = {pool}, stride = {pool}) |> conv(C = 64, kernel = 2) |> lif |> mean(H, W) |> linear(C -> C = 3)\n output y |> mean(T)\n}}"
        )
    };
    for (pool, fold) in [(5, "counts"), (10, "pool")] {
        let checked = checked_text(&line(pool), &Settings::default());
        assert!(checked.findings().residues.is_empty(), "{:?}", checked.findings().residues);
        assert_eq!(choices(&checked)[0].0, fold);
        assert_eq!(checked.plan().choices[0].instead.is_some(), pool == 5, "100 spikes are too many to count");
        agrees(&checked, 1);
        crate::agreement::agrees(&checked, 1);
    }
}

/// A model in which a leak of a third is shared.
fn leaky(line: &str) -> Checked {
    let text = format!(
        "model M {{\n time T = 5\n input x: analog[C = 3, H = 4, W = 4]\n fold(time)\n neuron lif = LIF(tau = 1.5)\n \
         fold(time)\n neuron sub = LIF(tau = 1.5, decay_input = false, threshold = 0.61, reset = soft)\n \
         fold(time)\n neuron hard = LIF(tau = 1.5, threshold = 0.4, reset = hard(-0.2), fire = \">\")\n \
         fold(time)\n neuron worth = LIF(tau = 1.5, threshold = trainable(0.5), amplitude = threshold(2.0), reset = soft)\n \
         neuron other = LIF(tau = 2.0)\n \
         encoder {{ e = x |> conv(C = 4, kernel = 3, stride = 1, pad = 1) }}\n {line}\n output y |> mean(T)\n}}"
    );
    checked_text(&text, &Settings::default())
}

fn in_tables(line: &str) {
    let checked = leaky(line);
    assert!(checked.findings().residues.is_empty(), "{line}: {:?}", checked.findings().residues);
    for seed in 1..4 {
        agrees(&checked, seed);
        crate::agreement::agrees(&checked, seed);
    }
}

const HEAD: &str = "|> mean(H, W) |> linear(C -> C = 3)";

#[test]
fn a_common_leak_goes_into_tables() {
    for neuron in ["lif", "sub", "hard", "worth"] {
        // Behind a map, with and without constants behind it.
        in_tables(&format!("s = e |> other\n y = s |> linear(C -> C) |> {neuron} {HEAD}"));
        in_tables(&format!("s = e |> other\n y = s |> conv(C = 5, kernel = 3, pad = 1) |> batchnorm(C) |> {neuron} {HEAD}"));
        in_tables(&format!("s = e |> other\n y = s |> linear(C -> C) |> batchnorm(H) |> {neuron} {HEAD}"));
        // On what the encoder gives.
        in_tables(&format!("y = e |> batchnorm(C) |> {neuron} {HEAD}"));
        // A residual stream, on which spikes are added, too.
        in_tables(&format!(
            "a = e |> {neuron}\n b = e + (a |> linear(C -> C) |> batchnorm(C))\n c = b + (b |> {neuron} |> linear(C -> C)) + a\n y = c |> {neuron} {HEAD}"
        ));
        // Pools, sums and views on the way.
        in_tables(&format!("a = e |> {neuron}\n y = a |> avg_pool(kernel = 2, stride = 2) |> {neuron} {HEAD}"));
        in_tables(&format!("a = e |> {neuron}\n y = a |> linear(C -> C) |> max_pool(kernel = 2, stride = 2) |> {neuron} {HEAD}"));
        in_tables(&format!("a = e |> {neuron}\n y = a |> linear(C -> C) |> merge(C, H -> C) |> {neuron} |> mean(W) |> linear(C -> C = 3)"));
    }
}

#[test]
fn counts_in_tables_add_the_constant_of_the_step() {
    for neuron in ["lif", "sub", "hard"] {
        in_tables(&format!(
            "s = e |> other\n k = s |> linear(C -> C) |> {neuron} |> split(C -> G = 2, K)\n v = s |> linear(C -> C) |> {neuron} |> split(C -> G = 2, V)\n \
             y = dot(K; k, dot(H, W; k, v)) * 0.125 |> merge(G, V -> C) |> {neuron} {HEAD}"
        ));
        in_tables(&format!("s = e |> other\n t = s |> linear(C -> C)\n y = s * t |> {neuron} {HEAD}"));
        in_tables(&format!("s = e |> other\n t = s |> linear(C -> C) |> other\n y = s + t |> {neuron} {HEAD}"));
    }
    let tables = tables(&leaky(&format!("s = e |> other\n t = s |> linear(C -> C) |> other\n y = s + t |> lif {HEAD}")));
    assert!(tables.iter().any(|t| t == "s.other.steps"), "{tables:?}");
}

#[test]
fn a_leak_stays_where_something_else_reads_the_stream() {
    for (line, left) in [
        // Another leak, a head, and the output.
        (format!("s = e |> other\n a = s |> linear(C -> C)\n y = (a |> lif) + (a |> other) {HEAD}"), 1),
        (format!("s = e |> other\n a = s |> linear(C -> C)\n y = ((a |> lif) {HEAD}) + (a |> mean(H, W) |> linear(C -> C = 3))"), 1),
    ] {
        let checked = leaky(&line);
        let leaks = checked.findings().residues.iter().filter(|r| r.rule == "leak").count();
        assert_eq!(leaks, left, "{line}");
        let help = &checked.findings().residues.iter().find(|r| r.rule == "leak").unwrap().help;
        assert!(help.contains("cannot take this leak"), "{help}");
    }
}

/// A model with heads and projections of sums.
fn composed(line: &str) -> Checked {
    let text = format!(
        "model M {{\n time T = 3\n input x: analog[C = 3, H = 5, W = 5]\n neuron lif = LIF(tau = 2.0)\n \
         neuron worth = IF(threshold = trainable(0.5), amplitude = threshold(2.0), reset = soft)\n \
         encoder {{ e = x |> conv(C = 4, kernel = 3, stride = 1, pad = 1) }}\n s = e |> lif\n {line}\n output y |> mean(T)\n}}"
    );
    checked_text(&text, &Settings::default())
}

fn in_terms(line: &str) -> Checked {
    let checked = composed(line);
    assert!(checked.findings().residues.is_empty(), "{line}: {:?}", checked.findings().residues);
    assert!(choices(&checked).iter().any(|c| c.0 == "compose"), "{:?}", choices(&checked));
    for seed in 1..4 {
        agrees(&checked, seed);
        crate::agreement::agrees(&checked, seed);
    }
    checked
}

#[test]
fn a_head_over_a_residual_sum_is_composed_with_its_terms() {
    let stream = "a = s |> conv(C = 6, kernel = 3, pad = 1) |> batchnorm(C)\n b = a + (a |> lif |> linear(C -> C) |> batchnorm(C))\n \
                  c = b - (b |> lif |> linear(C -> C = 8) |> lif |> linear(C -> C = 6))";
    let checked = in_terms(&format!("{stream}\n fold(compose)\n y = c |> mean(H, W) |> linear(C -> C = 3)"));
    // Three terms: 3 x 4 x 3 x 3, 3 x 6 and 3 x 8 weights in the place of the head's 3 x 6, and of the last map's 8 x 6, which nothing
    // else reads.
    assert_eq!(choices(&checked), [("compose".to_owned(), "y.linear".to_owned(), 108 + 18 + 24 - 18 - 48)]);
    in_terms(
        &format!("{stream}\n fold(compose)\n y = c |> mean(T) |> mean(H, W) |> linear(C -> K = 3, bias = false)")
            .replace("|> mean(T) |> mean", "|> mean"),
    );
    in_terms(&format!("{stream}\n fold(compose)\n y = c |> merge(H, W -> N) |> linear(C -> C = 3) |> mean(N)"));
    // Spikes, and spikes worth their threshold, on the stream.
    in_terms(&format!("a = s |> worth\n b = a + (a |> linear(C -> C)) + s\n fold(compose)\n y = b {HEAD}"));
}

#[test]
fn a_projection_of_a_sum_is_composed_with_its_terms() {
    let stream = "a = s |> conv(C = 6, kernel = 3, pad = 1) |> batchnorm(C)\n b = a + (a |> lif |> conv(C = 6, kernel = 3, pad = 1) |> batchnorm(C))";
    let project = "fold(compose)\n p = b |> conv(C = 5, kernel = 1, stride = 2, bias = false) |> batchnorm(C)\n \
                   d = p + (b |> lif |> conv(C = 5, kernel = 3, stride = 2, pad = 1) |> batchnorm(C))";
    let checked = in_terms(&format!("{stream}\n {project}\n y = d |> lif {HEAD}"));
    assert_eq!(choices(&checked)[0].2, 5 * 4 * 9 + 5 * 6 * 9 - 5 * 6);
    // And a head over the projected sum.
    in_terms(&format!("{stream}\n {project}\n fold(compose)\n y = d {HEAD}"));
    in_terms(&format!("{stream}\n fold(compose)\n p = b |> conv(C = 5, kernel = 2, stride = 2)\n y = p |> lif {HEAD}"));
}

#[test]
fn what_a_composition_cannot_remove_stays() {
    // What the encoder gives, a maximum, and a projection with zeros around what is not zero there.
    for line in [
        format!("b = e + (s |> linear(C -> C))\n fold(compose)\n y = b {HEAD}"),
        format!("a = s |> linear(C -> C)\n b = a + (a |> max_pool(kernel = 3, stride = 1, pad = 1))\n fold(compose)\n y = b {HEAD}"),
        format!("a = s |> linear(C -> C)\n b = a + s\n fold(compose)\n y = b |> conv(C = 4, kernel = 3, pad = 1) |> lif {HEAD}"),
    ] {
        let checked = composed(&line);
        assert_eq!(checked.findings().residues.len(), 1, "{line}: {:?}", checked.findings().residues);
        assert!(checked.findings().diagnostics.iter().any(|d| d.code == "check::fold"), "{line}");
    }
}

#[test]
fn both_folds_in_one_model() {
    let text = "model M {\n time T = 4\n input x: analog[T, C = 2, H = 4, W = 4]\n fold(time)\n neuron lif = LIF(tau = 1.5)\n \
         encoder { e = x |> conv(C = 4, kernel = 3, stride = 1, pad = 1) |> batchnorm(C) }\n \
         m = e |> lif |> max_pool(kernel = 2, stride = 2) |> conv(C = 6, kernel = 3, pad = 1) |> batchnorm(C)\n \
         m = m + (m |> lif |> linear(C -> C) |> batchnorm(C))\n m = m + (m |> lif |> linear(C -> C) |> batchnorm(C))\n \
         fold(compose)\n h = m |> mean(H, W) |> mean(T) |> linear(C -> C = 3)\n output h\n}";
    let checked = checked_text(text, &Settings::default());
    assert!(checked.findings().residues.is_empty(), "{:?}", checked.findings().residues);
    for seed in 1..4 {
        agrees(&checked, seed);
        crate::agreement::agrees(&checked, seed);
    }
}

#[test]
fn the_offered_cost_is_the_cost() {
    let text = |time: &str, compose: &str| {
        format!(
            "model M {{\n time T = 4\n input x: analog[C = 2, H = 4, W = 4]\n {time} neuron lif = LIF(tau = 1.5)\n encoder {{ e = x |> conv(C = 4, kernel = 3, pad = 1) }}\n \
             m = e |> lif |> conv(C = 6, kernel = 3, pad = 1)\n n = m + (m |> lif |> linear(C -> C))\n k = n |> lif |> linear(C -> C)\n {compose} h = n + k {HEAD}\n output h |> mean(T)\n}}"
        )
    };
    let without = checked_text(&text("", "fold(compose)\n"), &Settings::default());
    let help = |checked: &Checked, rule: &str| checked.findings().residues.iter().find(|r| r.rule == rule).unwrap().help.clone();
    let with = checked_text(&text("fold(time)\n", "fold(compose)\n"), &Settings::default());
    assert!(with.findings().residues.is_empty());
    let cost = |fold: &str| with.plan().choices.iter().filter(|c| c.fold == fold).map(|c| c.weights).sum::<u64>();
    assert!(
        help(&without, "leak").contains(&format!("`fold(time)` before the statement: {} more weights", cost("time"))),
        "{}",
        help(&without, "leak")
    );
    let plain = checked_text(&text("", ""), &Settings::default());
    let offered = help(&plain, "real_operand");
    assert!(offered.contains(&format!("`fold(compose)` before the statement: {} more weights", cost("compose"))), "{offered}");
    // The folded network has as many more values in its maps.
    let folded = |checked: &Checked| {
        fold(checked).graph.params.iter().filter(|p| p.path.ends_with(".weight")).map(|p| p.elements() as u64).sum::<u64>()
    };
    assert_eq!(folded(&with), folded(&without) + cost("time"));
    let encoder = |checked: &Checked| {
        let folded = fold(checked);
        let work = folded.graph.ids().zip(&folded.how).filter(|(_, how)| **how == How::Encoder).map(|(id, _)| folded.graph.work(id));
        work.sum::<u64>()
    };
    let more = encoder(&with) - encoder(&without);
    assert!(more > 0 && help(&without, "leak").contains(&format!(", {more} more multiplications in the encoder")), "{more}");
}

#[test]
fn a_leak_behind_a_map_of_a_sum_is_offered_both_folds() {
    let text = |time: &str, compose: &str| {
        format!(
            "model M {{\n time T = 4\n input x: analog[C = 3]\n {time} neuron lif = LIF(tau = 3.0)\n neuron two = LIF(tau = 2.0)\n encoder {{ e = x |> linear(C -> C = 8) }}\n \
             s = e |> two\n d = (s |> linear(C -> C) |> two |> linear(C -> C)) + (s |> linear(C -> C))\n {compose} h = d |> linear(C -> C = 8) |> lif\n \
             output h + (d |> two) |> linear(C -> C = 10) |> mean(T)\n}}"
        )
    };
    let help = |time: &str, compose: &str| {
        let checked = checked_text(&text(time, compose), &Settings::default());
        checked.findings().residues.iter().find(|r| r.rule == "leak").unwrap().help.clone()
    };
    let both = checked_text(&text("fold(time)\n", "fold(compose)\n"), &Settings::default());
    assert!(both.findings().residues.is_empty());
    agrees(&both, 1);
    let cost = both.plan().extra_weights();
    let (plain, alone) = (help("", ""), help("fold(time)\n", ""));
    let with =
        format!("`fold(time)` before the statement together with `fold(compose)` before that of `h.linear`: {cost} more weights in all");
    assert!(plain.contains(&with), "{plain}");
    assert!(alone.contains(&format!("(with `fold(compose)` before that of `h.linear` too it can: {cost} more weights in all)")), "{alone}");
    // Composed already, the other alone is offered.
    assert!(help("", "fold(compose)\n").contains("`fold(time)` before the statement: "));
}

const SPIKES: &str = "model M {\n time T = 4\n input x: analog[C = 8, H = 3, W = 2]\n neuron lif = IF(threshold = 0.3)\n \
     encoder { e = x |> linear(C -> C) }\n s = e |> lif\n";

#[test]
fn factors_behind_a_view_and_before_a_composed_map_are_not_lost() {
    for rest in [
        "output s |> linear(C -> C) |> merge(H, W -> N) |> mean(N) |> linear(C -> C = 5) |> mean(T)",
        "output s |> linear(C -> C) |> merge(H, W -> N) |> batchnorm(C) |> linear(C -> C = 5) |> mean(N) |> mean(T)",
        "output (s |> linear(C -> C) |> merge(H, W -> N)) * 3.0 |> linear(C -> C = 5) |> mean(N) |> mean(T)",
        "output s |> linear(C -> C) |> merge(H, W -> N) |> mean(N, T) |> linear(C -> C = 5)",
        "a = s |> linear(C -> C) |> merge(H, W -> N) |> mean(N) |> linear(C -> C = 6)\n output a |> lif |> linear(C -> C = 5) |> mean(T)",
        "output s |> conv(C = 8, kernel = 1) |> merge(H, W -> N) |> mean(N) |> linear(C -> C = 5) |> mean(T)",
        "a = s |> linear(C -> C = 4) |> merge(H, W -> N) |> batchnorm(C)\n b = a + (s |> linear(C -> C = 4) |> merge(H, W -> N))\n fold(compose)\n \
         c = b |> linear(C -> C = 3)\n output c |> mean(N) |> mean(T)",
    ] {
        let checked = checked_text(&format!("{SPIKES} {rest}\n}}"), &Settings::default());
        assert!(checked.findings().residues.is_empty(), "{rest}: {:?}", checked.findings().residues);
        for seed in 1..4 {
            agrees(&checked, seed);
            crate::agreement::agrees(&checked, seed);
        }
    }
}

#[test]
fn maps_to_time_steps() {
    let text = |input: &str, rest: &str| {
        format!(
            "model M {{\n time T = 4\n input x: {input}\n neuron lif = IF(threshold = 0.3)\n {rest} |> linear(C -> C = 5) |> mean(T)\n}}"
        )
    };
    for (input, rest) in [
        ("analog[C = 2, W = 6]", "encoder { e = x |> linear(C -> C) }\n s = e |> lif\n output s |> mean(T) |> linear(W -> T) |> lif"),
        (
            "analog[C = 2, W = 6]",
            "encoder { e = x |> linear(C -> C) }\n s = e |> lif\n output s |> mean(T) |> linear(W -> T) |> batchnorm(C) |> lif",
        ),
    ] {
        let checked = checked_text(&text(input, rest), &Settings::default());
        assert!(checked.findings().residues.is_empty(), "{rest}: {:?}", checked.findings().residues);
        for seed in 1..4 {
            agrees(&checked, seed);
            crate::agreement::agrees(&checked, seed);
        }
    }
}

/// A published network of the zoo, with the folds that `--fix --exact` writes in the place of its `allow`s.
pub(crate) fn mended_text(path: &str, variant: Option<&str>, settings: &Settings) -> String {
    let published = snnc_zoo::model(path).unwrap();
    let mut text: String = published.lines().filter(|l| !l.trim_start().starts_with("allow(")).map(|l| format!("{l}\n")).collect();
    for _ in 0..4 {
        let (sources, graph) = build_text("mended.snn", &text, variant, settings);
        let checked = check(graph.unwrap());
        let remedies = checked.findings().diagnostics.iter().flat_map(|d| d.remedies.iter().filter(|r| r.exact()));
        let mut modules = Modules::new(&sources);
        let mut edits: Vec<_> = remedies.filter_map(|r| r.edit(&mut modules)).collect();
        edits.sort_by_key(|e| std::cmp::Reverse(e.span.start));
        edits.dedup();
        edits.iter().for_each(|e| text.insert_str(e.span.start as usize, &e.text));
        if edits.is_empty() {
            break;
        }
    }
    text
}

fn mended(path: &str, set: &str) -> Checked {
    let set = set.split_whitespace().filter_map(|s| s.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let settings = Settings { set, time: None };
    checked_text(&mended_text(path, None, &settings), &settings)
}

#[test]
fn published_networks_are_strict_with_the_folds_they_are_offered() {
    for (path, set) in [
        ("spikingformer/imagenet_published", "T=3 dim=16 heads=2 depth=2 image=64 classes=5"),
        ("spikingformer/cifar_published", "T=3 dim=16 heads=2 depth=1"),
        ("spikingformer/dvs_published", "T=5 dim=8 heads=2 depth=2 image=64"),
        ("dsr/preact_resnet18_cifar_published", "T=4 stem=4 widths=[4,6,6,8] leaky=true v_threshold=0.3 alpha=0.3"),
        ("dsr/preresnet18_imagenet_published", "T=3 width=4 image=64 classes=5 leaky=true v_threshold=0.3 alpha=0.3"),
        ("dsr/vgg11_dvs_published", "T=3 widths=[4,4,6,6,8] leaky=true v_threshold=0.3 alpha=0.3"),
    ] {
        let checked = mended(path, set);
        assert!(checked.findings().residues.is_empty(), "{path}");
        assert!(checked.plan().extra_weights() > 0, "{path}");
        agrees(&checked, 1);
        crate::agreement::agrees(&checked, 1);
        crate::census::multiplies_only_in_its_encoder(path, &checked);
    }
}
