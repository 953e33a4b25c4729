//! The CPU's generated code against the reference: the same spikes at every neuron and time step.

use crate::folds::random_parameters;
use ndarray::{ArrayD, IxDyn};
use snnc_compiler::check::Checked;
use snnc_compiler::fuse::Expected;
use snnc_compiler::graph::{Param, Settings};
use snnc_compiler::lower::Watch;
use snnc_compiler::ops::Role;
use snnc_compiler::types::Kind;
use snnc_runtime::reference;
use snnc_runtime::session::{Inference, Mode, Unfolded};
use snnc_runtime::weights::Weights;
use snnc_tests::{Numbers, checked_text, distance, small_zoo};

/// A batch of samples in logical order.
pub(crate) fn random_batch(checked: &Checked, samples: usize, seed: u64) -> ArrayD<f32> {
    let graph = checked.graph();
    let signal = &graph.node(graph.input).signal;
    let mut shape = vec![samples];
    shape.extend(signal.varies.then_some(graph.time));
    shape.extend(signal.axes.iter().map(|a| a.size));
    let mut numbers = Numbers(seed);
    let mut value = || (numbers.uniform() * 4.0 - 2.0) as f32;
    ArrayD::from_shape_simple_fn(IxDyn(&shape), || if signal.kind == Kind::Spike { f32::from(value() > 1.0) } else { value() })
}

pub(crate) fn weights(checked: &Checked, seed: u64) -> Weights {
    let values = random_parameters(checked, seed).iter().map(|p| p.iter().map(|x| *x as f32).collect()).collect();
    Weights { values }
}

/// Spikes and logits of the reference in f64, of the unfolded network, and of the folded one.
pub(crate) fn agrees(checked: &Checked, seed: u64) {
    same(checked, &weights(checked, seed), &random_batch(checked, 3, seed + 1), 1e-5);
}

/// The same spikes everywhere, and logits that are at most this far off.
fn same(checked: &Checked, weights: &Weights, batch: &ArrayD<f32>, bound: f64) {
    let graph = checked.graph();
    let samples = batch.shape()[0];
    let wide = reference::arrange(graph, batch.mapv(f64::from));
    let expected = reference::run(graph, &weights.arrays::<f64>(graph), &wide, None, false);
    let logits: Vec<f64> = expected.logits.iter().copied().collect();
    let flat: Vec<f32> = batch.iter().copied().collect();
    let close = |ours: &[f32], what: &str| {
        let ours: Vec<f64> = ours.iter().map(|x| f64::from(*x)).collect();
        let off = distance(&ours, &logits, 1e-3);
        assert!(off <= bound, "{what} logits are off by {off:e}");
    };
    let mut unfolded = Unfolded::new(checked, weights, samples, Mode::Eval).unwrap();
    let ours = unfolded.run(&flat, &[], samples, [0.0; 10]).unwrap();
    assert_eq!(unfolded.spikes(samples).unwrap(), expected.spikes, "spikes of the unfolded network");
    close(&ours, "unfolded");
    let mut folded = Inference::new(checked, weights, samples, Watch::Spikes).unwrap();
    let ours = folded.run(&flat, samples).unwrap();
    assert_eq!(folded.spikes(graph.time), expected.spikes, "spikes of the folded network");
    close(&ours, "folded");
}

#[test]
fn every_model_of_the_zoo() {
    for (name, checked) in small_zoo() {
        println!("{name}");
        agrees(&checked, 1);
    }
}

