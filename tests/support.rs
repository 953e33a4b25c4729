//! The few functions that all suites share: open, check, compare, render.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use snnc_compiler::check::{Checked, check};
use snnc_compiler::graph::{Graph, Settings, build, instantiate};
use snnc_compiler::kernel::Format;
use snnc_compiler::resolve::{Package, resolve};
use snnc_grammar::{Diagnostic, FileId, SourceMap};
use snnc_runtime::device::Backend;
use snnc_runtime::library::{Library, open};

/// What was built, or what was wrong.
pub type Built = Result<(Package, Graph), Vec<Diagnostic>>;

/// A source, taken through the compiler as far as it goes.
pub fn build_file(sources: &mut SourceMap, file: FileId, variant: Option<&str>, settings: &Settings) -> Built {
    let package = resolve(sources, file, &Library)?;
    let instance = instantiate(sources, &package, variant, settings)?;
    let graph = build(&package, &instance)?;
    Ok((package, graph))
}

/// A text, taken through the compiler as far as it goes: the graph, or what was wrong.
pub fn build_text(name: &str, text: &str, variant: Option<&str>, settings: &Settings) -> (SourceMap, Result<Graph, Vec<Diagnostic>>) {
    let mut sources = SourceMap::default();
    let file = sources.add(name, text);
    let built = build_file(&mut sources, file, variant, settings);
    (sources, built.map(|(_, graph)| graph))
}

/// A text that is right, checked.
pub fn checked_text(text: &str, settings: &Settings) -> Checked {
    let (sources, graph) = build_text("test.snn", text, None, settings);
    match graph {
        Ok(graph) => check(graph),
        Err(errors) => panic!("{}", render(&sources, &errors)),
    }
}

/// A model of the zoo with settings `name=value`, checked, and its package.
pub fn zoo_package(path: &str, variant: Option<&str>, set: &[(&str, &str)], time: Option<usize>) -> (Package, Checked) {
    let mut sources = SourceMap::default();
    let file = open(&mut sources, path).unwrap();
    let set = set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    match build_file(&mut sources, file, variant, &Settings { set, time }) {
        Ok((package, graph)) => (package, check(graph)),
        Err(errors) => panic!("{}", render(&sources, &errors)),
    }
}

/// A model of the zoo with settings `name=value`, checked.
pub fn zoo(path: &str, set: &[(&str, &str)], time: Option<usize>) -> Checked {
    zoo_package(path, None, set, time).1
}

