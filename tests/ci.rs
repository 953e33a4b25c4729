//! What continuous integration sees of `snnc check`: formats against their schemas, policies, baselines, fixes.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use serde_json::Value;
use snnc_tests::{says, validate};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn sarif(folder: &Path, args: &[&str], code: i32) -> Value {
    let text = says(folder, &[&["check", "--format", "sarif"], args].concat(), code, &[]);
    let value = serde_json::from_str(&text).unwrap();
    validate("tests/schemas/sarif-2.1.0.json", &value);
    value
}

/// Four residues, one of each remedy and one that follows from another.
const BAD: &str = "model A {
    time T = 4
    input x: analog[C = 3, H = 8, W = 8]
    neuron lif = LIF(tau = 3.0)
    encoder {
        e = x |> conv(C = 8, kernel = 3, pad = 1)
    }
    s = e |> lif
    r = s |> conv(C = 8, kernel = 3, pad = 1)
    q = e + r |> conv(C = 8, kernel = 1)
    h = q |> batchnorm(H)
    g = e + h
    output g |> mean(H, W) |> linear(C -> C = 10) |> mean(T)
}
";

/// One residue, admitted.
const ADMITTED: &str = "model B {
    time T = 2
    input x: analog[C = 3]
    neuron lif = LIF(tau = 3.0)
    encoder {
        e = x |> linear(C -> C = 8)
    }
    allow(leak, count = 1, \"as published\")
    s = e |> lif
    output s |> linear(C -> C = 10) |> mean(T)
}
";

fn folder() -> TempDir {
    let t = TempDir::new().unwrap();
    fs::create_dir(t.path().join("deploy")).unwrap();
    fs::write(t.path().join("deploy/a.snn"), BAD).unwrap();
    fs::write(t.path().join("b.snn"), ADMITTED).unwrap();
    t
}

#[test]
fn sarif_is_valid_and_complete() {
    let t = folder();
    let log = sarif(t.path(), &["deploy", "b.snn"], 1);
    let run = &log["runs"][0];
    let results = run["results"].as_array().unwrap();
    let of = |rule: &str| results.iter().filter(|r| r["ruleId"] == rule).collect::<Vec<_>>();
    assert_eq!((of("snnc::check::leak").len(), of("snnc::check::real_operand").len(), results.len()), (2, 2, 5));
    let leak = of("snnc::check::leak")[0];
    assert_eq!(leak["level"], "error");
    let place = &leak["locations"][0]["physicalLocation"];
    assert_eq!((place["artifactLocation"]["uri"].as_str(), place["region"]["startLine"].as_u64()), (Some("deploy/a.snn"), Some(4)));
    assert_eq!(place["region"]["snippet"]["text"], "LIF(tau = 3.0)");
    assert_eq!(leak["relatedLocations"][0]["message"]["text"], "applied here");
    let fix = &leak["fixes"][0]["artifactChanges"][0]["replacements"][0];
    assert_eq!((fix["insertedContent"]["text"].as_str(), fix["deletedRegion"]["startColumn"].as_u64()), (Some("4.0"), Some(28)));
    let admitted = of("snnc::check::leak")[1];
    assert_eq!(admitted["level"], "note");
    assert_eq!(admitted["suppressions"][0], serde_json::json!({ "kind": "inSource", "justification": "as published" }));
    // Every rule has its page, and results point at their rule.
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    for result in results {
        assert_eq!(rules[usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()]["id"], result["ruleId"]);
    }
    assert!(rules.iter().all(|r| !r["help"]["text"].as_str().unwrap().is_empty()));
    // Of files that are no models too, and of the whole zoo.
    fs::write(t.path().join("bad name%.snn"), "model {").unwrap();
    let log = sarif(t.path(), &["bad name%.snn"], 1);
    assert_eq!(log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "bad%20name%25.snn");
    assert!(sarif(t.path(), &["nowhere.snn"], 2)["runs"][0]["results"][0]["ruleId"] == "snnc::io::read");
    let zoo = sarif(t.path(), &["zoo/"], 0);
    let results = zoo["runs"][0]["results"].as_array().unwrap();
    assert!(results.len() > 10 && results.iter().all(|r| r["level"] == "note" && r["suppressions"][0]["kind"] == "inSource"));
}

#[test]
fn json_fits_its_schema() {
    let t = folder();
    for (args, code) in [(vec!["deploy", "b.snn"], 1), (vec!["zoo/"], 0), (vec!["nowhere.snn"], 2)] {
        let text = says(t.path(), &[vec!["check", "--format", "json"], args].concat(), code, &[]);
        validate("docs/schemas/check.schema.json", &serde_json::from_str(&text).unwrap());
    }
}

