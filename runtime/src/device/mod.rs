//! Where programs run.

mod contract;
pub mod cpu;
pub mod cuda;
mod team;
