//! `snnc check`

use super::files;
use super::fix::{Neighbours, fix};
use crate::args::{CheckArgs, CheckFormat};
use crate::findings::baseline::Baseline;
use crate::findings::policy::Policy;
use crate::findings::{Finding, Model, Outcome, Suppressed, fingerprints, github, human, json, sarif, worst};
use crate::{Failure, model};
use snnc_compiler::check::check;
use snnc_compiler::graph::{Settings, build, instantiate};
use snnc_compiler::resolve::resolve;
use snnc_compiler::text::several;
use snnc_grammar::{Diagnostic, SourceMap};
use snnc_runtime::library::{Library, open};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let settings = model::settings(&args.settings)?;
    let targets = targets(&args.paths)?;
    if args.fix {
        let neighbours = Neighbours::of(&targets)?;
        for (path, variant) in &targets {
            fix(path, variant.as_deref(), &settings, args, &neighbours)?;
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
pub(super) fn found(path: &str, variant: Option<&str>, settings: &Settings, args: &CheckArgs) -> Result<Outcome, Failure> {
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

pub(super) fn one(path: &str, variant: Option<&str>, settings: &Settings) -> Outcome {
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
        // Variants share their source: the same mistake is said once, but an `allow` may be wrong in several ways.
        let same = |f: &Finding| {
            let other = &f.diagnostic;
            other.code == diagnostic.code && other.span() == diagnostic.span() && (!counted(other) || other.message == diagnostic.message)
        };
        if idle_elsewhere(&models, &diagnostic) || findings.iter().any(same) {
            continue;
        }
        let places = places(&models, &diagnostic);
        findings.push(Finding { diagnostic, suppressed, fingerprint: String::new(), places });
    }
    // Where it is so in some variants only, those are named.
    for finding in findings.iter_mut().filter(|f| counted(&f.diagnostic) && !f.places.is_empty() && f.places.len() < models.len()) {
        let names: Vec<String> = finding.places.keys().map(|name| format!("`{name}`")).collect();
        finding.diagnostic.message = format!("{} (in {})", finding.diagnostic.message, names.join(", "));
    }
    Outcome { path: path.to_owned(), sources, findings, models, blocks, baseline: None }
}

/// About an `allow`, whose count may be another in every variant.
fn counted(diagnostic: &Diagnostic) -> bool {
    diagnostic.code == "check::allow_count"
}

/// A fold that does nothing in one model, but something in another with the same source.
fn idle_elsewhere(models: &[Model], diagnostic: &Diagnostic) -> bool {
    let says = |model: &Model| {
        let said = &model.checked.findings().diagnostics;
        said.iter().any(|d| d.code == diagnostic.code && d.span() == diagnostic.span() && d.message == diagnostic.message)
    };
    let asks = |model: &&Model| model.checked.graph().folds.iter().any(|asked| asked.span == diagnostic.span());
    diagnostic.code == "check::fold" && !models.iter().filter(asks).all(says)
}

/// In which models this is found, and at how many places of each.
fn places(models: &[Model], diagnostic: &Diagnostic) -> BTreeMap<String, usize> {
    let count = |model: &Model| {
        let (graph, findings) = (model.checked.graph(), model.checked.findings());
        let here = findings.residues.iter().filter(|r| !r.admitted && r.code == diagnostic.code && r.span == diagnostic.span()).count();
        let alike = |d: &&Diagnostic| {
            d.code == diagnostic.code && d.span() == diagnostic.span() && (!counted(d) || d.message == diagnostic.message)
        };
        let said = findings.diagnostics.iter().filter(alike).count();
        Some((graph.name.clone(), here.max(said))).filter(|(_, n)| *n > 0)
    };
    models.iter().filter_map(count).collect()
}
