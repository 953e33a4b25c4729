//! The command line as a user meets it: bad input, exit codes, interrupted runs.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop at the first surprise, and says what it skips")]

use snnc_compiler::kernel::Format;
use snnc_runtime::device::Backend;
use snnc_runtime::weights::{Tensor, Tensors, read_tensors, to_bytes};
use snnc_tests::{says, snnc};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Settings that make the quick start small.
const SMALL: [&str; 6] = ["--set", "dim=6", "--set", "depths=[1]", "--epochs", "3"];

fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

const MODEL: &str = "model M {\n    param n: int = 2\n    time T = 2\n    input x: analog[C = n]\n    neuron lif = LIF(tau = 2.0)\n    \
                     encoder {\n        e = x |> linear(C -> C = 4)\n    }\n    output e |> lif |> linear(C -> C = 3) |> mean(T)\n}\n";

#[test]
fn hostile_files_give_one_report_and_the_right_code() {
    let t = TempDir::new().unwrap();
    let bytes: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    file(&t, "bytes.snn", &bytes);
    says(t.path(), &["check", "bytes.snn"], 1, &["syntax::encoding"]);
    file(&t, "latin.snn", b"model M {\n  // caf\xe9\n}\n");
    says(t.path(), &["check", "latin.snn"], 1, &["not UTF-8"]);
    file(&t, "escape.snn", format!("// \u{1b}[31m\n{MODEL}").as_bytes());
    says(t.path(), &["check", "escape.snn"], 1, &["syntax::encoding", "control character U+001B at offset 3"]);
    file(&t, "mark.snn", format!("\u{feff}{MODEL}").as_bytes());
    says(t.path(), &["check", "mark.snn"], 0, &["strict"]);
    file(&t, "empty.snn", b"");
    says(t.path(), &["check", "empty.snn"], 1, &["syntax::empty", "snnc new"]);
    file(&t, "deep.snn", format!("model M {{ x = {}1{} }}", "(".repeat(10_000), ")".repeat(10_000)).as_bytes());
    says(t.path(), &["check", "deep.snn"], 1, &["syntax::too_deep"]);
    let report = snnc(t.path(), &["check", "deep.snn"]).stderr;
    assert!(report.len() < 2000, "{}", String::from_utf8_lossy(&report));
    file(&t, "minus.snn", format!("model M {{ x = {}1 }}", "-".repeat(100_000)).as_bytes());
    says(t.path(), &["check", "minus.snn"], 1, &["syntax::too_deep"]);
    file(&t, "large.snn", &vec![b'x'; 50 << 20]);
    says(t.path(), &["check", "large.snn"], 1, &["syntax::too_large"]);
    file(&t, "loop.snn", MODEL.replace("    output", "    for i in 0..1000000000000 { }\n    output").as_bytes());
    says(t.path(), &["check", "loop.snn"], 1, &["build::too_large"]);
    file(
        &t,
        "count.snn",
        MODEL
            .replace("e |> lif |>", "s |>")
            .replace("    output", "    s = e |> lif\n    for i in 0..64 { s = s + s }\n    output")
            .as_bytes(),
    );
    says(t.path(), &["check", "count.snn"], 1, &["check::real_operand"]);
    let chain: String = (0..2000).map(|i| format!("block B{i}(s: current[C]) -> current[C] {{ yield s |> B{} }}\n", i + 1)).collect();
    let last = "block B2000(s: current[C]) -> current[C] { yield s }\nmodel M {\n    time T = 1\n    input x: analog[C = 2]\n    output x |> B0\n}\n";
    file(&t, "blocks.snn", format!("{chain}{last}").as_bytes());
    says(t.path(), &["check", "blocks.snn"], 1, &["build::too_large", "nested more than 100 deep"]);
    file(&t, "flat.snn", MODEL.replace("\n    ", "\n").as_bytes());
    says(t.path(), &["check", "flat.snn"], 0, &["strict"]);
    says(t.path(), &["check", ""], 2, &["cannot read"]);
    says(t.path(), &["check", "/dev/zero"], 2, &["it is no file"]);
    says(t.path(), &["check", "missing.snn"], 2, &["no such file"]);
    says(t.path(), &["summary", "quickstart/digit"], 2, &["did you mean `quickstart/digits`"]);
    says(t.path(), &["check", "."], 1, &["syntax::"]);
}

