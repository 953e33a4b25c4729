//! The tree of a `.snn` file: plain data, every node with its span, nothing resolved.

use crate::source::{FileId, Span};

/// A name with its place.
#[derive(Clone, Debug)]
pub struct Ident {
    /// The name.
    pub name: String,
    /// Its place.
    pub span: Span,
}

/// A comment; the tree does not hold comments, the printer puts them back by their places.
#[derive(Clone, Debug)]
pub struct Comment {
    /// From `//` to the end of the line.
    pub span: Span,
    /// The text with its slashes, without trailing space.
    pub text: String,
    /// Whether nothing but space stands before it on its line.
    pub own_line: bool,
}

/// A whole file.
#[derive(Clone, Debug)]
pub struct Module {
    /// The source.
    pub file: FileId,
    /// The `//!` lines.
    pub doc: String,
    /// Items in order.
    pub items: Vec<Item>,
    /// All comments in order.
    pub comments: Vec<Comment>,
}

/// A top-level item.
#[derive(Clone, Debug)]
pub enum Item {
    /// `use path::{names}`.
    Use(Use),
    /// `require strict`.
    RequireStrict(Span),
    /// `model`.
    Model(Model),
    /// `block` or `dag`.
    Block(Block),
    /// `variant`.
    Variant(Variant),
    /// `recipe`.
    Recipe(Recipe),
}

impl Item {
    /// The item's place.
    pub fn span(&self) -> Span {
        match self {
            Item::Use(i) => i.span,
            Item::RequireStrict(span) => *span,
            Item::Model(i) => i.span,
            Item::Block(i) => i.span,
            Item::Variant(i) => i.span,
            Item::Recipe(i) => i.span,
        }
    }

    /// The statements of a model or block.
    pub fn body(&self) -> Option<&[Stmt]> {
        match self {
            Item::Model(m) => Some(&m.body),
            Item::Block(b) => Some(&b.body),
            _ => None,
        }
    }
}

/// `use blocks::mixer::{TokenBlock, ChannelBlock}`.
#[derive(Clone, Debug)]
pub struct Use {
    /// The segments before the braces; without braces the last one is the imported name.
    pub path: Vec<Ident>,
    /// The names in braces.
    pub names: Option<Vec<Ident>>,
    /// The item.
    pub span: Span,
}

/// `model Name { … }`.
#[derive(Clone, Debug)]
pub struct Model {
    /// Doc comment.
    pub doc: String,
    /// Name.
    pub name: Ident,
    /// Statements.
    pub body: Vec<Stmt>,
    /// The item.
    pub span: Span,
}

/// `block Name(…) -> type { … }`, or `dag`.
#[derive(Clone, Debug)]
pub struct Block {
    /// Doc comment.
    pub doc: String,
    /// Marked `encoder`: may be used in the encoder only.
    pub encoder: bool,
    /// A DAG: its body declares nodes and edges.
    pub dag: bool,
    /// Name.
    pub name: Ident,
    /// Formal parameters.
    pub formals: Vec<Formal>,
    /// Declared result.
    pub result: SignalType,
    /// Statements.
    pub body: Vec<Stmt>,
    /// The item.
    pub span: Span,
}

/// A formal parameter of a block, or a model's `param`.
#[derive(Clone, Debug)]
pub struct Formal {
    /// Doc comment.
    pub doc: String,
    /// Name.
    pub name: Ident,
    /// Type.
    pub ty: Type,
    /// Default.
    pub default: Option<Expr>,
}

/// The type of a parameter.
#[derive(Clone, Debug)]
pub enum Type {
    /// `int`, `float`, `bool`, `string`, `axis`, `neuron`: any plain word; resolution knows which exist.
    Plain(Ident),
    /// `[T]`.
    List(Box<Type>, Span),
    /// `spike[C, H]`.
    Signal(SignalType),
}

