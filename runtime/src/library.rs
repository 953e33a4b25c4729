//! Where `use` finds modules: beside the file that uses them, then in the built-in library.

use snnc_compiler::resolve::Loader;
use snnc_grammar::{Diagnostic, FileId, SourceMap};
use std::fs;
use std::path::{Path, PathBuf};

/// Reads modules from folders and from the built-in zoo. `use blocks::mixer::…` is the library's `blocks/mixer.snn`
/// unless a file of that name lies beside the user's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Library;

impl Loader for Library {
    fn load(&self, from: &str, path: &[String]) -> Option<(String, Vec<u8>)> {
        let relative: PathBuf = path.iter().collect();
        let beside = Path::new(from).parent().unwrap_or(Path::new("")).join(relative.with_extension("snn"));
        if !from.starts_with('<') && beside.is_file() {
            return fs::read(&beside).ok().map(|bytes| (beside.to_string_lossy().into_owned(), bytes));
        }
        let [first, rest @ ..] = path else { return None };
        let rest = rest.join("/");
        let files = match first.as_str() {
            "blocks" => snnc_zoo::BLOCKS,
            "models" => snnc_zoo::MODELS,
            _ => return None,
        };
        let (name, text) = files.iter().find(|(n, _)| *n == rest)?;
        Some((format!("<{first}/{name}.snn>"), text.as_bytes().to_vec()))
    }

    fn known(&self) -> Vec<String> {
        let blocks = snnc_zoo::BLOCKS.iter().map(|(n, _)| format!("blocks::{}", n.replace('/', "::")));
        blocks.collect()
    }
}

/// Reads a `.snn` file into the map; a path that is no file but names a zoo model is that model.
///
/// # Errors
/// `io::read` if there is no such file, `syntax::encoding` if it is not UTF-8.
pub fn open(sources: &mut SourceMap, path: &str) -> Result<FileId, Diagnostic> {
    let problem = |sources: &mut SourceMap, message: String| {
        let file = sources.add(path, "");
        let span = snnc_grammar::Span { file, start: 0, end: 0 };
        let mut diagnostic = Diagnostic::error("io::read", span, message, "");
        diagnostic.labels.clear();
        diagnostic
    };
    let name = path.trim_end_matches(".snn");
    if !Path::new(path).exists()
        && let Some(text) = snnc_zoo::model(name)
    {
        return Ok(sources.add(format!("<models/{name}.snn>"), text));
    }
    let metadata = fs::metadata(path).ok();
    if metadata.as_ref().is_some_and(|m| !m.is_file()) {
        // A pipe or device may have no end.
        return Err(problem(sources, format!("cannot read `{path}`: it is no file")));
    }
    if metadata.is_some_and(|m| m.len() > snnc_grammar::MAX_BYTES as u64) {
        let message = format!("`{path}` has more than {} bytes, which is no model", snnc_grammar::MAX_BYTES);
        return Err(Diagnostic { code: "syntax::too_large", ..problem(sources, message) });
    }
    match fs::read(path) {
        Ok(bytes) => match snnc_grammar::decode(&bytes) {
            Ok(text) => Ok(sources.add(path, text)),
            Err(error) => {
                let message = format!("cannot read `{path}`: {}", error.message);
                let mut mine = problem(sources, message);
                (mine.code, mine.help) = (error.code, error.help);
                Err(mine)
            }
        },
        Err(error) => {
            let near = snnc_compiler::value::nearest(name, snnc_zoo::MODELS.iter().map(|(n, _)| *n));
            let mine = problem(sources, format!("cannot read `{path}`: {}", kind(&error)));
            Err(match near {
                Some(near) => mine.help(format!("did you mean `{near}`? `snnc zoo` lists the built-in models")),
                None => mine.help("give the path of a `.snn` file, or a model of `snnc zoo`"),
            })
        }
    }
}

fn kind(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}
