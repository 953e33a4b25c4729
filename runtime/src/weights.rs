//! Parameters of a network as numbers: first values, files, names.

use crate::layout::{Entry, Layout};
use ndarray::{ArrayD, IxDyn};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use snnc_compiler::graph::{Graph, Param};
use snnc_compiler::ops::{Init, Real, Role, real};
use snnc_compiler::text::printable;
use snnc_compiler::types::ParamId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use thiserror::Error;

/// What is wrong with a file of tensors.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// It cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is no safetensors file, or cut short.
    #[error("`{path}` cannot be read as a checkpoint: {reason}")]
    Format {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The layout is that of another system.
    #[error("the layout `{layout}` does not name the parameters of `{model}`{}", .fits.as_ref().map(|f| format!("; `{f}` does")).unwrap_or_default())]
    Layout {
        /// The layout.
        layout: String,
        /// The network.
        model: String,
        /// One that names them.
        fits: Option<String>,
    },
    /// None of the tensors is the network's.
    #[error(
        "`{path}` is a checkpoint of another model: none of its {count} tensors has a name of `{model}`\n  \
         in the file:    {}, ...\n  \
         in the layout:  {}, ...\n  \
         in snnc:        {}, ...",
        .names[0],
        .names[1],
        .names[2]
    )]
    Stranger {
        /// The file.
        path: String,
        /// The network.
        model: String,
        /// How many tensors there are.
        count: usize,
        /// Some of the file's names, of the published ones, and of ours.
        names: Box<[String; 3]>,
    },
    /// Tensors do not fit the network; how many of each kind, and the first of them.
    #[error("the tensors of `{path}` do not fit `{model}` ({}):\n  {}", tally(.problems), shown(.problems))]
    Mismatch {
        /// The file.
        path: String,
        /// The network.
        model: String,
        /// One line each.
        problems: Vec<String>,
    },
}

/// The most problems that are shown.
const SHOWN: usize = 20;

/// The first problems, one line each.
fn shown(problems: &[String]) -> String {
    let first = problems.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n  ");
    if problems.len() > SHOWN { format!("{first}\n  and {} more", problems.len() - SHOWN) } else { first }
}

/// How many problems there are of each kind.
fn tally(problems: &[String]) -> String {
    let of = |part: &str| problems.iter().filter(|p| p.contains(part)).count();
    let (missing, unknown, shape) = (of("missing: "), of("unknown: "), of(" has shape ["));
    let other = problems.len() - missing - unknown - shape;
    let kinds = [(missing, "missing"), (shape, "of another shape"), (other, "with values that do not fit"), (unknown, "unknown")];
    kinds.iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ")
}

/// The values of a graph's parameters, in its order; data in the order of each parameter's axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// One list for every parameter.
    pub values: Vec<Vec<f32>>,
}

impl Weights {
    /// First values, as the network's initialisers say. Each parameter has a stream of its own, so that adding one
    /// changes no other.
    pub fn initial(graph: &Graph, seed: u64) -> Weights {
        let values = graph.params.iter().map(|p| first(p, seed)).collect();
        Weights { values }
    }

    /// Reads a safetensors file, with names of a layout or our own.
    ///
    /// # Errors
    /// If it cannot be read, or anything is missing, has another shape, or is not finite: all at once.
    pub fn read(path: &Path, graph: &Graph, layout: Option<&Layout>) -> Result<Weights, WeightsError> {
        let tensors = read_tensors(path)?;
        Self::from_tensors(&tensors, &path.to_string_lossy(), graph, layout)
    }

    /// Takes a network's parameters from named tensors.
    ///
    /// # Errors
    /// As [`Weights::read`].
    pub fn from_tensors(tensors: &Tensors, path: &str, graph: &Graph, layout: Option<&Layout>) -> Result<Weights, WeightsError> {
        let mut weights = Self::exact(tensors, path, graph, layout)?;
        for (param, values) in graph.params.iter().zip(&mut weights.values).filter(|(p, _)| p.role == Role::Trained) {
            if let Some(min) = param.min {
                // As training keeps it.
                values.iter_mut().for_each(|x| *x = x.max(min as f32));
            }
        }
        Ok(weights)
    }

    /// As [`Weights::from_tensors`], with values below their least one as they are in the file.
    ///
    /// # Errors
    /// As [`Weights::read`].
    pub fn exact(tensors: &Tensors, path: &str, graph: &Graph, layout: Option<&Layout>) -> Result<Weights, WeightsError> {
        Self::take(tensors, path, graph, &entries(graph, layout), |name| layout.is_some() || graph.params.iter().any(|p| p.path == *name))
    }

