//! Backend-neutral loop nests: what fusion emits and every backend prints.
//!
//! A kernel is called with a range of its outermost loop and the number of that range. Numbers are f32, whatever they are
//! kept as in memory; the innermost
//! loop may run several elements at once (`lanes`), and then every number inside is one per lane. Indices and words of bits
//! are integers, one for all lanes.

mod print;

pub use print::print;

use crate::flow::{Bin, Cmp, Un};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// How numbers are kept in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// IEEE 754 binary32.
    #[default]
    F32,
    /// IEEE 754 binary16: 11 significant bits, up to 65,504.
    F16,
    /// The upper half of binary32: 8 significant bits, its range.
    Bf16,
    /// One bit: 0 or 1, the first of eight in the lowest bit of a byte.
    Bit,
}

impl Format {
    /// Bytes of so many numbers without gaps.
    pub fn bytes(self, numbers: usize) -> usize {
        match self {
            Format::F32 => 4 * numbers,
            Format::F16 | Format::Bf16 => 2 * numbers,
            Format::Bit => numbers.div_ceil(8),
        }
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Bit => "bit",
        }
    }
}

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// A number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Var(pub u32);

/// An integer: a loop's index, or a word of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Int(pub u32);

/// A place in the memory of an argument: Σ index · stride + offset, in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Which argument.
    pub arg: usize,
    /// Indices with their strides.
    pub terms: Vec<(Int, i64)>,
    /// Constant part.
    pub offset: i64,
}

/// The bound of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Bound {
    /// Known.
    Const(i64),
    /// Time steps of this call.
    Steps,
    /// Start of the range of this call.
    Begin,
    /// End of the range of this call.
    End,
    /// Into how many ranges the outermost loop was cut.
    Ranges,
    /// An integer.
    Int(Int),
}

/// An integer expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum IntExpr {
    /// Known.
    Const(i64),
    /// The number of this range.
    Range,
    /// The time step that this call begins with.
    First,
    /// Σ index · factor + constant.
    Affine(Vec<(Int, i64)>, i64),
    /// A word of 64 bits in memory; the place counts words.
    Word(Place),
    /// The number of zeros below the lowest one.
    TrailingZeros(Int),
    /// Without its lowest one.
    ClearLowest(Int),
    /// Divided by a constant, rounded down; of a number that is not negative, unless by a power of two.
    Quotient(Int, i64),
    /// A number of 16 bits in memory, not negative; the place counts such numbers.
    Half(Place),
    /// How many of its bits are ones.
    Ones(Int),
    /// The bits that it shares with a constant.
    And(Int, i64),
    /// The bits that two share.
    Both(Int, Int),
    /// It or a constant, whichever is less.
    Least(Int, i64),
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cond {
    /// The integer is not zero.
    NotZero(Int),
    /// The integer is more than zero.
    Positive(Int),
    /// The integer lies in 0..n.
    Within(Int, i64),
    /// The number at a place is not zero.
    Spike(Place),
    /// The count at a place, a number that is whole and not negative, has this digit of base two.
    Digit(Place, u32),
}

/// A number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Expr {
    /// A variable.
    Var(Var),
    /// A constant.
    Const(f32),
    /// Samples of this call.
    Batch,
    /// Time steps of this call.
    Steps,
    /// An integer, which has at most 24 digits of base two.
    Integer(Int),
    /// A number that the caller sets.
    Hyper(usize),
    /// A number in memory.
    Load(Place),
    /// A number of a kernel's own array, at an index.
    Scratch(usize, Int),
    /// A number from 0 to below 1, drawn for a site, an element Σ index · stride, and the seed of this call.
    Random(u32, Vec<(Int, i64)>),
    /// As memory would keep it in this format, if that is not one bit.
    Rounded(Format, Box<Expr>),
    /// The number where the mask is not zero, otherwise zero; by its bits.
    Masked(Box<Expr>, Box<Expr>),
    /// A function of one.
    Un(Un, Box<Expr>),
    /// A function of two.
    Bin(Bin, Box<Expr>, Box<Expr>),
    /// `if a cmp b { x } else { y }`
    Select(Cmp, Box<[Expr; 4]>),
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Stmt {
    /// Declares a number.
    Let(Var, Expr),
    /// Changes a number.
    Set(Var, Expr),
    /// Declares an integer.
    LetInt(Int, IntExpr),
    /// Changes an integer.
    SetInt(Int, IntExpr),
    /// Writes a number.
    Store(Place, Expr),
    /// Adds to a number in memory, or takes the larger. Lanes that share the place are combined in order.
    Combine {
        /// Where.
        place: Place,
        /// What.
        value: Expr,
        /// The larger instead of the sum.
        max: bool,
        /// Where what a sum has gained by rounding is kept, and taken from what is added next (Kahan 1965).
        error: Option<Place>,
    },
    /// Writes an element of a kernel's own array.
    StoreScratch(usize, Int, Expr),
    /// Writes a word of 64 bits; the place counts words.
    StoreWord(Place, Int),
    /// Writes the lowest 16 bits; the place counts numbers of 16 bits.
    StoreHalf(Place, Int),
    /// Writes a bit for each lane: whether the number is not zero; the place counts bits, and what it says is a multiple of eight. The
    /// bits up to the next multiple of eight are zeros.
    StoreBits(Place, Var),
    /// Transposes a block of bits: the bit for column j in the word of row i goes to the bit for row i in the word of column j. The other
    /// bits of the words that are written are zeros. Places and distances count words.
    Transpose {
        /// The first row.
        from: Place,
        /// How far rows are apart.
        rows_apart: i64,
        /// How many there are, at most 64.
        rows: usize,
        /// The first column.
        to: Place,
        /// How far columns are apart.
        columns_apart: i64,
        /// How many there are, at most 64.
        columns: usize,
    },
    /// So many cache lines from a place on will be read soon. Nothing hangs on it.
    Prefetch(Place, usize),
    /// A loop.
    For {
        /// Its index.
        index: Int,
        /// First.
        from: Bound,
        /// One past the last.
        to: Bound,
        /// Last first.
        reverse: bool,
        /// Several elements at once, up to this many.
        lanes: u8,
        /// What is done.
        body: Vec<Stmt>,
    },
    /// Repeats while a condition holds.
    While(Cond, Vec<Stmt>),
    /// Does something if a condition holds.
    If(Cond, Vec<Stmt>),
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// How each of its arguments keeps its numbers.
    pub args: Vec<Format>,
    /// How many arrays of its own it has, each with one element per time step (at most `time`) and lane.
    pub scratch: usize,
    /// Time steps the arrays have room for.
    pub time: usize,
    /// What it does.
    pub body: Vec<Stmt>,
}

