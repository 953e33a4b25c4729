//! Tensor primitives: what operators are made of once differentiated, and what fusion groups into kernels.
//!
//! There are few: element-wise maps, scans over T, reductions, two kinds of contraction (products over named labels,
//! and convolutions), windows, and views. A tensor's dims are `[B][T][axes]` in physical order, so the number of samples is a
//! run-time parameter and every stride is known at compile time.

use crate::types::{Axis, ParamId, STEPS, Signal, index};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

index!(
    /// A tensor of a [`Flow`].
    FlowId, "t"
);

/// The dims of a tensor: `[B][T][axes]`, each of B and T there or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dims {
    /// Varies over samples.
    pub batch: bool,
    /// Varies over time steps.
    pub time: bool,
    /// The other axes in physical order.
    pub axes: Vec<Axis>,
}

impl Dims {
    /// The physical dims of a signal: rows, columns and channels last, so that products over channels need no
    /// transposition and convolutions find pictures.
    pub fn of(signal: &Signal) -> Dims {
        let mut axes = signal.axes.clone();
        axes.sort_by_key(|a| ["H", "W", "C"].iter().position(|n| *n == a.name).map_or(0, |i| i + 1));
        Dims { batch: true, time: signal.varies, axes }
    }

    /// Dims of a parameter: its axes in the order of its data, time steps, if it varies over them, first.
    pub fn param(axes: &[Axis]) -> Dims {
        let time = axes.first().is_some_and(|a| a.name == STEPS);
        Dims { batch: false, time, axes: axes[usize::from(time)..].to_vec() }
    }

    /// The axis of this name.
    pub fn axis(&self, name: &str) -> Option<&Axis> {
        self.axes.iter().find(|a| a.name == name)
    }

    /// A label for every dim: `B`, `T`, and the axes' names.
    pub fn labels(&self) -> Vec<String> {
        let outer = [(self.batch, "B"), (self.time, "T")].into_iter().filter(|(there, _)| *there).map(|(_, name)| name.to_owned());
        outer.chain(self.axes.iter().map(|a| a.name.clone())).collect()
    }

    /// Values per sample and time step.
    pub fn elements(&self) -> usize {
        self.axes.iter().map(|a| a.size).product()
    }

    /// Whether a tensor of these dims can be read at every place of `wider`.
    pub fn broadcasts_to(&self, wider: &Dims) -> bool {
        (!self.batch || wider.batch) && (!self.time || wider.time) && self.axes.iter().all(|a| wider.axis(&a.name) == Some(a))
    }

    /// The smallest dims both broadcast to, axes in the order of `self` first.
    #[must_use]
    pub fn join(&self, other: &Dims) -> Dims {
        let (wide, narrow) = if other.axes.len() > self.axes.len() { (other, self) } else { (self, other) };
        let mut axes = wide.axes.clone();
        axes.extend(narrow.axes.iter().filter(|a| wide.axis(&a.name).is_none()).cloned());
        Dims { batch: self.batch || other.batch, time: self.time || other.time, axes }
    }
}

/// Functions of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Un {
    /// -x
    Neg,
    /// |x|
    Abs,
    /// √x
    Sqrt,
    /// e^x
    Exp,
    /// ln x
    Ln,
    /// x · 2^-k by its exponent; below the normal range the result is zero.
    Shift(i8),
    /// x · 2^(k t) by additions, where t is the time step, from 0 at the beginning of a sequence; of a map of one tensor.
    Doubled(u8),
}

/// Functions of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Bin {
    /// x + y
    Add,
    /// x - y
    Sub,
    /// x · y
    Mul,
    /// x / y
    Div,
    /// The smaller.
    Min,
    /// The larger.
    Max,
    /// Bits of both.
    BitAnd,
    /// Bits of one.
    BitXor,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cmp {
    /// x ≥ y
    Ge,
    /// x > y
    Gt,
    /// x = y
    Eq,
}

/// What a map or scan computes for one element.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Scalar {
    /// The i-th input.
    Arg(usize),
    /// The i-th state of a scan.
    State(usize),
    /// A constant.
    Const(f64),
    /// The number of samples of this call.
    Batch,
    /// The number of time steps of this call.
    Steps,
    /// The i-th number that the caller sets for each step, such as a learning rate.
    Hyper(usize),
    /// Of a map: a number from 0 to below 1, another for every element and call, the same wherever the site is.
    Random(u32),
    /// A function of one.
    Un(Un, Box<Scalar>),
    /// A function of two.
    Bin(Bin, Box<Scalar>, Box<Scalar>),
    /// `if a cmp b { x } else { y }`
    Select(Cmp, Box<[Scalar; 4]>),
}

