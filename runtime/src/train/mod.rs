//! Training: epochs, steps, rates, checkpoints. The same seed gives the same bits, whatever the number of threads and
//! however often it is interrupted.

pub mod checkpoint;

use crate::data::{DataError, Dataset, Split, shuffled};
use crate::device::Backend;
use crate::session::{Inference, Mode, SessionError, Unfolded, fits_at_all};
use crate::weights::Weights;
use checkpoint::{Checkpoint, CheckpointError, State};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snnc_compiler::backend::context::HYPERS;
use snnc_compiler::check::Checked;
use snnc_compiler::flow::Source;
use snnc_compiler::kernel::Format;
use snnc_compiler::lower::{Optimizer, hyper};
use snnc_compiler::ops::Role;
use snnc_compiler::recipe::Recipe;
use snnc_compiler::types::ParamId;
use std::path::Path;
use thiserror::Error;

/// Why training stopped early.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The network cannot be run.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Saving or loading.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Gradients are too large for f16.
    #[error("gradients overflow f16 at step {step} of epoch {epoch} however the loss is scaled; --precision bf16 has the range of f32")]
    Overflow {
        /// The epoch, from 1.
        epoch: usize,
        /// The step, from 1.
        step: usize,
    },
    /// Numbers got out of hand.
    #[error("the loss is {loss} at step {step} of epoch {epoch}; try a smaller learning rate")]
    Diverged {
        /// The loss.
        loss: f32,
        /// The epoch, from 1.
        epoch: usize,
        /// The step, from 1.
        step: usize,
    },
}

/// What a training run reports.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A step is done.
    Step {
        /// Epoch, from 0.
        epoch: usize,
        /// Steps done in this epoch.
        step: usize,
        /// Steps of an epoch.
        steps: usize,
        /// Mean loss of the epoch so far.
        loss: f64,
        /// Accuracy on training data of the epoch so far.
        accuracy: f64,
        /// Learning rate.
        rate: f64,
        /// Samples of the step.
        samples: usize,
    },
    /// An epoch is done and saved.
    Epoch {
        /// Epoch, from 0.
        epoch: usize,
        /// Mean loss.
        loss: f64,
        /// Accuracy on training data.
        accuracy: f64,
    },
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The weights.
    pub weights: Weights,
    /// All epochs are done; otherwise it was interrupted and saved.
    pub finished: bool,
}

/// A network, its data and its recipe.
#[derive(Debug)]
pub struct Training<'a> {
    /// The network.
    pub checked: &'a Checked,
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The data.
    pub data: &'a Dataset,
    /// Where it is trained.
    pub backend: &'a Backend,
}

impl Training<'_> {
    /// Trains, from the start or from the newest checkpoint in `folder` if `resume`, saving there after every epoch.
    /// Asks `on` after every step whether to go on.
    ///
    /// # Errors
    /// If the network does not fit data or memory, saving fails, or the loss is no number any more.
    pub fn run(&self, folder: Option<&Path>, resume: bool, on: &mut dyn FnMut(Event) -> bool) -> Result<Outcome, TrainError> {
        let (graph, recipe) = (self.checked.graph(), self.recipe);
        self.data.fits(graph)?;
        fits_at_all(graph, recipe.batch)?;
        let mut weights = Weights::initial(graph, recipe.seed);
        let samples = self.data.train.labels.len();
        let mut state = State::new(graph, recipe, samples);
        let mut session = Unfolded::on(self.backend, self.checked, &weights, recipe.batch, Mode::Train(recipe.optimizer))?;
        let _held = folder.map(|f| checkpoint::occupy(f, resume)).transpose()?;
        if let (Some(folder), true) = (folder, resume) {
            let saved = Checkpoint::newest(folder, graph, &state)?;
            weights = saved.weights;
            state = saved.state;
            for i in 0..graph.params.len() {
                session.set_source(Source::Param(ParamId::new(i)), &weights.values[i])?;
            }
            for ((param, moment), values) in &saved.moments {
                session.set_source(Source::Moment(*param, *moment), values)?;
            }
        }
        let steps = samples.div_ceil(recipe.batch);
        let classes = graph.classes();
        let mut picture = Vec::new();
        while state.epoch < recipe.schedule.epochs {
            let order = shuffled(samples, recipe.seed, state.epoch as u64);
            let (mut loss_sum, mut right, mut seen) = (state.loss_sum, state.right, state.seen);
            let of = |step: usize| &order[step * recipe.batch..((step + 1) * recipe.batch).min(samples)];
            let epoch = state.epoch as u64;
            let gather = |step, picture: &mut Vec<f32>| {
                self.data.gather(&self.data.train, of(step), recipe.shift, recipe.seed, epoch, picture);
            };
            if state.step < steps {
                gather(state.step, &mut picture);
                session.put(&picture, of(state.step).len())?;
            }
            for step in state.step..steps {
                let indices = of(step);
                let labels: Vec<usize> = indices.iter().map(|i| self.data.train.labels[*i]).collect();
                let targets = smooth(&labels, classes, recipe.smoothing);
                state.updates += 1;
                let rate = recipe.schedule.rate(recipe.rate, state.epoch as f64 + step as f64 / steps as f64);
                let mut numbers = numbers(recipe, rate, state.updates, state.scale.skipped);
                (numbers[hyper::SCALE], numbers[hyper::UNSCALE]) = (state.scale.value, 1.0 / state.scale.value);
                session.start(&targets, indices.len(), numbers)?;
                // While a device computes, the next pictures are made and copied.
                if step + 1 < steps {
                    gather(step + 1, &mut picture);
                    session.put(&picture, of(step + 1).len())?;
                }
                let logits = session.finish(indices.len())?;
                let loss = session.loss(indices.len())?;
                if !loss.is_finite() {
                    return Err(TrainError::Diverged { loss, epoch: state.epoch + 1, step: step + 1 });
                }
                if self.backend.precision() == Format::F16 && !state.scale.goes_on(session.overflown(indices.len())?) {
                    return Err(TrainError::Overflow { epoch: state.epoch + 1, step: step + 1 });
                }
                loss_sum += f64::from(loss) * indices.len() as f64;
                right += correct(&logits, &labels);
                seen += indices.len();
                state.step = step + 1;
                (state.loss_sum, state.right, state.seen) = (loss_sum, right, seen);
                let event = Event::Step {
                    epoch: state.epoch,
                    step: step + 1,
                    steps,
                    loss: loss_sum / seen as f64,
                    accuracy: right as f64 / seen as f64,
                    rate,
                    samples: indices.len(),
                };
                let last = step + 1 == steps && state.epoch + 1 == recipe.schedule.epochs;
                if !on(event) && !last {
                    let weights = session.weights(&weights)?;
                    self.save(folder, &session, &weights, &state)?;
                    return Ok(Outcome { weights, finished: false });
                }
            }
            let event = Event::Epoch { epoch: state.epoch, loss: loss_sum / seen as f64, accuracy: right as f64 / seen as f64 };
            state.next_epoch();
            weights = session.weights(&weights)?;
            self.save(folder, &session, &weights, &state)?;
            on(event);
        }
        Ok(Outcome { weights, finished: true })
    }

    fn save(&self, folder: Option<&Path>, session: &Unfolded, weights: &Weights, state: &State) -> Result<(), TrainError> {
        let Some(folder) = folder else { return Ok(()) };
        let graph = self.checked.graph();
        let mut moments = Vec::new();
        for (i, param) in graph.params.iter().enumerate().filter(|(_, p)| p.role == Role::Trained) {
            for moment in 0..session.moments() {
                if let Some(values) = session.source(Source::Moment(ParamId::new(i), moment))? {
                    moments.push((format!("{}.{moment}", param.path), values.to_vec()));
                }
            }
        }
        checkpoint::save(folder, graph, weights, &moments, state)?;
        Ok(())
    }
}

