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
    let built = own.ancestors().nth(2).unwrap();
    let mut child = Command::new(built.join("snnc"));
    child.env("SNNC_CACHE", built.join("cache of tests"));
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
    let (said, noise, code) = piped(c.folder.path(), &RUN, &[]);
    assert_eq!((said.as_str(), noise.as_str(), code), ("", "note: the input is empty: a sample has 512 bytes\n", Some(0)));
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

/// Runs with a cache of its own; what it says.
fn with_cache(folder: &Path, cache: &Path, args: &[&str]) -> (String, String, Option<i32>) {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(own.ancestors().nth(2).unwrap().join("snnc"));
    let out = command.args(args).current_dir(folder).env("SNNC_CACHE", cache).output().unwrap();
    (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap(), out.status.code())
}

fn entries(cache: &Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = fs::read_dir(cache).map(|all| all.map(|e| e.unwrap().path()).collect()).unwrap_or_default();
    all.sort();
    all
}

#[test]
fn what_is_kept_gives_what_was_made_and_what_is_damaged_is_made_anew() {
    let c = case();
    let (folder, cache) = (c.folder.path(), c.folder.path().join("kept"));
    let args = [&RUN[..], &["s.f32"]].concat();
    let run = || with_cache(folder, &cache, &args);
    let (made, noise, code) = run();
    assert_eq!((noise.as_str(), code, entries(&cache).len()), ("", Some(0), 1));
    assert_eq!(lines(&made).iter().map(logits).collect::<Vec<_>>(), c.logits);
    let entry = entries(&cache).remove(0);
    let whole = fs::read(&entry).unwrap();
    assert_eq!(run(), (made.clone(), String::new(), Some(0)));
    // Every part of it: what it begins with, hashes, lengths, what is said, the code, the weights, its end.
    let places = [0, 20, 60, 81, 90, 97, 110, whole.len() / 3, whole.len() / 2, whole.len() - 3];
    for (i, at) in places.into_iter().enumerate() {
        let mut bad = whole.clone();
        if i % 2 == 0 {
            bad[at] ^= 0x41;
        } else {
            bad.truncate(at);
        }
        fs::write(&entry, bad).unwrap();
        let (said, noise, code) = run();
        assert_eq!((&said, code), (&made, Some(0)), "byte {at}");
        assert!(
            noise.contains("in the cache cannot be used (") && noise.contains("; it is made anew") && noise.lines().count() == 1,
            "byte {at}: {noise}"
        );
        assert_eq!(fs::read(&entry).unwrap(), whole, "byte {at}");
    }
    assert_eq!(run().1, "");
    // Other weights, another model: other entries, and never those of before.
    let checked = checked_text(MODEL, &Default::default());
    let other = Weights::initial(checked.graph(), 4);
    fs::write(folder.join("w.safetensors"), to_bytes(&other.tensors(checked.graph())).unwrap()).unwrap();
    assert_ne!(run().0, made);
    fs::write(folder.join("m.snn"), MODEL.replace("tau = 2.0", "tau = 4.0")).unwrap();
    let other = run().0;
    assert_ne!(other, made);
    assert_eq!(entries(&cache).len(), 3);
    // Whole, but that of something else.
    for from in entries(&cache) {
        for to in entries(&cache).iter().filter(|to| **to != from) {
            let kept = fs::read(to).unwrap();
            fs::copy(&from, to).unwrap();
            let (said, noise, code) = run();
            assert_eq!((&said, code), (&other, Some(0)));
            assert!(noise.is_empty() || noise.contains("it is that of something else"), "{noise}");
            fs::write(to, kept).unwrap();
        }
    }
    // And what is no file is not waited for.
    for entry in entries(&cache) {
        fs::remove_file(&entry).unwrap();
        assert!(Command::new("mkfifo").arg(&entry).status().unwrap().success());
    }
    let (said, noise, code) = run();
    assert_eq!((&said, code), (&other, Some(0)));
    assert!(noise.contains("it is no file"), "{noise}");
}

#[test]
fn a_cache_that_cannot_be_is_none_and_one_that_several_fill_is_whole() {
    let c = case();
    let folder = c.folder.path();
    let args = [&RUN[..], &["s.f32"]].concat();
    // A file where the folder should be: root, too, cannot write there.
    fs::write(folder.join("no folder"), "").unwrap();
    let (said, noise, code) = with_cache(folder, &folder.join("no folder"), &args);
    assert_eq!((lines(&said).len(), noise.lines().count(), code), (3, 1, Some(0)));
    assert!(noise.contains("is not kept for the next start: ") && noise.contains("no folder"), "{noise}");
    let cache = folder.join("shared");
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(|| with_cache(folder, &cache, &args))).collect();
        all.into_iter().for_each(|one| assert_eq!(one.join().unwrap(), (said.clone(), String::new(), Some(0))));
    });
    assert_eq!(entries(&cache).len(), 1);
}

