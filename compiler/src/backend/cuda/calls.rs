//! Contractions as calls of NVIDIA's libraries: matrix products for cuBLASLt, convolutions for cuDNN.
//!
//! What a call says is all that the library is told, so that a stand-in on the host that follows these numbers proves them.
//! Sums that would leave most of a device idle are cut into parts, in a number that depends on extents only; the parts are
//! added in order: no atomics. An operand that a library would have to be called for again and again, a part of a concat for
//! example, is copied aside first.

use super::masked::Masked;
use crate::backend::product::{Axis, Dim, Loops, dims, offsets};
use crate::flow::{ConvPart, Window};
use crate::kernel::Format;
use crate::program::{BufferId, Contract, Program, View};

/// A piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Base {
    /// A buffer.
    Buffer(BufferId),
    /// The memory aside, which holds copies for one contraction.
    Aside,
    /// The parts of sums, which stay until they are added.
    Parts,
}

/// Where a matrix begins, and how its numbers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In this memory.
    pub base: Base,
    /// At this byte of it.
    pub at: usize,
    /// Numbers of this format.
    pub format: Format,
}

impl Place {
    /// The first element of a view.
    pub(super) fn of(program: &Program, view: &View) -> Place {
        let format = program.buffer(view.buffer).format;
        Place { base: Base::Buffer(view.buffer), at: format.bytes(view.offset), format }
    }

    /// So many elements on.
    fn on(self, by: usize) -> Place {
        Place { at: self.at + self.format.bytes(by), ..self }
    }
}

/// Memory aside that is handed out from front to back, in bytes.
#[derive(Debug, Default)]
struct Room(usize);

impl Room {
    /// A place for so many numbers.
    fn take(&mut self, elements: usize, format: Format) -> Place {
        let place = Place { base: Base::Aside, at: self.0, format };
        self.0 += format.bytes(elements).next_multiple_of(ALIGN);
        place
    }
}

/// A matrix in memory: element (i, j) of the product with number p lies `i · rows + j · columns + p · next` elements behind
/// its place. One of `rows` and `columns` is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Its place.
    pub place: Place,
    /// From row to row.
    pub rows: usize,
    /// From column to column.
    pub columns: usize,
    /// From product to product.
    pub next: usize,
}

/// `count` matrix products d = a b: m x n from m x k and k x n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matmul {
    /// Rows of a and d.
    pub m: usize,
    /// Columns of b and d.
    pub n: usize,
    /// Columns of a, rows of b.
    pub k: usize,
    /// How many side by side.
    pub count: usize,
    /// Left.
    pub a: Matrix,
    /// Right.
    pub b: Matrix,
    /// Result; its rows are 1 apart.
    pub d: Matrix,
    /// Added to what d holds.
    pub add: bool,
}

/// A tensor of pictures `[N, H, W, C]` without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pictures {
    /// Where it begins.
    pub place: Place,
    /// N, H, W, C.
    pub size: [usize; 4],
}

impl Pictures {
    /// Its elements.
    pub fn elements(&self) -> usize {
        self.size.iter().product()
    }

    /// Distances of its dims.
    fn strides(&self) -> [usize; 4] {
        let [_, h, w, c] = self.size;
        [h * w * c, w * c, c, 1]
    }
}

/// A convolution, or the gradient of its operand or its weight, as cuDNN has them for tensors with channels last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Which of the three is computed from the other two.
    pub part: ConvPart,
    /// Operand.
    pub x: Pictures,
    /// Weight `[out, kh, kw, in]`, without gaps.
    pub w: Place,
    /// Result.
    pub y: Pictures,
    /// Extents of the window.
    pub kernel: [usize; 2],
    /// From place to place.
    pub stride: [usize; 2],
    /// Zeros around the operand, as many on all sides.
    pub pad: usize,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// For cuBLASLt.
    Matmul(Matmul),
    /// For cuDNN.
    Convolution(Convolution),
    /// Spikes kept as bits and numbers, by a kernel of ours.
    Masked(Masked),
    /// The parts of a sum, `size` elements each, added in order, by a kernel of ours.
    Sum {
        /// The parts.
        from: Place,
        /// How many.
        parts: usize,
        /// Elements of the result.
        size: usize,
        /// The result.
        to: Place,
    },
    /// Whether some number of these is not finite, by a kernel of ours that stores 1 then; before, it holds 0.
    Overflow {
        /// f32 without gaps: where they begin and how many there are.
        of: Vec<(Place, usize)>,
        /// The result.
        to: Place,
    },
    /// Zeros.
    Zero {
        /// From here.
        at: Place,
        /// How many.
        size: usize,
    },
    /// A tensor's elements at other distances, by a kernel of ours.
    Copy {
        /// From here.
        from: Place,
        /// To here.
        to: Place,
        /// Extents; 1 where there are less dims.
        size: [usize; DIMS],
        /// Distances, from and to.
        strides: [[usize; DIMS]; 2],
    },
}

