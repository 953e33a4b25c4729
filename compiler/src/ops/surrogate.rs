//! Surrogate gradients: what stands for the derivative of a step, as a function of u = h - threshold.

use super::{Real, real};
use crate::flow::{Cmp, Scalar, Un};
use serde::{Deserialize, Serialize};

/// The derivative that backpropagation uses for a spike.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Surrogate {
    /// α σ(αu) (1 - σ(αu)) (SpikingJelly `surrogate.Sigmoid`).
    Sigmoid(f64),
    /// max(0, γ - |u|) / γ² (GAC-MSResNet on CIFAR).
    Triangle(f64),
    /// 1\[|u| < w/2\] / w (STBP, Wu et al. 2018).
    Rectangle(f64),
}

impl Surrogate {
    /// Its value.
    pub fn eval<F: Real>(self, u: F) -> F {
        match self {
            Surrogate::Sigmoid(alpha) => {
                let s = F::one() / (F::one() + (-real::<F>(alpha) * u).exp());
                real::<F>(alpha) * s * (F::one() - s)
            }
            Surrogate::Triangle(gamma) => (real::<F>(gamma) - u.abs()).max(F::zero()) / real(gamma * gamma),
            Surrogate::Rectangle(width) if u.abs() < real(width / 2.0) => real(1.0 / width),
            Surrogate::Rectangle(_) => F::zero(),
        }
    }

    /// Its value as a scalar program.
    pub fn scalar(self, u: Scalar) -> Scalar {
        match self {
            Surrogate::Sigmoid(alpha) => {
                // With e = exp(-|αu|) ≤ 1: σ(1 - σ) = e / (1 + e)², which cannot overflow.
                let e = (u.un(Un::Abs) * -alpha).un(Un::Exp);
                let one_more = e.clone() + 1.0;
                e * alpha / (one_more.clone() * one_more)
            }
            Surrogate::Triangle(gamma) => {
                let inside = Scalar::Const(gamma) - u.un(Un::Abs);
                inside.bin(crate::flow::Bin::Max, Scalar::Const(0.0)) * (1.0 / (gamma * gamma))
            }
            Surrogate::Rectangle(width) => {
                let inside = Scalar::Const(width / 2.0).step(Cmp::Gt, u.un(Un::Abs));
                inside * (1.0 / width)
            }
        }
    }
}
