//! Values of the language at compile time, and arithmetic on them.

use crate::ops::neuron::Neuron;
use crate::types::NodeId;
use snnc_grammar::ast::{BinaryOp, UnaryOp};
use snnc_grammar::{Diagnostic, Span};
use std::fmt;

/// A value a name can stand for.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// A real number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Str(String),
    /// A list.
    List(Vec<Value>),
    /// The name of an axis.
    Axis(String),
    /// A neuron: every application is one of its own.
    Neuron(Box<Neuron>, Span),
    /// A settings call such as `hard(0.0)` or `cosine(epochs = 3)`.
    Setting(Setting),
    /// A signal of the graph.
    Signal(NodeId),
    /// An instance whose weights are shared by all its applications; an index into the builder's list.
    Shared(usize),
    /// What an erroneous definition leaves behind; using it reports nothing.
    Poison,
}

/// A call that is a value: a name with plain and named arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Arguments without a name.
    pub plain: Vec<Value>,
    /// Named arguments.
    pub named: Vec<(String, Value)>,
    /// Where it stands.
    pub span: Span,
}

impl Value {
    /// The name of the value's type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Bool(_) => "bool",
            Value::Str(_) => "string",
            Value::List(_) => "list",
            Value::Axis(_) => "axis",
            Value::Neuron(..) => "neuron",
            Value::Setting(_) => "setting",
            Value::Signal(_) => "signal",
            Value::Shared(_) => "shared instance",
            Value::Poison => "error",
        }
    }

    /// The value as a float, if it is a number.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Int(i) => Some(*i as f64),
            Value::Float(f) => Some(*f),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Int(i) => write!(f, "{i}"),
            Value::Float(x) => write!(f, "{x:?}"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Str(s) => write!(f, "{s:?}"),
            Value::Axis(a) => write!(f, "{a}"),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(Value::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Value::Setting(s) => {
                let plain = s.plain.iter().map(Value::to_string);
                let named = s.named.iter().map(|(n, v)| format!("{n} = {v}"));
                write!(f, "{}({})", s.name, plain.chain(named).collect::<Vec<_>>().join(", "))
            }
            other => write!(f, "{}", other.type_name()),
        }
    }
}

fn bad_type(span: Span, message: String) -> Diagnostic {
    Diagnostic::error("build::type", span, message, "here")
}

fn overflow(span: Span) -> Diagnostic {
    Diagnostic::error("build::arithmetic", span, "the result is out of range", "this overflows")
}

/// A prefix operator on a constant.
///
/// # Errors
/// `build::type` if the operand does not fit, `build::arithmetic` on overflow.
pub fn unary(op: UnaryOp, value: Value, span: Span) -> Result<Value, Diagnostic> {
    match (op, value) {
        (_, Value::Poison) => Ok(Value::Poison),
        (UnaryOp::Neg, Value::Int(i)) => i.checked_neg().map(Value::Int).ok_or_else(|| overflow(span)),
        (UnaryOp::Neg, Value::Float(f)) => Ok(Value::Float(-f)),
        (UnaryOp::Not, Value::Bool(b)) => Ok(Value::Bool(!b)),
        (UnaryOp::Neg, v) => Err(bad_type(span, format!("`-` needs a number, not a value of type {}", v.type_name()))),
        (UnaryOp::Not, v) => Err(bad_type(span, format!("`!` needs a bool, not a value of type {}", v.type_name()))),
    }
}

/// The longest list.
const MAX_LIST: usize = 10_000;

