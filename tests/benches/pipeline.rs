//! How long the compiler and the quick start take: `cargo bench -p snnc-tests`. Figures stand in docs/benchmarks.md.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may stop at the first surprise, and has no users")]

use divan::Bencher;
use divan::counter::ItemsCount;
use snnc_compiler::check::{Checked, check};
use snnc_compiler::graph::{Settings, build, instantiate};
use snnc_compiler::lower::{Optimizer, Watch};
use snnc_compiler::resolve::resolve;
use snnc_grammar::SourceMap;
use snnc_runtime::library::{Library, open};
use snnc_runtime::session::{Inference, Mode, Unfolded};
use snnc_runtime::weights::Weights;
use snnc_tests::zoo;

fn main() {
    divan::main();
}

fn checked(path: &str, variant: Option<&str>) -> Checked {
    let mut sources = SourceMap::default();
    let file = open(&mut sources, path).unwrap();
    let package = resolve(&mut sources, file, &Library).unwrap();
    let instance = instantiate(&mut sources, &package, variant, &Settings::default()).unwrap();
    check(build(&package, &instance).unwrap())
}

/// From the path to the verdict.
#[divan::bench(sample_count = 20)]
fn check_mlp_spe_b() -> Checked {
    checked("mixer/mlp_spe", Some("MlpSpeB"))
}

/// From the path to machine code in memory with weights, for pictures of 224 x 224.
#[divan::bench(sample_count = 5)]
fn load_mlp_spe_t(bencher: Bencher<'_, '_>) {
    let weights = Weights::initial(checked("mixer/mlp_spe", Some("MlpSpeT")).graph(), 1);
    bencher.bench_local(|| Inference::new(&checked("mixer/mlp_spe", Some("MlpSpeT")), &weights, 1, Watch::Nothing).unwrap());
}

const SAMPLES: usize = 16;

/// One training step of the quick start.
#[divan::bench(sample_count = 20)]
fn digits_step(bencher: Bencher<'_, '_>) {
    let model = zoo("quickstart/digits", &[], None);
    let optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let weights = Weights::initial(model.graph(), 1);
    let mut session = Unfolded::new(&model, &weights, SAMPLES, Mode::Train(optimizer)).unwrap();
    let pictures = vec![0.5; SAMPLES * 64];
    let targets = vec![0.1; SAMPLES * 10];
    bencher.counter(ItemsCount::new(SAMPLES)).bench_local(|| session.run(&pictures, &targets, SAMPLES, [1e-4; 10]).unwrap());
}

/// Inference of the quick start as written, by dense products.
#[divan::bench(sample_count = 50)]
fn digits_unfolded(bencher: Bencher<'_, '_>) {
    let model = zoo("quickstart/digits", &[], None);
    let mut session = Unfolded::new(&model, &Weights::initial(model.graph(), 1), SAMPLES, Mode::Eval).unwrap();
    let pictures = vec![0.5; SAMPLES * 64];
    bencher.counter(ItemsCount::new(SAMPLES)).bench_local(|| session.run(&pictures, &[], SAMPLES, [0.0; 10]).unwrap());
}

/// The same folded, by additions.
#[divan::bench(sample_count = 50)]
fn digits_folded(bencher: Bencher<'_, '_>) {
    let model = zoo("quickstart/digits", &[], None);
    let mut session = Inference::new(&model, &Weights::initial(model.graph(), 1), SAMPLES, Watch::Nothing).unwrap();
    let pictures = vec![0.5; SAMPLES * 64];
    bencher.counter(ItemsCount::new(SAMPLES)).bench_local(|| session.run(&pictures, SAMPLES).unwrap());
}
