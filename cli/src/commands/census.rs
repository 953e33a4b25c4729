//! `snnc census`

use crate::args::{CensusArgs, Format};
use crate::{Failure, report};
use serde_json::json;
use snnc_compiler::flow::Region;
use snnc_compiler::text::grouped;
use snnc_runtime::artifact::{Inspected, inspect, tally};

pub(crate) fn run(args: &CensusArgs) -> Result<(), Failure> {
    let name = args.object.display().to_string();
    let bytes = super::bytes(&args.object).map_err(|e| Failure::Usage(format!("cannot read `{name}`: {e}")))?;
    let Inspected { note, census, hash } = inspect(&name, &bytes).map_err(Failure::failed)?;
    let mut differs = Vec::new();
    if let Some(file) = &args.certificate {
        let given = super::certify::read(file)?;
        let mut compare = |what: &str, same: bool, theirs: &str, ours: &str| {
            if !same {
                differs.push(format!("{what}: the certificate says {theirs}, this is {ours}"));
            }
        };
        compare("target", given.code.triple == note.triple, &given.code.triple, &note.triple);
        compare("batch", given.code.batch == note.batch, &given.code.batch.to_string(), &note.batch.to_string());
        compare("hash of the machine code", given.hashes.code == hash, &given.hashes.code, &hash);
        compare("functions", given.code.census.functions == census.functions, "other names, regions, or instructions", "not so");
    }
    if args.report.format == Format::Json {
        println!(
            "{:#}",
            json!({
                "object": name, "model": note.model, "version": note.version, "batch": note.batch, "code_bytes": note.code, "sha256": hash,
                "certificate_differences": differs, "census": census,
            })
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
        println!("sha256 of the code {hash}");
        println!("{}", tally(&census));
        for finding in &census.findings {
            println!("{} at {:#x}: `{}` {}", finding.function, finding.offset, finding.instruction, finding.wrong);
        }
        match (&args.certificate, differs.as_slice()) {
            (Some(file), []) => println!("the code of {}", file.display()),
            (Some(file), differs) => println!("not the code of {}:\n  {}", file.display(), differs.join("\n  ")),
            (None, _) => {}
        }
    }
    if census.findings.is_empty() && differs.is_empty() { Ok(()) } else { Err(Failure::Findings) }
}
