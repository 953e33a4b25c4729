//! `snnc dump --stage schedule`

use super::bench::{median, threads};
use crate::Failure;
use crate::args::DumpArgs;
use crate::report::table;
use snnc_compiler::check::Checked;
use snnc_compiler::fold::fold;
use snnc_compiler::fuse::{Expected, Shared, Target, fuse_for};
use snnc_compiler::lower::{self, Watch};
use snnc_compiler::program::{How, Loop, Program};
use snnc_compiler::text::bytes;
use snnc_runtime::calibrate::pictures;
use snnc_runtime::energy::{self, Done};
use snnc_runtime::machine;
use snnc_runtime::session::Inference;
use snnc_runtime::train::checkpoint::model_file;
use snnc_runtime::weights::Weights;

/// Runs that are timed.
const RUNS: usize = 7;

/// How an inference's loops are cut, and what that is expected to cost; beside what it does, if there are weights.
pub(super) fn text(checked: &Checked, args: &DumpArgs) -> Result<String, Failure> {
    let graph = checked.graph();
    let mut expected = machine::expected(1);
    expected.rate = args.rate.unwrap_or(expected.rate);
    let mut measured = None;
    if let Some(path) = &args.weights {
        let weights = Weights::read(&model_file(path), graph, None).map_err(Failure::failed)?;
        let picture = pictures(graph, 1, 2);
        let energy = energy::on(checked, &weights, &picture, 1).map_err(Failure::failed)?;
        expected.rates = energy.layers.iter().filter(|l| l.done == Done::Ac).map(|l| (l.path.clone(), l.rate)).collect();
        let session = Inference::expecting(checked, &weights, 1, (Watch::Nothing, false), expected.clone());
        measured = Some(seconds(&mut session.map_err(Failure::failed)?, &picture)?);
    }
    let program = fuse_for(&lower::infer(&fold(checked), Watch::Nothing), Target::Infer, graph.time, &expected);
    Ok(format!("{}\n\n{}", machine_line(&expected), rows(&program, measured.as_deref())))
}

fn machine_line(expected: &Expected) -> String {
    let [first, second] = expected.caches.map(|c| bytes(c as u128));
    let rates = if expected.rates.is_empty() {
        format!("{:.0} % of what layers read fires, supposed", 100.0 * expected.rate)
    } else {
        "rates measured on one made-up picture".to_owned()
    };
    format!("{}, caches of {first} and {second}, tiles of up to {} lanes; {rates}", threads(expected.threads), expected.lanes)
}

/// The median time of every loop.
fn seconds(session: &mut Inference, picture: &[f32]) -> Result<Vec<f64>, Failure> {
    session.measure();
    let mut runs: Vec<Vec<f64>> = vec![];
    for _ in 0..=RUNS {
        session.run(picture, 1).map_err(Failure::failed)?;
        runs.push(session.seconds().map(|(_, seconds)| seconds).collect());
    }
    let middle = |i: usize| median(&runs[1..].iter().map(|run| run[i]).collect::<Vec<_>>());
    Ok((0..runs[0].len()).map(middle).collect())
}

fn rows(program: &Program, measured: Option<&[f64]>) -> String {
    let all: Vec<(&Loop, Option<f64>)> =
        program.loops().enumerate().map(|(i, (_, l))| (l, measured.and_then(|m| m.get(i).copied()))).collect();
    let ms = |seconds: f64| format!("{:.3}", 1e3 * seconds);
    let mut rows = vec![];
    let (mut others, mut rest, mut sums) = (0, 0.0, [0.0; 2]);
    for (l, seconds) in &all {
        let Some(choice) = &l.choice else {
            (others, rest) = (others + 1, rest + seconds.unwrap_or(0.0));
            continue;
        };
        sums = [sums[0] + choice.seconds, sums[1] + seconds.unwrap_or(0.0)];
        let how = |wanted| l.inside.iter().any(|i| i.how == wanted);
        let shared = match (choice.parts, choice.shared) {
            (1, _) => "nothing".to_owned(),
            (parts, Shared::Rows) => format!("rows, {parts} parts"),
            (parts, Shared::Tiles) => format!("tiles, {parts} parts"),
        };
        rows.push(vec![
            ms(choice.seconds),
            seconds.map(ms).unwrap_or_default(),
            format!("{} x {} to {}", choice.rows, choice.inputs, choice.outputs),
            if how(How::Multiplies) { String::new() } else { format!("{:.1} %", 100.0 * choice.rate) },
            if how(How::Counts) { String::new() } else { choice.lanes.to_string() },
            shared,
            l.how(),
            l.label.clone(),
        ]);
    }
    let total = if measured.is_some() { ms(sums[1]) } else { String::new() };
    rows.push([ms(sums[0]), total, String::new(), String::new(), String::new(), String::new(), String::new(), "these".to_owned()].to_vec());
    if others > 0 {
        let took = if measured.is_some() { ms(rest) } else { String::new() };
        let blank = String::new;
        rows.push(vec![blank(), took, blank(), blank(), blank(), blank(), blank(), format!("{others} others, which sum nothing up")]);
    }
    table(&["ms expected", "ms measured", "rows x inputs to outputs", "fires", "lanes", "threads share", "how", "loop"], &rows)
}