/// Lines that make `y` of the spikes `s` and the static `e`, both `[C = 4, H = 4, W = 4]`: every operator that spikes go
/// through. Neurons: `lif`, and those of other resets, leaks, and comparisons.
const DYADIC: [&str; 17] = [
    "y = s |> conv(C = 3, kernel = 3, stride = [2, 1], pad = 1) |> norm |> lif",
    "y = s |> conv(C = 4, kernel = 4, pad = (1, 2), bias = false) |> norm |> sub",
    "y = s |> linear(C -> C = 6) |> norm |> strict",
    "y = s |> linear(H -> H) |> batchnorm(H, epsilon = 0.0) |> quarter |> linear(W -> W) |> batchnorm(W, epsilon = 0.0) |> lif",
    "a = s |> linear(C -> C) |> norm\n b = a + e |> lif\n y = a + e + (b |> linear(C -> C) |> norm) |> strict",
    "q = s |> linear(C -> C) |> norm |> lif |> split(C -> G = 2, K)\n k = s |> linear(C -> C) |> norm |> lif |> split(C -> G = 2, K)\n \
     v = s |> split(C -> G = 2, V)\n y = 0.125 * dot(K; q, dot(H, W; k, v)) |> quarter |> merge(G, V -> C)",
    "y = s |> max_pool(kernel = 3, stride = 2, pad = 1) |> linear(C -> C) |> sub",
    "y = s |> avg_pool(kernel = 2, stride = 2) |> norm |> integrate",
    "y = s |> avg_pool(kernel = 2, stride = 2) |> linear(C -> C) |> lif",
    "y = s |> mean(H, W) |> linear(C -> C = 5) |> lif |> linear(C -> C)",
    "a = s |> linear(C -> C) |> lif\n y = concat(C; s, a) |> conv(C = 4, kernel = 1) |> norm |> lif",
    "y = s |> split(H -> P, Q = 2) |> linear(Q -> Q) |> merge(Q, P, W -> N) |> linear(N -> N = 8) |> lif |> split(N -> H = 4, W)",
    "y = s |> conv(C = 4, kernel = 3, pad = 1) |> worth |> linear(C -> C) |> integrate",
    "a = s |> linear(C -> C) |> worth\n y = a + (a |> conv(C = 4, kernel = 3, pad = 1)) |> norm |> worth",
    "a = s |> linear(C -> C) |> relu\n y = a |> batchnorm(H, W, epsilon = 0.0) |> strict",
    "y = s |> adaptive_avg_pool(H = 2, W = 2) |> linear(C -> C) |> lif",
    "y = s |> linear(C -> C) |> ternary",
];

/// Sums of multiples of 1/8 are exact in f32, and membranes often equal their thresholds: every neuron must decide there as
/// the reference does. The scales of batch norms are powers of two, by which thresholds are divided.
#[test]
fn on_dyadic_weights_every_spike_and_logit_is_the_same() {
    for line in DYADIC {
        let head = if line.contains("mean(H, W)") { "" } else { "|> mean(H, W)" };
        let text = format!(
            "block norm(x: current[C, H, W]) -> current[C, H, W] {{ yield x |> batchnorm(C, epsilon = 0.0) }}\n\
             model M {{\n time T = 4\n input x: analog[T, C = 2, H = 4, W = 4]\n neuron lif = LIF(tau = 2.0)\n \
             neuron sub = LIF(tau = 2.0, threshold = 0.5, reset = soft)\n neuron quarter = LIF(tau = 4.0, threshold = 0.5, reset = hard(0.25))\n \
             neuron strict = LIF(tau = 2.0, threshold = 0.75, decay_input = false, fire = \">\")\n neuron integrate = IF(threshold = 1.0, reset = soft)\n \
             neuron worth = IF(threshold = trainable(1.0, min = 0.125), fire_at = 0.5, amplitude = threshold, reset = soft)\n \
             neuron ternary = LIF(tau = 4.0 / 3.0, threshold = 1.0)\n \
             encoder {{ e = x |> mean(T) |> conv(C = 4, kernel = 1)\n i = x |> conv(C = 4, kernel = 3, pad = 1) }}\n s = i |> lif\n {line}\n \
             output y {head} |> linear(C -> C = 3) |> mean(T)\n}}"
        );
        let checked = checked_text(&text, &Settings::default());
        for seed in 1..5 {
            let mut numbers = Numbers(seed);
            let mut eighths = |most: f64| (numbers.uniform() * 2.0 * most - most).round() as f32 / 8.0;
            let value = |param: &Param| match param.role {
                Role::Running | Role::Batches if param.path.ends_with("running_var") => vec![1.0; param.elements()],
                _ if param.min.is_some() => vec![0.5; param.elements()],
                _ if param.path.contains("batchnorm.weight") => (0..param.elements()).map(|i| [0.5, -1.0, 2.0, 1.0][i % 4]).collect(),
                _ => (0..param.elements()).map(|_| eighths(8.0)).collect(),
            };
            let weights = Weights { values: checked.graph().params.iter().map(value).collect() };
            println!("{line}");
            let batch = random_batch(&checked, 3, seed).mapv(|x| (x * 4.0).round() / 4.0);
            same(&checked, &weights, &batch, 0.0);
        }
    }
}

