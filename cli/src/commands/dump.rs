//! `snnc dump`

use super::{fused, schedule};
use crate::args::{DumpArgs, Mode, Precision, Stage};
use crate::{Failure, model};
use snnc_compiler::backend::cuda;
use snnc_compiler::fold::fold;
use snnc_compiler::lower::{Optimizer, Watch};
use snnc_compiler::{dump, graph, program};
use snnc_grammar::parse;
use snnc_runtime::session::{self, inference_program, streaming_program, unfolded_program};

pub(crate) fn run(args: &DumpArgs) -> Result<(), Failure> {
    let mode = args.mode.unwrap_or(Mode::Infer);
    let of_step =
        matches!(args.stage, Stage::Fused | Stage::Cuda) || matches!(args.stage, Stage::Flow | Stage::Program) && mode == Mode::Train;
    let options = [
        (args.mode.is_some(), matches!(args.stage, Stage::Flow | Stage::Program), "--mode is about --stage flow and program"),
        (args.precision.is_some(), of_step, "--precision is about a training step: --mode train, or --stage fused or cuda"),
        (args.batch.is_some(), args.stage == Stage::Fused, "--batch is about launches: --stage fused"),
        (args.cost, args.stage == Stage::Fused, "--cost is about launches: --stage fused"),
        (args.weights.is_some(), args.stage == Stage::Schedule, "--weights is about an inference's loops: --stage schedule"),
        (args.rate.is_some(), args.stage == Stage::Schedule, "--rate is about an inference's loops: --stage schedule"),
    ];
    if let Some((_, _, why)) = options.iter().find(|(given, fits, _)| *given && !fits) {
        return Err(Failure::Usage((*why).to_owned()));
    }
    let format = args.precision.unwrap_or(Precision::F32).format();
    let loaded = model::load(&args.model)?;
    let checked = &loaded.checked;
    let optimizer = || loaded.recipe(None).map_or(Optimizer::Sgd { momentum: 0.9, weight_decay: 0.0 }, |r| r.optimizer);
    match args.stage {
        Stage::Ast => {
            let module = parse(&loaded.sources, loaded.package.root).map_err(|_| Failure::Findings)?;
            println!("{:#?}", module.items);
        }
        Stage::Graph => print!("{}", graph::print(checked.graph())),
        Stage::Plan => print!("{}", dump::plan(checked)),
        Stage::Folded => print!("{}", dump::folded(&fold(checked))),
        Stage::Flow | Stage::Program => {
            let (flow, program) = match mode {
                Mode::Infer => inference_program(&fold(checked), Watch::Nothing),
                Mode::Stream => streaming_program(&fold(checked), Watch::Nothing),
                Mode::Train => unfolded_program(checked, session::Mode::Train(optimizer()), format),
            };
            if args.stage == Stage::Flow {
                print!("{}", dump::flow(&flow));
            } else {
                print!("{}", program::print(&program));
            }
        }
        Stage::Schedule => println!("{}", schedule::text(checked, args)?),
        Stage::Fused => {
            let (_, program) = unfolded_program(checked, session::Mode::Train(optimizer()), format);
            print!("{}", fused::text(checked.graph(), &program, args.batch.unwrap_or(64) as usize, args.cost).map_err(Failure::failed)?);
        }
        Stage::Cuda => {
            let (_, program) = unfolded_program(checked, session::Mode::Train(optimizer()), format);
            print!("{}", cuda::source(&program).map_err(Failure::failed)?);
        }
    }
    Ok(())
}
