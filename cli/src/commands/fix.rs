//! `snnc check --fix`: the usual remedies of what is found, where they change nothing besides.

use super::check::{found, one};
use super::files;
use crate::Failure;
use crate::args::CheckArgs;
use crate::findings::baseline::Baseline;
use crate::findings::{Finding, Outcome};
use snnc_compiler::graph::{Settings, print as print_graph};
use snnc_compiler::resolve::resolve;
use snnc_compiler::text::{printable, several};
use snnc_grammar::{Diagnostic, Edit, FileId, Modules, SourceMap, Span, parse, print};
use snnc_runtime::library::{Library, open};
use snnc_runtime::train::checkpoint::replace;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Fixing one finding may uncover another, and of several remedies one may do harm; more rounds than this are no progress.
const ROUNDS: usize = 64;
/// What a neuron forgets.
const LEAK: &str = "check::leak";
/// The most edits that are listed.
const SHOWN: usize = 12;

/// Applies the remedies of a file's findings, and formats what it changed. What a remedy would change besides what was found,
/// another variant, a model of another file or what an `allow` admits, is not changed: then it is not applied.
pub(super) fn fix(
    path: &str,
    variant: Option<&str>,
    settings: &Settings,
    args: &CheckArgs,
    neighbours: &Neighbours,
) -> Result<(), Failure> {
    let mut changed_files = BTreeSet::new();
    let (mut fixed, mut exact, mut said) = (0, true, Vec::new());
    // Findings whose remedy is not applied, and why.
    let mut refused: BTreeMap<String, String> = BTreeMap::new();
    // What is accepted stays as it is.
    let open = || -> Result<Outcome, Failure> {
        let mut outcome = found(path, variant, settings, args)?;
        if let Some(baseline) = outcome.baseline.clone().filter(|_| args.write_baseline.is_none()) {
            Baseline::read(&baseline)?.accept(&mut outcome);
        }
        Ok(outcome)
    };
    let mut outcome = open()?;
    let idle_before = idle(&outcome).count();
    let mut wanted = usize::MAX;
    for _ in 0..ROUNDS {
        let mut mends = mends(&outcome, args.exact, &refused);
        let Some(models) = mends.first().map(|m| models(m.finding)) else { break };
        // Those about other models have their own turn: what they change here would not be told apart.
        mends.retain(|m| self::models(m.finding) == models);
        // What is done about others may free a leak: those come last.
        if mends.iter().any(|m| m.finding.diagnostic.code != LEAK) {
            mends.retain(|m| m.finding.diagnostic.code != LEAK);
        }
        mends.truncate(wanted);
        let edited: BTreeSet<PathBuf> = by_file(&mends).keys().filter_map(|f| place(&outcome.sources, *f)).collect();
        // The file as it is without the settings, or with its other variants, is a neighbour of itself.
        let own = (variant.is_none() && settings.set.is_empty() && settings.time.is_none()).then_some(path);
        let others: Vec<Outcome> = neighbours.reading(&edited, own).map(|other| one(other, None, &Settings::default())).collect();
        let mut before = Vec::new();
        for (file, list) in &by_file(&mends) {
            let Some(source) = outcome.sources.get(*file) else { continue };
            let place = PathBuf::from(&source.name);
            before.push((place.clone(), source.text.to_string()));
            replace(&place, formatted(&source.name, &changed(&source.text, list)).as_bytes()).map_err(Failure::failed)?;
        }
        let after = open()?;
        let beside = || others.iter().find_map(|old| harm_beside(old, &one(&old.path, None, &Settings::default()), &outcome, &mends));
        match harm(&outcome, &after, &mends).or_else(beside) {
            None => {
                fixed += mends.len();
                exact &= mends.iter().all(|m| m.exact);
                said.extend(mends.iter().map(|m| m.says.clone()));
                changed_files.extend(before.into_iter().map(|(place, _)| place));
                (outcome, wanted) = (after, usize::MAX);
            }
            Some(why) => {
                for (place, text) in before {
                    replace(&place, text.as_bytes()).map_err(Failure::failed)?;
                }
                // Which of them it is: half as many, until one is left.
                wanted = mends.len() / 2;
                if let (0, Some(only)) = (wanted, mends.first()) {
                    refused.insert(only.finding.fingerprint.clone(), why);
                    wanted = usize::MAX;
                }
            }
        }
    }
    if fixed > 0 && idle_before == 0 {
        take_back(&outcome, &changed_files)?;
        outcome = open()?;
    }
    if fixed > 0 {
        let files: Vec<String> = changed_files.iter().map(|p| p.display().to_string()).collect();
        let places = several(fixed as u64, "place");
        let others: Vec<String> = files.into_iter().filter(|f| f != path).collect();
        let where_else = if others.is_empty() { String::new() } else { format!(" in {}", printable(&others.join(", "))) };
        eprintln!(
            "{}: {places} mended{where_else}{}",
            printable(path),
            if exact { "; the results stay the same" } else { "; the network is another now: train it again" }
        );
        said.iter().take(SHOWN).for_each(|line| eprintln!("  {line}"));
        if said.len() > SHOWN {
            eprintln!("  and {} more", said.len() - SHOWN);
        }
    }
    let reasons: BTreeSet<&String> = refused.values().collect();
    for why in reasons {
        eprintln!("{}: not mended: {why}", printable(path));
    }
    let left = outcome.findings.iter().filter(|f| f.counts()).count();
    if fixed == 0 && refused.is_empty() && left > 0 {
        let what = if args.exact { "a remedy that leaves the results as they are" } else { "a remedy that can be applied here" };
        eprintln!("{}: nothing is mended: of {}, none has {what}", printable(path), several(left as u64, "finding"));
    }
    Ok(())
}

