//! ONNX Runtime as a second opinion: exported models give what our folded code gives.

use crate::agreement::random_batch;
use snnc_compiler::check::Checked;
use snnc_compiler::lower::Watch;
use snnc_runtime::calibrate::calibrated;
use snnc_runtime::onnx::{Options, Steps, export};
use snnc_runtime::reference::{arrange, steady};
use snnc_runtime::session::Inference;
use snnc_runtime::weights::Weights;
use snnc_tests::{needed, small_zoo};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Python's packages, where tests/tools.sh puts them.
fn packages() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/onnx");
    needed(folder.join("onnxruntime").is_dir(), "ONNX Runtime").then_some(folder)
}

/// Samples of a batch.
const SAMPLES: usize = 2;

/// Weights at which a part of all neurons fires, and a batch whose spikes do not hang on rounding.
fn clear(name: &str, checked: &Checked) -> (Weights, Vec<f32>, Vec<usize>) {
    let graph = checked.graph();
    let weights = calibrated(checked, 0.15, 1).unwrap();
    let arrays = weights.arrays::<f64>(graph);
    let samples = (1..200).map(|seed| random_batch(checked, 1, seed));
    let clear: Vec<_> = samples.filter(|one| steady(graph, &arrays, &arrange(graph, one.mapv(f64::from)), 1e-5)).take(SAMPLES).collect();
    assert_eq!(clear.len(), SAMPLES, "{name}: every sample has a membrane near its threshold");
    let mut shape = clear[0].shape().to_vec();
    shape[0] = SAMPLES;
    (weights, clear.iter().flatten().copied().collect(), shape)
}

#[test]
fn every_model_of_the_zoo_gives_what_onnx_runtime_gives() {
    let Some(packages) = packages() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut expected = vec![];
    for (i, (name, checked)) in small_zoo().into_iter().enumerate() {
        let (weights, batch, shape) = clear(&name, &checked);
        let ours = Inference::new(&checked, &weights, shape[0], Watch::Nothing).unwrap().run(&batch, shape[0]).unwrap();
        for (steps, how) in [(Steps::Unrolled, "unrolled"), (Steps::Scan, "scan")] {
            // Both kinds of a batch.
            let samples = (i % 2 == 0).then_some(shape[0]);
            let file = folder.path().join(format!("{i}_{how}.onnx"));
            fs::write(&file, export(&checked, &weights, &Options { batch: samples, steps }).unwrap()).unwrap();
            fs::write(file.with_extension("input"), batch.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()).unwrap();
            fs::write(file.with_extension("json"), format!("{{\"shape\": {shape:?}}}")).unwrap();
            expected.push((format!("{name}, {how}"), file.with_extension("logits"), ours.clone(), checked.graph().classes()));
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/run.py");
    let out = Command::new("python3").arg(script).arg(folder.path()).env("PYTHONPATH", packages).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for (name, file, ours, classes) in expected {
        let bytes = fs::read(file).unwrap();
        let theirs: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(theirs.len(), ours.len(), "{name}");
        let scale = ours.iter().fold(1.0, |m: f32, x| m.max(x.abs()));
        let off = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 1e-4 * scale, "{name}: off by {off:e}");
        let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        for (a, b) in ours.chunks(classes).zip(theirs.chunks(classes)) {
            assert_eq!(best(a), best(b), "{name}");
        }
    }
}
