//! Every rule, broken in every family of the zoo: it is named, and no other, at its line, with its reason; and where it has a
//! remedy, `--fix` makes the model strict again.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use serde_json::Value;
use snnc_tests::{said, snnc};
use std::collections::BTreeSet;
use std::fs;
use tempfile::TempDir;

/// The model, the rule that breaks, what is written and what instead (the first place of it), what the finding points at, the
/// reason given or part of it, and how `--fix` mends it.
type Mutation = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str, &'static str, Fix);

#[derive(Clone, Copy, PartialEq)]
enum Fix {
    /// There is no usual remedy.
    Not,
    /// By its usual remedy.
    Usual,
    /// By that, or, with `--exact`, by a fold that leaves what the network computes as it is.
    Exact,
}
use Fix::{Exact, Not, Usual};

const MIXER: &str = "mixer/mlp_spe";
const SPIKINGFORMER: &str = "spikingformer/imagenet";
const GAC: &str = "gac/msresnet_cifar";
const DSR: &str = "dsr/preact_resnet18_cifar";

const LEAK: &str = "the membrane leaks by a factor of 0.666667";
const REAL: &str = "multiplies weights with a real value";
const PRODUCT: &str = "a product of two signals of which neither is a spike";
const SIGMOID: &str = "`sigmoid` is computed by multiplying";
const SCALE: &str = "the scale over H of `batchnorm` cannot be folded away";

#[rustfmt::skip]
const MUTATIONS: [Mutation; 22] = [
    (MIXER, "leak", &[("tau = 2.0", "tau = 3.0")], "LIF(tau = 3.0, threshold", LEAK, Exact),
    (SPIKINGFORMER, "leak", &[("tau = 2.0", "tau = 3.0")], "LIF(tau = 3.0, threshold = 1.0", LEAK, Exact),
    (GAC, "leak", &[("tau = 2.0", "tau = 3.0")], "LIF(tau = 3.0, decay_input", LEAK, Exact),
    (DSR, "leak", &[("leaky: bool = false", "leaky: bool = true"), ("LIF(tau = steps", "LIF(tau = 3.0")], "LIF(tau = 3.0, threshold", LEAK, Exact),
    (MIXER, "real_operand", &[("s = h |> lif", "s = h |> conv(C = dim << i, kernel = 1) |> lif")], "conv(C = dim << i", REAL, Usual),
    (SPIKINGFORMER, "real_operand", &[("head = m |> lif |>", "head = m |> linear(C -> C = dim) |> lif |>")], "linear(C -> C = dim)", REAL, Exact),
    (GAC, "real_operand", &[("head = m |> lif", "head = m |> linear(C -> C = 512) |> lif")], "linear(C -> C = 512)", REAL, Exact),
    (DSR, "real_operand", &[("pooled = m |>", "pooled = m |> conv(C = 512, kernel = 1) |>")], "conv(C = 512", REAL, Exact),
    (SPIKINGFORMER, "real_operand", &[("head = m |> lif |>", "head = m |>")], "linear(C -> C = classes", REAL, Exact),
    (GAC, "real_operand", &[("head = m |> lif", "a = m |> lif |> linear(C -> C = 512)\n    b = a + (a |> lif |> linear(C -> C = 512))\n    head = b")], "linear(C -> C = classes)", REAL, Exact),
    (MIXER, "real_product", &[("s = h |> lif", "s = h * h |> lif")], "h * h", PRODUCT, Not),
    (SPIKINGFORMER, "real_product", &[("head = m |>", "head = m * m |>")], "m * m", PRODUCT, Not),
    (GAC, "real_product", &[("head = m |>", "head = m * m |>")], "m * m", PRODUCT, Not),
    (DSR, "real_product", &[("pooled = m |>", "pooled = m * m |>")], "m * m", PRODUCT, Not),
    (MIXER, "transcendental", &[("s = h |> lif", "s = h |> sigmoid |> lif")], "sigmoid", SIGMOID, Not),
    (SPIKINGFORMER, "transcendental", &[("head = m |>", "head = m |> sigmoid |>")], "sigmoid", SIGMOID, Not),
    (GAC, "transcendental", &[("head = m |>", "head = m |> sigmoid |>")], "sigmoid", SIGMOID, Not),
    (DSR, "transcendental", &[("pooled = m |>", "pooled = m |> sigmoid |>")], "sigmoid", SIGMOID, Not),
    (MIXER, "unfoldable_scale", &[("s = h |> lif", "more = h |> lif |> conv(C = dim << i, kernel = 1) |> batchnorm(H)\n            s = h + more |> lif")], "batchnorm(H)", SCALE, Usual),
    (SPIKINGFORMER, "unfoldable_scale", &[("head = m |>", "more = m |> lif |> linear(C -> C = dim) |> batchnorm(H)\n    head = m + more |>")], "batchnorm(H)", SCALE, Usual),
    (GAC, "unfoldable_scale", &[("head = m |>", "more = m |> lif |> linear(C -> C = 512) |> batchnorm(H)\n    head = m + more |>")], "batchnorm(H)", SCALE, Usual),
    (DSR, "unfoldable_scale", &[("pooled = m |>", "more = m |> spiking |> conv(C = 512, kernel = 1) |> batchnorm(H)\n    pooled = m + more |>")], "batchnorm(H)", SCALE, Usual),
];