/// Folds that do nothing.
fn idle(outcome: &Outcome) -> impl Iterator<Item = Span> + '_ {
    outcome.findings.iter().map(|f| &f.diagnostic).filter(|d| d.code == "check::fold").map(Diagnostic::span)
}

/// Removes folds that others made idle, in files that were changed.
fn take_back(outcome: &Outcome, files: &BTreeSet<PathBuf>) -> Result<(), Failure> {
    let mut edits: BTreeMap<FileId, Vec<Edit>> = BTreeMap::new();
    for span in idle(outcome) {
        // The whole `fold(…)` around its name.
        let text = outcome.sources.get(span.file).map_or("", |s| &s.text);
        let (before, behind) = text.split_at_checked(span.end as usize).unwrap_or_default();
        let Some((start, length)) = before.get(..span.start as usize).and_then(|b| b.rfind("fold")).zip(behind.find(')')) else { continue };
        let (mut start, mut end) = (start, span.end as usize + length + 1);
        // With its line, if nothing else stands there.
        let line = text[..start].rfind('\n').map_or(0, |at| at + 1);
        if text[line..start].trim().is_empty() && text[end..].trim_start_matches([' ', '\t', '\r']).starts_with('\n') {
            (start, end) = (line, end + text[end..].find('\n').map_or(0, |at| at + 1));
        }
        let span = Span { start: start as u32, end: end as u32, ..span };
        edits.entry(span.file).or_default().push(Edit { span, text: String::new() });
    }
    for (file, edits) in edits {
        let Some(source) = outcome.sources.get(file).filter(|s| files.contains(Path::new(&s.name))) else { continue };
        let text = changed(&source.text, &edits.iter().collect::<Vec<_>>());
        replace(Path::new(&source.name), formatted(&source.name, &text).as_bytes()).map_err(Failure::failed)?;
    }
    Ok(())
}

/// A finding and the edit that mends it.
struct Mend<'o> {
    finding: &'o Finding,
    edit: Edit,
    /// The network computes the same before and after.
    exact: bool,
    /// Where, and what is done, for people.
    says: String,
}

