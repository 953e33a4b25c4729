//! Training in 16 bits, as the generated CUDA text does it, beside training in f32.

use rayon::prelude::*;
use snnc_compiler::kernel::Format;
use snnc_compiler::recipe::recipe;
use snnc_runtime::data::Dataset;
use snnc_runtime::device::Backend;
use snnc_runtime::train::{Event, Training};
use snnc_tests::{cuda_in, zoo_package};

const STEPS: usize = 20;
/// Spikes that come and go make the loss of one run differ by some percent from that of another, in f32, too.
const SEEDS: [u64; 2] = [2, 3];

/// The mean loss of the first steps of the quick start, from several seeds.
fn losses(backend: &Backend) -> Vec<f64> {
    let (package, checked) = zoo_package("quickstart/digits", None, &[], None);
    let mut recipe = recipe(&package, "Digits", "Digits", None).unwrap();
    let data = Dataset::named(&recipe.data).unwrap();
    let from = |seed| {
        recipe.seed = seed;
        let (mut mean, mut done) = (0.0, 0);
        let training = Training { checked: &checked, recipe: &recipe, data: &data, backend };
        let outcome = training.run(None, false, &mut |event| {
            if let Event::Step { loss, step, .. } = event {
                (mean, done) = (loss, step);
            }
            done < STEPS
        });
        assert!(!outcome.unwrap().finished && done == STEPS);
        mean
    };
    SEEDS.map(from).to_vec()
}

#[test]
fn the_quick_start_learns_in_16_bits_as_in_f32() {
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let full = losses(&Backend::Cpu);
    println!("f32 {full:.4?}");
    let run = |precision: Format| {
        let folder = tempfile::TempDir::new().unwrap();
        (precision, losses(&cuda_in(folder.path(), precision)))
    };
    // A GPU is one; the host has several cores.
    for (precision, narrow) in [Format::F16, Format::Bf16].into_par_iter().map(run).collect::<Vec<_>>() {
        let off = mean(&narrow) / mean(&full) - 1.0;
        println!("{} {narrow:.4?}: {:.2} %", precision.name(), 100.0 * off);
        assert!(off.abs() <= 0.02, "{} is {:.2} % off", precision.name(), 100.0 * off);
    }
}
