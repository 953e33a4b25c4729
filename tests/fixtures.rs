//! The published networks' own values: logits, spikes, gradients, running statistics, on every executor.

use ndarray::{ArrayD, IxDyn};
use snnc_compiler::backend::context::HYPERS;
use snnc_compiler::check::Checked;
use snnc_compiler::flow::Source;
use snnc_compiler::kernel::Format;
use snnc_compiler::lower::{Watch, hyper};
use snnc_compiler::ops::{Real, Role, Selection, real};
use snnc_compiler::types::ParamId;
use snnc_runtime::convert::{Direction, convert};
use snnc_runtime::device::Backend;
use snnc_runtime::layout::Layout;
use snnc_runtime::reference;
use snnc_runtime::session::{Inference, Mode, SpikeCounts, Unfolded};
use snnc_runtime::weights::{Tensors, Weights, read_tensors};
use snnc_tests::{cuda, cuda_in, data, distance, zoo};
use std::collections::{BTreeMap, BTreeSet};

struct Fixture {
    checked: Checked,
    tensors: Tensors,
    weights: Weights,
    layout: Layout,
}

struct Outcome {
    logits: Vec<f64>,
    loss: f64,
    spikes: SpikeCounts,
    grads: Vec<Option<Vec<f64>>>,
    running: Vec<(ParamId, Vec<f64>)>,
}

/// File, model, layout, time steps, settings.
type Instance = (&'static str, &'static str, &'static str, usize, &'static str);

fn load((file, model, layout, time, set): Instance) -> Fixture {
    let path = data(&format!("fixtures/{file}.safetensors"));
    let tensors = read_tensors(&path).unwrap();
    let set: Vec<(&str, &str)> = set.split_whitespace().filter_map(|s| s.split_once('=')).collect();
    let checked = zoo(model, &set, Some(time));
    let layout = Layout::named(layout).unwrap();
    let state = tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix("state.")?.to_owned(), t.clone()))).collect();
    let weights = Weights::from_tensors(&state, file, checked.graph(), Some(&layout)).unwrap();
    Fixture { checked, tensors, weights, layout }
}

impl Fixture {
    fn values(&self, name: &str) -> Vec<f64> {
        self.tensors[name].data.iter().map(|x| f64::from(*x)).collect()
    }

    fn labels(&self) -> Vec<usize> {
        self.tensors["labels"].data.iter().map(|x| *x as usize).collect()
    }

    fn reference<F: Real>(&self, train: bool) -> Outcome {
        let graph = self.checked.graph();
        let input = &self.tensors["input"];
        let data = input.data.iter().map(|x| real::<F>(f64::from(*x))).collect();
        let batch = ArrayD::from_shape_vec(IxDyn(&input.shape), data).unwrap();
        let params = self.weights.arrays::<F>(graph);
        let run = reference::run(graph, &params, &reference::arrange(graph, batch), Some(&self.labels()), train);
        let list = |a: &ArrayD<F>| a.iter().map(|x| x.to_f64().unwrap()).collect::<Vec<f64>>();
        Outcome {
            logits: list(&run.logits),
            loss: run.loss.unwrap().to_f64().unwrap(),
            spikes: run.spikes,
            grads: run.grads.iter().map(|g| g.as_ref().map(list)).collect(),
            running: run.running.iter().map(|(id, v)| (*id, list(v))).collect(),
        }
    }

    fn device(&self, backend: &Backend, train: bool) -> Outcome {
        let graph = self.checked.graph();
        let labels = self.labels();
        let samples = labels.len();
        let mode = if train { Mode::Gradients } else { Mode::Eval };
        let mut session = Unfolded::on(backend, &self.checked, &self.weights, samples, mode).unwrap_or_else(|e| panic!("{e}"));
        let mut targets = vec![0.0; samples * graph.classes()];
        labels.iter().enumerate().for_each(|(i, k)| targets[i * graph.classes() + k] = 1.0);
        let mut numbers = [0.0; HYPERS];
        (numbers[hyper::SCALE], numbers[hyper::UNSCALE]) = (1.0, 1.0);
        let logits = session.run(&self.tensors["input"].data, &targets, samples, numbers).unwrap();
        let list = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let ids = || (0..graph.params.len()).map(ParamId::new);
        let running = ids().filter(|id| graph.param(*id).role != Role::Trained);
        Outcome {
            logits: list(&logits),
            loss: f64::from(session.loss(samples).unwrap()),
            spikes: session.spikes(samples).unwrap(),
            grads: ids().map(|id| session.gradient(id, samples).unwrap().map(|g| list(&g))).collect(),
            running: running.map(|id| (id, list(&session.source(Source::Param(id)).unwrap().unwrap()))).collect(),
        }
    }

