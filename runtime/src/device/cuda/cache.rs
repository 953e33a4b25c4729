//! Compiled kernels on disk, under a hash of all that makes them; what is cut short or was changed is not taken.

use super::nvrtc::{CompileError, compile, fingerprint};
use crate::cache;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

/// A text's machine code for an architecture: from the cache, or compiled and kept there if that can be.
///
/// # Errors
/// If it must be compiled and cannot be.
pub(super) fn compiled(text: &str, arch: &str) -> Result<Vec<u8>, CompileError> {
    let made_of = fingerprint(arch)?;
    let name = cache::name(&[made_of.as_ref(), text.as_bytes()]);
    let place = cache::folder().map(|f| f.join(format!("{name}.cubin")));
    if let Some(kept) = place.as_deref().and_then(read) {
        return Ok(kept);
    }
    let cubin = compile(text, arch)?.bytes;
    if let Some(place) = place {
        keep(&place, &cubin);
    }
    Ok(cubin)
}

/// What a file holds behind the hash that it begins with, if it is that of the rest.
fn read(place: &Path) -> Option<Vec<u8>> {
    let mut kept = fs::read(place).ok()?;
    let rest = kept.split_off(kept.len().min(32));
    (Sha256::digest(&rest)[..] == kept[..]).then_some(rest)
}

/// A cache that cannot be written is none: the next start compiles again.
fn keep(place: &Path, cubin: &[u8]) {
    let _ = cache::keep(place, &[&Sha256::digest(cubin)[..], cubin]);
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