    /// Takes a network's parameters from a published checkpoint, all of which must be known: the network's, or what the
    /// layout drops.
    ///
    /// # Errors
    /// As [`Weights::exact`].
    pub fn from_published(tensors: &Tensors, path: &str, graph: &Graph, layout: &Layout) -> Result<Weights, WeightsError> {
        let entries = layout.entries(graph);
        let known: HashSet<String> = entries.iter().flat_map(|e| e.all().cloned()).collect();
        let unused: HashMap<String, Vec<usize>> = layout.unused(graph).into_iter().map(|(name, shape, _)| (name, shape)).collect();
        let fits = |name: &String| unused.get(name).is_some_and(|shape| *shape == tensors[name].shape);
        Self::take(tensors, path, graph, &entries, |name| known.contains(name) || fits(name))
    }

    fn take(
        tensors: &Tensors,
        path: &str,
        graph: &Graph,
        entries: &[Entry],
        known: impl Fn(&String) -> bool,
    ) -> Result<Weights, WeightsError> {
        let mut problems = Vec::new();
        let mut values = Vec::new();
        let expected: HashSet<&String> = entries.iter().flat_map(Entry::all).collect();
        // Published checkpoints keep trailing axes of extent 1 where we keep none, and the other way round.
        let squeeze = |shape: &[usize]| shape.iter().copied().filter(|s| *s != 1).collect::<Vec<_>>();
        let others: Vec<&String> = tensors.keys().filter(|n| !expected.contains(n)).collect();
        for (param, entry) in graph.params.iter().zip(entries) {
            let Entry { names, shape, .. } = entry;
            let mut there = entry.all().filter_map(|n| tensors.get(n).map(|t| (n, t)));
            let Some((name, tensor)) = there.next() else {
                let like = others.iter().filter(|n| squeeze(&tensors[**n].shape) == squeeze(shape)).map(|n| n.as_str());
                let near = snnc_compiler::value::nearest(&names[0], like);
                problems.push(match near {
                    Some(near) => format!("missing: {} (there is {near})", names[0]),
                    None => format!("missing: {}", names[0]),
                });
                continue;
            };
            if let Some((other, _)) = there.find(|(_, t)| t.data != tensor.data) {
                problems.push(format!("{name} and {other} are names of one tensor, but differ"));
            }
            if squeeze(&tensor.shape) != squeeze(shape) {
                problems.push(format!("{name} has shape {:?}, not {shape:?}", tensor.shape));
            } else if tensor.integer && param.role != Role::Batches {
                problems.push(format!("{name} holds integers, not weights"));
            } else if let Some(at) = tensor.data.iter().position(|x| !x.is_finite()) {
                problems.push(format!("{name} has the value {} at index {at}", tensor.data[at]));
            } else if param.role == Role::Batches
                && let Some(count) = tensor.data.iter().find(|x| x.fract() != 0.0)
            {
                problems.push(format!("{name} counts {count} batches"));
            } else if let (Some(min), true) = (param.min, param.role != Role::Trained)
                && let Some(at) = tensor.data.iter().position(|x| f64::from(*x) < min)
            {
                problems.push(format!("{name} has the value {} at index {at}, below {min:?}", tensor.data[at]));
            } else {
                values.push(tensor.data.clone());
            }
        }
        problems.extend(tensors.keys().filter(|n| !known(n)).map(|n| format!("unknown: {n}")));
        if problems.is_empty() {
            return Ok(Weights { values });
        }
        problems.iter_mut().for_each(|p| *p = printable(p));
        Err(WeightsError::Mismatch { path: path.to_owned(), model: graph.name.clone(), problems })
    }

    /// The parameters as named tensors.
    pub fn tensors(&self, graph: &Graph) -> Tensors {
        let named = graph.params.iter().zip(&self.values);
        named.map(|(p, v)| (p.path.clone(), Tensor::new(p.shape(), v.clone()))).collect()
    }

    /// The parameters as arrays.
    pub fn arrays<F: Real>(&self, graph: &Graph) -> Vec<ArrayD<F>> {
        (0..graph.params.len()).map(|i| self.array(graph, ParamId::new(i))).collect()
    }

    /// The value of one parameter.
    pub fn array<F: Real>(&self, graph: &Graph, id: ParamId) -> ArrayD<F> {
        let shape = IxDyn(&graph.param(id).shape());
        let data = self.values[id.index()].iter().map(|x| real::<F>(f64::from(*x))).collect();
        ArrayD::from_shape_vec(shape.clone(), data).unwrap_or_else(|_| ArrayD::zeros(shape))
    }
}

