//! On a GPU, where there is one: every model of the zoo learns, and two runs give the same bits. Operators and fixtures are
//! compared with the reference in their own suites, with `SNNC_GPU` set on a GPU.
//!
//! Without one, libraries that stand for NVIDIA's do on the host what a device is told to do: `mock/nvidia.cpp`.

use crate::operators::{SMOOTH, network, trains_alike_on};
use snnc_compiler::backend::context::HYPERS;
use snnc_compiler::check::Checked;
use snnc_compiler::kernel::Format;
use snnc_compiler::lower::{Optimizer, hyper};
use snnc_runtime::device::Backend;
use snnc_runtime::device::cuda::bench;
use snnc_runtime::device::cuda::nvrtc::{CompileError, compile, version};
use snnc_runtime::session::{Mode, Unfolded};
use snnc_runtime::weights::Weights;
use snnc_tests::{Numbers, data, small_zoo, zoo, zoo_package};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;

const SAMPLES: usize = 8;
const STEPS: usize = 20;
const ADAM: Optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };

/// The losses of some steps on one batch of pictures that differ by class, and the weights at their end.
fn learns(backend: &Backend, checked: &Checked, steps: usize) -> (Vec<f32>, Weights) {
    let graph = checked.graph();
    let (classes, signal) = (graph.classes(), &graph.node(graph.input).signal);
    let per = signal.elements() * if signal.varies { graph.time } else { 1 };
    let mut numbers = Numbers(7);
    let mut batch = vec![0.0f32; SAMPLES * per];
    let mut targets = vec![0.0; SAMPLES * classes];
    for (sample, picture) in batch.chunks_mut(per).enumerate() {
        let class = sample % classes.min(4);
        targets[sample * classes + class] = 1.0;
        let spikes = signal.admits(0.5);
        picture.iter_mut().enumerate().for_each(|(i, x)| {
            let bright = numbers.uniform() as f32 + if i * 8 / per % 4 == class { 1.0 } else { 0.0 };
            *x = if spikes { bright } else { f32::from(bright > 1.0) };
        });
    }
    let weights = Weights::initial(graph, 1);
    let mut session = Unfolded::on(backend, checked, &weights, SAMPLES, Mode::Train(ADAM)).unwrap_or_else(|e| panic!("{e}"));
    let mut losses = Vec::new();
    for step in 1..=steps {
        let mut numbers = [0.0; HYPERS];
        numbers[hyper::RATE] = 3e-3;
        numbers[hyper::CORRECT1] = 1.0 / (1.0 - 0.9f32.powi(step as i32));
        numbers[hyper::CORRECT2] = 1.0 / (1.0 - 0.999f32.powi(step as i32));
        numbers[hyper::SEED] = step as f32;
        session.run(&batch, &targets, SAMPLES, numbers).unwrap_or_else(|e| panic!("{e}"));
        losses.push(session.loss(SAMPLES).unwrap());
    }
    (losses, session.weights(&weights).unwrap())
}

/// It learns, and again with the same bits.
fn passes(backend: &Backend, checked: &Checked) {
    let (losses, weights) = learns(backend, checked, STEPS);
    // Spikes that come and go make the loss of small networks jump.
    let first = losses[..STEPS / 4].iter().sum::<f32>() / (STEPS / 4) as f32;
    let last = losses[STEPS / 2..].iter().copied().fold(f32::INFINITY, f32::min);
    println!("{}: loss {first:.4} to {last:.4}", checked.graph().name);
    assert!(losses.iter().all(|l| l.is_finite()) && last < first, "{losses:?}");
    let (again, same) = learns(backend, checked, STEPS);
    assert!(losses == again && weights.values == same.values, "another run gives other bits");
}

