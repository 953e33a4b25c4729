//! Compiled kernels on disk, under a hash of all that makes them. A file is written aside and moved to its name, so that several
//! processes may fill one folder at once; what is cut short or was changed is not taken.

use super::nvrtc::{CompileError, compile, fingerprint};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::{env, fs, process};

/// The folder: `SNNC_CACHE`, or `snnc` in the user's cache; none if there is no home.
fn folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("SNNC_CACHE").or_else(|| set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))).map(|cache| cache.join("snnc")))
}

/// A text's machine code for an architecture: from the cache, or compiled and kept there if that can be.
///
/// # Errors
/// If it must be compiled and cannot be.
pub(super) fn compiled(text: &str, arch: &str) -> Result<Vec<u8>, CompileError> {
    let made_of = fingerprint(arch)?;
    let name = hex(&Sha256::new().chain_update(made_of).chain_update([0]).chain_update(text).finalize());
    let place = folder().map(|f| f.join(format!("{name}.cubin")));
    if let Some(kept) = place.as_deref().and_then(read) {
        return Ok(kept);
    }
    let cubin = compile(text, arch)?.bytes;
    if let Some(place) = place {
        keep(&place, &cubin);
    }
    Ok(cubin)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What a file holds behind the hash that it begins with, if it is that of the rest.
fn read(place: &Path) -> Option<Vec<u8>> {
    let mut kept = fs::read(place).ok()?;
    let rest = kept.split_off(kept.len().min(32));
    (Sha256::digest(&rest)[..] == kept[..]).then_some(rest)
}

/// A cache that cannot be written is none: the next start compiles again.
fn keep(place: &Path, cubin: &[u8]) {
    let Some(folder) = place.parent() else { return };
    let aside = place.with_extension(format!("{}.part", process::id()));
    let whole = [&Sha256::digest(cubin)[..], cubin].concat();
    let done = fs::create_dir_all(folder).and_then(|()| fs::write(&aside, whole)).and_then(|()| fs::rename(&aside, place));
    if done.is_err() {
        let _ = fs::remove_file(&aside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    fn what_was_kept_is_read_and_what_was_cut_or_changed_is_not() {
        let folder = tempfile::TempDir::new().unwrap();
        let place = folder.path().join("deep/a.cubin");
        assert_eq!(read(&place), None);
        keep(&place, b"machine code");
        assert_eq!(read(&place).unwrap(), b"machine code");
        let whole = fs::read(&place).unwrap();
        for broken in [&whole[..whole.len() - 1], &whole[..20], &[]] {
            fs::write(&place, broken).unwrap();
            assert_eq!(read(&place), None);
        }
        let mut changed = whole;
        changed[40] ^= 1;
        fs::write(&place, changed).unwrap();
        assert_eq!(read(&place), None);
        keep(&place, b"again");
        assert_eq!(read(&place).unwrap(), b"again");
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 1);
    }
}
