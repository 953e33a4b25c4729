//! Text to tree. A file is cut into top-level items first and every item is parsed on its own, so one syntax error
//! costs one item and the rest is still reported on. Nesting and size are checked before the parser runs: whatever
//! the bytes, it neither panics nor overflows its stack.

use crate::ast::*;
use crate::diagnostic::Diagnostic;
use crate::source::{FileId, SourceMap, Span};
use pest::Parser;
use pest::iterators::Pair;

#[allow(missing_docs, reason = "pest derives one variant per grammar rule")]
mod rules {
    #[derive(pest_derive::Parser)]
    #[grammar = "snn.pest"]
    pub(super) struct SnnParser;
}
use rules::{Rule, SnnParser};

/// The largest source accepted, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// The deepest nesting of brackets accepted.
pub const MAX_NESTING: usize = 48;
/// The longest chain of infix or prefix operators accepted in one expression.
pub const MAX_CHAIN: usize = 256;
/// No more than this many syntax errors are reported for one file.
const MAX_ERRORS: usize = 20;

/// Decodes bytes as UTF-8.
///
/// # Errors
/// `syntax::encoding`, pointing at the start of the file, if the bytes are not UTF-8.
pub fn decode(bytes: &[u8]) -> Result<&str, Diagnostic> {
    std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        Diagnostic::error("syntax::encoding", Span::default(), format!("not UTF-8: invalid byte at offset {at}"), "in this file")
            .help("save the file as UTF-8 text")
    })
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

fn scan(text: &str, file: FileId) -> Scan {
    let bytes = text.as_bytes();
    let mut comments = Vec::new();
    let mut starts: Vec<usize> = Vec::new();
    let (mut at, mut depth, mut line_start, mut blank) = (0, 0usize, 0, true);
    let mut too_deep = None;
    // The text before the first item word, if it is not blank, is an item of its own: a syntax error.
    let mut stray = None;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\n' => {
                (line_start, blank) = (at + 1, true);
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
                let body = text[at..end].trim_end().to_owned();
                comments.push(Comment { span: span(file, at, at + body.len()), text: body, own_line: blank });
                at = end;
                continue;
            }
            b'"' => {
                stray = stray.or(Some(at));
                at += 1;
                while let Some(&b) = bytes.get(at) {
                    match b {
                        b'\\' => at += 1,
                        b'"' | b'\n' => break,
                        _ => {}
                    }
                    at += 1;
                }
                // An unclosed string ends with its line; the newline is looked at again.
                at += usize::from(bytes.get(at) == Some(&b'"'));
                blank = false;
                continue;
            }
            b'(' | b'[' | b'{' => {
                depth += 1;
                if depth > MAX_NESTING && too_deep.is_none() {
                    too_deep = Some((at, at + 1));
                }
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b if b.is_ascii_alphabetic() || b == b'_' => {
                let end = bytes[at..].iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_').map_or(bytes.len(), |n| at + n);
                let word = &text[at..end];
                let after_encoder = starts.last().is_some_and(|s| text[*s..at].trim() == "encoder");
                if ITEM_WORDS.contains(&word) && !after_encoder && (depth == 0 || at == line_start) {
                    starts.push(at);
                    depth = 0;
                } else {
                    stray = stray.or(Some(at));
                }
                blank = false;
                at = end;
                continue;
            }
            _ => {}
        }
        stray = stray.or(Some(at));
        blank = false;
        at += 1;
    }
    if let Some(first) = stray.filter(|s| starts.first().is_none_or(|f| s < f)) {
        starts.insert(0, first);
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let items = starts.iter().copied().zip(ends).collect();
    Scan { comments, items, too_deep }
}

