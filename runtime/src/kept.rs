//! Inferences kept on disk: machine code and packed weights, made once for a network, its weights, this machine and this version.

use crate::device::cpu::Executable;
use crate::device::memory::Memory;
use crate::session::{Inference, SessionError};
use crate::weights::{Weights, WeightsError};
use crate::{cache, machine};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use snnc_compiler::backend::clif::{Image, Target};
use snnc_compiler::check::Checked;
use snnc_compiler::fuse::Expected;
use snnc_compiler::lower::Watch;
use snnc_compiler::program::Program;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What an entry begins with.
const MAGIC: &[u8; 16] = b"snnc inference 1";
/// Weights begin at a multiple of so many bytes, as pages do.
const PAGE: u64 = 4096;
/// Bytes that are hashed at once.
const CHUNK: usize = 1 << 20;

/// Why an inference cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The weights cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The network cannot be run.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Where an inference came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// From the cache.
    pub kept: bool,
    /// An entry of the cache that cannot be used, and why; it was made anew.
    pub damaged: Option<(PathBuf, String)>,
    /// Why what was made is not kept, if it is not.
    pub unkept: Option<String>,
}

/// What is read before the code.
#[derive(Serialize, Deserialize)]
struct Head {
    /// The name that the file was written for: what it is made of.
    name: String,
    /// Without its kernels: they are machine code.
    program: Program,
    /// Without its bytes.
    image: Image,
    looks_at_all: Option<String>,
}

/// An inference of a network with the weights of a file: from the cache, or made and kept there. It streams if that is asked for.
///
/// # Errors
/// As [`Weights::read`] and [`Inference::new`].
pub fn open(checked: &Checked, weights: &Path, batch: usize, watch: Watch, streams: bool) -> Result<(Inference, Start), OpenError> {
    let expected = machine::expected(batch);
    let place = place(checked, weights, batch, (watch, streams), &expected);
    let mut start = Start::default();
    if let Some(place) = place.as_deref().filter(|p| p.symlink_metadata().is_ok()) {
        match read(place) {
            Ok((head, weights)) => {
                let looks = head.looks_at_all.clone();
                match Executable::with(head.program, head.image, weights) {
                    Ok(executable) => {
                        let session = Inference::kept(checked, executable, looks, (watch, streams), expected);
                        return Ok((session, Start { kept: true, ..start }));
                    }
                    Err(e) => start.damaged = Some((place.to_owned(), e.to_string())),
                }
            }
            Err(e) => start.damaged = Some((place.to_owned(), e.to_string())),
        }
    }
    let values = Weights::read(weights, checked.graph(), None)?;
    let session = Inference::expecting(checked, &values, batch, (watch, streams), expected)?;
    // Not if the file was replaced in between. A cache that cannot be written is none.
    let now = self::place(checked, weights, batch, (watch, streams), session.expected());
    start.unkept = match (place, now) {
        (Some(before), Some(now)) if before == now => keep(&now, &session).err().map(|e| format!("`{}`: {e}", now.display())),
        (None, _) => Some("there is no folder for it".to_owned()),
        _ => Some("the weights changed in between".to_owned()),
    };
    Ok((session, start))
}

/// The file for all that makes an inference what it is; none where there is no cache, or the weights cannot be read.
fn place(checked: &Checked, weights: &Path, batch: usize, (watch, streams): (Watch, bool), expected: &Expected) -> Option<PathBuf> {
    let target = Target::host().ok()?;
    let own = std::env::current_exe().and_then(fs::metadata).ok()?;
    let parts = [
        format!("{} {} {:?}", env!("CARGO_PKG_VERSION"), own.len(), own.modified().ok()),
        format!("{:?}", checked.graph()),
        format!("{} {:?} {expected:?} {batch} {watch:?} {streams}", target.triple(), target.flags()),
    ];
    let weights = hash_of_file(weights).ok()?;
    let [version, graph, machine] = parts.each_ref().map(String::as_bytes);
    let name = cache::name(&[version, graph, machine, &weights]);
    Some(cache::folder()?.join(format!("{name}.inference")))
}