impl Scalar {
    /// `if self >= other { 1 } else { 0 }`, or with another comparison.
    pub fn step(self, cmp: Cmp, other: Scalar) -> Scalar {
        self.select(cmp, other, Scalar::Const(1.0), Scalar::Const(0.0))
    }

    /// `if self cmp other { yes } else { no }`
    pub fn select(self, cmp: Cmp, other: Scalar, yes: Scalar, no: Scalar) -> Scalar {
        Scalar::Select(cmp, Box::new([self, other, yes, no]))
    }

    /// A function of one.
    pub fn un(self, f: Un) -> Scalar {
        Scalar::Un(f, Box::new(self))
    }

    /// self · factor; by a change of exponent and sign where the factor is a power of two.
    pub fn scaled(self, factor: f64) -> Scalar {
        let Some(exponent) = power_of_two(factor) else { return self * factor };
        let x = if factor < 0.0 { -self } else { self };
        if exponent == 0 { x } else { x.un(Un::Shift(-exponent)) }
    }

    /// A function of two.
    pub fn bin(self, f: Bin, other: Scalar) -> Scalar {
        Scalar::Bin(f, Box::new(self), Box::new(other))
    }
}

/// `k` if the factor is ±2^k with k from -30 to 30.
pub fn power_of_two(factor: f64) -> Option<i8> {
    (-30..=30).find(|k| factor.abs() == 2f64.powi(i32::from(*k)))
}

/// `k` if the factor is 2^-k with k from 1 to 30.
pub fn shift_of(factor: f64) -> Option<i8> {
    power_of_two(factor).map(|k| -k).filter(|k| *k > 0 && factor > 0.0)
}

macro_rules! arithmetic {
    ($($trait:ident $method:ident $bin:ident),*) => {$(
        impl std::ops::$trait for Scalar {
            type Output = Scalar;
            fn $method(self, other: Scalar) -> Scalar {
                self.bin(Bin::$bin, other)
            }
        }
        impl std::ops::$trait<f64> for Scalar {
            type Output = Scalar;
            fn $method(self, other: f64) -> Scalar {
                self.bin(Bin::$bin, Scalar::Const(other))
            }
        }
    )*};
}
arithmetic!(Add add Add, Sub sub Sub, Mul mul Mul, Div div Div);

impl std::ops::Neg for Scalar {
    type Output = Scalar;
    fn neg(self) -> Scalar {
        self.un(Un::Neg)
    }
}

/// The window of a convolution or pool over `H` and `W`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Window {
    /// Extent.
    pub kernel: [usize; 2],
    /// Step.
    pub stride: [usize; 2],
    /// Zeros before and after, the same for both axes.
    pub pad: [usize; 2],
}

impl Window {
    /// Every place alone.
    pub const POINT: Window = Window { kernel: [1, 1], stride: [1, 1], pad: [0, 0] };

    /// The extent of the result along axis `i` (0: H, 1: W) for this extent of the operand.
    pub fn out(&self, i: usize, size: usize) -> Option<usize> {
        let padded = size.checked_add(self.pad[0])?.checked_add(self.pad[1])?;
        Some(padded.checked_sub(self.kernel[i])? / self.stride[i] + 1)
    }

    /// How many of the window's places along axis `i` lie within an operand of this extent, at place `p` of the result.
    pub fn reached(&self, i: usize, p: usize, size: usize) -> usize {
        let first = p * self.stride[i];
        let end = (first + self.kernel[i]).min(self.pad[0] + size);
        end.saturating_sub(first.max(self.pad[0]))
    }

    /// Maps every place to itself.
    pub fn pointwise(&self) -> bool {
        *self == Window::POINT
    }

    /// The one window that looks through both, this one first, for an operand of these extents; none if zeros around what
    /// this one gives are not what it would give around the operand.
    ///
    /// y\[p\] = Σ_v a\[v\] x\[s p + v\] and z\[q\] = Σ_u b\[u\] y\[r q + u\] are z\[q\] = Σ_w (Σ_{s u + v = w} b\[u\] a\[v\]) x\[r s q + w\].
    #[must_use]
    pub fn then(&self, next: &Window, size: [usize; 2], shifted: bool) -> Option<Window> {
        let tiles = self.kernel == self.stride && self.pad == [0, 0] && [0, 1].iter().all(|i| size[*i].is_multiple_of(self.kernel[*i]));
        if next.pad != [0, 0] && (shifted || !tiles || self.stride[0] != self.stride[1]) {
            return None;
        }
        let along = |i: usize| self.kernel[i] + (next.kernel[i] - 1) * self.stride[i];
        Some(Window {
            kernel: [along(0), along(1)],
            stride: [self.stride[0] * next.stride[0], self.stride[1] * next.stride[1]],
            pad: [self.pad[0] + next.pad[0] * self.stride[0], self.pad[1] + next.pad[1] * self.stride[0]],
        })
    }
}

