//! `snnc build`

use crate::args::{BuildArgs, Format};
use crate::report::quoted;
use crate::{Failure, model, report};
use serde_json::json;
use snnc_compiler::backend::clif::Target;
use snnc_compiler::census::census;
use snnc_compiler::text::bytes;
use snnc_runtime::artifact::{ArtifactError, Options, build, tally};
use snnc_runtime::train::checkpoint::{model_file, replace};
use snnc_runtime::weights::Weights;
use std::fs;

pub(crate) fn run(args: &BuildArgs) -> Result<(), Failure> {
    let target = if args.target == "host" { Target::host() } else { Target::named(&args.target) };
    let target = target.map_err(|e| Failure::Usage(e.0))?;
    let loaded = model::load(&args.model)?;
    // What is violated is not built: the header would say so, and nobody would read it.
    if let Err(failure) = report::show(&loaded.sources, &loaded.checked.findings().diagnostics) {
        eprintln!("error: {} is {}, and nothing was written", loaded.checked.graph().name, loaded.checked.findings().verdict);
        return Err(failure);
    }
    let graph = loaded.checked.graph();
    let weights = Weights::read(&model_file(&args.trained.weights), graph, None).map_err(Failure::failed)?;
    let options = Options { target, batch: args.batch as usize, name: args.name.clone(), embed: args.embed };
    let artifact = build(&loaded.checked, &weights, &options).map_err(|e| match e {
        ArtifactError::Name(_) => Failure::Usage(e.to_string()),
        e => Failure::failed(e),
    })?;
    let census = census(&artifact.image.functions, &artifact.image.bytes, &artifact.image.triple).map_err(Failure::failed)?;
    if let Some(finding) = census.findings.first() {
        let place = format!("`{}` in `{}`", finding.instruction, finding.function);
        return Err(Failure::Failed(format!("{place} {}; this is a bug of snnc, and nothing was written", finding.wrong)));
    }
    let cannot = |e: std::io::Error| Failure::Failed(format!("cannot write into `{}`: {e}", args.out.display()));
    fs::create_dir_all(&args.out).map_err(cannot)?;
    let name = &artifact.name;
    let mut files: Vec<(String, &[u8])> = vec![
        (format!("{name}.o"), &artifact.object),
        (format!("{name}.h"), artifact.header.as_bytes()),
        (format!("{name}_example.c"), artifact.example.as_bytes()),
    ];
    if !args.embed {
        files.push((format!("{name}.weights"), &artifact.weights));
    }
    // A folder in the place of a file is found before anything is written.
    if let Some((file, _)) = files.iter().find(|(file, _)| args.out.join(file).is_dir()) {
        return Err(Failure::Failed(format!("cannot write `{}`: it is a folder", args.out.join(file).display())));
    }
    for (file, data) in &files {
        replace(&args.out.join(file), data).map_err(Failure::failed)?;
    }
    let place = |file: &str| args.out.join(file).display().to_string();
    if args.report.format == Format::Json {
        let files: Vec<String> = files.iter().map(|(f, _)| place(f)).collect();
        println!(
            "{:#}",
            json!({
                "model": graph.name, "name": name, "target": artifact.image.triple, "verdict": loaded.checked.findings().verdict,
                "files": files, "code_bytes": artifact.image.bytes.len(), "context_bytes": artifact.image.context,
                "memory_bytes": artifact.image.memory, "weights_bytes": artifact.image.weights, "batch": artifact.image.batch,
                "instructions": census.instructions(), "multiplications_outside_the_encoder": census.findings.len(),
            })
        );
        return Ok(());
    }
    println!("{}", loaded.verdict_line());
    println!("code        {} for {}", bytes(artifact.image.bytes.len() as u128), artifact.image.triple);
    println!("census      {}", tally(&census));
    let (memory, context) = (bytes(artifact.image.memory as u128), bytes(artifact.image.context as u128));
    println!("memory      {memory} and a context of {context} for {} at once", plural(args.batch as usize, "sample"));
    for (file, data) in &files {
        println!("wrote       {} ({})", place(file), bytes(data.len() as u128));
    }
    let place = |file: &str| quoted(args.out.join(file));
    let weights = if args.embed { String::new() } else { format!(" {}", place(&format!("{name}.weights"))) };
    let (example, source, object) = (place(&format!("{name}_example")), place(&format!("{name}_example.c")), place(&format!("{name}.o")));
    let machine = artifact.image.triple.split('-').next().unwrap_or_default();
    let compiler = if machine == std::env::consts::ARCH { "cc".to_owned() } else { format!("{machine}-linux-gnu-gcc") };
    println!("try         {compiler} -O2 -o {example} {source} {object} && {example}{weights} < SAMPLES.f32");
    Ok(())
}

fn plural(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}
