//! Ahead of time: a folded network as an object file with a C header, for programs that know nothing of snnc.

use crate::session::{Inference, SessionError, looks_at_all, streaming_program};
use crate::weights::Weights;
use cranelift_module::{DataDescription, Linkage, Module, ModuleError, default_libcall_names};
use cranelift_object::object::write::{Symbol as ObjectSymbol, SymbolSection};
use cranelift_object::object::{
    self, Architecture, Object, ObjectKind, ObjectSection, ObjectSymbol as _, SectionFlags, SectionIndex, SectionKind, SymbolFlags,
    SymbolKind, SymbolScope, elf,
};
use cranelift_object::{ObjectBuilder, ObjectModule};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use snnc_compiler::backend::clif::{CodeError, Image, Symbol, Target, image};
use snnc_compiler::census::{Census, CensusError, census};
use snnc_compiler::check::Checked;
use snnc_compiler::flow::Region;
use snnc_compiler::fold::fold;
use snnc_compiler::fuse::Expected;
use snnc_compiler::graph::Graph;
use snnc_compiler::lower::Watch;
use snnc_compiler::text::hex;
use snnc_compiler::types::Kind;
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
    /// Samples that a context has room for.
    pub batch: usize,
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
    let session = Inference::expecting(checked, weights, 1, (Watch::Nothing, true), Expected::default())?;
    let values: Vec<u8> = session.executable().weights().iter().flat_map(|x| x.to_le_bytes()).collect();
    let folded = fold(checked);
    let (_, program) = streaming_program(&folded, Watch::Nothing);
    let image = image(&program, options.batch, &options.target)?;
    let embedded = options.embed.then_some(values.as_slice());
    let flags = options.target.flags();
    let streams = looks_at_all(checked, &folded).is_none();
    let facts = Facts { checked, streams, name: &name, image: &image, flags: &flags, embed: options.embed };
    let public = |f: &str| PUBLIC.contains(&f) && (f != "feed" || facts.streams);
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
        batch: image.batch,
        code: image.bytes.len(),
        functions: image.functions.clone(),
    };
    let json = serde_json::to_vec(&note).map_err(|e| CodeError(e.to_string()))?;
    let id = product.object.add_section(vec![], NOTE.into(), SectionKind::Other);
    product.object.append_section_data(id, &json, 1);
    debug_assert!(matches!(section, SymbolSection::Section(_)));
    product.emit().map_err(|e| CodeError(e.to_string()).into())
}

/// An object file that was looked at.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What it says of itself.
    pub note: Note,
    /// Its instructions.
    pub census: Census,
    /// SHA-256 of its code.
    pub hash: String,
}

/// Looks at the machine code in an object file: what it says of its functions, and the census.
///
/// # Errors
/// If it is no object of ours or damaged: truncated, with anything in it that runs or is loaded and was not written by
/// [`build`], or for another architecture than it says.
pub fn inspect(path: &str, bytes: &[u8]) -> Result<Inspected, ArtifactError> {
    let wrong = |reason: String| ArtifactError::Object { path: path.to_owned(), reason };
    let file = object::File::parse(bytes).map_err(|e| {
        let elf = bytes.starts_with(b"\x7fELF");
        wrong(if elf { format!("{e} (is it cut short?)") } else { "it is no ELF file".into() })
    })?;
    let section = file.section_by_name(NOTE).ok_or_else(|| wrong(format!("it has no section `{NOTE}`")))?;
    let text = section.data().map_err(|e| wrong(e.to_string()))?;
    let note: Note = serde_json::from_slice(text).map_err(|e| wrong(format!("its section `{NOTE}` cannot be read: {e}")))?;
    if file.kind() != ObjectKind::Relocatable || file.entry() != 0 {
        return Err(wrong("it is no object file for a linker".into()));
    }
    let architecture = match file.architecture() {
        Architecture::X86_64 => "x86_64",
        Architecture::Aarch64 => "aarch64",
        _ => "another architecture",
    };
    if note.triple.split('-').next() != Some(architecture) {
        return Err(wrong(format!("it is for {architecture}, and says `{}`", note.triple)));
    }
    let (mut code, mut constants): (Option<(SectionIndex, &[u8])>, Option<SectionIndex>) = (None, None);
    for section in file.sections() {
        let name = section.name().unwrap_or_default();
        if section.relocations().next().is_some() {
            return Err(wrong(format!("its section `{name}` has relocations: it reaches outside itself")));
        }
        // In ELF, what is not loaded cannot run.
        let loaded = match section.flags() {
            SectionFlags::Elf { sh_flags } => sh_flags & u64::from(elf::SHF_ALLOC | elf::SHF_EXECINSTR) != 0,
            _ => !matches!(section.kind(), SectionKind::Metadata | SectionKind::Other | SectionKind::Note),
        };
        if section.size() == 0 || !loaded {
            continue;
        }
        let data = section.data().map_err(|e| wrong(format!("{e} (is it cut short?)")))?;
        let again = match section.kind() {
            SectionKind::Text => code.replace((section.index(), data)).is_some(),
            SectionKind::ReadOnlyData => constants.replace(section.index()).is_some(),
            _ => true,
        };
        if again {
            return Err(wrong(format!("its section `{name}` is none of those that snnc writes")));
        }
    }
    let (place, code) = code.ok_or_else(|| wrong("it has no code".into()))?;
    if code.len() != note.code {
        return Err(wrong(format!("it has {} bytes of code, and says {}", code.len(), note.code)));
    }
    symbols(&file, &note, place, constants).map_err(wrong)?;
    between(&note, code).map_err(wrong)?;
    let census = census(&note.functions, code, &note.triple)?;
    Ok(Inspected { note, census, hash: hex(&Sha256::digest(code)) })
}

