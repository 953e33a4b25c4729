//! Training as the library runs it.

use snnc_compiler::lower::Watch;
use snnc_compiler::recipe::recipe;
use snnc_runtime::data::Dataset;
use snnc_runtime::device::Backend;
use snnc_runtime::session::Inference;
use snnc_runtime::train::checkpoint::replace;
use snnc_runtime::train::{Evaluator, Event, Training};
use snnc_tests::zoo_package;
use std::fs;
use std::process::Command;

#[test]
fn a_folder_that_is_removed_while_training_runs_costs_nothing() {
    let (package, checked) = zoo_package("quickstart/digits", None, &[("dim", "6"), ("depths", "[1]")], None);
    let mut recipe = recipe(&package, "Digits", "Digits", None).unwrap();
    recipe.schedule.epochs = 2;
    let data = Dataset::named("digits").unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let run = folder.path().join("run");
    let training = Training { checked: &checked, recipe: &recipe, data: &data, backend: &Backend::Cpu };
    let outcome = training.run(Some(&run), false, &mut |event| {
        if matches!(event, Event::Step { epoch: 1, step: 1, .. }) {
            fs::remove_dir_all(&run).unwrap();
        }
        true
    });
    assert!(outcome.unwrap().finished);
    let left: Vec<String> = fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with("step-"), "{left:?}");
}

#[test]
fn every_quick_start_learns() {
    for model in ["digits_attention", "digits_residual", "digits_rate"] {
        let (package, checked) = zoo_package(&format!("quickstart/{model}"), None, &[], None);
        let name = &checked.graph().model;
        let recipe = recipe(&package, name, name, None).unwrap();
        let data = Dataset::named(&recipe.data).unwrap();
        let outcome =
            Training { checked: &checked, recipe: &recipe, data: &data, backend: &Backend::Cpu }.run(None, false, &mut |_| true).unwrap();
        let folded = Inference::new(&checked, &outcome.weights, 64, Watch::Nothing).unwrap();
        let predicted = Evaluator::Folded(Box::new(folded)).predict(&data, &data.test, 64).unwrap();
        let right = predicted.iter().zip(&data.test.labels).filter(|(p, l)| p == l).count();
        assert!(right as f64 >= 0.97 * predicted.len() as f64, "{model}: {right} of {}", predicted.len());
    }
}

#[test]
#[cfg(unix)]
fn links_and_pipes_stay_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link, pipe) = (folder.path().join("file"), folder.path().join("link"), folder.path().join("pipe"));
    std::os::unix::fs::symlink("file", &link).unwrap();
    replace(&link, b"through a link that leads nowhere yet").unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read(&file).unwrap(), b"through a link that leads nowhere yet");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    replace(&pipe, b"through a pipe").unwrap();
    assert_eq!(reader.join().unwrap(), b"through a pipe");
    assert!(!fs::metadata(&pipe).unwrap().is_file());
}
