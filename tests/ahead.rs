//! Ahead of time: built by the command line, compiled and run as C, on this machine and under an emulator.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop at the first surprise, and says what it skips")]

use sha2::{Digest, Sha256};
use snnc_compiler::lower::Watch;
use snnc_runtime::data::Dataset;
use snnc_runtime::session::Inference;
use snnc_runtime::train::Evaluator;
use snnc_runtime::weights::Weights;
use snnc_tests::{said, says, snnc, tool, zoo};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

const SET: [(&str, &str); 2] = [("dim", "6"), ("depths", "[1]")];
const FLAGS: [&str; 6] = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"];

/// A small quick start, trained once for all tests; `runs/a` in the folder.
fn trained() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let args = ["train", "quickstart/digits", "--set", "dim=6", "--set", "depths=[1]", "--epochs", "3", "-o", "runs/a"];
        says(folder.path(), &args, 0, &[]);
        folder
    });
    folder.path()
}

fn build(out: &Path, more: &[&str]) {
    let out = out.display().to_string();
    let args = ["build", "quickstart/digits", "--set", "dim=6", "--set", "depths=[1]", "--weights", "runs/a", "-o", &out];
    says(trained(), &[&args, more].concat(), 0, &["Digits: strict", "0 of ", "wrote"]);
}

fn cc(compiler: &str, folder: &Path, source: &str, more: &[&str]) -> PathBuf {
    let program = folder.join("program");
    let out = Command::new(compiler)
        .args(FLAGS)
        .arg("-o")
        .arg(&program)
        .args([source, "digits.o"])
        .args(more)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", said(&out));
    program
}

fn feed(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    out
}

/// The test pictures as raw floats, and what the folded network says of them.
fn pictures() -> (Vec<u8>, Vec<usize>) {
    let data = Dataset::named("digits").unwrap();
    let checked = zoo("quickstart/digits", &SET, None);
    let file = snnc_runtime::train::checkpoint::model_file(&trained().join("runs/a"));
    let weights = Weights::read(&file, checked.graph(), None).unwrap();
    let session = Inference::new(&checked, &weights, 1, Watch::Nothing).unwrap();
    let classes = Evaluator::Folded(Box::new(session)).predict(&data, &data.test, 1).unwrap();
    let mut pixels = Vec::new();
    let all: Vec<usize> = (0..data.test.labels.len()).collect();
    data.gather(&data.test, &all, 0.0, 0, 0, &mut pixels);
    (pixels.iter().flat_map(|x| x.to_le_bytes()).collect(), classes)
}

fn classes(out: &Output) -> Vec<usize> {
    assert!(out.status.success(), "{}", said(out));
    String::from_utf8_lossy(&out.stdout).lines().map(|l| l.parse().unwrap()).collect()
}

#[test]
fn the_example_in_c_gives_the_same_predictions_and_its_census_is_zero() {
    let (input, wanted) = pictures();
    assert!(wanted.iter().any(|c| *c != wanted[0]), "all pictures look alike to this network");
    for more in [&[][..], &["--target", "x86-64"], &["--embed", "--target", "x86_64-unknown-linux-gnu"]] {
        let t = TempDir::new().unwrap();
        build(t.path(), more);
        says(t.path(), &["census", "digits.o"], 0, &["Digits, ", "\n0 of "]);
        let mut program = Command::new(cc("cc", t.path(), "digits_example.c", &[]));
        if !more.contains(&"--embed") {
            program.arg(t.path().join("digits.weights"));
        }
        assert_eq!(classes(&feed(&mut program, &input)), wanted, "{more:?}");
        let nan: Vec<u8> = input[..260].iter().copied().chain(f32::NAN.to_le_bytes()).chain(input[264..512].iter().copied()).collect();
        for (bytes, why) in [(&input[..301], "cut short: 45 of 256 bytes"), (&nan, "value 1 of a sample is not finite")] {
            let refused = feed(&mut program, bytes);
            assert!(said(&refused).contains(why) && refused.status.code() == Some(1), "{}", said(&refused));
            assert_eq!(String::from_utf8_lossy(&refused.stdout), format!("{}\n", wanted[0]), "what was whole before is said");
        }
    }
}

