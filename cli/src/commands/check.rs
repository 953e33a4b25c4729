//! `snnc check`

use super::files;
use crate::args::{CheckArgs, CheckFormat};
use crate::findings::baseline::Baseline;
use crate::findings::policy::Policy;
use crate::findings::{Finding, Model, Outcome, Suppressed, fingerprints, github, human, json, sarif, worst};
use crate::{Failure, model};
use snnc_compiler::check::check;
use snnc_compiler::graph::{Settings, build, instantiate, print as print_graph};
use snnc_compiler::resolve::resolve;
use snnc_compiler::text::{printable, several};
use snnc_grammar::{Diagnostic, Edit, FileId, Modules, SourceMap, parse, print};
use snnc_runtime::library::{Library, open};
use snnc_runtime::train::checkpoint::replace;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Fixing one finding may uncover another, and of several remedies one may do harm; more rounds than this are no progress.
const ROUNDS: usize = 64;
/// The most edits that are listed.
const SHOWN: usize = 12;

pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let settings = model::settings(&args.settings)?;
    let targets = targets(&args.paths)?;
    if args.fix {
        for (path, variant) in &targets {
            fix(path, variant.as_deref(), &settings, args)?;
        }
    }
    let mut outcomes = Vec::new();
    for (path, variant) in &targets {
        outcomes.push(found(path, variant.as_deref(), &settings, args)?);
    }
    if let Some(path) = &args.write_baseline {
        let count = Baseline::of(path, &outcomes).write()?;
        eprintln!("wrote {} ({})", path.display(), several(count as u64, "finding"));
    }
    let mut notes = Vec::new();
    let baselines: BTreeSet<PathBuf> = outcomes.iter().filter_map(|o| o.baseline.clone()).collect();
    for path in baselines {
        let baseline = Baseline::read(&path)?;
        outcomes.iter_mut().filter(|o| o.baseline.as_ref() == Some(&path)).for_each(|o| baseline.accept(o));
        let stale = baseline.stale(&outcomes);
        if stale > 0 {
            let many = if stale == 1 { "entry of the baseline matches" } else { "entries of the baseline match" };
            notes.push(format!("{stale} {many} nothing any more; `--write-baseline {}` removes them", path.display()));
        }
    }
    match args.format {
        CheckFormat::Human => human::report(&outcomes, &notes),
        CheckFormat::Json => json::report(&outcomes),
        CheckFormat::Github => github::report(&outcomes, &notes),
        CheckFormat::Sarif => sarif::report(&outcomes),
    }
    worst(outcomes.iter().map(Outcome::result))
}

/// What is found in a file, and what its policy makes of it.
fn found(path: &str, variant: Option<&str>, settings: &Settings, args: &CheckArgs) -> Result<Outcome, Failure> {
    let policy = Policy::of(Path::new(path), &args.deny, &args.allow)?;
    let mut outcome = one(path, variant, settings);
    policy.apply(&mut outcome);
    outcome.baseline = args.write_baseline.clone().or_else(|| args.baseline.clone()).or(policy.baseline);
    fingerprints(&mut outcome);
    Ok(outcome)
}

/// The files, and which variant of each.
fn targets(paths: &[String]) -> Result<Vec<(String, Option<String>)>, Failure> {
    let mut targets = Vec::new();
    for path in paths {
        let (file, variant) = model::split(path);
        if Path::new(file).is_dir() {
            let found = files(Path::new(file))?;
            if let Some(variant) = variant {
                return Err(Failure::Usage(format!("`{file}` is a folder, and has no variant `{variant}`")));
            }
            if found.is_empty() {
                return Err(Failure::Usage(format!("there is no `.snn` file in `{file}`")));
            }
            targets.extend(found.iter().map(|f| (f.to_string_lossy().into_owned(), None)));
        } else if let Some(found) = library(file) {
            targets.extend(found.into_iter().map(|f| (f.to_owned(), None)));
        } else {
            targets.push((file.to_owned(), variant.map(str::to_owned)));
        }
    }
    // Each file once, however often and by whatever name it is given; a whole file stands for its variants.
    let of = |path: &str| Path::new(path).canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    let whole: BTreeSet<PathBuf> = targets.iter().filter(|(_, variant)| variant.is_none()).map(|(path, _)| of(path)).collect();
    let mut seen = BTreeSet::new();
    targets.retain(|(path, variant)| {
        let place = of(path);
        (variant.is_none() || !whole.contains(&place)) && seen.insert((place, variant.clone()))
    });
    Ok(targets)
}

