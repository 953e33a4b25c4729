//! Annotations for GitHub Actions (<https://docs.github.com/actions/reference/workflow-commands-for-github-actions>).

use super::{Outcome, human, position, seen};
use snnc_grammar::Severity;

/// One command a line for every finding that is open, and the table behind them.
pub(crate) fn report(outcomes: &[Outcome], notes: &[String]) {
    for o in outcomes {
        for finding in o.open() {
            let d = &finding.diagnostic;
            let level = match d.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "notice",
            };
            let mut properties = Vec::new();
            if let (Some(label), Some(source)) = (d.labels.first(), o.sources.get(d.span().file)) {
                let ((line, column), (end_line, end_column)) =
                    (position(&source.text, label.span.start), position(&source.text, label.span.end));
                properties.push(format!("file={}", property(&seen(&source.name))));
                properties.push(format!("line={line},endLine={end_line}"));
                // Columns are only taken within one line.
                if line == end_line {
                    properties.push(format!("col={column},endColumn={end_column}"));
                }
            }
            properties.push(format!("title={}", property(&format!("snnc::{}", d.code))));
            let mut text = d.message.clone();
            for label in &d.labels {
                text += &format!("\n{}: {}", o.sources.place(label.span), label.text);
            }
            if let Some(help) = &d.help {
                text += &format!("\nhelp: {help}");
            }
            println!("::{level} {}::{}", properties.join(","), data(&text));
        }
    }
    human::summary(outcomes, notes);
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
