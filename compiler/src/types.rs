//! What a signal is: a kind and named axes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The axis of constants that differ between time steps: a parameter has it first, a signal never.
pub const STEPS: &str = "step";

/// The kind of a signal, strongest first: a stronger kind may stand where a weaker one is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// 0 or 1, times one constant amplitude.
    Spike,
    /// A sum of at most [`Signal::bound`] spikes.
    Count,
    /// A real-valued sum of weights: what a neuron integrates.
    Current,
    /// Real-valued, from outside or from the encoder.
    Analog,
}

impl Kind {
    /// The kind with this name in the language.
    pub fn named(name: &str) -> Option<Kind> {
        Some(match name {
            "spike" => Kind::Spike,
            "count" => Kind::Count,
            "current" => Kind::Current,
            "analog" => Kind::Analog,
            _ => return None,
        })
    }
}

impl Kind {
    /// `` a `spike` ``, for messages.
    pub fn with_article(self) -> String {
        format!("{} `{self}`", if self == Kind::Analog { "an" } else { "a" })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Spike => "spike",
            Kind::Count => "count",
            Kind::Current => "current",
            Kind::Analog => "analog",
        })
    }
}

/// A named dimension.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Axis {
    /// Its name.
    pub name: String,
    /// Its extent, at least 1.
    pub size: usize,
}

impl Axis {
    /// An axis.
    pub fn new(name: impl Into<String>, size: usize) -> Self {
        Axis { name: name.into(), size }
    }
}

/// What is known of a value at compile time. Time and batch are always there and not listed among the axes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Its kind.
    pub kind: Kind,
    /// Its axes in logical order.
    pub axes: Vec<Axis>,
    /// Whether it differs between time steps; what hangs only on a static input does not.
    pub varies: bool,
    /// For a count: the largest number of spikes it can be a sum of. 1 for a spike, 0 for real values.
    pub bound: u64,
    /// A spike, or every spike counted, is worth a constant that is not 1: a neuron's amplitude.
    pub scaled: bool,
}

impl Signal {
    /// A spike train with these axes.
    pub fn spike(axes: Vec<Axis>) -> Self {
        Signal { kind: Kind::Spike, axes, varies: true, bound: 1, scaled: false }
    }

    /// A real-valued signal of this kind.
    pub fn real(kind: Kind, axes: Vec<Axis>, varies: bool) -> Self {
        Signal { kind, axes, varies, bound: 0, scaled: false }
    }

    /// The same signal with other axes.
    #[must_use]
    pub fn with_axes(&self, axes: Vec<Axis>) -> Self {
        Signal { axes, ..self.clone() }
    }

    /// What it is beside other operands: only spikes of one amplitude can be counted or select together.
    #[must_use]
    pub fn beside_others(&self) -> Self {
        if self.scaled { Signal::real(Kind::Current, self.axes.clone(), self.varies) } else { self.clone() }
    }

    /// The position of the axis of this name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.axes.iter().position(|a| a.name == name)
    }

    /// The extent of the axis of this name.
    pub fn size(&self, name: &str) -> Option<usize> {
        self.position(name).and_then(|i| self.axes.get(i)).map(|a| a.size)
    }

    /// Values per sample and time step.
    pub fn elements(&self) -> usize {
        self.axes.iter().map(|a| a.size).product()
    }

    /// Whether a value from outside may stand in this signal: 0 or 1 for a spike, any finite number elsewhere.
    pub fn admits(&self, x: f32) -> bool {
        if self.kind == Kind::Spike { x == 0.0 || x == 1.0 } else { x.is_finite() }
    }

    /// `C = 3, H = 8`, for messages.
    pub fn axes_text(&self) -> String {
        self.axes.iter().map(|a| format!("{} = {}", a.name, a.size)).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = if self.varies { "T, " } else { "" };
        write!(f, "{}{}", if self.scaled { "scaled " } else { "" }, self.kind)?;
        if self.kind == Kind::Count {
            write!(f, "<={}", self.bound)?;
        }
        write!(f, "[{time}{}]", self.axes_text())
    }
}

macro_rules! index {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl $name {
            /// The id of the `i`-th element.
            pub fn new(i: usize) -> Self {
                $name(u32::try_from(i).unwrap_or(u32::MAX))
            }

            /// As an index.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}
pub(crate) use index;

index!(
    /// A node of a [`crate::graph::Graph`].
    NodeId, "%"
);
index!(
    /// A parameter or buffer of a [`crate::graph::Graph`].
    ParamId, "$"
);
