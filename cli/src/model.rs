//! From a MODEL on the command line to a checked graph.

use crate::args::{ModelArgs, SettingArgs};
use crate::{Failure, report};
use snnc_compiler::check::{Checked, check};
use snnc_compiler::graph::{Settings, build, instantiate};
use snnc_compiler::lower::Watch;
use snnc_compiler::recipe::{Recipe, recipe};
use snnc_compiler::resolve::{Package, resolve};
use snnc_compiler::text::grouped;
use snnc_grammar::{Diagnostic, SourceMap};
use snnc_runtime::kept;
use snnc_runtime::library::{Library, open};
use snnc_runtime::session::Inference;
use std::path::Path;

/// A model as the command line names it.
pub(crate) struct Loaded {
    pub(crate) sources: SourceMap,
    pub(crate) package: Package,
    pub(crate) checked: Checked,
}

/// `--set` and `--time` as the compiler takes them.
pub(crate) fn settings(args: &SettingArgs) -> Result<Settings, Failure> {
    let mut set = Vec::new();
    for text in &args.set {
        let (name, value) = text.split_once('=').ok_or_else(|| Failure::Usage(format!("`--set {text}`: write `--set NAME=VALUE`")))?;
        set.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    Ok(Settings { set, time: args.time })
}

/// The path and the variant of `path#Variant`; a path that there is is one, whatever its name.
pub(crate) fn split(model: &str) -> (&str, Option<&str>) {
    match model.rsplit_once('#') {
        Some((path, variant)) if !Path::new(model).exists() => (path, Some(variant)),
        _ => (model, None),
    }
}

/// Opens, links and builds a model and checks it; a violated verdict is no error here.
pub(crate) fn load(args: &ModelArgs) -> Result<Loaded, Failure> {
    let settings = settings(&args.settings)?;
    let (path, variant) = split(&args.model);
    let mut sources = SourceMap::default();
    let result = (|| -> Result<(Package, Checked), Vec<Diagnostic>> {
        let file = open(&mut sources, path).map_err(|e| vec![e])?;
        let package = resolve(&mut sources, file, &Library)?;
        // Of a model with variants, they are what `check` looks at: the first of them stands for the file.
        let first = package.models.first().map(|m| &m.name.name);
        let first = package.variants.iter().find(|v| Some(&v.model.callee.name) == first).map(|v| v.name.name.as_str());
        let instance = instantiate(&mut sources, &package, variant.or(first), &settings)?;
        let checked = check(build(&package, &instance)?);
        Ok((package, checked))
    })();
    match result {
        Ok((package, checked)) => Ok(Loaded { sources, package, checked }),
        Err(errors) => match report::show(&sources, &errors) {
            Err(failure) => Err(failure),
            Ok(()) => Err(Failure::Findings),
        },
    }
}

/// An inference of a model with the weights of a file, from the cache if it is there.
pub(crate) fn inference(checked: &Checked, weights: &Path, (watch, streams): (Watch, bool)) -> Result<Inference, Failure> {
    let (session, start) = kept::open(checked, weights, 1, watch, streams).map_err(Failure::failed)?;
    match (&start.damaged, &start.unkept) {
        (Some((entry, why)), None) => eprintln!("note: `{}` in the cache cannot be used ({why}); it is made anew", entry.display()),
        (Some((entry, why)), Some(kept)) => {
            eprintln!("note: `{}` in the cache cannot be used ({why}), nor replaced: {kept}", entry.display());
        }
        (None, Some(why)) => eprintln!("note: what was made is not kept for the next start: {why}"),
        (None, None) => {}
    }
    Ok(session)
}

impl Loaded {
    /// The model's recipe.
    pub(crate) fn recipe(&self, name: Option<&str>) -> Result<Recipe, Failure> {
        let graph = self.checked.graph();
        recipe(&self.package, &graph.model, &graph.name, name).map_err(|errors| match (errors.as_slice(), name) {
            // The command line names it, not the file.
            ([one], Some(_)) if one.code == "recipe::unknown" => {
                Failure::Usage(format!("{}; {}", one.message, one.help.clone().unwrap_or_default()))
            }
            _ => report::show(&self.sources, &errors).err().unwrap_or(Failure::Findings),
        })
    }

    /// One line about the verdict.
    pub(crate) fn verdict_line(&self) -> String {
        let findings = self.checked.findings();
        let admitted = findings.residues.iter().filter(|r| r.admitted).count();
        let extra = match admitted {
            0 => String::new(),
            1 => format!(", 1 admitted residue ({} multiplications)", grouped(findings.admitted())),
            n => format!(", {n} admitted residues ({} multiplications)", grouped(findings.admitted())),
        };
        format!(
            "{}: {}{extra}; encoder {:.2} % of all operations",
            self.checked.graph().name,
            findings.verdict,
            100.0 * findings.encoder_share()
        )
    }
}
