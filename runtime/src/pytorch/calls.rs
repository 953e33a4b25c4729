//! What a pickle asks to have called. Nothing is called here; but a checkpoint that asks for more than tensors need is
//! refused, even where it hides the call's result.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// The pickles of a legacy file before its numbers: magic number, protocol, system, content, keys.
const LEGACY_PICKLES: usize = 5;

/// More than any pickle of names and settings takes: numbers are kept beside it.
const MOST: u64 = 1 << 28;

/// What of `torch` itself a checkpoint names beside storages; types that are not read say so themselves.
const TORCH: [&str; 30] = [
    "Size",
    "Tensor",
    "device",
    "dtype",
    "layout",
    "Generator",
    "bfloat16",
    "float16",
    "float32",
    "float64",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "complex32",
    "complex64",
    "complex128",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "bool",
    "qint8",
    "quint8",
    "qint32",
    "per_tensor_affine",
];

/// The first function or class that a checkpoint names and tensors do not need.
///
/// # Errors
/// If a pickle in the file cannot be read to its end.
pub(crate) fn suspicious(path: &Path) -> Result<Option<String>, String> {
    let damaged = |e: io::Error| e.to_string();
    let mut start = Vec::new();
    File::open(path).map_err(damaged)?.take(262).read_to_end(&mut start).map_err(damaged)?;
    let mut names = Vec::new();
    let mut file = BufReader::new(File::open(path).map_err(damaged)?);
    if start.starts_with(b"PK") {
        let mut archive = zip::ZipArchive::new(file).map_err(|e| e.to_string())?;
        for i in 0..archive.len() {
            let entry = archive.by_index(i).map_err(|e| e.to_string())?;
            if entry.name().is_ok_and(|n| n.ends_with(".pkl")) {
                walk(&mut BufReader::new(entry.take(MOST)), &mut names).map_err(damaged)?;
            }
        }
    } else if start.get(257..262) == Some(b"ustar") {
        for entry in tar::Archive::new(file).entries().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            if entry.path_bytes().ends_with(b"pickle") {
                walk(&mut BufReader::new(entry.take(MOST)), &mut names).map_err(damaged)?;
            }
        }
    } else {
        for i in 0..LEGACY_PICKLES {
            // A bare pickle is one; what follows it is not read.
            if i > 0 && file.fill_buf().map_err(damaged)?.first().is_none_or(|b| *b != 0x80) {
                break;
            }
            walk(&mut file, &mut names).map_err(damaged)?;
        }
    }
    Ok(names.into_iter().find(|(module, name)| !harmless(module, name)).map(|(module, name)| format!("{module}.{name}")))
}

/// Whether a checkpoint of tensors, settings and an optimiser's state has reason to name this.
fn harmless(module: &str, name: &str) -> bool {
    let word = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let class = word && name.starts_with(|c: char| c.is_ascii_uppercase());
    match module {
        // A name with a point would be looked up further.
        _ if !word => false,
        "torch" => name.ends_with("Storage") || TORCH.contains(&name),
        "torch._utils" | "torch._tensor" => name.starts_with("_rebuild"),
        "torch.storage" => name.ends_with("Storage"),
        "collections" => ["OrderedDict", "defaultdict", "Counter", "deque"].contains(&name),
        "argparse" => name == "Namespace",
        "copyreg" | "copy_reg" => name == "_reconstructor",
        "_codecs" => name == "encode",
        "numpy" => ["dtype", "ndarray"].contains(&name),
        "numpy.core.multiarray" | "numpy._core.multiarray" => ["scalar", "_reconstruct"].contains(&name),
        "builtins" | "__builtin__" => [
            "object", "set", "frozenset", "dict", "list", "tuple", "int", "long", "float", "complex", "bool", "str", "bytes", "slice",
            "range",
        ]
        .contains(&name),
        "pathlib" => ["Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"].contains(&name),
        "datetime" => ["datetime", "date", "time", "timedelta"].contains(&name),
        other => class && (other.starts_with("torch.nn.") || other.starts_with("torch.optim.")),
    }
}