/// The offset of the operator that makes a chain too long. Chains nest to the left in the tree, so their length is a
/// depth; a comma, a bracket or a statement's `=` ends one.
fn chain_too_long(text: &str) -> Option<usize> {
    let (mut stack, mut length, mut quoted, mut comment) = (Vec::new(), 0usize, false, false);
    let mut previous = b' ';
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'\n' {
            (quoted, comment) = (false, false);
        }
        if comment {
            continue;
        }
        match byte {
            b'"' if previous != b'\\' => quoted = !quoted,
            _ if quoted => {}
            b'/' if previous == b'/' => comment = true,
            b'(' | b'[' | b'{' => {
                stack.push(length);
                length = 0;
            }
            b')' | b']' | b'}' => length = stack.pop().unwrap_or(0),
            b',' | b';' | b':' | b'=' => length = 0,
            b'+' | b'-' | b'*' | b'/' | b'%' | b'!' | b'|' | b'&' | b'<' | b'>' => {
                length += 1;
                // Two-character operators count twice, which only makes the bound safer.
                if length > 2 * MAX_CHAIN {
                    return Some(at);
                }
            }
            _ => {}
        }
        previous = byte;
    }
    None
}

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

/// The children of a pair without its keywords.
fn inner(pair: Pair<'_, Rule>) -> impl Iterator<Item = Pair<'_, Rule>> {
    pair.into_inner().filter(|p| {
        !matches!(
            p.as_rule(),
            Rule::EOI
                | Rule::k_use
                | Rule::k_require
                | Rule::k_strict
                | Rule::k_model
                | Rule::k_block
                | Rule::k_dag
                | Rule::k_encoder
                | Rule::k_variant
                | Rule::k_published
                | Rule::k_recipe
                | Rule::k_for
                | Rule::k_per
                | Rule::k_allow
                | Rule::k_param
                | Rule::k_time
                | Rule::k_input
                | Rule::k_neuron
                | Rule::k_share
                | Rule::k_yield
                | Rule::k_output
                | Rule::k_in
                | Rule::k_if
                | Rule::k_else
                | Rule::k_nodes
        )
    })
}

fn doc_text<'a>(lines: impl Iterator<Item = &'a Comment>, slashes: &str) -> String {
    let lines: Vec<&str> = lines.map(|c| c.text.trim_start_matches(slashes).trim()).collect();
    lines.join("\n").trim().to_owned()
}

/// Builds the tree of one item; places are relative to `offset`.
struct Builder<'a> {
    file: FileId,
    comments: &'a [Comment],
    text: &'a str,
}

struct At<'a> {
    builder: &'a Builder<'a>,
    offset: usize,
}

impl<'a> Builder<'a> {
    fn at(&'a self, offset: usize) -> At<'a> {
        At { builder: self, offset }
    }
}

type Built<T> = Result<T, Diagnostic>;

impl At<'_> {
    /// The place of a pair. pest lets a rule end after the space and comments that follow it; the place does not.
    fn span(&self, pair: &Pair<'_, Rule>) -> Span {
        let start = self.offset + pair.as_span().start();
        let mut end = start + pair.as_str().trim_end().len();
        let comments = self.builder.comments;
        let mut upto = comments.partition_point(|c| (c.span.start as usize) < end);
        while let Some(comment) = upto.checked_sub(1).and_then(|i| comments.get(i)).filter(|c| c.span.end as usize >= end) {
            let before = self.builder.text.get(start..comment.span.start as usize).unwrap_or("");
            end = start + before.trim_end().len();
            upto -= 1;
        }
        span(self.builder.file, start, end)
    }

    /// The grammar gives every rule its children; a missing one would be a mismatch of grammar and builder.
    fn need<T>(&self, child: Option<T>, of: Span) -> Built<T> {
        child.ok_or_else(|| Diagnostic::error("syntax::unexpected", of, "incomplete construct", "something is missing here"))
    }

    fn ident(&self, pair: &Pair<'_, Rule>) -> Ident {
        Ident { name: pair.as_str().to_owned(), span: self.span(pair) }
    }

