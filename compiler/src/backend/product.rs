//! The loops of a product of tensors: which of its labels are rows, columns, products side by side, or terms of a sum, with
//! how far each moves in the operands and the result.

use crate::program::View;

/// Label, extent, distance.
pub type Dim<'a> = (&'a str, usize, isize);

/// The dims of a view for so many samples and time steps.
pub fn dims<'a>(view: &View, labels: &'a [String], samples: usize, steps: usize) -> Vec<Dim<'a>> {
    let mut out = Vec::new();
    let mut names = labels.iter().map(String::as_str);
    if view.batch > 0 {
        out.extend(names.next().map(|n| (n, samples, view.batch as isize)));
    }
    if view.time > 0 {
        out.extend(names.next().map(|n| (n, steps, view.time as isize)));
    }
    for (name, (_, size, stride)) in names.zip(&view.axes) {
        out.push((name, *size, *stride as isize));
    }
    out
}

/// A loop over extents with distances in two or three operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis<const N: usize> {
    /// Its extent.
    pub size: usize,
    /// The distances.
    pub strides: [isize; N],
}

impl<const N: usize> Axis<N> {
    /// One step, to nowhere.
    pub const ONE: Axis<N> = Axis { size: 1, strides: [0; N] };
}

/// Merges axes that follow each other without gap in all operands; the largest comes last.
fn merged<const N: usize>(mut axes: Vec<Axis<N>>) -> Vec<Axis<N>> {
    axes.retain(|a| a.size > 1);
    axes.sort_by_key(|a| std::cmp::Reverse(a.strides));
    let mut out: Vec<Axis<N>> = Vec::new();
    for axis in axes {
        match out.last_mut() {
            Some(outer) if outer.strides.iter().zip(&axis.strides).all(|(o, i)| *o == i * axis.size as isize) => {
                outer.size *= axis.size;
                outer.strides = axis.strides;
            }
            _ => out.push(axis),
        }
    }
    out.sort_by_key(|a| a.size);
    out
}

/// The offsets of all combinations of axes.
pub fn offsets<const N: usize>(axes: &[Axis<N>]) -> Vec<[isize; N]> {
    let mut all = vec![[0; N]];
    for axis in axes {
        let mut next = Vec::with_capacity(all.len() * axis.size);
        for base in &all {
            for i in 0..axis.size as isize {
                let mut offset = *base;
                offset.iter_mut().zip(axis.strides).for_each(|(o, s)| *o += i * s);
                next.push(offset);
            }
        }
        all = next;
    }
    all
}

/// The loops of a product out = a · b.
#[derive(Clone, Debug)]
pub struct Loops {
    /// In a and the result: distances there.
    pub rows: Vec<Axis<2>>,
    /// In b and the result.
    pub columns: Vec<Axis<2>>,
    /// In all three: products side by side.
    pub shared: Vec<Axis<3>>,
    /// In a and b: what is summed.
    pub terms: Vec<Axis<2>>,
}

impl Loops {
    /// Sorts the dims of two operands and a result by where their labels stand; neighbours without gap are one.
    pub fn of(a: &[Dim<'_>], b: &[Dim<'_>], out: &[Dim<'_>]) -> Loops {
        let find = |dims: &[Dim<'_>], label: &str| dims.iter().find(|(l, ..)| *l == label).map(|(_, _, s)| *s);
        let (mut rows, mut columns, mut shared, mut terms) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (label, size, so) in out {
            match (find(a, label), find(b, label)) {
                (Some(sa), None) => rows.push(Axis { size: *size, strides: [sa, *so] }),
                (None, Some(sb)) => columns.push(Axis { size: *size, strides: [sb, *so] }),
                (Some(sa), Some(sb)) => shared.push(Axis { size: *size, strides: [sa, sb, *so] }),
                (None, None) => {}
            }
        }
        for (label, size, sa) in a {
            if find(out, label).is_none() {
                // A label that the other operand lacks is summed with it standing still.
                terms.push(Axis { size: *size, strides: [*sa, find(b, label).unwrap_or(0)] });
            }
        }
        for (label, size, sb) in b {
            if find(out, label).is_none() && find(a, label).is_none() {
                terms.push(Axis { size: *size, strides: [0, *sb] });
            }
        }
        Loops { rows: merged(rows), columns: merged(columns), shared: merged(shared), terms: merged(terms) }
    }
}
