//! Reports about a model: energy, and what differs between two.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use serde_json::Value;
use snnc_compiler::ops::Multiplication;
use snnc_compiler::types::ParamId;
use snnc_runtime::data::Dataset;
use snnc_runtime::energy::{Costs, Done, measure};
use snnc_runtime::reference::{arrange, run};
use snnc_runtime::weights::Weights;
use snnc_tests::{says, zoo};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn rates(dim: usize) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/rates/spikingformer_8_{dim}.toml"))
}

#[test]
fn energy_from_published_rates_is_the_published_one() {
    // Spikingformer's log: AC in G, MAC in G, mJ; the larger network with its true 8 heads.
    for (dim, acs, macs, energy) in [(512, 6.517_541, 0.347_329_512, 7.463_503), (768, 12.531_207, 0.520_993_768, 13.674_658)] {
        let model = format!("spikingformer/imagenet_published#Spikingformer8x{dim}Published");
        let file = rates(dim).display().to_string();
        let report: Value =
            serde_json::from_str(&says(Path::new("."), &["energy", &model, "--rates", &file, "--format", "json"], 0, &[])).unwrap();
        for (name, wanted) in [("acs", acs * 1e9), ("macs", macs * 1e9), ("energy_mj", energy)] {
            let found = report[name].as_f64().unwrap();
            assert!((found / wanted - 1.0).abs() < 1e-3, "{dim} {name}: {found}, not {wanted}");
        }
        assert_eq!(report["macs"].as_f64().unwrap(), (macs * 1e9).round());
        // The report is a file of rates, too.
        let t = TempDir::new().unwrap();
        fs::write(t.path().join("again.json"), report.to_string()).unwrap();
        let again: Value =
            serde_json::from_str(&says(t.path(), &["energy", &model, "--rates", "again.json", "--format", "json"], 0, &[])).unwrap();
        assert_eq!(again["energy_mj"], report["energy_mj"]);
    }
}

#[test]
fn measured_rates_are_those_of_the_reference() {
    for path in ["quickstart/digits", "quickstart/digits_attention", "quickstart/digits_rate"] {
        let set: &[(&str, &str)] = if path == "quickstart/digits" { &[("dim", "6"), ("depths", "[1]")] } else { &[] };
        let checked = zoo(path, set, None);
        let graph = checked.graph();
        let weights = Weights::initial(graph, 5);
        let data = Dataset::named("digits").unwrap();
        let samples = 40;
        let energy = measure(&checked, &weights, &data, samples).unwrap();
        let mut pixels = Vec::new();
        data.gather(&data.test, &(0..samples).collect::<Vec<_>>(), 0.0, 0, 0, &mut pixels);
        let shape: Vec<usize> = std::iter::once(samples).chain(graph.node(graph.input).signal.axes.iter().map(|a| a.size)).collect();
        let batch = ndarray::ArrayD::from_shape_vec(shape, pixels.iter().map(|x| f64::from(*x)).collect()).unwrap();
        let params: Vec<_> = (0..graph.params.len()).map(|i| weights.array::<f64>(graph, ParamId::new(i))).collect();
        let values = run(graph, &params, &arrange(graph, batch), None, false).values;
        let mut compared = 0;
        for layer in energy.layers.iter().filter(|l| l.done == Done::Ac && l.bound == 1) {
            let Some(node) = graph.nodes.iter().find(|n| n.path == layer.path) else { continue };
            let dot = node.op.multiplies(&graph.input_signals(node)).contains(&Multiplication::Dot);
            let mean = |i: usize| {
                let value = &values[node.inputs[i].index()];
                // As written, a spike may be worth more than 1.
                value.iter().filter(|x| **x != 0.0).count() as f64 / value.len() as f64
            };
            let wanted = if dot { continue } else { mean(0) };
            assert!((layer.rate - wanted).abs() < 1e-9, "{path} {}: {}, not {wanted}", layer.path, layer.rate);
            compared += 1;
        }
        assert!(compared >= 4, "{path}: {compared} layers");
        assert!(energy.whole(&Costs::default()) > energy.conventional(&Costs::default()));
    }
}

