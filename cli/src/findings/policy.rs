//! What a folder asks of its models: `snnc.toml`, `--deny` and `--allow`.

use super::{Finding, Outcome, Suppressed};
use crate::{Failure, commands, report};
use serde::Deserialize;
use snnc_compiler::check::Verdict;
use snnc_compiler::explain::pages;
use snnc_compiler::value::nearest;
use snnc_grammar::{Diagnostic, Severity, SourceMap, Span};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The name of the file.
pub(super) const FILE: &str = "snnc.toml";

/// `*` stands for part of one name, `**` for any folders.
const MATCHING: glob::MatchOptions =
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// As it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    deny: Vec<Spanned<String>>,
    allow: Vec<Spanned<String>>,
    baseline: Option<PathBuf>,
    model: Vec<Rule>,
}

/// What is asked of some files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    files: Vec<Spanned<String>>,
    verdict: Option<Spanned<Wanted>>,
    encoder_share: Option<Spanned<f64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Strict,
    Admitted,
    Any,
}

/// A rule that is denied or allowed.
#[derive(Debug)]
struct Word {
    /// A code, or `warnings`.
    code: String,
    /// Denied, not allowed.
    deny: bool,
    /// On the command line, which has the last word.
    argument: bool,
    /// Where that is asked.
    by: String,
}

/// What the reader of the file says, in the words of its format.
fn worded(message: &str) -> String {
    let words = [("invalid type: ", "wrong type: "), ("a sequence", "a list"), ("f64", "a number"), ("path string", "the name of a file")];
    let words = words.into_iter().chain([
        ("unknown variant", "unknown verdict"),
        ("unknown field", "unknown key"),
        ("missing field", "missing key"),
    ]);
    words.fold(message.to_owned(), |message, (from, to)| message.replace(from, to))
}

/// What holds for a folder.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    words: Vec<Word>,
    rules: Vec<Rule>,
    /// The folder and the text of the file.
    file: Option<(PathBuf, String)>,
    /// Findings that are accepted.
    pub(crate) baseline: Option<PathBuf>,
}

impl Policy {
    /// The policy of the nearest folder above a file that has one, with what the command line asks.
    ///
    /// # Errors
    /// A file that cannot be read, or asks for something that there is not.
    pub(crate) fn of(path: &Path, deny: &[String], allow: &[String]) -> Result<Policy, Failure> {
        // One that is there but leads nowhere is no reason to ask nothing.
        let nearest = |file: PathBuf| file.ancestors().skip(1).map(|f| f.join(FILE)).find(|f| f.symlink_metadata().is_ok());
        let file = names(path).into_iter().filter(|_| path.exists()).find_map(nearest);
        let mut policy = file.as_deref().map_or_else(|| Ok(Policy::default()), Policy::read)?;
        for (list, deny, option) in [(deny, true, "--deny"), (allow, false, "--allow")] {
            for text in list {
                let code = code(text, !deny).map_err(Failure::Usage)?;
                policy.words.push(Word { code, deny, argument: true, by: format!("`{option} {text}`") });
            }
        }
        if let Some(both) = policy.both(true) {
            return Err(Failure::Usage(format!("`{both}` is both denied and allowed")));
        }
        Ok(policy)
    }

    /// What is both denied and allowed in the same place.
    fn both(&self, argument: bool) -> Option<&str> {
        let mut words = self.words.iter().filter(|w| w.deny && w.argument == argument);
        let other = |a: &&Word| self.words.iter().any(|b| !b.deny && b.argument == argument && b.code == a.code);
        words.find(other).map(|w| w.code.as_str())
    }

