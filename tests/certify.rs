//! The certificate: what it says, that it can be derived again, and that nothing in it can be changed unseen.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use serde_json::Value;
use snnc_tests::{says, validate};
use std::fs;
use std::process::Command;
use tempfile::TempDir;

const MODEL: &str = "model M {
    time T = 4
    input x: analog[C = 3, H = 8, W = 8]
    neuron lif = LIF(tau = 2.0)
    encoder {
        e = x |> conv(C = 8, kernel = 3, pad = 1)
    }
    s = e |> lif
    r = s |> conv(C = 8, kernel = 3, pad = 1) |> batchnorm(C) |> lif
    output r |> mean(H, W) |> linear(C -> C = 10) |> mean(T)
}
";

#[test]
fn a_certificate_counts_what_can_be_counted_by_hand() {
    let t = TempDir::new().unwrap();
    fs::write(t.path().join("m.snn"), MODEL).unwrap();
    let text = says(t.path(), &["certify", "m.snn", "--format", "json"], 0, &[]);
    let c: Value = serde_json::from_str(&text).unwrap();
    validate("docs/schemas/certificate.schema.json", &c);
    assert_eq!((c["verdict"].as_str(), c["subject"]["name"].as_str()), (Some("strict"), Some("M")));
    let totals = |name: &str| c["totals"][name].as_u64().unwrap();
    // The input is the same at all steps: its convolution is computed once. 3 * 9 weights and a bias for 8 * 64 places.
    assert_eq!(totals("encoder_macs"), 8 * 64 * 28);
    // 8 weights for 8 * 64 places, each over the 22 * 22 taps of 8 + 8 + 8 that lie within a side, less its ends; a bias; 4 steps; and at each step a head of 8 * 10 weights for up to 64 spikes, and 10 biases.
    assert_eq!(totals("accumulates"), 4 * (8 * 8 * 22 * 22 + 8 * 64) + 4 * (8 * 10 * 64 + 10));
    // Two layers of neurons: one comparison for each and every step, and 0, 1, 2 and 3 doublings.
    assert_eq!(totals("comparisons"), 2 * 4 * 8 * 64);
    assert_eq!(totals("shifts"), 2 * (1 + 2 + 3) * 8 * 64);
    assert_eq!((totals("residues"), totals("residue_multiplications"), totals("and_counts")), (0, 0, 0));
    let node = |path: &str| c["written"].as_array().unwrap().iter().find(|w| w["path"] == path).unwrap().clone();
    let norm = node("r.batchnorm");
    assert_eq!(norm["factor"]["destination"], "before");
    assert_eq!(norm["factor"]["into"], "r.conv");
    assert!(norm["factor"]["value"].as_str().unwrap().contains("r.batchnorm.running_var"));
    assert_eq!((norm["place"].as_str(), norm["text"].as_str()), (Some("m.snn:9:50"), Some("batchnorm(C)")));
    assert_eq!(node("e.conv")["how"], "encoder");
    assert_eq!(node("r.conv")["how"], "accumulate");
    // 4 steps of 8 * 64 values scaled.
    assert_eq!(norm["multiplications"], 4 * 8 * 64);
    let prepared = c["prepare"].as_array().unwrap().iter().find(|p| p["parameter"] == "r.conv.weight").unwrap();
    assert_eq!((prepared["multiplies"].as_bool(), prepared["elements"].as_u64()), (Some(true), Some(8 * 8 * 9)));
    // SHA-256 of the text, from another implementation.
    let hash = Command::new("sha256sum").arg(t.path().join("m.snn")).output().unwrap();
    assert!(String::from_utf8_lossy(&hash.stdout).starts_with(c["hashes"]["sources"][0][1].as_str().unwrap()));
    assert_eq!(c["code"]["census"]["findings"], Value::Array(vec![]));
}

