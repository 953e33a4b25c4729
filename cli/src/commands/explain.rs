//! `snnc explain`

use crate::Failure;
use crate::args::ExplainArgs;
use snnc_compiler::explain::{page, pages};
use snnc_compiler::value::nearest;

pub(crate) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    let Some(code) = &args.code else {
        for (code, text) in pages() {
            let first = text.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
            println!("snnc::{code:<28} {first}");
        }
        return Ok(());
    };
    let short = code.trim_start_matches("snnc::");
    let known: Vec<&str> = pages().map(|(c, _)| c).collect();
    // The last word is enough where no other code has it.
    let ends: Vec<&str> = known.iter().copied().filter(|k| k.rsplit("::").next() == Some(short)).collect();
    let full = if let [one] = ends[..] { one } else { short };
    if let Some(text) = page(full) {
        println!("snnc::{full}\n\n{}", text.trim());
        return Ok(());
    }
    let hint = match (&ends[..], nearest(short, known.iter().copied())) {
        ([_, ..], _) => format!("there are `{}`", ends.join("`, `")),
        ([], Some(near)) => format!("did you mean `{near}`?"),
        ([], None) => "`snnc explain` lists all codes".to_owned(),
    };
    Err(Failure::Usage(format!("there is no code `{code}`; {hint}")))
}