/// A tensor that something else provides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// A parameter or running statistic.
    Param(ParamId),
    /// A tensor the optimizer keeps for a parameter.
    Moment(ParamId, u8),
    /// The input.
    Input,
    /// The target distribution over classes `[B][K]`.
    Target,
}

/// The three products a convolution is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConvPart {
    /// (operand, weight) to result.
    Result,
    /// (gradient of the result, weight) to gradient of the operand.
    Operand,
    /// (operand, gradient of the result) to gradient of the weight.
    Weight,
}

/// How a tensor is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Def {
    /// Given.
    Source(Source),
    /// Element by element; inputs broadcast by axis name.
    Map {
        /// Operands.
        inputs: Vec<FlowId>,
        /// The function.
        body: Scalar,
    },
    /// A recurrence over T for every element; the result is the first output.
    Scan {
        /// Operands.
        inputs: Vec<FlowId>,
        /// States before the first step.
        init: Vec<f64>,
        /// States after a step; may read inputs and states.
        next: Vec<Scalar>,
        /// What a step gives.
        outputs: Vec<Scalar>,
        /// Last step first.
        reverse: bool,
    },
    /// Summed (or the largest taken) over all dims the result does not have.
    Reduce {
        /// Operand.
        input: FlowId,
        /// Largest instead of sum.
        max: bool,
    },
    /// Products summed over the labels that the result lacks.
    Product {
        /// Left.
        a: FlowId,
        /// Right.
        b: FlowId,
        /// A label for every dim of a, `B` and `T` included.
        a_labels: Vec<String>,
        /// Of b.
        b_labels: Vec<String>,
        /// Of the result.
        out_labels: Vec<String>,
    },
    /// Numbers summed where there is a spike, over the labels that the result lacks: a product whose left operand is kept as bits.
    Masked {
        /// The spikes: tensors that would lie side by side along the label that only they and the result have.
        of: Vec<FlowId>,
        /// The numbers.
        by: FlowId,
        /// A label for every dim of the spikes, `B` and `T` included.
        of_labels: Vec<String>,
        /// Of the numbers.
        by_labels: Vec<String>,
        /// Of the result.
        out_labels: Vec<String>,
    },
    /// One product of a convolution over `H` and `W`; weights are `[out, in, kh, kw]`.
    Conv {
        /// Left.
        a: FlowId,
        /// Right.
        b: FlowId,
        /// Which product.
        part: ConvPart,
        /// Geometry.
        window: Window,
    },
    /// The largest or the sum over windows of `H` and `W`.
    Pool {
        /// Operand.
        input: FlowId,
        /// Largest instead of sum.
        max: bool,
        /// Geometry.
        window: Window,
    },
    /// The gradient of a pool: for the largest it goes to the first place that has it.
    PoolGrad {
        /// Operand of the pool.
        input: FlowId,
        /// Gradient of its result.
        grad: FlowId,
        /// Largest instead of sum.
        max: bool,
        /// Geometry.
        window: Window,
    },
    /// 0 if all numbers of all of these are finite, otherwise 1.
    Overflow {
        /// Operands.
        of: Vec<FlowId>,
    },
    /// Side by side along an axis.
    Concat {
        /// Parts.
        parts: Vec<FlowId>,
        /// Axis.
        axis: String,
    },
    /// Part of another tensor.
    Slice {
        /// The whole.
        of: FlowId,
        /// Axis.
        axis: String,
        /// First index.
        start: usize,
    },
    /// The same data with some axes, which lie nested in memory in this order, under others.
    Reshape {
        /// The data.
        of: FlowId,
        /// Its axes that go.
        from: Vec<String>,
        /// Those that come in their place, together as large.
        to: Vec<Axis>,
    },
    /// The same with its axes in the order of the result's.
    Transpose {
        /// Spikes.
        of: FlowId,
    },
}

impl Def {
    /// The tensors it reads.
    pub fn inputs(&self) -> Vec<FlowId> {
        match self {
            Def::Source(_) => vec![],
            Def::Map { inputs, .. } | Def::Scan { inputs, .. } => inputs.clone(),
            Def::Slice { of, .. } | Def::Reshape { of, .. } | Def::Transpose { of } => vec![*of],
            Def::Reduce { input, .. } | Def::Pool { input, .. } => vec![*input],
            Def::Product { a, b, .. } | Def::Conv { a, b, .. } => vec![*a, *b],
            Def::PoolGrad { input, grad, .. } => vec![*input, *grad],
            Def::Concat { parts: all, .. } | Def::Overflow { of: all } => all.clone(),
            Def::Masked { of, by, .. } => of.iter().chain([by]).copied().collect(),
        }
    }
}

