//! Sums that bits mask, on tensor cores: every shape of a tile's edge, against sums of integers, which f32 holds exactly.

use snnc_compiler::backend::cuda::calls::{Call as Called, calls};
use snnc_compiler::kernel::Format;
use snnc_compiler::program::{Buffer, BufferId, Contract, Group, Program, Purpose, View};
use snnc_runtime::device::cpu::Call;
use snnc_runtime::device::cuda::hosted::Hosted;
use snnc_runtime::device::{Backend, Device};
use snnc_tests::{Numbers, cuda_in};
use std::collections::BTreeSet;

const SAMPLES: usize = 3;
const STEPS: usize = 2;

/// Axes of spikes that lie side by side along one of them, of the numbers, and of the result: `(name, label, extent)`.
struct Case {
    spikes: Vec<Vec<(&'static str, usize)>>,
    numbers: Vec<(&'static str, usize)>,
    result: [&'static str; 2],
}

fn cases() -> Vec<Case> {
    let over_channels = |places: &[(&'static str, usize)], inputs: &[usize], outputs: usize, result| Case {
        spikes: inputs.iter().map(|n| [places, &[("in", *n)]].concat()).collect(),
        numbers: [places, &[("out", outputs)]].concat(),
        result,
    };
    // Along an axis before the channels: the last label is summed.
    let along = |before: &[(&'static str, usize)], from: usize, to: usize, after: &[(&'static str, usize)]| Case {
        spikes: vec![[before, &[("in", from)], after].concat()],
        numbers: [before, &[("out", to)], after].concat(),
        result: ["out", "in"],
    };
    vec![
        over_channels(&[("H", 5), ("W", 7)], &[8], 16, ["out", "in"]),
        over_channels(&[("H", 7), ("W", 7)], &[39], 78, ["out", "in"]),
        over_channels(&[("H", 4), ("W", 4)], &[26, 26, 13], 130, ["out", "in"]),
        over_channels(&[("H", 4), ("W", 4)], &[130, 70], 120, ["in", "out"]),
        over_channels(&[("H", 24), ("W", 24)], &[33], 5, ["out", "in"]),
        over_channels(&[], &[64], 64, ["out", "in"]),
        over_channels(&[("N", 3)], &[1], 7, ["out", "in"]),
        over_channels(&[("N", 9)], &[7], 1, ["out", "in"]),
        along(&[], 14, 14, &[("W", 14), ("C", 9)]),
        along(&[("H", 6)], 10, 12, &[("C", 40)]),
        along(&[("H", 5), ("G", 3)], 70, 66, &[("V", 3), ("C", 11)]),
        along(&[], 2, 3, &[("C", 1)]),
        along(&[], 200, 129, &[("C", 65)]),
    ]
}

/// The distances of axes without gaps, each step of time beginning at a multiple of `plane` elements.
fn view(buffer: usize, axes: &[(&'static str, usize)], plane: usize) -> (View, usize) {
    let mut stride = 1;
    let mut own = Vec::new();
    for (name, size) in axes.iter().rev() {
        own.insert(0, ((*name).to_owned(), *size, stride));
        stride *= size;
    }
    let time = stride.next_multiple_of(plane);
    (View { buffer: BufferId::new(buffer), offset: 0, batch: time * STEPS, time, axes: own }, time * STEPS)
}

fn program(cases: &[Case], format: Format) -> Program {
    let mut program = Program { buffers: vec![], kernels: vec![], groups: vec![], sinks: vec![], enter: None, leave: None, time: STEPS };
    let mut group = Group::default();
    let buffer = |program: &mut Program, elements, format, batch| {
        program.buffers.push(Buffer { label: String::new(), format, elements, batch, ranges: false, purpose: Purpose::State(0), tile: 0 });
    };
    for case in cases {
        let mut of = Vec::new();
        for axes in &case.spikes {
            let (own, elements) = view(program.buffers.len(), axes, 32);
            buffer(&mut program, elements, Format::Bit, true);
            of.push(own);
        }
        let (by, elements) = view(program.buffers.len(), &case.numbers, 1);
        buffer(&mut program, elements, format, true);
        let extent = |label: &str| -> usize {
            let all = case.spikes.iter().chain([&case.numbers]).flatten();
            all.filter(|(l, _)| *l == label).map(|(_, n)| n).sum()
        };
        let axes: Vec<(&str, usize)> = case.result.iter().map(|l| (*l, extent(l))).collect();
        let (mut out, _) = view(program.buffers.len(), &axes, 1);
        (out.batch, out.time) = (0, 0);
        buffer(&mut program, axes.iter().map(|(_, n)| n).product(), Format::F32, false);
        let labels = |axes: &[(&str, usize)]| -> Vec<String> {
            ["B", "T"].into_iter().chain(axes.iter().map(|(l, _)| *l)).map(str::to_owned).collect()
        };
        let out_labels = case.result.iter().map(|l| (*l).to_owned()).collect();
        let (of_labels, by_labels) = (labels(&case.spikes[0]), labels(&case.numbers));
        group.contracts.push(Contract::Masked { of, by, out, of_labels, by_labels, out_labels });
    }
    program.groups.push(group);
    program
}

/// The sum, one term after the other.
fn expected(case: &Case, views: &[&View], values: impl Fn(&View) -> Vec<f32>) -> Vec<f32> {
    let [spikes @ .., by, out] = views else { unreachable!() };
    let numbers = values(by);
    let mut result = vec![0.0; out.axes.iter().map(|(_, n, _)| n).product()];
    let mut first = 0;
    for (view, axes) in spikes.iter().zip(&case.spikes) {
        let bits = values(view);
        let mut index = vec![0; axes.len() + 1];
        let sizes: Vec<usize> = axes.iter().map(|(_, n)| *n).chain([case.numbers.iter().find(|(l, _)| *l == "out").unwrap().1]).collect();
        loop {
            let of =
                |label: &str| if label == "out" { index[axes.len()] } else { index[axes.iter().position(|(l, _)| *l == label).unwrap()] };
            let at = |view: &View, more: usize| -> usize {
                view.axes.iter().map(|(l, _, stride)| (of(l) + if l == "in" { more } else { 0 }) * stride).sum()
            };
            for b in 0..SAMPLES {
                for t in 0..STEPS {
                    let on = |view: &View| b * view.batch + t * view.time + at(view, 0);
                    if bits[on(view)] != 0.0 {
                        result[at(out, first)] += numbers[on(by)];
                    }
                }
            }
            let Some(i) = (0..index.len()).rev().find(|i| index[*i] + 1 < sizes[*i]) else { break };
            index[i] += 1;
            index[i + 1..].fill(0);
        }
        first += axes.iter().find(|(l, _)| *l == "in").unwrap().1;
    }
    result
}

#[test]
fn sums_that_bits_mask_are_exact() {
    let cases = cases();
    for format in [Format::F16, Format::Bf16] {
        let program = program(&cases, format);
        let contracts = &program.groups[0].contracts;
        let mut kinds = BTreeSet::new();
        let mut parts = 0;
        for call in contracts.iter().flat_map(|c| calls(&program, c, SAMPLES, STEPS)) {
            if let Called::Masked(masked) = call {
                kinds.insert((masked.kind, masked.run));
                parts = parts.max(masked.parts[0]);
            }
        }
        assert!(kinds.len() >= 6 && parts > 2, "every function, with several distances and parts: {kinds:?}, {parts}");
        let folder = tempfile::TempDir::new().unwrap();
        let call = Call { batch: SAMPLES, steps: STEPS, hyper: [0.0; 10] };
        match cuda_in(folder.path(), format) {
            Backend::Hosted(folder, _) => {
                let mut hosted = Hosted::load(program.clone(), SAMPLES, &folder).unwrap_or_else(|e| panic!("{e}"));
                fill(&mut hosted);
                for order in if format == Format::F16 { &[0, 1, 7][..] } else { &[0] } {
                    hosted.run_in(&call, *order).unwrap();
                    are_exact(&cases, &hosted, &format!("{} in order {order}", format.name()));
                }
            }
            gpu => {
                let mut device = gpu.load(program.clone(), SAMPLES, "sums").unwrap_or_else(|e| panic!("{e}"));
                fill(&mut *device);
                device.run(&call).unwrap();
                are_exact(&cases, &*device, format.name());
            }
        }
    }
}

/// Random spikes and numbers.
fn fill(device: &mut dyn Device) {
    let mut numbers = Numbers(5);
    for (i, buffer) in device.program().buffers.clone().iter().enumerate() {
        let value = |x: f64| match buffer.format {
            Format::Bit => f32::from(x < 0.3),
            Format::F32 => f32::NAN,
            // Small enough for 8 bits; and what is left of a sum tells which terms are missing.
            _ => ((x * 254.0) as i32 - 127) as f32,
        };
        let count = buffer.elements * if buffer.batch { SAMPLES } else { 1 };
        let values: Vec<f32> = (0..count).map(|_| value(numbers.uniform())).collect();
        device.write(BufferId::new(i), &values).unwrap();
    }
}

fn are_exact(cases: &[Case], device: &dyn Device, what: &str) {
    let contracts = &device.program().groups[0].contracts;
    for (case, contract) in cases.iter().zip(contracts) {
        let views = contract.views();
        let found = device.values(views[views.len() - 1].buffer).unwrap();
        let wanted = expected(case, &views, |view| device.values(view.buffer).unwrap().into_owned());
        assert!(*found == wanted, "{what}: {:?} x {:?}", case.spikes, case.numbers);
    }
}