#[test]
fn settings_that_do_not_fit_are_usage_errors() {
    says(Path::new("."), &["train", "quickstart/digits", "--recipe", "no"], 2, &["no recipe `no`", "there are: digits"]);
    let t = TempDir::new().unwrap();
    file(&t, "m.snn", MODEL.as_bytes());
    says(t.path(), &["check", "m.snn"], 0, &["strict"]);
    says(t.path(), &["check", "m.snn", "--set", "nn=3"], 2, &["no parameter `nn`", "did you mean `n`"]);
    says(t.path(), &["check", "m.snn", "--set", "n=\"three\""], 2, &["expected a value of type int"]);
    says(t.path(), &["check", "m.snn", "--set", "n=)("], 2, &["is not a value"]);
    says(t.path(), &["check", "m.snn", "--set", "n=3, m=4"], 2, &["is not a value"]);
    says(t.path(), &["check", "m.snn", "--set", "n=3", "--set", "n=4"], 2, &["set more than once"]);
    says(t.path(), &["check", "m.snn", "--set", "nn=3", "--format", "json"], 2, &["no parameter `nn`"]);
    says(t.path(), &["check", "m.snn", "--time", "0"], 2, &["[--time:1:1]", "from 1 to"]);
    says(t.path(), &["summary", "m.snn", "--time", "7"], 0, &["spike[T, C = 4]"]);
    says(t.path(), &["check", "mixer/"], 0, &["mixer/mlp_spe#MlpSpeT", "mixer/mlp#MlpS"]);
    says(t.path(), &["check", "m.snn", "--set", "n"], 2, &["NAME=VALUE"]);
    says(t.path(), &["check", "m.snn#N"], 2, &["no model or variant `N`"]);
    says(t.path(), &["check", "m.snn", "--set", "n=1000000000000000000"], 1, &["shape::extent", "1000000000000000000"]);
    says(t.path(), &["check", "m.snn", "--set", "n=-3"], 1, &["shape::extent"]);
    says(t.path(), &["check", "m.snn", "--set", "n=3/0"], 2, &["division by zero"]);
    says(t.path(), &["train", "m.snn"], 1, &["no recipe"]);
    says(t.path(), &["explain", "real_operand"], 0, &["snnc::check::real_operand"]);
    says(t.path(), &["explain", "check::real_operand"], 0, &["multiplication-free"]);
}

#[test]
fn a_model_that_no_machine_holds_says_how_much_and_for_what() {
    let t = TempDir::new().unwrap();
    let big = "model M {\n    time T = 2\n    input x: analog[C = 1, H = 8, W = 8]\n    neuron lif = LIF(tau = 2.0)\n    encoder {\n        \
               e = x |> linear(C -> C = 2000000)\n    }\n    s = e |> lif\n    output s |> mean(H, W) |> linear(C -> C = 2000000) |> linear(C -> C = 10) |> mean(T)\n}\n\
               recipe r for M {\n    data digits\n    optimizer sgd(lr = 0.1)\n    schedule constant(epochs = 1)\n}\n";
    file(&t, "big.snn", big.as_bytes());
    says(t.path(), &["train", "big.snn", "-o", "out"], 2, &["needs", "TB", "weight"]);
}

/// A network that takes spikes, and its recipe.
const SPIKES: &str = "model M {\n    time T = 2\n    input x: spike[C = 1, H = 8, W = 8]\n    neuron lif = LIF(tau = 2.0)\n    \
                      output x |> conv(C = 4, kernel = 3, pad = 0, bias = false) |> lif |> mean(H, W) |> linear(C -> C = 10) |> mean(T)\n}\n\
                      recipe r for M {\n    data digits\n    optimizer sgd(lr = 0.1)\n    schedule constant(epochs = 1)\n}\n";