/// A tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// How it is computed.
    pub def: Def,
    /// Its dims.
    pub dims: Dims,
    /// The path of the graph node it comes from, for names and errors.
    pub label: String,
    /// Holds spikes: zero or one.
    pub spikes: bool,
    /// For a contraction: what its operand holds, and so how it may be computed.
    pub operand: Operand,
    /// Of a folded network: where it belongs.
    pub region: Region,
}

/// Where in the network a tensor belongs, and so whether computing it may multiply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Region {
    /// Outside the encoder: nothing is multiplied.
    #[default]
    Free,
    /// The declared encoder.
    Encoder,
    /// A residue: a multiplication that no fold removes.
    Residue,
    /// Of a network as written, for training: no claim is made.
    Training,
}

/// What the operand of a contraction holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operand {
    /// Real values: multiplied.
    Real,
    /// Spikes: the other operand is added where there is one.
    Spikes,
    /// Counts of at most this many spikes: added as often.
    Count(u64),
}

/// Where a finished tensor goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sink {
    /// The logits `[B][K]`.
    Logits,
    /// The mean loss.
    Loss,
    /// Whether some gradient was not finite, 0 or 1.
    Overflow,
    /// The gradient of a parameter.
    Gradient(ParamId),
    /// The new value of a parameter, moment or running statistic, in place.
    Update(Source),
    /// The spikes of the neuron with this path.
    Spikes(String),
    /// What the node with this path reads as this operand.
    Operand(String, usize),
}

/// Tensors in an order in which they can be computed, and where results go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// The tensors.
    pub tensors: Vec<Tensor>,
    /// Results.
    pub sinks: Vec<(Sink, FlowId)>,
    /// The input's axes in the caller's order.
    pub input: Vec<String>,
    /// The label of tensors to come.
    #[serde(skip)]
    pub label: String,
    /// The sources among the tensors.
    #[serde(skip)]
    pub(crate) sources: HashMap<Source, FlowId>,
}

impl Flow {
    /// The tensor with this id.
    pub fn get(&self, id: FlowId) -> &Tensor {
        &self.tensors[id.index()]
    }

    /// The dims of a tensor.
    pub fn dims(&self, id: FlowId) -> &Dims {
        &self.get(id).dims
    }

    /// Adds a tensor.
    pub fn push(&mut self, def: Def, dims: Dims) -> FlowId {
        self.tensors.push(Tensor { def, dims, label: self.label.clone(), spikes: false, operand: Operand::Real, region: Region::Free });
        FlowId::new(self.tensors.len() - 1)
    }

    /// A given tensor, added once.
    pub fn source(&mut self, source: Source, dims: Dims) -> FlowId {
        if let Some(id) = self.sources.get(&source) {
            return *id;
        }
        let id = self.push(Def::Source(source), dims);
        self.sources.insert(source, id);
        id
    }

    /// A map whose dims are the join of its inputs'.
    pub fn map(&mut self, inputs: &[FlowId], body: Scalar) -> FlowId {
        let mut dims = inputs.first().map_or(Dims::param(&[]), |i| self.dims(*i).clone());
        for input in inputs.iter().skip(1) {
            dims = dims.join(self.dims(*input));
        }
        self.map_to(inputs, body, dims)
    }

    /// A map to given dims.
    pub fn map_to(&mut self, inputs: &[FlowId], body: Scalar, dims: Dims) -> FlowId {
        self.push(Def::Map { inputs: inputs.to_vec(), body }, dims)
    }

    /// The sum over all dims that `dims` lacks; the tensor itself if there is none.
    pub fn sum_to(&mut self, input: FlowId, dims: &Dims) -> FlowId {
        let own = self.dims(input);
        if own == dims {
            input
        } else if own.broadcasts_to(dims) && dims.broadcasts_to(own) {
            // The same axes in another order.
            self.map_to(&[input], Scalar::Arg(0), dims.clone())
        } else {
            self.push(Def::Reduce { input, max: false }, dims.clone())
        }
    }

    /// The same data with the axes `from` as `to`, at the place of the first of them.
    pub fn reshape(&mut self, of: FlowId, from: &[String], to: Vec<Axis>) -> FlowId {
        let mut dims = self.dims(of).clone();
        let at = dims.axes.iter().position(|a| from.contains(&a.name)).unwrap_or(0);
        dims.axes.retain(|a| !from.contains(&a.name));
        dims.axes.splice(at..at, to.iter().cloned());
        let spikes = self.get(of).spikes;
        let id = self.push(Def::Reshape { of, from: from.to_vec(), to }, dims);
        self.tensors[id.index()].spikes = spikes;
        id
    }

    /// The sum of two gradients.
    pub fn add(&mut self, a: FlowId, b: FlowId) -> FlowId {
        self.map(&[a, b], Scalar::Arg(0) + Scalar::Arg(1))
    }
}
