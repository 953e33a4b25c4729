//! What an operator sees when it writes itself as tensor primitives.

use crate::flow::{Dims, Flow, FlowId, Scalar};
use crate::types::Signal;

/// Writing the result.
#[derive(Debug)]
pub struct Forward<'a> {
    /// Where tensors go.
    pub flow: &'a mut Flow,
    /// Operands.
    pub inputs: Vec<FlowId>,
    /// Their signals.
    pub signals: Vec<&'a Signal>,
    /// The result's signal.
    pub out: &'a Signal,
    /// Parameters, in the order the operator asked for them.
    pub params: Vec<FlowId>,
    /// Batch statistics instead of running ones.
    pub train: bool,
    /// What is for training alone, such as dropout, is done.
    pub drops: bool,
    /// What varies over samples is kept in 16 bits: reading it costs more than rounding in f32.
    pub narrow: bool,
    /// Time steps.
    pub time: usize,
    /// Tensors that the backward pass wants to see again.
    pub saved: Vec<FlowId>,
    /// New values of running statistics: (index among the parameters, value).
    pub running: Vec<(usize, FlowId)>,
}

impl Forward<'_> {
    /// The physical dims of the result.
    pub fn dims(&self) -> Dims {
        Dims::of(self.out)
    }

    /// A map of all operands to the result's dims.
    pub fn map(&mut self, body: Scalar) -> FlowId {
        let dims = self.dims();
        let inputs = self.inputs.clone();
        self.flow.map_to(&inputs, body, dims)
    }
}

/// Writing the gradients.
#[derive(Debug)]
pub struct Backward<'a> {
    /// Where tensors go.
    pub flow: &'a mut Flow,
    /// Operands.
    pub inputs: Vec<FlowId>,
    /// Their signals.
    pub signals: Vec<&'a Signal>,
    /// The result's signal.
    pub out: &'a Signal,
    /// Parameters.
    pub params: Vec<FlowId>,
    /// Time steps.
    pub time: usize,
    /// The result.
    pub value: FlowId,
    /// What the forward pass saved.
    pub saved: &'a [FlowId],
    /// Gradient with respect to the result.
    pub grad: FlowId,
    /// Which operands need a gradient.
    pub wanted: Vec<bool>,
    /// Gradients with respect to the operands, set by the operator.
    pub input_grads: Vec<Option<FlowId>>,
    /// Gradients with respect to the parameters, set by the operator.
    pub param_grads: Vec<Option<FlowId>>,
}

impl Backward<'_> {
    /// Sets the gradient of operand `i`, summed over what the operand does not vary over.
    pub fn input_grad(&mut self, i: usize, grad: FlowId) {
        let dims = self.flow.dims(self.inputs[i]).clone();
        self.input_grads[i] = Some(self.flow.sum_to(grad, &dims));
    }

    /// Sets the gradient of operand `i` to a map of `inputs`, if it is wanted.
    pub fn input_map(&mut self, i: usize, inputs: &[FlowId], body: Scalar) {
        if self.wanted[i] {
            let grad = self.flow.map(inputs, body);
            self.input_grad(i, grad);
        }
    }

    /// Sets the gradient of parameter `i`, summed over what the parameter does not vary over.
    pub fn param_grad(&mut self, i: usize, grad: FlowId) {
        let dims = self.flow.dims(self.params[i]).clone();
        self.param_grads[i] = Some(self.flow.sum_to(grad, &dims));
    }
}