#[test]
fn what_is_strict_for_spikes_takes_only_spikes() {
    let t = TempDir::new().unwrap();
    file(&t, "s.snn", SPIKES.as_bytes());
    says(t.path(), &["check", "s.snn"], 0, &["strict"]);
    says(t.path(), &["train", "s.snn", "-o", "run"], 2, &["must be a spike, 0 or 1"]);
    let tensor = |shape: &[usize], x: f32| Tensor::new(shape.to_vec(), vec![x; shape.iter().product()]);
    let shapes = [("output.conv.weight", &[4, 1, 3, 3][..]), ("output.linear.weight", &[10, 4]), ("output.linear.bias", &[10])];
    let weights: Tensors = shapes.into_iter().map(|(name, shape)| (name.to_owned(), tensor(shape, 0.5))).collect();
    file(&t, "w.safetensors", &to_bytes(&weights).unwrap());
    let batch = |x: f32| [("input".to_owned(), tensor(&[1, 1, 8, 8], x)), ("labels".to_owned(), tensor(&[1], 3.0))].into_iter().collect();
    for backend in ["cpu", "reference"] {
        let args = ["trace", "s.snn", "-w", "w.safetensors", "-b", "b.safetensors", "-o", "out.safetensors", "--backend", backend];
        for (x, code, words) in [(0.5, 2, "must be a spike"), (f32::NAN, 2, "value 0 is NaN"), (1.0, 0, "wrote")] {
            file(&t, "b.safetensors", &to_bytes(&batch(x)).unwrap());
            says(t.path(), &args, code, &[words]);
        }
        file(&t, "m.snn", MODEL.as_bytes());
        let names =
            [("e.linear.weight", &[4, 2][..]), ("e.linear.bias", &[4]), ("output.linear.weight", &[3, 4]), ("output.linear.bias", &[3])];
        let weights: Tensors = names.into_iter().map(|(name, shape)| (name.to_owned(), tensor(shape, 0.5))).collect();
        file(&t, "m.safetensors", &to_bytes(&weights).unwrap());
        let args = ["trace", "m.snn", "-w", "m.safetensors", "-b", "r.safetensors", "-o", "out.safetensors", "--backend", backend];
        for (x, code, words) in [(f32::NAN, 2, "must be a finite number"), (0.5, 0, "wrote")] {
            let batch = [("input".to_owned(), tensor(&[1, 2], x)), ("labels".to_owned(), tensor(&[1], 2.0))].into_iter().collect();
            file(&t, "r.safetensors", &to_bytes(&batch).unwrap());
            says(t.path(), &args, code, &[words]);
        }
        // What was given is never written over.
        let same = ["trace", "s.snn", "-w", "w.safetensors", "-b", "b.safetensors", "-o", "./w.safetensors"];
        says(t.path(), &same, 2, &["would replace"]);
        let same = ["trace", "s.snn", "-w", "w.safetensors", "-b", "b.safetensors", "-o", "s.snn"];
        says(t.path(), &same, 2, &["would replace"]);
    }
}