#[test]
fn github_annotations_stand_on_one_line_each() {
    let t = folder();
    let text = says(t.path(), &["check", "deploy", "--format", "github"], 1, &["deploy/a.snn#A  violated"]);
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("::")).collect();
    assert_eq!(lines.len(), 4);
    let head = "::error file=deploy/a.snn,line=4,endLine=4,col=18,endColumn=32,title=snnc%3A%3Acheck%3A%3Aleak::the membrane leaks";
    assert!(lines[0].starts_with(head), "{}", lines[0]);
    assert!(lines[0].contains("%0Adeploy/a.snn:8:14: applied here%0Ahelp: "), "{}", lines[0]);
    // However the file is named, it is the repository's, and it is looked at once.
    let whole = t.path().join("deploy/a.snn").display().to_string();
    for paths in [["./deploy/../deploy", "deploy/a.snn"], [&whole, "deploy/a.snn#A"]] {
        let text = says(t.path(), &["check", paths[0], paths[1], "--format", "github"], 1, &[]);
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("::")).collect();
        assert!(lines.len() == 4 && lines.iter().all(|l| l.starts_with("::error file=deploy/a.snn,")), "{lines:?}");
    }
    let log = sarif(t.path(), &[&whole, "./deploy"], 1);
    let results = log["runs"][0]["results"].as_array().unwrap();
    let place = &results[0]["locations"][0]["physicalLocation"]["artifactLocation"];
    assert_eq!((results.len(), place["uri"].as_str(), place["uriBaseId"].as_str()), (4, Some("deploy/a.snn"), Some("SRCROOT")));
}

