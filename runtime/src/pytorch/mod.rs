//! PyTorch checkpoints, `.pth` and `.pth.tar`: tensors by name. Nothing in them is executed.

mod calls;

use pytorch_reader::{DType, PytorchReader, Tensor as Stored};
use std::path::Path;

use crate::weights::{Tensor, Tensors};

/// Where a checkpoint keeps its network, the most particular first.
const NESTED: [&str; 3] = ["state_dict", "model", "model_state_dict"];

/// Files up to this size in bytes may hold tensors of this size.
const LEAST: u64 = 1 << 26;
/// How often a file's tensors may share its bytes: published files have up to five names for one tensor.
const REPEATED: u64 = 8;

/// Reads the tensors of a checkpoint, nested under `state_dict` or `model` or not.
///
/// # Errors
/// What is damaged, or not read, or asks for a function that tensors do not need.
pub(crate) fn read(path: &Path) -> Result<Tensors, String> {
    if let Some(name) = calls::suspicious(path)? {
        return Err(format!("it names `{name}`, which no tensor needs; nothing of it was executed"));
    }
    let nested = NESTED.iter().filter_map(|key| PytorchReader::with_top_level_key(path, key).ok());
    let reader = match nested.into_iter().find(|r| !r.tensors().is_empty()) {
        Some(reader) => reader,
        None => PytorchReader::new(path).map_err(|e| e.to_string())?,
    };
    if reader.tensors().is_empty() {
        return Err("it holds no tensors".into());
    }
    let mut stored: Vec<(&String, &Stored)> = reader.tensors().iter().collect();
    stored.sort_by_key(|(name, _)| *name);
    // A view that repeats few numbers may claim to be of any size.
    let file = std::fs::metadata(path).map_or(0, |m| m.len()).max(LEAST);
    let (mut all, most) = (0u64, REPEATED.saturating_mul(file));
    for (name, tensor) in &stored {
        all = all.saturating_add(tensor.byte_len() as u64);
        if tensor.byte_len() as u64 > file || all > most {
            return Err(format!("tensor `{name}` has {:?} values, more than the file holds", tensor.shape()));
        }
    }
    stored.into_iter().map(|(name, tensor)| Ok((name.clone(), numbers(name, tensor)?))).collect()
}

fn numbers(name: &str, tensor: &Stored) -> Result<Tensor, String> {
    let bytes = tensor.read().map_err(|e| e.to_string())?;
    let (data, integer): (Vec<f32>, bool) = match tensor.dtype() {
        DType::F32 => (bytes.as_chunks::<4>().0.iter().map(|b| f32::from_ne_bytes(*b)).collect(), false),
        DType::F64 => (bytes.as_chunks::<8>().0.iter().map(|b| f64::from_ne_bytes(*b) as f32).collect(), false),
        DType::F16 => (bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_ne_bytes(*b).to_f32()).collect(), false),
        DType::BF16 => (bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_ne_bytes(*b).to_f32()).collect(), false),
        DType::I64 => (bytes.as_chunks::<8>().0.iter().map(|b| i64::from_ne_bytes(*b) as f32).collect(), true),
        DType::I32 => (bytes.as_chunks::<4>().0.iter().map(|b| i32::from_ne_bytes(*b) as f32).collect(), true),
        other => return Err(format!("tensor `{name}` has type {other:?}, which is not read")),
    };
    Ok(Tensor { shape: tensor.shape().to_vec(), data, integer })
}