#[test]
fn checkpoints_that_are_damaged_or_of_something_else() {
    let t = TempDir::new().unwrap();
    let train = |extra: &[&'static str]| [&["train", "quickstart/digits", "-o", "run"][..], &SMALL[..], extra].concat();
    says(t.path(), &train(&[]), 0, &["verdict", "strict", "next:"]);
    let weights = t.path().join("run/model.safetensors");
    let eval = |w: &str| {
        vec!["eval", "quickstart/digits", "--set", "dim=6", "--set", "depths=[1]", "--weights", w]
            .into_iter()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let run = |w: &str, code, words: &[&str]| {
        let args = eval(w);
        says(t.path(), &args.iter().map(String::as_str).collect::<Vec<_>>(), code, words);
    };
    run("run", 0, &["test accuracy", "359 of 359"]);
    let bytes = fs::read(&weights).unwrap();
    file(&t, "short.safetensors", &bytes[..bytes.len() / 2]);
    run("short.safetensors", 2, &["cannot be read as a checkpoint"]);
    file(&t, "text.safetensors", b"hello");
    run("text.safetensors", 2, &["cannot be read as a checkpoint"]);
    run("nothing.safetensors", 2, &["cannot read"]);
    let mut tensors: Tensors = read_tensors(&weights).unwrap();
    let name = "embed.conv.weight";
    tensors.get_mut(name).unwrap().data[3] = f32::NAN;
    file(&t, "nan.safetensors", &to_bytes(&tensors).unwrap());
    run("nan.safetensors", 2, &[name, "NaN"]);
    tensors.insert(name.into(), Tensor::new(vec![2, 2], vec![0.0; 4]));
    tensors.remove("head.linear.bias");
    file(&t, "shape.safetensors", &to_bytes(&tensors).unwrap());
    run("shape.safetensors", 2, &["shape [2, 2]", "missing: head.linear.bias"]);
    tensors = read_tensors(&weights).unwrap();
    tensors.insert("stage[9].weight".into(), Tensor::new(vec![1], vec![0.0]));
    file(&t, "more.safetensors", &to_bytes(&tensors).unwrap());
    run("more.safetensors", 2, &["unknown: stage[9].weight"]);
    tensors = read_tensors(&weights).unwrap();
    tensors.get_mut("embed.batchnorm.running_var").unwrap().data[1] = -0.5;
    file(&t, "variance.safetensors", &to_bytes(&tensors).unwrap());
    run("variance.safetensors", 2, &["embed.batchnorm.running_var", "-0.5 at index 1, below 0.0"]);
    // The header says i32 where it said f32: the same bytes, other numbers.
    let at = bytes.windows(5).position(|w| w == b"\"F32\"").unwrap();
    file(&t, "integers.safetensors", &[&bytes[..at], b"\"I32\"", &bytes[at + 5..]].concat());
    run("integers.safetensors", 2, &["holds integers"]);
    says(t.path(), &train(&[]), 2, &["--resume"]);
    says(t.path(), &train(&["--resume", "--seed", "5"]), 2, &["another recipe", "seed: 2 there, 5 here"]);
    // A constant of a neuron is a part of the network too.
    let own = snnc_zoo::model("quickstart/digits").unwrap().replace("tau = 2.0", "tau = 4.0");
    file(&t, "own.snn", own.as_bytes());
    says(t.path(), &["train", "own.snn", "-o", "run", "--resume", "--set", "dim=6", "--set", "depths=[1]"], 2, &["another network"]);
    // What was said when the run began need not be said again.
    let again = ["train", "quickstart/digits", "-o", "seven", "--set", "dim=6", "--set", "depths=[1]"];
    says(t.path(), &[&again[..], &["--epochs", "1", "--seed", "7"]].concat(), 0, &["seed 7"]);
    says(t.path(), &[&again[..], &["--resume"]].concat(), 0, &["seed 7", "test accuracy"]);
    fs::create_dir(t.path().join("run/step-999999999")).unwrap();
    says(t.path(), &train(&["--resume"]), 0, &["test accuracy"]);
    let state = fs::read_dir(t.path().join("run")).unwrap().map(|e| e.unwrap().path().join("state.json")).find(|p| p.is_file()).unwrap();
    let text = fs::read_to_string(&state).unwrap();
    for (from, to) in [
        ("\"epoch\": 3", "\"epoch\": 1"),
        ("\"batch\": 16", "\"batch\": 0"),
        ("\"epoch\": 3", "\"epoch\": 999999999"),
        ("\"step\": 0", "\"step\": 18446744073709551615"),
    ] {
        assert!(text.contains(from), "{text}");
        fs::write(&state, text.replacen(from, to, 1)).unwrap();
        says(t.path(), &train(&["--resume"]), 2, &["damaged", "its state has"]);
    }
    fs::write(&state, text).unwrap();
    let optimizer = state.with_file_name("optimizer.safetensors");
    let kept = fs::read(&optimizer).unwrap();
    fs::write(&optimizer, to_bytes(&Tensors::new()).unwrap()).unwrap();
    says(t.path(), &train(&["--resume"]), 2, &["damaged", "has 0 tensors"]);
    fs::write(&optimizer, kept).unwrap();
    fs::create_dir(t.path().join("bare")).unwrap();
    fs::copy(&weights, t.path().join("bare/model.safetensors")).unwrap();
    says(t.path(), &["train", "quickstart/digits", "-o", "bare", "--epochs", "1"], 2, &["holds a run already"]);
    let held = fs::File::open(t.path().join("run")).unwrap();
    held.lock().unwrap();
    says(t.path(), &train(&["--resume"]), 2, &["another training runs in `run`"]);
    drop(held);
    says(t.path(), &["train", "quickstart/digits", "-o", "run", "--resume"], 2, &["another network"]);
    says(t.path(), &["train", "quickstart/digits", "-o", "none", "--resume"], 2, &["no checkpoint"]);
    says(t.path(), &["train", "quickstart/digits", "-o", "run/model.safetensors/x"], 2, &["cannot make the folder"]);
    says(t.path(), &["train", "quickstart/digits", "-o", "out", "--set", "image=16"], 2, &["H = 16", "digits"]);
    says(t.path(), &["train", "quickstart/digits", "-o", "out", "--data", "imagenet"], 2, &["no data set `imagenet`"]);
    let mut predict = vec!["predict", "quickstart/digits", "--set", "dim=6", "--set", "depths=[1]", "--weights", "run"];
    says(t.path(), &[&predict[..], &["--sample", "0"]].concat(), 0, &["it is"]);
    predict.push("short.safetensors");
    says(t.path(), &predict, 2, &["cannot read the picture"]);
}

/// Everything that training leaves behind, as bytes.
fn result(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model.safetensors")).unwrap()
}

fn train_args(out: &str, threads: &str) -> Vec<String> {
    let mut args: Vec<String> = ["train", "quickstart/digits", "-o", out, "--threads", threads].map(String::from).to_vec();
    args.extend(SMALL.map(String::from));
    args
}

#[test]
fn killed_at_any_moment_and_resumed_the_weights_are_the_same_bits() {
    let t = TempDir::new().unwrap();
    let start = Instant::now();
    let straight = Command::new(env!("CARGO_BIN_EXE_snnc")).args(train_args("straight", "2")).current_dir(t.path()).output().unwrap();
    assert!(straight.status.success(), "{}", String::from_utf8_lossy(&straight.stderr));
    let whole = start.elapsed();
    // One life after another, each ended at another part of the whole run's time: before, into and after savings, on one
    // thread and on two.
    let folder = t.path().join("killed");
    let args = |threads: &str| {
        let mut args = train_args("killed", threads);
        if saved(&folder) {
            args.push("--resume".into());
        } else {
            // Killed before the first checkpoint: started again.
            let _ = fs::remove_dir_all(&folder);
        }
        args
    };
    for (i, fraction) in [0.35, 0.6, 0.2, 0.45, 0.5, 0.3, 0.55].into_iter().enumerate() {
        let threads = if i % 2 == 0 { "1" } else { "2" };
        let mut child = Command::new(env!("CARGO_BIN_EXE_snnc"))
            .args(args(threads))
            .current_dir(t.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole.mul_f64(fraction));
        // SIGKILL on Unix: nothing is cleaned up.
        let _ = child.kill();
        child.wait().unwrap();
    }
    let resumed = Command::new(env!("CARGO_BIN_EXE_snnc")).args(args("2")).current_dir(t.path()).output().unwrap();
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert_eq!(result(&t.path().join("straight")), result(&folder));
}

/// Whether a run has a checkpoint.
fn saved(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut d| d.any(|e| e.unwrap().file_name().to_string_lossy().starts_with("step-")))
}

#[cfg(unix)]
#[test]
fn an_interrupt_finishes_the_step_saves_and_says_how_to_go_on() {
    let t = TempDir::new().unwrap();
    let straight = Command::new(env!("CARGO_BIN_EXE_snnc")).args(train_args("straight", "2")).current_dir(t.path()).output().unwrap();
    assert!(straight.status.success());
    let child = Command::new(env!("CARGO_BIN_EXE_snnc"))
        .args(train_args("stopped", "2"))
        .current_dir(t.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(400));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{text}");
    if text.contains("stopped and saved") {
        assert!(text.contains("--resume"), "{text}");
        let mut args = train_args("stopped", "2");
        args.push("--resume".into());
        let resumed = Command::new(env!("CARGO_BIN_EXE_snnc")).args(args).current_dir(t.path()).output().unwrap();
        assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    }
    assert_eq!(result(&t.path().join("straight")), result(&t.path().join("stopped")));
}

#[cfg(unix)]
#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_no_bug() {
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let zoo = Command::new(env!("CARGO_BIN_EXE_snnc")).arg("zoo").stdout(full()).output().unwrap();
    let text = String::from_utf8_lossy(&zoo.stderr).into_owned();
    assert_eq!(zoo.status.code(), Some(2), "{text}");
    assert!(text.starts_with("snnc: cannot write the output: No space left"), "{text}");
    let silent = Command::new(env!("CARGO_BIN_EXE_snnc")).args(["check", "no such file"]).stderr(full()).output().unwrap();
    assert_eq!(silent.status.code(), Some(2));
}