    /// The published checkpoint, in our names, and back.
    fn converts(&self) {
        let graph = self.checked.graph();
        let state = self.tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix("state.")?.to_owned(), t.clone())));
        let theirs: Tensors = state.collect();
        let (ours, way) = convert(&theirs, "theirs", graph, &self.layout).unwrap();
        assert_eq!(way, Direction::ToOurs);
        assert_eq!(ours.keys().collect::<Vec<_>>(), self.weights.tensors(graph).keys().collect::<Vec<_>>());
        let (back, way) = convert(&ours, "ours", graph, &self.layout).unwrap();
        assert_eq!(way, Direction::ToPublished);
        assert!(back == theirs, "not what it was: {:?}", theirs.iter().find(|(n, t)| back.get(*n) != Some(t)).map(|(n, _)| n));
        assert_eq!(convert(&back, "back", graph, &self.layout).unwrap().0, ours);
    }

    fn compare(&self, run: &Outcome, train: bool) {
        let graph = self.checked.graph();
        let mode = if train { "train" } else { "eval" };
        let published = self.layout.node_names(graph);
        // A module that is called several times has a number for each call.
        let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
        for (node, name) in graph.nodes.iter().zip(&published).filter(|(n, _)| n.op.selection() == Selection::Neuron) {
            let counts = &run.spikes.iter().find(|(p, _)| *p == node.path).unwrap().1;
            let expected = &self.tensors[&format!("{mode}.spikes.{name}")].data;
            let call = calls.entry(name).or_insert(0);
            assert_eq!(counts.iter().sum::<u64>(), expected[*call] as u64, "{mode} spikes of {name} ({})", node.path);
            *call += 1;
        }
        let listed: usize = self.tensors.iter().filter(|(n, _)| n.starts_with(&format!("{mode}.spikes."))).map(|(_, t)| t.data.len()).sum();
        assert_eq!(calls.values().sum::<usize>(), listed, "every neuron module is compared");
        let off = distance(&run.logits, &self.values(&format!("{mode}.logits")), 0.0);
        assert!(off < 1e-5, "{mode} logits are off by {off:e}");
        if !train {
            return;
        }
        let off = distance(&[run.loss], &self.values("train.loss"), 0.0);
        assert!(off < 1e-5, "loss is off by {off:e}");
        let largest = |prefix: &str| {
            let all = self.tensors.iter().filter(|(n, _)| n.starts_with(prefix)).flat_map(|(_, t)| &t.data);
            f64::from(all.fold(0.0f32, |m, x| m.max(x.abs())))
        };
        let names: Vec<Vec<String>> = self.layout.entries(graph).into_iter().map(|e| e.names).collect();
        let floor = 0.03 * largest("grad.");
        let mut compared = 0;
        for (i, names) in names.iter().enumerate() {
            let Some(name) = names.iter().map(|n| format!("grad.{n}")).find(|n| self.tensors.contains_key(n)) else {
                assert_ne!(graph.params[i].role, Role::Trained, "no gradient of {names:?} in the fixture");
                continue;
            };
            let grad = run.grads[i].as_ref().unwrap_or_else(|| panic!("no gradient of {names:?}"));
            let off = distance(grad, &self.values(&name), floor);
            assert!(off < 1e-4, "{name} is off by {off:e}");
            compared += 1;
        }
        assert_eq!(compared, self.tensors.keys().filter(|n| n.starts_with("grad.")).count());
        let floor = 0.03 * largest("after.");
        for (id, values) in &run.running {
            let name = format!("after.{}", names[id.index()][0]);
            let Some(expected) = self.tensors.get(&name) else {
                assert_eq!(graph.param(*id).role, Role::Batches, "{name} is not in the fixture");
                continue;
            };
            let expected: Vec<f64> = expected.data.iter().map(|x| f64::from(*x)).collect();
            let off = distance(values, &expected, floor);
            assert!(off < 1e-5, "{name} is off by {off:e}");
        }
    }
}