/// Every model of the zoo, made small.
const SMALL: [(&str, &str); 32] = [
    ("dsr/preact_resnet18_cifar", "T=3 stem=4 widths=[4,6,6,8] v_threshold=0.8"),
    ("dsr/preact_resnet18_cifar", "T=3 stem=4 widths=[4,6,6,8] leaky=true v_threshold=0.3 alpha=0.3"),
    ("dsr/preact_resnet18_cifar_published", "T=3 stem=4 widths=[4,6,6,8] v_threshold=0.8"),
    ("dsr/preact_resnet18_cifar_published", "T=3 stem=4 widths=[4,6,6,8] leaky=true v_threshold=0.3 alpha=0.3"),
    ("dsr/preresnet18_imagenet", "T=3 width=4 image=64 classes=5 v_threshold=0.8"),
    ("dsr/preresnet18_imagenet", "T=3 width=4 image=64 classes=5 leaky=true v_threshold=0.3 alpha=0.3"),
    ("dsr/preresnet18_imagenet_published", "T=3 width=4 image=64 classes=5 v_threshold=0.8"),
    ("dsr/preresnet18_imagenet_published", "T=3 width=4 image=64 classes=5 leaky=true v_threshold=0.3 alpha=0.3"),
    ("dsr/preresnet18_imagenet_relu", "width=4 image=64 classes=5"),
    ("dsr/vgg11_dvs", "T=3 widths=[4,4,6,6,8] v_threshold=0.8"),
    ("dsr/vgg11_dvs", "T=3 widths=[4,4,6,6,8] leaky=true v_threshold=0.3 alpha=0.3"),
    ("dsr/vgg11_dvs_published", "T=3 widths=[4,4,6,6,8] v_threshold=0.8"),
    ("dsr/vgg11_dvs_published", "T=3 widths=[4,4,6,6,8] leaky=true v_threshold=0.3 alpha=0.3"),
    ("gac/msresnet_cifar", "T=3 stem=4 widths=[4,6,8] blocks=[1,2,1] image=16"),
    ("gac/msresnet_cifar_published", "T=3 stem=4 widths=[4,6,8] blocks=[1,2,1] image=16"),
    ("gac/msresnet_imagenet", "T=3 stem=4 widths=[4,6,6,8] blocks=[1,2,1,1] image=64 classes=5"),
    ("gac/msresnet_imagenet_published", "T=3 stem=4 widths=[4,6,6,8] blocks=[1,2,1,1] image=64 classes=5"),
    ("mixer/mlp", "T=3 dim=6 depths=[1,1,1,1] image=32 classes=4"),
    ("mixer/mlp_published", "T=3 dim=6 depths=[1,1,1,1] image=32 classes=4"),
    ("mixer/mlp_spe", "T=3 dim=6 depths=[1,1,1,1] image=32 classes=4"),
    ("mixer/mlp_spe_published", "T=3 dim=6 depths=[1,1,1,1] image=32 classes=4"),
    ("quickstart/digits", "dim=12"),
    ("quickstart/digits_attention", ""),
    ("quickstart/digits_rate", ""),
    ("quickstart/digits_residual", ""),
    ("spikingformer/cifar", "T=3 dim=16 heads=2 depth=1"),
    ("spikingformer/cifar_published", "T=3 dim=16 heads=2 depth=1"),
    ("spikingformer/dvs", "T=3 dim=8 heads=2 depth=1 image=64"),
    ("spikingformer/dvs_published", "T=3 dim=8 heads=2 depth=1 image=64"),
    ("spikingformer/imagenet", "T=3 dim=16 heads=2 depth=1 image=64 classes=5"),
    ("spikingformer/imagenet_published", "T=3 dim=16 heads=2 depth=1 image=64 classes=5"),
    ("spikingformer/imagenet_published", "T=2 dim=8 heads=4 depth=2 image=80 classes=3 mlp_ratio=3"),
];

/// Every variant of the zoo at its full size.
pub fn full_zoo() -> impl Iterator<Item = (String, Checked)> {
    snnc_zoo::MODELS.iter().flat_map(|(path, _)| {
        let variants = zoo_package(path, None, &[], None).0.variants.into_iter().map(|v| v.name.name);
        variants.map(|variant| (variant.clone(), zoo_package(path, Some(&variant), &[], None).1))
    })
}

/// Every model of the zoo, made small, with what it is called.
pub fn small_zoo() -> Vec<(String, Checked)> {
    assert!(snnc_zoo::MODELS.iter().all(|(path, _)| SMALL.iter().any(|(p, _)| p == path)), "a model of the zoo has no small form");
    let small = SMALL.iter().map(|(path, set)| {
        let set: Vec<(&str, &str)> = set.split_whitespace().filter_map(|s| s.split_once('=')).collect();
        (format!("{path} {set:?}"), zoo(path, &set, None))
    });
    small.collect()
}

/// Diagnostics as users see them, without colour.
pub fn render(sources: &SourceMap, diagnostics: &[Diagnostic]) -> String {
    let handler = miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor()).with_width(100).with_links(false);
    let mut out = String::new();
    for diagnostic in diagnostics {
        handler.render_report(&mut out, &diagnostic.report(sources)).unwrap();
        out.push('\n');
    }
    out
}

