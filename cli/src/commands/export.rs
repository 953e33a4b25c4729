//! `snnc export`

use crate::args::{ExportArgs, OnnxArgs, OnnxSteps};
use crate::{Failure, model};
use snnc_compiler::text::bytes;
use snnc_runtime::onnx::{OPSET, Options, Steps, export};
use snnc_runtime::train::checkpoint::{model_file, replace};
use snnc_runtime::weights::Weights;

pub(crate) fn run(args: &ExportArgs) -> Result<(), Failure> {
    match args {
        ExportArgs::Onnx(args) => onnx(args),
    }
}

fn onnx(args: &OnnxArgs) -> Result<(), Failure> {
    let loaded = model::load(&args.model)?;
    if args.out.is_dir() {
        return Err(Failure::Usage(format!("{} is a folder; name the file to write", args.out.display())));
    }
    if args.out.exists() && !args.force {
        return Err(Failure::Usage(format!("{} exists; --force replaces it", args.out.display())));
    }
    let weights = Weights::read(&model_file(&args.trained.weights), loaded.checked.graph(), None).map_err(Failure::failed)?;
    let steps = match args.steps {
        OnnxSteps::Unrolled => Steps::Unrolled,
        OnnxSteps::Scan => Steps::Scan,
    };
    let options = Options { batch: args.batch.map(|n| n as usize), steps };
    let file = export(&loaded.checked, &weights, &options).map_err(Failure::failed)?;
    replace(&args.out, &file).map_err(Failure::failed)?;
    println!("wrote {} ({}, operator set {OPSET})", args.out.display(), bytes(file.len() as u128));
    Ok(())
}
