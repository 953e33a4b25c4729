//! One step on a given batch, with everything it computes, for comparing with another framework.

use crate::device::Backend;
use crate::layout::Layout;
use crate::reference;
use crate::session::{Mode, SessionError, SpikeCounts, Unfolded, unfit};
use crate::weights::{Tensor, Tensors, Weights, entries};
use ndarray::{ArrayD, IxDyn};
use snnc_compiler::backend::context::HYPERS;
use snnc_compiler::check::Checked;
use snnc_compiler::flow::Source;
use snnc_compiler::ops::Role;
use snnc_compiler::types::ParamId;
use thiserror::Error;

/// Where a trace is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Executor {
    /// The reference, in f64.
    Reference,
    /// Generated code, in f32.
    Device(Backend),
}

/// Why there is no trace.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The batch file lacks something or has another shape.
    #[error("the batch does not fit: {0}")]
    Batch(String),
    /// The network cannot be run.
    #[error(transparent)]
    Session(#[from] SessionError),
}

struct Traced {
    logits: Vec<f32>,
    loss: f32,
    spikes: SpikeCounts,
    grads: Vec<Option<Vec<f32>>>,
    running: Vec<(ParamId, Vec<f32>)>,
}

/// Runs one step on a batch with `input` `[B, C, H, W]` (or `[B, T, C, H, W]` for frames) and `labels` `[B]`. Gives `logits`
/// `[B, K]`, `loss` `[1]`, `spikes.<path>` `[T]`, and in training `grad.<name>` and `running.<name>`, under every alias of a layout.
///
/// # Errors
/// If the batch does not fit the network, or that cannot be run.
pub fn trace(
    checked: &Checked,
    weights: &Weights,
    batch: &Tensors,
    layout: Option<&Layout>,
    train: bool,
    executor: &Executor,
) -> Result<Tensors, TraceError> {
    let graph = checked.graph();
    let (input, labels) = read_batch(checked, batch)?;
    let samples = labels.len();
    let traced = match executor {
        Executor::Reference => on_reference(checked, weights, input, &labels, train),
        Executor::Device(backend) => on_device(backend, checked, weights, input, &labels, train)?,
    };
    let mut out = Tensors::new();
    out.insert("logits".into(), Tensor::new(vec![samples, graph.classes()], traced.logits));
    out.insert("loss".into(), Tensor::new(vec![1], vec![traced.loss]));
    for (path, counts) in traced.spikes {
        let data = counts.iter().map(|c| *c as f32).collect::<Vec<_>>();
        out.insert(format!("spikes.{path}"), Tensor::new(vec![data.len()], data));
    }
    if train {
        let entries = entries(graph, layout);
        let mut put = |prefix: &str, id: usize, data: &[f32]| {
            for name in &entries[id].names {
                out.insert(format!("{prefix}.{name}"), Tensor::new(entries[id].shape.clone(), data.to_vec()));
            }
        };
        for (i, grad) in traced.grads.iter().enumerate() {
            if let Some(grad) = grad {
                put("grad", i, grad);
            }
        }
        for (id, values) in &traced.running {
            put("running", id.index(), values);
        }
    }
    Ok(out)
}

fn read_batch<'a>(checked: &Checked, batch: &'a Tensors) -> Result<(&'a Tensor, Vec<usize>), TraceError> {
    let graph = checked.graph();
    let missing = |name: &str| TraceError::Batch(format!("there is no tensor `{name}`"));
    let input = batch.get("input").ok_or_else(|| missing("input"))?;
    let labels = batch.get("labels").ok_or_else(|| missing("labels"))?;
    let signal = &graph.node(graph.input).signal;
    let samples = labels.data.len();
    let mut shape = vec![samples];
    shape.extend(signal.varies.then_some(graph.time));
    shape.extend(signal.axes.iter().map(|a| a.size));
    if samples == 0 {
        return Err(TraceError::Batch("it holds no sample".into()));
    }
    if input.shape != shape {
        return Err(TraceError::Batch(format!(
            "`input` has shape {:?}, but {samples} labels and the model ask for {shape:?}",
            input.shape
        )));
    }
    if let Some(reason) = unfit(signal, &input.data) {
        return Err(TraceError::Batch(reason));
    }
    let classes = graph.classes();
    let label = |x: &f32| {
        let whole = x.fract() == 0.0 && *x >= 0.0 && (*x as usize) < classes;
        whole.then_some(*x as usize).ok_or_else(|| TraceError::Batch(format!("the label {x} is none of {classes} classes")))
    };
    Ok((input, labels.data.iter().map(label).collect::<Result<_, _>>()?))
}

fn on_reference(checked: &Checked, weights: &Weights, input: &Tensor, labels: &[usize], train: bool) -> Traced {
    let graph = checked.graph();
    let data = input.data.iter().map(|x| f64::from(*x)).collect();
    let batch = ArrayD::from_shape_vec(IxDyn(&input.shape), data).unwrap_or_else(|_| ArrayD::zeros(IxDyn(&input.shape)));
    let input = reference::arrange(graph, batch);
    let run = reference::run(graph, &weights.arrays::<f64>(graph), &input, Some(labels), train);
    let list = |a: &ArrayD<f64>| a.iter().map(|x| *x as f32).collect::<Vec<_>>();
    Traced {
        logits: list(&run.logits),
        loss: run.loss.map_or(f32::NAN, |l| l as f32),
        grads: run.grads.iter().map(|g| g.as_ref().map(list)).collect(),
        running: run.running.iter().map(|(id, v)| (*id, list(v))).collect(),
        spikes: run.spikes,
    }
}

fn on_device(
    backend: &Backend,
    checked: &Checked,
    weights: &Weights,
    input: &Tensor,
    labels: &[usize],
    train: bool,
) -> Result<Traced, TraceError> {
    let graph = checked.graph();
    let (samples, classes) = (labels.len(), graph.classes());
    let mode = if train { Mode::Gradients } else { Mode::Eval };
    let mut session = Unfolded::on(backend, checked, weights, samples, mode)?;
    let mut targets = vec![0.0; samples * classes];
    labels.iter().enumerate().for_each(|(row, label)| targets[row * classes + label] = 1.0);
    let logits = session.run(&input.data, &targets, samples, [0.0; HYPERS])?;
    let loss = if train { session.loss(samples)? } else { cross_entropy(&logits, labels) };
    let ids = || (0..graph.params.len()).map(ParamId::new);
    let running = ids().filter(|id| train && graph.param(*id).role != Role::Trained);
    let grad = |id| if train { session.gradient(id, samples) } else { Ok(None) };
    let held = |id| Ok(session.source(Source::Param(id))?.map(|values| (id, values.into_owned())));
    Ok(Traced {
        loss,
        spikes: session.spikes(samples)?,
        grads: ids().map(grad).collect::<Result<_, SessionError>>()?,
        running: running.filter_map(|id| held(id).transpose()).collect::<Result<_, SessionError>>()?,
        logits,
    })
}

/// The mean cross entropy of logits; the program of a run without training has no loss.
fn cross_entropy(logits: &[f32], labels: &[usize]) -> f32 {
    let classes = logits.len() / labels.len();
    let total: f64 = logits
        .chunks(classes)
        .zip(labels)
        .map(|(row, label)| {
            let largest = row.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
            let sum: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
            f64::from(largest) + sum.ln() - f64::from(row[*label])
        })
        .sum();
    (total / labels.len() as f64) as f32
}
