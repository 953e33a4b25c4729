//! All suites in one binary.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop at the first surprise, and says where it was")]

mod agreement;
mod census;
mod cuda;
mod diagnostics;
mod fixtures;
mod folds;
mod gpu;
mod language;
mod masked;
mod onnx;
mod operators;
mod precision;
mod proof;
mod random;
mod regressions;
mod stages;
mod streaming;
mod training;
mod verdicts;
