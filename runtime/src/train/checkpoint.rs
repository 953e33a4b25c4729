//! Checkpoints: a folder for each, with `model.safetensors`, `optimizer.safetensors` and `state.json`. Written beside,
//! synced, and renamed into place, so that whatever happens the newest complete one is found again.

use crate::weights::{Tensor, Tensors, Weights, WeightsError, hash, read_tensors, to_bytes};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use snnc_compiler::graph::{Graph, print};
use snnc_compiler::ops::Role;
use snnc_compiler::recipe::Recipe;
use snnc_compiler::types::ParamId;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Version of the format.
const VERSION: u32 = 2;
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Why saving or loading failed.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// A file or folder.
    #[error("cannot {what} `{path}`: {source}")]
    Io {
        /// What was done.
        what: &'static str,
        /// With which file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Nothing to resume.
    #[error("there is no checkpoint in `{folder}`")]
    None {
        /// The folder.
        folder: String,
    },
    /// Another process trains into it.
    #[error("another training runs in `{folder}`; wait for it, or choose another folder")]
    InUse {
        /// The folder.
        folder: String,
    },
    /// Something is there already.
    #[error("`{folder}` holds a run already; pass `--resume` to go on, or choose another folder")]
    Occupied {
        /// The folder.
        folder: String,
    },
    /// Made by another network or recipe.
    #[error("the checkpoint `{path}` is of another {what}; resume with the same file, settings and recipe")]
    Other {
        /// The checkpoint.
        path: String,
        /// What differs.
        what: String,
    },
    /// Damaged state.
    #[error("the checkpoint `{path}` is damaged: {reason}")]
    Damaged {
        /// The checkpoint.
        path: String,
        /// Why.
        reason: String,
    },
    /// Damaged tensors.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// Where training is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the format.
    pub version: u32,
    /// Name of the variant.
    pub model: String,
    /// Hash of the graph.
    pub graph: String,
    /// The recipe.
    pub recipe: Recipe,
    /// Samples of an epoch.
    pub samples: usize,
    /// Epochs done.
    pub epoch: usize,
    /// Steps done in this epoch.
    pub step: usize,
    /// Updates done in all.
    pub updates: u64,
    /// Sum of losses in this epoch.
    pub loss_sum: f64,
    /// Right predictions in this epoch.
    pub right: usize,
    /// Samples seen in this epoch.
    pub seen: usize,
    /// In f16: the scale of the loss.
    #[serde(default)]
    pub scale: LossScale,
}

/// What the loss is multiplied with in f16, so that small gradients do not vanish: halved when one overflows, and that step
/// changes nothing; doubled after many without (Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The scale, a power of two.
    pub value: f32,
    /// Steps since it changed.
    pub clean: u32,
    /// Steps that changed nothing, in all.
    pub skipped: u64,
}

impl Default for LossScale {
    fn default() -> LossScale {
        LossScale { value: 65_536.0, clean: 0, skipped: 0 }
    }
}

impl LossScale {
    /// Steps without overflow after which it is doubled.
    const PATIENCE: u32 = 2000;

    /// After a step; false if gradients overflow however small it is.
    #[must_use]
    pub fn goes_on(&mut self, overflown: bool) -> bool {
        if overflown {
            *self = LossScale { value: self.value / 2.0, clean: 0, skipped: self.skipped + 1 };
        } else {
            self.clean += 1;
            if self.clean == Self::PATIENCE {
                *self = LossScale { value: (self.value * 2.0).min(2f32.powi(24)), clean: 0, ..*self };
            }
        }
        self.value >= 1.0
    }
}

impl State {
    /// The start.
    pub fn new(graph: &Graph, recipe: &Recipe, samples: usize) -> State {
        State {
            version: VERSION,
            model: graph.name.clone(),
            graph: format!("{:016x}", hash(&print(graph))),
            recipe: recipe.clone(),
            samples,
            epoch: 0,
            step: 0,
            updates: 0,
            loss_sum: 0.0,
            right: 0,
            seen: 0,
            scale: LossScale::default(),
        }
    }

    /// What of it cannot be: a file that was changed by hand, or by a fault of the disk.
    fn fault(&self, name: u64) -> Option<String> {
        let steps = self.samples.div_ceil(self.recipe.batch.max(1));
        let updates = self.epoch.checked_mul(steps).and_then(|n| n.checked_add(self.step));
        let seen = self.step.saturating_mul(self.recipe.batch).min(self.samples);
        let faults = [
            (self.epoch > self.recipe.schedule.epochs, format!("epoch {} of {}", self.epoch, self.recipe.schedule.epochs)),
            (self.step > steps, format!("step {} of {steps}", self.step)),
            (
                updates.map(|n| n as u64) != Some(self.updates),
                format!("{} updates after {} epochs and {} steps", self.updates, self.epoch, self.step),
            ),
            (self.updates != name, format!("{} updates in a folder named for {name}", self.updates)),
            (self.seen != seen || self.right > seen, format!("{} right of {} samples after {} steps", self.right, self.seen, self.step)),
            (!self.loss_sum.is_finite(), "a loss that is no number".into()),
            (
                !(1.0..=2f32.powi(24)).contains(&self.scale.value) || self.scale.skipped > self.updates,
                format!("a loss scale of {} after {} skipped steps", self.scale.value, self.scale.skipped),
            ),
        ];
        faults.into_iter().find(|(wrong, _)| *wrong).map(|(_, what)| format!("its state has {what}"))
    }