#[test]
fn counts_at_borders_and_beside_spikes_and_comparisons_are_exact() {
    let t = TempDir::new().unwrap();
    let totals = |body: &str| {
        let model = format!(
            "model M {{\n time T = 4\n input x: analog[C = 1, H = 8, W = 8]\n neuron lif = LIF(tau = 2.0)\n encoder {{ e = x |> conv(C = 2, kernel = 3, pad = 1) }}\n s = e |> lif\n {body}\n}}\n"
        );
        fs::write(t.path().join("c.snn"), model).unwrap();
        let text = says(t.path(), &["certify", "c.snn", "--format", "json"], 0, &[]);
        let c: Value = serde_json::from_str(&text).unwrap();
        ["accumulates", "comparisons"].map(|name| c["totals"][name].as_u64().unwrap())
    };
    let neurons = 4 * 2 * 64;
    // Windows of 3 that are 3 apart, behind 2 zeros: 1, 3, 3 and 1 places of a side, so windows of 2 of them see 4, 6 and 4.
    let pooled = "avg_pool(kernel = 3, stride = 3, pad = 2) |> conv(C = 2, kernel = 2, bias = false)";
    let head = 4 * (2 * 9 * 3 + 3);
    assert_eq!(
        totals(&format!("r = s |> {pooled} |> lif\n output r |> mean(H, W) |> linear(C -> C = 3) |> mean(T)"))[0],
        4 * 2 * 2 * 14 * 14 + head
    );
    // Beside 2 * 8 spikes as many counts of 2, 3 weights each.
    let twice = "a = s |> max(H)\n output concat(W; a + a, a) |> merge(C, W -> K) |> linear(K -> K = 3, bias = false) |> mean(T)";
    let [additions, comparisons] = totals(twice);
    assert_eq!(additions, 4 * 3 * (2 * 16 + 16));
    // The largest of 8 takes 7 comparisons; a window of 3 around every place has 22 places of a side.
    assert_eq!(comparisons, neurons + 4 * 2 * 8 * 7);
    let windows =
        totals("r = s |> max_pool(kernel = 3, stride = 1, pad = 1) |> lif\n output r |> mean(H, W) |> linear(C -> C = 3) |> mean(T)")[1];
    assert_eq!(windows, 2 * neurons + 4 * 2 * (22 * 22 - 64));
}

#[test]
fn every_model_of_the_zoo_has_a_certificate_that_fits_the_schema_and_holds() {
    let t = TempDir::new().unwrap();
    for (path, _) in snnc_zoo::MODELS {
        says(t.path(), &["certify", path, "-o", "c.json"], 0, &["0 of"]);
        let c: Value = serde_json::from_slice(&fs::read(t.path().join("c.json")).unwrap()).unwrap();
        validate("docs/schemas/certificate.schema.json", &c);
        says(t.path(), &["certify", "--verify", "c.json"], 0, &["c.json holds"]);
    }
}

#[test]
fn a_certificate_for_another_machine_is_derived_here() {
    let t = TempDir::new().unwrap();
    fs::write(t.path().join("m.snn"), MODEL).unwrap();
    for target in ["x86-64", "aarch64"] {
        says(t.path(), &["certify", "m.snn", "--target", target, "-o", "c.json"], 0, &["0 of"]);
        says(t.path(), &["certify", "--verify", "c.json"], 0, &["holds"]);
    }
    says(t.path(), &["certify", "m.snn", "--target", "sparc"], 2, &["`sparc` is not known"]);
}