/// The built-in models under `zoo/` or `mixer/`, where there is no such folder.
fn library(path: &str) -> Option<Vec<&'static str>> {
    let folder = if path == "zoo" || path == "zoo/" { "" } else { path };
    let found: Vec<&str> = snnc_zoo::MODELS.iter().map(|(name, _)| *name).filter(|name| name.starts_with(folder)).collect();
    let is_folder = path.starts_with("zoo") || folder.ends_with('/');
    (is_folder && !found.is_empty() && !Path::new(path).exists()).then_some(found)
}

fn one(path: &str, variant: Option<&str>, settings: &Settings) -> Outcome {
    let mut sources = SourceMap::default();
    let (mut models, mut diagnostics, mut notes, mut blocks) = (Vec::<Model>::new(), Vec::new(), Vec::new(), 0);
    let result = (|| -> Result<(), Vec<Diagnostic>> {
        let file = open(&mut sources, path).map_err(|e| vec![e])?;
        let package = resolve(&mut sources, file, &Library)?;
        diagnostics.extend(snnc_compiler::recipe::errors(&package));
        blocks = package.scopes.get(&file).map_or(0, |s| s.values().filter(|b| b.file == file).count());
        let mut names: Vec<(String, snnc_grammar::Span)> = package.variants.iter().map(|v| (v.name.name.clone(), v.name.span)).collect();
        // A model that no variant stands for is checked with its defaults.
        let alone = package.models.iter().filter(|m| !package.variants.iter().any(|v| v.model.callee.name == m.name.name));
        names.extend(alone.map(|m| (m.name.name.clone(), m.name.span)));
        if let Some(v) = variant {
            let known = names.iter().find(|(name, _)| name == v).map(|(_, span)| *span);
            names = vec![(v.to_owned(), known.unwrap_or_default())];
        }
        for (name, declared) in names {
            let built = instantiate(&mut sources, &package, Some(&name), settings).and_then(|i| build(&package, &i));
            match built {
                Ok(graph) => {
                    let checked = check(graph);
                    diagnostics.extend(checked.findings().diagnostics.iter().cloned());
                    notes.extend(checked.findings().notes.iter().cloned());
                    models.push(Model { checked, declared });
                }
                Err(errors) => diagnostics.extend(errors),
            }
        }
        Ok(())
    })();
    diagnostics.extend(result.err().unwrap_or_default());
    let mut findings: Vec<Finding> = Vec::new();
    let all = diagnostics.into_iter().map(|d| (d, None)).chain(notes.into_iter().map(|d| (d, Some(Suppressed::Source))));
    for (diagnostic, suppressed) in all {
        // Variants share their source: the same mistake is said once.
        let same = |f: &Finding| f.diagnostic.code == diagnostic.code && f.diagnostic.span() == diagnostic.span();
        if !findings.iter().any(same) {
            let places = places(&models, &diagnostic);
            findings.push(Finding { diagnostic, suppressed, fingerprint: String::new(), places });
        }
    }
    Outcome { path: path.to_owned(), sources, findings, models, blocks, baseline: None }
}

/// In which models this is found, and at how many places of each.
fn places(models: &[Model], diagnostic: &Diagnostic) -> BTreeMap<String, usize> {
    let count = |model: &Model| {
        let (graph, findings) = (model.checked.graph(), model.checked.findings());
        let here = findings.residues.iter().filter(|r| !r.admitted && r.code == diagnostic.code && r.span == diagnostic.span()).count();
        let said = findings.diagnostics.iter().filter(|d| d.code == diagnostic.code && d.span() == diagnostic.span()).count();
        Some((graph.name.clone(), here.max(said))).filter(|(_, n)| *n > 0)
    };
    models.iter().filter_map(count).collect()
}

/// Applies the remedies of a file's findings, and formats what it changed. What a remedy would change besides what was found,
/// another variant or what an `allow` admits, is not changed: then it is not applied.
fn fix(path: &str, variant: Option<&str>, settings: &Settings, args: &CheckArgs) -> Result<(), Failure> {
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
    let mut wanted = usize::MAX;
    for _ in 0..ROUNDS {
        let mut mends = mends(&outcome, args.exact, &refused);
        let Some(models) = mends.first().map(|m| models(m.finding)) else { break };
        // Those about other models have their own turn: what they change here would not be told apart.
        mends.retain(|m| self::models(m.finding) == models);
        mends.truncate(wanted);
        let mut before = Vec::new();
        for (file, list) in &by_file(&mends) {
            let Some(source) = outcome.sources.get(*file) else { continue };
            let place = PathBuf::from(&source.name);
            before.push((place.clone(), source.text.to_string()));
            replace(&place, formatted(&source.name, &changed(&source.text, list)).as_bytes()).map_err(Failure::failed)?;
        }
        let after = open()?;
        match harm(&outcome, &after, &mends) {
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
    None
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