/// The largest difference, relative to the larger of the tensor's largest magnitude and `floor`.
pub fn distance(ours: &[f64], theirs: &[f64], floor: f64) -> f64 {
    assert_eq!(ours.len(), theirs.len(), "different numbers of elements");
    let scale = theirs.iter().fold(floor, |m, x| m.max(x.abs()));
    let worst =
        ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, |m: f64, x| if x.is_nan() { f64::INFINITY } else { m.max(x) });
    if scale == 0.0 { worst } else { worst / scale }
}

/// A deterministic stream of numbers in [0, 1) for test data (SplitMix64).
#[derive(Debug)]
pub struct Numbers(pub u64);

impl Numbers {
    /// The next number.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The file of tests with this path; `SNNC_TESTS` is their folder where the tests were built elsewhere.
pub fn data(path: &str) -> std::path::PathBuf {
    let folder = std::env::var_os("SNNC_TESTS").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    std::path::Path::new(&folder).join(path)
}

/// What CUDA text runs on: the GPU with `SNNC_GPU` set, as `tests/gpu.sh` does, else the host, in this folder.
pub fn cuda(folder: &std::path::Path) -> Backend {
    cuda_in(folder, Format::F32)
}

/// The same where what varies over samples is kept in this format.
pub fn cuda_in(folder: &std::path::Path, precision: Format) -> Backend {
    let gpu = std::env::var_os("SNNC_GPU").is_some();
    if gpu { Backend::Cuda(precision, false) } else { Backend::Hosted(folder.to_owned(), precision) }
}

/// A program that some tests need, if it is installed; CI sets `SNNC_ALL_TESTS`, and there it must be.
pub fn tool(name: &str) -> Option<String> {
    let found = std::process::Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    needed(found, &format!("`{name}`")).then(|| name.to_owned())
}

/// What some tests need and is found or not; in CI it must be.
pub fn needed(found: bool, what: &str) -> bool {
    if !found {
        assert!(std::env::var_os("SNNC_ALL_TESTS").is_none(), "{what} is not installed; tests/tools.sh installs it");
        #[allow(clippy::print_stdout, reason = "a test that is skipped says so")]
        {
            println!("skipped: {what} is not installed; tests/tools.sh installs it");
        }
    }
    found
}

/// Runs the command line in a folder. The binary lies beside the folder of the tests' own.
pub fn snnc(folder: &std::path::Path, args: &[&str]) -> std::process::Output {
    let own = std::env::current_exe().unwrap();
    let binary = own.ancestors().nth(2).unwrap().join(format!("snnc{}", std::env::consts::EXE_SUFFIX));
    let cache = own.ancestors().nth(2).unwrap().join("cache of tests");
    std::process::Command::new(binary).args(args).current_dir(folder).env("NO_COLOR", "1").env("SNNC_CACHE", cache).output().unwrap()
}

/// Both outputs of a run.
pub fn said(out: &std::process::Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// A run ends with this code and says all of these words; gives what it wrote to its first output.
pub fn says(folder: &std::path::Path, args: &[&str], code: i32, words: &[&str]) -> String {
    let out = snnc(folder, args);
    let text = said(&out);
    assert_eq!(out.status.code(), Some(code), "snnc {args:?}:\n{text}");
    assert!(!text.contains("internal error") && !text.contains("panicked"), "{text}");
    for word in words {
        assert!(text.contains(word), "snnc {args:?} does not say `{word}`:\n{text}");
    }
    String::from_utf8(out.stdout).unwrap()
}

/// Checks a JSON document against a schema of the project.
pub fn validate(schema: &str, value: &serde_json::Value) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(schema);
    let mut schema: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    // The published schema of SARIF has a pattern for languages that is no regular expression; nothing here has one.
    for holder in ["run", "toolComponent"] {
        if let Some(language) = schema.pointer_mut(&format!("/definitions/{holder}/properties/language")) {
            language.as_object_mut().unwrap().remove("pattern");
        }
    }
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(value).map(|e| format!("{} at {}", e, e.instance_path())).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}
