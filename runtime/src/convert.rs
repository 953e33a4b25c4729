//! Checkpoints from one naming to another: ours, and those of the published systems.

use crate::layout::Layout;
use crate::weights::{Tensor, Tensors, Weights, WeightsError};
use snnc_compiler::graph::Graph;
use snnc_compiler::ops::Role;

/// Which way a conversion went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From published names to ours.
    ToOurs,
    /// From our names to the published ones.
    ToPublished,
}

/// Renames the tensors of a checkpoint; whose names they have decides the way.
///
/// # Errors
/// [`WeightsError::Mismatch`] with all that is missing, too much, or of another shape.
pub fn convert(tensors: &Tensors, path: &str, graph: &Graph, layout: &Layout) -> Result<(Tensors, Direction), WeightsError> {
    let ours = graph.params.iter().filter(|p| tensors.contains_key(&p.path)).count();
    let published = layout.entries(graph).iter().filter(|e| e.names.iter().any(|n| tensors.contains_key(n))).count();
    if ours > published {
        let weights = Weights::from_tensors(tensors, path, graph, None)?;
        return Ok((self::published(&weights, graph, layout), Direction::ToPublished));
    }
    let weights = Weights::from_published(tensors, path, graph, layout)?;
    Ok((weights.tensors(graph), Direction::ToOurs))
}

/// The parameters as a published checkpoint has them, under every alias.
fn published(weights: &Weights, graph: &Graph, layout: &Layout) -> Tensors {
    let mut tensors = Tensors::new();
    for ((param, values), entry) in graph.params.iter().zip(&weights.values).zip(layout.entries(graph)) {
        let tensor = Tensor { shape: entry.shape, data: values.clone(), integer: param.role == Role::Batches };
        tensors.extend(entry.names.into_iter().map(|name| (name, tensor.clone())));
    }
    tensors
}
