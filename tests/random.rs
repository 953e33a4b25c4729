//! Random small models: the generated code gives the spikes of the reference in f64.
//!
//! A membrane at its threshold may fall to either side in f32, so models are kept only if none comes within 1e-4 of it.

use crate::agreement::{random_batch, weights};
use ndarray::ArrayD;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use snnc_compiler::check::Checked;
use snnc_compiler::graph::Settings;
use snnc_compiler::lower::Watch;
use snnc_compiler::ops::neuron::Reset;
use snnc_compiler::ops::{Op, Real, real};
use snnc_compiler::types::ParamId;
use snnc_runtime::reference::{self, Run};
use snnc_runtime::session::{Inference, Mode, Unfolded};
use snnc_tests::{checked_text, distance};
use std::cell::Cell;
use std::fmt::Write;

const MARGIN: f64 = 1e-4;
const SAMPLES: usize = 3;
const LABELS: [usize; SAMPLES] = [1, 0, 2];

/// One layer, from spikes `s` to spikes `s`.
#[derive(Clone, Debug)]
enum Layer {
    Conv { out: usize, kernel: usize, stride: usize, pad: usize, bias: bool, norm: bool },
    Axial { rows: bool, norm: bool },
    Channels { out: usize, tokens: bool },
    Residual { kernel: usize },
    Concat,
    MaxPool,
    AvgPool { out: usize },
    Scaled { factor: f64 },
}

#[derive(Clone, Debug)]
struct Model {
    channels: usize,
    size: [usize; 2],
    time: usize,
    frames: bool,
    neurons: [String; 2],
    layers: Vec<(Layer, usize)>,
}

fn neuron() -> impl Strategy<Value = String> {
    let model = prop_oneof![
        Just("LIF(tau = 2.0, "),
        Just("LIF(tau = 2.0, decay_input = false, "),
        Just("LIF(tau = 3.0, "),
        Just("LIF(tau = 4.0, decay_input = false, "),
        Just("IF("),
    ];
    let reset = prop_oneof![Just("soft"), Just("hard(0.0)"), Just("hard(0.25)")];
    let surrogate = prop_oneof![Just("sigmoid(4.0)"), Just("triangle(1.0)"), Just("rectangle(1.0)")];
    let threshold = prop_oneof![
        3 => Just("0.5"),
        3 => Just("1.0"),
        1 => Just("trainable(0.5, min = 0.1)"),
        2 => Just("trainable(0.7), amplitude = threshold"),
        1 => Just("0.6, fire_at = 0.5, amplitude = threshold(3.0)"),
    ];
    let spikes = (model, reset, surrogate, prop_oneof![Just(">="), Just(">")], threshold, any::<bool>()).prop_map(
        |(model, reset, surrogate, fire, threshold, detach)| {
            format!("{model}reset = {reset}, surrogate = {surrogate}, fire = \"{fire}\", threshold = {threshold}, detach_reset = {detach})")
        },
    );
    let rates = prop_oneof![
        Just("IF(threshold = trainable(0.7, min = 0.1), fire_at = 0.5, amplitude = threshold, reset = soft, surrogate = rate())"),
        Just(
            "LIF(tau = 4.0, threshold = trainable(0.5), fire_at = 0.4, amplitude = threshold(3.0), reset = soft, surrogate = rate(slope = 0.5, limit = 3.0))"
        ),
    ];
    prop_oneof![3 => spikes, 1 => rates.prop_map(str::to_owned)]
}

fn layer() -> impl Strategy<Value = Layer> {
    prop_oneof![
        (1..9usize, 1..4usize, 1..3usize, 0..2usize, any::<bool>(), any::<bool>())
            .prop_map(|(out, kernel, stride, pad, bias, norm)| Layer::Conv { out, kernel, stride, pad, bias, norm }),
        (any::<bool>(), any::<bool>()).prop_map(|(rows, norm)| Layer::Axial { rows, norm }),
        (1..70usize, any::<bool>()).prop_map(|(out, tokens)| Layer::Channels { out, tokens }),
        prop_oneof![Just(1), Just(3)].prop_map(|kernel| Layer::Residual { kernel }),
        Just(Layer::Concat),
        Just(Layer::MaxPool),
        (1..9usize).prop_map(|out| Layer::AvgPool { out }),
        prop_oneof![Just(0.3), Just(-1.5), Just(0.25)].prop_map(|factor| Layer::Scaled { factor }),
    ]
}