#[test]
fn energy_refuses_what_it_cannot_use() {
    let t = TempDir::new().unwrap();
    let model = "spikingformer/imagenet_published#Spikingformer8x512Published";
    let good = fs::read_to_string(rates(512)).unwrap();
    let with = |text: &str, words: &[&str]| {
        fs::write(t.path().join("rates.toml"), text).unwrap();
        says(t.path(), &["energy", model, "--rates", "rates.toml"], 2, words);
    };
    with(
        &good.replace("\"tokenizer[2].m.conv\" = 0.1534", "\"tokenizer[2].m.conf\" = 0.1534"),
        &["missing: tokenizer[2].m.conv", "unknown: tokenizer[2].m.conf"],
    );
    with(&good.replace("= 0.1534", "= 15.34"), &["not between 0 and 1: tokenizer[2].m.conv = 15.34"]);
    with(&good.replace("= 0.1534", "= nan"), &["not between 0 and 1"]);
    with(&good.replace("[rates]", "[rates"), &["rates.toml"]);
    with(&format!("model = \"Other\"\n{good}"), &["it is a report of `Other`"]);
    with(&format!("time = 7\n{good}"), &["it was measured over 7 time steps, and there are 4"]);
    with(&format!("{good}\n[[layers]]\npath = \"tokenizer[2].m.conv\"\nrate = 0.5\n"), &["given twice: tokenizer[2].m.conv"]);
    says(t.path(), &["energy", model, "--rates", "nowhere.toml"], 2, &["nowhere.toml"]);
    says(t.path(), &["energy", model], 2, &["--weights", "--rates"]);
    says(t.path(), &["energy", model, "--rates", "rates.toml", "--plot", "plot.pdf"], 2, &["ends with .svg or .html"]);
    says(t.path(), &["energy", model, "--rates", "rates.toml", "--mac-pj=-1"], 2, &["a number of picojoule, 0 or more"]);
    fs::write(t.path().join("rates.toml"), good).unwrap();
    says(t.path(), &["energy", model, "--rates", "rates.toml", "--plot", "nowhere/plot.svg"], 2, &["plot.svg"]);
    says(t.path(), &["energy", model, "--rates", "rates.toml", "--plot", "plot.html"], 0, &["7.464 mJ", "wrote plot.html"]);
    let page = fs::read_to_string(t.path().join("plot.html")).unwrap();
    assert!(
        page.contains("prefers-color-scheme: dark")
            && page.contains("<td>tokenizer[1].m.conv")
            && !page.contains("src=")
            && !page.contains("href=")
    );
}

