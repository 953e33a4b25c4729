//! Which loops of a kernel become threads.
//!
//! A kernel's outermost loops run over elements that do not hang on each other, but for what they add up. Without sums every
//! element is a thread's. With sums over samples a block takes a part of what is summed (a *range*) and writes its own partial
//! sums, which a second kernel adds; with sums within a sample a block takes whole samples.

use super::Unsupported;
use crate::kernel::{Bound, Int, IntExpr, Kernel, Place, Stmt};

/// Threads of a block.
pub const THREADS: usize = 256;

/// How a kernel's blocks divide its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// Elements, so many for each of the outermost loop.
    Elements {
        /// For each.
        each: u64,
    },
    /// Parts of what is summed, one block each; so many terms for each of the outermost loop.
    Ranges {
        /// For each.
        each: u64,
        /// How many sums there are at once.
        sums: u64,
    },
    /// All of it in one block.
    Whole,
    /// Elements of the outermost loop; each range is one block's, if there are ranges.
    Outer {
        /// There are sums over these elements, too.
        ranged: bool,
    },
}

impl Grid {
    /// Into how many ranges an outermost loop of this extent is cut.
    pub fn ranges(&self, extent: usize) -> usize {
        match self {
            Grid::Ranges { each, sums } => {
                // Enough terms that a thread adds several; enough blocks to fill a device.
                let rows = (THREADS as u64 / sums.next_power_of_two().min(THREADS as u64)).max(1);
                ((extent as u64 * each).div_ceil(8 * rows)).clamp(1, 512) as usize
            }
            Grid::Outer { ranged: true } => extent.clamp(1, 512),
            Grid::Elements { .. } | Grid::Outer { .. } | Grid::Whole => 1,
        }
    }

    /// Blocks for an outermost loop of this extent.
    pub fn blocks(&self, extent: usize) -> usize {
        const MOST: u64 = 1 << 16;
        match self {
            Grid::Elements { each } => (extent as u64 * each).div_ceil(THREADS as u64).clamp(1, MOST) as usize,
            Grid::Ranges { .. } | Grid::Whole | Grid::Outer { ranged: true } => self.ranges(extent),
            Grid::Outer { .. } => extent.clamp(1, MOST as usize),
        }
    }
}

/// A kernel's loops on threads.
#[derive(Debug)]
pub struct Schedule<'k> {
    /// What a block does.
    pub grid: Grid,
    /// Names of the range's number.
    pub(super) range: Vec<Int>,
    /// What is set to zero in every range.
    pub(super) zeros: Vec<Zero<'k>>,
    pub(super) nests: Vec<Nest<'k>>,
}

#[derive(Debug)]
pub(super) struct Zero<'k> {
    pub(super) index: Int,
    pub(super) extent: i64,
    pub(super) body: &'k [Stmt],
}

/// Loops over elements: index and extent, none for that of the call.
#[derive(Debug)]
pub(super) struct Nest<'k> {
    pub(super) loops: Vec<(Int, Option<i64>)>,
    pub(super) body: &'k [Stmt],
    pub(super) sums: Vec<Sum<'k>>,
    /// The loops whose elements have sums of their own.
    pub(super) kept: Vec<Int>,
}

/// A sum, or largest value, over elements.
#[derive(Debug)]
pub(super) struct Sum<'k> {
    pub(super) stmt: &'k Stmt,
    pub(super) place: &'k Place,
    pub(super) max: bool,
    /// What rounding loses is kept.
    pub(super) exact: bool,
    /// The loops that its place hangs on.
    pub(super) kept: Vec<Int>,
    /// The time step that its place hangs on, and how many there may be.
    pub(super) step: Option<Int>,
    pub(super) time: usize,
}

impl Nest<'_> {
    /// Elements for each of the outermost loop.
    pub(super) fn inner(&self) -> u64 {
        self.loops.iter().filter_map(|l| l.1).product::<i64>() as u64
    }
}