    fn next_ident<'p>(&self, pairs: &mut impl Iterator<Item = Pair<'p, Rule>>, of: Span) -> Built<Ident> {
        self.need(pairs.next(), of).map(|p| self.ident(&p))
    }

    fn next_expr<'p>(&self, pairs: &mut impl Iterator<Item = Pair<'p, Rule>>, of: Span) -> Built<Expr> {
        self.expr(self.need(pairs.next(), of)?)
    }

    /// The `///` lines directly above a place, or the `///` or `//` comment after it on its line.
    fn doc(&self, at: Span) -> String {
        let comments = self.builder.comments;
        let text = self.builder.text;
        let mut first = comments.partition_point(|c| c.span.start < at.start);
        let end = first;
        let mut edge = at.start as usize;
        while let Some(comment) = first.checked_sub(1).and_then(|i| comments.get(i)) {
            let between = text.get(comment.span.end as usize..edge).unwrap_or("x");
            if !comment.own_line || !comment.text.starts_with("///") || !between.trim().is_empty() {
                break;
            }
            edge = comment.span.start as usize;
            first -= 1;
        }
        if first < end {
            return doc_text(comments[first..end].iter(), "///");
        }
        let after = comments.iter().find(|c| c.span.start >= at.end);
        let same_line = after.filter(|c| !text.get(at.end as usize..c.span.start as usize).unwrap_or("\n").contains('\n'));
        same_line.map(|c| c.text.trim_start_matches('/').trim().to_owned()).unwrap_or_default()
    }

    fn item(&self, pair: Pair<'_, Rule>) -> Built<Item> {
        let at = self.span(&pair);
        let rule = pair.as_rule();
        let braces = pair.as_str().contains('{');
        let mut children = inner(pair);
        match rule {
            Rule::strict_item => Ok(Item::RequireStrict(at)),
            Rule::use_item => {
                let names: Vec<(Ident, usize)> = children.map(|p| (self.ident(&p), p.as_span().start())).collect();
                let brace = self.builder.text.get(self.offset..).and_then(|t| t.find('{')).filter(|_| braces);
                let (path, list): (Vec<_>, Vec<_>) = names.into_iter().partition(|(_, start)| brace.is_none_or(|b| *start < b));
                let idents = |v: Vec<(Ident, usize)>| v.into_iter().map(|(i, _)| i).collect::<Vec<_>>();
                Ok(Item::Use(Use { path: idents(path), names: brace.map(|_| idents(list)), span: at }))
            }
            Rule::model => {
                let name = self.next_ident(&mut children, at)?;
                let body = self.body(self.need(children.next(), at)?)?;
                Ok(Item::Model(Model { doc: self.doc(at), name, body, span: at }))
            }
            Rule::block | Rule::dag => {
                let mut first = self.need(children.next(), at)?;
                let encoder = first.as_rule() == Rule::encoder_mark;
                if encoder {
                    first = self.need(children.next(), at)?;
                }
                let name = self.ident(&first);
                let formals = inner(self.need(children.next(), at)?).map(|p| self.formal(p)).collect::<Built<_>>()?;
                let result = self.signal_type(self.need(children.next(), at)?)?;
                let body = self.body(self.need(children.next(), at)?)?;
                let dag = rule == Rule::dag;
                Ok(Item::Block(Block { doc: self.doc(at), encoder, dag, name, formals, result, body, span: at }))
            }
            Rule::variant => {
                let name = self.next_ident(&mut children, at)?;
                let model = self.call(self.need(children.next(), at)?)?;
                let published = children.next().map(|p| inner(p).map(|f| self.fact(f)).collect::<Built<_>>()).transpose()?;
                Ok(Item::Variant(Variant { doc: self.doc(at), name, model, published, span: at }))
            }
            Rule::recipe => {
                let name = self.next_ident(&mut children, at)?;
                let model = self.next_ident(&mut children, at)?;
                let mut entries = Vec::new();
                for entry in children {
                    let at = self.span(&entry);
                    let mut parts = inner(entry);
                    let name = self.next_ident(&mut parts, at)?;
                    let value = self.next_expr(&mut parts, at)?;
                    entries.push(Entry { name, value, per: parts.next().map(|p| self.ident(&p)), span: at });
                }
                Ok(Item::Recipe(Recipe { doc: self.doc(at), name, model, entries, span: at }))
            }
            _ => self.need(None, at),
        }
    }

    fn fact(&self, pair: Pair<'_, Rule>) -> Built<Fact> {
        let at = self.span(&pair);
        let mut children = inner(pair);
        let name = self.next_ident(&mut children, at)?;
        let mut value = self.need(children.next(), at)?.as_str().to_owned();
        let mut on = None;
        for child in children {
            match child.as_rule() {
                Rule::unit => value.push_str(child.as_str()),
                _ => on = Some(self.call(child)?),
            }
        }
        Ok(Fact { name, value, on })
    }

    fn formal(&self, pair: Pair<'_, Rule>) -> Built<Formal> {
        let at = self.span(&pair);
        let mut children = inner(pair);
        let name = self.next_ident(&mut children, at)?;
        let ty = self.value_type(self.need(children.next(), at)?)?;
        let default = children.next().map(|p| self.expr(p)).transpose()?;
        Ok(Formal { doc: self.doc(at), name, ty, default })
    }

    fn value_type(&self, pair: Pair<'_, Rule>) -> Built<Type> {
        let at = self.span(&pair);
        let child = self.need(inner(pair).next(), at)?;
        match child.as_rule() {
            Rule::list_type => {
                let element = self.value_type(self.need(inner(child).next(), at)?)?;
                Ok(Type::List(Box::new(element), at))
            }
            Rule::signal_type => Ok(Type::Signal(self.signal_type(child)?)),
            _ => Ok(Type::Plain(self.ident(&child))),
        }
    }

    fn signal_type(&self, pair: Pair<'_, Rule>) -> Built<SignalType> {
        let at = self.span(&pair);
        let mut children = inner(pair);
        let kind = self.next_ident(&mut children, at)?;
        let mut axes = Vec::new();
        for axis in children {
            let axis_at = self.span(&axis);
            let mut parts = inner(axis);
            let first = self.need(parts.next(), axis_at)?;
            axes.push(if first.as_rule() == Rule::axis_name {
                AxisType { name: Some(self.ident(&first)), size: self.next_expr(&mut parts, axis_at)? }
            } else {
                AxisType { name: None, size: self.expr(first)? }
            });
        }
        Ok(SignalType { kind, axes, span: at })
    }

    fn body(&self, pair: Pair<'_, Rule>) -> Built<Vec<Stmt>> {
        inner(pair).map(|p| self.statement(p)).collect()
    }

    fn statement(&self, pair: Pair<'_, Rule>) -> Built<Stmt> {
        let at = self.span(&pair);
        let mut allows = Vec::new();
        for child in inner(pair) {
            if child.as_rule() == Rule::allow {
                allows.push(self.args(self.need(inner(child).next(), at)?)?);
            } else {
                return Ok(Stmt { allows, kind: self.statement_kind(child)?, span: at });
            }
        }
        self.need(None, at)
    }

    fn statement_kind(&self, pair: Pair<'_, Rule>) -> Built<StmtKind> {
        let at = self.span(&pair);
        let rule = pair.as_rule();
        let has_comma_names = |p: &Pair<'_, Rule>| p.as_rule() == Rule::name;
        if rule == Rule::param {
            return Ok(StmtKind::Param(self.formal(pair)?));
        }
        let mut children = inner(pair).peekable();
        Ok(match rule {
            Rule::time | Rule::neuron | Rule::share | Rule::bind => {
                let name = self.next_ident(&mut children, at)?;
                let value = self.next_expr(&mut children, at)?;
                match rule {
                    Rule::time => StmtKind::Time(name, value),
                    Rule::neuron => StmtKind::Neuron(name, value),
                    Rule::share => StmtKind::Share(name, value),
                    _ => StmtKind::Bind(name, value),
                }
            }
            Rule::input => {
                let name = self.next_ident(&mut children, at)?;
                StmtKind::Input(name, self.signal_type(self.need(children.next(), at)?)?)
            }
            Rule::yield_ => StmtKind::Yield(self.next_expr(&mut children, at)?),
            Rule::output => StmtKind::Output(self.next_expr(&mut children, at)?),
            Rule::require => {
                let condition = self.next_expr(&mut children, at)?;
                StmtKind::Require(condition, children.next().map(|p| self.expr(p)).transpose()?)
            }
            Rule::for_ => {
                let pattern = inner(self.need(children.next(), at)?).map(|p| self.ident(&p)).collect();
                let mut range = inner(self.need(children.next(), at)?);
                let from = self.next_expr(&mut range, at)?;
                let to = range.next().map(|p| self.expr(p)).transpose()?;
                StmtKind::For { pattern, from, to, body: self.body(self.need(children.next(), at)?)? }
            }
            Rule::if_ => {
                let (mut arms, mut otherwise) = (Vec::new(), None);
                while let Some(next) = children.next() {
                    if next.as_rule() == Rule::body {
                        otherwise = Some(self.body(next)?);
                    } else {
                        let body = self.body(self.need(children.next(), at)?)?;
                        arms.push((self.expr(next)?, body));
                    }
                }
                StmtKind::If { arms, otherwise }
            }
            Rule::encoder => StmtKind::Encoder(self.body(self.need(children.next(), at)?)?),
            Rule::section => {
                let kind = self.next_ident(&mut children, at)?;
                let label = self.next_ident(&mut children, at)?;
                let index = children.next_if(|p| p.as_rule() == Rule::expr).map(|p| self.expr(p)).transpose()?;
                StmtKind::Section { kind, label, index, body: self.body(self.need(children.next(), at)?)? }
            }
            Rule::nodes => {
                let mut names = Vec::new();
                while let Some(name) = children.next_if(has_comma_names) {
                    names.push(self.ident(&name));
                }
                StmtKind::Nodes(names, self.signal_type(self.need(children.next(), at)?)?)
            }
            Rule::edge => {
                // The arrow separates two lists of names; the text between the names tells where it is.
                let (mut from, mut to, mut arrow) = (Vec::new(), Vec::new(), false);
                let mut last_end = None;
                while let Some(name) = children.next_if(has_comma_names) {
                    let ident = self.ident(&name);
                    if let Some(end) = last_end {
                        let between = self.builder.text.get(end..ident.span.start as usize).unwrap_or("");
                        let code: String = between.lines().map(|l| l.split("//").next().unwrap_or("")).collect();
                        arrow |= code.contains("->");
                    }
                    last_end = Some(ident.span.end as usize);
                    if arrow { to.push(ident) } else { from.push(ident) }
                }
                StmtKind::Edge { from, to, chain: self.next_expr(&mut children, at)? }
            }
            _ => return self.need(None, at),
        })
    }

    fn expr(&self, pair: Pair<'_, Rule>) -> Built<Expr> {
        let at = self.span(&pair);
        let kind = match pair.as_rule() {
            Rule::expr => {
                let mut children = inner(pair);
                let head = self.next_expr(&mut children, at)?;
                let stages = children.map(|p| self.expr(p)).collect::<Built<Vec<_>>>()?;
                if stages.is_empty() {
                    return Ok(head);
                }
                ExprKind::Pipe(Box::new(head), stages)
            }
            Rule::or_expr | Rule::and_expr | Rule::cmp_expr | Rule::shift_expr | Rule::add_expr | Rule::mul_expr => {
                let mut children = inner(pair);
                let mut left = self.next_expr(&mut children, at)?;
                while let Some(symbol) = children.next() {
                    let right = self.next_expr(&mut children, at)?;
                    let text = symbol.as_str().trim();
                    let op = self.need(BinaryOp::ALL.iter().find(|(_, s, _)| *s == text), at)?.0;
                    let span = left.span.to(right.span);
                    left = Expr { kind: ExprKind::Binary(op, Box::new(left), Box::new(right)), span };
                }
                return Ok(left);
            }
            Rule::unary => {
                let mut ops = Vec::new();
                let mut operand = None;
                for child in inner(pair) {
                    if child.as_rule() == Rule::unary_op {
                        let op = if child.as_str().starts_with('-') { UnaryOp::Neg } else { UnaryOp::Not };
                        ops.push((op, self.span(&child)));
                    } else {
                        operand = Some(self.expr(child)?);
                    }
                }
                let mut operand = self.need(operand, at)?;
                for (op, place) in ops.into_iter().rev() {
                    let span = place.to(operand.span);
                    operand = Expr { kind: ExprKind::Unary(op, Box::new(operand)), span };
                }
                return Ok(operand);
            }
            Rule::postfix => {
                let mut children = inner(pair);
                let mut base = self.next_expr(&mut children, at)?;
                for index in children {
                    let index = self.expr(index)?;
                    let span = base.span.to(index.span);
                    base = Expr { kind: ExprKind::Index(Box::new(base), Box::new(index)), span };
                }
                return Ok(base);
            }
            Rule::number => self.number(pair.as_str(), at)?,
            Rule::string => {
                let raw = pair.as_str();
                let body = raw.get(1..raw.len() - 1).unwrap_or("");
                ExprKind::Str(unescape(body))
            }
            Rule::boolean => ExprKind::Bool(pair.as_str().trim() == "true"),
            // `(1, 2)` is `[1, 2]`.
            Rule::list | Rule::tuple => ExprKind::List(inner(pair).map(|p| self.expr(p)).collect::<Built<_>>()?),
            Rule::name_expr => ExprKind::Name(pair.as_str().trim().to_owned()),
            Rule::call => ExprKind::Call(self.call(pair)?),
            _ => return self.need(None, at),
        };
        Ok(Expr { kind, span: at })
    }

    fn number(&self, text: &str, at: Span) -> Built<ExprKind> {
        let digits = text.replace('_', "");
        if digits.contains(['.', 'e', 'E']) {
            let value: f64 = self.need(digits.parse().ok(), at)?;
            if value.is_finite() {
                return Ok(ExprKind::Float(value));
            }
        } else if let Ok(value) = digits.parse() {
            return Ok(ExprKind::Int(value));
        }
        Err(Diagnostic::error("syntax::number", at, format!("`{text}` is too large a number"), "out of range"))
    }

    fn call(&self, pair: Pair<'_, Rule>) -> Built<Call> {
        let at = self.span(&pair);
        let mut children = inner(pair);
        let callee = self.next_ident(&mut children, at)?;
        Ok(Call { callee, args: self.args(self.need(children.next(), at)?)? })
    }

    fn args(&self, pair: Pair<'_, Rule>) -> Built<Args> {
        let mut args = Args { span: self.span(&pair), ..Args::default() };
        for child in inner(pair) {
            if child.as_rule() == Rule::axes {
                args.axes = inner(child).map(|p| self.ident(&p)).collect();
                continue;
            }
            let at = self.span(&child);
            let argument = self.need(inner(child).next(), at)?;
            args.list.push(match argument.as_rule() {
                Rule::named => {
                    let mut parts = inner(argument);
                    Arg::Named(self.next_ident(&mut parts, at)?, self.next_expr(&mut parts, at)?)
                }
                Rule::arrow => {
                    let mut parts = inner(argument);
                    let from = inner(self.need(parts.next(), at)?).map(|p| self.ident(&p)).collect();
                    let mut to = Vec::new();
                    for part in parts {
                        let mut decl = inner(part);
                        let name = self.next_ident(&mut decl, at)?;
                        to.push(AxisDecl { name, size: decl.next().map(|p| self.expr(p)).transpose()? });
                    }
                    Arg::Arrow(from, to, at)
                }
                _ => Arg::Plain(self.expr(argument)?),
            });
        }
        Ok(args)
    }
}

fn unescape(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    out
}
