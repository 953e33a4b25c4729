//! Programs to execution: devices, executors, training, data and files. Decides nothing about the network.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may stop at the first surprise"))]

pub mod device;
pub mod layout;
pub mod library;
pub mod reference;
pub mod session;
pub mod weights;
