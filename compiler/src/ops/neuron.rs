//! Neurons as values: what `LIF(…)` and `IF(…)` say.

use super::surrogate::Surrogate;
use super::{Arguments, Problem, Real, real};
use crate::flow::{Cmp, Scalar};
use crate::fold::Expr;
use crate::types::ParamId;
use crate::value::{Setting, Value, nearest};
use serde::{Deserialize, Serialize};

/// What happens to the membrane when a neuron fires.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reset {
    /// It becomes this value.
    Hard(f64),
    /// The threshold is subtracted.
    Soft,
}

/// What training takes for the derivative of a neuron.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Gradient {
    /// Backpropagation through time, with this for the derivative of a spike.
    Surrogate(Surrogate),
    /// One closed form for the whole train of spikes.
    Rate(Rate),
}

/// The gradient of a neuron as a clipped line from its mean input to its mean output (DSR, Meng
/// et al. 2022, section 4, and its code). With means weighted by leak^(T-t), r of the input x and ḡ of the output's gradient, and U = limit · V:
/// ∂L/∂x_t = slope · ḡ where 0 ≤ r ≤ U (0 < r < U if the neuron leaks), in every step of IF, and likewise LIF;
/// ∂L/∂V = gain · T · Σ ḡ where r > U.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Slope of the line.
    pub slope: f64,
    /// The mean input at which the output saturates, in thresholds.
    pub limit: f64,
    /// Factor on the threshold's gradient.
    pub gain: f64,
}

impl Rate {
    /// The comparison of the mean input with both ends of the line.
    pub fn compare(leak: f64) -> Cmp {
        if leak == 1.0 { Cmp::Ge } else { Cmp::Gt }
    }
}

/// A neuron model: h = leak(v, x); s = 1\[h ≥ θ\]; v ← reset(h, s), from v = 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neuron {
    /// Membrane time constant in time steps; none for IF, which has no leak.
    pub tau: Option<f64>,
    /// The input is decayed with the membrane, h = v + (x - v) / τ; otherwise h = v (1 - 1/τ) + x.
    pub decay_input: bool,
    /// Threshold V; what it starts from, if it is trained.
    pub threshold: f64,
    /// The threshold is trained, and is never less than this.
    pub least: Option<f64>,
    /// Fires where the membrane reaches this part of the threshold, θ = fire_at · V; a soft reset still subtracts V.
    pub fire_at: f64,
    /// A spike is worth this many thresholds; none: a spike is 1.
    pub amplitude: Option<f64>,
    /// Fires only above the threshold, not at it.
    pub strict: bool,
    /// Reset.
    pub reset: Reset,
    /// Derivative for training.
    pub gradient: Gradient,
    /// The spike inside the reset is a constant for training.
    pub detach_reset: bool,
}

/// The names of neuron models.
pub const NEURONS: [&str; 2] = ["LIF", "IF"];