/// Lines over tiles of several vectors, whole and cut: from the spikes `s`, `[C = 70, H = 4, W = 8]`, to spikes `y`.
const WIDE: [&str; 6] = [
    "y = s |> conv(C = 75, kernel = 3, pad = 1) |> lif",
    "a = s |> linear(C -> C = 52) |> lif\n b = s |> linear(C -> C = 52) |> lif\n y = concat(C; a, b) |> linear(C -> C = 33) |> sub",
    "a = s |> linear(C -> C)\n b = a |> lif\n y = a + (b |> linear(C -> C)) |> strict",
    "a = s |> linear(H -> H = 16) |> lif\n y = a |> linear(C -> C = 24) |> lif",
    "a = s |> linear(C -> E = 52) |> lif\n b = a |> linear(E -> F = 33) |> sub\n y = b |> linear(F -> C = 24) |> lif",
    "q = s |> linear(C -> C = 64) |> lif |> split(C -> G = 2, K)\n k = s |> linear(C -> C = 64) |> lif |> split(C -> G = 2, K)\n \
     v = s |> linear(C -> C = 96) |> lif |> split(C -> G = 2, V)\n y = 0.125 * dot(K; q, dot(H, W; k, v)) |> sub |> merge(G, V -> C)",
];

/// Products and sums of the encoder are rounded once or twice, but everywhere alike: its currents are the logits here.
#[test]
fn what_the_encoder_rounds_hangs_on_no_schedule() {
    let linear = ("C = 300", "linear(C -> K = 101)", "(s |> linear(K -> K))");
    // Rows abreast, as many as registers allow, and edges that windows reach over.
    let window = ("C = 3, H = 9, W = 17", "conv(C = 101, kernel = 4, stride = 1, pad = [1, 2])", "(s |> linear(C -> C)) |> mean(H, W)");
    let strided = ("C = 7, H = 6, W = 23", "conv(C = 33, kernel = 3, stride = 2, pad = 1)", "(s |> linear(C -> C)) |> mean(H, W)");
    // A last tile of one lane, and windows that reach over no edge.
    let rest = ("C = 2, H = 20, W = 20", "conv(C = 97, kernel = 3)", "(s |> linear(C -> C)) |> mean(H, W)");
    for (input, first, second) in [linear, window, strided, rest] {
        let text = format!(
            "model M {{\n time T = 2\n input x: analog[{input}]\n neuron lif = LIF(tau = 2.0)\n \
             encoder {{ i = x |> {first} }}\n s = i |> lif\n output i + {second} |> mean(T)\n}}"
        );
        let checked = checked_text(&text, &Settings::default());
        let weights = weights(&checked, 3);
        let flat: Vec<f32> = random_batch(&checked, 2, 4).iter().copied().collect();
        let mut first: Option<Vec<f32>> = None;
        for (threads, lanes, narrow) in
            [(1, 48, false), (2, 64, false), (4, 64, false), (8, 64, false), (1, 8, false), (3, 24, false), (1, 16, false), (2, 48, true)]
        {
            let expected = Expected { threads, lanes, narrow, ..Expected::default() };
            let mut session = Inference::expecting(&checked, &weights, 2, (Watch::Nothing, false), expected).unwrap();
            let logits = session.run(&flat, 2).unwrap();
            assert_eq!(logits, *first.get_or_insert_with(|| logits.clone()), "{threads} threads, {lanes} lanes, narrow: {narrow}: {input}");
        }
    }
}

