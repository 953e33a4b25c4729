//! Text to tree. A file is cut into top-level items first and every item is parsed on its own, so one syntax error
//! costs one item and the rest is still reported on. Nesting and size are checked before the parser runs: whatever
//! the bytes, it neither panics nor overflows its stack.

mod scan;
mod tree;

use crate::ast::*;
use crate::diagnostic::Diagnostic;
use crate::source::{FileId, SourceMap, Span};
use pest::Parser;

#[allow(missing_docs, reason = "pest derives one variant per grammar rule")]
mod rules {
    #[derive(pest_derive::Parser)]
    #[grammar = "snn.pest"]
    pub(super) struct SnnParser;
}
use rules::{Rule, SnnParser};
use scan::{chain_too_long, scan};
use tree::{Builder, doc_text, inner};

/// The largest source accepted, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// The deepest nesting of brackets accepted.
pub const MAX_NESTING: usize = 48;
/// The longest chain of infix or prefix operators accepted in one expression.
pub const MAX_CHAIN: usize = 256;
/// No more than this many syntax errors are reported for one file.
const MAX_ERRORS: usize = 20;

/// Decodes bytes as UTF-8 text, with or without a byte order mark.
///
/// # Errors
/// `syntax::encoding`, pointing at the start of the file, if the bytes are no such text.
pub fn decode(bytes: &[u8]) -> Result<&str, Diagnostic> {
    let refused = |what: String| {
        Err(Diagnostic::error("syntax::encoding", Span::default(), what, "in this file").help("save the file as UTF-8 text"))
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(e) => return refused(format!("not UTF-8: invalid byte at offset {}", e.valid_up_to())),
    };
    // Reports print the text; a terminal would obey these.
    match text.char_indices().find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) {
        Some((at, c)) => refused(format!("not text: control character U+{:04X} at offset {at}", c as u32)),
        None => Ok(text),
    }
}

/// Parses `name = expression`, the whole of one source of the map.
pub fn parse_setting(sources: &SourceMap, file: FileId) -> Option<(Ident, Expr)> {
    let text: &str = &sources.get(file)?.text;
    let scan = scan(text, file);
    if scan.too_deep.is_some() || chain_too_long(text).is_some() {
        return None;
    }
    let pair = SnnParser::parse(Rule::setting, text).ok()?.next()?;
    let builder = Builder { file, comments: &scan.comments, text };
    builder.at(0).named(inner(pair).next()?).ok()
}

/// Parses one source of the map.
///
/// # Errors
/// All syntax errors: at most one per top-level item.
pub fn parse(sources: &SourceMap, file: FileId) -> Result<Module, Vec<Diagnostic>> {
    let Some(source) = sources.get(file) else { return Err(vec![]) };
    let text: &str = &source.text;
    let whole = span(file, 0, text.len().min(1));
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes, more than the {MAX_BYTES} that are read", text.len());
        return Err(vec![Diagnostic::error("syntax::too_large", whole, message, "in this file")]);
    }
    let scan = scan(text, file);
    if let Some((start, end)) = scan.too_deep {
        let message = format!("brackets are nested more than {MAX_NESTING} deep");
        return Err(vec![Diagnostic::error("syntax::too_deep", span(file, start, end), message, "this bracket is too deep")]);
    }
    let mut errors = Vec::new();
    let mut items = Vec::new();
    let builder = Builder { file, comments: &scan.comments, text };
    for &(start, end) in &scan.items {
        if errors.len() == MAX_ERRORS {
            break;
        }
        let Some(slice) = text.get(start..end) else { continue };
        if let Some(at) = chain_too_long(slice) {
            let message = format!("more than {MAX_CHAIN} operators in one expression");
            errors.push(Diagnostic::error("syntax::too_deep", span(file, start + at, start + at + 1), message, "from here on"));
            continue;
        }
        match SnnParser::parse(Rule::file_item, slice) {
            Ok(mut pairs) => {
                if let Some(pair) = pairs.next().and_then(|p| inner(p).next()) {
                    match builder.at(start).item(pair) {
                        Ok(item) => items.push(item),
                        Err(error) => errors.push(error),
                    }
                }
            }
            Err(error) => errors.push(syntax_error(&error, file, start, slice)),
        }
    }
    if items.is_empty() && errors.is_empty() {
        errors.push(
            Diagnostic::error("syntax::empty", whole, "the file holds no item", "expected a model, block or dag")
                .help("`snnc new NAME` writes a model to start from"),
        );
    }
    let doc = doc_text(scan.comments.iter().filter(|c| c.text.starts_with("//!")), "//!");
    if errors.is_empty() { Ok(Module { file, doc, items, comments: scan.comments }) } else { Err(errors) }
}

fn span(file: FileId, start: usize, end: usize) -> Span {
    Span { file, start: u32::try_from(start).unwrap_or(u32::MAX), end: u32::try_from(end).unwrap_or(u32::MAX) }
}