#[test]
fn fingerprints_stay_while_other_lines_come_and_go() {
    let t = folder();
    let prints = |args: &[&str]| -> Vec<String> {
        let log = sarif(t.path(), args, 1);
        let results = log["runs"][0]["results"].as_array().unwrap().clone();
        results.iter().map(|r| r["partialFingerprints"]["snncLine/v1"].as_str().unwrap().to_owned()).collect()
    };
    let before = prints(&["deploy/a.snn"]);
    let edited =
        BAD.replace("model A {", "// A comment.\n\nmodel A {").replace("    r = s |>", "    r  =  s  |>").replace("C = 10", "C = 12");
    fs::write(t.path().join("deploy/a.snn"), &edited).unwrap();
    let after = prints(&["deploy/a.snn"]);
    // Only the line that was changed itself counts as another one.
    assert_eq!(before[..3], after[..3]);
    assert_ne!(before[3], after[3]);
    assert_eq!(before.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
}

#[test]
fn a_baseline_accepts_what_stands_and_nothing_new() {
    let t = folder();
    says(t.path(), &["check", "deploy", "--write-baseline", "base.json"], 0, &["wrote base.json (4 findings)"]);
    says(t.path(), &["check", "deploy", "--baseline", "base.json"], 0, &["4 findings in the baseline"]);
    // From another folder, and by another name of the file.
    says(&t.path().join("deploy"), &["check", "./a.snn", "--baseline", "../base.json"], 0, &["4 findings in the baseline"]);
    let log = sarif(t.path(), &["deploy", "--baseline", "base.json"], 0);
    let results = log["runs"][0]["results"].as_array().unwrap();
    assert!(results.iter().all(|r| r["suppressions"][0]["kind"] == "external" && r["baselineState"] == "unchanged"));
    // A second mistake like one that is known, and one that went.
    let more = BAD.replace("    g = e + h\n", "    k = h |> conv(C = 8, kernel = 1)\n    g = e + k\n").replace("3.0", "2.0");
    fs::write(t.path().join("deploy/a.snn"), more).unwrap();
    let words = ["1 entry of the baseline matches nothing any more", "(at `k.conv`)"];
    says(t.path(), &["check", "deploy", "--baseline", "base.json"], 1, &words);
    // Files that are none.
    says(t.path(), &["check", "deploy", "--baseline", "nowhere.json"], 2, &["cannot read the baseline `nowhere.json`", "--write-baseline"]);
    fs::write(t.path().join("base.json"), "{\"version\": 7, \"findings\": []}").unwrap();
    says(t.path(), &["check", "deploy", "--baseline", "base.json"], 2, &["is of version 7, and this snnc reads version 2"]);
    for text in ["{", "[]", "{\"version\": 2, \"snnc\": \"0\", \"findings\": [{}]}"] {
        fs::write(t.path().join("base.json"), text).unwrap();
        says(t.path(), &["check", "deploy", "--baseline", "base.json"], 2, &["is no baseline"]);
    }
}

#[test]
fn rules_are_denied_and_allowed() {
    let t = folder();
    says(t.path(), &["check", "b.snn"], 0, &["admitted"]);
    says(t.path(), &["check", "b.snn", "--deny", "leak"], 1, &["leak` denies", "admitted: as published"]);
    let all = ["check", "deploy", "--allow", "check::leak", "--allow", "real_operand", "--allow", "snnc::check::unfoldable_scale"];
    says(t.path(), &all, 0, &["4 findings allowed by `--allow` or the policy", "violated"]);
    says(t.path(), &["check", "deploy", "--allow", "leak"], 1, &["real_operand"]);
    says(t.path(), &["check", "b.snn", "--deny", "leek"], 2, &["there is no rule `leek`; did you mean `leak`?"]);
    says(t.path(), &["check", "b.snn", "--allow", "syntax::unexpected"], 2, &["cannot be allowed"]);
    says(t.path(), &["check", "b.snn", "--allow", "leak", "--deny", "leak"], 2, &["both denied and allowed"]);
    let unused = ADMITTED.replace("    output", "    unused = s |> linear(C -> C = 3)\n    output");
    fs::write(t.path().join("b.snn"), unused).unwrap();
    says(t.path(), &["check", "b.snn"], 0, &["build::unused"]);
    says(t.path(), &["check", "b.snn", "--deny", "warnings"], 1, &["warnings` denies"]);
}

#[test]
fn a_folder_has_a_policy() {
    let t = folder();
    let policy = |text: &str| fs::write(t.path().join("snnc.toml"), text).unwrap();
    policy("deny = [\"leak\"]\n");
    says(t.path(), &["check", "b.snn"], 1, &["snnc.toml`", "denies"]);
    // The command line has the last word.
    says(t.path(), &["check", "b.snn", "--allow", "leak"], 0, &[]);
    policy("[[model]]\nfiles = [\"*.snn\"]\nverdict = \"strict\"\nencoder_share = 0.1\n");
    let words = ["`B` is admitted, and the policy asks for strict", "the policy asks for 10.00 %", "asked for here", "policy::verdict"];
    says(t.path(), &["check", "b.snn"], 1, &words);
    sarif(t.path(), &["b.snn"], 1);
    policy("[[model]]\nfiles = [\"deploy/*.snn\"]\nverdict = \"strict\"\n");
    says(t.path(), &["check", "b.snn"], 0, &[]);
    policy("baseline = \"base.json\"\n");
    says(t.path(), &["check", "deploy"], 2, &["cannot read the baseline"]);
    says(t.path(), &["check", "deploy", "--write-baseline", "base.json"], 0, &[]);
    says(&t.path().join("deploy"), &["check", "a.snn"], 0, &["4 findings in the baseline"]);
    // Mistakes in it.
    for (text, word) in [
        ("denny = []\n", "unknown key `denny`"),
        ("deny = [\"leek\"]\n", "did you mean `leak`?"),
        ("deny = \n", "policy::file"),
        ("[[model]]\nfiles = [\"*\"]\nverdict = \"stict\"\n", "unknown verdict `stict`"),
        ("[[model]]\nfiles = [\"a***b\"]\n", "is no pattern"),
        ("[[model]]\nfiles = [\"*\"]\nencoder_share = 7\n", "not between 0 and 1"),
        ("[[model]]\nverdict = \"strict\"\n", "missing key `files`"),
        ("deny = [\"\\u0000\"]\n", "there is no rule"),
        ("deny = 3\n", "wrong type: integer `3`, expected a list"),
        ("[[model]]\nfiles = [\"*\"]\nencoder_share = \"x\"\n", "expected a number"),
    ] {
        policy(text);
        says(t.path(), &["check", "b.snn"], 2, &[word, "policy::file", "snnc.toml"]);
    }
}

#[test]
fn fixes_leave_a_file_that_is_clean_and_formatted() {
    let t = folder();
    says(
        t.path(),
        &["check", "deploy", "--fix"],
        0,
        &["deploy/a.snn: 4 places mended; the network is another now", "  deploy/a.snn:4:18: write `tau = 4.0`", "strict"],
    );
    says(t.path(), &["fmt", "--check", "deploy"], 0, &[]);
    let text = fs::read_to_string(t.path().join("deploy/a.snn")).unwrap();
    for line in ["LIF(tau = 4.0)", "|> lif |> conv(C = 8, kernel = 1)", "batchnorm(C)", "|> lif |> linear("] {
        assert!(text.contains(line), "{text}");
    }
    // Nothing to mend, nothing changed; what is admitted is not touched.
    says(t.path(), &["check", ".", "--fix"], 0, &[]);
    assert_eq!(fs::read_to_string(t.path().join("deploy/a.snn")).unwrap(), text);
    assert_eq!(fs::read_to_string(t.path().join("b.snn")).unwrap(), ADMITTED);
    // What has no remedy stays, and says so.
    let dyadic = ADMITTED.replace("3.0", "2.0").replace("    allow(leak, count = 1, \"as published\")\n", "");
    let product = dyadic.replace("    output s |>", "    p = e * e |> lif\n    output s + p |> lif |>");
    fs::write(t.path().join("b.snn"), &product).unwrap();
    says(t.path(), &["check", "b.snn", "--fix"], 1, &["real_product", "b.snn: nothing is mended: of 1 finding, none has a remedy"]);
    assert_eq!(fs::read_to_string(t.path().join("b.snn")).unwrap(), product);
    // A built-in file is nobody's to change.
    says(t.path(), &["check", "mixer/mlp_spe", "--fix"], 0, &[]);
}

#[test]
fn a_fix_takes_away_what_nothing_needs_any_more() {
    let t = TempDir::new().unwrap();
    let text = ADMITTED.replace(
        "    allow(leak, count = 1, \"as published\")\n",
        "    // first\n    allow(unfoldable_scale, count = 1, \"no more\") // here\n    allow(leak, count = 3, \"as published\")\n",
    );
    fs::write(t.path().join("b.snn"), &text).unwrap();
    says(t.path(), &["check", "b.snn", "--fix", "--exact"], 0, &["2 places mended", "admitted"]);
    let fixed = fs::read_to_string(t.path().join("b.snn")).unwrap();
    assert!(fixed.contains("// first\n") && fixed.contains("// here\n") && !fixed.contains("unfoldable_scale"), "{fixed}");
    assert!(fixed.contains("allow(leak, count = 1, \"as published\")"), "{fixed}");
    // More than was admitted is for people to decide.
    let few = ADMITTED.replace("count = 1", "count = 0");
    fs::write(t.path().join("b.snn"), &few).unwrap();
    says(t.path(), &["check", "b.snn", "--fix"], 1, &["check::allow_count", "write `count = 1`"]);
    assert_eq!(fs::read_to_string(t.path().join("b.snn")).unwrap(), few);
}

fn project(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// The text in the fences behind a comment `<!-- tag… -->`, and what stands in the comment.
fn fenced(page: &str, tag: &str) -> (String, String) {
    let (_, rest) = page.split_once(&format!("<!-- {tag}")).unwrap();
    let (what, rest) = rest.split_once("-->\n```\n").unwrap();
    (what.trim_start_matches(':').trim().to_owned(), rest.split_once("```").unwrap().0.to_owned())
}

#[test]
fn the_page_about_ci_shows_what_is_printed() {
    let page = project("docs/ci.md");
    let t = TempDir::new().unwrap();
    fs::write(t.path().join("a.snn"), fenced(&page, "model").1).unwrap();
    for (tag, code) in [("red", 1), ("green", 0)] {
        let (command, wanted) = fenced(&page, tag);
        let args: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(says(t.path(), &args, code, &[]), wanted, "{tag}");
    }
    // Its example of a policy is one.
    fs::create_dir(t.path().join("deploy")).unwrap();
    fs::write(t.path().join("deploy/b.snn"), ADMITTED).unwrap();
    let policy = page.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    fs::write(t.path().join("snnc.toml"), policy).unwrap();
    says(t.path(), &["check", "a.snn", "--write-baseline", "snnc-baseline.json"], 0, &[]);
}

#[test]
fn the_action_runs_the_check() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ci/check.sh");
    let t = folder();
    let run = |paths: &str, arguments: &str| {
        let mut command = Command::new("bash");
        command.arg(&script).arg(env!("CARGO_BIN_EXE_snnc")).current_dir(t.path());
        command.env("PATHS", paths).env("ARGUMENTS", arguments).env("SARIF", "findings.sarif").output().unwrap()
    };
    let out = run("deploy b.snn", "");
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("::error file=deploy/a.snn"));
    validate("tests/schemas/sarif-2.1.0.json", &serde_json::from_slice(&fs::read(t.path().join("findings.sarif")).unwrap()).unwrap());
    assert_eq!(run("b.snn", "").status.code(), Some(0));
    assert_eq!(run("b.snn", "--deny leak").status.code(), Some(1));
    assert_eq!(run("b.snn", "--deny leek").status.code(), Some(2));
    // What the action says it runs is there.
    let action = project("action.yml");
    assert!(action.contains("$GITHUB_ACTION_PATH/docs/ci/check.sh") && action.contains("$GITHUB_ACTION_PATH/cli"));
    for hook in ["entry: snnc check\n", "entry: snnc fmt\n"] {
        assert!(project(".pre-commit-hooks.yaml").contains(hook));
    }
}

