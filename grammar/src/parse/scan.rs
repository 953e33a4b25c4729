//! A first walk over the characters: comments, items, nesting.

use super::*;

/// Items start at depth 0; if the brackets do not balance, at any item word at the start of a line, so that one mistake
/// costs one item.
pub(super) fn scan(text: &str, file: FileId) -> Scan {
    let (scan, balanced) = walk(text, file, false);
    if balanced { scan } else { walk(text, file, true).0 }
}

fn walk(text: &str, file: FileId, recover: bool) -> (Scan, bool) {
    let mut balanced = true;
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
            b')' | b']' | b'}' => {
                balanced &= depth > 0;
                depth = depth.saturating_sub(1);
            }
            b if b.is_ascii_alphabetic() || b == b'_' => {
                let end = bytes[at..].iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_').map_or(bytes.len(), |n| at + n);
                let word = &text[at..end];
                let after_encoder = starts.last().is_some_and(|s| text[*s..at].trim() == "encoder");
                if ITEM_WORDS.contains(&word) && !after_encoder && (depth == 0 || (recover && at == line_start)) {
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
    (Scan { comments, items, too_deep }, balanced && depth == 0)
}

/// The offset of the operator that makes a chain too long. Chains nest to the left in the tree, so their length is a
/// depth; a comma, a bracket or a statement's `=` ends one.
pub(super) fn chain_too_long(text: &str) -> Option<usize> {
    let (mut stack, mut length, mut quoted, mut comment, mut escaped) = (Vec::new(), 0usize, false, false, false);
    // The byte before, and the last one that is no space.
    let (mut previous, mut solid) = (b' ', b' ');
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        if byte == b'\n' {
            (quoted, comment, escaped) = (false, false, false);
        }
        if comment {
            continue;
        }
        let comparison = bytes.get(at + 1) == Some(&b'=') || matches!(previous, b'=' | b'!' | b'<' | b'>');
        match byte {
            _ if quoted && escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'/' if previous == b'/' => comment = true,
            b'(' | b'[' | b'{' => {
                // `a[0][0]…` nests as an infix chain does.
                let index = byte == b'[' && (solid == b']' || solid == b')' || solid.is_ascii_alphanumeric() || solid == b'_');
                length += usize::from(index);
                if length > MAX_CHAIN {
                    return Some(at);
                }
                stack.push(length);
                length = 0;
            }
            b')' | b']' | b'}' => length = stack.pop().unwrap_or(0),
            b'=' if comparison => {}
            b',' | b';' | b':' | b'=' => length = 0,
            b'+' | b'-' | b'*' | b'/' | b'%' | b'!' | b'|' | b'&' | b'<' | b'>' => {
                // `|>`, `&&`, `<<` are one.
                length += usize::from(!matches!(previous, b'|' | b'&' | b'<' | b'>'));
                if length > MAX_CHAIN {
                    return Some(at);
                }
            }
            _ => {}
        }
        previous = byte;
        if !byte.is_ascii_whitespace() {
            solid = byte;
        }
    }
    None
}
