//! One time step at a time gives what all at once give; and the number of threads changes no bit.

use crate::agreement::{random_batch, weights};
use snnc_compiler::lower::Watch;
use snnc_runtime::session::Inference;
use snnc_tests::{checked_text, zoo};

#[test]
fn the_quick_start_one_step_at_a_time() {
    let checked = zoo("quickstart/digits", &[], None);
    let weights = weights(&checked, 1);
    let batch: Vec<f32> = random_batch(&checked, 4, 2).iter().copied().collect();
    let mut session = Inference::new(&checked, &weights, 4, Watch::Nothing).unwrap();
    let whole = session.run(&batch, 4).unwrap();
    for parts in [vec![1, 1, 1, 1], vec![3, 1], vec![1, 2, 1]] {
        session.reset();
        let mut last = Vec::new();
        for steps in &parts {
            last = session.step(&batch, 4, *steps).unwrap();
        }
        assert_eq!(last, whole, "in parts of {parts:?}");
    }
}

#[test]
fn frames_one_at_a_time() {
    let text = "model M {\n time T = 3\n input x: analog[T, C = 2, H = 4, W = 4]\n neuron lif = LIF(tau = 2.0)\n encoder {\n e = x |> conv(C = 4, kernel = 3, pad = 1)\n }\n \
                s = e |> lif |> conv(C = 4, kernel = 3, pad = 1) |> lif\n output s |> mean(H, W) |> linear(C -> C = 3) |> mean(T)\n}";
    let checked = checked_text(text, &Default::default());
    let weights = weights(&checked, 1);
    let batch = random_batch(&checked, 2, 2);
    let flat: Vec<f32> = batch.iter().copied().collect();
    let mut session = Inference::new(&checked, &weights, 2, Watch::Nothing).unwrap();
    let whole = session.run(&flat, 2).unwrap();
    session.reset();
    let mut last = Vec::new();
    for t in 0..3 {
        let frame: Vec<f32> = batch.index_axis(ndarray::Axis(1), t).iter().copied().collect();
        last = session.step(&frame, 2, 1).unwrap();
    }
    assert_eq!(last, whole);
}

#[test]
fn tables_over_the_time_steps_one_step_at_a_time() {
    let text = "model M {\n time T = 4\n input x: analog[T, C = 2, H = 4, W = 4]\n fold(time)\n neuron lif = LIF(tau = 1.5)\n encoder {\n e = x |> conv(C = 4, kernel = 3, pad = 1)\n }\n \
                s = e |> lif\n m = e + (s |> conv(C = 4, kernel = 3, pad = 1)) + s\n output m |> lif |> mean(H, W) |> linear(C -> C = 3) |> mean(T)\n}";
    let checked = checked_text(text, &Default::default());
    assert!(checked.findings().residues.is_empty());
    let weights = weights(&checked, 1);
    let batch = random_batch(&checked, 2, 2);
    let flat: Vec<f32> = batch.iter().copied().collect();
    let mut session = Inference::new(&checked, &weights, 2, Watch::Nothing).unwrap();
    let whole = session.run(&flat, 2).unwrap();
    for _ in 0..2 {
        session.reset();
        let mut last = Vec::new();
        for t in 0..4 {
            let frame: Vec<f32> = batch.index_axis(ndarray::Axis(1), t).iter().copied().collect();
            last = session.step(&frame, 2, 1).unwrap();
        }
        assert_eq!(last, whole);
    }
}

/// A mean whose weights grow towards the last step cannot be taken before the last step is known; of spikes it is a table.
#[test]
fn weights_that_hang_on_the_steps_to_come_are_refused() {
    let network = |input: &str, body: &str| {
        let text = format!("model M {{\n time T = 4\n input x: {input}[T, C = 2]\n neuron lif = LIF(tau = 2.0)\n {body}\n}}");
        checked_text(&text, &Default::default())
    };
    let encoded = network("spike", "encoder { e = x |> linear(C -> K = 3) |> mean(T, decay = 0.5) }\n output e");
    let admitted = network(
        "analog",
        "encoder { e = x |> linear(C -> C = 3) }\n allow(unfoldable_scale, count = 1, \"published\")\n \
         output e |> lif |> linear(C -> K = 3) |> mean(T, decay = 0.5)",
    );
    for checked in [encoded, admitted] {
        let weights = weights(&checked, 1);
        let batch = random_batch(&checked, 2, 2);
        let flat: Vec<f32> = batch.iter().copied().collect();
        let mut session = Inference::new(&checked, &weights, 2, Watch::Nothing).unwrap();
        session.run(&flat, 2).unwrap();
        let frame: Vec<f32> = batch.index_axis(ndarray::Axis(1), 0).iter().copied().collect();
        let error = session.step(&frame, 2, 1).unwrap_err().to_string();
        assert!(error.contains("cannot run one time step at a time"), "{error}");
    }
    let spikes =
        network("analog", "encoder { e = x |> linear(C -> C = 3) }\n output e |> lif |> mean(T, decay = 0.5) |> linear(C -> K = 3)");
    let weights = weights(&spikes, 1);
    let batch = random_batch(&spikes, 2, 2);
    let flat: Vec<f32> = batch.iter().copied().collect();
    let mut session = Inference::new(&spikes, &weights, 2, Watch::Nothing).unwrap();
    let whole = session.run(&flat, 2).unwrap();
    session.reset();
    let mut last = Vec::new();
    for t in 0..4 {
        let frame: Vec<f32> = batch.index_axis(ndarray::Axis(1), t).iter().copied().collect();
        last = session.step(&frame, 2, 1).unwrap();
    }
    assert_eq!(last, whole);
}