    /// The start of the next epoch.
    pub fn next_epoch(&mut self) {
        *self = State { epoch: self.epoch + 1, step: 0, loss_sum: 0.0, right: 0, seen: 0, ..self.clone() };
    }
}

/// A checkpoint read back.
#[derive(Debug)]
pub struct Checkpoint {
    /// Parameters and running statistics.
    pub weights: Weights,
    /// Tensors of the optimizer: (parameter, which) with values.
    pub moments: Vec<((ParamId, u8), Vec<f32>)>,
    /// Where training was.
    pub state: State,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_string_lossy().into_owned();
    move |source| CheckpointError::Io { what, path, source }
}

/// Takes a run's folder for this process, until what is returned is dropped or the process ends in whatever way. That of
/// a new run is made.
///
/// # Errors
/// If it cannot be made, another process has it, or it holds checkpoints and is not to be resumed, or none and is.
pub fn occupy(folder: &Path, resume: bool) -> Result<File, CheckpointError> {
    let shown = || folder.to_string_lossy().into_owned();
    if !resume {
        fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
    } else if !folder.is_dir() {
        return Err(CheckpointError::None { folder: shown() });
    }
    let handle = File::open(folder).map_err(failed("read the folder", folder))?;
    // A file system without locks says nothing of others.
    if matches!(handle.try_lock(), Err(TryLockError::WouldBlock)) {
        return Err(CheckpointError::InUse { folder: shown() });
    }
    // A trained model whose checkpoints are gone is not written over either.
    let free = complete(folder)?.is_empty();
    match (resume, free) {
        (false, _) if !free || folder.join(MODEL).exists() => Err(CheckpointError::Occupied { folder: shown() }),
        (true, true) => Err(CheckpointError::None { folder: shown() }),
        _ => Ok(handle),
    }
}

/// The folder of a checkpoint after this many updates.
fn step(updates: u64) -> String {
    format!("step-{updates:09}")
}