/// The most dims that a copy has.
pub const DIMS: usize = 6;

/// The kernels of [`Call::Sum`], [`Call::Copy`] and [`Call::Overflow`].
pub const KERNELS: &str = include_str!("calls.cu");

/// Their names.
pub const FUNCTIONS: [&str; 8] =
    ["sum_parts", "overflow", "copy_f32_f32", "copy_f32_f16", "copy_f16_f32", "copy_f16_f16", "copy_f32_bf16", "copy_bf16_f32"];

/// Those that take several structures side by side.
pub const SIDE: [&str; 2] = ["sum_parts", "overflow"];

impl Call {
    /// The places it reads or writes.
    pub fn places(&self) -> Vec<Place> {
        match self {
            Call::Matmul(c) => vec![c.a.place, c.b.place, c.d.place],
            Call::Convolution(c) => vec![c.x.place, c.w, c.y.place],
            Call::Masked(c) => c.rows.iter().map(|r| r.place).chain([c.by, c.to]).collect(),
            Call::Sum { from, to, .. } | Call::Copy { from, to, .. } => vec![*from, *to],
            Call::Overflow { of, to } => of.iter().map(|(place, _)| *place).chain([*to]).collect(),
            Call::Zero { at, .. } => vec![*at],
        }
    }

    /// The same with all places in this memory so many bytes further on.
    #[must_use]
    pub fn shifted(mut self, base: Base, by: usize) -> Call {
        let move_on = |place: &mut Place| place.at += if place.base == base { by } else { 0 };
        match &mut self {
            Call::Matmul(c) => [&mut c.a.place, &mut c.b.place, &mut c.d.place].into_iter().for_each(move_on),
            Call::Convolution(c) => [&mut c.x.place, &mut c.w, &mut c.y.place].into_iter().for_each(move_on),
            Call::Sum { from, to, .. } | Call::Copy { from, to, .. } => [from, to].into_iter().for_each(move_on),
            Call::Masked(c) => move_on(&mut c.to),
            // Of buffers only.
            Call::Overflow { .. } => {}
            Call::Zero { at, .. } => move_on(at),
        }
        self
    }

    /// The end, in bytes, of what it touches of this memory.
    pub fn end(&self, base: Base) -> usize {
        let end = |place: &Place, size: usize| if place.base == base { place.at + place.format.bytes(size) } else { 0 };
        match self {
            Call::Matmul(Matmul { m, n, count, d, .. }) => end(&d.place, d.next * (count - 1) + d.columns * (n - 1) + m),
            Call::Convolution(c) => {
                let weights = c.x.size[3] * c.y.size[3] * c.kernel[0] * c.kernel[1];
                end(&c.x.place, c.x.elements()).max(end(&c.y.place, c.y.elements())).max(end(&c.w, weights))
            }
            Call::Masked(c) if c.parts[0] > 1 => end(&c.to, c.parts[0] * c.parts[1]),
            Call::Masked(_) | Call::Overflow { .. } => 0,
            Call::Zero { at, size } => end(at, *size),
            Call::Sum { from, parts, size, .. } => end(from, parts * size),
            Call::Copy { to, size, strides, .. } => end(to, 1 + size.iter().zip(strides[1]).map(|(n, s)| (n - 1) * s).sum::<usize>()),
        }
    }
}

/// Multiprocessors that a product should keep busy, and the side of the tile that one of them computes.
pub(super) const BUSY: usize = 132;
const TILE: usize = 128;
/// The fewest terms that are worth a part of their own.
const LEAST_TERMS: usize = 512;

