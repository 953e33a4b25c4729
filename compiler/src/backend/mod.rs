//! Kernels to the text or machine code of a device.

mod avx2;
pub mod clif;
pub mod cuda;
pub mod product;

/// What a program reaches through its first argument, in bytes.
pub mod context {
    /// Time steps of the call, i64.
    pub const STEPS: i32 = 0;
    /// Samples of the call, f32.
    pub const BATCH: i32 = 8;
    /// Time steps of the call, f32.
    pub const STEPS_REAL: i32 = 12;
    /// Into how many ranges the outermost loop of the group was cut, i64.
    pub const RANGES: i32 = 16;
    /// The caller's numbers, f32 each.
    pub const HYPER: i32 = 24;
    /// How many numbers there is room for.
    pub const HYPERS: usize = 10;
    /// Samples of the call, i64.
    pub const SAMPLES: i32 = 64;
    /// Not zero once what hangs on static input only has been computed, i64.
    pub const STARTED: i32 = 72;
    /// Where the weights lie.
    pub const WEIGHTS: i32 = 80;
    /// The time step that the call begins with, i64.
    pub const FIRST: i32 = 88;
    /// The time step that the next call begins with, i64.
    pub const NEXT: i32 = 96;
    /// Addresses for the way in: the input's, and the caller's.
    pub const ENTER: i32 = 104;
    /// Addresses for the way out: the logits', and the caller's.
    pub const LEAVE: i32 = 120;
    /// Addresses for the loops, one after the other.
    pub const ARGS: i32 = 136;
}