/// An infix operator on constants. Ints divide as Euclid did: the remainder is never negative.
///
/// # Errors
/// `build::type` if the operands do not fit, `build::arithmetic` on overflow and division by zero.
#[allow(clippy::needless_pass_by_value, reason = "operands are used up, like those of operators")]
pub fn binary(op: BinaryOp, a: Value, b: Value, span: Span) -> Result<Value, Diagnostic> {
    use BinaryOp::{Add, And, Div, Eq, Ge, Gt, Le, Lt, Mul, Ne, Or, Rem, Shl, Shr, Sub};
    if a == Value::Poison || b == Value::Poison {
        return Ok(Value::Poison);
    }
    let mismatch = || bad_type(span, format!("`{}` does not take values of types {} and {}", op.symbol(), a.type_name(), b.type_name()));
    let by_zero = || Diagnostic::error("build::arithmetic", span, "division by zero", "the divisor is zero");
    Ok(match (op, &a, &b) {
        (Eq, Value::Int(x), Value::Int(y)) => Value::Bool(x == y),
        (Ne, Value::Int(x), Value::Int(y)) => Value::Bool(x != y),
        (Le, Value::Int(x), Value::Int(y)) => Value::Bool(x <= y),
        (Ge, Value::Int(x), Value::Int(y)) => Value::Bool(x >= y),
        (Lt, Value::Int(x), Value::Int(y)) => Value::Bool(x < y),
        (Gt, Value::Int(x), Value::Int(y)) => Value::Bool(x > y),
        (Eq, ..) => Value::Bool(a == b || (a.as_float().is_some() && a.as_float() == b.as_float())),
        (Ne, ..) => Value::Bool(!(a == b || (a.as_float().is_some() && a.as_float() == b.as_float()))),
        (And, Value::Bool(x), Value::Bool(y)) => Value::Bool(*x && *y),
        (Or, Value::Bool(x), Value::Bool(y)) => Value::Bool(*x || *y),
        (Add, Value::List(x), Value::List(y)) if x.len() + y.len() > MAX_LIST => {
            return Err(Diagnostic::error("build::value", span, format!("a list of more than {MAX_LIST} values"), "grows too long"));
        }
        (Add, Value::List(x), Value::List(y)) => Value::List(x.iter().chain(y).cloned().collect()),
        (Shl | Shr, Value::Int(x), Value::Int(y)) => {
            let by = u32::try_from(*y).map_err(|_| overflow(span))?;
            let factor = 1i64.checked_shl(by).filter(|f| *f > 0).ok_or_else(|| overflow(span))?;
            Value::Int(if op == Shl { x.checked_mul(factor).ok_or_else(|| overflow(span))? } else { x.div_euclid(factor) })
        }
        (Div | Rem, Value::Int(_), Value::Int(0)) => return Err(by_zero()),
        (Add | Sub | Mul | Div | Rem, Value::Int(x), Value::Int(y)) => {
            let result = match op {
                Add => x.checked_add(*y),
                Sub => x.checked_sub(*y),
                Mul => x.checked_mul(*y),
                Div => x.checked_div_euclid(*y),
                _ => x.checked_rem_euclid(*y),
            };
            Value::Int(result.ok_or_else(|| overflow(span))?)
        }
        _ => {
            let (Some(x), Some(y)) = (a.as_float(), b.as_float()) else { return Err(mismatch()) };
            let result = match op {
                Add => x + y,
                Sub => x - y,
                Mul => x * y,
                Div if y == 0.0 => return Err(by_zero()),
                Div => x / y,
                Le => return Ok(Value::Bool(x <= y)),
                Ge => return Ok(Value::Bool(x >= y)),
                Lt => return Ok(Value::Bool(x < y)),
                Gt => return Ok(Value::Bool(x > y)),
                _ => return Err(mismatch()),
            };
            if !result.is_finite() {
                return Err(overflow(span));
            }
            Value::Float(result)
        }
    })
}

/// The functions on constants.
pub const FUNCTIONS: [&str; 9] = ["exp", "log", "sqrt", "min", "max", "len", "sum", "float", "int"];

/// A function of [`FUNCTIONS`] applied to constants.
///
/// # Errors
/// `build::type` if the arguments do not fit, `build::arithmetic` if the result is not a number.
pub fn function(name: &str, args: &[Value], span: Span) -> Result<Value, Diagnostic> {
    if args.contains(&Value::Poison) {
        return Ok(Value::Poison);
    }
    let wrong = || {
        let types: Vec<_> = args.iter().map(Value::type_name).collect();
        bad_type(span, format!("`{name}` does not take ({})", types.join(", ")))
    };
    let items = match args {
        [Value::List(items)] => items.as_slice(),
        _ => args,
    };
    let real = |f: fn(f64) -> f64| match args {
        [v] => {
            let x = v.as_float().map(f).ok_or_else(wrong)?;
            if x.is_finite() { Ok(Value::Float(x)) } else { Err(overflow(span)) }
        }
        _ => Err(wrong()),
    };
    match name {
        "exp" => real(f64::exp),
        "log" => real(f64::ln),
        "sqrt" => real(f64::sqrt),
        "float" => real(|x| x),
        "int" => match args {
            [v] => Ok(Value::Int(v.as_float().ok_or_else(wrong)?.floor() as i64)),
            _ => Err(wrong()),
        },
        "len" => match args {
            [Value::List(items)] => Ok(Value::Int(i64::try_from(items.len()).unwrap_or(i64::MAX))),
            _ => Err(wrong()),
        },
        "sum" => items.iter().cloned().try_fold(Value::Int(0), |a, b| binary(BinaryOp::Add, a, b, span)),
        "min" | "max" => {
            let mut best: Option<Value> = None;
            for v in items {
                let x = v.as_float().ok_or_else(wrong)?;
                let better = best.as_ref().and_then(Value::as_float).is_none_or(|b| if name == "min" { x < b } else { x > b });
                if better {
                    best = Some(v.clone());
                }
            }
            best.ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

/// The name among `known` that is nearest to `name`, if one is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&name.to_lowercase(), &k.to_lowercase()), strsim::damerau_levenshtein(name, k), k))
        .filter(|(d, _, k)| *d <= 1 + k.len().min(name.len()) / 3)
        .min()
        .map(|(.., k)| k)
}
