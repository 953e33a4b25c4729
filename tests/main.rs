//! All suites in one binary.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod agreement;
mod fixtures;
mod folds;