#[test]
fn a_full_disk_leaves_the_old_checkpoint() {
    let t = TempDir::new().unwrap();
    let straight = Command::new(env!("CARGO_BIN_EXE_snnc")).args(train_args("straight", "2")).current_dir(t.path()).output().unwrap();
    assert!(straight.status.success());
    let folder = t.path().join("run");
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_snnc")).args(train_args("run", "1")).current_dir(t.path()).stdout(Stdio::null()).spawn().unwrap();
    while !saved(&folder) && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    child.wait().unwrap();
    let resume = [train_args("run", "2"), vec!["--resume".into()]].concat();
    // No file may grow beyond eight blocks: writing fails as it does on a full disk.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
    let full = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_snnc")]).args(&resume).current_dir(t.path()).output().unwrap();
    let text = String::from_utf8_lossy(&full.stderr).into_owned();
    assert_eq!(full.status.code(), Some(2), "{text}");
    assert!(text.contains("cannot write") || text.contains("cannot sync"), "{text}");
    let left: Vec<String> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(left.iter().all(|n| !n.starts_with(".writing")), "{left:?}");
    assert!(saved(&folder), "{left:?}");
    let resumed = Command::new(env!("CARGO_BIN_EXE_snnc")).args(&resume).current_dir(t.path()).output().unwrap();
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert_eq!(result(&t.path().join("straight")), result(&folder));
}

