//! `snnc train`

use super::backend;
use super::eval::{Accuracies, accuracies};
use crate::args::{Format, Precision, TrainArgs, TrainBackend};
use crate::report::quoted;
use crate::{Failure, model};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use snnc_compiler::check::Verdict;
use snnc_compiler::text::bytes;
use snnc_runtime::data::Dataset;
use snnc_runtime::device::Backend;
use snnc_runtime::device::cuda::gpu;
use snnc_runtime::session::{Mode, unfolded_program};
use snnc_runtime::train::checkpoint::{recipe_of, replace};
use snnc_runtime::train::{Event, Training};
use snnc_runtime::weights::to_bytes;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub(crate) fn run(args: &TrainArgs) -> Result<(), Failure> {
    let loaded = model::load(&args.model)?;
    let (backend, device) = backend::chosen(args.backend, args.precision)?;
    // What the command line does not say again is as it was when the run began.
    let before = match (&args.out, args.resume) {
        (Some(folder), true) => Some(recipe_of(folder).map_err(Failure::failed)?),
        _ => None,
    };
    let mut recipe = loaded.recipe(args.recipe.as_deref().or(before.as_ref().map(|b| b.name.as_str())))?;
    if let Some(before) = before {
        (recipe.schedule.epochs, recipe.schedule.warmup) = (before.schedule.epochs, before.schedule.warmup);
        (recipe.seed, recipe.data) = (before.seed, before.data);
    }
    if let Some(epochs) = args.epochs {
        recipe.schedule.epochs = epochs as usize;
        recipe.schedule.warmup = recipe.schedule.warmup.min(f64::from(epochs - 1));
    }
    if let Some(seed) = args.seed {
        recipe.seed = seed;
    }
    if let Some(data) = &args.data {
        recipe.data.clone_from(data);
    }
    let data = Dataset::named(&recipe.data).map_err(|e| Failure::Usage(e.to_string()))?;
    let folder = args.out.clone().unwrap_or_else(|| free_folder(&loaded.checked.graph().name));
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // Without a handler Ctrl-C ends the process at once; the last checkpoint stays.
    let _ = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    let human = args.report.format == Format::Human;
    if human {
        println!("{}", loaded.verdict_line());
        println!(
            "training on {} ({} pictures) with recipe {}, seed {}, on {device}, in {}",
            data.name,
            data.train.labels.len(),
            recipe.name,
            recipe.seed,
            args.precision.name()
        );
        if let Backend::Cuda(precision, _) = backend {
            let (_, program) = unfolded_program(&loaded.checked, Mode::Train(recipe.optimizer), precision);
            println!(
                "planned memory: {} for batches of {}",
                bytes(gpu::bytes(&program, recipe.batch).map_err(Failure::failed)?),
                recipe.batch
            );
        }
    }
    let mut progress = Progress::new(human, recipe.schedule.epochs, data.train.labels.len());
    let training = Training { checked: &loaded.checked, recipe: &recipe, data: &data, backend: &backend };
    let started = Instant::now();
    let outcome = training.run(Some(&folder), args.resume, &mut |event| {
        progress.on(&event);
        !stop.load(Ordering::SeqCst)
    });
    progress.done();
    let outcome = outcome.map_err(Failure::failed)?;
    let seconds = started.elapsed().as_secs_f64();
    if !outcome.finished {
        let again = resume_command(args, &folder);
        if human {
            println!("stopped and saved; go on with:\n  {again}");
        } else {
            println!("{}", json!({ "event": "stopped", "folder": folder.display().to_string(), "resume": again }));
        }
        return Ok(());
    }
    let saved = to_bytes(&outcome.weights.tensors(loaded.checked.graph())).map_err(Failure::Failed)?;
    replace(&folder.join("model.safetensors"), &saved).map_err(Failure::failed)?;
    let Accuracies { unfolded, folded, same } = accuracies(&loaded, &outcome.weights, &data)?;
    if !human {
        println!(
            "{}",
            json!({
                "event": "done", "test_accuracy": unfolded, "folded_test_accuracy": folded, "same_predictions": same, "seconds": seconds,
                "verdict": loaded.checked.findings().verdict, "folder": folder.display().to_string(),
            })
        );
        return Ok(());
    }
    let pictures = data.test.labels.len();
    println!("\ntrained in {seconds:.1} s; weights in {}", folder.display());
    println!("verdict            {}", loaded.verdict_line());
    println!("test accuracy      {:.2} % of {pictures} pictures, as written", 100.0 * unfolded);
    let claim = match loaded.checked.findings().verdict {
        Verdict::Strict => "without multiplications outside the encoder",
        Verdict::Admitted => "without multiplications outside the encoder but those admitted",
        Verdict::Violated => "what can be folded",
    };
    println!("folded             {:.2} %, {claim} ({same} of {pictures} predictions the same)", 100.0 * folded);
    let (model, out) = (model_words(args), quoted(&folder));
    println!(
        "\nnext:\n  snnc predict {model} --weights {out} --sample 0\n  snnc eval {model} --weights {out}\n  snnc summary {model}\n  snnc check {model}"
    );
    Ok(())
}

