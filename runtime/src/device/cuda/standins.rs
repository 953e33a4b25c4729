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

    /// cudnnConvolutionForward, -BackwardData or -BackwardFilter, as cross-correlations of tensors with channels last.
    pub(super) fn convolution(&self, call: &Convolution) {
        let Convolution { part, x, y, kernel, stride, pad, .. } = call;
        let [kh, kw] = *kernel;
        let (px, pw, py) = (self.at(x.place), self.at(call.w), self.at(y.place));
        let ([n, h, w, inputs], [samples, _, _, outputs]) = (x.size, y.size);
        assert_eq!(n, samples, "as many results as pictures");
        for i in 0..2 {
            assert_eq!((x.size[1 + i] + 2 * pad - kernel[i]) / stride[i] + 1, y.size[1 + i], "cuDNN would give another extent");
        }
        let element = |p: &Pictures, n: usize, h: usize, w: usize| ((n * p.size[1] + h) * p.size[2] + w) * p.size[3];
        let under = |i: usize, out: usize, tap: usize| (out * stride[i] + tap).checked_sub(*pad).filter(|p| *p < [h, w][i]);
        // For every place of the result of a sample and every tap within the picture: where all three begin.
        let taps = |n: usize, f: &mut dyn FnMut(usize, usize, usize)| {
            for (oh, ow) in (0..y.size[1]).flat_map(|h| (0..y.size[2]).map(move |w| (h, w))) {
                for (th, tw) in (0..kh).flat_map(|h| (0..kw).map(move |w| (h, w))) {
                    if let (Some(ih), Some(iw)) = (under(0, oh, th), under(1, ow, tw)) {
                        f(element(y, n, oh, ow), element(x, n, ih, iw), (th * kw + tw) * inputs);
                    }
                }
            }
        };
        let terms = kh * kw * inputs;
        // SAFETY: extents are those of views; samples, or outputs, are disjoint.
        unsafe {
            match part {
                ConvPart::Result => (0..n).into_par_iter().for_each(|n| {
                    std::slice::from_raw_parts_mut(py.get().add(element(y, n, 0, 0)), y.elements() / samples).fill(0.0);
                    taps(n, &mut |y, x, w| {
                        for o in 0..outputs {
                            let sum: f32 = (0..inputs).map(|c| *px.get().add(x + c) * *pw.get().add(o * terms + w + c)).sum();
                            *py.get().add(y + o) += sum;
                        }
                    });
                }),
                ConvPart::Operand => (0..n).into_par_iter().for_each(|n| {
                    std::slice::from_raw_parts_mut(px.get().add(element(x, n, 0, 0)), x.elements() / samples).fill(0.0);
                    taps(n, &mut |y, x, w| {
                        for o in 0..outputs {
                            let grad = *py.get().add(y + o);
                            (0..inputs).for_each(|c| *px.get().add(x + c) += grad * *pw.get().add(o * terms + w + c));
                        }
                    });
                }),
                ConvPart::Weight => (0..outputs).into_par_iter().for_each(|o| {
                    std::slice::from_raw_parts_mut(pw.get().add(o * terms), terms).fill(0.0);
                    for n in 0..n {
                        taps(n, &mut |y, x, w| {
                            let grad = *py.get().add(y + o);
                            (0..inputs).for_each(|c| *pw.get().add(o * terms + w + c) += grad * *px.get().add(x + c));
                        });
                    }
                }),
            }
        }
    }
}