impl Neuron {
    /// Reads `LIF(…)` or `IF(…)`.
    ///
    /// # Errors
    /// What is wrong with the arguments.
    pub fn read(word: &str, args: &mut Arguments) -> Result<Neuron, Problem> {
        let tau = if word == "LIF" { Some(args.float("tau")?.unwrap_or(2.0)) } else { None };
        if let Some(tau) = tau.filter(|t| !(1.000_001..=1e9).contains(t)) {
            return Err(Problem::new("build::value", format!("`tau` is {tau}, but must be from 1.000001 to 1e9")));
        }
        let decay_input = if word == "LIF" { args.bool("decay_input")?.unwrap_or(true) } else { false };
        let (threshold, least) = threshold(args)?;
        let fire_at = bounded("fire_at", args.float("fire_at")?.unwrap_or(1.0))?;
        let amplitude = match args.setting("amplitude")? {
            None => None,
            Some(s) if s.name == "threshold" => Some(bounded("amplitude", number(&s, Some(1.0))?)?),
            Some(s) => return Err(unknown(&s, "amplitude", &["threshold"])),
        };
        let strict = match args.take("fire") {
            None => false,
            Some((Value::Str(s), _)) if s == ">=" => false,
            Some((Value::Str(s), _)) if s == ">" => true,
            Some((v, span)) => return Err(Problem::new("build::value", format!("`fire` is \">=\" or \">\", not {v}")).at(span)),
        };
        let reset = match args.setting("reset")? {
            None => Reset::Hard(0.0),
            Some(s) if s.name == "hard" => Reset::Hard(number(&s, Some(0.0))?),
            Some(s) if s.name == "soft" => s.empty().map(|()| Reset::Soft)?,
            Some(s) => return Err(unknown(&s, "reset", &["hard", "soft"])),
        };
        let gradient = match args.setting("surrogate")? {
            None => Gradient::Surrogate(Surrogate::Sigmoid(4.0)),
            Some(s) if s.name == "rate" => Gradient::Rate(rate(&s)?),
            Some(s) => {
                let width = number(&s, (s.name == "sigmoid").then_some(4.0))?;
                if width <= 0.0 {
                    return Err(Problem::new("build::value", "a surrogate's parameter must be positive").at(s.span));
                }
                Gradient::Surrogate(match s.name.as_str() {
                    "sigmoid" => Surrogate::Sigmoid(width),
                    "triangle" => Surrogate::Triangle(width),
                    "rectangle" => Surrogate::Rectangle(width),
                    _ => return Err(unknown(&s, "surrogate", &["sigmoid", "triangle", "rectangle", "rate"])),
                })
            }
        };
        let detach_reset = args.bool("detach_reset")?.unwrap_or(false);
        args.finish(word)?;
        Ok(Neuron { tau, decay_input, threshold, least, fire_at, amplitude, strict, reset, gradient, detach_reset })
    }

    /// The threshold V in terms of the neuron's parameters.
    pub fn threshold_expr(&self, params: &[ParamId]) -> Expr {
        match (self.least, params) {
            (Some(_), [v]) => Expr::Param(*v, vec![]),
            _ => Expr::Const(self.threshold),
        }
    }

    /// The membrane at which it fires, in terms of the neuron's parameters.
    pub fn fires_expr(&self, params: &[ParamId]) -> Expr {
        let v = self.threshold_expr(params);
        if self.fire_at == 1.0 { v } else { v * Expr::Const(self.fire_at) }
    }

    /// The factor on the membrane at every step.
    pub fn leak(&self) -> f64 {
        self.tau.map_or(1.0, |t| 1.0 - 1.0 / t)
    }

    /// The factor on what the neuron integrates.
    pub fn drive(&self) -> f64 {
        self.tau.filter(|_| self.decay_input).map_or(1.0, |t| 1.0 / t)
    }

    /// Threshold comparison.
    pub fn compare(&self) -> Cmp {
        if self.strict { Cmp::Gt } else { Cmp::Ge }
    }

    /// The membrane before firing.
    pub fn charge<F: Real>(&self, v: F, x: F) -> F {
        match self.tau {
            None => v + x,
            Some(2.0) if self.decay_input => (v + x) * real(0.5),
            Some(tau) if self.decay_input => v + (x - v) / real(tau),
            Some(_) => v * real(self.leak()) + x,
        }
    }

    /// The membrane before firing, as a scalar program.
    pub fn charge_scalar(&self, v: Scalar, x: Scalar) -> Scalar {
        match self.tau {
            None => v + x,
            Some(2.0) if self.decay_input => (v + x) * 0.5,
            Some(tau) if self.decay_input => v.clone() + (x - v) / tau,
            Some(_) => v * self.leak() + x,
        }
    }

    /// Whether the membrane `h` fires at this threshold.
    pub fn fires<F: Real>(&self, h: F, threshold: F) -> bool {
        if self.strict { h > threshold } else { h >= threshold }
    }
}