#[test]
fn lists_of_paths_may_stand_on_several_lines() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ci/check.sh");
    let t = folder();
    let run = |paths: &str, sarif: &str| {
        let mut command = Command::new("bash");
        command.arg(&script).arg(env!("CARGO_BIN_EXE_snnc")).current_dir(t.path());
        command.env("PATHS", paths).env("ARGUMENTS", "").env("SARIF", sarif).output().unwrap().status.code()
    };
    assert_eq!(run("b.snn\ndeploy/a.snn\n", ""), Some(1));
    assert_eq!(run("\nb.snn\n", ""), Some(0));
    assert_ne!(run("b.snn", "nowhere/findings.sarif"), Some(0));
    assert_eq!(run("b.snn", "/dev/full"), Some(2));
}

#[test]
fn every_folder_has_its_own_baseline() {
    let t = TempDir::new().unwrap();
    for name in ["a", "b"] {
        let folder = t.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("m.snn"), BAD).unwrap();
        fs::write(folder.join("snnc.toml"), "baseline = \"base.json\"\n").unwrap();
        says(&folder, &["check", ".", "--write-baseline", "base.json"], 0, &[]);
    }
    says(t.path(), &["check", "a", "b"], 0, &["8 findings in the baseline"]);
    // A neighbour's does not hold for a folder without one.
    fs::remove_file(t.path().join("b/snnc.toml")).unwrap();
    for order in [["a", "b"], ["b", "a"]] {
        says(t.path(), &["check", order[0], order[1]], 1, &["4 findings in the baseline"]);
    }
}

#[test]
fn a_finding_is_the_same_however_its_file_is_named() {
    let t = folder();
    fs::create_dir(t.path().join("ci")).unwrap();
    says(t.path(), &["check", "deploy", "--write-baseline", "ci/base.json"], 0, &[]);
    let whole = t.path().join("deploy").display().to_string();
    for path in ["deploy", "./deploy", "deploy/../deploy/a.snn", &whole] {
        says(t.path(), &["check", path, "--baseline", "ci/base.json"], 0, &["4 findings in the baseline"]);
    }
    says(&t.path().join("deploy"), &["check", ".", "--baseline", "../ci/base.json"], 0, &["4 findings in the baseline"]);
    // In a repository, with and without a baseline.
    fs::create_dir(t.path().join(".git")).unwrap();
    says(t.path(), &["check", "deploy", "--write-baseline", "ci/base.json"], 0, &[]);
    let prints = |args: &[&str], code: i32| {
        let log = sarif(t.path(), args, code);
        let results = log["runs"][0]["results"].as_array().unwrap().clone();
        results.iter().map(|r| r["partialFingerprints"]["snncLine/v1"].clone()).collect::<Vec<_>>()
    };
    let all = prints(&["deploy"], 1);
    assert_eq!(prints(&["./deploy"], 1), all);
    assert_eq!(prints(&["deploy", "--baseline", "ci/base.json"], 0), all);
    // Another variant's finding on a line like one that is known is another one.
    let two = format!("{BAD}{}", BAD.replace("model A", "model B"));
    fs::write(t.path().join("two.snn"), two).unwrap();
    says(t.path(), &["check", "two.snn#A", "--write-baseline", "two.json"], 0, &["(4 findings)"]);
    says(t.path(), &["check", "two.snn#B", "--baseline", "two.json"], 1, &["check::leak"]);
}

