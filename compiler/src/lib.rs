//! `.snn` trees to programs: pure, touching no file, clock or device.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may stop at the first surprise"))]

pub mod backend;
pub mod census;
pub mod check;
pub mod dump;
pub mod explain;
pub mod flow;
pub mod fold;
pub mod fuse;
pub mod graph;
pub mod kernel;
pub mod lower;
pub mod ops;
pub mod plan;
pub mod program;
pub mod recipe;
pub mod resolve;
pub mod text;
pub mod types;
pub mod value;
