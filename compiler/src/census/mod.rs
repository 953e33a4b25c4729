//! The instruction census: every instruction of a program's machine code, found by following its control flow and looked up
//! in a whitelist. What is not on the list is a finding, in functions outside the encoder and the residues also what
//! multiplies.
//!
//! Code is followed from each function's first byte through all branches, so constants between instructions are never
//! mistaken for code, nor code for constants. A jump that is computed, a call of anything but a function of the same
//! image, and code that runs past its function's end are findings too: after the census nothing else can run, unless code that was
//! written to deceive changes the address that it returns to in memory. Against that, and against another division into regions, a
//! file's code is compared with what a certificate derives (`snnc census --certificate`).

mod aarch64;
mod x86_64;

use crate::backend::clif::Symbol;
use crate::flow::Region;
use capstone::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What an instruction does to the flow of control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// The next instruction follows.
    On,
    /// Goes to its target.
    Jump,
    /// Goes to its target or on.
    Branch,
    /// Calls its target and goes on.
    Call,
    /// Ends here.
    End,
}

/// What a whitelist says of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// Allowed everywhere.
    Plain(Flow),
    /// Multiplies, in this way.
    Multiplies(&'static str),
}

/// What is wrong with an instruction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// Multiplies outside the encoder and the residues: a product, quotient, root or the like.
    Multiplies(String),
    /// Is not on the whitelist.
    Unlisted,
    /// Calls something that is no function of the program.
    CallsOut,
    /// Jumps to where only the run shows.
    Computed,
    /// Leaves its function.
    Leaves,
    /// Cannot be decoded.
    Undecodable,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Wrong::Multiplies(how) => return write!(f, "{how} outside the encoder"),
            Wrong::Unlisted => "is not on the whitelist",
            Wrong::CallsOut => "calls something outside the program",
            Wrong::Computed => "jumps to a computed address",
            Wrong::Leaves => "leaves its function",
            Wrong::Undecodable => "is no instruction",
        })
    }
}

/// An instruction that should not be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// The function.
    pub function: String,
    /// Its place, in bytes from the start of the code.
    pub offset: usize,
    /// The instruction.
    pub instruction: String,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// The instructions of one function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it computes: a path of the network.
    pub label: String,
    /// Where in the network it belongs.
    pub region: Region,
    /// How often each instruction stands in it.
    pub instructions: BTreeMap<String, u64>,
    /// How many of them multiply, all within the encoder or a residue if there is no finding.
    pub multiplications: u64,
}

/// The instructions of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Census {
    /// Architecture, vendor, system.
    pub triple: String,
    /// All functions, in order.
    pub functions: Vec<Function>,
    /// What should not be there.
    pub findings: Vec<Finding>,
}

impl Census {
    /// Instructions in all.
    pub fn instructions(&self) -> u64 {
        self.functions.iter().flat_map(|f| f.instructions.values()).sum()
    }

    /// Instructions in functions of a region, and how many of them multiply.
    pub fn of(&self, region: Region) -> (u64, u64) {
        let of = |f: &&Function| f.region == region;
        let all = self.functions.iter().filter(of).flat_map(|f| f.instructions.values()).sum();
        (all, self.functions.iter().filter(of).map(|f| f.multiplications).sum())
    }
}

/// Why no census was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CensusError(pub String);

impl std::fmt::Display for CensusError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no census: {}", self.0)
    }
}

impl std::error::Error for CensusError {}

