//! The CUDA text of training programs, compiled for the host, against the CPU's machine code.

use crate::agreement::{random_batch, weights};
use rayon::prelude::*;
use snnc_compiler::backend::cuda::calls::{Base, Call as Called, FUNCTIONS, KERNELS, Matmul, Matrix, Place, calls};
use snnc_compiler::backend::cuda::cost::costs;
use snnc_compiler::backend::cuda::work::{Entry, Work, entries, step, text};
use snnc_compiler::backend::cuda::{PRELUDE, source};
use snnc_compiler::check::Checked;
use snnc_compiler::flow::{Sink, Source};
use snnc_compiler::kernel::Format;
use snnc_compiler::lower::{Optimizer, hyper};
use snnc_compiler::ops::Selection;
use snnc_compiler::program::{BufferId, Contract, Program, Purpose};
use snnc_runtime::device::Device;
use snnc_runtime::device::cpu::{Call, Executable};
use snnc_runtime::device::cuda::gpu::bytes;
use snnc_runtime::device::cuda::hosted::Hosted;
use snnc_runtime::device::cuda::nvrtc::{Usage, compile, fingerprint};
use snnc_runtime::device::cuda::planned;
use snnc_runtime::reference;
use snnc_runtime::session::{Mode, unfolded_program};
use snnc_tests::{Numbers, distance, full_zoo, small_zoo, zoo};
use std::collections::{BTreeMap, BTreeSet};

const SAMPLES: usize = 3;
const LABELS: [usize; SAMPLES] = [1, 0, 2];

