//! The arguments of a call, taken one by one by the operator that reads them.

use super::Init;
use crate::value::{Setting, Value, nearest};
use snnc_grammar::Span;

/// What is wrong with a call or a shape; the builder adds the place.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Diagnostic code.
    pub code: &'static str,
    /// Message.
    pub message: String,
    /// Place, if nearer than the whole call.
    pub span: Option<Span>,
    /// What to type instead.
    pub help: Option<String>,
}

impl Problem {
    /// A problem with the call as a whole.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Problem { code, message: message.into(), span: None, help: None }
    }

    /// At a nearer place.
    #[must_use]
    pub fn at(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    /// With help.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Setting {
    /// Checks that it has no argument.
    pub(super) fn empty(&self) -> Result<(), Problem> {
        self.positional()?;
        if self.plain.is_empty() {
            return Ok(());
        }
        Err(Problem::new("build::unknown_argument", format!("`{}` takes no argument", self.name)).at(self.span))
    }

    /// Checks that it has no named and at most one plain argument, as `sigmoid(4.0)`.
    pub(super) fn positional(&self) -> Result<(), Problem> {
        let extra = self.named.first().map(|(n, _)| format!("`{}` has no argument `{n}`", self.name));
        let extra = extra.or_else(|| (self.plain.len() > 1).then(|| format!("`{}` takes one argument", self.name)));
        extra.map_or(Ok(()), |m| Err(Problem::new("build::unknown_argument", m).at(self.span).help(format!("write `{}(4.0)`", self.name))))
    }
}

/// A name with its place.
pub(super) type Named = (String, Span);
/// The two sides of an arrow: axes, and axes with sizes.
pub(super) type Arrow = (Vec<Named>, Vec<(String, Option<i64>, Span)>);

/// The evaluated arguments of a call.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// Axes before `;`.
    pub axes: Vec<Named>,
    /// The arrow.
    pub arrow: Option<Arrow>,
    /// Plain arguments that are not signals.
    pub plain: Vec<(Value, Span)>,
    /// Named arguments.
    pub named: Vec<(String, Span, Value, Span)>,
    /// Time steps of the model.
    pub time: usize,
    /// Names that were asked for, for suggestions.
    asked: Vec<&'static str>,
}

impl Arguments {
    /// No arguments yet, in a model of this many time steps.
    pub fn new(time: usize) -> Self {
        Arguments { time, ..Arguments::default() }
    }

    /// Takes a named argument.
    pub fn take(&mut self, name: &'static str) -> Option<(Value, Span)> {
        self.asked.push(name);
        let at = self.named.iter().position(|(n, ..)| n == name)?;
        let (_, _, value, span) = self.named.remove(at);
        Some((value, span))
    }

    fn wrong(name: &str, wanted: &str, value: &Value, span: Span) -> Problem {
        Problem::new("build::type", format!("`{name}` needs {wanted}, not a value of type {}", value.type_name())).at(span)
    }