/// However a network is cut, for whatever machine, for however many samples and threads, at once or step by step: the reference's spikes,
/// and its logits to the last bit.
#[test]
fn no_schedule_changes_a_bit() {
    let expected = |threads, lanes, caches, rate, narrow| Expected { threads, lanes, caches, rate, narrow, ..Expected::default() };
    let schedules = [
        expected(1, 8, [1, 1], 0.15, false),
        expected(2, 16, [32 << 10, 1 << 20], 0.01, false),
        expected(4, 48, [32 << 10, 1 << 20], 0.15, true),
        expected(3, 64, [1 << 30, 1 << 30], 1.0, false),
        expected(16, 96, [32 << 10, 1 << 20], 0.5, false),
    ];
    let pools = [1, 3].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    for line in WIDE {
        let text = format!(
            "model M {{\n time T = 4\n input x: analog[T, C = 2, H = 4, W = 8]\n neuron lif = LIF(tau = 2.0)\n \
             neuron sub = LIF(tau = 2.0, threshold = 0.5, reset = soft)\n neuron strict = LIF(tau = 2.0, threshold = 0.75, fire = \">\")\n \
             encoder {{ i = x |> conv(C = 70, kernel = 3, pad = 1) }}\n s = i |> lif\n {line}\n \
             output y |> mean(H, W) |> linear(C -> C = 5) |> mean(T)\n}}"
        );
        let checked = checked_text(&text, &Settings::default());
        let graph = checked.graph();
        let mut numbers = Numbers(7);
        let mut eighths = || (numbers.uniform() * 8.0 - 4.0).round() as f32 / 8.0;
        let weights = Weights { values: graph.params.iter().map(|p| (0..p.elements()).map(|_| eighths()).collect()).collect() };
        let batch = random_batch(&checked, 3, 3).mapv(|x| (x * 4.0).round() / 4.0);
        let wide = reference::arrange(graph, batch.mapv(f64::from));
        let reference = reference::run(graph, &weights.arrays::<f64>(graph), &wide, None, false);
        let logits: Vec<f32> = reference.logits.iter().map(|x| *x as f32).collect();
        let flat: Vec<f32> = batch.iter().copied().collect();
        let (sample, frame, classes) = (flat.len() / 3, flat.len() / 12, graph.classes());
        for (schedule, pool) in schedules.iter().flat_map(|s| pools.iter().map(move |p| (s, p))) {
            pool.install(|| {
                let made = |streams| Inference::expecting(&checked, &weights, 3, (Watch::Spikes, streams), schedule.clone()).unwrap();
                let mut session = made(false);
                assert_eq!(session.run(&flat, 3).unwrap(), logits, "{line} {schedule:?}");
                assert_eq!(session.spikes(graph.time), reference.spikes, "{line} {schedule:?}");
                for i in 0..3 {
                    let alone = session.run(&flat[i * sample..][..sample], 1).unwrap();
                    assert_eq!(alone, logits[i * classes..][..classes], "sample {i} alone: {line} {schedule:?}");
                }
                let mut session = made(true);
                let steps: Vec<Vec<f32>> = (0..4).map(|t| session.step(&flat[t * frame..][..frame], 1, 1).unwrap()).collect();
                assert_eq!(steps[3], logits[..classes], "step by step: {line} {schedule:?}");
                let refused = session.run(&[], 0).unwrap_err().to_string();
                assert!(refused.contains("1 to 3 samples"), "{refused}");
            });
        }
    }
}

/// Where rows fire much, four inputs are added at once, and elsewhere one by one: the reference's spikes and logits where all sums are exact,
/// and otherwise the same bits for whatever machine, however many samples and threads, at once or step by step.
#[test]
fn sums_of_four_hang_on_a_rows_spikes_alone() {
    let text = "model M {\n time T = 4\n input x: analog[T, C = 2, H = 16, W = 16]\n neuron lif = LIF(tau = 2.0)\n \
                encoder { i = x |> conv(C = 84, kernel = 3, pad = 1) }\n s = i |> lif\n \
                a = s |> conv(C = 21, kernel = 3, pad = 1) |> lif\n b = concat(C; s, s, s, s) |> linear(C -> C = 21)\n \
                output ((a |> linear(C -> C = 21)) + b) |> mean(H, W) |> mean(T)\n}";
    let checked = checked_text(text, &Settings::default());
    let graph = checked.graph();
    let mut numbers = Numbers(5);
    let mut eighths = || (numbers.uniform() * 8.0 - 4.0).round() as f32 / 8.0;
    let exact = Weights { values: graph.params.iter().map(|p| (0..p.elements()).map(|_| eighths()).collect()).collect() };
    // Pictures that are darker on the left: rows there fire seldom.
    let mut batch = random_batch(&checked, 2, 3).mapv(|x| (x * 4.0).round() / 4.0);
    batch.indexed_iter_mut().for_each(|(at, x)| *x = if at[4] < 5 { *x } else { 4.0 * *x + 1.0 });
    let wide = reference::arrange(graph, batch.mapv(f64::from));
    let reference = reference::run(graph, &exact.arrays::<f64>(graph), &wide, None, false);
    let rates = |columns: std::ops::Range<usize>| {
        // [T, B, C, H, W] of the encoder's neurons.
        let spikes = &reference.values[graph.ids().find(|id| graph.node(*id).path == reference.spikes[0].0).unwrap().index()];
        let all: Vec<f64> = spikes.indexed_iter().filter(|(at, _)| columns.contains(&at[4])).map(|(_, x)| *x).collect();
        all.iter().sum::<f64>() / all.len() as f64
    };
    assert!(rates(0..3) > 0.02 && rates(0..3) < 0.15 && rates(7..16) > 0.25, "{} {}", rates(0..3), rates(7..16));
    same_bits(&checked, &exact, &batch, &reference);
}

