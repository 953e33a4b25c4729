//! Ahead of time: a folded network as an object file with a C header, for programs that know nothing of snnc.

use crate::session::{Inference, SessionError, inference_program, looks_at_all};
use crate::weights::Weights;
use cranelift_module::{DataDescription, Linkage, Module, ModuleError, default_libcall_names};
use cranelift_object::object::write::{Symbol as ObjectSymbol, SymbolSection};
use cranelift_object::object::{self, Object, ObjectSection, ObjectSymbol as _, SymbolFlags, SymbolKind, SymbolScope};
use cranelift_object::{ObjectBuilder, ObjectModule};
use serde::{Deserialize, Serialize};
use snnc_compiler::backend::clif::{CodeError, Image, Symbol, Target, image};
use snnc_compiler::census::{Census, CensusError, census};
use snnc_compiler::check::Checked;
use snnc_compiler::flow::Region;
use snnc_compiler::fold::fold;
use snnc_compiler::graph::Graph;
use snnc_compiler::lower::Watch;
use std::collections::BTreeMap;
use std::fmt::Write;
use thiserror::Error;

/// The section that says what the functions of an object are.
const NOTE: &str = ".snnc";

/// The functions that a program may call.
const PUBLIC: [&str; 4] = ["init", "reset", "run", "feed"];

/// Why there is no object file, or why one cannot be looked at.
#[derive(Debug, Error)]
pub enum ArtifactError {
    /// The network cannot be run.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// No machine code.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// No object file.
    #[error("no object file: {0}")]
    Module(#[from] Box<ModuleError>),
    /// Not a name in C.
    #[error("`{0}` is no name for C functions; use letters, digits and `_`, and begin with a letter")]
    Name(String),
    /// A file that is no object of ours, or a damaged one.
    #[error("{path} is no object file of snnc: {reason}")]
    Object {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// No census.
    #[error(transparent)]
    Census(#[from] CensusError),
}

/// How a network is built.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the code is for.
    pub target: Target,
    /// Samples a context has room for.
    pub batch: usize,
    /// What names in C begin with; the network's name by default.
    pub name: Option<String>,
    /// The weights are in the object, too.
    pub embed: bool,
}

/// A network as files.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// What names in C begin with.
    pub name: String,
    /// The object file.
    pub object: Vec<u8>,
    /// The C header.
    pub header: String,
    /// The weights; empty if they are in the object.
    pub weights: Vec<u8>,
    /// An example in C.
    pub example: String,
    /// The code.
    pub image: Image,
}

/// What an object says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// The network.
    pub model: String,
    /// The version of snnc.
    pub version: String,
    /// Architecture, vendor, system.
    pub triple: String,
    /// Whose weights fit.
    pub id: u64,
    /// Bytes of code.
    pub code: usize,
    /// The functions.
    pub functions: Vec<Symbol>,
}

/// Compiles a checked network.
///
/// # Errors
/// If the network cannot be folded or compiled.
pub fn build(checked: &Checked, weights: &Weights, options: &Options) -> Result<Artifact, ArtifactError> {
    let graph = checked.graph();
    let name = match &options.name {
        Some(name) if is_name(name) => name.clone(),
        Some(name) => return Err(ArtifactError::Name(name.clone())),
        None => snake(&graph.name),
    };
    // The same values in the same places, whatever the target.
    let session = Inference::new(checked, weights, 1, Watch::Nothing)?;
    let values: Vec<u8> = session.executable().weights().iter().flat_map(|x| x.to_le_bytes()).collect();
    let (_, program) = inference_program(&fold(checked), Watch::Nothing);
    let image = image(&program, options.batch, &options.target)?;
    let embedded = options.embed.then_some(values.as_slice());
    let facts = Facts { checked, name: &name, image: &image, embed: options.embed };
    let public = |f: &str| PUBLIC.contains(&f) && (f != "feed" || facts.streams());
    let object = object_file(graph, &name, &image, &options.target, embedded, &public)?;
    let (header, example) = (facts.header(), facts.example());
    Ok(Artifact { name, object, header, weights: if options.embed { vec![] } else { values }, example, image })
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic()) && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `MlpSpeT` as `mlp_spe_t`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    let mut before = '_';
    for c in name.chars() {
        if c.is_ascii_uppercase() && before != '_' && !before.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
        before = c;
    }
    if is_name(&out) { out } else { format!("net_{out}") }
}

