//! CUDA C to machine code for a device, by NVRTC: no device is needed for that.
#![allow(unsafe_code, reason = "NVRTC is a C library")]

use super::libraries::{self, Missing};
use cudarc::nvrtc::{result, sys};
use std::ffi::CString;
use std::sync::OnceLock;
use thiserror::Error;

/// Why there is no machine code for a device.
#[derive(Debug, Error)]
pub enum CompileError {
    /// There is no compiler.
    #[error("CUDA kernels cannot be compiled: {0}")]
    Missing(String),
    /// It is too old for the device, or too new.
    #[error(
        "NVRTC {}.{} does not know this device's architecture, {arch}: install {} one (package nvidia-cuda-nvrtc of PyPI)",
        .version.0, .version.1, if *.later { "a later" } else { "an earlier" }
    )]
    Unknown {
        /// The architecture.
        arch: String,
        /// The compiler's version.
        version: (i32, i32),
        /// A later one may know it.
        later: bool,
    },
    /// It refuses the text, or has something to say about it.
    #[error("NVRTC for {arch}: {log}")]
    Text {
        /// The architecture.
        arch: String,
        /// What it says.
        log: String,
    },
}

/// A module for one architecture.
#[derive(Clone, Debug)]
pub struct Cubin {
    /// The module.
    pub bytes: Vec<u8>,
    /// What every kernel takes.
    pub kernels: Vec<Usage>,
}

/// What a kernel takes of a multiprocessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Its name.
    pub name: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of registers that did not fit, stored and loaded.
    pub spilled: u32,
}

fn loaded() -> Result<(), CompileError> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(|| libraries::load("nvrtc").map_err(|e: Missing| e.to_string())).clone().map_err(CompileError::Missing)
}

fn options(arch: &str) -> [String; 5] {
    [
        format!("--gpu-architecture={arch}"),
        "--std=c++17".into(),
        "--fmad=false".into(),
        "--ptxas-options=-v".into(),
        "--diag-suppress=177".into(),
    ]
}

/// The compiler's version, and what follows its point.
///
/// # Errors
/// If there is no compiler.
pub fn version() -> Result<(i32, i32), CompileError> {
    loaded()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two numbers.
    let version = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    version.result().map_err(|e| CompileError::Missing(e.to_string()))?;
    Ok((major, minor))
}

/// What besides the text decides about the machine code: options, and the compiler's version.
///
/// # Errors
/// If there is no compiler.
pub fn fingerprint(arch: &str) -> Result<String, CompileError> {
    let (major, minor) = version()?;
    Ok(format!("NVRTC {major}.{minor} {}", options(arch).join(" ")))
}

/// Compiles a text for an architecture, such as `sm_90`.
///
/// # Errors
/// If NVRTC is not there, or gives an error or a warning.
pub fn compile(text: &str, arch: &str) -> Result<Cubin, CompileError> {
    loaded()?;
    let refused = |log: String| CompileError::Text { arch: arch.to_owned(), log };
    let failed = |e: result::NvrtcError| refused(e.to_string());
    let source = CString::new(text).map_err(|_| refused("the text holds a zero".into()))?;
    let program = Program(result::create_program(&source, Some(c"kernels.cu")).map_err(failed)?);
    let options = options(arch);
    // SAFETY: the program is there until the end of this function.
    let (outcome, log) = unsafe { (result::compile_program(program.0, &options), result::get_program_log(program.0)) };
    let log: String = log.map_err(failed)?.into_iter().map(|c| char::from(c.to_ne_bytes()[0])).filter(|c| *c != '\0').collect();
    if outcome.is_err() {
        let unknown = log.contains("invalid value for --gpu-architecture");
        let of = || Ok(CompileError::Unknown { arch: arch.to_owned(), version: version()?, later: later(arch) });
        return Err(if unknown { of()? } else { refused(log) });
    }
    if log.contains("warning") {
        return Err(refused(log));
    }
    let mut size = 0;
    // SAFETY: as above; the buffer has the size that NVRTC asks for.
    let bytes = unsafe {
        sys::nvrtcGetCUBINSize(program.0, &raw mut size).result().map_err(failed)?;
        let mut bytes = vec![0u8; size];
        sys::nvrtcGetCUBIN(program.0, bytes.as_mut_ptr().cast()).result().map_err(failed)?;
        bytes
    };
    Ok(Cubin { bytes, kernels: usage(&log) })
}

/// Whether an architecture that the compiler does not know is later than those it knows, and not older.
fn later(arch: &str) -> bool {
    let mut count = 0;
    // SAFETY: writes one number.
    if unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut count) }.result().is_err() {
        return true;
    }
    let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: as many numbers fit.
    let listed = unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) }.result().is_ok();
    let own = arch.trim_start_matches("sm_").parse::<i32>().unwrap_or(i32::MAX);
    !listed || known.iter().min().is_none_or(|first| own > *first)
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was created, and is not used any more.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// Reads what the assembler says of every kernel.
fn usage(log: &str) -> Vec<Usage> {
    let mut kernels: Vec<Usage> = Vec::new();
    let before = |line: &str, word: &str| line.split(word).next()?.trim().rsplit(' ').next()?.parse().ok();
    for line in log.lines() {
        if let Some(name) = line.split("Compiling entry function '").nth(1).and_then(|l| l.split('\'').next()) {
            kernels.push(Usage { name: name.to_owned(), registers: 0, spilled: 0 });
        }
        let Some(last) = kernels.last_mut() else { continue };
        if let Some(bytes) = line.contains("bytes spill stores").then(|| before(line, "bytes spill stores")).flatten() {
            last.spilled = bytes;
        }
        if let Some(used) = line.split("Used ").nth(1).and_then(|l| before(l, "registers")) {
            last.registers = used;
        }
    }
    kernels
}
