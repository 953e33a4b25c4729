//! The `.snn` language: text to [`ast`] and back.
//!
//! [`parse()`] turns a source into a [`ast::Module`] or all of its syntax errors; [`print()`] turns a module into canonical
//! text and keeps its comments. Nothing here knows an operator, a shape or a neuron: names are names.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may stop at the first surprise"))]

pub mod ast;
mod diagnostic;
mod parse;
mod print;
mod remedy;
mod source;

pub use diagnostic::{Diagnostic, Label, Report, Severity};
pub use parse::{MAX_BYTES, MAX_CHAIN, MAX_NESTING, decode, parse, parse_setting};
pub use print::{expr_text, print};
pub use remedy::{Edit, Modules, Remedy};
pub use source::{FileId, Source, SourceMap, Span};
