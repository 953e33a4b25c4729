//! The folder of what is made again if it is not there: machine code, packed weights. A file is written aside and moved to its name, so that
//! several processes may fill one folder at once.

use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, io, process};

/// Files written so far.
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// The folder: `SNNC_CACHE`, or `snnc` in the user's cache; none if there is no home.
pub(crate) fn folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("SNNC_CACHE").or_else(|| set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))).map(|cache| cache.join("snnc")))
}

/// A name for what these are the parts of.
pub(crate) fn name(parts: &[&[u8]]) -> String {
    // Lengths keep the parts apart.
    let hash = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update((part.len() as u64).to_le_bytes()).chain_update(part));
    snnc_compiler::text::hex(&hash.finalize())
}

/// Writes a file that is there as a whole or not at all.
///
/// # Errors
/// If the folder cannot be made or written.
pub(crate) fn keep(place: &Path, parts: &[&[u8]]) -> io::Result<()> {
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    // Nobody else's: of this process, and of this call in it.
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let aside = place.with_extension(format!("{}-{call}.part", process::id()));
    let write = || {
        let mut file = fs::File::create(&aside)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        fs::rename(&aside, place)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&aside);
    })
}
