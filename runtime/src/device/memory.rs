//! Memory of a program: its own, or a file's.
#![allow(unsafe_code, reason = "a file is mapped, and its bytes are read as numbers")]

use memmap2::{MmapMut, MmapOptions};
use snnc_compiler::backend::clif::CodeError;
use snnc_compiler::text::bytes;
use std::fs::File;
use std::io;

/// Bytes of a large page. What is read here and there, such as tables of sums, needs fewer of them than the processor remembers.
const LARGE: usize = 2 << 20;

/// Memory that starts on a page: zeroed, or part of a file, whose pages are read when they are needed; what is written stays here.
pub(crate) struct Memory(MmapMut);

impl Memory {
    /// Zeroed memory is given page by page as it is written, so a plan for a larger batch costs nothing by itself.
    ///
    /// # Errors
    /// If the system gives none.
    pub(crate) fn new(elements: usize) -> Result<Memory, CodeError> {
        let size = 4 * elements.max(1);
        let map =
            MmapMut::map_anon(size).map_err(|e| CodeError(format!("the system gives it no {} of memory: {e}", bytes(size as u128))))?;
        // Where there are none, small ones do.
        #[cfg(target_os = "linux")]
        if size >= LARGE {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Memory(map))
    }

    /// So many bytes of a file, from a multiple of the size of its pages on.
    ///
    /// # Errors
    /// If it cannot be mapped, or is shorter.
    pub(crate) fn of(file: &File, from: u64, bytes: usize) -> io::Result<Memory> {
        if file.metadata()?.len() < from + bytes as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: files of the cache are never written once they have their names, only replaced. Who truncates one by other means ends the
        // process with SIGBUS.
        Ok(Memory(unsafe { MmapOptions::new().offset(from).len(bytes).map_copy(file)? }))
    }

    pub(crate) fn get(&self) -> &[f32] {
        // SAFETY: pages are aligned for numbers, of which every pattern of bits is one.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() / 4) }
    }

    pub(crate) fn get_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() / 4) }
    }

    /// As bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
