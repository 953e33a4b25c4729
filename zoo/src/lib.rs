//! The zoo as data: models, library blocks, checkpoint layouts, and the digits. No code beyond the list.

include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// The 8 x 8 digits, gzipped CSV; `zoo/data/README.md` has source and licence.
pub static DIGITS: &[u8] = include_bytes!("../data/digits.csv.gz");

/// The text of a model, by its path under `zoo/models` without ending.
pub fn model(name: &str) -> Option<&'static str> {
    MODELS.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}
