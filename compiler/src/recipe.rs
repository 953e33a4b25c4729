//! Recipes: how a model is trained, as its file declares it.

use crate::lower::Optimizer;
use crate::resolve::Package;
use crate::value::{self, Setting, Value, nearest};
use serde::{Deserialize, Serialize};
use snnc_grammar::ast::{Arg, Expr, ExprKind, Recipe as Tree};
use snnc_grammar::{Diagnostic, Span};

/// The learning rate over time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Epochs in all.
    pub epochs: usize,
    /// Epochs of warm-up, part of all: for e < w the rate is warm₀ + e (lr - warm₀) / w; the cosine runs from epoch 0 on, as
    /// timm's does.
    pub warmup: f64,
    /// Rate at the start of the warm-up.
    pub warmup_from: f64,
    /// Rate at the end.
    pub floor: f64,
    /// Follows a cosine; otherwise constant.
    pub cosine: bool,
    /// Changes at every step; otherwise at every epoch.
    pub every_step: bool,
}

impl Schedule {
    /// The rate at a time in epochs, for a base rate.
    pub fn rate(&self, base: f64, epoch: f64) -> f64 {
        let e = if self.every_step { epoch } else { epoch.floor() };
        if e < self.warmup {
            return self.warmup_from + e * (base - self.warmup_from) / self.warmup;
        }
        if !self.cosine {
            return base;
        }
        let turn = (std::f64::consts::PI * e / self.epochs as f64).min(std::f64::consts::PI);
        self.floor + 0.5 * (base - self.floor) * (1.0 + turn.cos())
    }
}

/// A recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Its name.
    pub name: String,
    /// Name of the data set.
    pub data: String,
    /// Updates.
    pub optimizer: Optimizer,
    /// Base learning rate.
    pub rate: f64,
    /// Rate over time.
    pub schedule: Schedule,
    /// Samples of one step.
    pub batch: usize,
    /// Label smoothing ε: a class has 1 - ε + ε/K, the others ε/K.
    pub smoothing: f64,
    /// Pictures are shifted by up to this many pixels in training.
    pub shift: f64,
    /// Seed.
    pub seed: u64,
}

/// Reads a recipe of a package: the one of this name, or the first one for a model.
///
/// # Errors
/// If there is none, or an entry is wrong: all at once.
pub fn recipe(package: &Package, model: &str, variant: &str, name: Option<&str>) -> Result<Recipe, Vec<Diagnostic>> {
    let own = || package.recipes.iter().filter(|r| r.model.name == model || r.model.name == variant);
    let Some(tree) = own().find(|r| name.is_none_or(|n| r.name.name == n)) else {
        let known: Vec<&str> = own().map(|r| r.name.name.as_str()).collect();
        let top = Span { file: package.root, start: 0, end: 0 };
        let message =
            name.map_or_else(|| format!("there is no recipe for `{model}`"), |n| format!("there is no recipe `{n}` for `{model}`"));
        let help =
            if known.is_empty() { format!("add `recipe name for {model} {{ … }}`") } else { format!("there are: {}", known.join(", ")) };
        return Err(vec![Diagnostic::error("recipe::unknown", top, message, "in this file").help(help)]);
    };
    read(tree)
}

/// Reads every recipe of a package, for its errors.
pub fn errors(package: &Package) -> Vec<Diagnostic> {
    let mut errors: Vec<Diagnostic> = package.recipes.iter().filter_map(|r| read(r).err()).flatten().collect();
    for (i, recipe) in package.recipes.iter().enumerate() {
        let same = |r: &&Tree| r.name.name == recipe.name.name && r.model.name == recipe.model.name;
        if let Some(first) = package.recipes[..i].iter().find(same) {
            let message = format!("there is a recipe `{}` for `{}` already", recipe.name.name, recipe.model.name);
            let error = Diagnostic::error("resolve::duplicate", recipe.name.span, message, "again here");
            errors.push(error.label(first.name.span, "first here"));
        }
    }
    errors
}

