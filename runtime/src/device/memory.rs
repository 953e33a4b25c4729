//! Memory of a program: its own, or a file's.
#![allow(unsafe_code, reason = "a file is mapped, and its bytes are read as numbers")]

use memmap2::{MmapMut, MmapOptions};
use std::fs::File;
use std::io;

/// Bytes of a large page. What is read here and there, such as tables of sums, needs fewer of them than the processor remembers.
const LARGE: usize = 2 << 20;
/// Elements of a cache line.
const LINE: usize = 16;

/// Memory that starts on a cache line.
pub(crate) enum Memory {
    /// Zeroed at first.
    Own {
        /// With room for where it starts.
        data: Vec<f32>,
        /// The first element.
        first: usize,
    },
    /// The same in large pages.
    Large(MmapMut),
    /// Part of a file, whose pages are read when they are needed; what is written stays here.
    Mapped(MmapMut),
}

impl Memory {
    /// Zeroed memory is given page by page as it is written, so a plan for a larger batch costs nothing by itself.
    pub(crate) fn new(elements: usize) -> Memory {
        if let (true, Ok(map)) = (cfg!(target_os = "linux") && 4 * elements >= LARGE, MmapMut::map_anon(4 * elements)) {
            // Where there are none, small ones do.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            return Memory::Large(map);
        }
        let data = vec![0.0; elements + LINE];
        let bytes = data.as_ptr() as usize % (4 * LINE);
        Memory::Own { data, first: (4 * LINE - bytes) / 4 % LINE }
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
        Ok(Memory::Mapped(unsafe { MmapOptions::new().offset(from).len(bytes).map_copy(file)? }))
    }

    pub(crate) fn get(&self) -> &[f32] {
        match self {
            Memory::Own { data, first } => &data[*first..],
            // SAFETY: pages are aligned for numbers, of which every pattern of bits is one.
            Memory::Large(map) | Memory::Mapped(map) => unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), map.len() / 4) },
        }
    }

    pub(crate) fn get_mut(&mut self) -> &mut [f32] {
        match self {
            Memory::Own { data, first } => &mut data[*first..],
            // SAFETY: as above, and nobody else has it.
            Memory::Large(map) | Memory::Mapped(map) => unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), map.len() / 4) },
        }
    }

    /// As bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        let all = self.get();
        // SAFETY: numbers are bytes.
        unsafe { std::slice::from_raw_parts(all.as_ptr().cast(), 4 * all.len()) }
    }
}
