//! What every stage makes of one small model, as text: a change of a stage shows as a change of its snapshot.
//!
//! And what holds for the memory plan of any program: no two buffers that are alive together share a place.

use snnc_compiler::backend::cuda;
use snnc_compiler::check::Checked;
use snnc_compiler::flow::{Sink, Source};
use snnc_compiler::fold::fold;
use snnc_compiler::fuse::{Target, fuse};
use snnc_compiler::graph::Settings;
use snnc_compiler::kernel::Format;
use snnc_compiler::lower::{Optimizer, Watch, differentiate};
use snnc_compiler::ops::Role;
use snnc_compiler::plan::plan;
use snnc_compiler::program::{self, Program, Purpose};
use snnc_compiler::types::ParamId;
use snnc_compiler::{dump, graph};
use snnc_runtime::session::{Mode, inference_program, unfolded_program};
use snnc_tests::{checked_text, full_zoo, zoo};
use std::time::{Duration, Instant};

const MODEL: &str = "model Small {
    time T = 2
    input x: analog[C = 1, H = 4, W = 4]
    neuron lif = LIF(tau = 2.0, detach_reset = true)
    encoder { e = x |> conv(C = 2, kernel = 1, bias = false) |> batchnorm(C) }
    s = e |> lif
    a = s |> conv(C = 3, kernel = 3, stride = 2, pad = 1, bias = false) |> batchnorm(C) |> lif
    output a |> mean(H, W) |> linear(C -> C = 2) |> mean(T)
}
";

const SGD: Mode = Mode::Train(Optimizer::Sgd { momentum: 0.9, weight_decay: 0.0 });

fn small() -> Checked {
    checked_text(MODEL, &Settings::default())
}

fn stage(name: &str, text: &str) {
    insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "snapshots/stages", omit_expression => true }, {
        insta::assert_snapshot!(name, format!("{MODEL}---\n{text}"));
    });
}

#[test]
fn graph_plan_and_folded() {
    let checked = small();
    stage("graph", &graph::print(checked.graph()));
    stage("plan", &dump::plan(&checked));
    stage("folded", &dump::folded(&fold(&checked)));
}

#[test]
fn primitives_and_kernels_of_inference() {
    let (flow, program) = inference_program(&fold(&small()), Watch::Nothing);
    stage("infer.flow", &dump::flow(&flow));
    stage("infer.program", &program::print(&program));
}

#[test]
fn kernels_of_a_training_step() {
    let (_, program) = unfolded_program(&small(), SGD, Format::F32);
    stage("train.program", &program::print(&program));
    // Without what all texts share.
    let text = |program: &Program| cuda::source(program).unwrap().strip_prefix(cuda::PRELUDE).unwrap().to_owned();
    stage("train.cuda", &text(&program));
    let (_, program) = unfolded_program(&small(), SGD, Format::F16);
    stage("train.f16.cuda", &text(&program));
}

/// The buffers that a group touches.
fn touched(program: &Program, group: usize) -> Vec<usize> {
    let group = &program.groups[group];
    let mut all: Vec<usize> = group.loops.iter().flat_map(|l| l.args.iter().map(|a| a.index())).collect();
    for contract in &group.contracts {
        all.extend(contract.views().iter().map(|v| v.buffer.index()));
    }
    all
}

/// Checks every two buffers against each other, over a table of what is alive when.
fn is_sound(program: &Program, batch: usize) {
    let (plan, groups) = (plan(program, batch), program.groups.len());
    let mut alive = vec![vec![false; groups]; program.buffers.len()];
    for group in 0..groups {
        for buffer in touched(program, group) {
            let first = alive[buffer].iter().position(|a| *a).unwrap_or(group);
            alive[buffer][first..=group].fill(true);
            if program.groups[group].once {
                alive[buffer].fill(true);
            }
        }
    }
    for (i, buffer) in program.buffers.iter().enumerate() {
        let result = program.sinks.iter().any(|(_, v): &(Sink, _)| v.buffer.index() == i);
        if buffer.purpose != Purpose::Temporary || result {
            alive[i].fill(true);
        }
    }
    let end = |i: usize| plan.offsets[i] + plan.sizes[i];
    for i in 0..alive.len() {
        assert!(end(i) <= if plan.weighs[i] { plan.weights } else { plan.total });
        for j in 0..i {
            let together = alive[i].iter().zip(&alive[j]).any(|(a, b)| *a && *b);
            let apart = plan.weighs[i] != plan.weighs[j] || end(i) <= plan.offsets[j] || end(j) <= plan.offsets[i];
            assert!(apart || !together, "{} and {} share a place", program.buffers[i].label, program.buffers[j].label);
        }
    }
    let sum: u128 = plan.sizes.iter().sum();
    let used = plan.total + plan.weights;
    assert!(used < sum * 9 / 10, "{used} of {sum} elements: nothing is shared");
}

#[test]
fn no_two_buffers_that_are_alive_together_share_a_place() {
    let checked = zoo("quickstart/digits", &[], None);
    for batch in [1, 5] {
        is_sound(&unfolded_program(&checked, SGD, Format::F32).1, batch);
        is_sound(&unfolded_program(&checked, Mode::Eval, Format::F32).1, batch);
        is_sound(&inference_program(&fold(&checked), Watch::Nothing).1, batch);
    }
}

#[test]
fn a_training_step_of_every_full_size_model_is_fused_within_two_seconds() {
    let optimizer = Optimizer::Sgd { momentum: 0.9, weight_decay: 0.0 };
    for (variant, checked) in full_zoo() {
        let start = Instant::now();
        let step = differentiate(&checked, Some(optimizer), Format::F32);
        let program = fuse(&step.flow, Target::Train(Format::F32), checked.graph().time);
        let took = start.elapsed();
        println!("{took:8.3?}  {variant}");
        assert!(took < Duration::from_secs(2), "{variant} took {took:?}");
        assert!(plan(&program, 2).bytes() > 0);
        let updated = |id| step.flow.sinks.iter().any(|(sink, _)| matches!(sink, Sink::Update(Source::Param(p)) if *p == id));
        let trained = checked.graph().params.iter().enumerate().filter(|(_, p)| p.role == Role::Trained);
        let left = trained.filter(|(i, _)| !updated(ParamId::new(*i))).map(|(_, p)| &p.path);
        assert_eq!(left.collect::<Vec<_>>(), Vec::<&String>::new(), "{variant}: not trained");
    }
}