/// What a first walk over the characters finds.
struct Scan {
    comments: Vec<Comment>,
    items: Vec<(usize, usize)>,
    too_deep: Option<(usize, usize)>,
}

const ITEM_WORDS: [&str; 8] = ["use", "require", "model", "block", "dag", "encoder", "variant", "recipe"];

fn syntax_error(error: &pest::error::Error<Rule>, file: FileId, offset: usize, slice: &str) -> Diagnostic {
    let at = match error.location {
        pest::error::InputLocation::Pos(p) => p,
        pest::error::InputLocation::Span((s, _)) => s,
    };
    let rest = slice.get(at..).unwrap_or("");
    let found = match rest.chars().next() {
        None => "the end of the item".to_owned(),
        Some(c) if c.is_alphanumeric() || c == '_' => {
            let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').take(40).collect();
            format!("`{word}`")
        }
        Some(c) if rest.starts_with("|>") => format!("`{c}>`"),
        Some('\n') => "the end of the line".to_owned(),
        Some(c) => format!("`{}`", c.escape_debug()),
    };
    let mut expected: Vec<String> = match &error.variant {
        pest::error::ErrorVariant::ParsingError { positives, .. } => positives.iter().map(describe).collect(),
        pest::error::ErrorVariant::CustomError { .. } => vec![],
    };
    expected.sort();
    expected.dedup();
    let expected = match expected.as_slice() {
        [] => "this cannot stand here".to_owned(),
        [one] => format!("expected {one}"),
        [most @ .., last] => format!("expected {} or {last}", most.join(", ")),
    };
    let width = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').map(char::len_utf8).sum::<usize>();
    let width = width.max(rest.chars().next().map_or(0, char::len_utf8));
    let (start, end) = (offset + at, offset + at + width);
    let diagnostic = Diagnostic::error("syntax::unexpected", span(file, start, end), format!("unexpected {found}"), expected);
    match rest.chars().next() {
        None if slice.matches('{').count() > slice.matches('}').count() => diagnostic.help("a `}` is missing before this place"),
        Some('+' | '-' | '*' | '/') if slice.get(..at).is_some_and(|before| before.lines().last().is_some_and(|l| l.contains("|>"))) => {
            diagnostic.help("`|>` binds weakest: put what it makes in parentheses, `(s |> linear(C -> C)) + s`")
        }
        Some('(') if slice.get(..at).is_some_and(|b| b.ends_with(|c: char| c.is_alphanumeric())) => {
            diagnostic.help("a keyword cannot be called or bound; choose another name")
        }
        _ => diagnostic,
    }
}

fn describe(rule: &Rule) -> String {
    match rule {
        Rule::EOI => "the end of the item".into(),
        Rule::name | Rule::name_or_keyword | Rule::name_expr => "a name".into(),
        Rule::axis_name | Rule::axis_decl | Rule::axes => "an axis".into(),
        Rule::expr | Rule::or_expr | Rule::and_expr | Rule::cmp_expr | Rule::shift_expr | Rule::add_expr => "an expression".into(),
        Rule::mul_expr | Rule::unary | Rule::postfix | Rule::number | Rule::string | Rule::boolean | Rule::list | Rule::tuple => {
            "an expression".into()
        }
        Rule::unary_op => "an expression".into(),
        Rule::or_op | Rule::and_op | Rule::cmp_op | Rule::shift_op | Rule::add_op | Rule::mul_op => "an operator".into(),
        Rule::argument | Rule::named | Rule::arrow => "an argument".into(),
        Rule::call | Rule::call_args => "a call".into(),
        Rule::axis_type => "an axis".into(),
        Rule::signal_type | Rule::signal_kind => "`analog`, `current`, `spike` or `count` with axes".into(),
        Rule::value_type | Rule::list_type | Rule::plain_type => "a type".into(),
        Rule::formal | Rule::formals => "a parameter".into(),
        Rule::statement | Rule::bind | Rule::section | Rule::edge => "a statement".into(),
        Rule::body => "`{`".into(),
        Rule::for_ => "`for`".into(),
        Rule::if_ => "`if`".into(),
        Rule::entry => "a recipe entry".into(),
        Rule::fact => "a fact".into(),
        Rule::unit => "a unit (`k`, `M`, `G`, `%`)".into(),
        Rule::pattern => "a name or `(index, element)`".into(),
        other => {
            let name = format!("{other:?}");
            let word = name.trim_start_matches("k_").trim_end_matches('_').trim_end_matches("_item");
            match word {
                "param" | "time" | "input" | "neuron" | "share" | "yield" | "output" | "require" | "encoder" | "nodes" | "allow" => {
                    "a statement".into()
                }
                _ => format!("`{word}`"),
            }
        }
    }
}
