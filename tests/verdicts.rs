//! What the checker must say of the zoo, and of small changes to it.

use snnc_compiler::check::{Checked, Verdict, check};
use snnc_compiler::graph::Settings;
use snnc_compiler::ops::Multiplication;
use snnc_compiler::types::NodeId;
use snnc_grammar::SourceMap;
use snnc_tests::{build_text, render, zoo_package};

fn variant(file: &str, name: &str) -> Checked {
    let (sources, graph) = build_text("<zoo>", snnc_zoo::model(file).unwrap(), Some(name), &Settings::default());
    check(graph.unwrap_or_else(|e| panic!("{}", render(&sources, &e))))
}

#[test]
fn counts_for_other_classes_and_time_steps() {
    // As the published code prints them; Spikingformer's without the layer norms that it never calls.
    for (file, name, set, time, parameters) in [
        ("mixer/mlp_spe_published", "MlpSpeTPublished", Some(("classes", "10")), None, 24_610_430),
        ("spikingformer/cifar", "Spikingformer4x256", Some(("classes", "100")), None, 4_179_332 - 4 * 4 * 256),
        ("spikingformer/cifar", "Spikingformer2x384", Some(("classes", "100")), None, 5_800_468 - 2 * 4 * 384),
        ("spikingformer/cifar_published", "Spikingformer4x384Published", Some(("classes", "100")), None, 9_360_916 - 4 * 4 * 384),
        ("gac/msresnet_cifar_published", "GacMsResNet18Published", Some(("classes", "100")), None, 12_679_368),
        ("gac/msresnet_imagenet", "GacMsResNet18ImageNet", None, Some(6), 11_824_844),
        ("gac/msresnet_imagenet_published", "GacMsResNet34ImageNetPublished", None, Some(6), 21_933_004),
        ("dsr/preact_resnet18_cifar", "DsrPreActResNet18If", Some(("classes", "100")), None, 11_223_295),
    ] {
        let set: Vec<(&str, &str)> = set.into_iter().collect();
        assert_eq!(zoo_package(file, Some(name), &set, time).1.graph().trained(), parameters, "{name} {set:?} {time:?}");
    }
}

#[test]
fn dense_operations_are_the_published_ones() {
    // Spikingformer, table 2 and its energy tool, in G: 18.656, 33.044, 74.075.
    for (dim, operations) in [(384, 18_656_223_208u64), (512, 33_044_419_560), (768, 74_074_995_688)] {
        let checked = variant("spikingformer/imagenet_published", &format!("Spikingformer8x{dim}Published"));
        let graph = checked.graph();
        let weighs = |id: &NodeId| graph.node(*id).op.multiplies(&graph.input_signals(graph.node(*id))).contains(&Multiplication::Weights);
        let dense = graph.dense();
        assert_eq!(graph.ids().filter(weighs).map(|id| dense[id.index()]).sum::<u64>(), operations, "{dim}");
    }
}

/// A changed copy of `mlp_spe.snn`: its codes, and the text the first finding of `code` points at.
fn changed(from: &str, to: &str, code: &str) -> String {
    let original = snnc_zoo::model("mixer/mlp_spe").unwrap();
    assert!(original.contains(from), "the zoo no longer says {from}");
    let text = original.replacen(from, to, 1);
    let (sources, graph): (SourceMap, _) = build_text("copy.snn", &text, None, &Settings::default());
    let diagnostics = match graph {
        Ok(graph) => {
            let checked = check(graph);
            assert_eq!(checked.findings().verdict, Verdict::Violated);
            checked.findings().diagnostics.clone()
        }
        Err(errors) => errors,
    };
    let found = diagnostics.iter().find(|d| d.code == code);
    let found = found.unwrap_or_else(|| panic!("no {code} in:\n{}", render(&sources, &diagnostics)));
    sources.text(found.span()).to_owned()
}

#[test]
fn a_leak_that_is_no_shift_is_refused_where_the_neuron_is_defined() {
    assert!(changed("tau = 2.0", "tau = 3.0", "check::leak").starts_with("LIF(tau = 3.0"));
}

#[test]
fn a_missing_neuron_before_a_linear_map_is_found_at_the_map() {
    assert!(changed("s = h + token |> lif", "s = h + token", "check::real_operand").starts_with("linear("));
    assert!(changed("s = h |> lif", "s = h", "check::real_operand").starts_with("linear("));
}

#[test]
fn scaling_one_of_two_reads_cannot_be_folded() {
    assert_eq!(changed("s = h + token |> lif", "s = h + token * 0.3 |> lif", "check::unfoldable_scale"), "token * 0.3");
}

#[test]
fn the_encoder_is_not_the_whole_model() {
    let original = snnc_zoo::model("mixer/mlp_spe").unwrap();
    let text = original.replacen("batchnorm(C)\n    }\n    h = embed", "batchnorm(C)\n    h = embed", 1);
    let text = text.replacen("    output head |> mean(T)\n}", "    }\n    output head |> mean(T)\n}", 1);
    let (sources, graph) = build_text("copy.snn", &text, None, &Settings::default());
    let errors = match graph {
        Ok(graph) => check(graph).findings().diagnostics.clone(),
        Err(errors) => errors,
    };
    assert!(errors.iter().any(|d| d.code == "check::encoder_share"), "{}", render(&sources, &errors));
}

#[test]
fn an_allow_with_another_count_is_an_error() {
    let text = snnc_zoo::model("mixer/mlp_spe_published").unwrap().replace("count = sum(depths)", "count = 25");
    let (_, graph) = build_text("copy.snn", &text, Some("MlpSpeTPublished"), &Settings::default());
    let checked = check(graph.unwrap());
    let found = checked.findings().diagnostics.iter().find(|d| d.code == "check::allow_count").unwrap();
    assert_eq!(found.help.as_deref(), Some("write `count = 26`"));
    assert_eq!(checked.findings().verdict, Verdict::Violated);
}

#[test]
fn an_allow_before_a_neuron_holds_wherever_it_fires() {
    let text = |first: &str, second: &str| {
        format!(
            "block Two(s: spike[C], lif: neuron) -> spike[C] {{\n yield s |> linear(C -> C) |> lif |> linear(C -> C) |> lif\n}}\nmodel M {{\n time T = 4\n input x: analog[C = 3]\n \
             {first} neuron lif = LIF(tau = 3.0)\n {second} neuron other = LIF(tau = 3.0)\n encoder {{ e = x |> linear(C -> C = 8) }}\n s = e |> lif |> Two(lif)\n \
             output s |> linear(C -> C) |> other |> linear(C -> C = 10) |> mean(T)\n}}"
        )
    };
    let admitted = |first: &str, second: &str| {
        let checked = snnc_tests::checked_text(&text(first, second), &Settings::default());
        let codes: Vec<&str> = checked.findings().diagnostics.iter().map(|d| d.code).collect();
        (checked.findings().residues.iter().filter(|r| r.admitted).count(), codes.join(" "))
    };
    assert_eq!(admitted("", ""), (0, "check::leak check::leak".into()));
    assert_eq!(admitted("allow(leak, count = 3, \"why\")\n", ""), (3, "check::leak".into()));
    assert_eq!(admitted("allow(leak, count = 3, \"why\")\n", "allow(leak, count = 1, \"why\")\n"), (4, String::new()));
    assert_eq!(admitted("", "allow(leak, count = 3, \"why\")\n"), (1, "check::allow_count check::leak".into()));
}