#[test]
fn a_baseline_takes_only_what_can_be_accepted() {
    let t = folder();
    says(t.path(), &["check", "nowhere.snn", "--write-baseline", "base.json"], 2, &["wrote base.json (0 findings)", "nowhere.snn"]);
    says(t.path(), &["check", "nowhere.snn", "--baseline", "base.json"], 2, &[]);
    fs::write(t.path().join("c.snn"), format!("garbage here\n{BAD}")).unwrap();
    says(t.path(), &["check", "c.snn", "--write-baseline", "base.json"], 1, &["(0 findings)", "syntax::"]);
    // What was not looked at is neither gone nor forgotten.
    fs::remove_file(t.path().join("c.snn")).unwrap();
    fs::write(t.path().join("d.snn"), BAD.replace("model A", "model D")).unwrap();
    says(t.path(), &["check", ".", "--write-baseline", "base.json"], 0, &["(8 findings)"]);
    let out = says(t.path(), &["check", "d.snn", "--baseline", "base.json"], 0, &["4 findings in the baseline"]);
    assert!(!out.contains("matches nothing") && !out.contains("match nothing"), "{out}");
    says(t.path(), &["check", "d.snn", "--write-baseline", "base.json"], 0, &["(8 findings)"]);
    says(t.path(), &["check", ".", "--baseline", "base.json"], 0, &["8 findings in the baseline"]);
}

#[test]
fn fixes_leave_what_is_accepted() {
    let t = folder();
    let path = t.path().join("deploy/a.snn");
    says(t.path(), &["check", "deploy", "--write-baseline", "base.json"], 0, &[]);
    says(t.path(), &["check", "deploy", "--baseline", "base.json", "--fix"], 0, &[]);
    assert_eq!(fs::read_to_string(&path).unwrap(), BAD);
    says(t.path(), &["check", "deploy", "--allow", "leak", "--fix"], 0, &["3 places mended"]);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("tau = 3.0") && text.contains("batchnorm(C)"), "{text}");
}

#[test]
fn a_policy_holds_for_what_a_file_is_called() {
    let t = folder();
    let policy = |text: &str| fs::write(t.path().join("snnc.toml"), text).unwrap();
    std::os::unix::fs::symlink("../b.snn", t.path().join("deploy/link.snn")).unwrap();
    fs::remove_file(t.path().join("deploy/a.snn")).unwrap();
    for pattern in ["deploy/*.snn", "./deploy/*.snn", "**/link.snn"] {
        policy(&format!("[[model]]\nfiles = [\"{pattern}\"]\nverdict = \"strict\"\n"));
        says(t.path(), &["check", "deploy/link.snn"], 1, &["policy::verdict"]);
        says(t.path(), &["check", "deploy"], 1, &["policy::verdict"]);
        says(t.path(), &["check", "b.snn"], 0, &[]);
    }
    policy("[[model]]\nfiles = [\"depoly/*.snn\"]\nverdict = \"strict\"\n");
    says(t.path(), &["check", "b.snn"], 2, &["`depoly/*.snn` matches no file", "policy::file"]);
    // One word for several codes, and the same asked for both ways.
    policy("deny = [\"value\"]\n");
    says(t.path(), &["check", "b.snn"], 2, &["`value` may be", "write the whole code"]);
    policy("deny = [\"leak\"]\nallow = [\"leak\"]\n");
    says(t.path(), &["check", "b.snn"], 2, &["both denied and allowed"]);
    // A code before all warnings, the command line before the file.
    let unused = ADMITTED.replace("    output", "    unused = s |> linear(C -> C = 3)\n    output");
    fs::write(t.path().join("b.snn"), unused).unwrap();
    policy("deny = [\"warnings\"]\n");
    says(t.path(), &["check", "b.snn"], 1, &["denies"]);
    says(t.path(), &["check", "b.snn", "--allow", "build::unused"], 0, &[]);
    says(t.path(), &["check", "b.snn", "--allow", "warnings"], 0, &[]);
    policy("");
    says(t.path(), &["check", "b.snn", "--deny", "warnings", "--allow", "build::unused"], 0, &[]);
    says(t.path(), &["check", "b.snn", "--allow", "warnings", "--deny", "build::unused"], 1, &[]);
}

