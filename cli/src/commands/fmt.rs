//! `snnc fmt`

use super::files;
use crate::args::FmtArgs;
use crate::{Failure, report};
use snnc_grammar::{SourceMap, parse, print};
use snnc_runtime::library::open;
use snnc_runtime::train::checkpoint::replace;

pub(crate) fn run(args: &FmtArgs) -> Result<(), Failure> {
    let mut failure = None;
    for path in &args.paths {
        for file in files(path)? {
            let shown = file.to_string_lossy().into_owned();
            if !file.exists() {
                return Err(Failure::Usage(format!("there is no file `{shown}`")));
            }
            let mut sources = SourceMap::default();
            let parsed = open(&mut sources, &shown).map_err(|e| vec![e]).and_then(|id| parse(&sources, id).map(|m| (id, m)));
            let (id, module) = match parsed {
                Ok(parsed) => parsed,
                Err(errors) => {
                    failure = report::show(&sources, &errors).err();
                    continue;
                }
            };
            let text = sources.get(id).map(|s| s.text.clone()).unwrap_or_default();
            let formatted = print(&module, &text);
            if *formatted == *text {
                continue;
            }
            if args.check {
                println!("{shown} is not formatted");
                failure = Some(Failure::Findings);
            } else {
                replace(&file, formatted.as_bytes()).map_err(Failure::failed)?;
                println!("formatted {shown}");
            }
        }
    }
    failure.map_or(Ok(()), Err)
}
