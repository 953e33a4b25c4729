//! NVIDIA's libraries, loaded when they are first needed: the project builds and runs without them.
#![allow(unsafe_code, reason = "a library's initialisers run when it is loaded")]

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A library that is not there.
#[derive(Debug, Error)]
#[error("there is no `lib{name}.so` in {}{}", listed(places), why.as_ref().map_or(String::new(), |w| format!(" ({w})")))]
pub(super) struct Missing {
    /// Its name, without `lib` and what follows the point.
    name: String,
    /// Where it was looked for.
    places: Vec<PathBuf>,
    /// What the loader says of one that is there.
    why: Option<String>,
}

fn listed(places: &[PathBuf]) -> String {
    let shown: Vec<String> = places.iter().take(8).map(|p| format!("`{}`", p.display())).collect();
    let more = places.len().saturating_sub(shown.len());
    if more > 0 { format!("{} and {more} other folders", shown.join(", ")) } else { shown.join(", ") }
}

/// Loads a library for the rest of the process, so that it is found by its name: from `SNNC_CUDA`, `LD_LIBRARY_PATH`, the
/// `nvidia` packages of a Python environment, or where systems have them.
///
/// # Errors
/// If it is in none of these places, or cannot be loaded.
pub(super) fn load(name: &str) -> Result<(), Missing> {
    let places = places();
    let mut why = None;
    for path in places.iter().flat_map(|place| named(place, name)) {
        // SAFETY: these are NVIDIA's libraries; what they do when they are loaded is theirs.
        match unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => {
                std::mem::forget(library);
                return Ok(());
            }
            Err(e) => why = Some(e.to_string()),
        }
    }
    Err(Missing { name: name.to_owned(), places, why })
}

/// Folders that may hold the libraries, in the order in which they are looked at.
fn places() -> Vec<PathBuf> {
    let listed = |name: &str| std::env::var_os(name).map(|v| std::env::split_paths(&v).collect::<Vec<_>>()).unwrap_or_default();
    let mut places: Vec<PathBuf> = listed("SNNC_CUDA").iter().flat_map(|p| [p.clone(), p.join("lib"), p.join("lib64")]).collect();
    places.extend(listed("SNNC_CUDA").iter().flat_map(|p| packages(p)));
    places.extend(listed("LD_LIBRARY_PATH"));
    for home in ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().flat_map(|n| listed(n)) {
        places.extend(folders(&home.join("lib"), "python").iter().flat_map(|p| packages(&p.join("site-packages"))));
    }
    places.extend(
        ["/usr/local/cuda/lib64", "/opt/cuda/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"]
            .map(PathBuf::from),
    );
    places.retain(|p| p.is_dir());
    places
}

/// The library folders of the `nvidia` packages under a folder of Python packages.
fn packages(site: &Path) -> Vec<PathBuf> {
    folders(&site.join("nvidia"), "").into_iter().map(|p| p.join("lib")).collect()
}

/// The folders in a folder whose names begin so, sorted.
fn folders(of: &Path, start: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(of).into_iter().flatten().flatten().map(|e| e.path());
    let wanted = |p: &PathBuf| p.is_dir() && p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(start));
    let mut found: Vec<PathBuf> = entries.filter(wanted).collect();
    found.sort();
    found
}

/// Files of a library in a folder: `libNAME.so` and those with a version, the newest first.
fn named(place: &Path, name: &str) -> Vec<PathBuf> {
    let start = format!("lib{name}.so");
    let entries = std::fs::read_dir(place).into_iter().flatten().flatten().map(|e| e.path());
    let mut found: Vec<PathBuf> = entries.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&start))).collect();
    found.sort();
    found.reverse();
    found
}
