//! The pages behind diagnostic codes.

const TEXT: &str = include_str!("explain.md");

/// All codes with their pages, in the order of the file.
pub fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
    TEXT.split("\n# ").skip(1).filter_map(|page| page.split_once('\n'))
}

/// The page of a code, without `snnc::`.
pub fn page(code: &str) -> Option<&'static str> {
    pages().find(|(c, _)| *c == code).map(|(_, text)| text)
}
