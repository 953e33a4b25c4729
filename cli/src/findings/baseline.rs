//! A baseline: what stands already is accepted, what is new fails.

use super::{Finding, Outcome, Suppressed};
use crate::Failure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The form of the file.
const VERSION: u64 = 1;

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
}

/// The name of a source as seen from the baseline's folder.
pub(crate) fn relative(baseline: &Path, name: &str) -> String {
    let folder = baseline.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let both = folder.canonicalize().ok().zip(Path::new(name).canonicalize().ok());
    let path = both.and_then(|(folder, path)| path.strip_prefix(folder).ok().map(Path::to_owned));
    path.map_or_else(|| name.to_owned(), |p| p.to_string_lossy().replace('\\', "/"))
}

/// Accepts what stands in the baseline; gives the number of entries that nothing matches.
///
/// # Errors
/// A file that cannot be read or is of another version.
pub(crate) fn apply(path: &Path, outcomes: &mut [Outcome]) -> Result<usize, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::Usage(format!("cannot read the baseline `{shown}`: {e}; `--write-baseline {shown}` writes one")))?;
    let broken = |reason: String| Failure::Usage(format!("`{shown}` is no baseline: {reason}"));
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
    let version = value.get("version").and_then(serde_json::Value::as_u64).ok_or_else(|| broken("it has no `version`".into()))?;
    if version != VERSION {
        let message = format!("the baseline `{shown}` is of version {version}, and this snnc reads version {VERSION}");
        return Err(Failure::Usage(format!("{message}; write it anew with `--write-baseline {shown}`")));
    }
    let file: File = serde_json::from_value(value).map_err(|e| broken(e.to_string()))?;
    let mut known: BTreeMap<&str, bool> = file.findings.iter().map(|e| (e.fingerprint.as_str(), false)).collect();
    for finding in outcomes.iter_mut().flat_map(|o| &mut o.findings).filter(|f| f.counts()) {
        if let Some(seen) = known.get_mut(finding.fingerprint.as_str()) {
            *seen = true;
            finding.suppressed = Some(Suppressed::Baseline);
        }
    }
    Ok(known.values().filter(|seen| !**seen).count())
}

/// The baseline that accepts all that fails now.
pub(crate) fn text(path: &Path, outcomes: &[Outcome]) -> Result<(String, usize), Failure> {
    let entry = |o: &Outcome, f: &Finding| Entry {
        fingerprint: f.fingerprint.clone(),
        code: f.diagnostic.code.to_owned(),
        file: o.sources.get(f.diagnostic.span().file).map(|s| relative(path, &s.name)).unwrap_or_default(),
        message: f.diagnostic.message.clone(),
    };
    let all = outcomes.iter().flat_map(|o| o.findings.iter().filter(|f| f.counts()).map(move |f| entry(o, f)));
    let findings: BTreeMap<String, Entry> = all.map(|e| (e.fingerprint.clone(), e)).collect();
    let count = findings.len();
    let file = File { version: VERSION, snnc: env!("CARGO_PKG_VERSION").into(), findings: findings.into_values().collect() };
    let text = serde_json::to_string_pretty(&file).map_err(|e| Failure::Failed(e.to_string()))?;
    Ok((text + "\n", count))
}