fn model() -> impl Strategy<Value = Model> {
    let layers = prop::collection::vec((layer(), 0..2usize), 1..6);
    (1..10usize, [3..8usize, 3..8usize], 1..6usize, any::<bool>(), [neuron(), neuron()], layers)
        .prop_map(|(channels, size, time, frames, neurons, layers)| Model { channels, size, time, frames, neurons, layers })
}

/// The model's text; layers that do not fit the picture are left out.
fn text(model: &Model) -> String {
    let ([mut h, mut w], mut c) = (model.size, model.channels);
    let steps = if model.frames { "T, " } else { "" };
    let mut out = format!("model M {{\n    time T = {}\n    input x: analog[{steps}C = 2, H = {h}, W = {w}]\n", model.time);
    for (i, neuron) in model.neurons.iter().enumerate() {
        let _ = writeln!(out, "    neuron n{i} = {neuron}");
    }
    let _ = writeln!(out, "    encoder {{ e = x |> conv(C = {}, kernel = 3, pad = 1, bias = false) |> batchnorm(C) }}", model.channels);
    out.push_str("    s = e |> n0\n");
    for (i, (layer, n)) in model.layers.iter().enumerate() {
        let line = match layer {
            Layer::Conv { out, kernel, stride, pad, bias, norm } => {
                if h + 2 * pad < *kernel || w + 2 * pad < *kernel {
                    continue;
                }
                [h, w] = [h, w].map(|n| (n + 2 * pad - kernel) / stride + 1);
                let norm = if *norm { " |> batchnorm(C)" } else { "" };
                c = *out;
                format!("c{i} = s |> conv(C = {out}, kernel = {kernel}, stride = {stride}, pad = {pad}, bias = {bias}){norm}")
            }
            Layer::Axial { rows, norm } => {
                let axis = if *rows { "W" } else { "H" };
                let norm = if *norm { format!(" |> batchnorm({axis})") } else { String::new() };
                format!("c{i} = s |> linear({axis} -> {axis}){norm}")
            }
            Layer::Channels { out, tokens } => {
                c = *out;
                format!("c{i} = s |> linear(C -> C = {out}) |> batchnorm({})", if *tokens { "H, W" } else { "C" })
            }
            Layer::Residual { kernel } => format!(
                "a{i} = s |> linear(C -> C) |> batchnorm(C)\n    b{i} = s |> linear(C -> C) |> n{n} |> \
                 conv(C = {c}, kernel = {kernel}, pad = {})\n    c{i} = a{i} + b{i}",
                kernel / 2
            ),
            Layer::Concat => {
                c = 5;
                format!("a{i} = s |> linear(H -> H) |> n{n}\n    c{i} = concat(C; a{i}, s) |> conv(C = 5, kernel = 1) |> batchnorm(C)")
            }
            Layer::MaxPool | Layer::AvgPool { .. } if h < 2 || w < 2 => continue,
            Layer::MaxPool => {
                [h, w] = [h / 2, w / 2];
                format!("c{i} = s |> max_pool(kernel = 2, stride = 2) |> linear(C -> C)")
            }
            Layer::AvgPool { out } => {
                [h, w] = [h / 2, w / 2];
                c = *out;
                format!("c{i} = s |> avg_pool(kernel = 2, stride = 2) |> conv(C = {out}, kernel = 1)")
            }
            Layer::Scaled { factor } => format!("a{i} = s |> linear(W -> W)\n    c{i} = a{i} * {factor:?} |> batchnorm(C)"),
        };
        let _ = writeln!(out, "    {line}\n    s = c{i} |> n{n}");
    }
    out.push_str("    output s |> mean(H, W) |> linear(C -> C = 3) |> mean(T)\n}\n");
    out
}