fn read(tree: &Tree) -> Result<Recipe, Vec<Diagnostic>> {
    let mut recipe = Recipe {
        name: tree.name.name.clone(),
        data: String::new(),
        optimizer: Optimizer::Sgd { momentum: 0.0, weight_decay: 0.0 },
        rate: 0.0,
        schedule: Schedule { epochs: 0, warmup: 0.0, warmup_from: 0.0, floor: 0.0, cosine: false, every_step: false },
        batch: 64,
        smoothing: 0.0,
        shift: 0.0,
        seed: 0,
    };
    const ENTRIES: [&str; 7] = ["data", "optimizer", "schedule", "batch", "loss", "augment", "seed"];
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for entry in &tree.entries {
        let name = entry.name.name.as_str();
        if seen.contains(&name) {
            let message = format!("`{name}` is given twice");
            errors.push(Diagnostic::error("recipe::entry", entry.name.span, message, "again here"));
            continue;
        }
        seen.push(name);
        if let Some(per) = entry.per.as_ref().filter(|per| name != "batch" || per.name != "device") {
            let message = format!("`{name}` cannot be given per `{}`", per.name);
            errors.push(Diagnostic::error("recipe::entry", per.span, message, "here").help("only `batch N per device`"));
        }
        let result = constant(&entry.value).and_then(|value| match name {
            "data" => word(&value, entry.value.span).map(|w| recipe.data = w),
            "optimizer" => optimizer(&value, entry.value.span).map(|(o, rate)| (recipe.optimizer, recipe.rate) = (o, rate)),
            "schedule" => schedule(&value, entry.value.span).map(|s| recipe.schedule = s),
            "batch" => whole(&value, entry.value.span, 1).map(|n| recipe.batch = n),
            "seed" => whole(&value, entry.value.span, 0).map(|n| recipe.seed = n as u64),
            "loss" => {
                let mut fields = Fields::new(&value, entry.value.span, &["cross_entropy"])?;
                recipe.smoothing = fields.number("smoothing", 0.0, 0.0..=0.9)?;
                fields.finish()
            }
            "augment" => {
                let mut fields = Fields::new(&value, entry.value.span, &["shift"])?;
                recipe.shift = fields.plain(0.0..=64.0)?;
                fields.finish()
            }
            _ => {
                let error = Diagnostic::error("recipe::entry", entry.name.span, format!("a recipe has no `{name}`"), "not an entry");
                Err(match nearest(name, ENTRIES) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help(format!("entries are: {}", ENTRIES.join(", "))),
                })
            }
        });
        errors.extend(result.err());
    }
    for needed in ["data", "optimizer", "schedule"] {
        if !seen.contains(&needed) {
            let message = format!("recipe `{}` has no `{needed}`", tree.name.name);
            errors.push(Diagnostic::error("recipe::entry", tree.name.span, message, "in this recipe").help(format!("add `{needed} …`")));
        }
    }
    if errors.is_empty() { Ok(recipe) } else { Err(errors) }
}

/// The value of an expression of constants and settings.
fn constant(e: &Expr) -> Result<Value, Diagnostic> {
    match &e.kind {
        ExprKind::Int(i) => Ok(Value::Int(*i)),
        ExprKind::Float(f) => Ok(Value::Float(*f)),
        ExprKind::Str(s) => Ok(Value::Str(s.clone())),
        ExprKind::Bool(b) => Ok(Value::Bool(*b)),
        ExprKind::Name(name) => Ok(Value::Setting(Setting { name: name.clone(), plain: vec![], named: vec![], span: e.span })),
        ExprKind::List(items) => items.iter().map(constant).collect::<Result<_, _>>().map(Value::List),
        ExprKind::Unary(op, a) => value::unary(*op, constant(a)?, e.span),
        ExprKind::Binary(op, a, b) => value::binary(*op, constant(a)?, constant(b)?, e.span),
        ExprKind::Call(call) => {
            let mut setting = Setting { name: call.callee.name.clone(), plain: vec![], named: vec![], span: e.span };
            for arg in &call.args.list {
                match arg {
                    Arg::Plain(e) => setting.plain.push(constant(e)?),
                    Arg::Named(n, e) => setting.named.push((n.name.clone(), constant(e)?)),
                    Arg::Arrow(.., span) => return Err(wrong(*span, "there are no axes in a recipe")),
                }
            }
            Ok(Value::Setting(setting))
        }
        ExprKind::Index(..) | ExprKind::Pipe(..) => Err(wrong(e.span, "a recipe holds constants")),
    }
}

fn wrong(span: Span, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error("recipe::value", span, message, "here")
}

fn word(value: &Value, span: Span) -> Result<String, Diagnostic> {
    match value {
        Value::Setting(s) if s.plain.is_empty() && s.named.is_empty() => Ok(s.name.clone()),
        Value::Str(s) => Ok(s.clone()),
        v => Err(wrong(span, format!("expected a name, not a value of type {}", v.type_name()))),
    }
}

fn whole(value: &Value, span: Span, least: i64) -> Result<usize, Diagnostic> {
    match value {
        Value::Int(i) if (least..=i64::from(u32::MAX)).contains(i) => Ok(usize::try_from(*i).unwrap_or(0)),
        v => Err(wrong(span, format!("expected an int from {least} to {}, not {v}", u32::MAX))),
    }
}

