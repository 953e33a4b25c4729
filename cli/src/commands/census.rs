//! `snnc census`

use crate::args::{CensusArgs, Format};
use crate::{Failure, report};
use serde_json::json;
use snnc_compiler::flow::Region;
use snnc_compiler::text::grouped;
use snnc_runtime::artifact::{inspect, tally};

pub(crate) fn run(args: &CensusArgs) -> Result<(), Failure> {
    let name = args.object.display().to_string();
    let bytes = std::fs::read(&args.object).map_err(|e| Failure::Usage(format!("cannot read `{name}`: {e}")))?;
    let (note, census) = inspect(&name, &bytes).map_err(Failure::failed)?;
    if args.report.format == Format::Json {
        println!(
            "{:#}",
            json!({ "object": name, "model": note.model, "version": note.version, "code_bytes": note.code, "census": census })
        );
    } else {
        let rows: Vec<Vec<String>> = census
            .functions
            .iter()
            .filter(|f| args.all || f.region != Region::Free)
            .map(|f| {
                let region = match f.region {
                    Region::Free => "",
                    Region::Encoder => "encoder",
                    Region::Residue => "residue",
                    Region::Training => "training",
                };
                let instructions: u64 = f.instructions.values().sum();
                vec![f.name.clone(), region.to_owned(), grouped(instructions), grouped(f.multiplications), f.label.clone()]
            })
            .collect();
        print!("{}", report::table(&["function", "region", "instructions", "multiply", "computes"], &rows));
        let free = census.functions.iter().filter(|f| f.region == Region::Free).count();
        if !args.all {
            println!("and {free} functions outside the encoder (--all lists them)");
        }
        println!("\n{}, {} bytes of code for {}, by snnc {}", note.model, grouped(note.code as u64), census.triple, note.version);
        println!("{}", tally(&census));
        for finding in &census.findings {
            println!("{} at {:#x}: `{}` {}", finding.function, finding.offset, finding.instruction, finding.wrong);
        }
    }
    if census.findings.is_empty() { Ok(()) } else { Err(Failure::Findings) }
}