/// Reads one pickle to its end, taking down every global that it names (Python's `pickletools` lists the codes).
fn walk(r: &mut impl BufRead, names: &mut Vec<(String, String)>) -> io::Result<()> {
    // From protocol 4 on the two strings before it name a global; they may come from the memo. Whatever else comes between
    // forgets them, and an unknown name is not harmless.
    let mut strings: [Option<String>; 2] = [None, None];
    let mut memo: HashMap<u64, Option<String>> = HashMap::new();
    let push = |strings: &mut [Option<String>; 2], s: Option<String>| {
        strings.swap(0, 1);
        strings[1] = s;
    };
    loop {
        let code = bytes(r, 1)?[0];
        match code {
            b'.' => return Ok(()),
            b'c' | b'i' => {
                names.push((line(r)?, line(r)?));
                push(&mut strings, None);
            }
            0x93 => {
                let named = strings.clone().map(|s| s.unwrap_or_else(|| "?".into()));
                let [module, name] = named;
                names.push((module, name));
                push(&mut strings, None);
            }
            // Extension codes stand for globals of a registry.
            0x82..=0x84 => {
                bytes(r, [1, 2, 4][usize::from(code - 0x82)])?;
                names.push(("copyreg".into(), "extension".into()));
            }
            b'U' | b'C' | 0x8c => {
                let n = number(r, 1)?;
                let text = text(r, n)?;
                push(&mut strings, Some(text));
            }
            b'T' | b'X' | b'B' => {
                let n = number(r, 4)?;
                let text = text(r, n)?;
                push(&mut strings, Some(text));
            }
            0x8d | 0x8e | 0x96 => {
                let n = number(r, 8)?;
                let text = text(r, n)?;
                push(&mut strings, Some(text));
            }
            b'S' | b'V' => {
                let text = line(r)?;
                push(&mut strings, Some(text.trim_matches(['\'', '"']).to_owned()));
            }
            b'q' | b'r' => {
                let at = number(r, if code == b'q' { 1 } else { 4 })?;
                memo.insert(at, strings[1].clone());
            }
            0x94 => {
                memo.insert(memo.len() as u64, strings[1].clone());
            }
            b'h' | b'j' => {
                let at = number(r, if code == b'h' { 1 } else { 4 })?;
                push(&mut strings, memo.get(&at).cloned().flatten());
            }
            b'p' => {
                let at = line(r)?.parse().unwrap_or(u64::MAX);
                memo.insert(at, strings[1].clone());
            }
            b'g' => {
                let at = line(r)?.parse().unwrap_or(u64::MAX);
                push(&mut strings, memo.get(&at).cloned().flatten());
            }
            b'I' | b'L' | b'F' | b'P' => {
                line(r)?;
                push(&mut strings, None);
            }
            0x8a | 0x8b => {
                let n = number(r, if code == 0x8a { 1 } else { 4 })?;
                text(r, n)?;
                push(&mut strings, None);
            }
            // A frame may end anywhere.
            0x95 => drop(bytes(r, 8)?),
            b'K' | 0x80 => {
                bytes(r, 1)?;
                strings = [None, None];
            }
            b'M' => {
                bytes(r, 2)?;
                strings = [None, None];
            }
            b'J' => {
                bytes(r, 4)?;
                strings = [None, None];
            }
            b'G' => {
                bytes(r, 8)?;
                strings = [None, None];
            }
            // Codes without an argument.
            b'('
            | b'0'
            | b'1'
            | b'2'
            | b'N'
            | b'Q'
            | b'R'
            | b'a'
            | b'b'
            | b'd'
            | b'}'
            | b'e'
            | b'l'
            | b']'
            | b'o'
            | b's'
            | b't'
            | b')'
            | b'u'
            | 0x81
            | 0x85..=0x89
            | 0x8f..=0x92
            | 0x97
            | 0x98 => strings = [None, None],
            other => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("its pickle has the unknown code {other:#04x}"))),
        }
    }
}

fn bytes(r: &mut impl BufRead, n: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; n];
    r.read_exact(&mut out)?;
    Ok(out)
}

fn number(r: &mut impl BufRead, n: usize) -> io::Result<u64> {
    Ok(bytes(r, n)?.iter().rev().fold(0, |all, b| all << 8 | u64::from(*b)))
}

/// As many bytes as told, of which the file must have all.
fn text(r: &mut impl BufRead, n: u64) -> io::Result<String> {
    let mut out = Vec::new();
    if r.take(n).read_to_end(&mut out)? as u64 != n {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn line(r: &mut impl BufRead) -> io::Result<String> {
    let mut out = Vec::new();
    r.read_until(b'\n', &mut out)?;
    if out.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}