/// Targets with label smoothing ε: 1 - ε + ε/K for the label, ε/K for the others.
fn smooth(labels: &[usize], classes: usize, epsilon: f64) -> Vec<f32> {
    let off = epsilon / classes as f64;
    let mut targets = vec![off as f32; labels.len() * classes];
    for (row, label) in labels.iter().enumerate() {
        targets[row * classes + label] = (1.0 - epsilon + off) as f32;
    }
    targets
}

/// The numbers of a step, in the order of [`hyper`]; steps that changed nothing do not count for the moments.
fn numbers(recipe: &Recipe, rate: f64, updates: u64, skipped: u64) -> [f32; HYPERS] {
    let mut numbers = [0.0; HYPERS];
    numbers[hyper::RATE] = rate as f32;
    let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
    rng.set_stream(updates);
    numbers[hyper::SEED] = (rng.random::<u32>() >> 8) as f32;
    if let Optimizer::AdamW { beta1, beta2, .. } = recipe.optimizer {
        let done = (updates - skipped) as f64;
        numbers[hyper::CORRECT1] = (1.0 / (1.0 - beta1.powf(done))) as f32;
        numbers[hyper::CORRECT2] = (1.0 / (1.0 - beta2.powf(done))) as f32;
    }
    numbers
}

/// The index of the largest logit of every row; the first of equals.
pub fn predictions(logits: &[f32], classes: usize) -> Vec<usize> {
    let best = |row: &[f32]| (0..row.len()).fold(0, |b, k| if row[k] > row[b] { k } else { b });
    logits.chunks(classes).map(best).collect()
}

fn correct(logits: &[f32], labels: &[usize]) -> usize {
    predictions(logits, logits.len() / labels.len()).iter().zip(labels).filter(|(p, l)| p == l).count()
}

/// How a network is evaluated.
#[derive(Debug)]
pub enum Evaluator {
    /// As written.
    Unfolded(Box<Unfolded>),
    /// Folded, without multiplications.
    Folded(Box<Inference>),
}

impl Evaluator {
    /// The predictions for all pictures of a split.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    pub fn predict(&mut self, data: &Dataset, split: &Split, batch: usize) -> Result<Vec<usize>, SessionError> {
        let mut all = Vec::with_capacity(split.labels.len());
        let mut pictures = Vec::new();
        let indices: Vec<usize> = (0..split.labels.len()).collect();
        for chunk in indices.chunks(batch) {
            data.gather(split, chunk, 0.0, 0, 0, &mut pictures);
            let (logits, classes) = match self {
                Evaluator::Unfolded(s) => (s.run(&pictures, &[], chunk.len(), [0.0; HYPERS])?, s.classes()),
                Evaluator::Folded(s) => (s.run(&pictures, chunk.len())?, s.classes()),
            };
            all.extend(predictions(&logits, classes));
        }
        Ok(all)
    }
}

/// The part of predictions that are right.
pub fn accuracy(predictions: &[usize], labels: &[usize]) -> f64 {
    predictions.iter().zip(labels).filter(|(p, l)| p == l).count() as f64 / labels.len().max(1) as f64
}
