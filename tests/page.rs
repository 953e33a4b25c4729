//! The certificate's page in a real browser: drawn, clicked, in light and in dark.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use snnc_tests::{says, tool};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Runs the browser without a network on a file of the folder; gives what it prints.
fn browse(browser: &str, folder: &Path, page: &str, more: &[&str]) -> String {
    let profile = TempDir::new().unwrap();
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]);
    command.args([
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--window-size=1400,1000",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).args(more);
    let out = command.arg(format!("file://{}/{page}", folder.display())).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn number(dom: &str, before: &str) -> u64 {
    let rest = dom.split_once(before).unwrap_or_else(|| panic!("no {before} in the page")).1;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

#[test]
fn the_page_of_a_large_model_is_small_and_quick() {
    let Some(browser) = tool("chromium") else { return };
    let t = TempDir::new().unwrap();
    says(t.path(), &["certify", "mixer/mlp_spe#MlpSpeB", "-o", "b.html"], 0, &[]);
    let text = fs::read_to_string(t.path().join("b.html")).unwrap();
    assert!(text.len() < 2_000_000, "{} bytes", text.len());
    // Nothing is fetched: no address but the name of the SVG format.
    let addresses: Vec<&str> = text.match_indices("http").map(|(i, _)| &text[i..(i + 30).min(text.len())]).collect();
    assert!(addresses.iter().all(|a| a.starts_with("http://www.w3.org/2000/svg")), "{addresses:?}");
    let dom = browse(&browser, t.path(), "b.html", &["--dump-dom"]);
    let ready = number(&dom, "data-ready=\"");
    assert!(ready < 2000, "ready after {ready} ms");
    assert!(
        dom.contains("mixer[23]") && dom.contains("19 operations") && dom.contains("65,647,304 parameters"),
        "the drawing is not there"
    );
    // Everything opened: all operations are drawn.
    fs::write(t.path().join("open.html"), text.replace("document.body.dataset.ready", "$(\"more\").click();\ndocument.body.dataset.ready"))
        .unwrap();
    let dom = browse(&browser, t.path(), "open.html", &["--dump-dom"]);
    let data: serde_json::Value = {
        let json = text.split_once("id=\"certificate\">").unwrap().1.split_once("</script>").unwrap().0;
        serde_json::from_str(json).unwrap()
    };
    assert_eq!(dom.matches("class=\"node").count(), data["written"].as_array().unwrap().len());
    assert!(number(&dom, "data-ready=\"") < 2000);
}

#[test]
fn a_click_shows_source_kind_and_fold() {
    let Some(browser) = tool("chromium") else { return };
    let t = TempDir::new().unwrap();
    let model = "/// </script> & <b>\nmodel M {\n    time T = 2\n    input x: analog[C = 3]\n    neuron lif = LIF(tau = 3.0)\n    encoder {\n        e = x |> linear(C -> C = 8)\n    }\n    \
                 allow(leak, count = 2, \"</script><script>document.title = 1\")\n    s = e |> lif |> linear(C -> C = 8) |> batchnorm(C) |> lif\n    \
                 output s |> linear(C -> C = 10) |> mean(T)\n}\n";
    fs::write(t.path().join("m.snn"), model).unwrap();
    says(t.path(), &["certify", "m.snn", "-o", "m.html"], 0, &[]);
    let text = fs::read_to_string(t.path().join("m.html")).unwrap();
    let click = |path: &str| {
        let script = format!(
            "document.querySelector('.node[data-path=\"{path}\"] rect').dispatchEvent(new MouseEvent('click', {{ bubbles: true }}));\n"
        );
        fs::write(t.path().join("clicked.html"), text.replace("document.body.dataset.ready", &(script + "document.body.dataset.ready")))
            .unwrap();
        let dom = browse(&browser, t.path(), "clicked.html", &["--dump-dom"]);
        let side = dom.split_once("<aside id=\"side\">").unwrap().1.split_once("</aside>").unwrap().0.to_owned();
        (dom, side)
    };
    let (dom, side) = click("s.batchnorm");
    assert!(dom.contains("<title>M is admitted</title>") && dom.contains("class=\"node chosen\" data-path=\"s.batchnorm\""));
    for word in [
        "m.snn:10:43",
        "batchnorm(C)",
        "current[T, C = 8]",
        "a constant factor, folded away",
        "into the weights of the map before it",
        ">s.linear</a>",
        "running_var",
    ] {
        assert!(side.contains(word), "no {word} in {side}");
    }
    let (dom, side) = click("s.lif");
    assert!(side.contains("leak") && side.contains("multiplied: a residue") && side.contains("spike[T, C = 8]"), "{side}");
    assert!(dom.contains("class=\"node bad chosen\""), "residues stand out");
    // A closed group opens, an open one closes.
    let script = "document.querySelector('.group[data-group=\"e\"] rect').dispatchEvent(new MouseEvent('click', { bubbles: true }));\n";
    fs::write(
        t.path().join("closed.html"),
        text.replace("document.body.dataset.ready", &(script.to_owned() + "document.body.dataset.ready")),
    )
    .unwrap();
    let dom = browse(&browser, t.path(), "closed.html", &["--dump-dom"]);
    assert!(!dom.contains("data-path=\"e.linear\"") && dom.contains(">1 operation<"));
}

/// Looks along every edge: sets `data-faults` to how many run through a box or a title, or upwards; and to how many boxes lie on
/// others or have no kind's colour.
const LOOK: &str = "
const boxes = [...document.querySelectorAll('.node rect, .group.closed rect, .group:not(.closed) text')].map((e) => e.getBBox());
let faults = 0;
for (const path of document.querySelectorAll('.edge')) {
  let last = -1e9;
  for (let at = 0; at <= path.getTotalLength(); at += 1) {
    const p = path.getPointAtLength(at);
    if (p.y < last - 0.01 || boxes.some((b) => p.x > b.x + 0.5 && p.x < b.x + b.width - 0.5 && p.y > b.y + 0.5 && p.y < b.y + b.height - 0.5)) { faults++; break; }
    last = p.y;
  }
}
const nodes = [...document.querySelectorAll('.node rect')].map((e) => e.getBBox());
for (const e of document.querySelectorAll('.node rect')) if (getComputedStyle(e).fill === 'rgb(0, 0, 0)') faults++;
nodes.forEach((a, i) => nodes.slice(i + 1).forEach((b) => { if (a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height) faults++; }));
document.body.dataset.faults = faults;
document.body.dataset.edges = document.querySelectorAll('.edge').length;
";

#[test]
fn no_edge_runs_through_a_box_or_a_title_or_upwards() {
    let Some(browser) = tool("chromium") else { return };
    let t = TempDir::new().unwrap();
    let models =
        ["quickstart/digits", "quickstart/digits_attention", "spikingformer/imagenet", "mixer/mlp_spe#MlpSpeT", "gac/msresnet_cifar"];
    for model in models {
        says(t.path(), &["certify", model, "-o", "p.html"], 0, &[]);
        let text = fs::read_to_string(t.path().join("p.html")).unwrap();
        for opened in [false, true] {
            let script = if opened { "$(\"more\").click();\n" } else { "" }.to_owned() + LOOK;
            let page = text.replace("document.body.dataset.ready", &(script + "document.body.dataset.ready"));
            fs::write(t.path().join("look.html"), page).unwrap();
            let dom = browse(&browser, t.path(), "look.html", &["--dump-dom"]);
            assert!(number(&dom, "data-edges=\"") > 3, "{model}");
            assert_eq!(number(&dom, "data-faults=\""), 0, "{model}, opened: {opened}");
            // What feeds a group that feeds it stands in two boxes.
            assert!(model != "quickstart/digits" || dom.contains("s (1 of 2)"));
        }
    }
}

#[test]
fn the_page_is_drawn_in_light_and_in_dark() {
    let Some(browser) = tool("chromium") else { return };
    let t = TempDir::new().unwrap();
    says(t.path(), &["certify", "quickstart/digits", "-o", "d.html"], 0, &[]);
    let mut means = Vec::new();
    for (scheme, name) in [("1", "light"), ("0", "dark")] {
        let file = t.path().join(format!("{name}.png"));
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        browse(&browser, t.path(), "d.html", &[&format!("--screenshot={}", file.display()), &scheme]);
        let picture = image::open(&file).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (1400, 1000));
        let mean = picture.pixels().map(|p| p.0.iter().map(|c| f64::from(*c)).sum::<f64>() / 3.0).sum::<f64>() / f64::from(1400 * 1000);
        // The kinds' colours are there: many pixels in each of the three hues of the legend that the network has.
        let hues = [
            |p: [i32; 3]| p[1] > p[0] + 8 && p[1] > p[2] + 8,
            |p: [i32; 3]| p[0] > p[2] + 20 && p[1] > p[2] + 15,
            |p: [i32; 3]| p[0] > p[1] + 12 && p[1] > p[2],
        ];
        for (i, hue) in hues.iter().enumerate() {
            let count = picture.pixels().filter(|p| hue(p.0.map(i32::from))).count();
            assert!(count > 500, "{name}: {count} pixels of hue {i}");
        }
        means.push(mean);
    }
    assert!(means[0] > 225.0 && means[1] < 40.0, "{means:?}");
}
