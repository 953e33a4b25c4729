//! `snnc convert`

use crate::args::ConvertArgs;
use crate::{Failure, model};
use snnc_runtime::convert::{Direction, convert};
use snnc_runtime::layout::Layout;
use snnc_runtime::train::checkpoint::{model_file, replace};
use snnc_runtime::weights::{read_tensors, to_bytes};

pub(crate) fn run(args: &ConvertArgs) -> Result<(), Failure> {
    let layout = Layout::named(&args.layout).map_err(Failure::Usage)?;
    let loaded = model::load(&args.model)?;
    if args.out.is_dir() {
        return Err(Failure::Usage(format!("{} is a folder; name the safetensors file to write", args.out.display())));
    }
    if args.out.extension().is_some_and(|e| ["pt", "pth", "tar", "ckpt", "bin"].iter().any(|pickle| e.eq_ignore_ascii_case(pickle))) {
        let as_safetensors = args.out.with_extension("safetensors");
        return Err(Failure::Usage(format!("OUT is written as safetensors, which PyTorch loads; name it {}", as_safetensors.display())));
    }
    if args.out.exists() && !args.force {
        return Err(Failure::Usage(format!("{} exists; --force replaces it", args.out.display())));
    }
    let file = model_file(&args.input);
    let tensors = read_tensors(&file).map_err(Failure::failed)?;
    let converted = convert(&tensors, &file.to_string_lossy(), loaded.checked.graph(), &layout);
    let (out, direction) = converted.map_err(Failure::failed)?;
    let bytes = to_bytes(&out).map_err(Failure::Failed)?;
    replace(&args.out, &bytes).map_err(Failure::failed)?;
    let names = match direction {
        Direction::ToOurs => "our names".to_owned(),
        Direction::ToPublished => format!("the names of {}", layout.name),
    };
    println!("wrote {} ({} tensors, {names})", args.out.display(), out.len());
    Ok(())
}
