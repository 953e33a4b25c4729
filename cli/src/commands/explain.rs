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
    if let Some(text) = page(short) {
        println!("snnc::{short}\n\n{}", text.trim());
        return Ok(());
    }
    let known: Vec<&str> = pages().map(|(c, _)| c).collect();
    let same_end = known.iter().copied().find(|k| k.rsplit("::").next() == Some(short));
    let hint = same_end
        .or_else(|| nearest(short, known.iter().copied()))
        .map_or_else(|| "`snnc explain` lists all codes".to_owned(), |near| format!("did you mean `{near}`?"));
    Err(Failure::Usage(format!("there is no code `{code}`; {hint}")))
}