/// The calls that compute a contraction for so many samples and time steps. Places aside and of parts count from 0.
pub fn calls(program: &Program, contract: &Contract, samples: usize, steps: usize) -> Vec<Call> {
    match contract {
        Contract::Product { a, b, out, a_labels, b_labels, out_labels } => {
            let operand = |view, labels| Operand { place: Place::of(program, view), dims: dims(view, labels, samples, steps) };
            product(&[operand(a, a_labels), operand(b, b_labels), operand(out, out_labels)])
        }
        Contract::Masked { .. } => super::masked::calls(program, contract, samples, steps),
        Contract::Overflow { of, out } => {
            let all = of.iter().map(|v| (Place::of(program, v), v.axes.iter().map(|(_, size, _)| size).product()));
            vec![Call::Overflow { of: all.collect(), to: Place::of(program, out) }]
        }
        Contract::Conv { a, b, out, part, window } => {
            let (x, y, w) = match part {
                ConvPart::Result => (a, out, b),
                ConvPart::Operand => (out, a, b),
                ConvPart::Weight => (a, b, out),
            };
            if window.pointwise() {
                return pointwise(program, *part, [x, y, w], samples, steps);
            }
            let places = [x, y, w].map(|view| Place::of(program, view));
            convolution(*part, *window, [x, y, w], places, samples, steps)
        }
    }
}

/// A convolution that looks at one place is a product over channels.
fn pointwise(program: &Program, part: ConvPart, [x, y, w]: [&View; 3], samples: usize, steps: usize) -> Vec<Call> {
    let labels = |view: &View, channel: &str| -> Vec<String> {
        let outer = [(view.batch > 0, "B"), (view.time > 0, "T")].into_iter().filter(|(there, _)| *there).map(|(_, name)| name);
        outer.chain(view.axes.iter().map(|(name, ..)| if name == "C" { channel } else { name })).map(str::to_owned).collect()
    };
    let labels = [labels(x, "in"), labels(y, "out"), labels(w, "C")];
    let operand = |view, labels| Operand { place: Place::of(program, view), dims: dims(view, labels, samples, steps) };
    let [x, y, w] = [operand(x, &labels[0]), operand(y, &labels[1]), operand(w, &labels[2])];
    product(&match part {
        ConvPart::Result => [x, w, y],
        ConvPart::Operand => [y, w, x],
        ConvPart::Weight => [y, x, w],
    })
}

/// A tensor of a product.
#[derive(Clone, Debug)]
struct Operand<'l> {
    place: Place,
    dims: Vec<Dim<'l>>,
}

/// Calls of a library that one product may take before operands are copied.
const MOST_CALLS: usize = 8;
/// Copies begin at multiples of this many bytes.
const ALIGN: usize = 256;

impl<'l> Operand<'l> {
    fn elements(&self) -> usize {
        self.dims.iter().map(|(_, size, _)| size).product()
    }

    /// The same without gaps, aside.
    fn aside(&self, room: &mut Room) -> Operand<'l> {
        let mut distance = self.elements() as isize;
        let dense = self.dims.iter().map(|(label, size, _)| {
            distance /= (*size).max(1) as isize;
            (*label, *size, distance)
        });
        let dims = dense.collect();
        Operand { place: room.take(self.elements(), self.place.format), dims }
    }

    fn copied_to(&self, to: &Operand<'_>) -> Call {
        let (mut size, mut strides) = ([1; DIMS], [[0; DIMS]; 2]);
        let axes = self.dims.iter().zip(&to.dims).filter(|(d, _)| d.1 > 1);
        for (i, ((_, extent, from), (_, _, to))) in axes.enumerate() {
            size[i] = *extent;
            strides[0][i] = *from as usize;
            strides[1][i] = *to as usize;
        }
        Call::Copy { from: self.place, to: to.place, size, strides }
    }
}