/// One step on both, on the same weights, batch and targets: the same spikes, and the largest difference in all else, and where. What
/// the host's blocks and threads compute does not hang on the order in which they come.
fn difference(checked: &Checked, program: &Program, hosted: &mut Hosted, seed: u64) -> (f64, String) {
    let graph = checked.graph();
    let mut cpu = Executable::load(program.clone(), SAMPLES).unwrap();
    let batch = random_batch(checked, SAMPLES, seed);
    let weights = weights(checked, seed);
    let input = reference::arrange(graph, batch.mapv(f64::from));
    let labels: Vec<usize> = LABELS.iter().map(|l| l % graph.classes()).collect();
    let wide = reference::run(graph, &weights.arrays::<f64>(graph), &input, Some(&labels), true);
    cpu.enter(&batch.into_iter().collect::<Vec<f32>>(), SAMPLES, graph.time);
    let mut numbers = Numbers(seed);
    for (i, buffer) in program.buffers.iter().enumerate() {
        let Purpose::Source(source) = buffer.purpose else { continue };
        match source {
            Source::Param(id) => cpu.buffer_mut(BufferId::new(i)).copy_from_slice(&weights.values[id.index()]),
            Source::Target => {
                let rows = cpu.buffer_mut(BufferId::new(i)).chunks_mut(graph.classes());
                rows.zip(LABELS).for_each(|(row, label)| row[label % row.len()] = 1.0);
            }
            Source::Moment(..) => cpu.buffer_mut(BufferId::new(i)).iter_mut().for_each(|x| *x = numbers.uniform() as f32),
            Source::Input => {}
        }
    }
    let sources: Vec<(BufferId, Vec<f32>)> = (0..program.buffers.len())
        .map(BufferId::new)
        .filter(|b| matches!(program.buffer(*b).purpose, Purpose::Source(_)))
        .map(|b| (b, cpu.buffer(b).to_vec()))
        .collect();
    let call = Call { batch: SAMPLES, steps: graph.time, hyper: [0.1, 1.5, 1.2, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0] };
    let mut outcomes = Vec::new();
    for order in if seed == 1 { vec![0, 1, 7] } else { vec![0] } {
        for (id, values) in &sources {
            hosted.fill(*id, values);
        }
        hosted.run_in(&call, order).unwrap();
        let results: Vec<Vec<f32>> = program.sinks.iter().map(|(_, view)| hosted.read(view, &call).unwrap()).collect();
        let updated: Vec<Vec<f32>> = sources.iter().map(|(id, _)| hosted.buffer(*id)).collect();
        outcomes.push((results, updated));
    }
    for (order, other) in outcomes.iter().enumerate().skip(1) {
        for (((sink, _), a), b) in program.sinks.iter().zip(&outcomes[0].0).zip(&other.0) {
            let differ = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            assert!(differ == 0, "{sink:?} hangs on the order of threads ({order}): {differ} of {}", a.len());
        }
        assert!(outcomes[0].1.iter().flatten().map(|x| x.to_bits()).eq(other.1.iter().flatten().map(|x| x.to_bits())));
    }
    cpu.run(&call);
    // A bias before a batch norm has the gradient zero, and noise for one: so errors are compared with other gradients, too.
    let largest = |values: &[f32]| values.iter().fold(0f64, |m, x| m.max(f64::from(x.abs())));
    let gradient = |sink: &Sink| matches!(sink, Sink::Gradient(_) | Sink::Update(Source::Moment(..)));
    let steepest =
        program.sinks.iter().filter(|(s, _)| gradient(s)).map(|(_, view)| largest(&cpu.read(view, &call).unwrap())).fold(0.0, f64::max);
    let floor = (0.03 * steepest).max(1e-3);
    let mut worst = (0.0, String::new());
    let mut close = |ours: &[f32], theirs: &[f32], exact: Option<&[f64]>, what: &str| {
        let [ours, theirs] = [ours, theirs].map(|v| v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        let off = match exact {
            // No worse than the other backend is in the same precision.
            Some(exact) => (distance(&ours, exact, floor) - 3.0 * distance(&theirs, exact, floor)).max(0.0),
            None => distance(&ours, &theirs, floor),
        };
        if off > worst.0 {
            worst = (off, what.to_owned());
        }
    };
    for ((sink, view), ours) in program.sinks.iter().zip(&outcomes[0].0) {
        let theirs = cpu.read(view, &call).unwrap();
        match sink {
            Sink::Spikes(path) => assert!(*ours == theirs, "spikes of {path}"),
            Sink::Gradient(id) => {
                let exact: Vec<f64> = wide.grads[id.index()].as_ref().map_or(vec![0.0; ours.len()], |g| g.iter().copied().collect());
                close(ours, &theirs, Some(&exact), &graph.param(*id).path);
            }
            other => close(ours, &theirs, None, &format!("{other:?}")),
        }
    }
    for ((id, _), ours) in sources.iter().zip(&outcomes[0].1) {
        close(ours, cpu.buffer(*id), None, &program.buffer(*id).label);
    }
    worst
}

/// A value may lie on the edge of a surrogate or a clamp, where the order of a sum decides: then two other seeds must agree.
fn same(checked: &Checked, mode: Mode) {
    let (_, program) = unfolded_program(checked, mode, Format::F32);
    let folder = tempfile::TempDir::new().unwrap();
    let mut hosted = Hosted::load(program.clone(), SAMPLES, folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let mut close = |seed| {
        let found = difference(checked, &program, &mut hosted, seed);
        println!("  {found:?}");
        found.0 <= 5e-4
    };
    assert!(close(1) || close(2) && close(3));
}

#[test]
fn gradients_of_every_model_of_the_zoo() {
    for (name, checked) in small_zoo() {
        println!("{name}");
        same(&checked, Mode::Gradients);
    }
}

/// Bits of spikes, tensor cores and copies, too, give the same whatever the order of blocks and threads.
#[test]
fn results_in_16_bits_do_not_hang_on_the_order_of_threads() {
    let wanted = ["mixer/mlp_spe ", "spikingformer/cifar ", "gac/msresnet_cifar "];
    let some = small_zoo().into_iter().filter(|(name, _)| wanted.iter().any(|w| name.starts_with(w)));
    let mut found = 0;
    for ((name, checked), precision) in some.zip([Format::F16, Format::Bf16, Format::F16]) {
        let (_, program) = unfolded_program(&checked, Mode::Gradients, precision);
        found += program.groups.iter().flat_map(|g| &g.contracts).filter(|c| matches!(c, Contract::Masked { .. })).count();
        let folder = tempfile::TempDir::new().unwrap();
        let mut hosted = Hosted::load(program.clone(), SAMPLES, folder.path()).unwrap_or_else(|e| panic!("{e}"));
        let weights = weights(&checked, 1);
        for (i, buffer) in program.buffers.iter().enumerate() {
            if let Purpose::Source(Source::Param(id)) = buffer.purpose {
                hosted.fill(BufferId::new(i), &weights.values[id.index()]);
            }
        }
        let batch: Vec<f32> = random_batch(&checked, SAMPLES, 1).into_iter().collect();
        hosted.enter(&batch, SAMPLES, checked.graph().time).unwrap();
        let mut numbers = [0.0; 10];
        (numbers[hyper::SCALE], numbers[hyper::UNSCALE]) = (1.0, 1.0);
        let call = Call { batch: SAMPLES, steps: checked.graph().time, hyper: numbers };
        let races = hosted.races(&call, &[0, 1, 7]).unwrap();
        assert!(races.is_empty(), "{name}: {races:#?}");
    }
    assert!(found > 10, "{found}");
}

#[test]
fn updates_of_the_quick_starts() {
    for path in ["quickstart/digits_attention", "quickstart/digits_rate"] {
        let checked = zoo(path, &[], None);
        for optimizer in [
            Optimizer::Sgd { momentum: 0.9, weight_decay: 1e-4 },
            Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 },
        ] {
            same(&checked, Mode::Train(optimizer));
        }
    }
}

const ADAM: Mode = Mode::Train(Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.05 });