/// Rows of which half a word is read, and half a word comes out: a sum of every four inputs, and of what is left of them.
#[test]
fn rows_of_half_a_word_are_added_by_fours() {
    let text = "model M {\n time T = 4\n input x: analog[T, C = 2, H = 16, W = 32]\n neuron lif = LIF(tau = 2.0)\n \
                encoder { i = x |> conv(C = 18, kernel = 3, pad = 1) }\n s = i |> lif\n \
                a = s |> linear(H -> H = 8) |> lif\n b = s |> linear(W -> W = 32) |> lif\n c = s |> linear(C -> C = 9) |> lif\n \
                output (a |> mean(H, W) |> linear(C -> C = 5)) + (b |> mean(H, W) |> linear(C -> C = 5)) + \
                (((c |> linear(C -> C = 5)) + (s |> linear(C -> C = 5))) |> mean(H, W)) |> mean(T)\n}";
    let checked = checked_text(text, &Settings::default());
    let mut numbers = Numbers(5);
    let mut eighths = || (numbers.uniform() * 8.0 - 4.0).round() as f32 / 8.0;
    let exact = Weights { values: checked.graph().params.iter().map(|p| (0..p.elements()).map(|_| eighths()).collect()).collect() };
    let batch = random_batch(&checked, 2, 3).mapv(|x| (x * 4.0).round() / 4.0);
    let wide = reference::arrange(checked.graph(), batch.mapv(f64::from));
    let reference = reference::run(checked.graph(), &exact.arrays::<f64>(checked.graph()), &wide, None, false);
    same_bits(&checked, &exact, &batch, &reference);
}

/// Two samples of four frames: with weights for which all sums are exact the reference's spikes and logits, with others the same bits for
/// whatever machine, however many samples and threads, at once or step by step.
fn same_bits(checked: &Checked, exact: &Weights, batch: &ArrayD<f32>, reference: &reference::Run<f64>) {
    let graph = checked.graph();
    let logits: Vec<f32> = reference.logits.iter().map(|x| *x as f32).collect();
    let flat: Vec<f32> = batch.iter().copied().collect();
    let (sample, frame, classes) = (flat.len() / 2, flat.len() / 8, graph.classes());
    let rounded = weights(checked, 9);
    let mut first: Option<Vec<f32>> = None;
    for (threads, lanes, narrow) in [(1, 64, false), (2, 16, false), (3, 48, true), (16, 32, false)] {
        let expected = Expected { threads, lanes, narrow, ..Expected::default() };
        let made =
            |weights: &Weights, streams| Inference::expecting(checked, weights, 2, (Watch::Spikes, streams), expected.clone()).unwrap();
        let mut session = made(exact, false);
        assert_eq!(session.run(&flat, 2).unwrap(), logits, "{expected:?}");
        assert_eq!(session.spikes(graph.time), reference.spikes, "{expected:?}");
        let mut session = made(&rounded, false);
        let all = session.run(&flat, 2).unwrap();
        assert_eq!(all, *first.get_or_insert_with(|| all.clone()), "{expected:?}");
        assert_eq!(session.run(&flat[sample..], 1).unwrap(), all[classes..], "{expected:?}");
        let mut session = made(&rounded, true);
        let steps: Vec<Vec<f32>> = (0..4).map(|t| session.step(&flat[t * frame..][..frame], 1, 1).unwrap()).collect();
        assert_eq!(steps[3], all[..classes], "step by step: {expected:?}");
    }
}