/// Reads `threshold = 1.0` or `threshold = trainable(1.0, min = 0.01)`: where it starts, and its least value if trained.
fn threshold(args: &mut Arguments) -> Result<(f64, Option<f64>), Problem> {
    let Some((value, span)) = args.take("threshold") else { return Ok((1.0, None)) };
    let at = |p: Problem| p.at(span);
    match value {
        Value::Setting(s) if s.name == "trainable" => {
            let mut least = None;
            for (name, value) in &s.named {
                match value.as_float() {
                    Some(x) if name == "min" => least = Some(bounded("min", x).map_err(at)?),
                    _ => return Err(unknown_argument(&s, name, "min")),
                }
            }
            let start = bounded("threshold", number(&Setting { named: vec![], ..s }, None)?).map_err(at)?;
            let least = least.unwrap_or(1e-30);
            if start < least {
                return Err(at(Problem::new("build::value", format!("the threshold starts at {start}, below its `min` of {least}"))));
            }
            Ok((start, Some(least)))
        }
        Value::Setting(s) => Err(unknown(&s, "threshold", &["trainable"])),
        v => {
            let wrong = || Problem::new("build::type", format!("`threshold` needs a number, not a value of type {}", v.type_name()));
            Ok((bounded("threshold", v.as_float().ok_or_else(|| at(wrong()))?).map_err(at)?, None))
        }
    }
}

/// Reads `rate(slope = 1.0, limit = 1.0, gain = 1.0)`.
fn rate(s: &Setting) -> Result<Rate, Problem> {
    let mut rate = Rate { slope: 1.0, limit: 1.0, gain: 1.0 };
    if !s.plain.is_empty() {
        return Err(Problem::new("build::unknown_argument", "`rate` takes named arguments alone")
            .at(s.span)
            .help("write `rate(slope = 1.0)`"));
    }
    for (name, value) in &s.named {
        let place = match name.as_str() {
            "slope" => &mut rate.slope,
            "limit" => &mut rate.limit,
            "gain" => &mut rate.gain,
            _ => return Err(unknown_argument(s, name, "slope, limit, gain")),
        };
        let wrong = || Problem::new("build::type", format!("`{name}` needs a number, not a value of type {}", value.type_name()));
        *place = value.as_float().ok_or_else(wrong).and_then(|x| bounded(name, x)).map_err(|p| p.at(s.span))?;
    }
    Ok(rate)
}

/// A number that may stand in a threshold without leaving f32.
fn bounded(name: &str, x: f64) -> Result<f64, Problem> {
    let message = || format!("`{name}` is {x}, but must lie between 1e-30 and 1e30");
    if (1e-30..=1e30).contains(&x) { Ok(x) } else { Err(Problem::new("build::value", message())) }
}

fn unknown_argument(s: &Setting, name: &str, known: &str) -> Problem {
    let problem = Problem::new("build::unknown_argument", format!("`{}` has no argument `{name}`", s.name)).at(s.span);
    problem.help(format!("it takes: {known}"))
}

fn number(s: &Setting, default: Option<f64>) -> Result<f64, Problem> {
    s.positional()?;
    match (s.plain.first(), default) {
        (Some(v), _) => v.as_float().ok_or_else(|| {
            Problem::new("build::type", format!("`{}` needs a number, not a value of type {}", s.name, v.type_name())).at(s.span)
        }),
        (None, Some(d)) => Ok(d),
        (None, None) => Err(Problem::new("build::missing_argument", format!("`{}` needs a number", s.name)).at(s.span)),
    }
}

fn unknown(s: &Setting, what: &str, known: &[&str]) -> Problem {
    let problem = Problem::new("build::unknown_argument", format!("there is no {what} `{}`", s.name)).at(s.span);
    match nearest(&s.name, known.iter().copied()) {
        Some(near) => problem.help(format!("did you mean `{near}`?")),
        None => problem.help(format!("there are: {}", known.join(", "))),
    }
}