/// What is compiled for a device, each function once, and what its registers are.
struct Compiler {
    arch: &'static str,
    known: BTreeMap<(String, bool, Vec<String>), Usage>,
    shared: Vec<Usage>,
}

impl Compiler {
    fn new(arch: &'static str) -> Compiler {
        let shared = compile(&format!("{PRELUDE}\n{KERNELS}"), arch).unwrap_or_else(|e| panic!("{e}")).kernels;
        assert_eq!(shared.len(), FUNCTIONS.len());
        Compiler { arch, known: BTreeMap::new(), shared }
    }

    /// What a function is, whatever its number in a program is.
    fn key(program: &Program, e: &Entry) -> (String, bool, Vec<String>) {
        let kernels: Vec<String> = e.kernels().iter().map(|k| format!("{:?}", program.kernels[k.index()])).collect();
        (if kernels.is_empty() { e.name() } else { String::new() }, e.side(), kernels)
    }

    /// Compiles all functions that training steps of these networks launch; a row of the page for each.
    fn rows(&mut self, networks: &[Checked], precision: Format) -> Vec<String> {
        let programs: Vec<Program> = networks.par_iter().map(|c| unfolded_program(c, ADAM, precision).1).collect();
        let mut seen = BTreeSet::new();
        let mut texts = Vec::new();
        for program in &programs {
            let new: Vec<Entry> = entries(program).unwrap().into_iter().filter(|e| seen.insert(Self::key(program, e))).collect();
            for some in new.chunks(24) {
                texts.push((text(program, some).unwrap(), some.iter().map(|e| (e.name(), Self::key(program, e))).collect::<Vec<_>>()));
            }
        }
        let one = |(text, some): &(String, Vec<_>)| {
            let used = compile(&format!("{PRELUDE}\n{text}"), self.arch).unwrap_or_else(|e| panic!("{e}")).kernels;
            assert_eq!(used.len(), some.len());
            used
        };
        let all: Vec<Vec<Usage>> = texts.par_iter().map(one).collect();
        for ((_, some), used) in texts.iter().zip(all) {
            let of = |name: &String| used.iter().find(|u| u.name == *name).unwrap().clone();
            self.known.extend(some.iter().map(|(name, key)| (key.clone(), of(name))));
        }
        let row = |(checked, program): (&Checked, &Program)| {
            let own = entries(program).unwrap();
            let used: Vec<&Usage> = own.iter().map(|e| &self.known[&Self::key(program, e)]).chain(&self.shared).collect();
            let two_blocks = |u: &&Usage| u.registers <= 128 && u.spilled == 0;
            assert!(used.iter().all(|u| u.registers > 0));
            assert!(used.iter().filter(|u| u.name.starts_with("masked")).all(two_blocks), "{used:?}");
            let spills = used.iter().filter(|u| u.spilled > 0).count();
            let [registers, bytes] = [|u: &Usage| u.registers, |u: &Usage| u.spilled].map(|f| used.iter().map(|u| f(u)).max().unwrap());
            let (name, precision) = (&checked.graph().name, precision.name());
            format!("| {name} | {precision} | {} | {} | {registers} | {spills} | {bytes} |", self.arch, used.len())
        };
        networks.iter().zip(&programs).map(row).collect()
    }
}