#[test]
fn formatting_is_idempotent_and_new_models_are_strict() {
    let t = TempDir::new().unwrap();
    says(t.path(), &["new", "my_model"], 0, &["wrote my_model.snn"]);
    says(t.path(), &["new", "my_model"], 2, &["cannot write"]);
    says(t.path(), &["check", "my_model.snn"], 0, &["strict"]);
    says(t.path(), &["fmt", "--check", "my_model.snn"], 0, &[]);
    file(&t, "ugly.snn", b"model   M{time T=2\n// why\ninput x:analog[C=2] }");
    says(t.path(), &["fmt", "--check", "ugly.snn"], 1, &["not formatted"]);
    says(t.path(), &["fmt", "ugly.snn"], 0, &["formatted"]);
    says(t.path(), &["fmt", "--check", "ugly.snn"], 0, &[]);
    assert!(fs::read_to_string(t.path().join("ugly.snn")).unwrap().contains("// why"));
    says(t.path(), &["zoo"], 0, &["MlpSpeT", "66.39"]);
    says(t.path(), &["summary", "quickstart/digits"], 0, &["167,458", "µJ per sample"]);
    for stage in ["ast", "graph", "plan", "folded", "flow", "program"] {
        says(t.path(), &["dump", "quickstart/digits", "--stage", stage], 0, &[]);
    }
}

/// The small network of `tests/checkpoints`.
const CONVERT: [&str; 10] =
    ["convert", "--layout", "spikingformer", "spikingformer/cifar_published", "--set", "dim=8", "--set", "heads=2", "--set", "depth=1"];