#[test]
fn names_of_files_are_only_names() {
    use std::os::unix::ffi::OsStrExt;
    let t = folder();
    // A line that would be a command to whoever reads the log.
    fs::write(t.path().join("x\n::error::pwned\n.snn"), ADMITTED).unwrap();
    let out = says(t.path(), &["check", "x\n::error::pwned\n.snn", "--format", "github"], 0, &["\\u{a}::error::pwned"]);
    assert!(!out.contains("\n::"), "{out}");
    // A `#` that is part of a path; a variant of a folder.
    fs::create_dir(t.path().join("v#1")).unwrap();
    fs::write(t.path().join("v#1/b.snn"), ADMITTED).unwrap();
    says(t.path(), &["check", "v#1/b.snn"], 0, &["admitted"]);
    says(t.path(), &["check", "deploy#Nope"], 2, &["`deploy` is a folder, and has no variant `Nope`"]);
    let name = std::ffi::OsStr::from_bytes(b"x\xff.snn");
    fs::write(t.path().join("deploy").join(name), ADMITTED).unwrap();
    says(t.path(), &["check", "deploy"], 2, &["is not UTF-8"]);
}

/// Two variants of one text, of which one breaks a rule.
const SHARED: &str = "model M {
    param t: float = 3.0
    time T = 2
    input x: analog[C = 2]
    neuron a = LIF(tau = t)
    encoder {
        e = x |> linear(C -> C = 4)
    }
    output e |> a |> linear(C -> C = 3) |> mean(T)
}

variant Wrong = M(t = 3.0)
variant Right = M(t = 2.0)
";

#[test]
fn fixes_change_no_other_variant_and_nothing_that_is_admitted() {
    let t = TempDir::new().unwrap();
    fs::write(t.path().join("m.snn"), SHARED).unwrap();
    says(t.path(), &["check", "m.snn", "--fix"], 1, &["for `Wrong` would change `Right`, where that is not wrong"]);
    assert_eq!(fs::read_to_string(t.path().join("m.snn")).unwrap(), SHARED);
    // Alone, or with all that read it wrong, it is mended.
    let both = SHARED.replace("t = 2.0", "t = 5.0");
    fs::write(t.path().join("m.snn"), &both).unwrap();
    says(t.path(), &["check", "m.snn", "--fix"], 0, &["mended"]);
    // One that may be mended beside one that may not.
    let other = SHARED.replace("    output e |> a", "    neuron b = LIF(tau = 1.5)\n    output e |> b |> linear(C -> C) |> a");
    fs::write(t.path().join("m.snn"), &other).unwrap();
    says(t.path(), &["check", "m.snn", "--fix"], 1, &["1 place mended", "would change `Right`"]);
    let text = fs::read_to_string(t.path().join("m.snn")).unwrap();
    assert!(!text.contains("tau = 1.5") && text.contains("tau = t"), "{text}");
    let admitted = ADMITTED.replace("output s |>", "output s |> linear(C -> C) |> lif |>");
    fs::write(t.path().join("b.snn"), &admitted).unwrap();
    says(t.path(), &["check", "b.snn", "--fix"], 1, &["would change `s.lif` of `B` too, which an `allow` admits"]);
    assert_eq!(fs::read_to_string(t.path().join("b.snn")).unwrap(), admitted);
}

#[test]
fn a_baseline_accepts_neither_more_places_nor_other_variants() {
    let t = TempDir::new().unwrap();
    let bad = ADMITTED.replace("    allow(leak, count = 1, \"as published\")\n", "");
    fs::write(t.path().join("b.snn"), &bad).unwrap();
    says(t.path(), &["check", "b.snn", "--write-baseline", "base.json"], 0, &["(1 finding)"]);
    let more = bad.replace("output s |>", "output s |> linear(C -> C) |> lif |>");
    fs::write(t.path().join("b.snn"), more).unwrap();
    says(t.path(), &["check", "b.snn", "--baseline", "base.json"], 1, &["check::leak"]);
    says(t.path(), &["check", "b.snn", "--write-baseline", "base.json"], 0, &["(1 finding)"]);
    // Fewer places are no news.
    fs::write(t.path().join("b.snn"), &bad).unwrap();
    says(t.path(), &["check", "b.snn", "--baseline", "base.json"], 0, &["1 finding in the baseline"]);
    fs::write(t.path().join("m.snn"), SHARED).unwrap();
    says(t.path(), &["check", "m.snn", "--write-baseline", "base.json"], 0, &[]);
    fs::write(t.path().join("m.snn"), SHARED.replace("t = 2.0", "t = 5.0")).unwrap();
    says(t.path(), &["check", "m.snn", "--baseline", "base.json"], 1, &["check::leak"]);
}

#[test]
fn a_pattern_that_can_match_nothing_is_refused() {
    let t = folder();
    for pattern in ["/deploy/a.snn", "deploy//a.snn", "deploy/./a.snn", "x/../deploy/a.snn", "../deploy/a.snn"] {
        fs::write(t.path().join("snnc.toml"), format!("[[model]]\nfiles = [\"{pattern}\"]\nverdict = \"strict\"\n")).unwrap();
        says(t.path(), &["check", "deploy"], 2, &["policy::file", "is not seen from this folder", "deploy/*.snn"]);
    }
    fs::write(t.path().join("snnc.toml"), "[[model]]\nfiles = []\nverdict = \"strict\"\n").unwrap();
    says(t.path(), &["check", "deploy"], 2, &["policy::file", "names no file"]);
}

