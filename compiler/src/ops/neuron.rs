//! Neurons as values: what `LIF(…)` and `IF(…)` say.

use super::surrogate::Surrogate;
use super::{Arguments, Problem, Real, real};
use crate::flow::{Cmp, Scalar};
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

/// A neuron model: h = leak(v, x); s = 1\[h ≥ θ\]; v ← reset(h, s), from v = 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neuron {
    /// Membrane time constant in time steps; none for IF, which has no leak.
    pub tau: Option<f64>,
    /// The input is decayed with the membrane, h = v + (x - v) / τ; otherwise h = v (1 - 1/τ) + x.
    pub decay_input: bool,
    /// Threshold θ.
    pub threshold: f64,
    /// Fires only above the threshold, not at it.
    pub strict: bool,
    /// Reset.
    pub reset: Reset,
    /// Derivative of a spike for training.
    pub surrogate: Surrogate,
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
            return Err(Problem::new("build::value", format!("`tau` is {tau}, but must be larger than 1 and at most 1e9")));
        }
        let decay_input = if word == "LIF" { args.bool("decay_input")?.unwrap_or(true) } else { false };
        let threshold = args.float("threshold")?.unwrap_or(1.0);
        if !(1e-30..=1e30).contains(&threshold) {
            return Err(Problem::new("build::value", format!("`threshold` is {threshold}, but must lie between 1e-30 and 1e30")));
        }
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
        let surrogate = match args.setting("surrogate")? {
            None => Surrogate::Sigmoid(4.0),
            Some(s) => {
                let width = number(&s, (s.name == "sigmoid").then_some(4.0))?;
                if width <= 0.0 {
                    return Err(Problem::new("build::value", "a surrogate's parameter must be positive").at(s.span));
                }
                match s.name.as_str() {
                    "sigmoid" => Surrogate::Sigmoid(width),
                    "triangle" => Surrogate::Triangle(width),
                    "rectangle" => Surrogate::Rectangle(width),
                    _ => return Err(unknown(&s, "surrogate", &["sigmoid", "triangle", "rectangle"])),
                }
            }
        };
        let detach_reset = args.bool("detach_reset")?.unwrap_or(false);
        args.finish(word)?;
        Ok(Neuron { tau, decay_input, threshold, strict, reset, surrogate, detach_reset })
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
