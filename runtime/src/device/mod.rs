//! Where programs run.

pub mod cpu;
mod contract;
