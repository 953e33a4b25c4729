//! One command, one file.

mod backend;
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
pub(crate) mod fmt;
pub(crate) mod new;
pub(crate) mod predict;
pub(crate) mod summary;
pub(crate) mod trace;
pub(crate) mod train;
pub(crate) mod zoo;

use crate::Failure;
use std::path::{Path, PathBuf};

/// All `.snn` files of a folder and its folders, sorted; a file is itself.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let cannot = |e: std::io::Error| Failure::Usage(format!("cannot read the folder `{}`: {e}", path.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let own = entry.path();
        // Links to folders are not followed: they may lead in a circle.
        let kind = entry.file_type().map_err(cannot)?;
        if kind.is_dir() && !own.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.') || n == "target") {
            found.extend(files(&own)?);
        } else if own.extension().is_some_and(|e| e == "snn") && own.is_file() {
            if own.to_str().is_none() {
                return Err(Failure::Usage(format!("the name of `{}` is not UTF-8", own.display())));
            }
            found.push(own);
        }
    }
    found.sort();
    Ok(found)
}
