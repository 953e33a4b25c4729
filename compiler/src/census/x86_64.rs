//! x86-64, with and without AVX.

use super::{Entry, Flow};

/// What moves, adds, compares, selects, and works on bits. Vector instructions stand here as their SSE forms; with a `v` in
/// front they are the AVX ones.
const PLAIN: [&str; 109] = [
    "adc", "add", "addps", "addss", "and", "andnps", "andpd", "andps", "blendvps", "blsr", "broadcastss", "bsf", "bsr", "cmova", "cmovae",
    "cmovb", "cmovbe", "cmove", "cmovg", "cmovge", "cmovl", "cmovle", "cmovne", "cmp", "cmpeqps", "cmpleps", "cmpltps", "cmpneqps",
    "cmpss", "cvtsi2ss", "cvttss2si", "extractf128", "extractps", "insertps", "lea", "lzcnt", "maskmovps", "maxps", "minps", "mov",
    "movabs", "movaps", "movd", "movdqa", "movdqu", "movlps", "movmskps", "movq", "movss", "movsx", "movsxd", "movups", "movzx", "neg",
    "nop", "not", "or", "orps", "paddd", "paddq", "paddw", "pand", "pandn", "pblendvb", "pcmpeqd", "pcmpgtd", "permilps", "pinsrd",
    "pinsrq", "pop", "popcnt", "por", "prefetcht1", "pshufd", "pslld", "psllq", "psrad", "psrld", "psrlq", "psubd", "psubq", "push",
    "pxor", "rol", "ror", "sar", "sarx", "sbb", "seta", "setae", "setb", "sete", "setne", "shl", "shlx", "shr", "shrx", "shufps", "sub",
    "subps", "subss", "test", "tzcnt", "ucomiss", "unpcklps", "xor", "xorpd", "xorps", "zeroupper",
];

const BRANCHES: [&str; 16] = ["ja", "jae", "jb", "jbe", "je", "jg", "jge", "jl", "jle", "jne", "jno", "jnp", "jns", "jo", "jp", "js"];

/// What the whitelist says of an instruction.
pub(super) fn entry(mnemonic: &str, operands: &str) -> Option<Entry> {
    let vector = mnemonic.strip_prefix('v').unwrap_or(mnemonic);
    let flow = match mnemonic {
        "jmp" => Flow::Jump,
        "call" => Flow::Call,
        // Traps are for what cannot happen: an array's bound, a number that is none.
        "ud2" => Flow::End,
        // To the caller: nothing else is pushed than the frame's address.
        "ret" => return operands.is_empty().then_some(Entry::Plain(Flow::End)),
        "push" | "pop" if operands != "rbp" => return None,
        _ if BRANCHES.contains(&mnemonic) => Flow::Branch,
        _ if PLAIN.contains(&vector) => Flow::On,
        _ => return multiplies(vector).map(Entry::Multiplies),
    };
    Some(Entry::Plain(flow))
}

/// How an instruction multiplies. Only for the reason: whatever is on neither list is refused as well.
fn multiplies(vector: &str) -> Option<&'static str> {
    let starts = |words: &[&str]| words.iter().any(|w| vector.starts_with(w));
    match () {
        () if starts(&["fmadd", "fmsub", "fnmadd", "fnmsub", "fmaddsub", "fmsubadd"]) => Some("a fused multiply-add"),
        () if starts(&["dpps", "dppd", "pdp", "pmadd"]) => Some("a dot product"),
        () if starts(&["mul", "imul", "pmul", "pclmul", "fmul", "fimul"]) => Some("a multiplication"),
        () if starts(&["div", "idiv", "fdiv", "fidiv"]) => Some("a division"),
        () if starts(&["rsqrt", "sqrt", "fsqrt"]) => Some("a root"),
        () if starts(&["rcp"]) => Some("a reciprocal"),
        () => None,
    }
}