/// The checkpoints of a folder, oldest first, with the number of updates in their names. The state is written last: a
/// folder without it is none of ours.
fn complete(folder: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed("read the folder", folder))? {
        let path = entry.map_err(failed("read the folder", folder))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let number = name.strip_prefix("step-").and_then(|n| n.parse().ok());
        // Not a folder that someone else has called so.
        if let Some(updates) = number.filter(|n| name == step(*n) && path.join(STATE).is_file()) {
            found.push((updates, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Saves a checkpoint; older ones are removed once it is in place.
///
/// # Errors
/// If it cannot be written; those there are stay untouched.
pub fn save(folder: &Path, graph: &Graph, weights: &Weights, moments: &[(String, Vec<f32>)], state: &State) -> Result<(), CheckpointError> {
    let target = folder.join(step(state.updates));
    // Should somebody have removed it while training ran.
    fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
    let old = complete(folder)?;
    let beside = folder.join(format!(".writing-{}", std::process::id()));
    let written = write(&beside, graph, weights, moments, state).and_then(|()| {
        if target.exists() {
            // The same state saved twice: the older copy gives way.
            fs::remove_dir_all(&target).map_err(failed("replace", &target))?;
        }
        fs::rename(&beside, &target).map_err(failed("rename into place", &target))?;
        sync(folder)
    });
    if let Err(error) = written {
        let _ = fs::remove_dir_all(&beside);
        return Err(error);
    }
    for (_, path) in old.into_iter().filter(|(_, p)| *p != target) {
        let _ = fs::remove_dir_all(path);
    }
    // What runs that were killed left behind.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".writing-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

fn write(beside: &Path, graph: &Graph, weights: &Weights, moments: &[(String, Vec<f32>)], state: &State) -> Result<(), CheckpointError> {
    let _ = fs::remove_dir_all(beside);
    fs::create_dir_all(beside).map_err(failed("make the folder", beside))?;
    let damaged = |reason: String| CheckpointError::Damaged { path: beside.to_string_lossy().into_owned(), reason };
    let model = to_bytes(&weights.tensors(graph)).map_err(damaged)?;
    let tensors: Tensors = moments.iter().map(|(n, v)| (n.clone(), Tensor::new(vec![v.len()], v.clone()))).collect();
    let optimizer = to_bytes(&tensors).map_err(damaged)?;
    let json = serde_json::to_vec_pretty(state).map_err(|e| damaged(e.to_string()))?;
    for (name, bytes) in [(MODEL, model), (OPTIMIZER, optimizer), (STATE, json)] {
        let file = beside.join(name);
        put(&file, &bytes).map_err(failed("write", &file))?;
    }
    sync(beside)
}

/// Writes a file and waits until it is on the disk.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync(folder: &Path) -> Result<(), CheckpointError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(failed("sync the folder", folder))
}

/// Writes a file beside its place and renames it there.
///
/// # Errors
/// If it cannot be written; a file that was there stays.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    // A link stays one; what it leads to is replaced.
    let link = || Some(path.with_file_name("").join(fs::read_link(path).ok()?));
    let path = &path.canonicalize().ok().or_else(link).unwrap_or_else(|| path.to_owned());
    if fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        // A device or a pipe is written to.
        return fs::write(path, bytes).map_err(failed("write", path));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let beside = path.with_file_name(format!(".{name}.writing-{}", std::process::id()));
    // What goes wrong goes wrong for the file that was named.
    let done = put(&beside, bytes).and_then(|()| {
        if let Ok(old) = fs::metadata(path) {
            fs::set_permissions(&beside, old.permissions())?;
        }
        fs::rename(&beside, path)
    });
    let done = done.map_err(failed("write", path));
    if done.is_err() {
        let _ = fs::remove_file(&beside);
    }
    done
}

/// The newest checkpoint of a folder, with its state.
fn newest(folder: &Path) -> Result<(PathBuf, State), CheckpointError> {
    let none = || CheckpointError::None { folder: folder.to_string_lossy().into_owned() };
    let found = if folder.is_dir() { complete(folder)? } else { Vec::new() };
    let (name, path) = found.into_iter().next_back().ok_or_else(none)?;
    let text = fs::read(path.join(STATE)).map_err(failed("read", &path.join(STATE)))?;
    let damaged = |reason: String| CheckpointError::Damaged { path: path.to_string_lossy().into_owned(), reason };
    let versioned: Versioned = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if versioned.version != VERSION {
        return Err(CheckpointError::Other { path: path.to_string_lossy().into_owned(), what: format!("version ({})", versioned.version) });
    }
    let state: State = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    match state.fault(name) {
        Some(fault) => Err(damaged(fault)),
        None => Ok((path, state)),
    }
}

/// What every version of the format has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The recipe that the run in a folder was started with.
///
/// # Errors
/// If there is no checkpoint, or it is damaged.
pub fn recipe_of(folder: &Path) -> Result<Recipe, CheckpointError> {
    Ok(newest(folder)?.1.recipe)
}

/// The entries in which two recipes differ: `seed: 7 there, 5 here`.
fn differences(there: &Recipe, here: &Recipe) -> Vec<String> {
    fn walk(path: &str, there: &Value, here: &Value, out: &mut Vec<String>) {
        match (there, here) {
            (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
                a.iter().for_each(|(k, v)| walk(&format!("{path}{}{k}", if path.is_empty() { "" } else { "." }), v, &b[k], out));
            }
            _ if there != here => out.push(format!("{path}: {there} there, {here} here")),
            _ => {}
        }
    }
    let mut out = Vec::new();
    let value = |r: &Recipe| serde_json::to_value(r).unwrap_or_default();
    walk("", &value(there), &value(here), &mut out);
    out
}

impl Checkpoint {
    /// The newest checkpoint of a folder; it must be of this graph and recipe.
    ///
    /// # Errors
    /// If there is none, it is damaged, or of something else.
    pub fn newest(folder: &Path, graph: &Graph, expected: &State) -> Result<Checkpoint, CheckpointError> {
        let (path, state) = newest(folder)?;
        let at = path.to_string_lossy().into_owned();
        let damaged = |reason: String| CheckpointError::Damaged { path: at.clone(), reason };
        let other = |what: String| Err(CheckpointError::Other { path: at.clone(), what });
        if state.graph != expected.graph {
            return other("network".into());
        }
        if state.recipe != expected.recipe {
            return other(format!("recipe ({})", differences(&state.recipe, &expected.recipe).join(", ")));
        }
        if state.samples != expected.samples {
            return other(format!("data set ({} samples there, {} here)", state.samples, expected.samples));
        }
        let weights = Weights::read(&path.join(MODEL), graph, None)?;
        let mut moments = Vec::new();
        for (name, tensor) in read_tensors(&path.join(OPTIMIZER))? {
            let found = name.rsplit_once('.').and_then(|(p, n)| {
                let param = graph.params.iter().position(|q| q.path == p)?;
                Some((ParamId::new(param), n.parse().ok()?))
            });
            let Some((param, moment)) = found else { return Err(damaged(format!("unknown tensor `{name}`"))) };
            if tensor.data.len() != graph.param(param).elements() {
                return Err(damaged(format!("`{name}` has {} values", tensor.data.len())));
            }
            moments.push(((param, moment), tensor.data));
        }
        let trained = graph.params.iter().filter(|p| p.role == Role::Trained).count();
        let wanted = trained * usize::from(state.recipe.optimizer.moments());
        if moments.len() != wanted {
            return Err(damaged(format!("the optimizer's state has {} tensors, not {wanted}", moments.len())));
        }
        Ok(Checkpoint { weights, moments, state })
    }
}

/// The model file of a run's folder, or the file itself.
pub fn model_file(path: &Path) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    let own = path.join(MODEL);
    if own.is_file() {
        return own;
    }
    complete(path).ok().and_then(|mut c| c.pop()).map_or(own, |(_, p)| p.join(MODEL))
}
