//! Every operator: the reference's gradient against finite differences, and the CPU's gradient against the reference.

use crate::agreement::{random_batch, weights};
use ndarray::ArrayD;
use snnc_compiler::backend::context::HYPERS;
use snnc_compiler::backend::cuda::calls::{Call, calls};
use snnc_compiler::check::Checked;
use snnc_compiler::flow::Source;
use snnc_compiler::graph::Settings;
use snnc_compiler::kernel::Format;
use snnc_compiler::lower::hyper;
use snnc_compiler::ops::Role;
use snnc_compiler::types::ParamId;
use snnc_runtime::device::Backend;
use snnc_runtime::reference;
use snnc_runtime::session::{Mode, Unfolded, unfolded_program};
use snnc_tests::{checked_text, cuda, distance};

const SAMPLES: usize = 3;
const LABELS: [usize; SAMPLES] = [0, 2, 1];

/// A network around one line that makes `y` of the analog `e` `[C = 4, H = 4, W = 4]`.
pub(crate) fn network(line: &str, spiking: bool) -> Checked {
    let middle = if spiking { "s = e |> lif\n" } else { "s = e\n" };
    checked_text(
        &format!(
            "model M {{\n time T = 3\n input x: analog[T, C = 2, H = 4, W = 4]\n neuron lif = LIF(tau = 2.0, detach_reset = true)\n \
             neuron loose = LIF(tau = 3.0, decay_input = false, reset = soft, surrogate = triangle(1.0))\n \
             neuron box = IF(threshold = 0.7, reset = hard(0.1), fire = \">\", surrogate = rectangle(1.0))\n \
             e = x |> conv(C = 4, kernel = 3, pad = 1)\n y0 = x |> mean(T) |> conv(C = 4, kernel = 1)\n {middle} {line}\n output y |> mean(H, W) |> linear(C -> C = 3) |> mean(T)\n}}"
        ),
        &Settings::default(),
    )
}

/// The smooth lines, one for every operator.
pub(crate) const SMOOTH: [&str; 21] = [
    "y = s |> conv(C = 3, kernel = [3, 2], stride = [2, 1], pad = 1)",
    "y = s |> conv(C = 3, kernel = 4, pad = (1, 2), bias = false)",
    "y = s |> linear(W -> W)",
    "y = s |> linear(C -> C = 6, bias = false) |> linear(H -> H)",
    "y = s |> batchnorm(C)",
    "y = s |> batchnorm(H, W)",
    "a = s |> linear(C -> C)\n y = a - s * 0.3 + e",
    "a = s |> linear(C -> C)\n y = a * s",
    "q = s |> linear(C -> C) |> split(C -> G = 2, K)\n k = s |> split(C -> G = 2, K)\n v = s |> linear(W -> W) |> split(C -> G = 2, V)\n \
     y = dot(K; q, dot(H, W; k, v)) |> merge(G, V -> C)",
    "y = s |> split(H -> P, Q = 2) |> linear(Q -> Q) |> merge(Q, P, W -> N) |> linear(N -> N) |> split(N -> H = 4, W)",
    "a = s |> linear(H -> H)\n y = concat(C; s, a, e) |> conv(C = 4, kernel = 1)",
    "y = s |> max_pool(kernel = 3, stride = 2, pad = 1)",
    "y = s |> avg_pool(kernel = 3, stride = 2, pad = 1)",
    "a = s |> relu\n y = sigmoid(s) + a",
    "g = s |> mean(C, H, W) |> linear(T -> R = 2, bias = false) |> relu |> linear(R -> T)\n y = sigmoid(g * s) * e",
    "k = 0.5 * s |> linear(W -> W)\n r = k |> linear(T -> R = 2) |> linear(R -> T)\n y = r * (k |> max(H, W))",
    "y = s |> adaptive_avg_pool(H = 7, W = 3)",
    "y = s |> linear(H -> H = 6) |> adaptive_avg_pool(H = 2, W = 7) |> dropout(0.5)",
    "y = s |> adaptive_avg_pool(H = 3, W = 1)",
    "a = s |> linear(C -> C) |> mean(T, decay = 0.7)\n y = s * a + s",
    "o = y0 |> linear(T -> R = 5) |> linear(R -> T)\n y = s * o",
];

