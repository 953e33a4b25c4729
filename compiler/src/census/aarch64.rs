//! AArch64 with NEON.

use super::{Entry, Flow};

/// What moves, adds, compares, selects, and works on bits.
const PLAIN: [&str; 100] = [
    "add", "addp", "adds", "addv", "adr", "adrp", "and", "ands", "asr", "bic", "bif", "bit", "bsl", "ccmp", "clz", "cmeq", "cmge", "cmgt",
    "cmhi", "cmhs", "cmn", "cmp", "cnt", "cset", "csel", "csetm", "csinc", "csneg", "dup", "eon", "eor", "ext", "extr", "fabs", "fadd",
    "fcmeq", "fcmge", "fcmgt", "fcmp", "fcsel", "fcvtzs", "fcvtzu", "fmax", "fmaxnm", "fmin", "fminnm", "fmov", "fneg", "fsub", "ins",
    "ld1", "ld1r", "ldadd", "ldaddal", "ldaxr", "ldp", "ldr", "ldrb", "ldrh", "ldrsw", "ldur", "lsl", "lsr", "mov", "movi", "movk", "movn",
    "movz", "mvn", "mvni", "neg", "nop", "orn", "orr", "rbit", "rev64", "ror", "sbfx", "scvtf", "shl", "smax", "smin", "smov", "sshll",
    "sshr", "st1", "stlxr", "stp", "str", "strb", "strh", "stur", "sub", "subs", "sxtw", "tbl", "tst", "ucvtf", "umov", "ushr",
];

/// What the whitelist says of an instruction.
pub(super) fn entry(mnemonic: &str, operands: &str) -> Option<Entry> {
    let flow = match mnemonic {
        "b" | "br" => Flow::Jump,
        "bl" | "blr" => Flow::Call,
        // Traps are for what cannot happen: an array's bound, a number that is none.
        "udf" | "brk" => Flow::End,
        // To the caller, not to an address from elsewhere.
        "ret" => return operands.is_empty().then_some(Entry::Plain(Flow::End)),
        "cbz" | "cbnz" | "tbz" | "tbnz" => Flow::Branch,
        _ if mnemonic.starts_with("b.") => Flow::Branch,
        _ if PLAIN.contains(&mnemonic) => Flow::On,
        _ => return multiplies(mnemonic).map(Entry::Multiplies),
    };
    Some(Entry::Plain(flow))
}

/// How an instruction multiplies. Only for the reason: whatever is on neither list is refused as well.
fn multiplies(mnemonic: &str) -> Option<&'static str> {
    let starts = |words: &[&str]| words.iter().any(|w| mnemonic.starts_with(w));
    match () {
        () if starts(&["fmadd", "fmsub", "fnmadd", "fnmsub", "fmla", "fmls"]) => Some("a fused multiply-add"),
        () if starts(&["sdot", "udot", "usdot", "bfdot", "smmla", "ummla", "bfmmla"]) => Some("a dot product"),
        () if starts(&["mul", "madd", "msub", "mneg", "mla", "mls", "smul", "umul", "smadd", "umadd", "smsub", "umsub"]) => {
            Some("a multiplication")
        }
        () if starts(&["smnegl", "umnegl", "smlal", "umlal", "smlsl", "umlsl", "sqdmul", "sqrdmul", "pmul", "fmul", "fnmul"]) => {
            Some("a multiplication")
        }
        () if starts(&["sdiv", "udiv", "fdiv"]) => Some("a division"),
        () if starts(&["fsqrt", "frsqrt", "ursqrt"]) => Some("a root"),
        () if starts(&["frecp", "urecp"]) => Some("a reciprocal"),
        () => None,
    }
}