#[test]
fn the_example_gives_the_same_predictions_on_aarch64() {
    let (Some(compiler), Some(emulator)) = (tool("aarch64-linux-gnu-gcc"), tool("qemu-aarch64")) else { return };
    let (input, wanted) = pictures();
    let t = TempDir::new().unwrap();
    build(t.path(), &["--target", "aarch64", "--embed"]);
    says(t.path(), &["census", "digits.o"], 0, &["aarch64", "\n0 of "]);
    let program = cc(&compiler, t.path(), "digits_example.c", &["-static"]);
    assert_eq!(classes(&feed(Command::new(emulator).arg(program), &input)), wanted);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_machine_without_the_instructions_is_told() {
    let Some(emulator) = tool("qemu-x86_64") else { return };
    let (input, wanted) = pictures();
    for (target, runs) in [("host", !std::arch::is_x86_feature_detected!("avx2")), ("x86-64", true)] {
        let t = TempDir::new().unwrap();
        build(t.path(), &["--embed", "--target", target]);
        let program = cc("cc", t.path(), "digits_example.c", &["-static"]);
        // SSE4.2, but no AVX.
        let out = feed(Command::new(&emulator).args(["-cpu", "Nehalem"]).arg(program), &input);
        if runs {
            assert_eq!(classes(&out), wanted, "{target}");
        } else {
            assert!(said(&out).contains("lacks instructions") && out.status.code() == Some(1), "{target}: {}", said(&out));
        }
    }
}

/// Runs 3 samples at once and one after the other, step by step, in two threads with one set of weights, and says where they differ.
const HARNESS: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "digits.h"
static _Alignas(DIGITS_ALIGN) unsigned char context[2][DIGITS_CONTEXT_BYTES], memory[2][DIGITS_MEMORY_BYTES];
static float input[3][DIGITS_INPUT], logits[2][3][DIGITS_CLASSES];
static int failed[2];
static void *all(void *at) {
    int me = *(int *)at;
    for (int round = 0; round < 50; round++) {
        if (me == 0) {
            failed[me] |= digits_run(context[me], &input[0][0], 3, &logits[me][0][0]);
        } else {
            for (int i = 0; i < 3; i++) {
                digits_reset(context[me]);
                for (int t = 0; t < DIGITS_TIME; t++) failed[me] |= digits_feed(context[me], input[i], 1, logits[me][i]);
            }
        }
    }
    return 0;
}
int main(void) {
    if (fread(input, sizeof input, 1, stdin) != 1) return 2;
    pthread_t threads[2];
    int me[2] = {0, 1};
    for (int i = 0; i < 2; i++) {
        /* Whatever was there before does not matter. */
        memset(context[i], 0xff, sizeof context[i]);
        memset(memory[i], 0xff, sizeof memory[i]);
        if (digits_init(context[i], memory[i], digits_weights)) return 3;
    }
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], 0, all, &me[i]);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
    if (failed[0] || failed[1]) return 4;
    if (memcmp(logits[0], logits[1], sizeof logits[0])) return 5;
    /* The step behind the last is none; nor is one behind a run. */
    if (!digits_feed(context[1], input[0], 1, logits[0][0])) return 8;
    if (!digits_feed(context[0], input[0], 1, logits[0][0])) return 9;
    if (!digits_run(context[0], &input[0][0], 4, &logits[0][0][0]) || !digits_run(context[0], &input[0][0], 0, &logits[0][0][0])) return 6;
    static _Alignas(DIGITS_ALIGN) unsigned char other[DIGITS_WEIGHTS_BYTES];
    memcpy(other, digits_weights, sizeof other);
    other[3] ^= 1;
    if (!digits_init(context[0], memory[0], other)) return 7;
    for (int i = 0; i < 3 * DIGITS_CLASSES; i++) printf("%a\n", (double)logits[1][i / DIGITS_CLASSES][i % DIGITS_CLASSES]);
    return 0;
}
"#;

