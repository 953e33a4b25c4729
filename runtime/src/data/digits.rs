//! The 8 x 8 handwritten digits that come with the project (UCI, CC BY 4.0; see `zoo/data/README.md`).

use super::{DataError, Dataset, Split};
use flate2::read::GzDecoder;
use std::io::Read;

/// Rows whose index leaves this remainder by 5 are the test set.
const TEST: usize = 4;

pub(super) fn load() -> Result<Dataset, DataError> {
    let damaged = |reason: String| DataError::Damaged { name: "digits".into(), reason };
    let mut text = String::new();
    GzDecoder::new(snnc_zoo::DIGITS).read_to_string(&mut text).map_err(|e| damaged(e.to_string()))?;
    let mut set = Dataset { name: "digits", shape: [1, 8, 8], classes: 10, train: Split::default(), test: Split::default() };
    for (row, line) in text.lines().enumerate() {
        let split = if row % 5 == TEST { &mut set.test } else { &mut set.train };
        let values: Vec<u8> = line.split(',').map_while(|v| v.trim().parse().ok()).collect();
        let [pixels @ .., label] = values.as_slice() else { return Err(damaged(format!("row {row} is empty"))) };
        if pixels.len() != 64 || *label > 9 {
            return Err(damaged(format!("row {row} has {} values", values.len())));
        }
        // 0 to 16 becomes 0 to 1.
        split.pictures.extend(pixels.iter().map(|p| f32::from(*p) / 16.0));
        split.labels.push(usize::from(*label));
    }
    Ok(set)
}
