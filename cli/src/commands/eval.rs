//! `snnc eval`

use crate::args::{EvalArgs, Format};
use crate::model::Loaded;
use crate::{Failure, model};
use serde_json::json;
use snnc_compiler::lower::Watch;
use snnc_runtime::data::Dataset;
use snnc_runtime::session::{Inference, Mode, Unfolded};
use snnc_runtime::train::checkpoint::model_file;
use snnc_runtime::train::{Evaluator, accuracy};
use snnc_runtime::weights::Weights;

/// Samples evaluated at once.
const BATCH: usize = 64;

/// Accuracy on the test set, as written and folded, and how many predictions are the same.
pub(crate) struct Accuracies {
    pub(crate) unfolded: f64,
    pub(crate) folded: f64,
    pub(crate) same: usize,
}

pub(crate) fn accuracies(loaded: &Loaded, weights: &Weights, data: &Dataset) -> Result<Accuracies, Failure> {
    let unfolded = Unfolded::new(&loaded.checked, weights, BATCH, Mode::Eval).map_err(Failure::failed)?;
    let folded = Inference::new(&loaded.checked, weights, BATCH, Watch::Nothing).map_err(Failure::failed)?;
    let a = Evaluator::Unfolded(Box::new(unfolded)).predict(data, &data.test, BATCH).map_err(Failure::failed)?;
    let b = Evaluator::Folded(Box::new(folded)).predict(data, &data.test, BATCH).map_err(Failure::failed)?;
    let labels = &data.test.labels;
    Ok(Accuracies { unfolded: accuracy(&a, labels), folded: accuracy(&b, labels), same: a.iter().zip(&b).filter(|(x, y)| x == y).count() })
}

pub(crate) fn run(args: &EvalArgs) -> Result<(), Failure> {
    let loaded = model::load(&args.model)?;
    let name = match &args.data {
        Some(name) => name.clone(),
        None => loaded.recipe(None)?.data,
    };
    let data = Dataset::named(&name).map_err(|e| Failure::Usage(e.to_string()))?;
    let graph = loaded.checked.graph();
    data.fits(graph).map_err(Failure::failed)?;
    let weights = Weights::read(&model_file(&args.trained.weights), graph, None).map_err(Failure::failed)?;
    let Accuracies { unfolded, folded, same } = accuracies(&loaded, &weights, &data)?;
    let pictures = data.test.labels.len();
    match args.report.format {
        Format::Json => println!(
            "{}",
            json!({ "test_accuracy": unfolded, "folded_test_accuracy": folded, "same_predictions": same, "pictures": pictures })
        ),
        Format::Human => {
            println!("{}", loaded.verdict_line());
            println!("test accuracy      {:.2} % of {pictures} pictures, as written", 100.0 * unfolded);
            println!("folded             {:.2} % ({same} of {pictures} predictions the same)", 100.0 * folded);
        }
    }
    Ok(())
}
