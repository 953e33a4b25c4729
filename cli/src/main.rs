//! `snnc`: the command line. The only crate that prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this crate is the one that prints")]

mod args;
mod commands;
mod findings;
mod model;
mod report;

use args::{Cli, Command};
use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Findings, printed already: exit code 1.
    Findings,
    /// Something could not be done: exit code 2.
    Failed(String),
    /// The command line is wrong: exit code 2.
    Usage(String),
}

impl Failure {
    pub(crate) fn failed(error: impl std::fmt::Display) -> Failure {
        Failure::Failed(error.to_string())
    }
}

fn main() -> ExitCode {
    // A closed pipe behind us (`snnc … | head`) is no reason for a panic message; the code is that of a program it ends.
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        if text.contains("Broken pipe") {
            std::process::exit(141);
        }
        let mut stderr = std::io::stderr();
        if text.contains("failed printing to") {
            let _ = writeln!(stderr, "snnc: cannot write the output: {}", text.rsplit(": ").next().unwrap_or_default());
            std::process::exit(2);
        }
        let bug = "This is a bug of snnc; please report it with the command and the file.";
        let _ = writeln!(stderr, "snnc: internal error: {text}\n{bug}");
    }));
    let cli = Cli::parse();
    if let Some(threads) = cli.threads {
        // Fails only if a pool exists already, and then nothing is lost.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global();
    }
    let result = match cli.command {
        Command::Check(args) => commands::check::run(&args),
        Command::Fmt(args) => commands::fmt::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::New(args) => commands::new::run(&args),
        Command::Dump(args) => commands::dump::run(&args),
        Command::Summary(args) => commands::summary::run(&args),
        Command::Diff(args) => commands::diff::run(&args),
        Command::Energy(args) => commands::energy::run(&args),
        Command::Train(args) => commands::train::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Predict(args) => commands::predict::run(&args),
        Command::Run(args) => commands::run::run(&args),
        Command::Trace(args) => commands::trace::run(&args),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Build(args) => commands::build::run(&args),
        Command::Certify(args) => commands::certify::run(&args),
        Command::Census(args) => commands::census::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Zoo(args) => commands::zoo::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Findings) => ExitCode::from(1),
        Err(Failure::Failed(message) | Failure::Usage(message)) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}
