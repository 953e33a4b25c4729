//! Kernels to the text or machine code of a device.

pub mod clif;

/// Where a kernel finds what it is given: the context behind its first argument, in bytes.
pub mod context {
    /// Time steps of the call, i64.
    pub const STEPS: i32 = 0;
    /// Samples of the call, f32.
    pub const BATCH: i32 = 8;
    /// Time steps of the call, f32.
    pub const STEPS_REAL: i32 = 12;
    /// Into how many ranges the outermost loop was cut, i64.
    pub const RANGES: i32 = 16;
    /// The caller's numbers, f32 each.
    pub const HYPER: i32 = 24;
    /// How many numbers there is room for.
    pub const HYPERS: usize = 10;
    /// Addresses of the arguments.
    pub const ARGS: i32 = 64;
}