impl Place {
    fn reads(&self, index: Int) -> bool {
        self.terms.iter().any(|(i, _)| *i == index)
    }
}

/// Whether integers or conditions in this body hang on an index: then its loop cannot run several elements at once, as
/// there is one integer for all of them.
pub fn decides(body: &[Stmt], index: Int) -> bool {
    let int = |e: &IntExpr| match e {
        IntExpr::Const(_) | IntExpr::Range | IntExpr::First => false,
        IntExpr::Affine(terms, _) => terms.iter().any(|(i, _)| *i == index),
        IntExpr::Word(place) | IntExpr::Half(place) => place.reads(index),
        IntExpr::TrailingZeros(i)
        | IntExpr::ClearLowest(i)
        | IntExpr::Quotient(i, _)
        | IntExpr::Ones(i)
        | IntExpr::And(i, _)
        | IntExpr::Least(i, _) => *i == index,
        IntExpr::Both(a, b) => *a == index || *b == index,
    };
    let cond = |c: &Cond| match c {
        Cond::NotZero(i) | Cond::Positive(i) | Cond::Within(i, _) => *i == index,
        Cond::Spike(place) | Cond::Digit(place, _) => place.reads(index),
    };
    body.iter().any(|stmt| match stmt {
        Stmt::LetInt(_, e) | Stmt::SetInt(_, e) => int(e),
        Stmt::While(c, body) | Stmt::If(c, body) => cond(c) || decides(body, index),
        Stmt::For { body, .. } => decides(body, index),
        Stmt::Let(..)
        | Stmt::Set(..)
        | Stmt::Store(..)
        | Stmt::Combine { .. }
        | Stmt::StoreScratch(..)
        | Stmt::StoreWord(..)
        | Stmt::StoreHalf(..)
        | Stmt::StoreBits(..)
        | Stmt::Prefetch(..)
        | Stmt::Transpose { .. } => false,
    })
}

/// The body of a loop over rows whose lanes are another loop's: where the row is, and that loop.
pub fn over_rows(body: &[Stmt]) -> bool {
    matches!(body, [Stmt::LetInt(..), Stmt::For { lanes, .. }] if *lanes > 1)
}

/// The numbers that a body reads or sets and does not declare.
pub fn mentioned(body: &[Stmt]) -> HashSet<Var> {
    let (mut all, mut own) = (HashSet::new(), HashSet::new());
    for stmt in body {
        match stmt {
            Stmt::Let(var, value) => {
                own.insert(*var);
                reads(value, &mut all);
            }
            Stmt::Set(var, value) => {
                all.insert(*var);
                reads(value, &mut all);
            }
            Stmt::Store(_, value) | Stmt::StoreScratch(_, _, value) | Stmt::Combine { value, .. } => reads(value, &mut all),
            Stmt::StoreBits(_, var) => {
                all.insert(*var);
            }
            Stmt::For { body, .. } | Stmt::While(_, body) | Stmt::If(_, body) => all.extend(mentioned(body)),
            Stmt::LetInt(..)
            | Stmt::SetInt(..)
            | Stmt::StoreWord(..)
            | Stmt::StoreHalf(..)
            | Stmt::Prefetch(..)
            | Stmt::Transpose { .. } => {}
        }
    }
    &all - &own
}

/// The numbers that a body sets after they were declared.
pub fn changing(body: &[Stmt]) -> HashSet<Var> {
    let mut all = HashSet::new();
    for stmt in body {
        match stmt {
            Stmt::Set(var, _) => {
                all.insert(*var);
            }
            Stmt::For { body, .. } | Stmt::While(_, body) | Stmt::If(_, body) => all.extend(changing(body)),
            _ => {}
        }
    }
    all
}

/// Adds the numbers that an expression reads.
pub fn reads(e: &Expr, into: &mut HashSet<Var>) {
    each_read(e, &mut |var| {
        into.insert(var);
    });
}

/// Every number that an expression reads, as often as it does.
pub fn each_read(e: &Expr, f: &mut impl FnMut(Var)) {
    match e {
        Expr::Var(var) => f(*var),
        Expr::Rounded(_, a) | Expr::Un(_, a) => each_read(a, f),
        Expr::Masked(a, b) | Expr::Bin(_, a, b) => [a, b].into_iter().for_each(|e| each_read(e, f)),
        Expr::Select(_, parts) => parts.iter().for_each(|e| each_read(e, f)),
        Expr::Const(_)
        | Expr::Batch
        | Expr::Steps
        | Expr::Integer(_)
        | Expr::Hyper(_)
        | Expr::Load(_)
        | Expr::Scratch(..)
        | Expr::Random(..) => {}
    }
}
