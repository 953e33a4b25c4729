//! The zoo as the command line shows it: verdicts, counts, tables.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn project(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn snnc(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_snnc")).args(args).current_dir(project(".")).env("NO_COLOR", "1").output().unwrap();
    assert_eq!(out.status.code(), Some(0), "snnc {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Rule, and the path of every place, `{}` standing for a number of each given list in turn.
type Residues = Vec<(&'static str, String)>;

fn one(rule: &'static str, path: &str) -> Residues {
    vec![(rule, path.to_owned())]
}

/// A place in every block of every stage.
fn blocks(rule: &'static str, path: &str, depths: &[usize]) -> Residues {
    let all = depths.iter().enumerate().flat_map(|(i, depth)| (0..*depth).map(move |j| (i, j)));
    all.map(|(i, j)| (rule, path.replacen("{}", &i.to_string(), 1).replacen("{}", &j.to_string(), 1))).collect()
}

fn each(rule: &'static str, path: &str, numbers: impl IntoIterator<Item = usize>) -> Residues {
    numbers.into_iter().map(|i| (rule, path.replacen("{}", &i.to_string(), 1))).collect()
}

/// What multiplies in Spikingformer for event cameras: the leaks of tau = 1.5, and the head on real membranes.
fn event_spikingformer(depth: usize) -> Residues {
    let neurons = [
        "attended.s.lif",
        "attended.q.lif",
        "attended.k.lif",
        "attended.v.lif",
        "attended.a.attention",
        "mlp.hidden.lif",
        "mlp.hidden.lif#2",
    ];
    let layers = neurons.iter().flat_map(|n| each("leak", &format!("layer[{{}}].{n}"), 0..depth));
    each("leak", "tokenizer[{}].m.lif", 1..5).into_iter().chain(layers).chain(one("real_operand", "head.linear")).collect()
}

/// What multiplies in DSR's residual networks where neurons leak by exp(-dt / tau): every neuron.
fn leaky_resnet(stem: bool) -> Residues {
    let stages = ["m.s.spiking", "m.a.spiking"].iter().flat_map(|n| blocks("leak", &format!("stage[{{}}].layer[{{}}].{n}"), &[2; 4]));
    let tail = ["pooled.spiking", "pooled.spiking#2", "head.spiking"].iter().flat_map(|n| one("leak", n));
    let stem = if stem { one("leak", "m.spiking") } else { vec![] };
    stages.chain(tail).chain(stem).collect()
}

/// What multiplies where nothing spikes: every weight behind the encoder, and scales of sums that real values go into.
fn relu_resnet() -> Residues {
    let norms = blocks("unfoldable_scale", "stage[{}].layer[{}].m.s.batchnorm", &[2; 4]);
    let convs = ["m.a.conv", "m.b.conv"].iter().flat_map(|n| blocks("real_operand", &format!("stage[{{}}].layer[{{}}].{n}"), &[2; 4]));
    let scales = ["m.batchnorm", "m.avg_pool", "pooled.batchnorm", "pooled.mean"].iter().flat_map(|n| one("unfoldable_scale", n));
    let shortcuts = each("real_operand", "stage[{}].layer[0].m.shortcut.conv", 1..4);
    norms.into_iter().chain(convs).chain(scales).chain(shortcuts).chain(one("real_operand", "head.linear")).collect()
}

/// Every variant of the zoo: parameters, time steps, and what multiplies outside the encoder.
fn reviewed() -> Vec<(&'static str, &'static str, u64, u64, Residues)> {
    let strict = Vec::new;
    let tokens = |depths: &[usize]| blocks("unfoldable_scale", "stage[{}].mixer[{}].channel.batchnorm", depths);
    let shortcuts = |stages| each("real_operand", "stage[{}].layer[0].m.shortcut.conv", 0..stages);
    let head = || one("real_operand", "head.linear");
    let groups = [(1, "spiking"), (2, "spiking"), (2, "spiking#2"), (3, "spiking"), (3, "spiking#2"), (4, "spiking"), (4, "spiking#2")];
    let leaky_vgg = || {
        let groups = groups.iter().flat_map(|(i, n)| one("leak", &format!("group[{i}].m.{n}")));
        groups.chain(one("leak", "m.spiking")).chain(one("leak", "head.spiking")).collect()
    };
    vec![
        ("dsr/preact_resnet18_cifar", "DsrPreActResNet18If", 11_176_945, 20, strict()),
        ("dsr/preact_resnet18_cifar", "DsrPreActResNet18Lif", 11_176_945, 20, strict()),
        ("dsr/preact_resnet18_cifar_published", "DsrPreActResNet18IfPublished", 11_176_945, 20, strict()),
        ("dsr/preact_resnet18_cifar_published", "DsrPreActResNet18LifPublished", 11_176_945, 20, leaky_resnet(false)),
        ("dsr/preresnet18_imagenet", "DsrPreResNet18If", 11_691_660, 50, strict()),
        ("dsr/preresnet18_imagenet", "DsrPreResNet18Lif", 11_691_660, 50, strict()),
        ("dsr/preresnet18_imagenet_published", "DsrPreResNet18IfPublished", 11_691_660, 50, strict()),
        ("dsr/preresnet18_imagenet_published", "DsrPreResNet18LifPublished", 11_691_660, 50, leaky_resnet(true)),
        ("dsr/preresnet18_imagenet_relu", "DsrPreResNet18Relu", 11_691_640, 1, relu_resnet()),
        // The published head has 49 weights for each of ours: 9,476,327 - 48 * 512 * 10.
        ("dsr/vgg11_dvs", "DsrVgg11DvsIf", 9_230_567, 20, strict()),
        ("dsr/vgg11_dvs", "DsrVgg11DvsLif", 9_230_567, 20, strict()),
        ("dsr/vgg11_dvs_published", "DsrVgg11DvsIfPublished", 9_476_327, 20, strict()),
        ("dsr/vgg11_dvs_published", "DsrVgg11DvsLifPublished", 9_476_327, 20, leaky_vgg()),
        ("gac/msresnet_cifar", "GacMsResNet18", 12_633_198, 6, strict()),
        ("gac/msresnet_cifar_published", "GacMsResNet18Published", 12_633_198, 6, shortcuts(3)),
        ("gac/msresnet_imagenet", "GacMsResNet18ImageNet", 11_824_824, 4, strict()),
        ("gac/msresnet_imagenet", "GacMsResNet34ImageNet", 21_932_984, 4, strict()),
        ("gac/msresnet_imagenet_published", "GacMsResNet18ImageNetPublished", 11_824_824, 4, shortcuts(4)),
        ("gac/msresnet_imagenet_published", "GacMsResNet34ImageNetPublished", 21_932_984, 4, shortcuts(4)),
        ("mixer/mlp", "MlpS", 34_514_984, 4, strict()),
        ("mixer/mlp_published", "MlpSPublished", 34_507_408, 4, tokens(&[2, 8, 14, 2])),
        ("mixer/mlp_spe", "MlpSpeT", 25_223_796, 4, strict()),
        ("mixer/mlp_spe", "MlpSpeS", 37_983_144, 4, strict()),
        ("mixer/mlp_spe", "MlpSpeB", 65_647_304, 6, strict()),
        ("mixer/mlp_spe_published", "MlpSpeTPublished", 25_229_180, 4, tokens(&[2, 8, 14, 2])),
        ("mixer/mlp_spe_published", "MlpSpeSPublished", 37_975_568, 4, tokens(&[2, 8, 14, 2])),
        ("mixer/mlp_spe_published", "MlpSpeBPublished", 65_607_184, 6, tokens(&[2, 10, 24, 2])),
        ("quickstart/digits", "Digits", 167_458, 4, strict()),
        ("quickstart/digits_attention", "DigitsAttention", 30_514, 4, strict()),
        ("quickstart/digits_rate", "DigitsRate", 19_797, 8, strict()),
        ("quickstart/digits_residual", "DigitsResidual", 42_378, 4, strict()),
        ("spikingformer/cifar", "Spikingformer4x256", 4_152_106, 4, strict()),
        ("spikingformer/cifar", "Spikingformer2x384", 5_762_746, 4, strict()),
        ("spikingformer/cifar", "Spikingformer4x384", 9_320_122, 4, strict()),
        ("spikingformer/cifar_published", "Spikingformer4x256Published", 4_152_106, 4, head()),
        ("spikingformer/cifar_published", "Spikingformer2x384Published", 5_762_746, 4, head()),
        ("spikingformer/cifar_published", "Spikingformer4x384Published", 9_320_122, 4, head()),
        ("spikingformer/dvs", "Spikingformer2x256Cifar10Dvs", 2_566_666, 16, strict()),
        ("spikingformer/dvs", "Spikingformer2x256Gesture", 2_566_923, 16, strict()),
        ("spikingformer/dvs_published", "Spikingformer2x256Cifar10DvsPublished", 2_566_666, 16, event_spikingformer(2)),
        ("spikingformer/dvs_published", "Spikingformer2x256GesturePublished", 2_566_923, 16, event_spikingformer(2)),
        ("spikingformer/imagenet", "Spikingformer8x384", 16_816_024, 4, strict()),
        ("spikingformer/imagenet", "Spikingformer8x512", 29_689_384, 4, strict()),
        ("spikingformer/imagenet", "Spikingformer8x768", 66_338_632, 4, strict()),
        ("spikingformer/imagenet_published", "Spikingformer8x384Published", 16_816_024, 4, head()),
        ("spikingformer/imagenet_published", "Spikingformer8x512Published", 29_689_384, 4, head()),
        ("spikingformer/imagenet_published", "Spikingformer8x768Published", 66_338_632, 4, head()),
    ]
}

fn residues(of: &Value) -> BTreeSet<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    of.as_array().unwrap().iter().map(|r| (text(&r["rule"]), text(&r["path"]))).collect()
}

#[test]
fn the_verdict_of_every_model_is_the_reviewed_one() {
    let all: Value = serde_json::from_str(&snnc(&["check", "zoo/", "--format", "json"])).unwrap();
    let mut found = BTreeMap::new();
    for file in all["files"].as_array().unwrap() {
        let path = file["path"].as_str().unwrap();
        // All that is found is admitted in the source.
        let open = file["diagnostics"].as_array().unwrap().iter().find(|d| d["suppressed"] != "source");
        assert!(open.is_none(), "{path}: {open:?}");
        for model in file["models"].as_array().unwrap() {
            let file = path.trim_start_matches("zoo/models/").trim_end_matches(".snn").to_owned();
            found.insert((file, model["name"].as_str().unwrap().to_owned()), model.clone());
        }
    }
    let list: Vec<Value> = serde_json::from_str(&snnc(&["zoo", "--format", "json"])).unwrap();
    assert_eq!(list.len(), reviewed().len());
    for ((file, variant, parameters, time, expected), listed) in reviewed().into_iter().zip(&list) {
        let checked = found.remove(&(file.to_owned(), variant.to_owned())).unwrap_or_else(|| panic!("{variant} was not checked"));
        let expected: BTreeSet<(String, String)> = expected.into_iter().map(|(rule, path)| (rule.to_owned(), path)).collect();
        let verdict = if expected.is_empty() { "strict" } else { "admitted" };
        assert_eq!(
            (&checked["verdict"], &checked["parameters"], &checked["time"]),
            (&verdict.into(), &parameters.into(), &time.into()),
            "{variant}"
        );
        assert_eq!(residues(&checked["residues"]), expected, "{variant}");
        assert_eq!(checked["residues"].as_array().unwrap().len(), expected.len(), "{variant}");
        let words: [&Value; 3] = [&listed["file"], &listed["variant"], &listed["verdict"]];
        assert_eq!(words, [file, variant, verdict]);
        assert_eq!(listed["parameters"], Value::from(parameters));
        assert_eq!(listed["time_steps"], Value::from(time));
        assert_eq!(residues(&listed["residues"]), expected, "{variant}");
        assert!(listed["published"].is_array());
    }
    assert!(found.is_empty(), "not in the table: {:?}", found.keys());
}

#[test]
fn the_readme_has_the_table_of_the_zoo() {
    let readme = fs::read_to_string(project("README.md")).unwrap();
    let table = snnc(&["zoo", "--format", "markdown"]);
    assert!(readme.contains(&table), "run `snnc zoo --format markdown` and put what it prints into README.md:\n{table}");
}
