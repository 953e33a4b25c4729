//! Products with few columns and terms, or few rows and columns: for the axial maps of mixers a library's packing costs
//! more than the product.

use super::*;

/// The longest axis that the loops below are used for: for the axial maps of mixers, a library's packing costs more than the
/// product.
const LONGEST: usize = 64;
/// The largest product of columns and terms for the same.
pub(super) const AREA: usize = 1024;
/// Elements kept in registers.
const STRIP: usize = 48;

impl Block {
    /// Few columns and terms, rows side by side: sums of scaled rows.
    pub(super) fn narrow(&self) -> bool {
        self.m.strides == [1, 1] && self.n.size <= LONGEST && self.k.size <= LONGEST && self.n.size * self.k.size <= AREA
    }

    /// Few rows and columns, terms side by side: dot products.
    pub(super) fn dots(&self) -> bool {
        self.k.strides == [1, 1] && self.m.size <= LONGEST && self.n.size <= LONGEST && self.m.size * self.n.size <= AREA
    }
}

pub(super) fn rows(block: &Block, places: &[[isize; 3]], inner: &[[isize; 2]], p: [Pointer; 3], team: &Team) {
    let chunk = (4 * ROWS / block.m.size.max(1)).max(1);
    team.each(places.len().div_ceil(chunk), |part| {
        for place in places.iter().skip(part * chunk).take(chunk) {
            for (i, [ta, tb]) in inner.iter().enumerate() {
                // SAFETY: offsets are those of views; places of the result are disjoint.
                unsafe {
                    scaled_rows(block, p[0].0.offset(place[0] + ta), p[1].0.offset(place[1] + tb), p[2].0.offset(place[2]), i > 0);
                }
            }
        }
    });
}

pub(super) fn dots(block: &Block, place: [isize; 3], inner: &[[isize; 2]], p: [Pointer; 3], team: &Team) {
    let size = block.m.size * block.n.size;
    let chunk = (4 * TERMS / block.k.size.max(1)).max(1);
    let partial: Vec<Vec<f32>> = team.map(inner.len().div_ceil(chunk), |part| {
        let mut own = vec![0.0f32; size];
        for [ta, tb] in inner.iter().skip(part * chunk).take(chunk) {
            // SAFETY: offsets are those of views.
            unsafe { dot_products(block, p[0].0.offset(place[0] + ta), p[1].0.offset(place[1] + tb), &mut own) };
        }
        own
    });
    for i in 0..block.m.size {
        for j in 0..block.n.size {
            let sum: f32 = partial.iter().map(|own| own[i * block.n.size + j]).sum();
            let offset = place[2] + i as isize * block.m.strides[1] + j as isize * block.n.strides[1];
            // SAFETY: within the result's view.
            unsafe { *p[2].0.offset(offset) = sum };
        }
    }
}

widest!(scaled_rows, scaled_rows_wide, (block: &Block, a: *const f32, b: *const f32, out: *mut f32, add: bool) {
    let (m, n, k) = (&block.m, &block.n, &block.k);
    let mut first = 0;
    while first < m.size {
        let width = (m.size - first).min(STRIP);
        for column in 0..n.size {
            let mut sums = [0.0f32; STRIP];
            for term in 0..k.size {
                // SAFETY: all offsets lie within the views.
                let (factor, row) = unsafe {
                    let factor = *b.offset(column as isize * n.strides[0] + term as isize * k.strides[1]);
                    (factor, std::slice::from_raw_parts(a.offset(term as isize * k.strides[0] + first as isize), width))
                };
                if width == STRIP {
                    for i in 0..STRIP {
                        sums[i] += factor * row[i];
                    }
                } else {
                    for i in 0..width {
                        sums[i] += factor * row[i];
                    }
                }
            }
            // SAFETY: as above.
            let to = unsafe { std::slice::from_raw_parts_mut(out.offset(column as isize * n.strides[1] + first as isize), width) };
            for i in 0..width {
                to[i] = if add { to[i] + sums[i] } else { sums[i] };
            }
        }
        first += width;
    }
});

widest!(dot_products, dot_products_wide, (block: &Block, a: *const f32, b: *const f32, own: &mut [f32]) {
    const LANES: usize = 16;
    let (m, n, k) = (&block.m, &block.n, &block.k);
    for row in 0..m.size {
        for column in 0..n.size {
            // SAFETY: all offsets lie within the views.
            let (x, y) = unsafe {
                (
                    std::slice::from_raw_parts(a.offset(row as isize * m.strides[0]), k.size),
                    std::slice::from_raw_parts(b.offset(column as isize * n.strides[0]), k.size),
                )
            };
            let mut sums = [0.0f32; LANES];
            let (xs, x_rest) = x.as_chunks::<LANES>();
            let (ys, y_rest) = y.as_chunks::<LANES>();
            for (x, y) in xs.iter().zip(ys) {
                for i in 0..LANES {
                    sums[i] += x[i] * y[i];
                }
            }
            let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
            own[row * n.size + column] += sums.iter().sum::<f32>() + rest;
        }
    }
});
