//! What NVIDIA's libraries would do, on the host: a call's numbers followed literally, element by element. What it computes
//! proves the numbers that the libraries are given on a device.
#![allow(unsafe_code, reason = "operands are pointers and strides, as the libraries take them")]

use super::launch::Addresses;
use half::{bf16, f16};
use rayon::prelude::*;
use snnc_compiler::backend::cuda::calls::{Convolution, Matmul, Matrix, Pictures, Place};
use snnc_compiler::flow::ConvPart;
use snnc_compiler::kernel::Format;

/// Numbers in memory, as a place keeps them.
#[derive(Clone, Copy)]
struct Numbers {
    at: u64,
    format: Format,
}

impl Numbers {
    fn of(place: Place, at: &Addresses<'_>) -> Numbers {
        Numbers { at: at.of(place), format: place.format }
    }

    fn on(self, by: usize) -> Numbers {
        Numbers { at: self.at + self.format.bytes(by) as u64, ..self }
    }

    /// # Safety
    /// There must be so many numbers.
    unsafe fn get(self, i: usize) -> f32 {
        let place = self.on(i).at;
        // SAFETY: the caller's promise.
        unsafe {
            match self.format {
                Format::F32 => *(place as *const f32),
                Format::F16 => f16::from_bits(*(place as *const u16)).to_f32(),
                Format::Bf16 => bf16::from_bits(*(place as *const u16)).to_f32(),
                Format::Bit => unreachable!("libraries read no bits"),
            }
        }
    }

    /// # Safety
    /// As [`Numbers::get`], and nobody else may use the place.
    unsafe fn set(self, i: usize, x: f32) {
        let place = self.on(i).at;
        // SAFETY: the caller's promise.
        unsafe {
            match self.format {
                Format::F32 => *(place as *mut f32) = x,
                Format::F16 => *(place as *mut u16) = f16::from_f32(x).to_bits(),
                Format::Bf16 => *(place as *mut u16) = bf16::from_f32(x).to_bits(),
                Format::Bit => unreachable!("libraries write no bits"),
            }
        }
    }
}

/// cublasLtMatmul: matrices column by column, or transposed, and as many side by side as the batch count says. Sums are f32.
///
/// # Safety
/// Matrices must lie in memory with these extents and distances.
pub(super) unsafe fn matmul(call: &Matmul, at: &Addresses<'_>) {
    let Matmul { m, n, k, count, a, b, d, add } = *call;
    let leading = |x: &Matrix, rows: usize, columns: usize| {
        let (run, distance) = if x.rows == 1 { (rows, x.columns) } else { (columns, x.rows) };
        assert!((x.rows == 1 || x.columns == 1) && distance >= run.max(1), "a library takes no such matrix: {x:?} of {rows} x {columns}");
    };
    leading(&a, m, k);
    leading(&b, k, n);
    leading(&d, m, n);
    assert_eq!(d.rows, 1, "a library gives results column by column");
    assert_eq!(a.place.format, b.place.format, "a library multiplies numbers of one format");
    let (pa, pb, pd) = (Numbers::of(a.place, at), Numbers::of(b.place, at), Numbers::of(d.place, at));
    // Column after column.
    let lefts = if a.next == 0 { 1 } else { count };
    // SAFETY: extents and distances are the caller's.
    let left = |p: usize| unsafe {
        let element = |e: usize| pa.get(p * a.next + e / m * a.columns + e % m * a.rows);
        (0..k * m).map(element).collect::<Vec<f32>>()
    };
    let left: Vec<Vec<f32>> = (0..lefts).into_par_iter().map(left).collect();
    (0..count * n).into_par_iter().for_each(|at| {
        let (p, j) = (at / n, at % n);
        let mut column = vec![0.0f32; m];
        // SAFETY: extents and distances are the caller's; columns of the result are disjoint.
        unsafe {
            let pb = pb.on(p * b.next + j * b.columns);
            for (l, left) in left[p % lefts].chunks(m.max(1)).enumerate() {
                let right = pb.get(l * b.rows);
                column.iter_mut().zip(left).for_each(|(sum, left)| *sum += left * right);
            }
            let to = pd.on(p * d.next + j * d.columns);
            column.iter().enumerate().for_each(|(i, sum)| to.set(i, if add { to.get(i) + sum } else { *sum }));
        }
    });
}

/// cudnnConvolutionForward, -BackwardData or -BackwardFilter, as cross-correlations of tensors with channels last. Sums are f32.
///
/// # Safety
/// Tensors must lie in memory with these extents.
pub(super) unsafe fn convolution(call: &Convolution, at: &Addresses<'_>) {
    let Convolution { part, x, y, kernel, stride, pad, .. } = call;
    let [kh, kw] = *kernel;
    let (px, pw, py) = (Numbers::of(x.place, at), Numbers::of(call.w, at), Numbers::of(y.place, at));
    assert!(px.format == pw.format && pw.format == py.format, "the library convolves numbers of one format");
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
    // SAFETY: extents are the caller's.
    let numbers = |of: Numbers, elements: usize| -> Vec<f32> { (0..elements).map(|i| unsafe { of.get(i) }).collect() };
    let operand = |own: ConvPart, of: Numbers, elements: usize| if *part == own { vec![] } else { numbers(of, elements) };
    let xs = operand(ConvPart::Operand, px, x.elements());
    let ws = operand(ConvPart::Weight, pw, outputs * terms);
    let ys = operand(ConvPart::Result, py, y.elements());
    // SAFETY: extents are the caller's; samples, or outputs, are disjoint.
    let write = |to: Numbers, at: usize, sums: &[f32]| unsafe { sums.iter().enumerate().for_each(|(i, x)| to.set(at + i, *x)) };
    match part {
        ConvPart::Result => (0..n).into_par_iter().for_each(|n| {
            let first = element(y, n, 0, 0);
            let mut sums = vec![0.0f32; y.elements() / samples];
            taps(n, &mut |y, x, w| {
                for o in 0..outputs {
                    sums[y - first + o] += (0..inputs).map(|c| xs[x + c] * ws[o * terms + w + c]).sum::<f32>();
                }
            });
            write(py, first, &sums);
        }),
        ConvPart::Operand => (0..n).into_par_iter().for_each(|n| {
            let first = element(x, n, 0, 0);
            let mut sums = vec![0.0f32; x.elements() / samples];
            taps(n, &mut |y, x, w| {
                for o in 0..outputs {
                    let grad = ys[y + o];
                    (0..inputs).for_each(|c| sums[x - first + c] += grad * ws[o * terms + w + c]);
                }
            });
            write(px, first, &sums);
        }),
        ConvPart::Weight => (0..outputs).into_par_iter().for_each(|o| {
            let mut sums = vec![0.0f32; terms];
            for n in 0..n {
                taps(n, &mut |y, x, w| {
                    let grad = ys[y + o];
                    (0..inputs).for_each(|c| sums[w + c] += grad * xs[x + c]);
                });
            }
            write(pw, o * terms, &sums);
        }),
    }
}