/// Both modes on the reference in f64 and f32, on the CPU and as CUDA C on the host, and folded.
fn everywhere(instance: Instance) {
    let f = load(instance);
    for train in [false, true] {
        f.compare(&f.reference::<f64>(train), train);
        f.compare(&f.reference::<f32>(train), train);
        f.compare(&f.device(&Backend::Cpu, train), train);
        let folder = tempfile::TempDir::new().unwrap();
        f.compare(&f.device(&cuda(folder.path()), train), train);
    }
    f.converts();
    let samples = f.labels().len();
    let mut session = Inference::new(&f.checked, &f.weights, samples, Watch::Nothing).unwrap();
    let logits: Vec<f64> = session.run(&f.tensors["input"].data, samples).unwrap().iter().map(|x| f64::from(*x)).collect();
    let off = distance(&logits, &f.values("eval.logits"), 0.0);
    assert!(off < 1e-5, "folded logits are off by {off:e}");
}

/// What 16 bits lose: spikes that come and go among all, and the loss.
fn lost(instance: Instance, precision: Format) -> [f64; 2] {
    let f = load(instance);
    let exact = f.reference::<f64>(true);
    let folder = tempfile::TempDir::new().unwrap();
    let run = f.device(&cuda_in(folder.path(), precision), true);
    let (mut all, mut differ) = (0, 0);
    for ((path, ours), (_, theirs)) in run.spikes.iter().zip(&exact.spikes) {
        assert_eq!(ours.len(), theirs.len(), "{path}");
        all += theirs.iter().sum::<u64>();
        differ += ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).sum::<u64>();
    }
    for (param, grad) in f.checked.graph().params.iter().zip(&run.grads) {
        assert!(grad.as_ref().is_none_or(|g| g.iter().all(|x| x.is_finite())), "{}: gradient of {}", instance.0, param.path);
    }
    [differ as f64 / all as f64, (run.loss / exact.loss - 1.0).abs()]
}