#[test]
fn batches_steps_and_threads_give_the_bits_of_the_session() {
    let t = TempDir::new().unwrap();
    build(t.path(), &["--batch", "3", "--embed"]);
    fs::write(t.path().join("harness.c"), HARNESS).unwrap();
    let (input, _) = pictures();
    let out = feed(&mut Command::new(cc("cc", t.path(), "harness.c", &[])), &input[..3 * 64 * 4]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    let checked = zoo("quickstart/digits", &SET, None);
    let file = snnc_runtime::train::checkpoint::model_file(&trained().join("runs/a"));
    let mut session = Inference::new(&checked, &Weights::read(&file, checked.graph(), None).unwrap(), 3, Watch::Nothing).unwrap();
    let numbers: Vec<f32> = input[..3 * 64 * 4].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let wanted: Vec<String> = session.run(&numbers, 3).unwrap().into_iter().map(|x| hex(f64::from(x))).collect();
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect::<Vec<_>>(), wanted);
}

/// As C's `%a`.
fn hex(x: f64) -> String {
    let bits = x.to_bits();
    let (sign, mantissa) = (if bits >> 63 == 1 { "-" } else { "" }, bits & ((1 << 52) - 1));
    let exponent = ((bits >> 52) & 0x7ff) as i64;
    if exponent == 0 && mantissa == 0 {
        return format!("{sign}0x0p+0");
    }
    let digits = format!("{mantissa:013x}");
    let digits = digits.trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    format!("{sign}0x1{point}{digits}p{:+}", exponent - 1023)
}

#[test]
fn the_page_about_c_is_true() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/c.md")).unwrap();
    let t = TempDir::new().unwrap();
    build(t.path(), &["--embed"]);
    let header = fs::read_to_string(t.path().join("digits.h")).unwrap();
    for row in page.lines().filter(|l| l.starts_with("| `int ") || l.starts_with("| `void ")) {
        let signature = row.split('`').nth(1).unwrap().replace("NAME", "digits");
        assert!(header.contains(&format!("{signature};")), "{signature}");
    }
    // Samples as `predict` writes them, and its classes.
    let samples = t.path().join("samples.f32").display().to_string();
    let args = [
        "predict",
        "quickstart/digits",
        "--set",
        "dim=6",
        "--set",
        "depths=[1]",
        "--weights",
        "runs/a",
        "--sample",
        "7",
        "--sample",
        "0..5",
    ];
    let said = says(trained(), &[&args[..], &["--write", &samples]].concat(), 0, &["digits 7: ", "digits 4: "]);
    let wanted: Vec<usize> = said.lines().map(|l| l.split_once(": ").unwrap().1.split(' ').next().unwrap().parse().unwrap()).collect();
    let program = page.split_once("```c\n").unwrap().1.split_once("```").unwrap().0;
    fs::write(t.path().join("steps.c"), program).unwrap();
    let floats = fs::read(&samples).unwrap();
    assert_eq!(floats.len(), 6 * 64 * 4);
    for source in ["steps.c", "digits_example.c"] {
        assert_eq!(classes(&feed(&mut Command::new(cc("cc", t.path(), source, &[])), &floats)), wanted, "{source}");
    }
    for (range, word) in [
        ("5..5", "there is nothing in it"),
        ("x", "`x` is no index"),
        ("300..400", "there is no 359"),
        ("0..18446744073709551615", "there is no 359"),
    ] {
        says(
            trained(),
            &["predict", "quickstart/digits", "--weights", "runs/a", "--set", "dim=6", "--set", "depths=[1]", "--sample", range],
            2,
            &[word],
        );
    }
}