#[test]
fn thousands_of_findings_take_seconds() {
    let t = TempDir::new().unwrap();
    let count = 1000;
    let neurons: String = (0..count).map(|i| format!("    neuron n{i} = LIF(tau = 3.0)\n")).collect();
    let layers: String = (1..count).map(|i| format!("    s{i} = s{} |> linear(C -> C) |> n{i}\n", i - 1)).collect();
    let head = "model M {\n    time T = 2\n    input x: analog[C = 2]\n    encoder {\n        e = x |> linear(C -> C)\n    }\n";
    let last = format!("    s0 = e |> n0\n{layers}    output s{} |> linear(C -> C = 3) |> mean(T)\n}}\n", count - 1);
    fs::write(t.path().join("m.snn"), format!("{head}{neurons}{last}")).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(sarif(t.path(), &["m.snn"], 1)["runs"][0]["results"].as_array().unwrap().len(), count);
    says(t.path(), &["check", "m.snn", "--fix"], 0, &["1,000 places mended"]);
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

/// A model that is right, and one that is wrong, with a block of another file.
fn shared(block: &str, right: &str) -> TempDir {
    let t = TempDir::new().unwrap();
    let head = "    time T = 4\n    input x: analog[C = 2]\n    neuron n = LIF(tau = 2.0)\n    encoder { e = x |> linear(C -> C = 3) }\n    s = e |> n\n";
    let tail = "    output r |> n |> linear(C -> C) |> mean(T)\n}\n";
    fs::write(t.path().join("b.snn"), block).unwrap();
    let wrong = "    r = Q(s, n)\n";
    for (name, line) in [("k1", wrong), ("k2", right)] {
        fs::write(t.path().join(format!("{name}.snn")), format!("use b::Q\n\nmodel {} {{\n{head}{line}{tail}", name.to_uppercase()))
            .unwrap();
    }
    t
}

#[test]
fn fixes_change_no_model_of_another_file() {
    let block = "block Q(s: spike[C], n: neuron) -> current[C] {\n    h = s |> linear(C -> C) |> n\n    \
                 yield (h + (s |> linear(C -> C))) |> linear(C -> C)\n}\n";
    let admitted = "    allow(real_operand, count = 1, \"as published\")\n    r = Q(s, n)\n";
    // Together, or alone with the other beside it: what stands in the shared file stays.
    for files in [&["k1.snn", "k2.snn"][..], &["k1.snn"], &["."]] {
        let t = shared(block, admitted);
        let said = says(t.path(), &[&["check", "--fix"], files].concat(), 1, &["k1.snn: not mended", "k2.snn`"]);
        assert!(!said.contains("stay the same"), "{said}");
        assert_eq!(fs::read_to_string(t.path().join("b.snn")).unwrap(), block);
        says(t.path(), &["check", "k2.snn"], 0, &["admitted"]);
    }
    // Where both are wrong in the same place, both are meant.
    let t = shared(block, "    r = Q(s, n)\n");
    says(t.path(), &["check", "--fix", "k1.snn", "k2.snn"], 0, &["mended in b.snn"]);
    // A variant that is not looked at is looked after.
    let t = TempDir::new().unwrap();
    fs::write(t.path().join("m.snn"), SHARED).unwrap();
    says(t.path(), &["check", "m.snn#Wrong", "--fix"], 1, &["would change `Right`"]);
    assert_eq!(fs::read_to_string(t.path().join("m.snn")).unwrap(), SHARED);
}

#[test]
fn a_policy_holds_through_linked_folders_and_is_never_overlooked() {
    use std::os::unix::fs::symlink;
    let t = TempDir::new().unwrap();
    let (outside, inside) = (t.path().join("outside"), t.path().join("inside"));
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(inside.join("real")).unwrap();
    fs::write(outside.join("b.snn"), ADMITTED).unwrap();
    fs::write(inside.join("real/b.snn"), ADMITTED).unwrap();
    symlink("real", inside.join("deploy")).unwrap();
    symlink("../outside", inside.join("linked")).unwrap();
    let policy = inside.join("snnc.toml");
    for pattern in ["deploy/*.snn", "real/*.snn"] {
        fs::write(&policy, format!("[[model]]\nfiles = [\"{pattern}\"]\nverdict = \"strict\"\n")).unwrap();
        for path in ["deploy/b.snn", "deploy", "real/../deploy/b.snn"] {
            says(&inside, &["check", path], 1, &["policy::verdict"]);
        }
    }
    fs::write(&policy, "[[model]]\nfiles = [\"linked/*.snn\"]\nverdict = \"strict\"\n").unwrap();
    says(&inside, &["check", "linked/b.snn"], 1, &["policy::verdict"]);
    says(&inside, &["check", "real/b.snn"], 0, &["admitted"]);
    // One that is there and cannot be read asks for something that nobody knows.
    fs::remove_file(&policy).unwrap();
    fs::create_dir(&policy).unwrap();
    says(&inside, &["check", "real/b.snn"], 2, &["cannot read `snnc.toml`: it is no file"]);
    fs::remove_dir(&policy).unwrap();
    for target in ["missing.toml", "snnc.toml", "/dev/zero"] {
        symlink(target, &policy).unwrap();
        says(&inside, &["check", "real/b.snn"], 2, &["cannot read `snnc.toml`"]);
        fs::remove_file(&policy).unwrap();
    }
}

#[test]
fn no_model_is_left_out_unseen_and_nothing_without_end_is_read() {
    use std::os::unix::fs::symlink;
    let t = TempDir::new().unwrap();
    fs::write(t.path().join("b.snn"), ADMITTED).unwrap();
    fs::create_dir(t.path().join("more")).unwrap();
    symlink("nowhere.snn", t.path().join("more/a.snn")).unwrap();
    says(t.path(), &["check", "."], 2, &["a link that leads nowhere"]);
    fs::remove_file(t.path().join("more/a.snn")).unwrap();
    assert!(Command::new("mkfifo").arg(t.path().join("more/a.snn")).status().unwrap().success());
    says(t.path(), &["check", "."], 2, &["it is no file"]);
    fs::remove_file(t.path().join("more/a.snn")).unwrap();
    fs::write(t.path().join("more/a.SNN"), BAD).unwrap();
    says(t.path(), &["check", "."], 1, &["a.SNN"]);
    fs::remove_file(t.path().join("more/a.SNN")).unwrap();
    symlink("..", t.path().join("more/up")).unwrap();
    says(t.path(), &["check", "."], 0, &["`./more/up` is a link to a folder and is not followed"]);
    for args in [
        &["check", "b.snn", "--baseline", "/dev/zero"][..],
        &["census", "/dev/zero"],
        &["certify", "--verify", "/dev/zero"],
        &["energy", "b.snn", "--rates", "/dev/zero"],
    ] {
        says(t.path(), args, 2, &["it is no file"]);
    }
    says(t.path(), &["check", "b.snn", "--write-baseline", "/dev/full"], 2, &["No space left on device"]);
}

/// A map of real values behind another.
const CHAINED: &str = "model S {
    time T = 4
    input x: analog[C = 1, H = 8, W = 8]
    neuron b = LIF(tau = 2.0)
    encoder {
        e = x |> conv(C = 8, kernel = 3, pad = 1)
    }
    s = e |> b
    c = s |> conv(C = 8, kernel = 3, pad = 1)
    d = c |> conv(C = 8, kernel = 1)
    r = c + d
    q = r |> linear(C -> C = 16)
    output q |> b |> mean(H, W) |> linear(C -> C = 10) |> mean(T)
}
";

