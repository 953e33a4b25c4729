//! Sums of two signals.

use super::*;
use crate::flow::Scalar;
use crate::types::Kind;

/// `a + b`, or `a - b`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add {
    /// Subtracts the second.
    pub minus: bool,
}

impl Operator for Add {
    fn read(_: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        Ok(Add { minus: false })
    }

    fn arity() -> std::ops::RangeInclusive<usize> {
        2..=2
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        let inputs: Vec<Signal> = inputs.iter().map(Signal::beside_others).collect();
        let axes = same_axes(&inputs, "added")?;
        let varies = inputs.iter().any(|s| s.varies);
        let countable = inputs.iter().all(|s| s.kind <= Kind::Count) && !self.minus;
        if countable {
            let bound = inputs.iter().fold(0u64, |sum, s| sum.saturating_add(s.bound));
            return Ok(Signal { kind: Kind::Count, axes, varies, bound, scaled: false });
        }
        let kind = inputs.iter().map(|s| s.kind).max().unwrap_or(Kind::Current).max(Kind::Current);
        Ok(Signal::real(kind, axes, varies))
    }

    fn linearity(&self) -> Linearity {
        Linearity::Add
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![]
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        let (a, b) = (e.inputs[0], e.inputs[1]);
        // The operand that varies over T comes first, so that the other broadcasts to it.
        let value = match (self.minus, a.shape()[0] >= b.shape()[0]) {
            (false, true) => a + b,
            (false, false) => b + a,
            (true, true) => a - b,
            (true, false) => (b - a).mapv(|x| -x),
        };
        value.into()
    }

    fn vjp<F: Real>(&self, _: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        let second = if self.minus { grad.mapv(|x| -x) } else { grad.clone() };
        Grads { inputs: vec![grad.clone(), second], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let (a, b) = (Scalar::Arg(0), Scalar::Arg(1));
        cx.map(if self.minus { a - b } else { a + b })
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        if cx.wanted[0] {
            cx.input_grad(0, cx.grad);
        }
        if cx.wanted[1] && !self.minus {
            cx.input_grad(1, cx.grad);
        } else if cx.wanted[1] {
            cx.input_map(1, &[cx.grad], -Scalar::Arg(0));
        }
    }
}

/// The common axes of operands that meet element by element.
pub(crate) fn same_axes(inputs: &[Signal], done: &str) -> Result<Vec<Axis>, Problem> {
    let first = &inputs[0];
    for other in &inputs[1..] {
        let mut mismatch = other.axes.len() != first.axes.len();
        mismatch |= first.axes.iter().any(|a| other.size(&a.name) != Some(a.size));
        if mismatch {
            let message = format!("signals with different axes cannot be {done}: [{}] and [{}]", first.axes_text(), other.axes_text());
            return Err(Problem::new("shape::mismatch", message));
        }
        if other.axes != first.axes {
            let message = format!("the axes are the same but in another order: [{}] and [{}]", first.axes_text(), other.axes_text());
            return Err(Problem::new("shape::mismatch", message));
        }
    }
    Ok(first.axes.clone())
}