#[test]
fn what_cannot_be_built_or_looked_at_says_why() {
    let t = TempDir::new().unwrap();
    let at = t.path().display().to_string();
    let args = |more: &[&'static str]| {
        [&["build", "quickstart/digits", "--set", "dim=6", "--set", "depths=[1]", "--weights", "runs/a"], more].concat()
    };
    let run = trained();
    says(
        run,
        &[&args(&["--target", "riscv64"])[..], &["-o", &at]].concat(),
        2,
        &["`riscv64` is not known", "`aarch64`", "`x86-64`", "`host`"],
    );
    says(run, &[&args(&["--name", "3d"])[..], &["-o", &at]].concat(), 2, &["`3d` is no name for C"]);
    says(run, &[&args(&["--batch", "0"])[..], &["-o", &at]].concat(), 2, &["--batch"]);
    says(run, &args(&["-o", "runs/a/model.safetensors"]), 2, &["cannot write into `runs/a/model.safetensors`"]);
    says(run, &args(&["-o", "/proc/nowhere"]), 2, &["cannot write into `/proc/nowhere`"]);
    says(run, &["build", "quickstart/digits", "--weights", "runs/a", "-o", &at], 2, &["do not fit `Digits`"]);
    says(run, &["build", "dsr/vgg11_dvs", "--weights", "runs/a", "-o", &at], 2, &["do not fit `DsrVgg11DvsIf`"]);
    fs::write(
        t.path().join("bad.snn"),
        "model Bad {\n    time T = 2\n    input x: analog[C = 2]\n    neuron lif = LIF(tau = 3.0)\n    encoder { e = x |> linear(C -> C = 4) }\n    \
         output e |> lif |> linear(C -> C = 3) |> mean(T)\n}\n",
    )
    .unwrap();
    says(t.path(), &["build", "bad.snn", "--weights", "nowhere", "-o", "out"], 1, &["check::leak"]);
    assert!(!t.path().join("out").exists());

    build(t.path(), &["--target", "x86-64"]);
    let whole = fs::read(t.path().join("digits.o")).unwrap();
    let damaged = |bytes: &[u8]| {
        fs::write(t.path().join("damaged.o"), bytes).unwrap();
        let out = snnc(t.path(), &["census", "damaged.o"]);
        assert!(!said(&out).contains("panicked"), "{}", said(&out));
        (out.status.code(), said(&out))
    };
    for part in 0..20 {
        let (code, said) = damaged(&whole[..whole.len() * part / 20]);
        assert!(code == Some(2) && said.contains("is no object file of snnc"), "{part}: {said}");
    }
    // One instruction more: a product of vectors in place of a sum.
    let sum = whole.windows(2).rposition(|w| w == [0x0f, 0x58]).unwrap();
    let mut other = whole;
    other[sum + 1] = 0x59;
    let (code, words) = damaged(&other);
    assert!(code == Some(1) && words.contains("a multiplication outside the encoder"), "{words}");
    says(t.path(), &["census", "digits.h"], 2, &["is no object file of snnc"]);
    says(t.path(), &["census", "nowhere.o"], 2, &["cannot read `nowhere.o`"]);
    // Weights cut short, and those of another program.
    let program = cc("cc", t.path(), "digits_example.c", &[]);
    let weights = fs::read(t.path().join("digits.weights")).unwrap();
    for (bytes, word) in [(&weights[..1000], "usage"), (&[&[weights[0] ^ 1], &weights[1..]].concat()[..], "another program")] {
        fs::write(t.path().join("other.weights"), bytes).unwrap();
        let out = feed(Command::new(&program).arg("other.weights").current_dir(t.path()), &[]);
        assert!(!out.status.success() && said(&out).contains(word), "{}", said(&out));
    }
}

