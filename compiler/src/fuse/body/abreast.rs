//! Neighbouring rows at once, where a loop multiplies what it reads with weights: a weight that is fetched serves all of them. Where windows
//! reach over an edge, rows are computed one by one.

use super::*;
use std::ops::Range;

/// Rows at once for so many lanes: what sixteen registers hold of sums, of what rows read, and a weight.
fn abreast(lanes: usize) -> usize {
    match lanes.div_ceil(8) {
        1 | 2 => 4,
        3 | 4 => 3,
        5 | 6 => 2,
        _ => 1,
    }
}

/// What an integer is: so many times the index, and something in a range.
#[derive(Clone, Copy)]
struct Known {
    factor: i64,
    least: i64,
    most: i64,
}

/// Where every condition on an index holds, as far as `range`. `None` if that cannot be said.
fn inside(stmts: &[Stmt], known: &mut HashMap<Int, Known>, range: &mut Range<i64>) -> Option<()> {
    for stmt in stmts {
        match stmt {
            Stmt::LetInt(int, IntExpr::Affine(terms, constant)) => {
                let mut sum = Known { factor: 0, least: *constant, most: *constant };
                for (of, factor) in terms {
                    let Some(of) = known.get(of) else {
                        sum.factor = i64::MAX;
                        break;
                    };
                    let ends = [of.least * factor, of.most * factor];
                    sum.factor += of.factor * factor;
                    (sum.least, sum.most) = (sum.least + ends[0].min(ends[1]), sum.most + ends[0].max(ends[1]));
                }
                if sum.factor != i64::MAX {
                    known.insert(*int, sum);
                }
            }
            Stmt::For { index, from: Bound::Const(from), to: Bound::Const(to), body, .. } => {
                known.insert(*index, Known { factor: 0, least: *from, most: *to - 1 });
                inside(body, known, range)?;
            }
            Stmt::For { body, .. } => inside(body, known, range)?,
            Stmt::If(Cond::Within(int, extent), body) => {
                if let Some(Known { factor, least, most }) = known.get(int).copied().filter(|k| k.factor != 0) {
                    if factor < 0 {
                        return None;
                    }
                    range.start = range.start.max((-least + factor - 1).div_euclid(factor));
                    range.end = range.end.min((extent - 1 - most).div_euclid(factor) + 1);
                }
                inside(body, known, range)?;
            }
            Stmt::If(_, body) | Stmt::While(_, body) => inside(body, known, range)?,
            Stmt::SetInt(int, _) if known.contains_key(int) => return None,
            _ => {}
        }
    }
    Some(())
}

/// The same statements where these conditions hold.
fn without(stmts: &[Stmt], known: &HashMap<Int, Known>) -> Vec<Stmt> {
    let mut all = vec![];
    for stmt in stmts {
        match stmt {
            Stmt::If(Cond::Within(int, _), body) if known.get(int).is_some_and(|k| k.factor != 0) => all.extend(without(body, known)),
            Stmt::If(cond, body) => all.push(Stmt::If(cond.clone(), without(body, known))),
            Stmt::For { index, from, to, reverse, lanes, body } => {
                let (from, to, body) = (*from, *to, without(body, known));
                all.push(Stmt::For { index: *index, from, to, reverse: *reverse, lanes: *lanes, body });
            }
            other => all.push(other.clone()),
        }
    }
    all
}

/// The integers that groups of rows are counted with: groups, and rows of one.
pub(super) type Count = [Int; 2];

/// A loop over rows, which do these lanes each, as one over groups of rows. `None` if there are none.
pub(super) fn in_groups(index: Int, size: usize, [group, row]: Count, wide: &[Stmt]) -> Option<Vec<Stmt>> {
    let [Stmt::For { index: lane, lanes, body: element, .. }] = wide else { return None };
    let rows = abreast(usize::from(*lanes));
    if rows == 1 || *lanes == 1 {
        return None;
    }
    let mut range = 0..size as i64;
    let mut known: HashMap<Int, Known> = [(index, Known { factor: 1, least: 0, most: 0 })].into();
    inside(element, &mut known, &mut range)?;
    let groups = (range.end - range.start) / rows as i64;
    if groups < 1 {
        return None;
    }
    let over = |index, from: i64, to: i64, lanes, body| Stmt::For {
        index,
        from: Bound::Const(from),
        to: Bound::Const(to),
        reverse: false,
        lanes,
        body,
    };
    let here = Stmt::LetInt(index, IntExpr::Affine(vec![(group, rows as i64), (row, 1)], range.start));
    let each = over(*lane, 0, i64::from(*lanes), *lanes, without(element, &known));
    let abreast = over(row, 0, rows as i64, rows as u8, vec![here, each]);
    let middle = range.start + groups * rows as i64;
    let mut all = vec![over(group, 0, groups, 1, vec![abreast])];
    for (at, (from, to)) in [(0, (0, range.start)), (usize::MAX, (middle, size as i64))] {
        if from < to {
            all.insert(at.min(all.len()), over(index, from, to, 1, wide.to_vec()));
        }
    }
    Some(all)
}
