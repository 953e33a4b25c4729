//! Programs to execution: devices, executors, training, data and files. Decides nothing about the network.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may stop at the first surprise"))]

pub mod artifact;
mod cache;
pub mod calibrate;
pub mod certificate;
pub mod convert;
pub mod data;
pub mod device;
pub mod energy;
pub mod kept;
pub mod layout;
pub mod library;
pub mod machine;
pub mod onnx;
pub mod pictures;
mod pytorch;
pub mod reference;
pub mod session;
pub mod trace;
pub mod train;
pub mod weights;
