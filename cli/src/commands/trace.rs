//! `snnc trace`

use super::backend;
use crate::args::{Precision, TraceArgs, TraceBackend, TraceMode};
use crate::{Failure, model};
use snnc_runtime::device::Backend;
use snnc_runtime::layout::Layout;
use snnc_runtime::trace::{Executor, trace};
use snnc_runtime::train::checkpoint::{model_file, replace};
use snnc_runtime::weights::{Weights, read_tensors, to_bytes};
use std::path::{Path, PathBuf};

pub(crate) fn run(args: &TraceArgs) -> Result<(), Failure> {
    let loaded = model::load(&args.model)?;
    let weights = model_file(&args.trained.weights);
    let file = PathBuf::from(model::split(&args.model.model).0);
    for given in [&weights, &args.batch, &file] {
        let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
        if same(given, &args.out) {
            return Err(Failure::Usage(format!("the output {} would replace an input", args.out.display())));
        }
    }
    let layout = args.layout.as_deref().map(Layout::named).transpose().map_err(Failure::Usage)?;
    let weights = Weights::read(&weights, loaded.checked.graph(), layout.as_ref()).map_err(Failure::failed)?;
    let batch = read_tensors(&args.batch).map_err(Failure::failed)?;
    let executor = match args.backend {
        TraceBackend::Reference => Executor::Reference,
        TraceBackend::Cpu => Executor::Device(Backend::Cpu),
        TraceBackend::Cuda => Executor::Device(backend::cuda(Precision::F32)?.0),
    };
    let train = args.mode == TraceMode::Train;
    let out = trace(&loaded.checked, &weights, &batch, layout.as_ref(), train, &executor).map_err(Failure::failed)?;
    let bytes = to_bytes(&out).map_err(Failure::Failed)?;
    replace(&args.out, &bytes).map_err(Failure::failed)?;
    println!("wrote {} ({} tensors)", args.out.display(), out.len());
    Ok(())
}
