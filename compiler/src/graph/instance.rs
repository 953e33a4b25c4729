//! Which model of a package is meant, and with which parameters.

use crate::resolve::Package;
use crate::value::nearest;
use snnc_grammar::ast::{self, Arg, Expr, ExprKind, StmtKind};
use snnc_grammar::{Diagnostic, SourceMap, Span, parse_setting};
use std::sync::Arc;

/// Settings from outside the file.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `--set name=value`: names with the text of an expression.
    pub set: Vec<(String, String)>,
    /// `--time`.
    pub time: Option<usize>,
}

/// A model with the arguments that differ from its defaults.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The variant's name, or the model's.
    pub name: String,
    /// The model.
    pub model: Arc<ast::Model>,
    /// Arguments, later ones win: (name, its place, value).
    pub arguments: Vec<(String, Span, Expr)>,
}

/// Picks a model or variant of a package by name (the first model if there is no name) and adds settings.
///
/// # Errors
/// If there is no such model, or a setting is no expression.
pub fn instantiate(
    sources: &mut SourceMap,
    package: &Package,
    name: Option<&str>,
    settings: &Settings,
) -> Result<Instance, Vec<Diagnostic>> {
    let top = Span { file: package.root, start: 0, end: 0 };
    let find = |wanted: &str| package.models.iter().find(|m| m.name.name == wanted).cloned();
    let variant = name.and_then(|n| package.variants.iter().find(|v| v.name.name == n));
    let (model, call) = match (variant, name) {
        (Some(v), _) => (find(&v.model.callee.name), Some(&v.model)),
        (None, Some(n)) => (find(n), None),
        (None, None) => (package.models.first().cloned(), None),
    };
    let Some(model) = model else {
        let mut known: Vec<&str> = package.variants.iter().map(|v| v.name.name.as_str()).collect();
        known.extend(package.models.iter().map(|m| m.name.name.as_str()));
        let message = match name {
            Some(n) => format!("the file has no model or variant `{n}`"),
            None => "the file has no model".to_owned(),
        };
        let error = Diagnostic::error("build::unknown_model", top, message, "in this file");
        return Err(vec![match name.and_then(|n| nearest(n, known.iter().copied())) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None if known.is_empty() => error.help("a file of blocks is used by other files; it cannot be run"),
            None => error.help(format!("it has: {}", known.join(", "))),
        }]);
    };
    let mut arguments = Vec::new();
    let mut errors = Vec::new();
    for arg in call.iter().flat_map(|c| &c.args.list) {
        match arg {
            Arg::Named(n, value) => arguments.push((n.name.clone(), n.span, value.clone())),
            Arg::Plain(e) => {
                errors.push(Diagnostic::error(
                    "build::unknown_argument",
                    e.span,
                    "a variant's arguments have names",
                    "write `name = value`",
                ));
            }
            Arg::Arrow(.., span) => {
                errors.push(Diagnostic::error(
                    "build::unknown_argument",
                    *span,
                    "a variant's arguments have names",
                    "write `name = value`",
                ));
            }
        }
    }
    for (n, text) in &settings.set {
        let whole = format!("{n}={text}");
        let again = settings.set.iter().filter(|(m, _)| m == n).count() > 1;
        let file = sources.add("--set", whole.as_str());
        match parse_setting(sources, file) {
            Some((name, _)) if again => {
                errors.push(Diagnostic::error("build::setting", name.span, format!("`{n}` is set more than once"), "here"));
            }
            Some((name, value)) if name.name == *n => arguments.push((n.clone(), name.span, value)),
            _ => {
                let span = Span { file, start: 0, end: u32::try_from(whole.len()).unwrap_or(0) };
                errors.push(
                    Diagnostic::error("build::setting", span, format!("`{text}` is not a value for `{n}`"), "given here")
                        .help("for example `--set dim=96` or `--set depths=[2,2]`"),
                );
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let time = model.body.iter().find_map(|s| if let StmtKind::Time(name, _) = &s.kind { Some(&name.name) } else { None });
    if let (Some(name), Some(steps)) = (time, settings.time) {
        let file = sources.add("--time", steps.to_string());
        let span = Span { file, start: 0, end: u32::try_from(steps.to_string().len()).unwrap_or(0) };
        arguments.push((name.clone(), span, Expr { kind: ExprKind::Int(i64::try_from(steps).unwrap_or(i64::MAX)), span }));
    }
    let name = variant.map_or_else(|| model.name.name.clone(), |v| v.name.name.clone());
    Ok(Instance { name, model, arguments })
}
