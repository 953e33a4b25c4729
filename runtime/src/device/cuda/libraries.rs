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
        match open(&path, name) {
            Ok(()) => return Ok(()),
            Err(e) => why = why.or_else(|| Some(format!("`{}`: {e}", path.display()))),
        }
    }
    Err(Missing { name: name.to_owned(), places, why })
}

/// The driver's library, which the loader must find by itself.
///
/// # Errors
/// What the loader says of it.
pub(super) fn driver() -> Result<(), String> {
    let mut why: Vec<String> = vec![];
    for name in ["libcuda.so.1", "libcuda.so"] {
        match open(Path::new(name), "cuda") {
            Ok(()) => return Ok(()),
            Err(e) => why.push(e),
        }
    }
    // One that is there and is none says more than one that is not there.
    let there = why.iter().position(|e| !absent(e)).unwrap_or(0);
    Err(why.swap_remove(there))
}

/// Whether this is what the loader says of a library that it does not find.
pub(super) fn absent(why: &str) -> bool {
    why.contains("cannot open shared object file: No such file")
}

/// Loads a library for the rest of the process, if it is what its name says.
fn open(path: &Path, name: &str) -> Result<(), String> {
    let function = match name {
        "cuda" => "cuInit",
        "nvrtc" => "nvrtcVersion",
        "cublasLt" => "cublasLtCreate",
        _ => "cudnnCreate",
    };
    // SAFETY: these are NVIDIA's libraries; what they do when they are loaded is theirs.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|e| reason(&e))?;
    // SAFETY: it is only looked for.
    unsafe { library.get::<*const ()>(function.as_bytes()) }.map_err(|_| format!("it has no `{function}`"))?;
    std::mem::forget(library);
    Ok(())
}

/// What the loader says, not only that it failed.
fn reason(e: &libloading::Error) -> String {
    let source = std::error::Error::source(e).map(ToString::to_string);
    source.unwrap_or_else(|| e.to_string())
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
    let version = |p: &PathBuf| -> Option<Vec<u32>> {
        let own = p.file_name()?.to_string_lossy().strip_prefix(&start)?.to_owned();
        own.split('.').skip(1).map(|n| n.parse().ok()).collect()
    };
    let mut found: Vec<PathBuf> = entries.filter(|p| version(p).is_some()).collect();
    found.sort_by_key(version);
    found.reverse();
    found
}
