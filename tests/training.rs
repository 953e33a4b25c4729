//! Training as the library runs it.

use snnc_compiler::recipe::recipe;
use snnc_runtime::data::Dataset;
use snnc_runtime::train::{Event, Training};
use snnc_tests::zoo_package;
use std::fs;

#[test]
fn a_folder_that_is_removed_while_training_runs_costs_nothing() {
    let (package, checked) = zoo_package("quickstart/digits", None, &[("dim", "6"), ("depths", "[1]")], None);
    let mut recipe = recipe(&package, "Digits", "Digits", None).unwrap();
    recipe.schedule.epochs = 2;
    let data = Dataset::named("digits").unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let run = folder.path().join("run");
    let training = Training { checked: &checked, recipe: &recipe, data: &data };
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
