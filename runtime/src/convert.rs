//! Checkpoints from one naming to another: ours, and those of the published systems.

use crate::layout::Layout;
use crate::weights::{Tensor, Tensors, Weights, WeightsError};
use snnc_compiler::graph::Graph;
use snnc_compiler::ops::Role;
use snnc_compiler::text::printable;

/// Which way a conversion went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From published names to ours.
    ToOurs,
    /// From our names to the published ones.
    ToPublished,
}

/// Renames the tensors of a checkpoint; whose names they have decides the way. The way to the published names and back
/// changes nothing. The way to ours and back gives every tensor under all names of today and as f32, and what the network
/// does not use with its first value.
///
/// # Errors
/// [`WeightsError::Layout`] if the layout is that of another system, [`WeightsError::Stranger`] if no name is known,
/// [`WeightsError::Mismatch`] with all that is missing, too much, or of another shape.
pub fn convert(tensors: &Tensors, path: &str, graph: &Graph, layout: &Layout) -> Result<(Tensors, Direction), WeightsError> {
    if !layout.fits(graph) {
        let fits = |name: &&str| Layout::named(name).is_ok_and(|l| l.fits(graph));
        let fits = snnc_zoo::CHECKPOINTS.iter().map(|(name, _)| *name).find(fits).map(str::to_owned);
        return Err(WeightsError::Layout { layout: layout.name.clone(), model: graph.name.clone(), fits });
    }
    let ours = graph.params.iter().filter(|p| tensors.contains_key(&p.path)).count();
    let entries = layout.entries(graph);
    let published = entries.iter().filter(|e| e.all().any(|n| tensors.contains_key(n))).count();
    if ours.max(published) == 0 {
        return Err(stranger(tensors, path, graph, layout));
    }
    if ours > published {
        let weights = Weights::exact(tensors, path, graph, None)?;
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
    for (name, shape, value) in layout.unused(graph) {
        let data = vec![value; shape.iter().product()];
        tensors.insert(name, Tensor::new(shape, data));
    }
    tensors
}

/// What to say of a file that has nothing of the network: what its names are like, and what was looked for.
fn stranger(tensors: &Tensors, path: &str, graph: &Graph, layout: &Layout) -> WeightsError {
    let some = |names: &mut dyn Iterator<Item = String>| printable(&names.take(3).collect::<Vec<_>>().join(", "));
    WeightsError::Stranger {
        path: path.to_owned(),
        model: graph.name.clone(),
        count: tensors.len(),
        names: Box::new([
            some(&mut tensors.keys().cloned()),
            some(&mut layout.entries(graph).into_iter().map(|e| e.names[0].clone())),
            some(&mut graph.params.iter().map(|p| p.path.clone())),
        ]),
    }
}