/// `kind[axes]`.
#[derive(Clone, Debug)]
pub struct SignalType {
    /// `analog`, `current`, `spike` or `count`.
    pub kind: Ident,
    /// Axes in order.
    pub axes: Vec<AxisType>,
    /// The type.
    pub span: Span,
}

/// One axis of a signal type.
#[derive(Clone, Debug)]
pub struct AxisType {
    /// Set by `C = size`; otherwise the axis is the leftmost name of `size`, as in `H / 2`.
    pub name: Option<Ident>,
    /// The size, or the axis itself.
    pub size: Expr,
}

/// `variant Name = Model(args) published { … }`.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Doc comment.
    pub doc: String,
    /// Name.
    pub name: Ident,
    /// The model and its arguments.
    pub model: Call,
    /// Facts from the paper.
    pub published: Option<Vec<Fact>>,
    /// The item.
    pub span: Span,
}

/// `top1 = 66.39 @ imagenet(T = 4)`.
#[derive(Clone, Debug)]
pub struct Fact {
    /// What.
    pub name: Ident,
    /// The number as written, with its unit.
    pub value: String,
    /// On what.
    pub on: Option<Call>,
}

/// `recipe name for Model { … }`.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Doc comment.
    pub doc: String,
    /// Name.
    pub name: Ident,
    /// The model or variant.
    pub model: Ident,
    /// Entries in order.
    pub entries: Vec<Entry>,
    /// The item.
    pub span: Span,
}

/// `batch 64 per device`.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which setting.
    pub name: Ident,
    /// Its value.
    pub value: Expr,
    /// The word after `per`.
    pub per: Option<Ident>,
    /// The entry.
    pub span: Span,
}

/// What stands before a statement and holds for everything in it.
#[derive(Clone, Debug)]
pub enum Mark {
    /// `allow(rule, count = n, "reason")`
    Allow(Args),
    /// `fold(time)`, `fold(time, compose)`
    Fold(Vec<Ident>),
}

/// A statement with its marks.
#[derive(Clone, Debug)]
pub struct Stmt {
    /// What stands before it.
    pub marks: Vec<Mark>,
    /// What it does.
    pub kind: StmtKind,
    /// The statement, marks included.
    pub span: Span,
}

impl Stmt {
    /// The bodies in it, of a loop, a branch or a section.
    pub fn bodies(&self) -> Vec<&[Stmt]> {
        match &self.kind {
            StmtKind::For { body, .. } | StmtKind::Encoder(body) | StmtKind::Section { body, .. } => vec![body],
            StmtKind::If { arms, otherwise } => arms.iter().map(|(_, b)| b.as_slice()).chain(otherwise.as_deref()).collect(),
            _ => vec![],
        }
    }
}

/// What a statement does.
#[derive(Clone, Debug)]
pub enum StmtKind {
    /// `param name: type = default`.
    Param(Formal),
    /// `time T = 4`.
    Time(Ident, Expr),
    /// `input x: analog[…]`.
    Input(Ident, SignalType),
    /// `neuron lif = LIF(…)`.
    Neuron(Ident, Expr),
    /// `share mlp = Block(…)`.
    Share(Ident, Expr),
    /// `name = expr`.
    Bind(Ident, Expr),
    /// `yield expr`.
    Yield(Expr),
    /// `output expr`.
    Output(Expr),
    /// `require condition, message`.
    Require(Expr, Option<Expr>),
    /// `for pattern in range { … }`.
    For {
        /// One name, or (index, element).
        pattern: Vec<Ident>,
        /// A list, or the start of a range.
        from: Expr,
        /// The end of a range.
        to: Option<Expr>,
        /// Statements.
        body: Vec<Stmt>,
    },
    /// `if … else if … else …`.
    If {
        /// Conditions with their bodies.
        arms: Vec<(Expr, Vec<Stmt>)>,
        /// The last `else`.
        otherwise: Option<Vec<Stmt>>,
    },
    /// `encoder { … }`.
    Encoder(Vec<Stmt>),
    /// `stage stage[i] { … }`.
    Section {
        /// `stage`, `mixer`, `attention` or `residual`.
        kind: Ident,
        /// The segment of the path.
        label: Ident,
        /// Its index.
        index: Option<Expr>,
        /// Statements.
        body: Vec<Stmt>,
    },
    /// `nodes n1, n2: type`.
    Nodes(Vec<Ident>, SignalType),
    /// `a, b -> c, d : chain`.
    Edge {
        /// Sources.
        from: Vec<Ident>,
        /// Targets.
        to: Vec<Ident>,
        /// What lies on the edge: a chain of stages.
        chain: Expr,
    },
}