const HEAD: &str = "# Kernels, network by network

What NVRTC's assembler says of the functions that a training step launches (AdamW, full size), those of ours that move operands included: how many
there are, the most registers of a thread, how many functions have more numbers at once than registers, and how many bytes of them each thread keeps
in memory at most. The assembler trades a few bytes for more blocks at once. This page is generated:
`SNNC_WRITE=1 cargo test -p snnc-tests every_kernel` writes it, and the test fails where it is not what the same NVRTC says.

| network | precision | device | functions | registers | with spills | bytes |
|---|---|---|---:|---:|---:|---:|
";

#[test]
fn every_kernel_of_the_zoo_compiles_for_a_device() {
    let version = match fingerprint("sm_90") {
        Ok(version) => version,
        Err(why) => {
            assert!(std::env::var_os("SNNC_ALL_TESTS").is_none(), "{why}; tests/tools.sh installs it");
            println!("skipped: {why}; tests/tools.sh installs it");
            return;
        }
    };
    let newer = compile("", "sm_999").unwrap_err().to_string();
    assert!(newer.contains("does not know this device's architecture, sm_999: install a later one"), "{newer}");
    let start = std::time::Instant::now();
    let zoo_networks: Vec<Checked> = full_zoo().map(|(_, c)| c).collect();
    let mut rows = Compiler::new("sm_90").rows(&zoo_networks, Format::F32);
    let some = ["MlpSpeT", "Spikingformer8x384", "GacMsResNet18ImageNet", "DsrPreResNet18Lif"];
    let some: Vec<Checked> = zoo_networks.into_iter().filter(|c| some.contains(&c.graph().name.as_str())).collect();
    rows.extend(Compiler::new("sm_90").rows(&some, Format::F16));
    for (arch, precision) in [("sm_80", Format::Bf16), ("sm_100", Format::F16)] {
        let tiny = some.iter().position(|c| c.graph().name == "MlpSpeT").unwrap();
        rows.extend(Compiler::new(arch).rows(&some[tiny..=tiny], precision));
    }
    let took = start.elapsed();
    println!("compiled after {took:?}");
    assert!(took.as_secs() < 600, "{took:?} of CI");
    let page = format!("{HEAD}{}\n\nCompiled by {}.\n", rows.join("\n"), version.split(" --gpu").next().unwrap());
    let place = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kernels.md");
    if std::env::var_os("SNNC_WRITE").is_some() {
        std::fs::write(&place, &page).unwrap();
    }
    let held = std::fs::read_to_string(&place).unwrap_or_default();
    // Another version of the assembler has other numbers; the limits hold for all.
    if held.lines().last() == page.lines().last() {
        let different = held.lines().zip(page.lines()).find(|(a, b)| a != b);
        assert!(held == page, "docs/kernels.md is not what the assembler says; SNNC_WRITE=1 writes it anew: {different:?}");
    }
}

/// The last element that a matrix touches.
fn end(x: &Matrix, rows: usize, columns: usize, count: usize) -> usize {
    (rows - 1) * x.rows + (columns - 1) * x.columns + (count - 1) * x.next
}