#[test]
fn a_diff_says_what_changed() {
    let t = TempDir::new().unwrap();
    let model = "model M {
    param width: int = 8
    time T = 4
    input x: analog[C = 3, H = 8, W = 8]
    neuron lif = LIF(tau = 2.0)
    encoder {
        e = x |> conv(C = width, kernel = 3, pad = 1)
    }
    s = e |> lif
    r = s |> conv(C = width, kernel = 3, pad = 1) |> lif
    output r |> mean(H, W) |> linear(C -> C = 10) |> mean(T)
}
";
    fs::write(t.path().join("a.snn"), model).unwrap();
    fs::write(
        t.path().join("b.snn"),
        model
            .replace("8\n    time", "12\n    time")
            .replace("    output r |>", "    q = r |> conv(C = 12, kernel = 1) |> lif\n    output q |>"),
    )
    .unwrap();
    fs::write(t.path().join("c.snn"), model.replace("tau = 2.0", "tau = 3.0")).unwrap();
    says(t.path(), &["diff", "a.snn", "a.snn"], 0, &["no node differs", "strict"]);
    let report: Value = serde_json::from_str(&says(t.path(), &["diff", "a.snn", "b.snn", "--format", "json"], 0, &[])).unwrap();
    // 3 * 8 * 9 + 8 + 8 * 8 * 9 + 8 + 8 * 10 + 10, and the wider one.
    assert_eq!(report["before"]["parameters"], 224 + 584 + 90);
    assert_eq!(report["after"]["parameters"], 336 + 1308 + 156 + 130);
    // Operations of the maps, dense: the encoder's convolution at all time steps (as the tool counts it), biases included.
    assert_eq!(report["before"]["macs"], f64::from(4 * 64 * 8 * 28));
    // 15 % of the second convolution's, and of what the head counts of at most 64 spikes.
    let acs = 0.15 * (4.0 * 64.0 * 8.0 * 73.0 + 4.0 * 64.0 * 90.0);
    let found = report["before"]["acs"].as_f64().unwrap();
    assert!((found / acs - 1.0).abs() < 1e-9, "{found} {acs}");
    // The summary of a model says the same.
    let summary: Value = serde_json::from_str(&says(t.path(), &["summary", "a.snn", "--format", "json"], 0, &[])).unwrap();
    for name in ["macs", "acs", "energy_mj"] {
        assert_eq!(summary[name], report["before"][name], "{name}");
    }
    let nodes: Vec<&str> = report["nodes"].as_array().unwrap().iter().map(|n| n["path"].as_str().unwrap()).collect();
    assert!(nodes.contains(&"q.conv") && nodes.contains(&"e.conv") && !nodes.contains(&"x"), "{nodes:?}");
    let words = ["### ❌ `M` is violated (was strict)", "| verdict | strict | violated | changed |", "- new residue `leak` at `s.lif`"];
    says(t.path(), &["diff", "a.snn", "c.snn", "--format", "markdown"], 0, &words);
    // What an operator was told is part of it; a name with bars and backticks stays in its cell.
    says(t.path(), &["diff", "a.snn", "c.snn"], 0, &["2 nodes differ", "~ s.lif", "tau = 2.0", "tau = 3.0"]);
    fs::copy(t.path().join("a.snn"), t.path().join("p|q`.snn")).unwrap();
    says(t.path(), &["diff", "p|q`.snn", "a.snn", "--format", "markdown"], 0, &["| | `` p\\|q`.snn `` | `a.snn` | change |"]);
    // Versions of one network are told apart by their files; folds are named with what they add: 8 x 8 x 9 weights three times more.
    fs::write(t.path().join("d.snn"), model.replace("    neuron lif = LIF(tau = 2.0)", "    fold(time)\n    neuron lif = LIF(tau = 3.0)"))
        .unwrap();
    let said = says(t.path(), &["diff", "a.snn", "d.snn"], 0, &["new `fold(time)` at `r.conv`: 1,728 weights"]);
    assert!(said.lines().next().unwrap().split_whitespace().eq(["a.snn", "d.snn", "change"]), "{said}");
    let row = said.lines().find(|l| l.starts_with("weights added by folds")).unwrap();
    assert!(row.split_whitespace().skip(4).eq(["0", "1,728", "+1,728"]), "{row}");
    says(t.path(), &["diff", "d.snn", "a.snn", "--format", "markdown"], 0, &["- no more `fold(time)` at `r.conv`: 1,728 weights"]);
    let wide = says(
        t.path(),
        &["diff", "quickstart/digits", "quickstart/digits_rate", "--format", "markdown"],
        0,
        &["lists all)\n\n</details>\n"],
    );
    assert!(wide.ends_with("</details>\n"), "{wide}");
    says(t.path(), &["diff", "c.snn", "a.snn"], 0, &["no residue `leak` any more at `r.lif`", "strict"]);
    says(t.path(), &["diff", "a.snn", "nowhere.snn"], 2, &["nowhere.snn"]);
    says(
        t.path(),
        &["diff", "mixer/mlp_spe#MlpSpeT", "mixer/mlp_spe_published#MlpSpeTPublished"],
        0,
        &["25,223,796", "25,229,180", "batchnorm"],
    );
}
