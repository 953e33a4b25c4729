//! This machine: what it has, as Linux says it.

use snnc_compiler::backend::clif::{CodeError, Target};
use snnc_compiler::fuse::Expected;
use std::fs::read_to_string;

/// Bytes of memory that are left, and that a container may have; elsewhere than on Linux no limit.
pub(crate) fn memory() -> u128 {
    let text = read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let left = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u128>().ok()).map(|kilobytes| kilobytes * 1024);
    let given = read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    left.into_iter().chain(given).min().unwrap_or(u128::MAX)
}

/// The most bytes of memory that this process has had at once, if that is known.
pub fn peak() -> Option<u64> {
    let text = read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|k| k * 1024)
}

/// What its code is made for.
pub(crate) fn target(expected: &Expected) -> Result<Target, CodeError> {
    if expected.narrow { Target::narrow() } else { Target::host() }
}

/// What an inference of batches of up to so many samples is cut for here: where there are fewer samples than threads, these share each.
pub fn expected(batch: usize) -> Expected {
    // More threads than cores have nothing to share.
    let cores = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
    let mut expected = Expected { threads: rayon::current_num_threads().min(cores).div_ceil(batch.max(1)), ..Expected::default() };
    if let Ok(target) = Target::host() {
        expected.lanes = target.lanes();
    }
    for (level, bytes) in ["0", "2"].iter().zip(&mut expected.caches) {
        // The first is the first cache of data, the third the second cache.
        let text = read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{level}/size")).unwrap_or_default();
        if let Some(kilobytes) = text.trim().strip_suffix('K').and_then(|k| k.parse::<usize>().ok()) {
            *bytes = kilobytes << 10;
        }
    }
    expected
}