#[test]
fn every_rule_breaks_alone_in_every_family() {
    for rule in snnc_compiler::check::RULES {
        let families: BTreeSet<&str> = MUTATIONS.iter().filter(|m| m.1 == rule).map(|m| m.0).collect();
        assert_eq!(families.len(), 4, "{rule} is not broken in every family");
    }
    for (model, rule, edits, at, reason, fix) in &MUTATIONS {
        let t = TempDir::new().unwrap();
        let mut text = snnc_zoo::model(model).unwrap().to_owned();
        for (from, to) in *edits {
            assert!(text.contains(from), "{model} no longer says {from}");
            text = text.replacen(from, to, 1);
        }
        let copy = t.path().join("copy.snn");
        fs::write(&copy, &text).unwrap();
        let out = snnc(t.path(), &["check", "copy.snn", "--format", "json"]);
        let named = format!("{rule} in {model}");
        assert_eq!(out.status.code(), Some(1), "{named}: {}", said(&out));
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        let file = &report["files"][0];
        let found = file["diagnostics"].as_array().unwrap();
        let codes: Vec<&str> = found.iter().map(|d| d["code"].as_str().unwrap()).collect();
        assert_eq!(codes, [format!("snnc::check::{rule}")], "{named}");
        let label = &found[0]["labels"][0];
        let place = usize::try_from(label["start"].as_u64().unwrap()).unwrap();
        assert!(text[place..].starts_with(at), "{named} points at {}", &text[place..place + 40]);
        let line = text[..place].matches('\n').count() + 1;
        assert!(label["place"].as_str().unwrap().starts_with(&format!("copy.snn:{line}:")), "{named}");
        assert!(found[0]["message"].as_str().unwrap().contains(reason), "{named}: {}", found[0]["message"]);
        assert!(file["models"].as_array().unwrap().iter().any(|v| v["verdict"] == "violated"), "{named}");
        for (flags, fixes) in [(&["--fix"][..], *fix != Not), (&["--fix", "--exact"], *fix == Exact)] {
            fs::write(&copy, &text).unwrap();
            let out = snnc(t.path(), &[&["check", "copy.snn"], flags].concat());
            let (named, words) = (format!("{named} with {flags:?}"), said(&out));
            assert_eq!(out.status.code(), Some(i32::from(!fixes)), "{named}: {words}");
            let after = fs::read_to_string(&copy).unwrap();
            if fixes {
                assert!(words.contains("strict") && !words.contains("violated"), "{named}: {words}");
                assert_eq!(after.contains("fold("), flags.contains(&"--exact"), "{named}");
                let formatted = snnc(t.path(), &["fmt", "--check", "copy.snn"]);
                assert!(formatted.status.success(), "{named} is not formatted");
            } else {
                assert_eq!(after, text, "{named} has no remedy, and yet the file was changed");
            }
        }
    }
}