/// The calls of a product, with copies of as little as possible where they would be many.
fn product(operands: &[Operand<'_>; 3]) -> Vec<Call> {
    let copied = |which: usize| {
        let mut room = Room::default();
        let mut used = operands.clone();
        for (i, operand) in used.iter_mut().enumerate().filter(|(i, _)| which >> i & 1 == 1) {
            *operand = operands[i].aside(&mut room);
        }
        let own = direct(&used);
        let size: usize = (0..3).filter(|i| which >> i & 1 == 1).map(|i| operands[i].elements()).sum();
        let into = (0..2).filter(|i| which >> i & 1 == 1).map(|i| operands[i].copied_to(&used[i]));
        let back = (which >> 2 & 1 == 1).then(|| used[2].copied_to(&operands[2]));
        let count = own.len();
        (count, size, into.chain(own).chain(back).collect::<Vec<Call>>())
    };
    let (count, _, calls) = copied(0);
    if count <= MOST_CALLS || operands.iter().any(|o| o.dims.iter().filter(|d| d.1 > 1).count() > DIMS) {
        return calls;
    }
    let all = (1..8).map(copied).min_by_key(|(count, size, _)| (*count > MOST_CALLS, *size));
    all.filter(|(fewer, ..)| *fewer < count).map_or(calls, |(_, _, copied)| copied)
}

/// The axes of one matrix product, and what it leaves to others.
struct Split {
    m: Axis<2>,
    n: Axis<2>,
    k: Axis<2>,
    /// Products side by side in one call, with distances in a, b and d.
    side: Axis<3>,
    /// Calls.
    others: Vec<Axis<3>>,
    /// Sums of several products.
    terms: Vec<Axis<2>>,
}

impl Split {
    /// Calls, then what one of them computes, the more the better.
    fn cost(&self) -> (usize, std::cmp::Reverse<usize>) {
        let calls = self.others.iter().map(|a| a.size).product::<usize>();
        (calls, std::cmp::Reverse(self.m.size * self.n.size * self.k.size))
    }
}

/// A library takes a matrix if it runs without gaps along rows or columns.
fn dense(rows: (usize, isize), columns: (usize, isize)) -> bool {
    let runs = |(size, stride): (usize, isize), (others, distance): (usize, isize)| {
        (size == 1 || stride == 1) && (others == 1 || distance >= size as isize)
    };
    runs(rows, columns) || runs(columns, rows)
}

/// All ways to take one axis of some, or none.
fn choices<const N: usize>(axes: &[Axis<N>]) -> impl Iterator<Item = (Axis<N>, Vec<Axis<N>>)> + '_ {
    let one = |i: usize| {
        let rest = axes.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, a)| a.clone()).collect();
        (axes.get(i).cloned().unwrap_or(Axis::ONE), rest)
    };
    (0..=axes.len()).map(one)
}