#[test]
fn what_was_changed_is_seen() {
    let t = TempDir::new().unwrap();
    fs::write(t.path().join("m.snn"), MODEL).unwrap();
    says(t.path(), &["certify", "m.snn", "--set", "", "-o", "c.json"], 2, &["--set"]);
    says(t.path(), &["certify", "m.snn", "-o", "c.json"], 0, &[]);
    let whole = fs::read_to_string(t.path().join("c.json")).unwrap();
    // The source: a comment, a space, a number.
    for (edited, words) in [
        (MODEL.replace("model M", "// A comment.\nmodel M"), vec!["source m.snn; the program is the same"]),
        (MODEL.replace("s = e", "s =  e"), vec!["source m.snn; the program is the same"]),
        (
            MODEL.replace("C = 8, kernel = 3, pad = 1) |> batch", "C = 9, kernel = 3, pad = 1) |> batch"),
            vec!["source m.snn:", "hash of the program"],
        ),
        (MODEL.replace("LIF(tau = 2.0)", "LIF(tau = 3.0)"), vec!["verdict: the certificate says strict, derived violated"]),
    ] {
        fs::write(t.path().join("m.snn"), edited).unwrap();
        says(t.path(), &["certify", "--verify", "c.json"], 1, &[&["does not hold"], &words[..]].concat());
    }
    fs::write(t.path().join("m.snn"), MODEL).unwrap();
    // The certificate: any number or word in it.
    let edits = [
        ("\"verdict\": \"strict\"", "\"verdict\": \"admitted\"", "verdict: the certificate says admitted"),
        ("\"residues\": 0", "\"residues\": 1", "totals.residues"),
        ("\"how\": \"accumulate\"", "\"how\": \"free\"", "how"),
        ("\"parameters\": ", "\"parameters\": 1", "subject.parameters"),
        ("\"destination\": \"before\"", "\"destination\": \"after\"", "written[r.batchnorm].factor.destination"),
        ("\"operator\": \"conv\"", "\"operator\": \"linear\"", "operator"),
        ("\"vaddps\": ", "\"vaddps\": 1", "census"),
        ("\"snnc\": \"", "\"snnc\": \"9", "version of snnc"),
    ];
    for (from, to, word) in edits {
        let Some((head, tail)) = whole.split_once(from) else {
            assert!(from.contains("vaddps"), "{from}");
            continue;
        };
        fs::write(t.path().join("edited.json"), format!("{head}{to}{tail}")).unwrap();
        says(t.path(), &["certify", "--verify", "edited.json"], 1, &["does not hold", word]);
    }
    for (from, to, word) in [
        ("\"hashes\"", "\"hushes\"", "is no certificate"),
        ("\"flags\": [", "\"flags\": [\"has_wings\", ", "has_wings"),
        ("\"triple\": \"", "\"triple\": \"pdp11-", "pdp11"),
        // Said twice: some read the first, some the last.
        ("\"verdict\": ", "\"verdict\": \"violated\", \"verdict\": ", "`verdict` stands in it twice"),
        ("\"instructions\": {", "\"instructions\": { \"mov\": 0, \"mov\": 1,", "stands in it twice"),
    ] {
        fs::write(t.path().join("edited.json"), whole.replacen(from, to, 1)).unwrap();
        says(t.path(), &["certify", "--verify", "edited.json"], 2, &[word]);
    }
    let mut twice: Value = serde_json::from_str(&whole).unwrap();
    twice["hashes"]["sources"].as_array_mut().unwrap().push(serde_json::json!(["m.snn", "0".repeat(64)]));
    fs::write(t.path().join("edited.json"), twice.to_string()).unwrap();
    says(t.path(), &["certify", "--verify", "edited.json"], 1, &["sources: the certificate says m.snn, derived it once"]);
    // Wherever the model lies, and however it is named.
    fs::create_dir(t.path().join("elsewhere")).unwrap();
    for model in ["../m.snn", &t.path().join("m.snn").display().to_string()] {
        says(&t.path().join("elsewhere"), &["certify", "--verify", "../c.json", model], 0, &["holds"]);
    }
    // One that is violated holds, and is violated.
    fs::write(t.path().join("v.snn"), MODEL.replace("2.0", "3.0")).unwrap();
    says(t.path(), &["certify", "v.snn", "-o", "v.json"], 1, &[]);
    says(t.path(), &["certify", "--verify", "v.json"], 1, &["v.json holds: M is violated"]);
    // Whatever a network is called, its page has its data.
    fs::write(t.path().join("d.snn"), MODEL.replace("model M", "model DATA")).unwrap();
    says(t.path(), &["certify", "d.snn", "-o", "d.html"], 0, &[]);
    let page = fs::read_to_string(t.path().join("d.html")).unwrap();
    assert!(page.contains("<title>DATA is strict</title>") && page.contains("id=\"certificate\">{"));
    fs::write(t.path().join("edited.json"), whole.replacen("\"schema\": 1", "\"schema\": 2", 1)).unwrap();
    says(t.path(), &["certify", "--verify", "edited.json"], 2, &["it has the form 2, and this snnc reads form 1"]);
    for part in 0..10 {
        fs::write(t.path().join("edited.json"), &whole[..whole.len() * part / 10]).unwrap();
        says(t.path(), &["certify", "--verify", "edited.json"], 2, &["is no certificate"]);
    }
    says(t.path(), &["certify", "--verify", "nowhere.json"], 2, &["cannot read `nowhere.json`"]);
    says(t.path(), &["certify"], 2, &["name a MODEL"]);
    says(t.path(), &["certify", "m.snn", "-o", "c.txt"], 2, &["ends with .json"]);
    says(t.path(), &["certify", "m.snn", "-o", "nowhere/c.json"], 2, &["c.json"]);
    says(t.path(), &["certify", "m.snn", "--data", "digits"], 2, &["give `--weights W`"]);
}

