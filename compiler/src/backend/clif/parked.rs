//! Numbers that are kept in memory: a loop that sums in all registers leaves none for what only waits for its end.

use super::*;
use crate::kernel::{mentioned, reads};

/// Numbers that some innermost loop neither reads nor sets, though they are read after it.
pub(super) fn parked(body: &[Stmt]) -> HashSet<Var> {
    let mut parked = HashSet::new();
    scan(body, &HashSet::new(), &mut parked);
    // A sum is not kept in its registers beyond the loop.
    parked.extend(copies(body, &sums(body, false)));
    // Nor is anything kept in registers from before conditions to what hangs on them.
    parked.extend(conditional(body));
    parked
}

/// The numbers that statements under conditions read or set, if these are not inside innermost loops.
fn conditional(body: &[Stmt]) -> HashSet<Var> {
    let each = |stmt: &Stmt| match stmt {
        Stmt::If(_, body) if innermost(body) => mentioned(body),
        Stmt::For { body, .. } | Stmt::While(_, body) if !innermost(body) => conditional(body),
        Stmt::If(_, body) => conditional(body),
        _ => HashSet::new(),
    };
    body.iter().flat_map(each).collect()
}

/// The numbers that innermost loops set.
fn sums(body: &[Stmt], inside: bool) -> HashSet<Var> {
    let mut found = HashSet::new();
    for stmt in body {
        match stmt {
            Stmt::Set(var, _) if inside => {
                found.insert(*var);
            }
            Stmt::For { body, .. } | Stmt::While(_, body) => found.extend(sums(body, innermost(body))),
            Stmt::If(_, body) => found.extend(sums(body, inside)),
            _ => {}
        }
    }
    found
}

/// Numbers that begin as one of these.
fn copies(body: &[Stmt], of: &HashSet<Var>) -> Vec<Var> {
    let each = |stmt: &Stmt| match stmt {
        Stmt::Let(var, Expr::Var(sum)) if of.contains(sum) => vec![*var],
        Stmt::For { body, .. } | Stmt::While(_, body) | Stmt::If(_, body) => copies(body, of),
        _ => vec![],
    };
    body.iter().flat_map(each).collect()
}

/// Goes backwards through a body; `live` are the numbers that are read after it. Gives those that are alive before it.
fn scan(body: &[Stmt], live: &HashSet<Var>, parked: &mut HashSet<Var>) -> HashSet<Var> {
    let mut live = live.clone();
    for stmt in body.iter().rev() {
        match stmt {
            Stmt::Let(var, value) => {
                live.remove(var);
                reads(value, &mut live);
            }
            Stmt::Set(_, value) | Stmt::Store(_, value) | Stmt::StoreScratch(_, _, value) | Stmt::Combine { value, .. } => {
                reads(value, &mut live);
            }
            Stmt::StoreBits(_, var) => {
                live.insert(*var);
            }
            Stmt::For { body, .. } | Stmt::While(_, body) => {
                // What it reads is alive while it repeats.
                let own = mentioned(body);
                if innermost(body) {
                    parked.extend(live.difference(&own));
                }
                live.extend(&own);
                live = scan(body, &live, parked);
                live.extend(&own);
            }
            Stmt::If(_, body) => live.extend(scan(body, &live, parked)),
            Stmt::LetInt(..)
            | Stmt::SetInt(..)
            | Stmt::StoreWord(..)
            | Stmt::StoreHalf(..)
            | Stmt::Prefetch(..)
            | Stmt::Transpose { .. } => {}
        }
    }
    live
}

fn innermost(body: &[Stmt]) -> bool {
    body.iter().all(|stmt| match stmt {
        Stmt::For { .. } | Stmt::While(..) => false,
        Stmt::If(_, body) => innermost(body),
        _ => true,
    })
}