#[test]
fn every_model_of_the_zoo_learns_with_the_same_bits_twice_on_a_gpu() {
    match Backend::cuda(Format::F32, false) {
        Ok((backend, _)) => small_zoo().iter().for_each(|(_, checked)| passes(&backend, checked)),
        Err(why) if std::env::var_os("SNNC_GPU").is_some() => panic!("{why}"),
        Err(why) => println!("skipped: {why}"),
    }
}

#[test]
fn what_is_asked_of_a_gpu_holds_on_the_cpu() {
    let some = small_zoo().into_iter().filter(|(name, _)| name.starts_with("quickstart/") || name.starts_with("spikingformer/cifar "));
    some.for_each(|(_, checked)| passes(&Backend::Cpu, &checked));
}

#[test]
fn what_a_device_is_told_to_do_gives_what_the_host_gives() {
    if let Err(CompileError::Missing(why)) = compile("", "sm_90") {
        assert!(std::env::var_os("SNNC_ALL_TESTS").is_none(), "{why}; tests/tools.sh installs it");
        println!("skipped: {why}; tests/tools.sh installs it");
        return;
    }
    let folder = TempDir::new().unwrap();
    let mock = folder.path().join("libcuda.so");
    let options = ["-std=c++20", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"];
    let compiled = Command::new("c++").args(options).arg(&mock).arg(data("mock/nvidia.cpp")).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    for library in ["libcublasLt.so", "libcudnn.so"] {
        symlink(&mock, folder.path().join(library)).unwrap();
    }
    let run = |test: &str, given: Option<(&str, &str)>| {
        let mut own = Command::new(std::env::current_exe().unwrap());
        own.args([test, "--exact", "--ignored", "--nocapture", "--test-threads", "1"]);
        own.env("LD_LIBRARY_PATH", folder.path()).env("SNNC_MOCK", folder.path()).env("SNNC_CACHE", folder.path().join("cache"));
        let out = own.envs(given).output().unwrap();
        let said = [out.stdout, out.stderr].map(|s| String::from_utf8_lossy(&s).into_owned()).concat();
        assert!(out.status.success() && said.contains("1 passed"), "{said}");
        said
    };
    run("gpu::mocked", None);
    run("gpu::mocked_by_an_older_driver", Some(("SNNC_MOCK_DRIVER", "12040")));
    run("gpu::mocked_by_one_that_is_too_old", Some(("SNNC_MOCK_DRIVER", "11080")));
    println!("{}", run("gpu::mocked_start", Some(("SNNC_MOCK_TIMED", "1"))));
    assert!(folder.path().join("cache").read_dir().unwrap().count() > 0, "kernels are kept");
}

/// The other side of the test above, in a process that finds the mock.
#[test]
#[ignore = "run by the test above"]
fn mocked() {
    let folder = PathBuf::from(std::env::var_os("SNNC_MOCK").unwrap());
    assert_eq!(Backend::cuda(Format::F32, false).unwrap().1, "a mock");
    let kernels = |number: usize, precision: Format| {
        let own = folder.join(number.to_string());
        fs::create_dir(&own).unwrap();
        fs::write(folder.join("current"), own.join("kernels.so").to_str().unwrap()).unwrap();
        Backend::Hosted(own, precision)
    };
    for (i, line) in SMOOTH.iter().enumerate().step_by(2) {
        let checked = network(line, true);
        trains_alike_on(&kernels(i, Format::F32), &checked, &format!("{line} on the host"));
        trains_alike_on(&Backend::Cuda(Format::F32, false), &checked, &format!("{line} on a device"));
    }
    let wanted = ["quickstart/digits ", "quickstart/digits_attention", "mixer/mlp_spe ", "gac/msresnet_cifar ", "dsr/vgg11_dvs "];
    let some = small_zoo().into_iter().filter(|(name, _)| wanted.iter().any(|w| name.starts_with(w)));
    for (i, (name, checked)) in some.enumerate() {
        let (expected, _) = learns(&kernels(1000 + i, Format::F32), &checked, 3);
        let (losses, _) = learns(&Backend::Cuda(Format::F32, false), &checked, 3);
        let off = losses.iter().zip(&expected).map(|(a, b)| ((a - b) / b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-3, "{name}: {losses:?}, on the host {expected:?}");
    }
    let checked = zoo("quickstart/digits", &[("dim", "6"), ("depths", "[1,1]")], None);
    // TF32 only where it is asked for; the host has the same kernels.
    drop(learns(&kernels(3000, Format::F32), &checked, 1));
    let [(full, _), (rounded, _)] = [false, true].map(|tf32| learns(&Backend::Cuda(Format::F32, tf32), &checked, 3));
    let off = full.iter().zip(&rounded).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f32::max);
    assert!(off > 0.0 && off < 0.02, "{full:?}, in TF32 {rounded:?}");
    for (i, precision) in [Format::F16, Format::Bf16].into_iter().enumerate() {
        let (expected, _) = learns(&kernels(2000 + i, precision), &checked, 3);
        let (losses, _) = learns(&Backend::Cuda(precision, false), &checked, 3);
        let off = losses.iter().zip(&expected).map(|(a, b)| ((a - b) / b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-2, "{}: {losses:?}, on the host {expected:?}", precision.name());
    }
    // The same program, and so the same kernels, as the last of these.
    let measured = bench::step(&checked, ADAM, (Format::Bf16, false), 4, 3, true, 64).unwrap();
    assert_eq!(measured.seconds, [1e-3; 3]);
    assert_eq!(measured.by_launch.len(), measured.launches);
    assert!(measured.rates.bytes > 0.0 && measured.rates.operations == 2.0 * 64f64.powi(3) / 1e-3);
}

/// Likewise, with a driver that is older than the compiler.
#[test]
#[ignore = "run by a test above"]
fn mocked_by_an_older_driver() {
    let checked = zoo("quickstart/digits", &[("dim", "6"), ("depths", "[1,1]")], None);
    let weights = Weights::initial(checked.graph(), 1);
    let refused = Unfolded::on(&Backend::Cuda(Format::F32, false), &checked, &weights, 4, Mode::Train(ADAM)).unwrap_err().to_string();
    let (major, minor) = version().unwrap();
    let expected = format!(
        "the NVIDIA driver is for CUDA 12.4 and does not load kernels that NVRTC {major}.{minor} made: update the driver, or put an NVRTC \
         12 in front in LD_LIBRARY_PATH"
    );
    assert_eq!(refused, expected);
}

/// Too old for what is called here.
#[test]
#[ignore = "run by a test above"]
fn mocked_by_one_that_is_too_old() {
    let refused = Backend::cuda(Format::F32, false).unwrap_err().to_string();
    assert_eq!(refused, "the NVIDIA driver is for CUDA 11.8, but kernels need 12.0 or later: update the driver");
}

/// From checked source to a network on the device, with its kernels compiled and then from the cache.
#[test]
#[ignore = "run by a test above"]
fn mocked_start() {
    let folder = PathBuf::from(std::env::var_os("SNNC_MOCK").unwrap());
    let (_, checked) = zoo_package("mixer/mlp_spe", Some("MlpSpeT"), &[], None);
    let weights = Weights::initial(checked.graph(), 1);
    let start = || {
        let begun = Instant::now();
        drop(Unfolded::on(&Backend::Cuda(Format::F16, false), &checked, &weights, 1, Mode::Train(ADAM)).unwrap());
        begun.elapsed().as_secs_f64()
    };
    let first = start();
    // Others use these cores too.
    let mut later = vec![start()];
    while later.len() < 30 && later.iter().all(|s| *s >= 0.5) {
        later.push(start());
    }
    println!("MlpSpeT in f16: first {first:.1} s, then {later:.2?} s");
    assert!(folder.join("cache").read_dir().unwrap().all(|f| f.unwrap().path().extension().is_some_and(|e| e == "cubin")));
    assert!(later.iter().any(|s| *s < 0.5), "{later:?}");
}
