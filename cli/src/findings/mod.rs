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
use snnc_compiler::text::hex;
use snnc_grammar::{Diagnostic, FileId, Severity, SourceMap, Span};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

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
    /// In which models it was found, and at how many places of each.
    pub(crate) places: BTreeMap<String, usize>,
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
    /// The baseline that holds for it.
    pub(crate) baseline: Option<PathBuf>,
}

impl Outcome {
    /// The findings that are shown and may fail the check.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.suppressed.is_none())
    }

    /// The name of one of its sources, however it was typed: as seen from the folder of its policy or repository.
    pub(crate) fn name(&self, file: FileId) -> String {
        let folder = self.baseline.as_deref().map(|b| b.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")));
        self.sources.get(file).map_or_else(String::new, |s| settled(&s.name, folder))
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

/// A path as seen from the nearest folder above it with a policy or a repository, or else from this one, or from here; the
/// library's own names as they are.
fn settled(name: &str, other: Option<&Path>) -> String {
    let Ok(path) = Path::new(name).canonicalize() else { return name.to_owned() };
    let root = path.ancestors().skip(1).find(|f| [policy::FILE, ".git"].iter().any(|mark| f.join(mark).exists())).map(Path::to_owned);
    let root = root.or_else(|| other.and_then(|o| o.canonicalize().ok())).or_else(|| std::env::current_dir().ok()?.canonicalize().ok());
    seen_from(&root.unwrap_or_default(), &path)
}

/// The name of a source as seen from the folder of the workflow, or from here; as it is, if it is no file or not under that.
pub(crate) fn seen(name: &str) -> String {
    let Ok(path) = Path::new(name).canonicalize() else { return name.to_owned() };
    let workspace = std::env::var_os("GITHUB_WORKSPACE").and_then(|w| PathBuf::from(w).canonicalize().ok());
    let here = std::env::current_dir().and_then(|d| d.canonicalize()).ok();
    let folder = workspace.into_iter().chain(here).find(|f| path.starts_with(f));
    folder.map_or_else(|| path.to_string_lossy().into_owned(), |f| seen_from(&f, &path))
}

/// A path as seen from a folder, both without links.
fn seen_from(folder: &Path, path: &Path) -> String {
    let shared = folder.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(shared).map(|_| "..".into());
    let down = path.components().skip(shared).map(|c| c.as_os_str().to_string_lossy());
    up.chain(down).collect::<Vec<Cow<'_, str>>>().join("/")
}

/// Numbers the findings of a file so that a number stays while other lines come and go: a hash of the code, the file, and the
/// text of the line without its spaces, with the line's place among equal ones behind it.
pub(crate) fn fingerprints(outcome: &mut Outcome) {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    // Of every line that something is found in: its words, and how many like it are above.
    let mut lines: BTreeMap<(FileId, usize), (String, usize)> = BTreeMap::new();
    for (file, source) in outcome.sources.iter() {
        let (mut seen, mut start) = (HashMap::new(), 0);
        for line in source.text.split_inclusive('\n') {
            let words = words(line);
            let above = seen.entry(words.clone()).or_insert(0usize);
            lines.insert((file, start), (words, *above));
            *above += 1;
            start += line.len();
        }
    }
    let mut numbers = Vec::new();
    for finding in &outcome.findings {
        let (code, span) = (finding.diagnostic.code, finding.diagnostic.span());
        let text = outcome.sources.get(span.file).map_or("", |s| &s.text);
        let start = text.get(..span.start as usize).and_then(|t| t.rfind('\n')).map_or(0, |n| n + 1);
        let (line, before) = lines.get(&(span.file, start)).cloned().unwrap_or_default();
        // Several on one line are numbered from left to right.
        let left = |f: &&Finding| {
            let other = f.diagnostic.span();
            f.diagnostic.code == code && other.file == span.file && (start..span.start as usize).contains(&(other.start as usize))
        };
        let left = outcome.findings.iter().filter(left).count();
        let hash = hex(&Sha256::digest(format!("{code}\0{}\0{line}", outcome.name(span.file)).as_bytes()));
        let more = if left > 0 { format!(".{}", left + 1) } else { String::new() };
        numbers.push(format!("{}:{}{more}", &hash[..16], before + 1));
    }
    outcome.findings.iter_mut().zip(numbers).for_each(|(finding, number)| finding.fingerprint = number);
}

/// Line and column of an offset, both from 1; columns count characters.
pub(crate) fn position(text: &str, offset: u32) -> (usize, usize) {
    let before = text.get(..offset as usize).unwrap_or(text);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    (line, column)
}