#[test]
fn libraries_are_called_within_memory_and_seldom() {
    for (name, checked) in full_zoo() {
        let (_, program) = unfolded_program(&checked, Mode::Gradients, Format::F32);
        for samples in [1, 64] {
            let steps = step(&program, samples, program.time).unwrap();
            let room = |place: Place| {
                let bytes = match place.base {
                    Base::Buffer(id) => program.buffer(id).elements * 4 * if program.buffer(id).batch { samples } else { 1 },
                    Base::Aside => steps.aside,
                    Base::Parts => steps.parts,
                };
                assert!(place.format == Format::F32 && place.at.is_multiple_of(4));
                (bytes - place.at) / 4
            };
            for contract in program.groups.iter().flat_map(|g| &g.contracts) {
                let calls = calls(&program, contract, samples, program.time);
                assert!((1..=18).contains(&calls.len()), "{name}: {} calls for {contract:?}", calls.len());
                for call in calls {
                    match call {
                        Called::Matmul(Matmul { m, n, k, count, a, b, d, .. }) => {
                            for (x, rows, columns) in [(&a, m, k), (&b, k, n), (&d, m, n)] {
                                let (run, distance) = if x.rows == 1 { (rows, x.columns) } else { (columns, x.rows) };
                                assert!((x.rows == 1 || x.columns == 1) && distance >= run, "{name}: {call:?}");
                                assert!(end(x, rows, columns, count) < room(x.place), "{name}: {call:?}");
                            }
                            assert!(d.rows == 1 && (count == 1 || d.next >= m), "{name}: {call:?}");
                        }
                        Called::Convolution(c) => {
                            assert!(c.x.elements() <= room(c.x.place) && c.y.elements() <= room(c.y.place), "{name}: {call:?}");
                            assert!(c.x.size[3] * c.y.size[3] * c.kernel[0] * c.kernel[1] <= room(c.w), "{name}: {call:?}");
                        }
                        Called::Masked(_) | Called::Overflow { .. } => unreachable!("in f32"),
                        Called::Zero { at, size } => assert!(size <= room(at), "{name}: {call:?}"),
                        Called::Sum { from, parts, size, to } => {
                            assert!(parts * size <= room(from) && size <= room(to), "{name}: {call:?}");
                        }
                        Called::Copy { from, to, size, strides } => {
                            let last = |s: &[usize]| size.iter().zip(s).map(|(size, s)| (size - 1) * s).sum::<usize>();
                            assert!(last(&strides[0]) < room(from) && last(&strides[1]) < room(to), "{name}: {call:?}");
                        }
                    }
                }
            }
        }
    }
}

/// In 16 bits nearly all is multiplied in matrices whose rows begin where tensor cores load at once; all end within memory.
#[test]
fn rows_of_matrices_in_16_bits_are_aligned() {
    for (name, checked) in full_zoo() {
        let (_, program) = unfolded_program(&checked, Mode::Gradients, Format::F16);
        let (mut all, mut slow) = (0, 0);
        for call in program.groups.iter().flat_map(|g| &g.contracts).flat_map(|contract| calls(&program, contract, 2, program.time)) {
            let Called::Matmul(Matmul { m, n, k, count, a, b, d, .. }) = &call else { continue };
            let mut aligned = true;
            for (x, rows, columns) in [(a, *m, *k), (b, *k, *n), (d, *m, *n)].into_iter().filter(|(x, ..)| x.place.format == Format::F16) {
                let distance = if x.rows == 1 { x.columns } else { x.rows };
                aligned &= x.place.at.is_multiple_of(16) && distance.is_multiple_of(8) && (*count == 1 || x.next.is_multiple_of(8));
                if let Base::Buffer(id) = x.place.base {
                    let elements = program.buffer(id).elements * if program.buffer(id).batch { 2 } else { 1 };
                    assert!(x.place.at / 2 + end(x, rows, columns, *count) < elements, "{name}: {call:?}");
                }
            }
            all += m * n * k * count;
            slow += if aligned { 0 } else { m * n * k * count };
        }
        assert!(slow * 50 <= all, "{name}: {slow} of {all} multiplications in matrices that are not aligned");
    }
}

