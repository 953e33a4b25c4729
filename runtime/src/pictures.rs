//! Pictures from files.

use snnc_compiler::types::Signal;
use std::path::Path;
use thiserror::Error;

/// Why a picture cannot be used.
#[derive(Debug, Error)]
pub enum PictureError {
    /// It cannot be read.
    #[error("cannot read the picture `{path}`: {reason}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The network takes no pictures.
    #[error("the network takes [{axes}], which no picture file gives; it must be C (1 or 3), H and W in this order")]
    Input {
        /// What it takes.
        axes: String,
    },
}

/// Reads a PNG or JPEG file as `[C, H, W]` of a network's input, scaled to its size, 0 to 1.
///
/// # Errors
/// If it cannot be read, or the network takes something else.
pub fn read(path: &Path, input: &Signal) -> Result<Vec<f32>, PictureError> {
    let wrong = || PictureError::Input { axes: input.axes_text() };
    let names: Vec<&str> = input.axes.iter().map(|a| a.name.as_str()).collect();
    let sizes: Vec<usize> = input.axes.iter().map(|a| a.size).collect();
    let (["C", "H", "W"], &[c @ (1 | 3), h, w], false) = (names.as_slice(), sizes.as_slice(), input.varies) else { return Err(wrong()) };
    let side = |n: usize| u32::try_from(n).map_err(|_| wrong());
    let picture = image::open(path).map_err(|e| PictureError::Read { path: path.to_string_lossy().into_owned(), reason: e.to_string() })?;
    let sized = picture.resize_exact(side(w)?, side(h)?, image::imageops::FilterType::Triangle);
    let raw: Vec<u8> = if c == 1 { sized.to_luma8().into_raw() } else { sized.to_rgb8().into_raw() };
    let mut out = Vec::with_capacity(c * h * w);
    for channel in 0..c {
        out.extend(raw.iter().skip(channel).step_by(c).map(|p| f32::from(*p) / 255.0));
    }
    Ok(out)
}