/// The arguments of one setting.
struct Fields {
    setting: Setting,
    asked: Vec<&'static str>,
}

impl Fields {
    fn new(value: &Value, span: Span, names: &[&str]) -> Result<Fields, Diagnostic> {
        match value {
            Value::Setting(s) if names.contains(&s.name.as_str()) => Ok(Fields { setting: s.clone(), asked: vec![] }),
            v => {
                let found = if let Value::Setting(s) = v { format!("`{}`", s.name) } else { format!("a value of type {}", v.type_name()) };
                Err(wrong(
                    span,
                    format!("expected {}, not {found}", names.iter().map(|n| format!("`{n}(…)`")).collect::<Vec<_>>().join(" or ")),
                ))
            }
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.asked.push(name);
        let at = self.setting.named.iter().position(|(n, _)| n == name)?;
        Some(self.setting.named.remove(at).1)
    }

    fn number(&mut self, name: &'static str, default: f64, range: std::ops::RangeInclusive<f64>) -> Result<f64, Diagnostic> {
        let Some(value) = self.take(name) else { return Ok(default) };
        value.as_float().filter(|x| range.contains(x)).ok_or_else(|| {
            wrong(self.setting.span, format!("`{name}` must be a number from {} to {}, not {value}", range.start(), range.end()))
        })
    }

    fn needed(&mut self, name: &'static str, range: std::ops::RangeInclusive<f64>) -> Result<f64, Diagnostic> {
        if !self.setting.named.iter().any(|(n, _)| n == name) {
            return Err(wrong(self.setting.span, format!("`{}` needs `{name}`", self.setting.name)).help(format!("add `{name} = …`")));
        }
        self.number(name, 0.0, range)
    }

    fn plain(&mut self, range: std::ops::RangeInclusive<f64>) -> Result<f64, Diagnostic> {
        let value = if self.setting.plain.is_empty() { None } else { Some(self.setting.plain.remove(0)) };
        value.as_ref().and_then(Value::as_float).filter(|x| range.contains(x)).ok_or_else(|| {
            wrong(self.setting.span, format!("`{}` needs a number from {} to {}", self.setting.name, range.start(), range.end()))
        })
    }

    fn finish(self) -> Result<(), Diagnostic> {
        if let Some((name, _)) = self.setting.named.first() {
            let error = wrong(self.setting.span, format!("`{}` has no argument `{name}`", self.setting.name));
            return Err(match nearest(name, self.asked.iter().copied()) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help(format!("it takes: {}", self.asked.join(", "))),
            });
        }
        if self.setting.plain.is_empty() { Ok(()) } else { Err(wrong(self.setting.span, "an argument too many")) }
    }
}

fn optimizer(value: &Value, span: Span) -> Result<(Optimizer, f64), Diagnostic> {
    let mut f = Fields::new(value, span, &["sgd", "adamw"])?;
    let rate = f.needed("lr", 0.0..=1e3)?;
    let optimizer = if f.setting.name == "sgd" {
        Optimizer::Sgd { momentum: f.number("momentum", 0.0, 0.0..=1.0)?, weight_decay: f.number("weight_decay", 0.0, 0.0..=1.0)? }
    } else {
        Optimizer::AdamW {
            beta1: f.number("beta1", 0.9, 0.0..=0.999_999)?,
            beta2: f.number("beta2", 0.999, 0.0..=0.999_999)?,
            epsilon: f.number("epsilon", 1e-8, 0.0..=1.0)?,
            weight_decay: f.number("weight_decay", 0.01, 0.0..=1.0)?,
        }
    };
    f.finish()?;
    Ok((optimizer, rate))
}

fn schedule(value: &Value, span: Span) -> Result<Schedule, Diagnostic> {
    let mut f = Fields::new(value, span, &["cosine", "constant"])?;
    let epochs = f.needed("epochs", 1.0..=1e6)?;
    if epochs.fract() != 0.0 {
        return Err(wrong(span, format!("`epochs` must be a whole number, not {epochs}")));
    }
    let epochs = epochs as usize;
    let warmup = f.number("warmup", 0.0, 0.0..=1e6)?;
    let (warmup_from, floor) = (f.number("warmup_from", 0.0, 0.0..=1e3)?, f.number("floor", 0.0, 0.0..=1e3)?);
    let every_step = match f.take("every") {
        None => false,
        Some(v) => match word(&v, span)?.as_str() {
            "step" => true,
            "epoch" => false,
            other => return Err(wrong(span, format!("`every` is \"step\" or \"epoch\", not \"{other}\""))),
        },
    };
    let cosine = f.setting.name == "cosine";
    f.finish()?;
    Ok(Schedule { epochs, warmup, warmup_from, floor, cosine, every_step })
}
