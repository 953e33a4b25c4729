//! `snnc run`: samples that come in one after another, time step after time step.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may stop at the first surprise")]

use serde_json::Value;
use snnc_compiler::lower::Watch;
use snnc_runtime::session::Inference;
use snnc_runtime::weights::{Weights, to_bytes};
use snnc_tests::{checked_text, says, snnc};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Frames of two channels, and neurons that the time steps matter to.
const MODEL: &str = "model M {
    time T = 4
    input x: analog[T, C = 2, H = 4, W = 4]
    neuron lif = LIF(tau = 2.0)
    encoder {
        e = x |> conv(C = 8, kernel = 3, pad = 1)
    }
    output e |> lif |> mean(H, W) |> linear(C -> C = 3) |> mean(T)
}
";
const FRAME: usize = 2 * 4 * 4;

struct Case {
    folder: TempDir,
    samples: Vec<f32>,
    /// Of all time steps at once, by the library.
    logits: Vec<Vec<f32>>,
}

fn case() -> Case {
    let folder = TempDir::new().unwrap();
    let checked = checked_text(MODEL, &Default::default());
    let mut weights = Weights::initial(checked.graph(), 3);
    weights.values.iter_mut().flatten().for_each(|x| *x *= 4.0);
    fs::write(folder.path().join("m.snn"), MODEL).unwrap();
    fs::write(folder.path().join("w.safetensors"), to_bytes(&weights.tensors(checked.graph())).unwrap()).unwrap();
    let samples: Vec<f32> = (0..3 * 4 * FRAME).map(|i| (i as f32 * 0.618).fract() * 2.0 - 0.5).collect();
    let mut session = Inference::new(&checked, &weights, 1, Watch::Nothing).unwrap();
    let logits = samples.chunks(4 * FRAME).map(|sample| session.run(sample, 1).unwrap()).collect();
    fs::write(folder.path().join("s.f32"), bytes(&samples)).unwrap();
    Case { folder, samples, logits }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn logits(line: &Value) -> Vec<f32> {
    line["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

const RUN: [&str; 6] = ["run", "m.snn", "--weights", "w.safetensors", "--format", "json"];

/// What a program says that reads this from a pipe, and its exit code.
fn piped(folder: &Path, args: &[&str], input: &[u8]) -> (String, String, Option<i32>) {
    let own = std::env::current_exe().unwrap();
    let mut child = Command::new(own.ancestors().nth(2).unwrap().join("snnc"));
    let mut child =
        child.args(args).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap(), out.status.code())
}

#[test]
fn frame_by_frame_is_what_all_at_once_is() {
    let c = case();
    let whole = lines(&says(c.folder.path(), &[&RUN[..], &["s.f32"]].concat(), 0, &[]));
    assert_eq!(whole.iter().map(logits).collect::<Vec<_>>(), c.logits);
    let (said, _, code) = piped(c.folder.path(), &[&RUN[..], &["--stream"]].concat(), &bytes(&c.samples));
    let streamed = lines(&said);
    assert_eq!((code, streamed.len()), (Some(0), 3 * 5));
    for (sample, lines) in streamed.chunks(5).enumerate() {
        let steps: Vec<Option<u64>> = lines.iter().map(|l| l["step"].as_u64()).collect();
        assert_eq!(steps, [Some(1), Some(2), Some(3), Some(4), None]);
        assert_eq!((logits(&lines[3]), logits(&lines[4])), (c.logits[sample].clone(), c.logits[sample].clone()));
        assert_eq!((lines[4]["sample"].as_u64(), lines[4]["steps_used"].as_u64()), (Some(sample as u64), Some(4)));
    }
}

#[test]
fn a_sample_that_is_decided_is_left_and_the_next_one_is_whole() {
    let c = case();
    let at = |lead: &str| lines(&says(c.folder.path(), &[&RUN[..], &["s.f32", "--until", lead]].concat(), 0, &[]));
    // Ahead by nothing: after the first step, whose frames alone are looked at.
    let first = at("0");
    assert!(first.len() == 3 && first.iter().all(|l| l["steps_used"] == 1), "{first:?}");
    // By hand: the running logits of a stream say when each is decided.
    let streamed = lines(&says(c.folder.path(), &[&RUN[..], &["s.f32", "--stream"]].concat(), 0, &[]));
    let mut leads: Vec<f64> = streamed.iter().filter_map(|l| l["step"].as_u64().and(l["lead"].as_f64())).collect();
    leads.sort_by(f64::total_cmp);
    let middle = leads[leads.len() / 2];
    for (sample, line) in at(&middle.to_string()).iter().enumerate() {
        let own = &streamed[5 * sample..5 * sample + 4];
        let used = own.iter().position(|l| l["lead"].as_f64().unwrap() as f32 >= middle as f32).unwrap_or(3);
        assert_eq!(line["steps_used"].as_u64(), Some(used as u64 + 1), "{line}");
        assert_eq!(logits(line), logits(&own[used]));
    }
    let never = at("1e30");
    assert_eq!(never.iter().map(logits).collect::<Vec<_>>(), c.logits);
}

#[test]
fn what_is_wrong_with_a_stream_is_said_and_what_came_before_is_kept() {
    let c = case();
    let all = bytes(&c.samples);
    let (said, error, code) = piped(c.folder.path(), &[&RUN[..], &["--stream"]].concat(), &all[..all.len() - 4 * FRAME - 4]);
    assert_eq!((code, lines(&said).len()), (Some(2), 5 + 5 + 2));
    assert!(error.contains("the input ends within sample 2, in frame 3 of 4: 124 of 128 bytes are there"), "{error}");
    let (said, error, code) = piped(c.folder.path(), &RUN, &all[..all.len() - 4 * FRAME]);
    assert_eq!((code, lines(&said).len()), (Some(2), 2));
    assert!(error.contains("in frame 4 of 4: 0 of 128 bytes"), "{error}");
    let mut odd = c.samples.clone();
    odd[5 * FRAME] = f32::NAN;
    let (said, error, code) = piped(c.folder.path(), &RUN, &bytes(&odd));
    assert_eq!((code, lines(&said).len()), (Some(2), 1));
    assert!(error.contains("sample 1: ") && error.contains("NaN") && error.contains("a finite number"), "{error}");
    let (said, _, code) = piped(c.folder.path(), &RUN, &[]);
    assert_eq!((said.as_str(), code), ("", Some(0)));
    for (args, words) in [
        (["s.f32", "--until", "-1"], "0 or more"),
        (["s.f32", "--until", "NaN"], "a finite number"),
        (["none.f32", "--stream", "--stream"], "cannot"),
    ] {
        let out = snnc(c.folder.path(), &[&RUN[..], &args].concat());
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(2) && error.contains(words), "{args:?}: {error}");
    }
    says(c.folder.path(), &["run", "m.snn", "--weights", "w.safetensors", "none.f32"], 2, &["cannot read `none.f32`"]);
}
