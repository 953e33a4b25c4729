//! The operators: one file each, one word in the list below.
//!
//! A file says everything the compiler knows of its operator: how a call is read, how shapes and kinds follow, in what
//! it is linear, what it multiplies, its reference evaluation and gradient (plain loops, the oracle), and how it is
//! written as tensor primitives, forward and backward. Other files name an operator only where they make one (ARCHITECTURE.md).

mod args;
pub mod decay;
pub mod flow_cx;
pub mod neuron;
pub mod surrogate;

pub use args::{Arguments, Problem};
pub use flow_cx::{Backward, Forward};

use crate::flow::{FlowId, Window};
use crate::fold::Expr;
use crate::types::{Axis, ParamId, Signal};
use ndarray::ArrayD;
use num_traits::{Float, FromPrimitive};
use serde::{Deserialize, Serialize};
use std::iter::Sum;

/// The numbers a reference evaluation runs in: `f32` or `f64`.
pub trait Real:
    Float + FromPrimitive + Sum + Send + Sync + std::fmt::Debug + ndarray::ScalarOperand + std::ops::AddAssign + 'static
{
}
impl Real for f32 {}
impl Real for f64 {}

/// A constant as a [`Real`].
pub fn real<F: Real>(x: f64) -> F {
    F::from_f64(x).unwrap_or_else(F::nan)
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Init {
    /// All the same.
    Constant(f64),
    /// Uniform on ±bound.
    Uniform(f64),
    /// Normal with mean 0 and this deviation.
    Normal(f64),
    /// Normal with mean 0 and this deviation, redrawn outside two deviations.
    TruncatedNormal(f64),
}

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Trained.
    Trained,
    /// A running statistic: written by training steps, read by inference.
    Running,
    /// The number of batches that went into the running statistics.
    Batches,
}

/// A parameter that an operator asks for.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// Last segment of its path.
    pub name: &'static str,
    /// Its axes, in the order of its data.
    pub axes: Vec<Axis>,
    /// How it starts.
    pub init: Init,
    /// What it is for.
    pub role: Role,
    /// The least value it may have.
    pub min: Option<f64>,
}

/// In what an operator is linear; the folds are written against this and name no operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Linearity {
    /// Not linear.
    None,
    /// A weighted sum over `input_axis` into `output_axis`, the same for all other places. The first parameter is the
    /// weight `[out, in, …]`, the second, if any, the bias `[out]`.
    Map {
        /// The axis summed over.
        input_axis: String,
        /// The axis that appears.
        output_axis: String,
        /// Over `H` and `W`. A map of each place to itself ([`Window::POINT`]) commutes with sums over all other axes; where
        /// zeros are put around the operand, a constant added before is not a constant after.
        window: Window,
    },
    /// Multiplies and shifts element by element with constants.
    Affine,
    /// A sum over these axes, and a constant factor if [`Multiplication::Factor`] says so.
    Sum(Vec<String>),
    /// A sum over windows of `H` and `W`; none if their extents differ from place to place.
    WindowSum(Option<Window>),
    /// Values moved, not changed, along these axes; all others stay as they are.
    View(Vec<String>),
    /// The operand as it is, outside training.
    Identity,
    /// A sum of its inputs.
    Add,
    /// Linear in each of its inputs: a product.
    Each,
}

/// What an operator multiplies when the network runs as written. What no rule covers is a residue.
#[derive(Clone, Debug, PartialEq)]
pub enum Multiplication {
    /// The input with weights.
    Weights,
    /// The input with a constant that varies over these axes.
    Factor {
        /// Axes.
        axes: Vec<String>,
        /// The constant, if it is known without the weights; otherwise [`Operator::affine`] says it.
        value: Option<f64>,
    },
    /// Two signals, element by element.
    Signals,
    /// Two signals, summed over axes.
    Dot,
    /// A state with this factor at every time step.
    Leak(f64),
    /// A constant factor on what a neuron integrates; it is folded with the neuron's own constants.
    Drive(f64),
    /// A function that is computed by multiplying.
    Transcendental(&'static str),
}

/// How an operator picks among its operand's values without multiplying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// It does not.
    None,
    /// The largest of several: OR on spikes, comparisons on currents.
    Maximum,
    /// Fires where a membrane reaches its threshold.
    Neuron,
}

/// What a reference evaluation sees. Arrays are `[T or 1, B, axes…]` in logical order.
#[derive(Debug)]
pub struct Eval<'a, F> {
    /// Operands.
    pub inputs: Vec<&'a ArrayD<F>>,
    /// Their signals.
    pub signals: Vec<&'a Signal>,
    /// The result's signal.
    pub out: &'a Signal,
    /// Parameters, in the order of [`Operator::params`].
    pub params: Vec<&'a ArrayD<F>>,
    /// Batch statistics instead of running ones.
    pub train: bool,
    /// Time steps; counts even where an array has extent 1 because nothing varies.
    pub time: usize,
}