    /// Takes a whole number of at least `least`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn int(&mut self, name: &'static str, least: i64) -> Result<Option<usize>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some((Value::Int(i), _)) if i >= least && i <= i64::from(i32::MAX) => Ok(usize::try_from(i).ok()),
            Some((Value::Int(i), span)) => {
                let code = "shape::extent";
                Err(Problem::new(code, format!("`{name}` is {i}, but must lie between {least} and {}", i32::MAX)).at(span))
            }
            Some((v, span)) => Err(Self::wrong(name, "an int", &v, span)),
        }
    }

    /// Takes a whole number that must be there.
    ///
    /// # Errors
    /// If it is missing or something else.
    pub fn required_int(&mut self, name: &'static str, least: i64) -> Result<usize, Problem> {
        self.int(name, least)?.ok_or_else(|| Self::missing(name))
    }

    fn missing(name: &str) -> Problem {
        Problem::new("build::missing_argument", format!("`{name}` is missing")).help(format!("add `{name} = …`"))
    }

    /// Takes one or two whole numbers: `2` means `[2, 2]`.
    ///
    /// # Errors
    /// If it is something else, or missing without a default.
    pub fn pair(&mut self, name: &'static str, least: i64, default: Option<usize>) -> Result<[usize; 2], Problem> {
        let number = |v: &Value, span| match v {
            Value::Int(i) if *i >= least && *i <= i64::from(i32::MAX) => Ok(usize::try_from(*i).unwrap_or(0)),
            Value::Int(i) => {
                Err(Problem::new("shape::extent", format!("`{name}` is {i}, but must lie between {least} and {}", i32::MAX)).at(span))
            }
            v => Err(Self::wrong(name, "an int or two", v, span)),
        };
        match self.take(name) {
            None => default.map(|d| [d, d]).ok_or_else(|| Self::missing(name)),
            Some((Value::List(items), span)) => match items.as_slice() {
                [a, b] => Ok([number(a, span)?, number(b, span)?]),
                _ => Err(Self::wrong(name, "an int or two", &Value::List(items), span)),
            },
            Some((v, span)) => number(&v, span).map(|n| [n, n]),
        }
    }

    /// Takes a number.
    ///
    /// # Errors
    /// If it is something else.
    pub fn float(&mut self, name: &'static str) -> Result<Option<f64>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some((v, span)) => v.as_float().map(Some).ok_or_else(|| Self::wrong(name, "a number", &v, span)),
        }
    }

    /// Takes the one plain argument as a number.
    ///
    /// # Errors
    /// If it is missing or something else; `example` shows one.
    pub fn plain_float(&mut self, missing: &str, example: &str) -> Result<f64, Problem> {
        if self.plain.is_empty() {
            return Err(Problem::new("build::missing_argument", missing).help(format!("for example `{example}`")));
        }
        let (value, span) = self.plain.remove(0);
        let wrong = || Problem::new("build::type", format!("expected a number, not a value of type {}", value.type_name())).at(span);
        value.as_float().ok_or_else(wrong)
    }

    /// Takes a bool.
    ///
    /// # Errors
    /// If it is something else.
    pub fn bool(&mut self, name: &'static str) -> Result<Option<bool>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some((Value::Bool(b), _)) => Ok(Some(b)),
            Some((v, span)) => Err(Self::wrong(name, "a bool", &v, span)),
        }
    }

    /// Takes a settings call such as `hard(0.0)`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn setting(&mut self, name: &'static str) -> Result<Option<Setting>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some((Value::Setting(s), _)) => Ok(Some(s)),
            Some((v, span)) => Err(Self::wrong(name, "a setting", &v, span)),
        }
    }

    /// Takes `init = …` for a weight with these fans; the default is uniform on ±1/√fan_in.
    ///
    /// # Errors
    /// If there is no such initialiser.
    pub fn init(&mut self, fan_in: usize, fan_out: usize) -> Result<Init, Problem> {
        let bound = 1.0 / (fan_in.max(1) as f64).sqrt();
        let Some(setting) = self.setting("init")? else { return Ok(Init::Uniform(bound)) };
        setting.positional()?;
        let number = |default: Option<f64>| match setting.plain.first() {
            Some(v) => v.as_float().ok_or_else(|| Self::wrong("init", "a number", v, setting.span)),
            None => default.ok_or_else(|| Self::missing("a number in `init`").at(setting.span)),
        };
        Ok(match setting.name.as_str() {
            "standard" => Init::Uniform(bound),
            "uniform" => Init::Uniform(number(None)?),
            "normal" => Init::Normal(number(None)?),
            "truncated_normal" => Init::TruncatedNormal(number(None)?),
            "constant" => Init::Constant(number(None)?),
            // He et al. 2015, eq. 14 with fan-out: variance 2 / fan_out.
            "kaiming_normal" => setting.empty().map(|()| Init::Normal((2.0 / fan_out.max(1) as f64).sqrt()))?,
            other => {
                let known = ["standard", "uniform", "normal", "truncated_normal", "constant", "kaiming_normal"];
                let problem = Problem::new("build::unknown_argument", format!("there is no initialiser `{other}`")).at(setting.span);
                return Err(match nearest(other, known) {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem.help(format!("there are: {}", known.join(", "))),
                });
            }
        })
    }

    /// Takes the plain arguments as axes.
    ///
    /// # Errors
    /// If one is not an axis.
    pub fn plain_axes(&mut self) -> Result<Vec<Named>, Problem> {
        std::mem::take(&mut self.plain)
            .into_iter()
            .map(|(v, span)| match v {
                Value::Axis(name) => Ok((name, span)),
                v => Err(Problem::new("build::type", format!("expected an axis, not a value of type {}", v.type_name())).at(span)),
            })
            .collect()
    }

    /// Takes the arrow.
    ///
    /// # Errors
    /// If there is none; `example` shows one.
    pub fn required_arrow(&mut self, example: &str) -> Result<Arrow, Problem> {
        self.arrow
            .take()
            .ok_or_else(|| Problem::new("build::missing_argument", "the axes are missing").help(format!("for example `{example}`")))
    }

    /// Reports what nobody took.
    ///
    /// # Errors
    /// The first argument left over.
    pub fn finish(&self, word: &str) -> Result<(), Problem> {
        if let Some((name, span, ..)) = self.named.first() {
            let problem = Problem::new("build::unknown_argument", format!("`{word}` has no argument `{name}`")).at(*span);
            return Err(match nearest(name, self.asked.iter().copied()) {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None if self.asked.is_empty() => problem.help("it takes no named argument"),
                None => problem.help(format!("it takes: {}", self.asked.join(", "))),
            });
        }
        let extra = self.plain.first().map(|(_, s)| *s).or(self.axes.first().map(|(_, s)| *s));
        if let Some(span) = extra.or(self.arrow.as_ref().and_then(|(from, _)| from.first().map(|(_, s)| *s))) {
            return Err(Problem::new("build::unknown_argument", format!("`{word}` does not take this argument")).at(span));
        }
        Ok(())
    }
}
