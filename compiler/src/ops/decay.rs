//! Weights over time steps that decay into the past: w_t = β^(T-t) / Σ β^(T-s), for t = 1 to T.

use super::{Real, real};
use crate::flow::{Def, Flow, FlowId, Scalar};
use ndarray::{ArrayD, Axis as At};

/// The weights of all steps; they sum to 1.
pub fn weights(beta: f64, time: usize) -> Vec<f64> {
    let powers: Vec<f64> = (0..time).rev().map(|i| beta.powi(i32::try_from(i).unwrap_or(i32::MAX))).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

/// The weighted mean over T of `[T or 1, …]`, as `[1, …]`.
pub fn mean<F: Real>(x: &ArrayD<F>, beta: f64, time: usize) -> ArrayD<F> {
    if x.shape()[0] == 1 {
        return x.clone();
    }
    let mut sum = ArrayD::zeros(x.index_axis(At(0), 0).raw_dim());
    for (step, w) in x.axis_iter(At(0)).zip(weights(beta, time)) {
        sum.zip_mut_with(&step, |sum, x| *sum += *x * real(w));
    }
    sum.insert_axis(At(0))
}

/// Each step times its weight, so that the sum over T is the weighted mean; what does not vary over T stays as it is.
pub fn weigh(flow: &mut Flow, x: FlowId, beta: f64, time: usize) -> FlowId {
    let dims = flow.dims(x).clone();
    if !dims.time {
        return x;
    }
    let last = weights(beta, time).last().copied().unwrap_or(1.0);
    if beta == 1.0 {
        return flow.map(&[x], Scalar::Arg(0) * last);
    }
    // From the last step, whose weight is the largest, so that small ones vanish and are not where it starts.
    let scan = Def::Scan {
        inputs: vec![x],
        init: vec![last],
        next: vec![Scalar::State(0) * beta],
        outputs: vec![Scalar::Arg(0) * Scalar::State(0)],
        reverse: true,
    };
    flow.push(scan, dims)
}