/// The result of a reference evaluation.
#[derive(Debug)]
pub struct Evaluated<F> {
    /// The value.
    pub value: ArrayD<F>,
    /// New values of running statistics: (index among the parameters, value).
    pub running: Vec<(usize, ArrayD<F>)>,
}

impl<F> From<ArrayD<F>> for Evaluated<F> {
    fn from(value: ArrayD<F>) -> Self {
        Evaluated { value, running: Vec::new() }
    }
}

/// Gradients of a reference evaluation. An input's gradient may still vary over T or broadcast axes where the input
/// does not; the caller sums.
#[derive(Debug)]
pub struct Grads<F> {
    /// With respect to the operands.
    pub inputs: Vec<ArrayD<F>>,
    /// With respect to the parameters; `None` for those that are not trained.
    pub params: Vec<Option<ArrayD<F>>>,
}

/// One operator.
pub trait Operator: Sized + Clone {
    /// Reads a call.
    ///
    /// # Errors
    /// What is wrong with the call's arguments for these operands.
    fn read(args: &mut Arguments, inputs: &[Signal]) -> Result<Self, Problem>;

    /// How many operands it takes.
    fn arity() -> std::ops::RangeInclusive<usize> {
        1..=1
    }

    /// The signal of the result.
    ///
    /// # Errors
    /// What does not fit.
    fn infer(&self, inputs: &[Signal], time: usize) -> Result<Signal, Problem>;

    /// The parameters it asks for.
    fn params(&self, _inputs: &[Signal]) -> Vec<ParamSpec> {
        Vec::new()
    }

    /// In what it is linear.
    fn linearity(&self) -> Linearity {
        Linearity::None
    }

    /// What it multiplies when run as written.
    fn multiplies(&self, inputs: &[Signal]) -> Vec<Multiplication>;

    /// For [`Multiplication::Factor`] without a known value: the factor and the shift, if any, y = factor · x + shift, in
    /// terms of its parameters.
    fn affine(&self, _params: &[ParamId]) -> Option<(Expr, Option<Expr>)> {
        None
    }

    /// The same without the constants that it adds.
    #[must_use]
    fn unshifted(&self) -> Self {
        self.clone()
    }

    /// The same map through another window, for [`Linearity::Map`]; none if it has no place for one.
    fn widened(&self, _window: Window) -> Option<Self> {
        None
    }

    /// How it selects.
    fn selection(&self) -> Selection {
        Selection::None
    }

    /// Multiplications (or additions, on spikes) per sample and time step.
    fn work(&self, _inputs: &[Signal], _out: &Signal) -> u64 {
        0
    }

    /// How many of those meet zeros that are put around the operand: no spike is ever there.
    fn around(&self, _inputs: &[Signal], _out: &Signal) -> u64 {
        0
    }

    /// Comparisons per sample and time step: of a membrane with its threshold, of values with the largest so far.
    fn comparisons(&self, _inputs: &[Signal], _out: &Signal) -> u64 {
        0
    }

    /// How often its operand is doubled for each time step before, in place of a leak.
    fn doublings(&self) -> u8 {
        0
    }

    /// Whether it can run one time step at a time.
    fn streams(&self) -> bool {
        true
    }

    /// Weight of a batch's statistics in the running ones, if it keeps such.
    fn momentum(&self) -> Option<f64> {
        None
    }

    /// Reference evaluation.
    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F>;