/// What a step of MLP-SPE-T launches and moves, as `snnc dump --stage fused --cost` prints it.
#[test]
fn a_mixer_block_takes_few_launches_and_few_bytes() {
    let checked = zoo("mixer/mlp_spe", &[], None);
    let graph = checked.graph();
    let sgd = Mode::Train(Optimizer::Sgd { momentum: 0.9, weight_decay: 0.0 });
    let (_, program) = unfolded_program(&checked, sgd, Format::F16);
    let costs = costs(&program, &step(&program, 64, program.time).unwrap());
    let (mut blocks, mut moved) = (BTreeMap::new(), 0);
    for cost in &costs {
        moved += cost.read + cost.written;
        let path = cost.what[0].trim_start_matches("grad.");
        if let Some((block, _)) = path.strip_prefix("stage").and_then(|p| p.split_once("].").and_then(|(_, p)| p.split_once(']'))) {
            let stage = path.split('.').next().unwrap();
            *blocks.entry(format!("{stage}.{block}")).or_insert(0) += 1;
        }
    }
    assert_eq!(blocks.len(), 26, "{:?}", blocks.keys());
    assert!(blocks.values().all(|n| *n <= 45), "{blocks:?}");
    let neurons = graph.nodes.iter().filter(|n| n.op.selection() == Selection::Neuron);
    let updates: usize = neurons.map(|n| n.signal.elements() * graph.time * 64).sum();
    let each = moved as f64 / updates as f64;
    println!("{} launches, {each:.2} bytes for each of {updates} neuron updates", costs.len());
    assert!(each < 32.5, "{each} bytes");
    let peak = bytes(&program, 64).unwrap();
    assert!(peak < 11_500_000_000, "{peak} bytes at once");
    // By hand: products are three for each map, two operations for each multiplication, the first map has no gradient of its input.
    let operations: u64 = costs.iter().map(|c| c.operations).sum();
    assert!((7.6e12..7.7e12).contains(&(operations as f64)), "{operations}");
}

/// What runs side by side touches nothing that another of them writes, wherever the plan puts buffers.
#[test]
fn what_runs_side_by_side_stays_apart() {
    let mut found = 0;
    for (name, checked) in full_zoo() {
        for precision in [Format::F32, Format::F16] {
            let (_, program) = unfolded_program(&checked, ADAM, precision);
            let text = source(&program).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(text.contains("masked<"), precision == Format::F16 && text.contains("__ballot_sync"), "{name}");
            let plan = planned(&program, 2);
            for work in step(&program, 2, program.time).unwrap().work {
                let Work::Side(tasks) = work else { continue };
                found += 1;
                let mut written: Vec<(u128, u128, usize)> = Vec::new();
                let mut touched = Vec::new();
                for (i, task) in tasks.iter().enumerate() {
                    let kernel = format!("{:?}", program.kernels[task.of.kernel.index()].body);
                    for (arg, buffer) in task.of.args.iter().enumerate() {
                        let at = plan.offsets[buffer.index()] + if plan.weighs[buffer.index()] { plan.total } else { 0 };
                        let place = (at, at + plan.sizes[buffer.index()], i);
                        touched.push(place);
                        if kernel.contains(&format!("Store(Place {{ arg: {arg},")) {
                            written.push(place);
                        }
                    }
                }
                assert!(!written.is_empty());
                touched.sort();
                written.sort();
                // Of those before it in memory one may reach into it; weights are one behind the other, so few do.
                for (from, to, i) in &written {
                    let reaching = touched.iter().take_while(|(at, ..)| at < to).filter(|(_, end, _)| end > from);
                    assert!(reaching.into_iter().all(|(_, _, j)| j == i), "{name}: two of {} share memory", tasks.len());
                }
            }
        }
    }
    assert!(found > 50, "{found}");
}