#[test]
fn more_threads_than_cores_give_the_same() {
    let c = case();
    let of = |threads: &str| says(c.folder.path(), &[&RUN[..], &["s.f32", "--threads", threads]].concat(), 0, &[]);
    assert_eq!(of("64"), of("1"));
}

/// Four time steps of a sensor's events.
const EVENTS: &str = "model E {
    time T = 4
    input x: analog[T, C = 2, H = 128, W = 128]
    encoder { e = x |> conv(C = 2, kernel = 8, stride = 8) }
    output e |> LIF(tau = 2.0) |> mean(H, W) |> linear(C -> C = 3) |> mean(T)
}
";

/// An array of NumPy's as a file.
fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    let text = format!("{text:<117}\n");
    [b"\x93NUMPY\x01\x00", &118u16.to_le_bytes()[..], text.as_bytes(), data].concat()
}

fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    for (name, array) in arrays {
        out.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        out.write_all(array).unwrap();
    }
    out.finish().unwrap().into_inner()
}

#[test]
fn files_of_events_become_frames() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let checked = checked_text(EVENTS, &Default::default());
    let mut weights = Weights::initial(checked.graph(), 3);
    weights.values.iter_mut().flatten().for_each(|x| *x *= 40.0);
    fs::write(at("m.snn"), EVENTS).unwrap();
    fs::write(at("w.safetensors"), to_bytes(&weights.tensors(checked.graph())).unwrap()).unwrap();
    // x, y, p: eleven events, so that three slices have two and the last five.
    let events: Vec<[usize; 3]> = (0..11).map(|i| [(i * 37) % 128, (i * 71 + 5) % 128, i % 3 % 2]).collect();
    let mut frames = vec![0f32; 4 * 2 * 128 * 128];
    for (i, [x, y, p]) in events.iter().enumerate() {
        frames[(([0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3][i] * 2 + p) * 128 + y) * 128 + x] += 1.0;
    }
    fs::write(at("frames.f32"), bytes(&frames)).unwrap();
    let run = |file: &str| says(folder.path(), &[&RUN[..], &[file]].concat(), 0, &[]);
    let wanted = run("frames.f32");
    assert!(logits(&lines(&wanted)[0]).iter().any(|x| *x != 0.0));
    // AEDAT 2.0, big-endian, with x = 127 - Y and y = 127 - X.
    let record = |[x, y, p]: &[usize; 3], i: usize| {
        let address = ((127 - y) << 1 | (127 - x) << 8 | (1 - p)) as u32;
        [address.to_be_bytes(), (10 * i as u32).to_be_bytes()].concat()
    };
    let two: Vec<u8> = events.iter().enumerate().flat_map(|(i, e)| record(e, i)).collect();
    let two = [b"#!AER-DAT2.0\r\n# made by a test\r\n", &two[..]].concat();
    fs::write(at("two.aedat"), &two).unwrap();
    // AEDAT 3.1: a packet of something else, and two of events, the second with room for more.
    let packet = |kind: u16, size: u32, capacity: u32, records: &[Vec<u8>]| {
        let numbers = [size, 4, 0, capacity, records.len() as u32, records.len() as u32];
        let mut all = [kind.to_le_bytes(), 1u16.to_le_bytes()].concat();
        numbers.iter().for_each(|n| all.extend(n.to_le_bytes()));
        all.extend(records.concat());
        all.resize(28 + (size * capacity) as usize, 0);
        all
    };
    let of = |[x, y, p]: &[usize; 3]| [((x << 17 | y << 2 | p << 1 | 1) as u32).to_le_bytes(), 7u32.to_le_bytes()].concat();
    let all: Vec<Vec<u8>> = events.iter().map(of).collect();
    let header = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n";
    let three = [&header[..], &packet(0, 8, 1, &[vec![0; 8]]), &packet(1, 8, 6, &all[..6]), &packet(1, 8, 9, &all[6..])].concat();
    fs::write(at("three.aedat"), &three).unwrap();
    let column = |i: usize| events.iter().map(|e| e[i]).collect::<Vec<_>>();
    let words = |c: Vec<usize>| c.iter().flat_map(|n| (*n as i64).to_le_bytes()).collect::<Vec<u8>>();
    let [x, y] = [0, 1].map(|i| npy("<i8", "(11,)", &words(column(i))));
    let p = npy("|b1", "(11,)", &column(2).iter().map(|p| *p as u8).collect::<Vec<_>>());
    let t = npy("<i8", "(11,)", &words((0..11).collect()));
    let four = [("t", t.clone()), ("x", x.clone()), ("y", y.clone()), ("p", p)];
    fs::write(at("four.npz"), npz(&four)).unwrap();
    fs::write(at("frames.npz"), npz(&[("frames", npy("<f4", "(4, 2, 128, 128)", &bytes(&frames)))])).unwrap();
    fs::write(at("dsr.npz"), npz(&[("arr_0", npy("<f4", "(4, 2, 128, 128)", &bytes(&frames)))])).unwrap();
    for file in ["two.aedat", "three.aedat", "four.npz", "frames.npz", "dsr.npz"] {
        assert_eq!(run(file), wanted, "{file}");
    }
    // What is wrong is said.
    let far = [(1000u32 << 17 | 3 << 2).to_le_bytes(), [0; 4]].concat();
    let bad: Vec<(&str, Vec<u8>, &str)> = vec![
        ("none.aedat", b"AEDAT".to_vec(), "does not begin with `#!AER-DAT2.0`"),
        ("empty.aedat", vec![], "does not begin with"),
        ("cut.aedat", two[..two.len() - 3].to_vec(), "ends within event 10"),
        ("header.aedat", b"#!AER-DAT3.1\r\n#no end".to_vec(), "does not end with `#!END-HEADER`"),
        ("packet.aedat", three[..three.len() - 30].to_vec(), "ends within packet 2"),
        ("size.aedat", [&header[..], &packet(1, 16, 1, &[])].concat(), "have 16 bytes, not 8"),
        ("huge.aedat", [&header[..], &[1, 0, 0, 0], &[0xff; 24]].concat(), "ends within packet 0"),
        ("far.aedat", [&header[..], &packet(1, 8, 1, &[far])].concat(), "event 0 is at x = 1000, y = 3, outside the 128 x 128"),
        ("nothing.aedat", b"#!AER-DAT2.0\r\n".to_vec(), "it has no events"),
        ("frames.aedat", b"#!AER-DAT3.1\r\n#Format: SerializedTS\r\n#!END-HEADER\r\n".to_vec(), "its format is `SerializedTS`, not RAW"),
        ("half.npz", npz(&[("frames", npy("<f2", "(4, 2, 1, 2)", &[0; 32]))]), "of a type that is not read: '<f2'"),
        ("bomb.npz", npz(&[("frames", npy("|u1", "(1000, 2, 128, 128)", &vec![0; 1000 * 2 * 128 * 128]))]), "is larger than the"),
        (
            "left.npz",
            npz(&[
                ("t", npy("<i8", "(1,)", &[0; 8])),
                ("x", npy("<i8", "(1,)", &[0xff; 8])),
                ("y", npy("<i8", "(1,)", &[0; 8])),
                ("p", npy("|b1", "(1,)", &[1])),
            ]),
            "event 0 is at x = -1, y = 0, outside the 128 x 128",
        ),
        (
            "sign.npz",
            npz(&[
                ("t", npy("<i8", "(1,)", &[0; 8])),
                ("x", npy("<i8", "(1,)", &[0; 8])),
                ("y", npy("<i8", "(1,)", &[0; 8])),
                ("p", npy("|u1", "(1,)", &[2])),
            ]),
            "the polarity of event 0 is 2",
        ),
        ("other.npz", npz(&[("data", x.clone())]), "neither `frames` nor `x`"),
        ("short.npz", npz(&[("t", t), ("x", x), ("y", y), ("p", npy("|b1", "(1,)", &[1]))]), "11, 11, 1 and 11 values"),
        ("later.aedat", b"#!AER-DAT2.1\r\n\0\0\0\0\0\0\0\0".to_vec(), "does not begin with `#!AER-DAT2.0`"),
        ("zip.npz", b"PK no archive".to_vec(), "cannot be read as events"),
        ("damaged.npz", npz(&[("frames", npy("<f4", "(4, 2, 128, 128)", &bytes(&frames[..9])))]), "damaged"),
        (
            "small.npz",
            npz(&[("frames", npy("<f4", "(4, 2, 1, 2)", &[0; 64]))]),
            "frames of 2 x 1 x 2 for 4 time steps, but `E` takes [C = 2, H = 128, W = 128] for 4 time steps",
        ),
        ("steps.npz", npz(&[("frames", npy("<f4", "(1, 2, 1, 2)", &[0; 16]))]), "frames of 2 x 1 x 2 for 1 time steps, but"),
        (
            "order.npz",
            npz(&[
                ("t", npy("<i8", "(2,)", &words(vec![4, 3]))),
                ("x", npy("<i8", "(2,)", &[0; 16])),
                ("y", npy("<i8", "(2,)", &[0; 16])),
                ("p", npy("<i8", "(2,)", &[0; 16])),
            ]),
            "the time of event 1 is before that of event 0",
        ),
    ];
    for (name, content, wanted) in bad {
        fs::write(at(name), content).unwrap();
        says(folder.path(), &[&RUN[..], &[name]].concat(), 2, &[wanted]);
    }
    says(folder.path(), &[&RUN[..], &["nowhere.npz"]].concat(), 2, &["`nowhere.npz` cannot be read as events"]);
}