    /// Reference gradient: `grad` is with respect to `value`, the result of [`Operator::eval`].
    fn vjp<F: Real>(&self, e: &Eval<'_, F>, value: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F>;

    /// The operator as tensor primitives.
    fn forward(&self, cx: &mut Forward<'_>) -> FlowId;

    /// Its gradient as tensor primitives.
    fn backward(&self, cx: &mut Backward<'_>);
}

macro_rules! operators {
    ($($module:ident :: $name:ident = $word:literal),* $(,)?) => {
        $(pub mod $module;)*

        /// Any operator.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub enum Op {
            $(
                #[doc = concat!("`", $word, "`")]
                $name($module::$name),
            )*
        }

        const WORDS: &[&str] = &[$($word),*];

        /// How many operands the operator of this name takes, if there is one.
        pub fn arity(word: &str) -> Option<std::ops::RangeInclusive<usize>> {
            match word {
                $($word => Some($module::$name::arity()),)*
                _ => None,
            }
        }

        /// Reads a call of the operator `word`.
        ///
        /// # Errors
        /// What is wrong with the call.
        pub fn read(word: &str, args: &mut Arguments, inputs: &[Signal]) -> Result<Op, Problem> {
            match word {
                $($word => $module::$name::read(args, inputs).map(Op::$name),)*
                _ => Err(Problem::new("resolve::unknown_name", format!("there is no operator `{word}`"))),
            }
        }

        impl Op {
            /// Its word in the language.
            pub fn word(&self) -> &'static str {
                match self { $(Op::$name(_) => $word,)* }
            }
            /// See [`Operator::infer`].
            ///
            /// # Errors
            /// What does not fit.
            pub fn infer(&self, inputs: &[Signal], time: usize) -> Result<Signal, Problem> {
                match self { $(Op::$name(o) => o.infer(inputs, time),)* }
            }
            /// See [`Operator::params`].
            pub fn params(&self, inputs: &[Signal]) -> Vec<ParamSpec> {
                match self { $(Op::$name(o) => o.params(inputs),)* }
            }
            /// See [`Operator::linearity`].
            pub fn linearity(&self) -> Linearity {
                match self { $(Op::$name(o) => o.linearity(),)* }
            }
            /// See [`Operator::multiplies`].
            pub fn multiplies(&self, inputs: &[Signal]) -> Vec<Multiplication> {
                match self { $(Op::$name(o) => o.multiplies(inputs),)* }
            }
            /// See [`Operator::affine`].
            pub fn affine(&self, params: &[ParamId]) -> Option<(Expr, Option<Expr>)> {
                match self { $(Op::$name(o) => o.affine(params),)* }
            }
            /// See [`Operator::unshifted`].
            #[must_use]
            pub fn unshifted(&self) -> Op {
                match self { $(Op::$name(o) => Op::$name(o.unshifted()),)* }
            }
            /// See [`Operator::widened`].
            pub fn widened(&self, window: Window) -> Option<Op> {
                match self { $(Op::$name(o) => o.widened(window).map(Op::$name),)* }
            }
            /// See [`Operator::selection`].
            pub fn selection(&self) -> Selection {
                match self { $(Op::$name(o) => o.selection(),)* }
            }
            /// See [`Operator::work`].
            pub fn work(&self, inputs: &[Signal], out: &Signal) -> u64 {
                match self { $(Op::$name(o) => o.work(inputs, out),)* }
            }
            /// See [`Operator::around`].
            pub fn around(&self, inputs: &[Signal], out: &Signal) -> u64 {
                match self { $(Op::$name(o) => o.around(inputs, out),)* }
            }
            /// See [`Operator::comparisons`].
            pub fn comparisons(&self, inputs: &[Signal], out: &Signal) -> u64 {
                match self { $(Op::$name(o) => o.comparisons(inputs, out),)* }
            }
            /// See [`Operator::doublings`].
            pub fn doublings(&self) -> u8 {
                match self { $(Op::$name(o) => o.doublings(),)* }
            }
            /// See [`Operator::streams`].
            pub fn streams(&self) -> bool {
                match self { $(Op::$name(o) => o.streams(),)* }
            }
            /// See [`Operator::momentum`].
            pub fn momentum(&self) -> Option<f64> {
                match self { $(Op::$name(o) => o.momentum(),)* }
            }
            /// See [`Operator::eval`].
            pub fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
                match self { $(Op::$name(o) => o.eval(e),)* }
            }
            /// See [`Operator::vjp`].
            pub fn vjp<F: Real>(&self, e: &Eval<'_, F>, value: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
                match self { $(Op::$name(o) => o.vjp(e, value, grad),)* }
            }
            /// See [`Operator::forward`].
            pub fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
                match self { $(Op::$name(o) => o.forward(cx),)* }
            }
            /// See [`Operator::backward`].
            pub fn backward(&self, cx: &mut Backward<'_>) {
                match self { $(Op::$name(o) => o.backward(cx),)* }
            }
        }
    };
}

operators! {
    input::Input = "input",
    conv::Conv = "conv",
    linear::Linear = "linear",
    batchnorm::BatchNorm = "batchnorm",
    fire::Fire = "neuron",
    folded_fire::FoldedFire = "folded_neuron",
    select::Select = "select",
    ramp::Ramp = "ramp",
    add::Add = "add",
    scale::Scale = "scale",
    product::Product = "product",
    dot::Dot = "dot",
    concat::Concat = "concat",
    split::Split = "split",
    merge::Merge = "merge",
    mean::Mean = "mean",
    max::Max = "max",
    max_pool::MaxPool = "max_pool",
    avg_pool::AvgPool = "avg_pool",
    adaptive_avg_pool::AdaptiveAvgPool = "adaptive_avg_pool",
    dropout::Dropout = "dropout",
    relu::Relu = "relu",
    sigmoid::Sigmoid = "sigmoid",
}

/// The words of all operators that a `.snn` file can call, and of the settings that stand in calls.
pub fn names() -> impl Iterator<Item = &'static str> {
    const INTERNAL: [&str; 8] = ["input", "neuron", "folded_neuron", "select", "ramp", "add", "scale", "product"];
    WORDS.iter().copied().filter(|w| !INTERNAL.contains(w)).chain(neuron::NEURONS).chain(SETTINGS)
}

/// The words of settings that are no operators too.
pub const SETTINGS: [&str; 13] = [
    "hard",
    "soft",
    "trainable",
    "threshold",
    "rate",
    "triangle",
    "rectangle",
    "kaiming_normal",
    "normal",
    "truncated_normal",
    "uniform",
    "constant",
    "standard",
];