fn loss(checked: &Checked, params: &[ArrayD<f64>], input: &ArrayD<f64>) -> f64 {
    reference::run(checked.graph(), params, input, Some(&LABELS), true).loss.unwrap()
}

#[test]
fn reference_gradients_are_those_of_finite_differences() {
    for line in SMOOTH {
        let checked = network(line, false);
        let graph = checked.graph();
        let mut params = weights(&checked, 3).arrays::<f64>(graph);
        let input = reference::arrange(graph, random_batch(&checked, SAMPLES, 4).mapv(f64::from));
        let run = reference::run(graph, &params, &input, Some(&LABELS), true);
        for i in 0..params.len() {
            let Some(grad) = &run.grads[i] else { continue };
            let exact: Vec<f64> = grad.iter().copied().collect();
            let step = 1e-5;
            let numeric: Vec<f64> = (0..params[i].len())
                .map(|k| {
                    let old = params[i].as_slice().unwrap()[k];
                    let mut at = |x: f64| {
                        params[i].as_slice_mut().unwrap()[k] = x;
                        loss(&checked, &params, &input)
                    };
                    let slope = (at(old + step) - at(old - step)) / (2.0 * step);
                    at(old);
                    slope
                })
                .collect();
            let off = distance(&exact, &numeric, 1e-3);
            assert!(off < 1e-5, "{line}: gradient of {} is off by {off:e}", graph.params[i].path);
        }
    }
}

#[test]
fn gradients_of_both_backends_are_the_reference_s() {
    let spiking = [
        "y = s |> linear(C -> C) |> loose",
        "y = s |> conv(C = 4, kernel = 3, pad = 1) |> box",
        "a = s |> linear(H -> H) |> lif\n y = a + s",
        "y = s |> linear(C -> C) |> IF(threshold = trainable(0.5), fire_at = 0.5, amplitude = threshold, reset = soft, surrogate = rate(gain = 0.1))",
        "y = s |> LIF(tau = 5.0, threshold = trainable(0.5), fire_at = 0.4, amplitude = threshold(3.0), reset = soft, surrogate = rate(slope = 0.5, limit = 3.0))",
        "y = s |> linear(W -> W) |> LIF(threshold = trainable(0.7), amplitude = threshold, surrogate = sigmoid(3.0))",
        "y = s |> IF(threshold = trainable(0.4), reset = soft, surrogate = triangle(2.0), detach_reset = true)",
    ];
    for (line, spikes) in SMOOTH.iter().map(|l| (*l, false)).chain(SMOOTH.iter().chain(&spiking).map(|l| (*l, true))) {
        let (checked, what) = (network(line, spikes), format!("{line} (spikes {spikes})"));
        trains_alike(&checked, &what);
        let folder = tempfile::TempDir::new().unwrap();
        trains_alike_on(&cuda(folder.path()), &checked, &format!("{what} as CUDA C"));
    }
}

/// What 16 bits lose is lost once in every tensor, and no more: without spikes, which come and go with a last digit, and with spikes
/// of membranes that 8 digits hold.
#[test]
fn gradients_in_16_bits_are_the_reference_s_within_what_16_bits_lose() {
    // The largest of several may be another once they are rounded.
    for line in SMOOTH.iter().filter(|l| !l.contains("max_pool")) {
        for (precision, lost) in [(Format::F16, 2f64.powi(-11)), (Format::Bf16, 2f64.powi(-8))] {
            let folder = tempfile::TempDir::new().unwrap();
            let backend = snnc_tests::cuda_in(folder.path(), precision);
            let what = format!("{line} in {}", precision.name());
            trains_within(&backend, &network(line, false), &what, [16.0 * lost, 4.0 * lost], false);
            let folder = tempfile::TempDir::new().unwrap();
            let backend = snnc_tests::cuda_in(folder.path(), precision);
            trains_within(&backend, &network(line, true), &format!("{what}, spiking"), [32.0 * lost, 4.0 * lost], true);
        }
    }
}

