//! Lists the `.snn` and `.toml` files of the zoo, so that adding one is adding a file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
    let mut out = String::new();
    for (name, folder, ending) in [("MODELS", "models", "snn"), ("BLOCKS", "blocks", "snn"), ("CHECKPOINTS", "checkpoints", "toml")] {
        println!("cargo::rerun-if-changed={folder}");
        let mut files = Vec::new();
        walk(&root.join(folder), ending, &mut files)?;
        files.sort();
        let _ = writeln!(out, "/// The files under `zoo/{folder}`: (path without ending, text).\npub static {name}: &[(&str, &str)] = &[");
        for file in files {
            println!("cargo::rerun-if-changed={}", file.display());
            let short = file.strip_prefix(root.join(folder)).unwrap_or(&file).with_extension("");
            let _ = writeln!(out, "    ({:?}, include_str!({:?})),", short.to_string_lossy(), file.to_string_lossy());
        }
        out.push_str("];\n");
    }
    fs::write(PathBuf::from(env::var("OUT_DIR").unwrap_or_default()).join("files.rs"), out)
}

fn walk(folder: &Path, ending: &str, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, ending, files)?;
        } else if path.extension().is_some_and(|e| e == ending) {
            files.push(path);
        }
    }
    Ok(())
}
