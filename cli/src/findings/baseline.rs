//! A baseline: what stands already is accepted, what is new fails.

use super::{Finding, Outcome, Suppressed, policy};
use crate::{Failure, commands};
use serde::{Deserialize, Serialize};
use snnc_runtime::train::checkpoint::replace;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The form of the file.
const VERSION: u64 = 2;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The form of this file.
    version: u64,
    /// The version of snnc that wrote it.
    snnc: String,
    findings: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    fingerprint: String,
    code: String,
    file: String,
    message: String,
    /// In which models, and at how many places of each.
    places: BTreeMap<String, usize>,
}

impl Entry {
    /// It stands for this finding: the same line, in no other model and at no more places.
    fn accepts(&self, finding: &Finding) -> bool {
        let covers = |(model, count): (&String, &usize)| self.places.get(model).is_some_and(|accepted| count <= accepted);
        self.fingerprint == finding.fingerprint && finding.places.iter().all(covers)
    }
}

/// Findings that are accepted.
pub(crate) struct Baseline {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Baseline {
    /// Reads a baseline.
    ///
    /// # Errors
    /// A file that cannot be read or is of another version.
    pub(crate) fn read(path: &Path) -> Result<Baseline, Failure> {
        let shown = path.display();
        let text = commands::text(path)
            .map_err(|e| Failure::Usage(format!("cannot read the baseline `{shown}`: {e}; `--write-baseline {shown}` writes one")))?;
        let broken = |reason: String| Failure::Usage(format!("`{shown}` is no baseline: {reason}"));
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
        let version = value.get("version").and_then(serde_json::Value::as_u64).ok_or_else(|| broken("it has no `version`".into()))?;
        if version != VERSION {
            let message = format!("the baseline `{shown}` is of version {version}, and this snnc reads version {VERSION}");
            return Err(Failure::Usage(format!("{message}; write it anew with `--write-baseline {shown}`")));
        }
        let file: File = serde_json::from_value(value).map_err(|e| broken(e.to_string()))?;
        Ok(Baseline { path: path.to_owned(), entries: file.findings })
    }

    /// The baseline that accepts all that fails now and can be accepted, and the entries of an earlier one about other files.
    pub(crate) fn of(path: &Path, outcomes: &[Outcome]) -> Baseline {
        let checked = files(outcomes.iter());
        let earlier = Baseline::read(path).map(|b| b.entries).unwrap_or_default();
        let others = earlier.into_iter().filter(|e| !checked.contains(&e.file));
        let entry = |o: &Outcome, f: &Finding| Entry {
            fingerprint: f.fingerprint.clone(),
            code: f.diagnostic.code.to_owned(),
            file: o.name(f.diagnostic.span().file),
            message: f.diagnostic.message.clone(),
            places: f.places.clone(),
        };
        let now = outcomes.iter().flat_map(|o| o.findings.iter().filter(|f| acceptable(f)).map(move |f| entry(o, f)));
        let entries: BTreeMap<String, Entry> = others.chain(now).map(|e| (e.fingerprint.clone(), e)).collect();
        Baseline { path: path.to_owned(), entries: entries.into_values().collect() }
    }

    /// Writes it; gives the number of findings.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self) -> Result<usize, Failure> {
        let file = File { version: VERSION, snnc: env!("CARGO_PKG_VERSION").into(), findings: self.entries.clone() };
        let text = serde_json::to_string_pretty(&file).map_err(Failure::failed)? + "\n";
        replace(&self.path, text.as_bytes()).map_err(Failure::failed)?;
        Ok(self.entries.len())
    }

    /// Accepts what stands in it.
    pub(crate) fn accept(&self, outcome: &mut Outcome) {
        for finding in outcome.findings.iter_mut().filter(|f| acceptable(f)) {
            if self.entries.iter().any(|e| e.accepts(finding)) {
                finding.suppressed = Some(Suppressed::Baseline);
            }
        }
    }

    /// How many entries about the files that were checked nothing matches any more.
    pub(crate) fn stale(&self, outcomes: &[Outcome]) -> usize {
        let mine = || outcomes.iter().filter(|o| o.baseline.as_ref() == Some(&self.path));
        let checked = files(mine());
        let seen: BTreeSet<&str> = mine().flat_map(|o| &o.findings).map(|f| f.fingerprint.as_str()).collect();
        self.entries.iter().filter(|e| checked.contains(&e.file) && !seen.contains(e.fingerprint.as_str())).count()
    }
}

/// What stops the compiler leaves nothing to check, and cannot be accepted.
fn acceptable(finding: &Finding) -> bool {
    finding.counts() && policy::acceptable(finding.diagnostic.code)
}

/// The names of all files that were read.
fn files<'o>(outcomes: impl Iterator<Item = &'o Outcome>) -> BTreeSet<String> {
    outcomes.flat_map(|o| o.sources.iter().map(|(file, _)| o.name(file))).collect()
}
