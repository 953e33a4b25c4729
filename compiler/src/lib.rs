//! `.snn` trees to programs: pure, touching no file, clock or device.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may stop at the first surprise"))]

pub mod check;
pub mod flow;
pub mod fold;
pub mod graph;
pub mod ops;
pub mod resolve;
pub mod types;
pub mod value;