/// A sum of many terms with few results is cut into parts, whose sum is kept in 16 bits like any other.
#[test]
fn long_sums_in_16_bits_are_the_reference_s() {
    let text = "model M {\n time T = 2\n input x: analog[C = 1536, H = 2, W = 2]\n encoder {\n e = x |> linear(C -> C = 8) |> linear(C -> C = 8)\n }\n \
                output e |> mean(H, W) |> linear(C -> C = 3)\n}";
    let checked = checked_text(text, &Settings::default());
    for (precision, lost) in [(Format::F16, 2f64.powi(-11)), (Format::Bf16, 2f64.powi(-8))] {
        let (_, program) = unfolded_program(&checked, Mode::Gradients, precision);
        let calls = program.groups.iter().flat_map(|g| &g.contracts).flat_map(|c| calls(&program, c, SAMPLES, 2));
        let narrow = calls.filter(|call| matches!(call, Call::Sum { to, .. } if to.format == precision)).count();
        assert!(narrow > 0, "no such sum");
        let folder = tempfile::TempDir::new().unwrap();
        let backend = snnc_tests::cuda_in(folder.path(), precision);
        trains_within(&backend, &checked, precision.name(), [16.0 * lost, 4.0 * lost], false);
    }
}

/// One training step: the CPU's spikes, gradients and running statistics against the reference's.
pub(crate) fn trains_alike(checked: &Checked, what: &str) {
    trains_alike_on(&Backend::Cpu, checked, what);
}

pub(crate) fn trains_alike_on(backend: &Backend, checked: &Checked, what: &str) {
    trains_within(backend, checked, what, [1e-4, 1e-5], false);
}

/// The same within these bounds for gradients and running statistics; `coarse`: weights are halves, and inputs integers.
fn trains_within(backend: &Backend, checked: &Checked, what: &str, bounds: [f64; 2], coarse: bool) {
    let graph = checked.graph();
    let mut weights = weights(checked, 3);
    let mut batch = random_batch(checked, SAMPLES, 4);
    if coarse {
        let trained = weights.values.iter_mut().zip(&graph.params).filter(|(_, p)| p.role == Role::Trained);
        trained.flat_map(|(values, _)| values).for_each(|x| *x = (*x * 2.0).round().clamp(-2.0, 2.0) / 2.0);
        batch.mapv_inplace(|x| x.round().clamp(-1.0, 1.0));
    }
    let input = reference::arrange(graph, batch.mapv(f64::from));
    let run = reference::run(graph, &weights.arrays::<f64>(graph), &input, Some(&LABELS), true);
    let mut session = Unfolded::on(backend, checked, &weights, SAMPLES, Mode::Gradients).unwrap_or_else(|e| panic!("{e}"));
    let mut targets = vec![0.0; SAMPLES * graph.classes()];
    LABELS.iter().enumerate().for_each(|(row, label)| targets[row * graph.classes() + label] = 1.0);
    let flat: Vec<f32> = batch.iter().copied().collect();
    // Some of these networks have large gradients: their loss is not scaled.
    let mut numbers = [0.0; HYPERS];
    (numbers[hyper::SCALE], numbers[hyper::UNSCALE]) = (1.0, 1.0);
    session.run(&flat, &targets, SAMPLES, numbers).unwrap();
    assert_eq!(session.spikes(SAMPLES).unwrap(), run.spikes, "{what}: spikes");
    let list = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let largest = run.grads.iter().flatten().flat_map(ArrayD::iter).fold(0.0f64, |m, x| m.max(x.abs()));
    for (i, grad) in run.grads.iter().enumerate() {
        let Some(grad) = grad else { continue };
        let theirs: Vec<f64> = grad.iter().copied().collect();
        let ours = list(&session.gradient(ParamId::new(i), SAMPLES).unwrap().unwrap());
        let off = distance(&ours, &theirs, 0.03 * largest);
        assert!(off < bounds[0], "{what}: gradient of {} is off by {off:e}", graph.params[i].path);
    }
    for (id, value) in &run.running {
        let theirs: Vec<f64> = value.iter().copied().collect();
        let off = distance(&list(&session.source(Source::Param(*id)).unwrap().unwrap()), &theirs, 1e-3);
        assert!(off < bounds[1], "{what}: {} is off by {off:e}", graph.param(*id).path);
    }
}
