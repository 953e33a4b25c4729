//! What NVIDIA's libraries would do, on the host: a call's numbers followed literally, element by element. What it computes
//! proves the numbers that the libraries are given on a device.
#![allow(unsafe_code, reason = "operands are pointers and strides, as the libraries take them")]

use crate::device::cpu::Pointer;
use rayon::prelude::*;
use snnc_compiler::backend::cuda::calls::{Convolution, Matmul, Matrix, Pictures, Place};
use snnc_compiler::flow::ConvPart;

/// Memory as calls see it.
pub(super) struct Memory<'m> {
    /// Where every buffer begins.
    pub(super) buffers: &'m [Pointer],
    /// Memory for copies and parts of sums.
    pub(super) aside: Pointer,
}

impl Memory<'_> {
    pub(super) fn at(&self, place: Place) -> Pointer {
        match place {
            // SAFETY: a place lies in its buffer.
            Place::Buffer(id, offset) => Pointer(unsafe { self.buffers[id.index()].get().add(offset) }),
            // SAFETY: as much was asked for.
            Place::Aside(offset) => Pointer(unsafe { self.aside.get().add(offset) }),
        }
    }

    /// cublasLtMatmul: matrices column by column, or transposed, and as many side by side as the batch count says.
    pub(super) fn matmul(&self, call: &Matmul) {
        let Matmul { m, n, k, count, a, b, d, add } = *call;
        let leading = |x: &Matrix, rows: usize, columns: usize| {
            let (run, distance) = if x.rows == 1 { (rows, x.columns) } else { (columns, x.rows) };
            assert!(
                (x.rows == 1 || x.columns == 1) && distance >= run.max(1),
                "a library takes no such matrix: {x:?} of {rows} x {columns}"
            );
        };
        leading(&a, m, k);
        leading(&b, k, n);
        leading(&d, m, n);
        assert_eq!(d.rows, 1, "a library gives results column by column");
        let (pa, pb, pd) = (self.at(a.place), self.at(b.place), self.at(d.place));
        (0..count * n).into_par_iter().for_each(|at| {
            let (p, j) = (at / n, at % n);
            let mut column = vec![0.0f32; m];
            // SAFETY: extents and distances are those of views; columns of the result are disjoint.
            unsafe {
                let (pa, pb) = (pa.get().add(p * a.next), pb.get().add(p * b.next + j * b.columns));
                for l in 0..k {
                    let right = *pb.add(l * b.rows);
                    let left = pa.add(l * a.columns);
                    column.iter_mut().enumerate().for_each(|(i, sum)| *sum += *left.add(i * a.rows) * right);
                }
                let to = pd.get().add(p * d.next + j * d.columns);
                column.iter().enumerate().for_each(|(i, sum)| *to.add(i) = if add { *to.add(i) + sum } else { *sum });
            }
        });
    }

    /// cudnnConvolutionForward, -BackwardData or -BackwardFilter, as cross-correlations of strided tensors.
    pub(super) fn convolution(&self, call: &Convolution) {
        let Convolution { part, x, y, window, .. } = call;
        let [kh, kw] = window.kernel;
        let (px, pw, py) = (self.at(x.place), self.at(call.w), self.at(y.place));
        let (inputs, outputs) = (x.size[1], y.size[1]);
        assert_eq!(x.size[0], y.size[0], "as many results as pictures");
        for i in 0..2 {
            assert_eq!(window.out(i, x.size[2 + i]), Some(y.size[2 + i]), "cuDNN would give another extent");
        }
        let element = |p: &Pictures, [n, c, h, w]: [usize; 4]| n * p.strides[0] + c * p.strides[1] + h * p.strides[2] + w * p.strides[3];
        // The place of the operand that a tap of a place of the result reads.
        let under =
            |i: usize, out: usize, tap: usize| (out * window.stride[i] + tap).checked_sub(window.pad[0]).filter(|p| *p < x.size[2 + i]);
        let weight = |o: usize, c: usize, h: usize, w: usize| ((o * inputs + c) * kh + h) * kw + w;
        let each = |mut f: Box<dyn FnMut(usize, usize, usize) + '_>, n: usize, o: usize| {
            for (oh, ow) in (0..y.size[2]).flat_map(|h| (0..y.size[3]).map(move |w| (h, w))) {
                let at = element(y, [n, o, oh, ow]);
                for (h, w) in (0..kh).flat_map(|h| (0..kw).map(move |w| (h, w))) {
                    let (Some(ih), Some(iw)) = (under(0, oh, h), under(1, ow, w)) else { continue };
                    for c in 0..inputs {
                        f(at, element(x, [n, c, ih, iw]), weight(o, c, h, w));
                    }
                }
            }
        };
        // SAFETY: extents and distances are those of views; samples, or outputs, are disjoint.
        match part {
            ConvPart::Result => (0..y.size[0]).into_par_iter().for_each(|n| {
                for o in 0..outputs {
                    for (h, w) in (0..y.size[2]).flat_map(|h| (0..y.size[3]).map(move |w| (h, w))) {
                        unsafe { *py.get().add(element(y, [n, o, h, w])) = 0.0 };
                    }
                    each(Box::new(|y, x, w| unsafe { *py.get().add(y) += *px.get().add(x) * *pw.get().add(w) }), n, o);
                }
            }),
            ConvPart::Operand => (0..y.size[0]).into_par_iter().for_each(|n| {
                for c in 0..inputs {
                    for (h, w) in (0..x.size[2]).flat_map(|h| (0..x.size[3]).map(move |w| (h, w))) {
                        unsafe { *px.get().add(element(x, [n, c, h, w])) = 0.0 };
                    }
                }
                for o in 0..outputs {
                    each(Box::new(|y, x, w| unsafe { *px.get().add(x) += *py.get().add(y) * *pw.get().add(w) }), n, o);
                }
            }),
            ConvPart::Weight => (0..outputs).into_par_iter().for_each(|o| {
                unsafe { (0..inputs * kh * kw).for_each(|i| *pw.get().add(weight(o, 0, 0, 0) + i) = 0.0) };
                for n in 0..y.size[0] {
                    each(Box::new(|y, x, w| unsafe { *pw.get().add(w) += *px.get().add(x) * *py.get().add(y) }), n, o);
                }
            }),
        }
    }
}