/// An expression.
#[derive(Clone, Debug)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it is.
    pub span: Span,
}

/// What an expression is.
#[derive(Clone, Debug)]
pub enum ExprKind {
    /// `42`.
    Int(i64),
    /// `0.5`.
    Float(f64),
    /// `"text"`, unescaped.
    Str(String),
    /// `true`.
    Bool(bool),
    /// A name.
    Name(String),
    /// `[a, b]`.
    List(Vec<Expr>),
    /// `-a`, `!a`.
    Unary(UnaryOp, Box<Expr>),
    /// `a + b`.
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `a[i]`.
    Index(Box<Expr>, Box<Expr>),
    /// `f(…)`.
    Call(Call),
    /// `a |> f |> g(…)`; every stage is a `Name` or a `Call`.
    Pipe(Box<Expr>, Vec<Expr>),
}

/// `name(args)`.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is called.
    pub callee: Ident,
    /// With what.
    pub args: Args,
}

/// Everything in a call's parentheses.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// The axes before `;`.
    pub axes: Vec<Ident>,
    /// The arguments in order.
    pub list: Vec<Arg>,
    /// From `(` to `)`.
    pub span: Span,
}

/// One argument.
#[derive(Clone, Debug)]
pub enum Arg {
    /// `expr`.
    Plain(Expr),
    /// `name = expr`.
    Named(Ident, Expr),
    /// `G, V -> C = 8`.
    Arrow(Vec<Ident>, Vec<AxisDecl>, Span),
}

/// The right side of an arrow.
#[derive(Clone, Debug)]
pub struct AxisDecl {
    /// The axis.
    pub name: Ident,
    /// Its size, if written.
    pub size: Option<Expr>,
}

/// Prefix operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOp {
    /// `-`
    Neg,
    /// `!`
    Not,
}

/// Infix operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the symbols are in `symbol`")]
pub enum BinaryOp {
    Or,
    And,
    Eq,
    Ne,
    Le,
    Ge,
    Lt,
    Gt,
    Shl,
    Shr,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
}

impl BinaryOp {
    /// All operators with symbol and binding strength.
    pub const ALL: [(BinaryOp, &'static str, u8); 15] = [
        (BinaryOp::Or, "||", 1),
        (BinaryOp::And, "&&", 2),
        (BinaryOp::Eq, "==", 3),
        (BinaryOp::Ne, "!=", 3),
        (BinaryOp::Le, "<=", 3),
        (BinaryOp::Ge, ">=", 3),
        (BinaryOp::Lt, "<", 3),
        (BinaryOp::Gt, ">", 3),
        (BinaryOp::Shl, "<<", 4),
        (BinaryOp::Shr, ">>", 4),
        (BinaryOp::Add, "+", 5),
        (BinaryOp::Sub, "-", 5),
        (BinaryOp::Mul, "*", 6),
        (BinaryOp::Div, "/", 6),
        (BinaryOp::Rem, "%", 6),
    ];

    /// How it is written.
    pub fn symbol(self) -> &'static str {
        Self::ALL.iter().find(|(op, ..)| *op == self).map_or("?", |(_, s, _)| s)
    }

    /// How strongly it binds; larger is stronger.
    pub fn strength(self) -> u8 {
        Self::ALL.iter().find(|(op, ..)| *op == self).map_or(0, |(.., p)| *p)
    }
}
