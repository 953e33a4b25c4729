//! What `snnc check` found, what a policy or a baseline makes of it, and how it is reported.

pub(crate) mod baseline;
pub(crate) mod github;
pub(crate) mod human;
pub(crate) mod json;
pub(crate) mod policy;
pub(crate) mod sarif;

use crate::Failure;
use crate::report;
use sha2::{Digest, Sha256};
use snnc_compiler::check::Checked;
use snnc_grammar::{Diagnostic, Severity, SourceMap, Span};
use std::collections::HashMap;

/// Why a finding does not fail the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Suppressed {
    /// An `allow` of the source admits it.
    Source,
    /// `--allow`, or the policy.
    Allowed,
    /// It stands in the baseline.
    Baseline,
}

/// One finding.
pub(crate) struct Finding {
    pub(crate) diagnostic: Diagnostic,
    pub(crate) suppressed: Option<Suppressed>,
    /// The same as long as the line and its place among equal ones are; see [`fingerprints`].
    pub(crate) fingerprint: String,
}

impl Finding {
    /// Fails the check.
    pub(crate) fn counts(&self) -> bool {
        self.suppressed.is_none() && self.diagnostic.severity == Severity::Error
    }
}

/// A model that was checked.
pub(crate) struct Model {
    pub(crate) checked: Checked,
    /// The name of its variant, or its own.
    pub(crate) declared: Span,
}

/// What checking one file gave.
pub(crate) struct Outcome {
    pub(crate) path: String,
    pub(crate) sources: SourceMap,
    pub(crate) findings: Vec<Finding>,
    pub(crate) models: Vec<Model>,
    pub(crate) blocks: usize,
}

impl Outcome {
    /// The findings that are shown and may fail the check.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.suppressed.is_none())
    }

    /// Whether the check fails, and how.
    pub(crate) fn result(&self) -> Result<(), Failure> {
        let open: Vec<Diagnostic> = self.open().map(|f| f.diagnostic.clone()).collect();
        report::outcome(&self.sources, &open)
    }
}

/// A wrong command line outweighs findings.
pub(crate) fn worst(results: impl Iterator<Item = Result<(), Failure>>) -> Result<(), Failure> {
    let mut worst = Ok(());
    for next in results {
        worst = match (worst, next) {
            (Err(Failure::Usage(u)), _) | (_, Err(Failure::Usage(u))) => Err(Failure::Usage(u)),
            (worst, next) => worst.and(next),
        };
    }
    worst
}

/// Numbers the findings of a file so that a number stays while other lines come and go: a hash of the code, the file, and the
/// text of the line without its spaces, with the place among equal ones behind it.
pub(crate) fn fingerprints(sources: &SourceMap, name: &dyn Fn(&str) -> String, findings: &mut [Finding]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for finding in findings {
        let span = finding.diagnostic.span();
        let source = sources.get(span.file);
        let line = source.and_then(|s| {
            let start = s.text.get(..span.start as usize)?.rfind('\n').map_or(0, |n| n + 1);
            s.text.get(start..)?.lines().next()
        });
        let words = line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        let file = source.map(|s| name(&s.name)).unwrap_or_default();
        let text = format!("{}\0{file}\0{words}", finding.diagnostic.code);
        let hash = snnc_compiler::text::hex(&Sha256::digest(text.as_bytes()));
        let count = seen.entry(hash.clone()).or_insert(0);
        *count += 1;
        finding.fingerprint = format!("{}:{count}", &hash[..16]);
    }
}

/// Line and column of an offset, both from 1; columns count characters.
pub(crate) fn position(text: &str, offset: u32) -> (usize, usize) {
    let before = text.get(..offset as usize).unwrap_or(text);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    (line, column)
}
