//! Data sets, one file each, and what is done to pictures in training.

mod digits;
pub mod events;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snnc_compiler::graph::Graph;
use snnc_compiler::types::Axis;
use thiserror::Error;

/// Why there is no data.
#[derive(Debug, Error)]
pub enum DataError {
    /// No data set of this name.
    #[error("there is no data set `{name}`; there are: {}", .known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// Those there are.
        known: Vec<&'static str>,
    },
    /// The data cannot be read.
    #[error("the data set `{name}` is damaged: {reason}")]
    Damaged {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
    /// It does not fit the network.
    #[error("`{name}` has pictures of [C = {}, H = {}, W = {}] in {classes} classes, but `{model}` takes {input} and gives {outputs}", shape[0], shape[1], shape[2])]
    Shape {
        /// The data set.
        name: String,
        /// Its pictures.
        shape: [usize; 3],
        /// Its classes.
        classes: usize,
        /// The network.
        model: String,
        /// What it takes.
        input: String,
        /// The classes it gives.
        outputs: usize,
    },
}

/// Pictures `[C, H, W]` with labels.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// All pictures, one after the other.
    pub pictures: Vec<f32>,
    /// Their labels.
    pub labels: Vec<usize>,
}

/// A data set.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Its name.
    pub name: &'static str,
    /// Extents of a picture: C, H, W.
    pub shape: [usize; 3],
    /// Classes.
    pub classes: usize,
    /// For training.
    pub train: Split,
    /// For testing.
    pub test: Split,
}

impl Dataset {
    /// The data set of this name.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn named(name: &str) -> Result<Dataset, DataError> {
        match name {
            "digits" => digits::load(),
            _ => Err(DataError::Unknown { name: name.to_owned(), known: vec!["digits"] }),
        }
    }

    /// Whether a network takes these pictures and tells these classes apart.
    ///
    /// # Errors
    /// [`DataError::Shape`].
    pub fn fits(&self, graph: &Graph) -> Result<(), DataError> {
        let input = &graph.node(graph.input).signal;
        let pictures: Vec<Axis> = ["C", "H", "W"].iter().zip(self.shape).map(|(name, size)| Axis::new(*name, size)).collect();
        if input.axes == pictures && !input.varies && graph.classes() == self.classes {
            return Ok(());
        }
        Err(DataError::Shape {
            name: self.name.to_owned(),
            shape: self.shape,
            classes: self.classes,
            model: graph.name.clone(),
            input: input.to_string(),
            outputs: graph.classes(),
        })
    }

    /// Values of a picture.
    pub fn picture_size(&self) -> usize {
        self.shape.iter().product()
    }

    /// The pictures of a split with these indices, shifted by up to `shift` pixels along both axes; what comes in is 0.
    /// The shift of a picture hangs on seed, epoch and index only.
    pub fn gather(&self, split: &Split, indices: &[usize], shift: f64, seed: u64, epoch: u64, out: &mut Vec<f32>) {
        let size = self.picture_size();
        out.clear();
        for &index in indices {
            let picture = &split.pictures[index * size..][..size];
            if shift == 0.0 {
                out.extend_from_slice(picture);
                continue;
            }
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(epoch);
            rng.set_word_pos(index as u128 * 16);
            let [dy, dx] = [(); 2].map(|()| (rng.random::<f64>() * 2.0 - 1.0) * shift);
            shifted(picture, self.shape, dy, dx, out);
        }
    }
}

/// Appends the picture moved by a fraction of pixels, bilinear.
fn shifted(picture: &[f32], [channels, height, width]: [usize; 3], dy: f64, dx: f64, out: &mut Vec<f32>) {
    let (y0, x0) = (dy.floor(), dx.floor());
    let (fy, fx) = ((dy - y0) as f32, (dx - x0) as f32);
    let at = |c: usize, y: i64, x: i64| {
        let inside = (0..height as i64).contains(&y) && (0..width as i64).contains(&x);
        if inside { picture[(c * height + y as usize) * width + x as usize] } else { 0.0 }
    };
    for c in 0..channels {
        for y in 0..height as i64 {
            for x in 0..width as i64 {
                let (sy, sx) = (y + y0 as i64, x + x0 as i64);
                let top = at(c, sy, sx) * (1.0 - fx) + at(c, sy, sx + 1) * fx;
                let bottom = at(c, sy + 1, sx) * (1.0 - fx) + at(c, sy + 1, sx + 1) * fx;
                out.push(top * (1.0 - fy) + bottom * fy);
            }
        }
    }
}

/// An order of `n` indices that hangs on seed and epoch only (Fisher and Yates).
pub fn shuffled(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed_5eed);
    rng.set_stream(epoch);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
    order
}
