//! How diagnostics and tables look.

use crate::Failure;
use miette::{GraphicalReportHandler, GraphicalTheme};
use serde_json::{Value, json};
use snnc_grammar::ast::Arg;
use snnc_grammar::expr_text;
use snnc_grammar::{Diagnostic, Severity, SourceMap};
use std::io::IsTerminal;

/// Prints diagnostics to stderr; fails if one is an error.
pub(crate) fn show(sources: &SourceMap, diagnostics: &[Diagnostic]) -> Result<(), Failure> {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
    for diagnostic in diagnostics {
        let mut text = String::new();
        if handler.render_report(&mut text, &diagnostic.report(sources)).is_err() {
            text = format!("{}: {}", diagnostic.code, diagnostic.message);
        }
        eprintln!("{text}");
    }
    outcome(sources, diagnostics)
}

/// Whether diagnostics make a command fail, and how.
pub(crate) fn outcome(sources: &SourceMap, diagnostics: &[Diagnostic]) -> Result<(), Failure> {
    let mut failure = Ok(());
    for diagnostic in diagnostics.iter().filter(|d| d.severity == Severity::Error) {
        // What is wrong with the command line itself is the command line's fault.
        let outside = sources.get(diagnostic.span().file).is_some_and(snnc_grammar::Source::argument);
        if diagnostic.code == "io::read" || outside || diagnostic.code == "build::unknown_model" {
            return Err(Failure::Usage(format!("{} (see above)", diagnostic.message)));
        }
        failure = Err(Failure::Findings);
    }
    failure
}

/// A diagnostic for programs.
pub(crate) fn json(sources: &SourceMap, diagnostic: &Diagnostic) -> Value {
    let label =
        |l: &snnc_grammar::Label| json!({ "place": sources.place(l.span), "start": l.span.start, "end": l.span.end, "text": l.text });
    json!({
        "code": format!("snnc::{}", diagnostic.code),
        "severity": match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        },
        "message": diagnostic.message,
        "labels": diagnostic.labels.iter().map(label).collect::<Vec<_>>(),
        "help": diagnostic.help,
    })
}

/// Columns padded to the widest cell; numbers to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> =
        (0..header.len()).map(|i| rows.iter().map(|r| r[i].chars().count()).chain([header[i].len()]).max().unwrap_or(0)).collect();
    let mut out = String::new();
    let mut line = |cells: Vec<&str>, numbers: bool| {
        let cells: Vec<String> =
            cells.iter().zip(&widths).map(|(c, w)| if numbers && is_number(c) { format!("{c:>w$}") } else { format!("{c:<w$}") }).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    };
    line(header.to_vec(), false);
    for row in rows {
        line(row.iter().map(String::as_str).collect(), true);
    }
    out
}

fn is_number(cell: &str) -> bool {
    cell.starts_with(|c: char| c.is_ascii_digit()) && cell.chars().all(|c| c.is_ascii_digit() || ",. %".contains(c))
}

/// A path as a shell takes it.
pub(crate) fn quoted(path: impl AsRef<std::path::Path>) -> String {
    let word = path.as_ref().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+:,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// 1.53 G
pub(crate) fn short(x: f64) -> String {
    for (unit, size) in [("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)] {
        if x >= size {
            return format!("{:.2} {unit}", x / size);
        }
    }
    format!("{x:.0}")
}

/// Millijoule, microjoule or nanojoule, whichever leaves a digit before the point.
pub(crate) fn joules(millijoule: f64) -> String {
    match millijoule {
        e if e >= 0.1 => format!("{e:.3} mJ"),
        e if e >= 1e-4 => format!("{:.3} µJ", e * 1e3),
        e => format!("{:.3} nJ", e * 1e6),
    }
}

/// A published fact.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Published {
    /// What: `params`, `top1`.
    fact: String,
    /// The number as written, with its unit.
    value: String,
    /// On which data.
    on: Option<String>,
    /// And how, such as `T = 4`.
    at: Option<String>,
}

impl Published {
    pub(crate) fn is(&self, fact: &str) -> bool {
        self.fact == fact
    }

    pub(crate) fn of(fact: &snnc_grammar::ast::Fact) -> Published {
        let shown =
            |arg: &Arg| if let Arg::Named(name, value) = arg { Some(format!("{} = {}", name.name, expr_text(value))) } else { None };
        let at = fact.on.as_ref().map(|c| c.args.list.iter().filter_map(shown).collect::<Vec<_>>().join(", "));
        let on = fact.on.as_ref().map(|c| c.callee.name.clone());
        Published { fact: fact.name.name.clone(), value: fact.value.clone(), on, at: at.filter(|at| !at.is_empty()) }
    }
}

impl std::fmt::Display for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.fact, self.value)?;
        self.on.as_ref().map_or(Ok(()), |on| write!(f, " on {on}"))?;
        self.at.as_ref().map_or(Ok(()), |at| write!(f, " ({at})"))
    }
}