#[test]
fn an_object_with_anything_else_in_it_is_refused() {
    let t = TempDir::new().unwrap();
    build(t.path(), &["--target", "x86-64"]);
    let whole = fs::read(t.path().join("digits.o")).unwrap();
    let refused = |bytes: &[u8], word: &str| {
        fs::write(t.path().join("forged.o"), bytes).unwrap();
        says(t.path(), &["census", "forged.o"], 2, &["is no object file of snnc", word]);
    };
    // Code between two functions.
    let inspected = snnc_runtime::artifact::inspect("digits.o", &whole).unwrap();
    let note = &inspected.note;
    let hash = |at: usize| whole.get(at..at + note.code).map(|code| snnc_compiler::text::hex(&Sha256::digest(code)));
    let start = (0..whole.len()).step_by(8).find(|at| hash(*at).is_some_and(|h| h == inspected.hash)).unwrap();
    let gap = note.functions.windows(2).find(|f| f[0].start + f[0].size < f[1].start).unwrap();
    let mut forged = whole.clone();
    forged[start + gap[0].start + gap[0].size] = 0xc3;
    refused(&forged, "there is something before its function");
    // Another architecture's number.
    let mut forged = whole.clone();
    forged[18] = 183;
    refused(&forged, "it is for aarch64, and says `x86_64");
    // Something linked to it: code, code elsewhere, what runs before `main`, data.
    for (text, word) in [
        ("int digits_more(int x) { return x + x; }", "bytes of code, and says"),
        ("__attribute__((section(\".other\"))) int digits_more(int x) { return x + x; }", "its section `.other` is none"),
        ("static int f(int x) { return x + x; }\n__attribute__((section(\".init_array\"), used)) static void *p = (void *)f;", "its"),
        ("int digits_more = 3;", "its section `.data` is none of those"),
    ] {
        fs::write(t.path().join("more.c"), text).unwrap();
        for args in [
            &["cc", "-c", "-fno-asynchronous-unwind-tables", "more.c", "-o", "more.o"][..],
            &["ld", "-r", "digits.o", "more.o", "-o", "forged.o"],
        ] {
            let out = Command::new(args[0]).args(&args[1..]).current_dir(t.path()).output().unwrap();
            assert!(out.status.success(), "{}", said(&out));
        }
        refused(&fs::read(t.path().join("forged.o")).unwrap(), word);
    }
}

#[test]
fn an_object_is_compared_with_a_certificate() {
    let t = TempDir::new().unwrap();
    build(t.path(), &["--target", "x86-64"]);
    let certify = |more: &[&str]| {
        let out = t.path().join("c.json").display().to_string();
        let args = ["certify", "quickstart/digits", "--set", "dim=6", "--set", "depths=[1]", "--target", "x86-64", "-o", &out];
        says(trained(), &[&args, more].concat(), 0, &[]);
    };
    certify(&[]);
    says(t.path(), &["census", "digits.o", "--certificate", "c.json"], 0, &["the code of c.json", "sha256"]);
    certify(&["--batch", "3"]);
    let words = ["not the code of c.json", "batch: the certificate says 3, this is 1", "hash of the machine code"];
    says(t.path(), &["census", "digits.o", "--certificate", "c.json"], 1, &words);
    build(t.path(), &["--target", "x86-64", "--batch", "3"]);
    says(t.path(), &["census", "digits.o", "--certificate", "c.json"], 0, &["the code of c.json"]);
    // What the file says of its functions is not what the network says.
    let mut whole = fs::read(t.path().join("digits.o")).unwrap();
    let at = whole.windows(7).position(|w| w == b"encoder").unwrap();
    whole[at..at + 7].copy_from_slice(b"residue");
    fs::write(t.path().join("digits.o"), whole).unwrap();
    says(t.path(), &["census", "digits.o"], 0, &[]);
    says(t.path(), &["census", "digits.o", "--certificate", "c.json"], 1, &["functions: the certificate says other"]);
    says(t.path(), &["census", "digits.o", "--certificate", "digits.h"], 2, &["`digits.h` is no certificate"]);
}