macro_rules! instances {
    ($($file:ident: $model:literal, $layout:literal, $time:literal, $set:literal;)*) => {
        const INSTANCES: &[Instance] = &[$((stringify!($file), $model, $layout, $time, $set)),*];
        $(#[test] fn $file() { everywhere((stringify!($file), $model, $layout, $time, $set)); })*
    };
}

instances! {
    mixer_mlp_spe: "mixer/mlp_spe_published", "mixer-snn", 4, "dim=12 depths=[1,2,1,1] image=64 classes=10";
    mixer_mlp_spe_96: "mixer/mlp_spe_published", "mixer-snn", 5, "dim=3 depths=[1,1,1,2] image=96 classes=10";
    mixer_mlp: "mixer/mlp_published", "mixer-snn", 4, "dim=8 depths=[1,1,2,1] image=64 classes=10";
    mixer_mlp_b: "mixer/mlp_published", "mixer-snn", 3, "dim=4 depths=[1,2,1,2] image=96 classes=12";
    spikingformer_imagenet: "spikingformer/imagenet_published", "spikingformer", 4, "dim=48 heads=4 depth=1 image=64 classes=10";
    spikingformer_imagenet_b: "spikingformer/imagenet_published", "spikingformer", 3, "dim=32 heads=2 depth=2 mlp_ratio=2 image=96 classes=5";
    spikingformer_cifar: "spikingformer/cifar_published", "spikingformer", 4, "dim=48 heads=4 depth=2";
    spikingformer_cifar_b: "spikingformer/cifar_published", "spikingformer", 2, "dim=32 heads=8 depth=1 classes=100";
    spikingformer_dvs: "spikingformer/dvs_published", "spikingformer", 3, "dim=16 heads=2 depth=1";
    spikingformer_dvs_t2: "spikingformer/dvs_published", "spikingformer", 2, "dim=16 heads=8 depth=1 classes=3";
    gac_cifar: "gac/msresnet_cifar_published", "gac", 6, "stem=16 widths=[24,32,48] blocks=[3,3,2] image=16";
    gac_cifar_t5: "gac/msresnet_cifar_published", "gac", 5, "stem=6 widths=[8,12,16] blocks=[1,2,1] image=20";
    gac_imagenet: "gac/msresnet_imagenet_published", "gac", 4, "stem=16 widths=[16,24,32,48] blocks=[1,1,1,1] image=64 classes=8";
    gac_imagenet_t3: "gac/msresnet_imagenet_published", "gac", 3, "stem=12 widths=[8,8,12,16] blocks=[1,2,2,1] image=96 classes=6";
    dsr_resnet18_if: "dsr/preact_resnet18_cifar_published", "dsr", 5, "stem=8 widths=[8,12,16,24] v_threshold=2.0 v_bound=0.01";
    dsr_resnet18_if_clamp: "dsr/preact_resnet18_cifar_published", "dsr", 4, "stem=6 widths=[6,8,8,12] alpha=0.45 v_bound=1.0";
    dsr_resnet18_lif: "dsr/preact_resnet18_cifar_published", "dsr", 5, "stem=8 widths=[8,12,16,24] leaky=true v_threshold=0.25 alpha=0.5 v_bound=0.001 dt=0.1";
    dsr_resnet18_lif_b: "dsr/preact_resnet18_cifar_published", "dsr", 3, "stem=6 widths=[6,10,12,16] leaky=true alpha=0.3 dt=0.05";
    dsr_vgg11_dvs_if: "dsr/vgg11_dvs_published", "dsr", 4, "widths=[6,8,10,12,12] alpha=0.5 v_bound=0.01";
    dsr_vgg11_dvs_lif: "dsr/vgg11_dvs_published", "dsr", 5, "widths=[6,8,10,12,12] leaky=true alpha=0.3 v_bound=0.001 dt=0.1";
    dsr_preresnet18_imagenet_if: "dsr/preresnet18_imagenet_published", "dsr", 4, "width=6 alpha=0.5 image=64 classes=8";
    dsr_preresnet18_imagenet_lif: "dsr/preresnet18_imagenet_published", "dsr", 3, "width=4 leaky=true alpha=0.5 dt=0.1 image=64 classes=8";
}

/// A spike that comes or goes changes others, layer after layer, and random weights do nothing against it: of these small networks 16 bits
/// keep the spikes, by and large, and the loss roughly. Gradients are compared operator by operator, where all spikes are the same.
#[test]
fn in_16_bits_most_spikes_are_the_same() {
    for (i, instance) in INSTANCES.iter().enumerate().step_by(2) {
        let precision = if i % 4 == 0 { Format::F16 } else { Format::Bf16 };
        let [spikes, loss] = lost(*instance, precision);
        println!("{} {}: {:.1} % of spikes, loss {:.1} % off", instance.0, precision.name(), 100.0 * spikes, 100.0 * loss);
        assert!(spikes < 0.05 && loss < 0.2);
    }
}

/// The folder of a model, and the layout of its published checkpoints.
const LAYOUTS: [(&str, &str); 4] = [("mixer/", "mixer-snn"), ("spikingformer/", "spikingformer"), ("gac/", "gac"), ("dsr/", "dsr")];

#[test]
fn every_parameter_of_the_zoo_has_one_published_name() {
    let mut seen = 0;
    for (file, _) in snnc_zoo::MODELS {
        let Some((_, layout)) = LAYOUTS.iter().find(|(folder, _)| file.starts_with(folder)) else { continue };
        let layout = Layout::named(layout).unwrap();
        let checked = zoo(file, &[], None);
        let graph = checked.graph();
        let mut names = BTreeSet::new();
        for (param, entry) in graph.params.iter().zip(layout.entries(graph)) {
            assert_ne!(entry.names[0], param.path, "{file}: no rule");
            for name in entry.all() {
                assert!(!name.contains(['{', '[', '#']), "{file}: {} is {name}", param.path);
                assert!(names.insert(name.clone()), "{file}: {name} twice");
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 21);
}