#[test]
fn folds_that_others_make_idle_are_taken_back_and_cost_nothing() {
    let t = TempDir::new().unwrap();
    let both = CHAINED.replace("    d =", "    fold(compose)\n    d =").replace("    q =", "    fold(compose)\n    q =");
    fs::write(t.path().join("both.snn"), both).unwrap();
    says(t.path(), &["check", "both.snn"], 0, &["`fold(compose)` does nothing here"]);
    // 8 x 8 x 3 x 3 + 8 x 16 x 3 x 3 weights for the two terms, less those of c, d and q.
    says(t.path(), &["certify", "both.snn"], 0, &[" 1          1,536  6.1 KB"]);
    fs::write(t.path().join("m.snn"), CHAINED).unwrap();
    says(t.path(), &["check", "m.snn", "--fix", "--exact", "--deny", "warnings"], 0, &["the results stay the same"]);
    let text = fs::read_to_string(t.path().join("m.snn")).unwrap();
    assert_eq!(text, CHAINED.replace("    q =", "    fold(compose)\n    q ="));
}

#[test]
fn a_leak_is_mended_last() {
    let t = TempDir::new().unwrap();
    let text = "model Fx {
    time T = 4
    input x: analog[C = 1, H = 8, W = 8]
    fold(time)
    neuron odd = LIF(tau = 3.0)
    encoder {
        e = x |> conv(C = 4, kernel = 3, pad = 1)
    }
    s = e |> odd
    r = e + s
    t = r + (s |> linear(W -> W) |> batchnorm(C)) |> odd
    output t |> mean(H, W) |> linear(C -> C = 10) |> mean(T)
}
";
    fs::write(t.path().join("fx.snn"), text).unwrap();
    says(t.path(), &["check", "fx.snn", "--fix", "--deny", "warnings"], 0, &["1 place mended", "strict"]);
    assert_eq!(fs::read_to_string(t.path().join("fx.snn")).unwrap(), text.replace("batchnorm(C)", "batchnorm(W)"));
}

#[test]
fn what_is_wrong_in_one_variant_is_named_and_what_another_needs_is_no_waste() {
    let t = TempDir::new().unwrap();
    let text = "model R {
    param tau: float = 2.0
    time T = 4
    input x: analog[C = 3]
    neuron a = LIF(tau = tau)
    encoder { e = x |> linear(C -> C = 8) }
    MARK
    s = e |> a
    output s |> linear(C -> C = 10) |> mean(T)
}

variant A = R(tau = 2.0)
variant B = R(tau = 5.0)
";
    fs::write(t.path().join("v.snn"), text.replace("MARK", "allow(leak, count = 2, \"because\")")).unwrap();
    says(t.path(), &["check", "v.snn"], 1, &["nothing here needs `allow(leak)` (in `A`)", "expects 2 places, but admits 1 (in `B`)"]);
    fs::write(t.path().join("f.snn"), text.replace("MARK", "fold(time)")).unwrap();
    says(t.path(), &["check", "f.snn", "--deny", "warnings"], 0, &["f.snn#B  strict"]);
}