    fn read(path: &Path) -> Result<Policy, Failure> {
        let shown = shown(path);
        let text = commands::text(path).map_err(|e| Failure::Usage(format!("cannot read `{shown}`: {e}")))?;
        let mut sources = SourceMap::default();
        let file = sources.add(shown, text.as_str());
        let refuse = |range: std::ops::Range<usize>, message: String, help: &str| {
            let span = Span { file, start: range.start as u32, end: range.end as u32 };
            let diagnostic = Diagnostic::error("policy::file", span, message, "here").help(help);
            let _ = report::show(&sources, &[diagnostic]);
            Failure::Usage("the policy cannot be used (see above)".into())
        };
        let help = "a policy has `deny`, `allow`, `baseline`, and `[[model]]` with `files`, `verdict`, `encoder_share`; see docs/ci.md";
        let written: Written = toml::from_str(&text).map_err(|e| {
            let message = worded(e.message().lines().next().unwrap_or_default());
            refuse(e.span().unwrap_or(0..text.len().min(1)), message, help)
        })?;
        let mut policy = Policy::default();
        for (list, deny) in [(&written.deny, true), (&written.allow, false)] {
            for word in list {
                let code = code(word.get_ref(), !deny).map_err(|e| refuse(word.span(), e, "`snnc explain` lists all codes"))?;
                policy.words.push(Word { code, deny, argument: false, by: format!("`{FILE}`") });
                if let Some(both) = policy.both(false) {
                    return Err(refuse(word.span(), format!("`{both}` is both denied and allowed"), "remove one of them"));
                }
            }
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        for rule in &written.model {
            if rule.files.is_empty() {
                let first = text.find("files").unwrap_or(0);
                return Err(refuse(first..first + 5, "`files` names no file".into(), "write `files = [\"deploy/*.snn\"]`"));
            }
            for pattern in &rule.files {
                if plain(pattern.get_ref()).split('/').any(|part| ["", ".", ".."].contains(&part)) {
                    let message = format!("`{}` is not seen from this folder", pattern.get_ref());
                    return Err(refuse(pattern.span(), message, "write `deploy/*.snn`: no `/` before it, and no `.`, `..` or `//` in it"));
                }
                if let Err(e) = glob::Pattern::new(pattern.get_ref()) {
                    return Err(refuse(
                        pattern.span(),
                        format!("`{}` is no pattern for files: {}", pattern.get_ref(), e.msg),
                        "write `deploy/*.snn`",
                    ));
                }
                // A pattern with a typo would ask nothing of anything.
                let whole = format!("{}/{}", glob::Pattern::escape(&folder.to_string_lossy()), plain(pattern.get_ref()));
                if glob::glob_with(&whole, MATCHING).is_ok_and(|mut found| found.next().is_none()) {
                    let message = format!("`{}` matches no file", pattern.get_ref());
                    return Err(refuse(pattern.span(), message, "patterns are seen from this folder; `**` stands for any folders"));
                }
            }
            if let Some(share) = rule.encoder_share.as_ref().filter(|s| !(0.0..=1.0).contains(s.get_ref())) {
                return Err(refuse(share.span(), format!("`encoder_share` is {}, not between 0 and 1", share.get_ref()), help));
            }
        }
        let baseline = written.baseline.map(|b| folder.join(b));
        Ok(Policy { rules: written.model, file: Some((folder, text)), baseline, ..policy })
    }

    /// Applies the policy to what was found in a file.
    pub(crate) fn apply(&self, outcome: &mut Outcome) {
        self.ask(outcome);
        for finding in &mut outcome.findings {
            let d = &mut finding.diagnostic;
            let warning = d.severity == Severity::Warning;
            let about = self.words.iter().filter(|w| w.code == d.code || (warning && w.code == "warnings"));
            // The command line before the file, a code before all warnings, and what denies before what allows.
            let Some(word) = about.max_by_key(|w| (w.argument, w.code == d.code, w.deny)) else { continue };
            if !word.deny {
                finding.suppressed.get_or_insert(Suppressed::Allowed);
                continue;
            }
            if d.severity != Severity::Error {
                d.message = format!("{}, which {} denies", d.message, word.by);
            }
            (d.severity, finding.suppressed) = (Severity::Error, None);
        }
    }

    /// What the rules for this file ask of its models.
    fn ask(&self, outcome: &mut Outcome) {
        let Some((folder, text)) = &self.file else { return };
        let folders = [Some(folder.clone()), folder.canonicalize().ok()];
        let relative = |name: &PathBuf| folders.iter().flatten().find_map(|f| name.strip_prefix(f).ok()).map(Path::to_owned);
        let seen: Vec<PathBuf> = names(Path::new(&outcome.path)).iter().filter_map(relative).collect();
        let pattern = |p: &Spanned<String>| glob::Pattern::new(plain(p.get_ref()));
        let matched = |p: glob::Pattern| seen.iter().any(|name| p.matches_path_with(name, MATCHING));
        let matches = |rule: &&Rule| rule.files.iter().any(|p| pattern(p).is_ok_and(matched));
        let rules: Vec<&Rule> = self.rules.iter().filter(matches).collect();
        if rules.is_empty() {
            return;
        }
        let file = outcome.sources.add(shown(&folder.join(FILE)), text.as_str());
        let at = |range: std::ops::Range<usize>| Span { file, start: range.start as u32, end: range.end as u32 };
        let mut new = Vec::new();
        for model in &outcome.models {
            let (name, findings) = (&model.checked.graph().name, model.checked.findings());
            for rule in &rules {
                if let Some(wanted) = &rule.verdict {
                    let enough = match wanted.get_ref() {
                        Wanted::Strict => findings.verdict == Verdict::Strict,
                        Wanted::Admitted => findings.verdict != Verdict::Violated,
                        Wanted::Any => true,
                    };
                    if !enough {
                        let asked = if *wanted.get_ref() == Wanted::Strict { "strict" } else { "admitted" };
                        let message = format!("`{name}` is {}, and the policy asks for {asked}", findings.verdict);
                        let own = Diagnostic::error("policy::verdict", model.declared, message, format!("this is {}", findings.verdict));
                        new.push((own.label(at(wanted.span()), "asked for here").help("mend or remove its residues"), name.clone()));
                    }
                }
                if let Some(most) = rule.encoder_share.as_ref().filter(|most| findings.encoder_share() > *most.get_ref()) {
                    let (share, most_share) = (100.0 * findings.encoder_share(), 100.0 * most.get_ref());
                    let message =
                        format!("the encoder of `{name}` does {share:.2} % of all operations, and the policy asks for {most_share:.2} %");
                    let own = Diagnostic::error("policy::encoder_share", model.declared, message, "its encoder does too much");
                    let own = own.label(at(most.span()), "at most this much").help("let less of the network stand in the encoder");
                    new.push((own, name.clone()));
                }
            }
        }
        let finding = |(diagnostic, model)| Finding {
            diagnostic,
            suppressed: None,
            fingerprint: String::new(),
            places: BTreeMap::from([(model, 1)]),
        };
        outcome.findings.extend(new.into_iter().map(finding));
    }
}

/// What a file is called from the root: as it is given, and where its folder is if that is reached by a link. A link to a file is
/// what it is called, not what it leads to.
fn names(path: &Path) -> Vec<PathBuf> {
    // Where `..` leads from a link is only known by looking.
    let parts: Vec<_> = path.components().collect();
    let climbed = parts.iter().rposition(|c| *c == std::path::Component::ParentDir).map_or(0, |last| last + 1);
    let (climbing, rest): (PathBuf, PathBuf) = (parts[..climbed].iter().collect(), parts[climbed..].iter().collect());
    let called = if climbed == 0 { std::path::absolute(path).ok() } else { climbing.canonicalize().ok().map(|folder| folder.join(rest)) };
    let led = above(path).canonicalize().ok().zip(path.file_name()).map(|(folder, name)| folder.join(name));
    called.into_iter().chain(led).collect()
}

/// The folder that a path names its file in.
fn above(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A pattern without what stands for this folder.
fn plain(pattern: &str) -> &str {
    pattern.trim_start_matches("./")
}

/// A path as seen from here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().and_then(|d| d.canonicalize()).ok();
    here.and_then(|d| path.strip_prefix(d).ok()).unwrap_or(path).display().to_string()
}

/// The code that a word names: a code, or the last part of one, or `warnings`.
fn code(word: &str, allowed: bool) -> Result<String, String> {
    let short = word.trim_start_matches("snnc::");
    if short == "warnings" {
        return Ok(short.to_owned());
    }
    let known: Vec<&str> = pages().map(|(c, _)| c).collect();
    // A rule's own name means the rule, where other stages have codes of the same name.
    let exact = known.iter().copied().find(|k| *k == short || *k == format!("check::{short}"));
    let same: Vec<&str> = known.iter().filter(|k| k.rsplit("::").next() == Some(short)).copied().collect();
    let found = match (exact, same.as_slice()) {
        (Some(found), _) | (None, &[found]) => found,
        (None, []) => {
            let hint = nearest(short, known.iter().map(|k| k.rsplit("::").next().unwrap_or(k)).chain(known.iter().copied()));
            return Err(format!("there is no rule `{word}`{}", hint.map_or(String::new(), |n| format!("; did you mean `{n}`?"))));
        }
        (None, several) => {
            let several: Vec<String> = several.iter().map(|k| format!("`{k}`")).collect();
            return Err(format!("`{word}` may be {}; write the whole code", several.join(" or ")));
        }
    };
    // What stops the compiler leaves nothing to check.
    if allowed && !acceptable(found) {
        return Err(format!("`{found}` cannot be allowed: without it there is no model to check"));
    }
    Ok((*found).to_owned())
}

/// Whether there is something to check although this was found.
pub(super) fn acceptable(code: &str) -> bool {
    ["check::", "policy::", "build::unused"].iter().any(|p| code.starts_with(p))
}