/// How near a membrane comes to its threshold, over all neurons of a run.
fn margin<F: Real>(checked: &Checked, run: &Run<F>, params: &[ArrayD<F>]) -> F {
    let graph = checked.graph();
    let mut least = F::infinity();
    for node in &graph.nodes {
        let Op::Fire(fire) = &node.op else { continue };
        let (n, x) = (&fire.neuron, &run.values[node.inputs[0].index()]);
        let value = node.params.first().map_or(real(n.threshold), |p| params[p.index()].iter().copied().fold(F::zero(), |_, v| v));
        let threshold = value * real(n.fire_at);
        let per = x.len() / x.shape()[0];
        let flat: Vec<F> = x.iter().copied().collect();
        for place in 0..per {
            let mut v = F::zero();
            for t in 0..graph.time {
                let h = n.charge(v, flat[t.min(x.shape()[0] - 1) * per + place]);
                least = least.min((h - threshold).abs());
                v = match n.reset {
                    _ if !n.fires(h, threshold) => h,
                    Reset::Hard(r) => real(r),
                    Reset::Soft => h - value,
                };
            }
        }
    }
    least
}

/// Compares where the margin allows it; says how many of the three comparisons it allowed.
fn agrees(model: &Model, seed: u64) -> usize {
    let text = text(model);
    let checked = checked_text(&text, &Settings::default());
    let graph = checked.graph();
    let weights = weights(&checked, seed);
    let batch = random_batch(&checked, SAMPLES, seed + 1);
    let flat: Vec<f32> = batch.iter().copied().collect();
    let params = weights.arrays::<f64>(graph);
    let input = reference::arrange(graph, batch.mapv(f64::from));
    let mut compared = 0;
    let expected = reference::run(graph, &params, &input, None, false);
    if margin(&checked, &expected, &params) > MARGIN {
        compared += 2;
        let mut unfolded = Unfolded::new(&checked, &weights, SAMPLES, Mode::Eval).unwrap();
        unfolded.run(&flat, &[], SAMPLES, [0.0; 10]).unwrap();
        assert_eq!(unfolded.spikes(SAMPLES), expected.spikes, "unfolded\n{text}");
        let mut folded = Inference::new(&checked, &weights, SAMPLES, Watch::Spikes).unwrap();
        let logits = folded.run(&flat, SAMPLES).unwrap();
        assert_eq!(folded.spikes(graph.time), expected.spikes, "folded\n{text}");
        let logits: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
        let off = distance(&logits, &expected.logits.iter().copied().collect::<Vec<_>>(), 1e-2);
        assert!(off < 1e-4, "folded logits are off by {off:e}\n{text}");
    }
    let expected = reference::run(graph, &params, &input, Some(&LABELS), true);
    if margin(&checked, &expected, &params) > MARGIN {
        compared += 1;
        let mut session = Unfolded::new(&checked, &weights, SAMPLES, Mode::Gradients).unwrap();
        let mut targets = vec![0.0; SAMPLES * 3];
        LABELS.iter().enumerate().for_each(|(row, label)| targets[row * 3 + label] = 1.0);
        session.run(&flat, &targets, SAMPLES, [0.0; 10]).unwrap();
        assert_eq!(session.spikes(SAMPLES), expected.spikes, "training\n{text}");
        let narrow = reference::run(graph, &weights.arrays::<f32>(graph), &reference::arrange(graph, batch), Some(&LABELS), true);
        let all = expected.grads.iter().flatten().flat_map(|g| g.iter()).fold(0.0, |m: f64, x| m.max(x.abs()));
        for (i, theirs) in expected.grads.iter().enumerate() {
            let Some(theirs) = theirs else { continue };
            let ours = session.gradient(ParamId::new(i), SAMPLES).unwrap_or_else(|| panic!("no gradient of {}", graph.params[i].path));
            let theirs: Vec<f64> = theirs.iter().copied().collect();
            let off = |ours: &mut dyn Iterator<Item = f32>| distance(&ours.map(f64::from).collect::<Vec<_>>(), &theirs, 0.03 * all);
            // A batch norm of nearly equal values makes much of every rounding, the reference's in f32 too.
            let bound = narrow.grads[i].as_ref().map_or(0.0, |g| 10.0 * off(&mut g.iter().copied())).max(1e-2);
            let off = off(&mut ours.into_iter());
            assert!(off < bound, "gradient of {} is off by {off:e}\n{text}", graph.params[i].path);
        }
    }
    compared
}

#[test]
fn random_models_give_the_reference_s_spikes() {
    let compared = Cell::new(0);
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 80, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let result = runner.run(&(model(), 0..1000u64), |(model, seed)| {
        compared.set(compared.get() + agrees(&model, seed));
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    assert!(compared.get() > 60, "of 180 comparisons only {} had the margin", compared.get());
}