/// Looks at all instructions of an image: its functions, and the bytes in which they lie.
///
/// # Errors
/// If the architecture has no whitelist, or a function does not lie in the bytes.
pub fn census(functions: &[Symbol], bytes: &[u8], triple: &str) -> Result<Census, CensusError> {
    let error = |e: capstone::Error| CensusError(e.to_string());
    let (decoder, lookup): (Capstone, fn(&str, &str) -> Option<Entry>) = if triple.starts_with("x86_64") {
        (Capstone::new().x86().mode(arch::x86::ArchMode::Mode64).build().map_err(error)?, x86_64::entry)
    } else if triple.starts_with("aarch64") {
        (Capstone::new().arm64().mode(arch::arm64::ArchMode::Arm).build().map_err(error)?, aarch64::entry)
    } else {
        return Err(CensusError(format!("there is no whitelist for `{triple}`")));
    };
    let starts: BTreeSet<usize> = functions.iter().map(|f| f.start).collect();
    let mut walk = Walk { decoder, lookup, bytes, starts, findings: Vec::new() };
    let mut list = Vec::with_capacity(functions.len());
    for function in functions {
        let end = function.start.checked_add(function.size).filter(|end| *end <= bytes.len());
        let end = end.ok_or_else(|| CensusError(format!("`{}` does not lie within the code", function.name)))?;
        list.push(walk.function(function, end)?);
    }
    Ok(Census { triple: triple.to_owned(), functions: list, findings: walk.findings })
}

struct Walk<'a> {
    decoder: Capstone,
    lookup: fn(&str, &str) -> Option<Entry>,
    bytes: &'a [u8],
    starts: BTreeSet<usize>,
    findings: Vec<Finding>,
}

impl Walk<'_> {
    fn function(&mut self, symbol: &Symbol, end: usize) -> Result<Function, CensusError> {
        let mut function = Function {
            name: symbol.name.clone(),
            label: symbol.label.clone(),
            region: symbol.region,
            instructions: BTreeMap::new(),
            multiplications: 0,
        };
        let (mut waiting, mut seen) = (vec![symbol.start], BTreeSet::new());
        while let Some(start) = waiting.pop() {
            let mut at = start;
            while seen.insert(at) {
                let mut wrong = |offset: usize, instruction: &str, wrong: Wrong| {
                    let (function, instruction) = (symbol.name.clone(), instruction.to_owned());
                    self.findings.push(Finding { function, offset, instruction, wrong });
                };
                if at >= end {
                    wrong(at, "", Wrong::Leaves);
                    break;
                }
                let decoded = self.decoder.disasm_count(&self.bytes[at..end], at as u64, 1).map_err(|e| CensusError(e.to_string()))?;
                let Some(instruction) = decoded.first() else {
                    wrong(at, "", Wrong::Undecodable);
                    break;
                };
                let mnemonic = instruction.mnemonic().unwrap_or_default();
                let operands = instruction.op_str().unwrap_or_default();
                let text = format!("{mnemonic} {operands}");
                *function.instructions.entry(mnemonic.to_owned()).or_default() += 1;
                let flow = match (self.lookup)(mnemonic, operands) {
                    Some(Entry::Plain(flow)) => flow,
                    Some(Entry::Multiplies(how)) => {
                        function.multiplications += 1;
                        if symbol.region == Region::Free {
                            wrong(at, &text, Wrong::Multiplies(how.to_owned()));
                        }
                        Flow::On
                    }
                    None => {
                        wrong(at, &text, Wrong::Unlisted);
                        Flow::On
                    }
                };
                let next = at + instruction.len();
                let target = target(operands);
                match (flow, target) {
                    (Flow::On, _) => {}
                    (Flow::End, _) => break,
                    (Flow::Call, Some(to)) if self.starts.contains(&to) => {}
                    (Flow::Call, _) => wrong(at, &text, Wrong::CallsOut),
                    (Flow::Jump | Flow::Branch, Some(to)) if (symbol.start..end).contains(&to) => waiting.push(to),
                    (Flow::Jump | Flow::Branch, Some(_)) => wrong(at, &text, Wrong::Leaves),
                    (Flow::Jump | Flow::Branch, None) => wrong(at, &text, Wrong::Computed),
                }
                if flow == Flow::Jump {
                    break;
                }
                at = next;
            }
        }
        Ok(function)
    }
}

/// The address that a branch names as its last operand.
fn target(operands: &str) -> Option<usize> {
    let last = operands.rsplit(", ").next()?.trim_start_matches('#');
    let hex = last.strip_prefix("0x");
    hex.map_or_else(|| last.parse().ok(), |h| usize::from_str_radix(h, 16).ok())
}