fn checkpoint(name: &str) -> String {
    format!("{}/../tests/checkpoints/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn convert(t: &TempDir, from: &str, to: &str, code: i32, words: &[&str]) {
    let args: Vec<&str> = CONVERT.into_iter().chain([from, to]).collect();
    says(t.path(), &args, code, words);
}

#[test]
fn published_checkpoints_convert_whatever_file_they_come_in_and_back() {
    let t = TempDir::new().unwrap();
    convert(&t, &checkpoint("published.safetensors"), "ours.safetensors", 0, &["71 tensors, our names"]);
    let ours = read_tensors(&t.path().join("ours.safetensors")).unwrap();
    for name in ["timm.pth.tar", "legacy.pth", "views.pth", "f16.pth", "bf16.pth", "f64.pth"] {
        convert(&t, &checkpoint(name), "other.safetensors", 0, &[]);
        assert_eq!(read_tensors(&t.path().join("other.safetensors")).unwrap(), ours, "{name}");
        fs::remove_file(t.path().join("other.safetensors")).unwrap();
    }
    convert(&t, "ours.safetensors", "theirs.safetensors", 0, &["75 tensors, the names of spikingformer"]);
    let published = read_tensors(Path::new(&checkpoint("published.safetensors"))).unwrap();
    assert_eq!(read_tensors(&t.path().join("theirs.safetensors")).unwrap(), published);

    // As the authors' older files name them.
    let old: Tensors =
        published.iter().map(|(n, v)| (format!("module.{}", n.replace("mlp1", "fc1").replace("mlp2", "fc2")), v.clone())).collect();
    file(&t, "old.safetensors", &to_bytes(&old).unwrap());
    convert(&t, "old.safetensors", "other.safetensors", 0, &[]);
    assert_eq!(read_tensors(&t.path().join("other.safetensors")).unwrap(), ours);
}

#[test]
fn a_checkpoint_that_does_not_fit_is_one_report_and_nothing_is_written() {
    let t = TempDir::new().unwrap();
    let before = || fs::read_dir(t.path()).unwrap().count();
    for (name, words) in [
        ("calls.pth", ["names `posix.system`", "nothing of it was executed"]),
        ("hidden_call.pth", ["names `posix.system`", "nothing of it was executed"]),
        ("calls.pkl", ["names `posix.system`", "nothing of it was executed"]),
        ("hidden_strings.pth", ["names `?.?`", "nothing of it was executed"]),
        ("hidden_attribute.pth", ["names `torch.nn.modules.module.os.system`", "nothing of it was executed"]),
        ("repeated.pth", ["tensor `head.weight` has [8192, 262144] values", "more than the file holds"]),
        ("complex.pth", ["complex.pth", "ComplexFloat"]),
    ] {
        convert(&t, &checkpoint(name), "out.safetensors", 2, &words);
    }
    assert_eq!(before(), 0, "a pickle left something");
    for name in ["timm.pth.tar", "legacy.pth", "published.safetensors"] {
        let whole = fs::read(checkpoint(name)).unwrap();
        for part in 1..8 {
            file(&t, "half", &whole[..whole.len() * part / 8]);
            convert(&t, "half", "out.safetensors", 2, &["`half` cannot be read as a checkpoint"]);
        }
        // Damage in any place is an error or changes numbers; it is never a crash.
        for at in (0..whole.len()).step_by(whole.len() / 60) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x5a;
            file(&t, "damaged", &bytes);
            let out = snnc(t.path(), &CONVERT.iter().copied().chain(["--force", "damaged", "damaged.safetensors"]).collect::<Vec<_>>());
            assert!(matches!(out.status.code(), Some(0 | 2)), "{name} at {at}: {}", String::from_utf8_lossy(&out.stderr));
        }
    }
    assert!(!t.path().join("out.safetensors").exists());

    let published = read_tensors(Path::new(&checkpoint("published.safetensors"))).unwrap();
    let mut changed = published;
    let bias = changed.remove("head.bias").unwrap();
    changed.insert("heads.bias".into(), bias);
    changed.insert("head.scale".into(), Tensor::new(vec![1], vec![1.0]));
    changed.insert("\u{1b}[31m\u{202e}".into(), Tensor::new(vec![1], vec![1.0]));
    changed.insert("block.7.norm1.weight".into(), Tensor::new(vec![8], vec![1.0; 8]));
    changed.get_mut("block.0.norm2.bias").unwrap().shape = vec![2, 4];
    changed.get_mut("block.0.attn.q_bn.num_batches_tracked").unwrap().data = vec![3.5];
    changed.get_mut("block.0.attn.q_bn.num_batches_tracked").unwrap().integer = false;
    changed.get_mut("head.weight").unwrap().shape = vec![8, 10];
    file(&t, "changed.safetensors", &to_bytes(&changed).unwrap());
    let words = [
        "(1 missing, 1 of another shape, 1 with values that do not fit, 5 unknown)",
        r"unknown: \u{1b}[31m\u{202e}",
        "unknown: block.7.norm1.weight",
        "unknown: block.0.norm2.bias",
        "block.0.attn.q_bn.num_batches_tracked counts 3.5 batches",
        "missing: head.bias (there is heads.bias)",
        "unknown: heads.bias",
        "unknown: head.scale",
        "head.weight has shape [8, 10], not [10, 8]",
    ];
    convert(&t, "changed.safetensors", "out.safetensors", 2, &words);
    says(
        t.path(),
        &["convert", "--layout", "gac", "gac/msresnet_cifar", &checkpoint("timm.pth.tar"), "out.safetensors"],
        2,
        &["a checkpoint of another model", "conv1.weight"],
    );
    let mut wrong = CONVERT;
    wrong[2] = "dsr";
    let args: Vec<&str> = wrong.into_iter().chain(["changed.safetensors", "out.safetensors"]).collect();
    says(t.path(), &args, 2, &["the layout `dsr` does not name the parameters of `Spikingformer4x256Published`; `spikingformer` does"]);
    wrong[2] = "torch";
    let args: Vec<&str> = wrong.into_iter().chain(["changed.safetensors", "out.safetensors"]).collect();
    says(t.path(), &args, 2, &["there is no layout `torch`; there are: dsr, gac, mixer-snn, spikingformer"]);
    convert(&t, &checkpoint("timm.pth.tar"), "out.pth", 2, &["name it out.safetensors"]);
    convert(&t, &checkpoint("timm.pth.tar"), ".", 2, &["is a folder"]);
    assert!(!t.path().join("out.safetensors").exists());

    let old = file(&t, "there.safetensors", b"mine");
    convert(&t, &checkpoint("timm.pth.tar"), "there.safetensors", 2, &["there.safetensors exists; --force replaces it"]);
    assert_eq!(fs::read(&old).unwrap(), b"mine");
    let forced: Vec<&str> = CONVERT.into_iter().chain(["--force"]).collect();
    says(t.path(), &[&forced[..], &["changed.safetensors", "there.safetensors"]].concat(), 2, &["do not fit"]);
    assert_eq!(fs::read(&old).unwrap(), b"mine");
    says(t.path(), &[&forced[..], &[checkpoint("timm.pth.tar").as_str(), "there.safetensors"]].concat(), 0, &["71 tensors"]);
}