/// Every symbol must be a function that is looked at, under its name and with its size, or the weights.
fn symbols(file: &object::File<'_>, note: &Note, code: SectionIndex, constants: Option<SectionIndex>) -> Result<(), String> {
    let whole = |s: &object::Symbol<'_, '_>, name: &str| s.is_local() && name.ends_with("_code") && s.address() == 0;
    for symbol in file.symbols().filter(|s| !matches!(s.kind(), SymbolKind::File | SymbolKind::Section)) {
        let name = symbol.name().map_err(|e| e.to_string())?;
        // What a loader would call to find the function, or another may take the place of, is none of them.
        let plain = match symbol.flags() {
            SymbolFlags::Elf { st_info, .. } => {
                [elf::STT_FUNC, elf::STT_OBJECT].contains(&(st_info & 0xf)) && [elf::STB_LOCAL, elf::STB_GLOBAL].contains(&(st_info >> 4))
            }
            _ => false,
        };
        let known = match symbol.section() {
            object::SymbolSection::Section(i) if i == code => {
                let same = |f: &Symbol| {
                    let named = name.strip_suffix(f.name.as_str()).is_some_and(|before| before.ends_with('_'));
                    named && (symbol.address(), symbol.size()) == (f.start as u64, f.size as u64)
                };
                symbol.kind() == SymbolKind::Text && (note.functions.iter().any(same) || whole(&symbol, name))
            }
            object::SymbolSection::Section(i) if Some(i) == constants => symbol.kind() == SymbolKind::Data && name.ends_with("_weights"),
            _ => false,
        };
        if !known || !plain {
            return Err(format!("its symbol `{name}` is none of those that snnc writes"));
        }
    }
    Ok(())
}

/// Functions stand one behind the other, and between them stands nothing.
fn between(note: &Note, code: &[u8]) -> Result<(), String> {
    let mut end = 0;
    let mut functions: Vec<&Symbol> = note.functions.iter().collect();
    functions.sort_by_key(|f| f.start);
    for function in functions {
        let gap = code
            .get(end..function.start)
            .ok_or_else(|| format!("its function `{}` lies in another one, or outside the code", function.name))?;
        if gap.iter().any(|byte| *byte != 0) {
            return Err(format!("there is something before its function `{}`, at {end:#x}", function.name));
        }
        end = function.start.saturating_add(function.size);
    }
    if end == code.len() { Ok(()) } else { Err(format!("there is something behind its functions, at {end:#x}")) }
}

/// What the texts say.
struct Facts<'a> {
    checked: &'a Checked,
    /// It can run one time step at a time.
    streams: bool,
    name: &'a str,
    image: &'a Image,
    /// Instruction sets beyond the base that the code may use.
    flags: &'a [String],
    embed: bool,
}

impl Facts<'_> {
    /// In C, whether the machine at hand has them all: those that compilers know by name, which are those that code here is made of.
    fn fits(&self) -> String {
        const NAMES: [(&str, &str); 10] = [
            ("has_sse3", "sse3"),
            ("has_ssse3", "ssse3"),
            ("has_sse41", "sse4.1"),
            ("has_sse42", "sse4.2"),
            ("has_popcnt", "popcnt"),
            ("has_avx", "avx"),
            ("has_avx2", "avx2"),
            ("has_fma", "fma"),
            ("has_bmi1", "bmi"),
            ("has_bmi2", "bmi2"),
        ];
        let known = NAMES.iter().filter(|(flag, _)| self.image.triple.starts_with("x86_64") && self.flags.iter().any(|f| f == flag));
        let all: Vec<String> = known.map(|(_, name)| format!("__builtin_cpu_supports(\"{name}\")")).collect();
        if all.is_empty() { "1".to_owned() } else { format!("({})", all.join(" && ")) }
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
        define("INPUT", elements, &format!("floats of a sample: {axes}, of which the last axis lies together"));
        define("CLASSES", graph.classes(), "floats of a sample's logits");
        define("ALIGN", self.image.align as usize, "bytes");
        define("CONTEXT_BYTES", self.image.context, "addresses and numbers of a context");
        define("MEMORY_BYTES", self.image.memory, "what a context works in");
        define("WEIGHTS_BYTES", self.image.weights, "thresholds and folded weights");
        let mut line = |text: &str| {
            let _ = writeln!(out, "{text}");
        };
        line("\n/* Whether this machine has all instructions that the code may use, as GCC and Clang tell it. */");
        line(&format!("#define {upper}_RUNS_HERE {}", self.fits()));
        let spikes = graph.node(graph.input).signal.kind == Kind::Spike;
        let range = if spikes {
            "The input is spikes: every value must be 0 or 1."
        } else {
            "Values are those that the network was trained on; of pictures, as `snnc predict` reads them, 0 to 1."
        };
        line(&format!("\n/* {range} */"));
        line("\n/* Connects a context with its memory and weights. 0, or 1 if the weights are those of another program. */");
        line(&format!("int {name}_init(void *context, void *memory, const void *weights);\n"));
        line("/* Runs all time steps on some samples [samples][INPUT] and writes logits [samples][CLASSES].");
        line(" * 0, or 1 if there are more samples than BATCH, or none. */");
        line(&format!("int {name}_run(void *context, const float *input, int64_t samples, float *logits);\n"));
        if self.streams {
            let given = if frames { "frames of this step [samples][INPUT / TIME]" } else { "the same samples [samples][INPUT] each time" };
            line(&format!("/* Runs one more time step on {given}; the logits are those of all steps since the"));
            line(" * last reset, as parts of the whole: after TIME steps they are those of a run. 0, or 1 and nothing is done as with");
            line(" * run, and after TIME steps or a run, until the next reset. */");
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