#[test]
fn weights_are_part_of_it() {
    let t = TempDir::new().unwrap();
    let small = ["--set", "dim=6", "--set", "depths=[1]"];
    for (out, seed) in [("a", "1"), ("b", "2")] {
        says(t.path(), &[&["train", "quickstart/digits", "--epochs", "1", "--seed", seed, "-o", out], &small[..]].concat(), 0, &[]);
    }
    let args = ["certify", "quickstart/digits", "--weights", "a", "--data", "digits", "--samples", "50", "-o", "c.json"];
    says(t.path(), &[&args, &small[..]].concat(), 0, &["on 50 pictures of `digits`"]);
    let c: Value = serde_json::from_slice(&fs::read(t.path().join("c.json")).unwrap()).unwrap();
    validate("docs/schemas/certificate.schema.json", &c);
    assert!(c["measured"]["accumulates"].as_f64().unwrap() < c["totals"]["accumulates"].as_f64().unwrap());
    says(t.path(), &["certify", "--verify", "c.json", "--weights", "a"], 0, &["holds"]);
    says(t.path(), &["certify", "--verify", "c.json"], 2, &["c.json` is for weights", "--without-weights"]);
    says(t.path(), &["certify", "--verify", "c.json", "--without-weights"], 0, &["holds", "but for its weights, which were not compared"]);
    let text = says(t.path(), &["certify", "--verify", "c.json", "--weights", "b", "--format", "json"], 1, &[]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["holds"], &report["weights_compared"]), (&Value::Bool(false), &Value::Bool(true)));
    // A measurement without the weights that it was made with.
    let mut edited = c.clone();
    edited["hashes"]["weights"] = Value::Null;
    fs::write(t.path().join("edited.json"), edited.to_string()).unwrap();
    says(t.path(), &["certify", "--verify", "edited.json"], 2, &["is no certificate"]);
    let words = ["does not hold", "hash of the weights", "hash of the folded weights", "measured.accumulates"];
    says(t.path(), &["certify", "--verify", "c.json", "--weights", "b"], 1, &words);
    // Weights of another model.
    says(t.path(), &["certify", "quickstart/digits_rate", "--weights", "a"], 2, &["do not fit `DigitsRate`"]);
    says(t.path(), &["certify", "quickstart/digits", "--weights", "a"], 2, &["do not fit `Digits`"]);
    // The folded weights are those that `snnc build` writes.
    says(t.path(), &[&["build", "quickstart/digits", "--weights", "a", "-o", "out"], &small[..]].concat(), 0, &[]);
    let hash = Command::new("sha256sum").arg(t.path().join("out/digits.weights")).output().unwrap();
    assert!(String::from_utf8_lossy(&hash.stdout).starts_with(c["hashes"]["folded_weights"].as_str().unwrap()));
}

#[test]
fn a_file_stands_for_its_first_variant_which_check_looks_at() {
    let t = TempDir::new().unwrap();
    let model = MODEL.replace("model M {\n", "require strict\n\nmodel M {\n    param t: float = 3.0\n").replace("tau = 2.0", "tau = t");
    fs::write(t.path().join("m.snn"), format!("{model}\nvariant Four = M(t = 4.0)\nvariant Two = M(t = 2.0)\n")).unwrap();
    says(t.path(), &["check", "m.snn"], 0, &["m.snn#Four", "m.snn#Two"]);
    says(t.path(), &["certify", "m.snn"], 0, &["Four (T = 4) is strict"]);
    // The model that no variant is can be named, and is what it is.
    says(t.path(), &["check", "m.snn#M"], 1, &["check::leak"]);
    says(t.path(), &["certify", "m.snn#M"], 1, &["M (T = 4) is violated"]);
    says(t.path(), &["build", "m.snn#M", "--weights", "nowhere", "-o", "out"], 1, &["error: M is violated, and nothing was written"]);
}

#[test]
fn additions_at_zeros_around_pictures_are_none() {
    let t = TempDir::new().unwrap();
    for (kernel, stride, pad, size) in [(3, 1, 1, 8), (5, 2, 2, 9), (4, 3, 1, 10), (7, 1, 3, 4), (2, 2, 0, 8)] {
        let conv = format!("conv(C = 8, kernel = {kernel}, stride = {stride}, pad = {pad}, bias = false)");
        let model = MODEL.replace("W = 8]", &format!("W = {size}]")).replace("H = 8", &format!("H = {size}"));
        fs::write(
            t.path().join("m.snn"),
            model.replace("r = s |> conv(C = 8, kernel = 3, pad = 1) |> batchnorm(C)", &format!("r = s |> {conv}")),
        )
        .unwrap();
        let text = says(t.path(), &["certify", "m.snn", "--format", "json"], 0, &[]);
        let c: Value = serde_json::from_str(&text).unwrap();
        let count = c["executed"].as_array().unwrap().iter().find(|e| e["path"] == "r.conv").unwrap()["count"].as_u64().unwrap();
        let (size, pad) = (i64::from(size), i64::from(pad));
        let places = (size + 2 * pad - kernel) / stride + 1;
        let inside = |p: i64, k: i64| (0..size).contains(&(p * stride + k - pad));
        let side = (0..places).flat_map(|p| (0..kernel).map(move |k| (p, k))).filter(|(p, k)| inside(*p, *k)).count() as u64;
        assert_eq!(count, 4 * 8 * 8 * side * side, "{conv} on {size}");
    }
}