#[test]
fn without_a_gpu_cuda_says_in_one_line_why_not_and_what_to_use_and_auto_says_which_it_takes() {
    let t = TempDir::new().unwrap();
    let quick = ["train", "quickstart/digits", "--set", "dim=6", "--set", "depths=[1]", "--epochs", "1", "-o", "out"];
    if let Ok((_, device)) = Backend::cuda(Format::F32, false) {
        println!("there is a GPU");
        says(t.path(), &quick, 0, &[&format!("on {device}")]);
        return;
    }
    let out = snnc(t.path(), &["train", "quickstart/digits", "--backend", "cuda"]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.code() == Some(2) && out.stdout.is_empty(), "{said}");
    assert!(said.lines().count() == 1 && said.contains("NVIDIA driver") && said.contains("--backend cpu"), "{said}");
    assert_eq!(fs::read_dir(t.path()).unwrap().count(), 0, "nothing is left behind");
    says(t.path(), &quick, 0, &["on the CPU"]);
    // Sixteen bits are for a GPU: whoever asks for them gets nothing else instead.
    says(
        t.path(),
        &["train", "quickstart/digits", "--precision", "f16"],
        2,
        &["--precision f16 is not to be had: there is no NVIDIA driver here", "without it the CPU trains, in f32"],
    );
    says(t.path(), &["train", "quickstart/digits", "--precision", "bf16", "--backend", "cpu"], 2, &["the CPU trains in f32"]);
    says(t.path(), &["bench", "step", "quickstart/digits", "--backend", "cuda"], 2, &["--backend cuda:"]);
}

/// What stands under a library's name may be none, or another.
#[test]
fn libraries_that_are_none_are_said_so() {
    let t = TempDir::new().unwrap();
    let library = t.path().join("libcuda.so.1");
    let cuda = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snnc"));
        let out = command
            .args(["train", "quickstart/digits", "--backend", "cuda"])
            .current_dir(t.path())
            .env("LD_LIBRARY_PATH", t.path())
            .output();
        let out = out.unwrap();
        assert_eq!(out.status.code(), Some(2));
        String::from_utf8(out.stderr).unwrap()
    };
    fs::write(&library, "no library").unwrap();
    let said = cuda();
    assert!(said.contains("there is no NVIDIA driver here") && said.contains("too short") && said.lines().count() == 1, "{said}");
    fs::write(t.path().join("empty.c"), "int nothing;\n").unwrap();
    let built = Command::new("cc").args(["-shared", "-o"]).arg(&library).arg(t.path().join("empty.c")).status().unwrap();
    assert!(built.success());
    let said = cuda();
    assert!(said.contains("it has no `cuInit`") && said.lines().count() == 1, "{said}");
}

#[test]
fn what_is_typed_first_is_told_what_to_type_instead() {
    let t = TempDir::new().unwrap();
    fs::write(t.path().join("m.snn"), "model M {\n    t = s |> linear(C -> C) + s\n}\n").unwrap();
    says(t.path(), &["check", "m.snn"], 1, &["unexpected `+`", "`|>` binds weakest", "(s |> linear(C -> C)) + s"]);
    says(t.path(), &["energy", "quickstart/digits", "--rates", "r.json", "--data", "digits"], 2, &["cannot be used with"]);
}

#[test]
fn a_step_is_timed_and_its_launches_are_listed() {
    let t = TempDir::new().unwrap();
    let small = ["quickstart/digits", "--set", "dim=6", "--set", "depths=[1]"];
    let bench = [&["bench", "step"][..], &small, &["--batch", "4", "--repeats", "3", "--backend", "cpu"]].concat();
    says(t.path(), &bench, 0, &["4 samples, f32, on the CPU", "the median of 3", "a second", "memory"]);
    let report: serde_json::Value = serde_json::from_str(&says(t.path(), &[&bench[..], &["--format", "json"]].concat(), 0, &[])).unwrap();
    let number = |key: &str| report[key].as_f64().unwrap();
    assert!(number("least_s") <= number("median_s") && number("median_s") <= number("most_s"), "{report}");
    assert!((number("images_per_s") * number("median_s") - 4.0).abs() < 1e-6);
    says(t.path(), &[&bench[..], &["--by", "kernel"]].concat(), 2, &["--by kernel needs a GPU"]);
    let dump = [&["dump", "--stage", "fused", "--precision", "f16", "--batch", "4"][..], &small].concat();
    says(t.path(), &dump, 0, &["launch", "product", "side by side"]);
    says(t.path(), &[&dump[..], &["--cost"]].concat(), 0, &["bytes each, forward and backward", "planned peak memory", "GFLOP"]);
}
