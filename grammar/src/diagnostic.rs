//! The one shape of every message about a `.snn` file, whichever stage found it.

use crate::remedy::Remedy;
use crate::source::{Source, SourceMap, Span};
use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something was admitted on purpose.
    Note,
    /// The file can be used; something deserves a look.
    Warning,
    /// The file cannot be used as asked.
    Error,
}

/// A place with what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What; lower case, no full stop.
    pub text: String,
}

/// One message: what is wrong, where, where the fact arose, and what to type instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code without the leading `snnc::`, e.g. `check::real_operand`.
    pub code: &'static str,
    /// How bad.
    pub severity: Severity,
    /// One line, lower case, no full stop.
    pub message: String,
    /// The first is the primary one: where it is wrong.
    pub labels: Vec<Label>,
    /// What can be typed in to mend it.
    pub help: Option<String>,
    /// The same for a machine; the first is the usual one.
    pub remedies: Vec<Remedy>,
}

impl Diagnostic {
    /// An error with its primary label.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>, label: impl Into<String>) -> Self {
        let labels = vec![Label { span, text: label.into() }];
        Diagnostic { code, severity: Severity::Error, message: message.into(), labels, help: None, remedies: vec![] }
    }

    /// Adds a secondary label.
    #[must_use]
    pub fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// Sets the help.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// The primary place.
    pub fn span(&self) -> Span {
        self.labels.first().map(|l| l.span).unwrap_or_default()
    }

    /// Pairs the message with the texts it points into, for miette.
    pub fn report<'a>(&'a self, sources: &'a SourceMap) -> Report<'a> {
        let primary = self.span().file;
        let mut others: Vec<_> = self.labels.iter().map(|l| l.span.file).filter(|f| *f != primary).collect();
        others.dedup();
        let mut seen = Vec::new();
        others.retain(|f| {
            !seen.contains(f) && {
                seen.push(*f);
                true
            }
        });
        let related = others
            .into_iter()
            .map(|file| Elsewhere { labels: self.labels.iter().filter(|l| l.span.file == file).collect(), sources })
            .collect();
        Report { diagnostic: self, sources, related }
    }
}

/// A [`Diagnostic`] that miette can render; labels in other files follow as related notes.
#[derive(Debug)]
pub struct Report<'a> {
    diagnostic: &'a Diagnostic,
    sources: &'a SourceMap,
    related: Vec<Elsewhere<'a>>,
}

#[derive(Debug)]
struct Elsewhere<'a> {
    labels: Vec<&'a Label>,
    sources: &'a SourceMap,
}

impl miette::SourceCode for Report<'_> {
    fn read_span<'b>(
        &'b self,
        span: &miette::SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn miette::SpanContents<'b> + 'b>, miette::MietteError> {
        read(self.sources, self.diagnostic.span(), span, before, after)
    }
}

impl miette::SourceCode for Elsewhere<'_> {
    fn read_span<'b>(
        &'b self,
        span: &miette::SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn miette::SpanContents<'b> + 'b>, miette::MietteError> {
        let at = self.labels.first().map(|l| l.span).unwrap_or_default();
        read(self.sources, at, span, before, after)
    }
}

fn read<'b>(
    sources: &'b SourceMap,
    at: Span,
    span: &miette::SourceSpan,
    before: usize,
    after: usize,
) -> Result<Box<dyn miette::SpanContents<'b> + 'b>, miette::MietteError> {
    let source = sources.get(at.file).ok_or(miette::MietteError::OutOfBounds)?;
    let contents = miette::SourceCode::read_span(&*source.text, span, before, after)?;
    if contents.data().len() > MAX_SHOWN && span.len() < MAX_SHOWN {
        return Ok(Box::new(around(source, span, contents.line_count())));
    }
    Ok(Box::new(miette::MietteSpanContents::new_named(
        source.name.clone(),
        contents.data(),
        *contents.span(),
        contents.line(),
        contents.column(),
        contents.line_count(),
    )))
}

/// Longer lines than this are cut around what is meant, in bytes.
const MAX_SHOWN: usize = 2000;

/// The part of a very long line around a place.
fn around<'a>(source: &'a Source, span: &miette::SourceSpan, lines: usize) -> miette::MietteSpanContents<'a> {
    let text = &*source.text;
    let start = text.floor_char_boundary(span.offset().saturating_sub(40));
    let end = text.ceil_char_boundary((span.offset() + span.len() + 40).min(text.len()));
    let line = text[..start].bytes().filter(|b| *b == b'\n').count();
    let column = text[..start].chars().rev().take_while(|c| *c != '\n').count();
    miette::MietteSpanContents::new_named(
        source.name.clone(),
        &text.as_bytes()[start..end],
        (start, end - start).into(),
        line,
        column,
        lines,
    )
}

fn labelled(label: &Label, primary: bool) -> miette::LabeledSpan {
    let range = label.span.start as usize..label.span.end as usize;
    if primary {
        miette::LabeledSpan::new_primary_with_span(Some(label.text.clone()), range)
    } else {
        miette::LabeledSpan::new_with_span(Some(label.text.clone()), range)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn code<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        Some(Box::new(format!("snnc::{}", self.diagnostic.code)))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Note => miette::Severity::Advice,
            Severity::Warning => miette::Severity::Warning,
            Severity::Error => miette::Severity::Error,
        })
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.diagnostic.help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        (!self.diagnostic.labels.is_empty()).then_some(self as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        let primary = self.diagnostic.span().file;
        let labels = self.diagnostic.labels.iter().enumerate().filter(move |(_, l)| l.span.file == primary);
        Some(Box::new(labels.map(|(i, l)| labelled(l, i == 0))))
    }

    fn related<'b>(&'b self) -> Option<Box<dyn Iterator<Item = &'b dyn miette::Diagnostic> + 'b>> {
        if self.related.is_empty() {
            return None;
        }
        Some(Box::new(self.related.iter().map(|r| r as &dyn miette::Diagnostic)))
    }
}

impl fmt::Display for Elsewhere<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reasons outside this file")
    }
}

impl std::error::Error for Elsewhere<'_> {}

impl miette::Diagnostic for Elsewhere<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(miette::Severity::Advice)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(self)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().map(|l| labelled(l, false))))
    }
}
