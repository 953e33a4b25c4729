//! Dropout: in training alone.

use super::*;
use crate::flow::{Cmp, Def, Scalar};

/// `dropout(0.1)`: in training each value is 0 with this probability, and otherwise divided by the probability that it is
/// kept (Srivastava et al. 2014). In evaluation, traces and inference it is not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    /// The probability of 0.
    pub probability: f64,
}

impl Operator for Dropout {
    fn read(args: &mut Arguments, _: &[Signal]) -> Result<Self, Problem> {
        let probability = args.plain_float("the probability is missing", "dropout(0.1)")?;
        if !(0.0..1.0).contains(&probability) {
            return Err(Problem::new("build::value", format!("the probability is {probability}, but must be at least 0 and less than 1")));
        }
        Ok(Dropout { probability })
    }

    fn infer(&self, inputs: &[Signal], _: usize) -> Result<Signal, Problem> {
        Ok(inputs[0].clone())
    }

    fn linearity(&self) -> Linearity {
        Linearity::Identity
    }

    fn multiplies(&self, _: &[Signal]) -> Vec<Multiplication> {
        vec![]
    }

    fn eval<F: Real>(&self, e: &Eval<'_, F>) -> Evaluated<F> {
        e.inputs[0].clone().into()
    }

    fn vjp<F: Real>(&self, _: &Eval<'_, F>, _: &ArrayD<F>, grad: &ArrayD<F>) -> Grads<F> {
        Grads { inputs: vec![grad.clone()], params: vec![] }
    }

    fn forward(&self, cx: &mut Forward<'_>) -> FlowId {
        if !cx.drops || self.probability == 0.0 {
            return cx.inputs[0];
        }
        let site = u32::try_from(cx.flow.tensors.len()).unwrap_or(u32::MAX);
        let kept = Scalar::Arg(0) * (1.0 / (1.0 - self.probability));
        let drawn = Scalar::Random(site);
        cx.map(drawn.select(Cmp::Ge, Scalar::Const(self.probability), kept, Scalar::Const(0.0)))
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        if !cx.wanted[0] {
            return;
        }
        // The same map of the gradient: it draws the same numbers.
        match &cx.flow.get(cx.value).def {
            Def::Map { body, .. } if cx.value != cx.inputs[0] => {
                let (body, dims) = (body.clone(), cx.flow.dims(cx.value).clone());
                let grad = cx.flow.map_to(&[cx.grad], body, dims);
                cx.input_grad(0, grad);
            }
            _ => cx.input_grad(0, cx.grad),
        }
    }
}
