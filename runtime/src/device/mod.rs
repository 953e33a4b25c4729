//! Where programs run.

mod contract;
pub mod cpu;
mod team;