/// The usual remedies of open findings, or those that leave what the network computes as it is, in files that are the user's, each
/// place once and none inside another.
fn mends<'o>(outcome: &'o Outcome, exact: bool, refused: &BTreeMap<String, String>) -> Vec<Mend<'o>> {
    let mut modules = Modules::new(&outcome.sources);
    let mut mends: Vec<Mend<'_>> = Vec::new();
    for finding in outcome.findings.iter().filter(|f| f.counts() && !refused.contains_key(&f.fingerprint)) {
        let remedy = finding.diagnostic.remedies.iter().find(|r| !exact || r.exact());
        let Some((remedy, edit)) = remedy.and_then(|r| Some((r, r.edit(&mut modules)?))) else { continue };
        let own = outcome.sources.get(edit.span.file).is_some_and(|s| Path::new(&s.name).is_file());
        let at = edit.span;
        let apart = |m: &Mend<'_>| {
            let other = m.edit.span;
            other != at && (other.file != at.file || other.end <= at.start || at.end <= other.start)
        };
        if own && mends.iter().all(apart) {
            let says = format!("{}: {}", printable(&outcome.sources.place(finding.diagnostic.span())), remedy.says());
            mends.push(Mend { finding, edit, exact: remedy.exact(), says });
        }
    }
    mends
}

/// The models that something was found in.
fn models(finding: &Finding) -> Vec<&str> {
    finding.places.keys().map(String::as_str).collect()
}