/// Lays a kernel onto threads.
///
/// # Errors
/// Where its elements hang on each other in a way that training kernels do not have.
pub fn schedule(kernel: &Kernel) -> Result<Schedule<'_>, Unsupported> {
    let (mut range, mut zeros, mut nests) = (Vec::new(), Vec::new(), Vec::new());
    for stmt in &kernel.body {
        match stmt {
            Stmt::LetInt(i, IntExpr::Range) => range.push(*i),
            Stmt::For { index, from: Bound::Const(0), to: Bound::Const(extent), reverse: false, body, .. } => {
                zeros.push(Zero { index: *index, extent: *extent, body });
            }
            Stmt::For { from: Bound::Begin, to: Bound::End, reverse: false, .. } => nests.push(nest(stmt, kernel.time)?),
            _ => return Err(Unsupported("it keeps a count from element to element")),
        }
    }
    let sums = || nests.iter().flat_map(|n| &n.sums);
    let outer = |s: &Sum<'_>| nests.iter().any(|n: &Nest<'_>| n.loops.first().is_some_and(|l| s.kept.contains(&l.0)));
    let grid = match (&nests[..], range.is_empty()) {
        ([one], true) if one.sums.is_empty() && zeros.is_empty() => Grid::Elements { each: one.inner() },
        ([one], false) if sums().all(|s| !outer(s)) => {
            let of = |kept: bool| one.loops.iter().filter(|l| one.kept.contains(&l.0) == kept).filter_map(|l| l.1).product::<i64>() as u64;
            Grid::Ranges { each: of(false), sums: of(true) }
        }
        (_, true) if zeros.is_empty() && sums().all(outer) => Grid::Outer { ranged: false },
        (_, true) => Grid::Whole,
        (_, false) => Grid::Outer { ranged: true },
    };
    Ok(Schedule { grid, range, zeros, nests })
}

fn nest(stmt: &Stmt, time: usize) -> Result<Nest<'_>, Unsupported> {
    let mut loops = Vec::new();
    let mut at = stmt;
    let body = loop {
        let Stmt::For { index, from, to, lanes, body, .. } = at else { return Err(Unsupported("a loop is missing")) };
        loops.push((*index, if let (Bound::Const(0), Bound::Const(n)) = (from, to) { Some(*n) } else { None }));
        match &body[..] {
            [next @ Stmt::For { from: Bound::Const(0), to: Bound::Const(_), reverse: false, .. }] if *lanes <= 1 => at = next,
            _ => break &body[..],
        }
    };
    let mut sums = Vec::new();
    find(body, &loops, None, time, &mut sums)?;
    let kept: Vec<Int> = loops.iter().map(|l| l.0).filter(|i| sums.iter().any(|s: &Sum<'_>| s.kept.contains(i))).collect();
    Ok(Nest { loops, body, sums, kept })
}

/// The sums in a body; `step` is the loop over time around it.
fn find<'k>(
    body: &'k [Stmt],
    loops: &[(Int, Option<i64>)],
    step: Option<Int>,
    time: usize,
    sums: &mut Vec<Sum<'k>>,
) -> Result<(), Unsupported> {
    for stmt in body {
        match stmt {
            Stmt::Combine { place, max, error, .. } => {
                let kept = loops.iter().map(|l| l.0).filter(|i| place.terms.iter().any(|(t, _)| t == i)).collect();
                let step = step.filter(|t| place.terms.iter().any(|(i, _)| i == t));
                sums.push(Sum { stmt, place, max: *max, exact: error.is_some() && step.is_none(), kept, step, time });
            }
            Stmt::For { index, to: Bound::Steps, body, .. } => find(body, loops, Some(*index), time, sums)?,
            Stmt::For { body, .. } | Stmt::If(_, body) | Stmt::While(_, body) => {
                let before = sums.len();
                find(body, loops, step, time, sums)?;
                if sums.len() > before {
                    return Err(Unsupported("a sum inside a window"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