/// The names and extents of every parameter in a layout, or our own; the first name is the main one.
pub fn entries(graph: &Graph, layout: Option<&Layout>) -> Vec<Entry> {
    let own = |p: &Param| Entry { names: vec![p.path.clone()], legacy: vec![], shape: p.shape() };
    layout.map_or_else(|| graph.params.iter().map(own).collect(), |layout| layout.entries(graph))
}

/// FNV-1a: stable from release to release.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn first(param: &Param, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ hash(&param.path));
    let count = param.elements();
    match param.init {
        Init::Constant(c) => vec![c as f32; count],
        Init::Uniform(bound) => (0..count).map(|_| ((rng.random::<f64>() * 2.0 - 1.0) * bound) as f32).collect(),
        Init::Normal(deviation) => (0..count).map(|_| (normal(&mut rng) * deviation) as f32).collect(),
        Init::TruncatedNormal(deviation) => (0..count)
            .map(|_| {
                let mut x = normal(&mut rng);
                while x.abs() > 2.0 {
                    x = normal(&mut rng);
                }
                (x * deviation) as f32
            })
            .collect(),
    }
}

/// Box and Muller 1958.
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// A tensor of a file, as f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extents.
    pub shape: Vec<usize>,
    /// Row-major.
    pub data: Vec<f32>,
    /// Whether the file holds integers.
    pub integer: bool,
}

impl Tensor {
    /// A tensor of floats.
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Tensor {
        Tensor { shape, data, integer: false }
    }
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Reads a safetensors file or a PyTorch checkpoint; floats and integers become f32. A leading `module.` of all names,
/// which PyTorch's data parallelism adds, is taken off.
///
/// # Errors
/// If it cannot be read or is damaged.
pub fn read_tensors(path: &Path) -> Result<Tensors, WeightsError> {
    let shown = path.to_string_lossy().into_owned();
    if path.exists() && !path.is_file() {
        return Err(WeightsError::Format { path: shown, reason: "it is no file".into() });
    }
    let bytes = std::fs::read(path).map_err(|source| WeightsError::Read { path: shown.clone(), source })?;
    let damaged = |reason: String| WeightsError::Format { path: shown.clone(), reason: printable(&reason) };
    // A zip archive, a pickle, or a tar archive; a safetensors file starts with the length of its header.
    let mut out = Tensors::new();
    let safetensors = bytes.get(8) == Some(&b'{');
    if !safetensors && (bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80") || bytes.get(257..262) == Some(b"ustar")) {
        let read = crate::pytorch::read(path).map_err(damaged)?;
        return Ok(bare(read));
    }
    if !safetensors && bytes.len() > 8 {
        return Err(damaged("it is neither safetensors nor a PyTorch file (a zip archive, or pickles of protocol 2 or later)".into()));
    }
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
    for (name, view) in file.tensors() {
        let data = numbers(&view).ok_or_else(|| damaged(format!("tensor `{name}` has type {:?}, which is not read", view.dtype())))?;
        let integer = !matches!(view.dtype(), Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::BF16);
        out.insert(name, Tensor { shape: view.shape().to_vec(), data, integer });
    }
    Ok(bare(out))
}

/// The tensors without the `module.` before all their names.
fn bare(tensors: Tensors) -> Tensors {
    let strip = |(name, tensor): (String, Tensor)| (name.strip_prefix("module.").map(str::to_owned).unwrap_or(name), tensor);
    if tensors.keys().all(|n| n.starts_with("module.")) { tensors.into_iter().map(strip).collect() } else { tensors }
}

fn numbers(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::I64 => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
        Dtype::I32 => bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
        Dtype::U8 => bytes.iter().map(|b| f32::from(*b)).collect(),
        _ => return None,
    })
}

/// The bytes of a safetensors file with these tensors; the same tensors give the same bytes.
///
/// # Errors
/// If the format cannot hold them.
pub fn to_bytes(tensors: &Tensors) -> Result<Vec<u8>, String> {
    let bytes: Vec<(&String, &Tensor, Vec<u8>)> = tensors.iter().map(|(n, t)| (n, t, stored(t))).collect();
    let mut views = Vec::new();
    for (name, tensor, data) in &bytes {
        let kind = if tensor.integer { Dtype::I64 } else { Dtype::F32 };
        let view = TensorView::new(kind, tensor.shape.clone(), data).map_err(|e| e.to_string())?;
        views.push(((*name).clone(), view));
    }
    safetensors::serialize(views, None::<HashMap<String, String>>).map_err(|e| e.to_string())
}

fn stored(tensor: &Tensor) -> Vec<u8> {
    if tensor.integer {
        tensor.data.iter().flat_map(|x| (*x as i64).to_le_bytes()).collect()
    } else {
        tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect()
    }
}
