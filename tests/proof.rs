//! docs/proof.md: every network of the zoo at full size, derived anew and compared. `SNNC_WRITE=1` writes it.

use crate::folds::mended_text;
use snnc_compiler::backend::clif::Target;
use snnc_compiler::check::{Checked, check};
use snnc_compiler::flow::Region;
use snnc_compiler::graph::Settings;
use snnc_compiler::text::grouped;
use snnc_grammar::SourceMap;
use snnc_runtime::certificate::{Certificate, Input, certify};
use snnc_tests::{build_text, zoo_package};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

const HEAD: &str = "\
# The proof, network by network

What an inference of one sample does in every network of the zoo at full size, from its certificate (`snnc certify MODEL`). This page is
generated: `SNNC_WRITE=1 cargo test -p snnc-tests proof` writes it, and without that the test fails where it is not what is derived.

- **verdict**: `strict`, nothing is multiplied outside the encoder; `admitted`, only what an `allow` in the source admits.
- **residues**: admitted places that multiply, by rule, and how many multiplications they are.
- **encoder MACs**: multiply-accumulates of the declared encoder, the first layer.
- **ACs, worst case**: additions of weights or values, and ANDs of spikes, if every neuron fired at every step.
- **extra weights**: what folds add to the weights as written: convolutions that look through a pool (`snnc` takes that where it
  needs less memory than counts), `fold(time)` and `fold(compose)` where the source asks for them.
- **census**: multiply, divide, root and dot-product instructions, and calls out of the code, in the machine code outside the encoder and
  the residues, and how many instructions were looked at, for x86-64 and for aarch64.
";

const FOLDED: &str = "
## Published networks that folds make strict

The published forms whose residues are leaks, or heads over sums, once more with the folds that their residues offer (`snnc check --fix --exact` on
a copy without the `allow`s). The results are the same; only weights are added.
";

struct Row {
    checked: Checked,
    x86: Certificate,
    arm: Certificate,
}

fn row(name: &str, sources: &SourceMap, checked: Checked) -> Row {
    let certificate = |target: &str| {
        let target = Target::named(target).unwrap();
        let input = Input {
            model: name,
            set: vec![],
            time: None,
            sources,
            checked: &checked,
            weights: None,
            data: None,
            target: &target,
            batch: 1,
        };
        let certificate = certify(&input).unwrap();
        let census = &certificate.code.census;
        assert_eq!(census.findings, vec![], "{name} for {}", census.triple);
        assert_eq!(census.of(Region::Residue).0 == 0, certificate.verdict == "strict", "{name} for {}", census.triple);
        certificate
    };
    let (x86, arm) = (certificate("x86-64"), certificate("aarch64"));
    Row { checked, x86, arm }
}

fn line(row: &Row) -> String {
    let totals = &row.x86.totals;
    let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
    row.checked.findings().residues.iter().for_each(|r| *rules.entry(r.rule).or_default() += 1);
    let rules: Vec<String> = rules.iter().map(|(rule, n)| format!("{n} `{rule}`")).collect();
    let residues =
        if rules.is_empty() { "none".into() } else { format!("{}: {}", rules.join(", "), grouped(totals.residue_multiplications)) };
    let census = |c: &Certificate| {
        let (all, multiply) = c.code.census.of(Region::Free);
        format!("{multiply} of {}", grouped(all))
    };
    format!(
        "| {} | {} | {residues} | {} | {} | {} | {} | {} |\n",
        row.checked.graph().name,
        row.x86.verdict,
        grouped(totals.encoder_macs),
        grouped(totals.accumulates + totals.and_counts + totals.masked_accumulates),
        grouped(totals.extra_weights),
        census(&row.x86),
        census(&row.arm),
    )
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "\n| network | verdict | residues: multiplications | encoder MACs | ACs, worst case | extra weights | census, x86-64 | census, aarch64 |\n",
    );
    out.push_str("|---|---|---|---:|---:|---:|---:|---:|\n");
    rows.iter().for_each(|r| out.push_str(&line(r)));
    out
}

#[test]
fn the_page_of_the_proof_is_what_is_derived() {
    let mut rows = Vec::new();
    let mut folded = Vec::new();
    for (path, text) in snnc_zoo::MODELS {
        let (package, _) = zoo_package(path, None, &[], None);
        let variants: Vec<Option<String>> = package.variants.iter().map(|v| Some(v.name.name.clone())).collect();
        let variants = if variants.is_empty() { vec![None] } else { variants };
        for variant in &variants {
            let (sources, graph) = build_text(path, text, variant.as_deref(), &Settings::default());
            let checked = check(graph.unwrap());
            let offered = |rule| rule == "leak" || (rule == "real_operand" && path.starts_with("spikingformer"));
            let residues = &checked.findings().residues;
            if !residues.is_empty() && residues.iter().all(|r| offered(r.rule)) {
                let text = mended_text(path, variant.as_deref(), &Settings::default());
                let (sources, graph) = build_text(path, &text, variant.as_deref(), &Settings::default());
                let row = row(path, &sources, check(graph.unwrap()));
                assert_eq!(row.x86.verdict, "strict", "{path}");
                folded.push(row);
            }
            rows.push(row(path, &sources, checked));
        }
    }
    assert!(rows.len() > 40 && folded.len() > 8);
    let mut page = String::from(HEAD);
    page.push_str(&table(&rows));
    page.push_str(FOLDED);
    page.push_str(&table(&folded));
    page.push_str("\n| network | weights as written | `fold(compose)` adds | `fold(time)` adds | pools looked through add |\n|---|---:|---:|---:|---:|\n");
    for row in &folded {
        let of = |fold: &str| grouped(row.x86.choices.iter().filter(|c| c.fold == fold).map(|c| c.weights).sum());
        let written = grouped(row.checked.graph().trained());
        let _ = writeln!(page, "| {} | {written} | {} | {} | {} |", row.checked.graph().name, of("compose"), of("time"), of("pool"));
    }
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/proof.md");
    if std::env::var_os("SNNC_WRITE").is_some() {
        std::fs::write(&place, &page).unwrap();
    }
    let held = std::fs::read_to_string(&place).unwrap_or_default();
    let different = held.lines().zip(page.lines()).find(|(a, b)| a != b);
    assert!(held == page, "docs/proof.md is not what is derived; SNNC_WRITE=1 writes it anew: {different:?}");
}
