//! Numbers and texts as people read them.

/// 25,223,796
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// 1 weight, 2,048 weights: the number with a noun, which takes an s.
pub fn several(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// 512 B, 1.5 MB
pub fn bytes(n: u128) -> String {
    let (mut x, mut units) = (n as f64, ["B", "KB", "MB", "GB", "TB", "PB"].into_iter());
    let mut unit = units.next().unwrap_or_default();
    while x >= 1000.0 {
        let Some(next) = units.next() else { break };
        (x, unit) = (x / 1000.0, next);
    }
    if unit == "B" { format!("{n} B") } else { format!("{x:.1} {unit}") }
}

/// Two hexadecimal digits for every byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A text from a file as it may be printed: what would steer a terminal, or turn the direction of writing, is escaped.
pub fn printable(text: &str) -> String {
    let steers =
        |c: char| c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    text.chars().map(|c| if steers(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}
