//! What a folder asks of its models: `snnc.toml`, `--deny` and `--allow`.

use super::{Finding, Outcome, Suppressed};
use crate::{Failure, report};
use serde::Deserialize;
use snnc_compiler::check::Verdict;
use snnc_compiler::explain::pages;
use snnc_compiler::value::nearest;
use snnc_grammar::{Diagnostic, Severity, SourceMap, Span};
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The name of the file.
const FILE: &str = "snnc.toml";

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

/// What holds for a folder.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    /// Codes, or `warnings`, with where that is asked.
    deny: Vec<(String, String)>,
    allow: Vec<(String, String)>,
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
        let start = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let found = start.canonicalize().ok().filter(|_| path.exists());
        let file = found.and_then(|folder| folder.ancestors().map(|f| f.join(FILE)).find(|f| f.is_file()));
        let mut policy = file.as_deref().map_or_else(|| Ok(Policy::default()), Policy::read)?;
        let given = |list: &[String], option: &str| -> Result<Vec<(String, String)>, Failure> {
            let code = |text: &String| code(text, option == "--allow").map(|c| (c, format!("`{option} {text}`"))).map_err(Failure::Usage);
            list.iter().map(code).collect()
        };
        let (deny, allow) = (given(deny, "--deny")?, given(allow, "--allow")?);
        if let Some((both, _)) = deny.iter().find(|(d, _)| allow.iter().any(|(a, _)| a == d)) {
            return Err(Failure::Usage(format!("`{both}` is both denied and allowed")));
        }
        // The command line has the last word.
        policy.deny.retain(|(d, _)| !allow.iter().any(|(a, _)| a == d));
        policy.allow.retain(|(a, _)| !deny.iter().any(|(d, _)| a == d));
        policy.deny.extend(deny);
        policy.allow.extend(allow);
        Ok(policy)
    }

    fn read(path: &Path) -> Result<Policy, Failure> {
        let shown = shown(path);
        let text = std::fs::read_to_string(path).map_err(|e| Failure::Usage(format!("cannot read `{shown}`: {e}")))?;
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
            let message = e.message().lines().next().unwrap_or_default().to_owned();
            refuse(e.span().unwrap_or(0..text.len().min(1)), message, help)
        })?;
        let list = |list: &[Spanned<String>], allowed: bool| -> Result<Vec<(String, String)>, Failure> {
            let code = |word: &Spanned<String>| {
                let code = code(word.get_ref(), allowed).map_err(|e| refuse(word.span(), e, "`snnc explain` lists all codes"))?;
                Ok((code, format!("`{FILE}`")))
            };
            list.iter().map(code).collect()
        };
        let (deny, allow) = (list(&written.deny, false)?, list(&written.allow, true)?);
        for rule in &written.model {
            for pattern in &rule.files {
                if let Err(e) = glob::Pattern::new(pattern.get_ref()) {
                    return Err(refuse(
                        pattern.span(),
                        format!("`{}` is no pattern for files: {}", pattern.get_ref(), e.msg),
                        "write `deploy/*.snn`",
                    ));
                }
            }
            if let Some(share) = rule.encoder_share.as_ref().filter(|s| !(0.0..=1.0).contains(s.get_ref())) {
                return Err(refuse(share.span(), format!("`encoder_share` is {}, not between 0 and 1", share.get_ref()), help));
            }
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let baseline = written.baseline.map(|b| folder.join(b));
        Ok(Policy { deny, allow, rules: written.model, file: Some((folder, text)), baseline })
    }

    /// Applies the policy to what was found in a file.
    pub(crate) fn apply(&self, outcome: &mut Outcome) {
        self.ask(outcome);
        let named = |list: &[(String, String)], d: &Diagnostic| {
            let warning = d.severity == Severity::Warning;
            list.iter().rev().find(|(code, _)| code == d.code || (warning && code == "warnings")).map(|(_, by)| by.clone())
        };
        for finding in &mut outcome.findings {
            let d = &mut finding.diagnostic;
            if let Some(by) = named(&self.deny, d) {
                if d.severity != Severity::Error {
                    d.message = format!("{}, which {by} denies", d.message);
                }
                (d.severity, finding.suppressed) = (Severity::Error, None);
            } else if named(&self.allow, d).is_some() && finding.suppressed.is_none() {
                finding.suppressed = Some(Suppressed::Allowed);
            }
        }
    }

    /// What the rules for this file ask of its models.
    fn ask(&self, outcome: &mut Outcome) {
        let Some((folder, text)) = &self.file else { return };
        let Ok(path) = Path::new(&outcome.path).canonicalize() else { return };
        let Ok(relative) = path.strip_prefix(folder) else { return };
        let matches = |rule: &&Rule| rule.files.iter().any(|p| glob::Pattern::new(p.get_ref()).is_ok_and(|p| p.matches_path(relative)));
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
                        new.push(own.label(at(wanted.span()), "asked for here").help("mend or remove its residues"));
                    }
                }
                if let Some(most) = rule.encoder_share.as_ref().filter(|most| findings.encoder_share() > *most.get_ref()) {
                    let (share, most_share) = (100.0 * findings.encoder_share(), 100.0 * most.get_ref());
                    let message =
                        format!("the encoder of `{name}` does {share:.2} % of all operations, and the policy asks for {most_share:.2} %");
                    let own = Diagnostic::error("policy::encoder_share", model.declared, message, "its encoder does too much");
                    new.push(own.label(at(most.span()), "at most this much").help("let less of the network stand in the encoder"));
                }
            }
        }
        let finding = |diagnostic| Finding { diagnostic, suppressed: None, fingerprint: String::new() };
        outcome.findings.extend(new.into_iter().map(finding));
    }
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
    let found = known.iter().find(|k| **k == short || **k == format!("check::{short}"));
    let Some(found) = found.or_else(|| known.iter().find(|k| k.rsplit("::").next() == Some(short))) else {
        let hint = nearest(short, known.iter().map(|k| k.rsplit("::").next().unwrap_or(k)).chain(known.iter().copied()));
        return Err(format!("there is no rule `{word}`{}", hint.map_or(String::new(), |n| format!("; did you mean `{n}`?"))));
    };
    // What stops the compiler leaves nothing to check.
    if allowed && !["check::", "policy::", "build::unused"].iter().any(|p| found.starts_with(p)) {
        return Err(format!("`{found}` cannot be allowed: without it there is no model to check"));
    }
    Ok((*found).to_owned())
}
