//! Every rule, broken in every family of the zoo: it is named, and no other, at its line, with its reason; and where it has a
//! remedy, `--fix` makes the model strict again.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

struct Mutation {
    model: &'static str,
    rule: &'static str,
    /// What is written, and what instead; the first place of it.
    edits: &'static [(&'static str, &'static str)],
    /// What the finding points at.
    at: &'static str,
    /// The reason given, or part of it.
    reason: &'static str,
    fixed: bool,
}

const MIXER: &str = "mixer/mlp_spe";
const SPIKINGFORMER: &str = "spikingformer/imagenet";
const GAC: &str = "gac/msresnet_cifar";
const DSR: &str = "dsr/preact_resnet18_cifar";

const fn mutation(
    model: &'static str,
    rule: &'static str,
    edits: &'static [(&'static str, &'static str)],
    at: &'static str,
    reason: &'static str,
    fixed: bool,
) -> Mutation {
    Mutation { model, rule, edits, at, reason, fixed }
}

const LEAK: &str = "the membrane leaks by a factor of 0.666667";
const REAL: &str = "multiplies weights with a real value";
const PRODUCT: &str = "a product of two signals of which neither is a spike";
const SIGMOID: &str = "`sigmoid` is computed by multiplying";
const SCALE: &str = "the scale over H of `batchnorm` cannot be folded away";

#[rustfmt::skip]
const MUTATIONS: [Mutation; 20] = [
    mutation(MIXER, "leak", &[("tau = 2.0", "tau = 3.0")], "LIF(tau = 3.0, threshold", LEAK, true),
    mutation(SPIKINGFORMER, "leak", &[("tau = 2.0", "tau = 3.0")], "LIF(tau = 3.0, threshold = 1.0", LEAK, true),
    mutation(GAC, "leak", &[("tau = 2.0", "tau = 3.0")], "LIF(tau = 3.0, decay_input", LEAK, true),
    mutation(DSR, "leak", &[("leaky: bool = false", "leaky: bool = true"), ("LIF(tau = steps", "LIF(tau = 3.0")], "LIF(tau = 3.0, threshold", LEAK, true),
    mutation(MIXER, "real_operand", &[("s = h |> lif", "s = h |> conv(C = dim << i, kernel = 1) |> lif")], "conv(C = dim << i", REAL, true),
    mutation(SPIKINGFORMER, "real_operand", &[("head = m |> lif |>", "head = m |> linear(C -> C = dim) |> lif |>")], "linear(C -> C = dim)", REAL, true),
    mutation(GAC, "real_operand", &[("head = m |> lif", "head = m |> linear(C -> C = 512) |> lif")], "linear(C -> C = 512)", REAL, true),
    mutation(DSR, "real_operand", &[("pooled = m |>", "pooled = m |> conv(C = 512, kernel = 1) |>")], "conv(C = 512", REAL, true),
    mutation(MIXER, "real_product", &[("s = h |> lif", "s = h * h |> lif")], "h * h", PRODUCT, false),
    mutation(SPIKINGFORMER, "real_product", &[("head = m |>", "head = m * m |>")], "m * m", PRODUCT, false),
    mutation(GAC, "real_product", &[("head = m |>", "head = m * m |>")], "m * m", PRODUCT, false),
    mutation(DSR, "real_product", &[("pooled = m |>", "pooled = m * m |>")], "m * m", PRODUCT, false),
    mutation(MIXER, "transcendental", &[("s = h |> lif", "s = h |> sigmoid |> lif")], "sigmoid", SIGMOID, false),
    mutation(SPIKINGFORMER, "transcendental", &[("head = m |>", "head = m |> sigmoid |>")], "sigmoid", SIGMOID, false),
    mutation(GAC, "transcendental", &[("head = m |>", "head = m |> sigmoid |>")], "sigmoid", SIGMOID, false),
    mutation(DSR, "transcendental", &[("pooled = m |>", "pooled = m |> sigmoid |>")], "sigmoid", SIGMOID, false),
    mutation(MIXER, "unfoldable_scale", &[("s = h |> lif", "more = h |> lif |> conv(C = dim << i, kernel = 1) |> batchnorm(H)\n            s = h + more |> lif")], "batchnorm(H)", SCALE, true),
    mutation(SPIKINGFORMER, "unfoldable_scale", &[("head = m |>", "more = m |> lif |> linear(C -> C = dim) |> batchnorm(H)\n    head = m + more |>")], "batchnorm(H)", SCALE, true),
    mutation(GAC, "unfoldable_scale", &[("head = m |>", "more = m |> lif |> linear(C -> C = 512) |> batchnorm(H)\n    head = m + more |>")], "batchnorm(H)", SCALE, true),
    mutation(DSR, "unfoldable_scale", &[("pooled = m |>", "more = m |> spiking |> conv(C = 512, kernel = 1) |> batchnorm(H)\n    pooled = m + more |>")], "batchnorm(H)", SCALE, true),
];

fn snnc(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_snnc")).args(args).current_dir(folder).env("NO_COLOR", "1").output().unwrap()
}

#[test]
fn every_rule_breaks_alone_in_every_family() {
    let rules: Vec<&str> =
        snnc_compiler::check::RULES.into_iter().filter(|r| MUTATIONS.iter().filter(|m| m.rule == *r).count() == 4).collect();
    assert_eq!(rules, snnc_compiler::check::RULES, "a rule is not broken in every family");
    for m in &MUTATIONS {
        let t = TempDir::new().unwrap();
        let mut text = snnc_zoo::model(m.model).unwrap().to_owned();
        for (from, to) in m.edits {
            assert!(text.contains(from), "{} no longer says {from}", m.model);
            text = text.replacen(from, to, 1);
        }
        fs::write(t.path().join("copy.snn"), &text).unwrap();
        let out = snnc(t.path(), &["check", "copy.snn", "--format", "json"]);
        let named = format!("{} in {}", m.rule, m.model);
        assert_eq!(out.status.code(), Some(1), "{named}: {}", String::from_utf8_lossy(&out.stdout));
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        let file = &report["files"][0];
        let found = file["diagnostics"].as_array().unwrap();
        let codes: Vec<&str> = found.iter().map(|d| d["code"].as_str().unwrap()).collect();
        assert_eq!(codes, [format!("snnc::check::{}", m.rule)], "{named}");
        let label = &found[0]["labels"][0];
        let place = usize::try_from(label["start"].as_u64().unwrap()).unwrap();
        assert!(text[place..].starts_with(m.at), "{named} points at {}", &text[place..place + 40]);
        let line = text[..place].matches('\n').count() + 1;
        assert!(label["place"].as_str().unwrap().starts_with(&format!("copy.snn:{line}:")), "{named}");
        assert!(found[0]["message"].as_str().unwrap().contains(m.reason), "{named}: {}", found[0]["message"]);
        assert!(file["models"].as_array().unwrap().iter().any(|v| v["verdict"] == "violated"), "{named}");
        let out = snnc(t.path(), &["check", "copy.snn", "--fix"]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(i32::from(!m.fixed)), "{named}: {said}");
        let after = fs::read_to_string(t.path().join("copy.snn")).unwrap();
        if m.fixed {
            assert!(said.contains("strict") && !said.contains("violated"), "{named}: {said}");
            let formatted = snnc(t.path(), &["fmt", "--check", "copy.snn"]);
            assert!(formatted.status.success(), "{named} is not formatted");
        } else {
            assert_eq!(after, text, "{named} has no remedy, and yet the file was changed");
        }
    }
}