fn object_file(
    graph: &Graph,
    name: &str,
    image: &Image,
    target: &Target,
    weights: Option<&[u8]>,
    public: &dyn Fn(&str) -> bool,
) -> Result<Vec<u8>, ArtifactError> {
    let error = |e: ModuleError| ArtifactError::Module(Box::new(e));
    let isa = target.isa();
    let signature = cranelift_codegen::ir::Signature::new(isa.default_call_conv());
    let mut module = ObjectModule::new(ObjectBuilder::new(isa, name, default_libcall_names()).map_err(error)?);
    // The image is one piece: calls among its functions are resolved. Its functions become symbols within it.
    let code = module.declare_function(&format!("{name}_code"), Linkage::Local, &signature).map_err(error)?;
    module.define_function_bytes(code, image.align, &image.bytes, &[]).map_err(error)?;
    if let Some(weights) = weights {
        let data = module.declare_data(&format!("{name}_weights"), Linkage::Export, false, false).map_err(error)?;
        let mut description = DataDescription::new();
        description.define(weights.into());
        description.set_align(64);
        module.define_data(data, &description).map_err(error)?;
    }
    let mut product = module.finish();
    let whole = product.function_symbol(code);
    let (section, start) = {
        let symbol = product.object.symbol(whole);
        (symbol.section, symbol.value)
    };
    for function in &image.functions {
        let public = public(&function.name);
        product.object.add_symbol(ObjectSymbol {
            name: format!("{name}_{}", function.name).into_bytes(),
            value: start + function.start as u64,
            size: function.size as u64,
            kind: SymbolKind::Text,
            scope: if public { SymbolScope::Dynamic } else { SymbolScope::Compilation },
            weak: false,
            section,
            flags: SymbolFlags::None,
        });
    }
    let note = Note {
        model: graph.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        triple: image.triple.clone(),
        id: image.id,
        code: image.bytes.len(),
        functions: image.functions.clone(),
    };
    let json = serde_json::to_vec(&note).map_err(|e| CodeError(e.to_string()))?;
    let id = product.object.add_section(vec![], NOTE.into(), object::SectionKind::Other);
    product.object.append_section_data(id, &json, 1);
    debug_assert!(matches!(section, SymbolSection::Section(_)));
    product.emit().map_err(|e| CodeError(e.to_string()).into())
}

/// Looks at the machine code in an object file: what it says of its functions, and the census.
///
/// # Errors
/// If it is no object of ours or damaged: truncated, with code that no function holds, or with relocations.
pub fn inspect(path: &str, bytes: &[u8]) -> Result<(Note, Census), ArtifactError> {
    let wrong = |reason: String| ArtifactError::Object { path: path.to_owned(), reason };
    let file = object::File::parse(bytes).map_err(|e| wrong(format!("{e} (is it cut short?)")))?;
    let section = file.section_by_name(NOTE).ok_or_else(|| wrong(format!("it has no section `{NOTE}`")))?;
    let text = section.data().map_err(|e| wrong(e.to_string()))?;
    let note: Note = serde_json::from_slice(text).map_err(|e| wrong(format!("its section `{NOTE}` cannot be read: {e}")))?;
    let mut code: Option<&[u8]> = None;
    for section in file.sections().filter(|s| s.kind() == object::SectionKind::Text && s.size() > 0) {
        if section.relocations().next().is_some() {
            return Err(wrong("its code has relocations: it reaches outside itself".into()));
        }
        let data = section.data().map_err(|e| wrong(format!("{e} (is it cut short?)")))?;
        if code.replace(data).is_some() {
            return Err(wrong("it has code in several sections".into()));
        }
    }
    let code = code.ok_or_else(|| wrong("it has no code".into()))?;
    if code.len() != note.code {
        return Err(wrong(format!("it has {} bytes of code, and says {}", code.len(), note.code)));
    }
    // Every function that can be called from outside must be one that was looked at.
    let starts: BTreeMap<usize, &str> = note.functions.iter().map(|f| (f.start, f.name.as_str())).collect();
    for symbol in file.symbols().filter(|s| s.kind() == SymbolKind::Text && s.is_global() && s.is_definition()) {
        if !starts.contains_key(&(symbol.address() as usize)) {
            return Err(wrong(format!("the function `{}` is not in its list", symbol.name().unwrap_or_default())));
        }
    }
    let census = census(&note.functions, code, &note.triple)?;
    Ok((note, census))
}

/// What the texts say.
struct Facts<'a> {
    checked: &'a Checked,
    name: &'a str,
    image: &'a Image,
    embed: bool,
}

