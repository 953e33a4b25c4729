//! The CPU's generated code against the reference: the same spikes at every neuron and time step.

use crate::folds::random_parameters;
use ndarray::{ArrayD, IxDyn};
use snnc_compiler::check::Checked;
use snnc_compiler::graph::Settings;
use snnc_compiler::types::Kind;
use snnc_runtime::reference;
use snnc_runtime::session::{Inference, Mode, Unfolded};
use snnc_runtime::weights::Weights;
use snnc_tests::{Numbers, checked_text, distance, zoo};

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
    let graph = checked.graph();
    let samples = 3;
    let weights = weights(checked, seed);
    let batch = random_batch(checked, samples, seed + 1);
    let wide = reference::arrange(graph, batch.mapv(f64::from));
    let expected = reference::run(graph, &weights.arrays::<f64>(graph), &wide, None, false);
    let logits: Vec<f64> = expected.logits.iter().copied().collect();
    let flat: Vec<f32> = batch.iter().copied().collect();
    let close = |ours: &[f32], what: &str| {
        let ours: Vec<f64> = ours.iter().map(|x| f64::from(*x)).collect();
        let off = distance(&ours, &logits, 1e-3);
        assert!(off < 1e-5, "{what} logits are off by {off:e}");
    };
    let mut unfolded = Unfolded::new(checked, &weights, samples, Mode::Eval).unwrap();
    let ours = unfolded.run(&flat, &[], samples, [0.0; 10]).unwrap();
    assert_eq!(unfolded.spikes(samples), expected.spikes, "spikes of the unfolded network");
    close(&ours, "unfolded");
    let mut folded = Inference::new(checked, &weights, samples, true).unwrap();
    let ours = folded.run(&flat, samples).unwrap();
    assert_eq!(folded.spikes(graph.time), expected.spikes, "spikes of the folded network");
    close(&ours, "folded");
}

#[test]
fn the_quick_start() {
    agrees(&zoo("quickstart/digits", &[], None), 1);
}

#[test]
fn every_mixer_form() {
    for model in ["mlp_spe", "mlp_spe_published", "mlp", "mlp_published"] {
        let set = [("dim", "6"), ("depths", "[1, 1, 1, 1]"), ("image", "32"), ("classes", "4")];
        agrees(&zoo(&format!("mixer/{model}"), &set, Some(3)), 2);
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