fn name_of(place: &Path) -> String {
    place.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The hash of the hashes of all chunks.
fn hash(bytes: &[u8]) -> [u8; 32] {
    let all: Vec<[u8; 32]> = bytes.par_chunks(CHUNK).map(|chunk| Sha256::digest(chunk).into()).collect();
    all.iter().fold(Sha256::new(), |hash, chunk| hash.chain_update(chunk)).finalize().into()
}

/// The same of a file, which is not held in memory.
fn hash_of_file(path: &Path) -> io::Result<[u8; 32]> {
    let length = fs::metadata(path)?.len();
    let chunk = |i: u64| -> io::Result<[u8; 32]> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(i * CHUNK as u64))?;
        let mut bytes = Vec::new();
        file.take(CHUNK as u64).read_to_end(&mut bytes)?;
        Ok(Sha256::digest(&bytes).into())
    };
    let all: Vec<[u8; 32]> = (0..length.div_ceil(CHUNK as u64)).into_par_iter().map(chunk).collect::<io::Result<_>>()?;
    Ok(all.iter().fold(Sha256::new(), |hash, chunk| hash.chain_update(chunk)).finalize().into())
}

/// Writes: what it begins with, two hashes, three lengths; what there is to say of program and code; the code; the weights.
fn keep(place: &Path, session: &Inference) -> io::Result<()> {
    let executable = session.executable();
    let head = Head {
        name: name_of(place),
        program: Program { kernels: vec![], ..executable.program().clone() },
        image: Image { bytes: vec![], ..executable.image().clone() },
        looks_at_all: session.looks_at_all().map(str::to_owned),
    };
    let mut front = serde_json::to_vec(&head)?;
    let (said, code) = (front.len(), executable.image().bytes.len());
    front.extend_from_slice(&executable.image().bytes);
    let weights = executable.weights_as_bytes();
    let mut lengths = vec![];
    for n in [said, code, weights.len()] {
        lengths.extend((n as u64).to_le_bytes());
    }
    front.splice(0..0, lengths);
    let before = MAGIC.len() + 64 + front.len();
    let gap = vec![0; (PAGE as usize - before % PAGE as usize) % PAGE as usize];
    cache::keep(place, &[MAGIC, &hash(&front), &hash(weights), &front, &gap, weights])
}

/// Reads an entry that is whole.
fn read(place: &Path) -> io::Result<(Head, Memory)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "its bytes are not those that were written");
    if !fs::metadata(place)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut file = File::open(place)?;
    let length = file.metadata()?.len();
    let mut begin = [0; 16 + 64 + 24];
    file.read_exact(&mut begin).map_err(|_| bad())?;
    let (magic, rest) = begin.split_at(16);
    let (hashes, lengths) = rest.split_at(64);
    let [said, code, weights] = [0, 8, 16].map(|at| lengths[at..at + 8].iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte)));
    let front = said.checked_add(code).ok_or_else(bad)?;
    let after = front.checked_add(begin.len() as u64).and_then(|n| n.checked_next_multiple_of(PAGE)).ok_or_else(bad)?;
    if magic != MAGIC || after.checked_add(weights) != Some(length) || said > front {
        return Err(bad());
    }
    let mut bytes = lengths.to_vec();
    file.by_ref().take(front).read_to_end(&mut bytes)?;
    let memory = Memory::of(&file, after, usize::try_from(weights).map_err(|_| bad())?)?;
    if hash(&bytes)[..] != hashes[..32] || hash(memory.bytes())[..] != hashes[32..] {
        return Err(bad());
    }
    let (front, code) = bytes[24..].split_at(usize::try_from(said).map_err(|_| bad())?);
    let mut head: Head = serde_json::from_slice(front)?;
    head.image.bytes = code.to_vec();
    if head.name != name_of(place) {
        return Err(io::Error::other("it is that of something else"));
    }
    if head.image.weights as u64 != weights {
        return Err(bad());
    }
    Ok((head, memory))
}