/// `runs/digits`, or with a number if that is taken.
fn free_folder(name: &str) -> PathBuf {
    let base = Path::new("runs").join(name.to_lowercase());
    let numbered = (2..).map(|n| PathBuf::from(format!("{}-{n}", base.display())));
    [base.clone()].into_iter().chain(numbered).find(|p| !p.exists()).unwrap_or(base)
}

/// The model with its settings, as they were given.
fn model_words(args: &TrainArgs) -> String {
    let mut words = vec![quoted(&args.model.model)];
    words.extend(args.model.settings.set.iter().map(|s| format!("--set {}", quoted(s))));
    words.extend(args.model.settings.time.map(|t| format!("--time {t}")));
    words.join(" ")
}

fn resume_command(args: &TrainArgs, folder: &Path) -> String {
    let mut words = vec![model_words(args)];
    if args.precision != Precision::F32 {
        words.push(format!("--precision {}", args.precision.name()));
    }
    let backend = args.backend.to_possible_value().filter(|_| args.backend != TrainBackend::Auto);
    words.extend(backend.map(|b| format!("--backend {}", b.get_name())));
    format!("snnc train {} -o {} --resume", words.join(" "), quoted(folder))
}

/// A bar on a terminal, a line for every epoch elsewhere, JSON lines if asked.
struct Progress {
    bar: Option<ProgressBar>,
    human: bool,
    epochs: usize,
    started: Instant,
    seen: usize,
    done_epochs: usize,
}

impl Progress {
    fn new(human: bool, epochs: usize, samples: usize) -> Progress {
        let bar = (human && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some((epochs * samples) as u64), ProgressDrawTarget::stderr());
            let template = "{bar:24} {percent:>3} %  {msg}  {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━━╌"));
            }
            bar
        });
        Progress { bar, human, epochs, started: Instant::now(), seen: 0, done_epochs: 0 }
    }

    fn on(&mut self, event: &Event) {
        let speed = |seen: usize, started: Instant| seen as f64 / started.elapsed().as_secs_f64().max(1e-9);
        match event {
            Event::Step { epoch, step, steps, loss, accuracy, samples, .. } => {
                self.seen += samples;
                if let Some(bar) = &self.bar {
                    if self.seen == *samples {
                        // After a resume the bar starts where training does.
                        bar.set_position(bar.length().unwrap_or(0) * (epoch * steps + step - 1) as u64 / (self.epochs * steps) as u64);
                        bar.reset_eta();
                    }
                    bar.inc(*samples as u64);
                    let rate = speed(self.seen, self.started);
                    bar.set_message(format!(
                        "epoch {}/{}  loss {loss:.3}  accuracy {:.1} %  {rate:.0} images/s",
                        epoch + 1,
                        self.epochs,
                        100.0 * accuracy
                    ));
                }
            }
            Event::Epoch { epoch, loss, accuracy } => {
                self.done_epochs += 1;
                let rate = speed(self.seen, self.started);
                let seconds = self.started.elapsed().as_secs_f64();
                if !self.human {
                    println!(
                        "{}",
                        json!({ "event": "epoch", "epoch": epoch + 1, "loss": loss, "accuracy": accuracy, "images_per_s": rate, "seconds": seconds })
                    );
                } else if self.bar.is_none() {
                    let left = seconds / (self.done_epochs as f64) * (self.epochs - epoch - 1) as f64;
                    println!(
                        "epoch {}/{}  loss {loss:.4}  accuracy {:.2} %  {rate:.0} images/s  {left:.0} s left",
                        epoch + 1,
                        self.epochs,
                        100.0 * accuracy
                    );
                }
            }
        }
    }

    fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
