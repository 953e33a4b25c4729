//! All suites in one binary.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod agreement;
mod diagnostics;
mod fixtures;
mod folds;
mod language;
mod operators;
mod random;
mod regressions;
mod stages;
mod streaming;
mod training;
mod verdicts;