/// More places than a word has bits, and channels that begin within words: what two signals of spikes share is counted right.
#[test]
fn products_of_spikes_with_spikes() {
    let attention = [
        "q = s |> linear(C -> C = 40) |> lif |> split(C -> G = 2, K)\n k = s |> linear(C -> C = 40) |> lif |> split(C -> G = 2, K)\n \
         v = s |> linear(C -> C = 60) |> lif |> split(C -> G = 2, V)\n y = 0.125 * dot(K; q, dot(H, W; k, v)) |> lif |> merge(G, V -> C)",
        "q = s |> linear(C -> K = 20) |> lif\n k = s |> linear(C -> K = 20) |> lif\n v = s |> linear(C -> V = 70) |> lif\n \
         y = 0.125 * dot(K; q, dot(H, W; k, v)) |> lif |> merge(V -> C)",
        "k = s |> linear(C -> K = 20) |> lif\n a = dot(H, W; k, s) * 0.0625\n y = dot(K; k, a) |> lif",
    ];
    for line in attention {
        let text = format!(
            "model M {{\n time T = 3\n input x: analog[T, C = 2, H = 9, W = 9]\n neuron lif = LIF(tau = 2.0, threshold = 0.25)\n \
             encoder {{ i = x |> conv(C = 70, kernel = 3, pad = 1) }}\n s = i |> lif\n {line}\n \
             output y |> mean(H, W) |> linear(C -> C = 5) |> mean(T)\n}}"
        );
        let checked = checked_text(&text, &Settings::default());
        agrees(&checked, 2);
    }
}

/// A head that counts many spikes of each channel rounds once a channel and digit of the count, not once a spike: added one by one, these
/// logits are 2e-5 off.
#[test]
fn sums_of_large_counts_do_not_drift() {
    for pooled in ["mean(H, W) |> linear(C -> C = 50)", "avg_pool(kernel = 8, stride = 8) |> conv(C = 19, kernel = 1) |> mean(H, W)"] {
        let text = format!("model M {{\n time T = 4\n input x: spike[T, C = 1024, H = 8, W = 8]\n output x |> {pooled} |> mean(T)\n}}\n");
        let checked = checked_text(&text, &Settings::default());
        let mut weights = weights(&checked, 3);
        weights.values.iter_mut().flatten().for_each(|w| *w = w.abs());
        same(&checked, &weights, &random_batch(&checked, 2, 5), 2e-6);
    }
}

#[test]
fn sums_of_sums_are_compiled_in_no_time() {
    let lines = "    y = y + y\n    y = y * 0.5\n".repeat(40);
    let text = format!(
        "model M {{\n    time T = 2\n    input x: analog[C = 2]\n    neuron lif = LIF(tau = 2.0)\n    encoder {{ y = x |> linear(C -> C = 3)\n{lines} }}\n    \
         output y |> lif |> linear(C -> C = 3) |> mean(T)\n}}\n"
    );
    agrees(&checked_text(&text, &Settings::default()), 1);
}

#[test]
fn spikes_from_outside() {
    let text = "model M {\n    time T = 3\n    input x: spike[T, C = 2, H = 6, W = 6]\n    neuron lif = LIF(tau = 2.0)\n    \
                s = x |> conv(C = 4, kernel = 3, pad = 1) |> lif\n    output concat(C; s, x) |> mean(H, W) |> linear(C -> C = 3) |> mean(T)\n}\n";
    agrees(&checked_text(text, &Settings::default()), 5);
}

#[test]
fn more_time_steps_than_a_stack_holds_are_an_error() {
    let text = "model M {\n    time T = 60000\n    input x: analog[C = 2]\n    neuron lif = LIF(tau = 2.0)\n    \
                output x |> linear(C -> C = 3) |> lif |> linear(C -> C = 3) |> mean(T)\n}\n";
    let checked = checked_text(text, &Settings::default());
    let error = Unfolded::new(&checked, &weights(&checked, 1), 1, Mode::Gradients).unwrap_err().to_string();
    assert!(error.contains("60000 time steps are too many"), "{error}");
}
