//! Rates and energy by layer as a picture that reads in print and in the dark.

use crate::report;
use snnc_compiler::text::printable;
use snnc_runtime::energy::{Costs, Done, Energy, Layer};
use std::fmt::Write;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const PANEL: f64 = 180.0;
const TOP: f64 = 56.0;
const GAP: f64 = 64.0;
const FOOT: f64 = 60.0;

const STYLE: &str = "\
:root { --paper: #ffffff; --ink: #1f2328; --soft: #6e7781; --line: #d0d7de; --ac: #2f6fb1; --mac: #c2521d }\n\
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --soft: #9198a1; --line: #30363d; --ac: #6cb0f5; --mac: #f0883e } }\n\
@media print { :root { --paper: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb; --ac: #2f6fb1; --mac: #c2521d } }\n\
text { font: 12px system-ui, sans-serif; fill: var(--ink) } .title { font-size: 15px; font-weight: 600 } .soft { fill: var(--soft) }\n\
.paper { fill: var(--paper) } .line { stroke: var(--line); stroke-width: 1 } .ac { fill: var(--ac) } .mac { fill: var(--mac) }\n";

/// The picture: rates above, energy below, one bar for every layer.
pub(super) fn svg(energy: &Energy, costs: &Costs, title: &str) -> String {
    let height = TOP + 2.0 * PANEL + GAP + FOOT;
    let mut out = String::new();
    let _ = writeln!(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
    let _ = writeln!(out, "<title>{}</title>\n<style>\n{STYLE}</style>", escape(title));
    let _ = writeln!(out, "<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>");
    let _ = writeln!(out, "<text class=\"title\" x=\"{LEFT}\" y=\"24\">{}</text>", escape(title));
    let rate = |l: &Layer| if l.done == Done::Ac { 100.0 * l.rate } else { 0.0 };
    let told = |l: &Layer| match l.done {
        Done::Ac => format!("{}: {:.2} %", l.path, rate(l)),
        Done::Mac => format!("{}: multiplies, whatever it reads", l.path),
    };
    panel(&mut out, energy, TOP, "firing rate of what is read, %", &rate, &told);
    let joules = |l: &Layer| l.energy(costs);
    let said = |l: &Layer| {
        let done = if l.done == Done::Mac { "MAC" } else { "AC" };
        format!("{}: {} ({} {done})", l.path, report::joules(joules(l)), report::short(l.operations()))
    };
    let most = energy.layers.iter().map(joules).fold(0.0, f64::max);
    let (unit, size) = [("mJ", 1.0), ("µJ", 1e3), ("nJ", 1e6)].into_iter().find(|(_, size)| most * size >= 1.0).unwrap_or(("nJ", 1e6));
    panel(&mut out, energy, TOP + PANEL + GAP, &format!("energy, {unit}"), &|l| size * joules(l), &said);
    let y = TOP + 2.0 * PANEL + GAP + FOOT - 12.0;
    let _ = writeln!(
        out,
        "<rect class=\"ac\" x=\"{LEFT}\" y=\"{}\" width=\"10\" height=\"10\"/><text x=\"{}\" y=\"{y}\">accumulates</text>\
         <rect class=\"mac\" x=\"{}\" y=\"{}\" width=\"10\" height=\"10\"/><text x=\"{}\" y=\"{y}\">multiplies</text>\
         <text class=\"soft\" x=\"{}\" y=\"{y}\" text-anchor=\"end\">{} per sample: {} MAC at {} pJ, {} AC at {} pJ</text>",
        y - 9.0,
        LEFT + 16.0,
        LEFT + 110.0,
        y - 9.0,
        LEFT + 126.0,
        WIDTH - RIGHT,
        report::joules(energy.conventional(costs)),
        report::short(energy.operations(Done::Mac)),
        costs.mac,
        report::short(energy.operations(Done::Ac)),
        costs.ac,
    );
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, energy: &Energy, top: f64, name: &str, value: &dyn Fn(&Layer) -> f64, said: &dyn Fn(&Layer) -> String) {
    let (bottom, count) = (top + PANEL, energy.layers.len().max(1) as f64);
    let step = (WIDTH - LEFT - RIGHT) / count;
    let most = energy.layers.iter().map(value).fold(0.0, f64::max);
    let unit = tick(most);
    let full = (most / unit).ceil().max(1.0) * unit;
    let _ = writeln!(out, "<text class=\"soft\" x=\"{LEFT}\" y=\"{}\">{name}</text>", top - 8.0);
    let mut at = 0.0;
    while at <= full + unit / 2.0 {
        let y = bottom - PANEL * at / full;
        let _ = writeln!(
            out,
            "<line class=\"line\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
            number(at, unit)
        );
        at += unit;
    }
    let mut group = "";
    // Names stand in two rows, where there is room.
    let mut free = [0.0; 2];
    for (i, layer) in energy.layers.iter().enumerate() {
        let x = LEFT + step * i as f64;
        let height = PANEL * value(layer) / full;
        let class = if layer.done == Done::Mac { "mac" } else { "ac" };
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{height:.2}\"><title>{}</title></rect>",
            x + step * 0.1,
            bottom - height,
            step * 0.8,
            escape(&said(layer))
        );
        let own = layer.path.split('.').next().unwrap_or_default();
        if own != group {
            group = own;
            let _ = writeln!(out, "<line class=\"line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\"/>", bottom + 6.0);
            let wide = 7.0 * group.chars().count() as f64;
            let start = (x + 2.0).min(WIDTH - RIGHT - wide);
            if let Some(row) = free.iter().position(|free| start >= *free) {
                let y = bottom + 18.0 + 14.0 * row as f64;
                let _ = writeln!(out, "<text class=\"soft\" x=\"{start:.1}\" y=\"{y}\">{}</text>", escape(group));
                free[row] = start + wide + 8.0;
            }
        }
    }
}

/// A round step that cuts a scale into about four.
fn tick(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf((most / 4.0).log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|f| f * power).find(|t| most / t <= 5.0).unwrap_or(10.0 * power)
}

fn number(x: f64, unit: f64) -> String {
    let digits = (-(unit.log10().floor())).max(0.0) as usize + usize::from(unit.to_string().contains("25"));
    format!("{x:.digits$}")
}

/// The picture with a table behind it.
pub(super) fn html(energy: &Energy, costs: &Costs, title: &str, svg: &str) -> String {
    let mut rows = String::new();
    for row in super::rows(energy, costs) {
        let _ = writeln!(rows, "<tr><td>{}", row.iter().map(|cell| escape(cell)).collect::<Vec<_>>().join("<td>"));
    }
    let head = super::head(energy, costs).join("<th>");
    let style = ":root { color-scheme: light dark } body { font: 15px/1.5 system-ui, sans-serif; background: light-dark(#ffffff, #0d1117); color: light-dark(#1f2328, #e6edf3); max-width: 64rem; margin: 2rem auto; padding: 0 1rem } \
                 table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums } \
                 td, th { padding: 0.15rem 0.6rem; border-bottom: 1px solid #8884; text-align: right } td:first-child, th:first-child { text-align: left } \
                 svg { width: 100%; height: auto }";
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>{}</title>\n\
         <style>{style}</style>\n{svg}<p>With {} neuron updates and memory ({} pJ per word of 32 bits): {} per sample. {}\n<table>\n\
         <tr><th>{head}\n{rows}</table>\n</html>\n",
        escape(title),
        report::short(energy.updates as f64),
        costs.word,
        report::joules(energy.whole(costs)),
        escape(&super::notes(energy).join(" ")),
    )
}

fn escape(text: &str) -> String {
    printable(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
