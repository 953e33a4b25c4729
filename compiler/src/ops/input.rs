//! The model's input.

use super::*;
use crate::flow::{Dims, Source};
use crate::types::Kind;

/// The model's input; a static one has no T.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Its signal.
    pub signal: Signal,
}

impl Operator for Input {
    fn read(_: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        Err(Problem::new("build::type", "an input is declared, not called"))
    }

    fn arity() -> std::ops::RangeInclusive<usize> {
        0..=0
    }

    fn infer(&self, _: &[Signal], _: usize) -> Result<Signal, Problem> {
        Ok(self.signal.clone())
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![]
    }

    fn eval<F: Real>(&self, _: &Eval<'_, F>) -> Evaluated<F> {
        ArrayD::zeros(vec![]).into()
    }

    fn vjp<F: Real>(&self, _: &Eval<'_, F>, _: &ArrayD<F>, _: &ArrayD<F>) -> Grads<F> {
        Grads { inputs: vec![], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        let id = cx.flow.source(Source::Input, Dims::of(&self.signal));
        cx.flow.tensors[id.index()].spikes = self.signal.kind == Kind::Spike;
        id
    }

    fn backward(&self, _: &mut Backward<'_>) {}
}