/// The calls of a product whose operands stay where they are.
fn direct(operands: &[Operand<'_>; 3]) -> Vec<Call> {
    let [a, b, out] = operands;
    let loops = Loops::of(&a.dims, &b.dims, &out.dims);
    let mut best: Option<Split> = None;
    for (m, rows) in choices(&loops.rows) {
        for (n, columns) in choices(&loops.columns) {
            for (k, terms) in choices(&loops.terms) {
                let fits = dense((m.size, m.strides[0]), (k.size, k.strides[0]))
                    && dense((k.size, k.strides[1]), (n.size, n.strides[0]))
                    && dense((m.size, m.strides[1]), (n.size, n.strides[1]));
                if !fits {
                    continue;
                }
                let mut others: Vec<Axis<3>> = loops.shared.clone();
                others.extend(rows.iter().map(|r| Axis { size: r.size, strides: [r.strides[0], 0, r.strides[1]] }));
                others.extend(columns.iter().map(|c| Axis { size: c.size, strides: [0, c.strides[0], c.strides[1]] }));
                others.sort_by_key(|o| o.size);
                let side = others.pop().unwrap_or(Axis::ONE);
                let split = Split { m: m.clone(), n: n.clone(), k, side, others, terms };
                if best.as_ref().is_none_or(|b| split.cost() < b.cost()) {
                    best = Some(split);
                }
            }
        }
    }
    // With no axis taken everything fits.
    best.map_or_else(Vec::new, |split| split.calls([a.place, b.place, out.place]))
}

impl Split {
    fn calls(&self, places: [Place; 3]) -> Vec<Call> {
        let all: Vec<[isize; 2]> = offsets(&self.terms);
        let alone = self.others.is_empty() && self.side.size == 1;
        let (rows, columns) = (self.m.size, self.n.size);
        // A result without gaps, whose elements the parts can be added to one by one.
        let whole = |s: [isize; 2]| (rows == 1 || s[0] == 1) && (columns == 1 || s[1] == rows as isize);
        let (upright, turned) = (whole([self.m.strides[1], self.n.strides[1]]), {
            (columns == 1 || self.n.strides[1] == 1) && (rows == 1 || self.m.strides[1] == columns as isize)
        });
        if alone && (upright || turned) {
            if let [terms] = &self.terms[..] {
                return self.in_parts(places, turned && !upright, terms.size, [terms.strides[0], terms.strides[1]], self.k.size);
            }
            let parts = self.cut();
            if self.terms.is_empty() && parts > 1 {
                let length = self.k.size / parts;
                let next = self.k.strides.map(|s| s * length as isize);
                return self.in_parts(places, turned && !upright, parts, next, length);
            }
        }
        let mut out = Vec::new();
        for [oa, ob, od] in offsets(&self.others) {
            for (i, [ta, tb]) in all.iter().enumerate() {
                let call = self.matmul(places, [oa + ta, ob + tb, od], self.side.size, self.side.strides, self.k.size, None);
                out.push(Call::Matmul(Matmul { add: i > 0, ..call }));
            }
        }
        out
    }

    /// Into how many parts the terms of one product are cut.
    fn cut(&self) -> usize {
        let tiles = self.m.size.div_ceil(TILE) * self.n.size.div_ceil(TILE);
        let most = (BUSY / tiles.max(1)).min(self.k.size / LEAST_TERMS).max(1);
        (1..=most).rev().find(|n| self.k.size.is_multiple_of(*n)).unwrap_or(1)
    }

    /// Parts of a sum side by side, and their sum.
    fn in_parts(&self, [a, b, to]: [Place; 3], turned: bool, parts: usize, next: [isize; 2], terms: usize) -> Vec<Call> {
        let size = self.m.size * self.n.size;
        let from = Place { base: Base::Parts, at: 0, format: Format::F32 };
        let call = self.matmul([a, b, from], [0; 3], parts, [next[0], next[1], size as isize], terms, Some(turned));
        vec![Call::Matmul(call), Call::Sum { from, parts, size, to }]
    }

    /// One call; into parts without gaps, along the columns if they are turned.
    fn matmul(&self, places: [Place; 3], at: [isize; 3], count: usize, next: [isize; 3], terms: usize, parts: Option<bool>) -> Matmul {
        let place = |i: usize| places[i].on(at[i] as usize);
        // A distance that nothing moves along counts as the shortest there is.
        let matrix = |place: Place, (rows, sr): (usize, isize), (columns, sc): (usize, isize), next: isize| {
            let (sr, sc) = match (rows == 1 || sr == 1, columns == 1 || sc == 1) {
                (true, _) if rows > 1 || sc != 1 => (1, if columns == 1 { rows as isize } else { sc }),
                (_, true) => (if rows == 1 { columns as isize } else { sr }, 1),
                _ => (sr, sc),
            };
            Matrix { place, rows: sr as usize, columns: sc as usize, next: next as usize }
        };
        let (m, n) = ((self.m.size, &self.m.strides), (self.n.size, &self.n.strides));
        let a = matrix(place(0), (m.0, m.1[0]), (terms, self.k.strides[0]), next[0]);
        let b = matrix(place(1), (terms, self.k.strides[1]), (n.0, n.1[0]), next[1]);
        let d = match parts {
            None => matrix(place(2), (m.0, m.1[1]), (n.0, n.1[1]), next[2]),
            Some(false) => matrix(place(2), (m.0, 1), (n.0, m.0 as isize), next[2]),
            Some(true) => matrix(place(2), (m.0, n.0 as isize), (n.0, 1), next[2]),
        };
        let call = Matmul { m: m.0, n: n.0, k: terms, count, a, b, d, add: false };
        if d.rows == 1 { call } else { call.turned() }
    }
}

impl Matmul {
    /// The same product seen from the other side: dᵀ = bᵀ aᵀ.
    fn turned(self) -> Matmul {
        let turn = |x: Matrix| Matrix { rows: x.columns, columns: x.rows, ..x };
        Matmul { m: self.n, n: self.m, a: turn(self.b), b: turn(self.a), d: turn(self.d), ..self }
    }
}

/// A tensor `[N, H, W, C]` as a view has it.
struct Strided {
    place: Place,
    size: [usize; 4],
    strides: [usize; 4],
}

impl Strided {
    fn of(view: &View, place: Place, samples: usize, steps: usize) -> Strided {
        let [h, w, c] = ["H", "W", "C"].map(|name| view.axis(name).unwrap_or((1, 1)));
        // Time steps are samples more: training runs all of them, and they follow each other.
        debug_assert!(view.time == 0 || samples == 1 || view.batch == steps * view.time, "steps are left out");
        let (n, next) = if view.time > 0 { (samples * steps, view.time) } else { (samples, view.batch) };
        Strided { place, size: [n, h.0, w.0, c.0], strides: [next, h.1, w.1, c.1] }
    }

    /// The same without gaps: where it is, or aside with zeros around it; then what comes before its use, and after it.
    fn dense(&self, pad: [usize; 2], written: bool, room: &mut Room) -> (Pictures, Vec<Call>, Vec<Call>) {
        let here = Pictures { place: self.place, size: self.size };
        let gaps = self.size.iter().zip(self.strides).zip(here.strides()).any(|((size, own), dense)| *size > 1 && own != dense);
        if !gaps && pad == [0, 0] {
            return (here, vec![], vec![]);
        }
        let [n, h, w, c] = self.size;
        let around = pad[0] + pad[1];
        let size = [n, h + around, w + around, c];
        let aside = Pictures { place: room.take(size.iter().product(), self.place.format), size };
        let strides = aside.strides();
        let inside = aside.place.on(pad[0] * (strides[1] + strides[2]));
        let (out, back) = ((self.place, self.strides), (inside, strides));
        let copy = |(from, s): (Place, [usize; 4]), (to, t): (Place, [usize; 4])| {
            let wide = |of: [usize; 4], rest: usize| [of[0], of[1], of[2], of[3], rest, rest];
            Call::Copy { from, to, size: wide(self.size, 1), strides: [wide(s, 0), wide(t, 0)] }
        };
        if written {
            return (aside, vec![], vec![copy(back, out)]);
        }
        let zero = (around > 0).then_some(Call::Zero { at: aside.place, size: aside.elements() });
        (aside, zero.into_iter().chain([copy(out, back)]).collect(), vec![])
    }
}

fn convolution(part: ConvPart, window: Window, views: [&View; 3], places: [Place; 3], samples: usize, steps: usize) -> Vec<Call> {
    let [x, y] = [0, 1].map(|i| Strided::of(views[i], places[i], samples, steps));
    let [kh, kw] = window.kernel;
    let (inputs, outputs) = (x.size[3], y.size[3]);
    let mut room = Room::default();
    // The library puts as many zeros on all sides; others are put there before.
    let [before, after] = window.pad;
    let (own, pad) = if before == after { (before, [0, 0]) } else { (0, window.pad) };
    let (x, mut calls, mut last) = x.dense(pad, part == ConvPart::Operand, &mut room);
    let (y, more, end) = y.dense([0, 0], part == ConvPart::Result, &mut room);
    calls.extend(more);
    last.extend(end);
    // Weights are kept [out, in, kh, kw].
    let (taps, given) = (kh * kw, places[2]);
    let mut weight = given;
    // The library takes all three in one format.
    if taps > 1 && inputs > 1 || given.format != x.place.format {
        weight = room.take(outputs * inputs * taps, x.place.format);
        let size = [outputs, inputs, taps, 1, 1, 1];
        let (kept, used) = ([inputs * taps, taps, 1, 0, 0, 0], [inputs * taps, 1, inputs, 0, 0, 0]);
        match part {
            ConvPart::Weight => last.push(Call::Copy { from: weight, to: given, size, strides: [used, kept] }),
            _ => calls.push(Call::Copy { from: given, to: weight, size, strides: [kept, used] }),
        }
    }
    calls.push(Call::Convolution(Convolution { part, x, w: weight, y, kernel: window.kernel, stride: window.stride, pad: own }));
    calls.extend(last);
    calls
}