fn by_file<'m>(mends: &'m [Mend<'_>]) -> BTreeMap<FileId, Vec<&'m Edit>> {
    let mut files: BTreeMap<FileId, Vec<&Edit>> = BTreeMap::new();
    for mend in mends {
        files.entry(mend.edit.span.file).or_default().push(&mend.edit);
    }
    files
}

/// What these mends would do besides what they are for.
fn harm(before: &Outcome, after: &Outcome, mends: &[Mend<'_>]) -> Option<String> {
    let open = |o: &Outcome| o.findings.iter().filter(|f| f.counts()).count();
    if after.models.len() < before.models.len() || open(after) > open(before) {
        return Some("what is left is not mended by its usual remedy".into());
    }
    let stays = |m: &&Mend<'_>| after.findings.iter().any(|f| f.counts() && f.fingerprint == m.finding.fingerprint);
    if let Some(mend) = mends.iter().find(stays).filter(|_| open(after) == open(before)) {
        return Some(format!("the usual remedy leaves {}", mend.finding.diagnostic.message));
    }
    for (old, new) in before.models.iter().zip(&after.models) {
        let (graph, residues) = (old.checked.graph(), &old.checked.findings().residues);
        let found = mends.first().map(|m| models(m.finding)).unwrap_or_default();
        if !found.contains(&graph.name.as_str()) && print_graph(graph) != print_graph(new.checked.graph()) {
            return Some(format!("the usual remedy for `{}` would change `{}`, where that is not wrong", found.join("`, `"), graph.name));
        }
        let kept = |path: &str, rule: &str| {
            let now = &new.checked.findings().residues;
            now.iter().any(|r| r.admitted && r.path == path && r.rule == rule)
        };
        if let Some(gone) = residues.iter().find(|r| r.admitted && !kept(&r.path, r.rule)) {
            return Some(format!("the usual remedy would change `{}` of `{}` too, which an `allow` admits", gone.path, graph.name));
        }
    }
    let found: Vec<&str> = mends.iter().flat_map(|m| models(m.finding)).collect();
    let message = said_anew(before, after, &|name| found.contains(&name.as_str()));
    message.map(|message| format!("after the usual remedy there is: {message}"))
}

/// What these mends would do to a file that reads what they change.
fn harm_beside(old: &Outcome, new: &Outcome, mended: &Outcome, mends: &[Mend<'_>]) -> Option<String> {
    let shown = printable(&old.path);
    // What is wrong there in the same place is meant, too.
    let at = |o: &Outcome, f: &Finding| {
        let span = f.diagnostic.span();
        (f.diagnostic.code, place(&o.sources, span.file), span.start)
    };
    let meant: Vec<_> = mends.iter().map(|m| at(mended, m.finding)).collect();
    let wrong = |name: &String| old.findings.iter().any(|f| f.places.contains_key(name) && meant.contains(&at(old, f)));
    if old.models.len() != new.models.len() {
        return Some(format!("the usual remedy would break `{shown}`"));
    }
    for (was, is) in old.models.iter().zip(&new.models) {
        let graph = was.checked.graph();
        if !wrong(&graph.name) && print_graph(graph) != print_graph(is.checked.graph()) {
            return Some(format!("the usual remedy would change `{}` of `{shown}`, where that is not wrong", graph.name));
        }
    }
    said_anew(old, new, &|name| wrong(name)).map(|message| format!("after the usual remedy `{shown}` has: {message}"))
}

/// What is said of a model now, and was not before; of those that are mended one finding may uncover another.
fn said_anew(old: &Outcome, new: &Outcome, mended: &dyn Fn(&String) -> bool) -> Option<String> {
    let said = |o: &Outcome| -> BTreeSet<(String, String)> {
        let open = o.findings.iter().filter(|f| f.suppressed.is_none());
        open.flat_map(|f| f.places.keys().map(|model| (f.diagnostic.code.to_owned(), model.clone()))).collect()
    };
    let before = said(old);
    let fresh = |f: &&Finding| {
        let code = f.diagnostic.code.to_owned();
        let anew = |model: &String| !mended(model) && !before.contains(&(code.clone(), model.clone()));
        f.suppressed.is_none() && f.places.keys().any(anew)
    };
    new.findings.iter().find(fresh).map(|f| f.diagnostic.message.clone())
}

/// Where a file lies on the disk, if it does.
fn place(sources: &SourceMap, file: FileId) -> Option<PathBuf> {
    Path::new(&sources.get(file)?.name).canonicalize().ok()
}

/// Files that may read what a remedy changes, and what each of them reads.
pub(super) struct Neighbours(Vec<(String, BTreeSet<PathBuf>)>);

impl Neighbours {
    /// Those that are checked, and all others in and below their folders.
    pub(super) fn of(targets: &[(String, Option<String>)]) -> Result<Neighbours, Failure> {
        let mut all: BTreeSet<PathBuf> = BTreeSet::new();
        for path in targets.iter().map(|(path, _)| Path::new(path)).filter(|p| p.is_file()) {
            all.insert(path.to_owned());
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            all.extend(files(folder)?);
        }
        let mut seen = BTreeSet::new();
        all.retain(|path| path.canonicalize().is_ok_and(|place| seen.insert(place)));
        let reads = |path: PathBuf| {
            let mut sources = SourceMap::default();
            let name = path.to_string_lossy().into_owned();
            let _ = open(&mut sources, &name).map(|file| resolve(&mut sources, file, &Library));
            let read = sources.iter().filter_map(|(file, _)| place(&sources, file)).collect();
            (name, read)
        };
        Ok(Neighbours(all.into_iter().map(reads).collect()))
    }

    /// Those that read one of these, but for this one.
    fn reading<'n>(&'n self, changed: &'n BTreeSet<PathBuf>, but: Option<&str>) -> impl Iterator<Item = &'n str> {
        let but = but.and_then(|path| Path::new(path).canonicalize().ok());
        let other = move |name: &str| but.is_none() || Path::new(name).canonicalize().ok() != but;
        self.0.iter().filter(move |(name, read)| other(name) && !read.is_disjoint(changed)).map(|(name, _)| name.as_str())
    }
}

fn changed(text: &str, edits: &[&Edit]) -> String {
    let mut edits: Vec<&Edit> = edits.to_vec();
    edits.sort_by_key(|e| std::cmp::Reverse(e.span.start));
    let mut text = text.to_owned();
    for edit in edits {
        text.replace_range(edit.span.start as usize..edit.span.end as usize, &edit.text);
    }
    text
}

fn formatted(name: &str, text: &str) -> String {
    let mut sources = SourceMap::default();
    let file = sources.add(name, text);
    parse(&sources, file).map_or_else(|_| text.to_owned(), |module| print(&module, text))
}
