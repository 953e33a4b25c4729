//! One command, one file.

mod backend;
pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod census;
pub(crate) mod certify;
pub(crate) mod check;
pub(crate) mod convert;
pub(crate) mod diff;
pub(crate) mod dump;
pub(crate) mod energy;
pub(crate) mod eval;
pub(crate) mod explain;
pub(crate) mod export;
mod fix;
pub(crate) mod fmt;
mod fused;
pub(crate) mod new;
pub(crate) mod predict;
pub(crate) mod run;
mod schedule;
pub(crate) mod summary;
pub(crate) mod trace;
pub(crate) mod train;
pub(crate) mod zoo;

use crate::Failure;
use std::path::{Path, PathBuf};

/// All `.snn` files of a folder and its folders, sorted; a file is itself. Folders that begin with `.` and those called `target`
/// are left out.
///
/// # Errors
/// A folder, or a file of that name in it, that cannot be read: it would be left out unseen.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = below(path)?;
    found.sort();
    Ok(found)
}

/// A file's bytes. Pipes and devices may have no end, and are refused.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    match std::fs::metadata(path) {
        Ok(m) if !m.is_file() => Err("it is no file".into()),
        _ => std::fs::read(path).map_err(|e| e.to_string()),
    }
}

/// The same of a text.
pub(crate) fn text(path: &Path) -> Result<String, String> {
    String::from_utf8(bytes(path)?).map_err(|_| "it is not UTF-8".into())
}

fn below(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let cannot = |e: std::io::Error| Failure::Usage(format!("cannot read the folder `{}`: {e}", path.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let own = entry.path();
        let kind = entry.file_type().map_err(cannot)?;
        let model = own.extension().is_some_and(|e| e.eq_ignore_ascii_case("snn"));
        let skipped = own.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.') || n == "target");
        if kind.is_dir() && !skipped {
            found.extend(below(&own)?);
        } else if kind.is_symlink() && own.is_dir() && !skipped {
            // It may lead in a circle, or out of what was meant.
            eprintln!("note: `{}` is a link to a folder and is not followed", own.display());
        } else if model && !own.is_dir() {
            if !own.is_file() {
                let why = if own.exists() { "it is no file" } else { "it is a link that leads nowhere" };
                return Err(Failure::Usage(format!("cannot read `{}`: {why}", own.display())));
            }
            if own.to_str().is_none() {
                return Err(Failure::Usage(format!("the name of `{}` is not UTF-8", own.display())));
            }
            found.push(own);
        }
    }
    Ok(found)
}