impl Facts<'_> {
    fn streams(&self) -> bool {
        looks_at_all(self.checked.graph()).is_none()
    }

    /// Floats of one sample, and what they are.
    fn input(&self) -> (usize, String) {
        let graph = self.checked.graph();
        let signal = &graph.node(graph.input).signal;
        let steps = if signal.varies { graph.time } else { 1 };
        let axes = signal.axes.iter().map(|a| format!("{} = {}", a.name, a.size));
        let axes: Vec<String> = signal.varies.then(|| format!("T = {steps}")).into_iter().chain(axes).collect();
        (signal.elements() * steps, format!("[{}]", axes.join(", ")))
    }

    fn header(&self) -> String {
        let graph = self.checked.graph();
        let (name, upper) = (self.name, self.name.to_uppercase());
        let (elements, axes) = self.input();
        let frames = graph.node(graph.input).signal.varies;
        let findings = self.checked.findings();
        let mut out = String::new();
        let mut line = |text: &str| {
            let _ = writeln!(out, "{text}");
        };
        line(&format!(
            "/* {}, compiled by snnc {} for {}. Verdict: {}; the encoder does {:.2} % of all operations.",
            graph.name,
            env!("CARGO_PKG_VERSION"),
            self.image.triple,
            findings.verdict,
            100.0 * findings.encoder_share()
        ));
        line(" *");
        line(" * A context belongs to one thread at a time; contexts share weights, which are only read. Nothing is allocated,");
        line(" * nothing outside this object is called. All memory is the caller's and starts at a multiple of ALIGN bytes. */");
        line(&format!("#ifndef SNNC_{upper}_H\n#define SNNC_{upper}_H\n"));
        line("#include <stdint.h>\n\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n");
        let mut define = |what: &str, value: usize, note: &str| {
            let _ = writeln!(out, "#define {:<32} {value:<12} /* {note} */", format!("{upper}_{what}"));
        };
        define("BATCH", self.image.batch, "samples that a context has room for");
        define("TIME", graph.time, "time steps");
        define("INPUT", elements, &format!("floats of a sample: {axes}, the last axis together"));
        define("CLASSES", graph.classes(), "floats of a sample's logits");
        define("ALIGN", self.image.align as usize, "bytes");
        define("CONTEXT_BYTES", self.image.context, "addresses and numbers of a context");
        define("MEMORY_BYTES", self.image.memory, "what a context works in");
        define("WEIGHTS_BYTES", self.image.weights, "thresholds and folded weights");
        let mut line = |text: &str| {
            let _ = writeln!(out, "{text}");
        };
        line("\n/* Connects a context with its memory and weights. 0, or 1 if the weights are those of another program. */");
        line(&format!("int {name}_init(void *context, void *memory, const void *weights);\n"));
        line("/* Runs all time steps on some samples [samples][INPUT] and writes logits [samples][CLASSES].");
        line(" * 0, or 1 if there are more samples than BATCH, or none. */");
        line(&format!("int {name}_run(void *context, const float *input, int64_t samples, float *logits);\n"));
        if self.streams() {
            let given = if frames { "frames of this step [samples][INPUT / TIME]" } else { "the same samples [samples][INPUT] each time" };
            line(&format!("/* Runs one more time step on {given}; the logits are those of all steps since the"));
            line(" * last reset, as parts of the whole: after TIME steps they are those of a run. */");
            line(&format!("int {name}_feed(void *context, const float *input, int64_t samples, float *logits);\n"));
        }
        line("/* Forgets all time steps so far. */");
        line(&format!("void {name}_reset(void *context);\n"));
        if self.embed {
            line(&format!("/* The weights. */\nextern const unsigned char {name}_weights[{upper}_WEIGHTS_BYTES];\n"));
        }
        line("#ifdef __cplusplus\n}\n#endif\n#endif");
        out
    }

    fn example(&self) -> String {
        let template = include_str!("artifact.c");
        let keep = |text: &str, tag: &str, wanted: bool| {
            let mut out = String::new();
            let mut inside = false;
            for line in text.lines() {
                match line.trim() {
                    l if l == format!("//+{tag}") => inside = true,
                    l if l == format!("//-{tag}") => inside = false,
                    _ if !inside || wanted => {
                        out.push_str(line);
                        out.push('\n');
                    }
                    _ => {}
                }
            }
            out
        };
        let text = keep(&keep(template, "file", !self.embed), "embedded", self.embed);
        text.replace("NAME", &self.name.to_uppercase()).replace("name", self.name)
    }
}

/// How many instructions of a census multiply, and where.
pub fn tally(census: &Census) -> String {
    let (free, outside) = census.of(Region::Free);
    let (encoder, inside) = census.of(Region::Encoder);
    let (residue, admitted) = census.of(Region::Residue);
    let mut text = format!("{outside} of {free} instructions multiply; in the encoder {inside} of {encoder}");
    if residue > 0 {
        let _ = write!(text, "; in residues {admitted} of {residue}");
    }
    text
}
