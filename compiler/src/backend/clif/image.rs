//! All functions of a program in one piece of bytes, calls among them resolved.

use super::lanes::Lanes;
use super::{CodeError, drive, kernel};
use crate::backend::avx2;
use crate::flow::Region;
use crate::kernel::Kernel;
use crate::plan::{Plan, plan};
use crate::program::Program;
use cranelift_codegen::Context;
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{
    AbiParam, ExtFuncData, ExternalName, FuncRef, Function, Signature, UserExternalName, UserExternalNameRef, UserFuncName, Value,
};
use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{FinalizedRelocTarget, isa::CallConv};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The instruction sets that [`Target::named`] knows.
const NAMES: [(&str, &str); 2] = [("x86-64", "x86_64-unknown-linux-gnu"), ("aarch64", "aarch64-unknown-linux-gnu")];

/// What machine code is made for.
#[derive(Clone)]
pub struct Target {
    pub(super) isa: OwnedTargetIsa,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.triple())
    }
}

impl Target {
    /// This machine, with all instructions that it has.
    ///
    /// # Errors
    /// If Cranelift does not support it.
    pub fn host() -> Result<Target, CodeError> {
        let builder = cranelift_native::builder().map_err(|e| CodeError(e.to_owned()))?;
        Target::of(&builder)
    }

    /// This machine, without the vectors of 256 bits that it may have.
    ///
    /// # Errors
    /// As [`Target::host`].
    pub fn narrow() -> Result<Target, CodeError> {
        let host = Target::host()?;
        let flags: Vec<String> = host.flags().into_iter().filter(|f| f != "has_avx2").collect();
        Target::exactly(&host.triple(), &flags)
    }

    /// `x86-64` (with SSE4.2, which machines have since 2009) or `aarch64` with Linux, also as `x86_64-unknown-linux-gnu` and the like.
    ///
    /// # Errors
    /// If there is no such target.
    pub fn named(name: &str) -> Result<Target, CodeError> {
        let known = NAMES.iter().find(|(short, triple)| name == *short || name == *triple);
        let Some((_, triple)) = known else {
            let list = NAMES.map(|(short, triple)| format!("`{short}` ({triple})")).join(", ");
            return Err(CodeError(format!("the target `{name}` is not known; there are {list} and `host`")));
        };
        let error = |e: String| CodeError(e);
        let mut builder = isa::lookup_by_name(triple).map_err(|e| error(e.to_string()))?;
        if triple.starts_with("x86_64") {
            for flag in ["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"] {
                builder.enable(flag).map_err(|e| error(e.to_string()))?;
            }
        }
        Target::of(&builder)
    }

    /// A target with just these instruction sets beyond the base: what [`Target::flags`] gave.
    ///
    /// # Errors
    /// If there is no such target or flag.
    pub fn exactly(triple: &str, flags: &[String]) -> Result<Target, CodeError> {
        let error = |e: &dyn std::fmt::Display| CodeError(format!("`{triple}`: {e}"));
        let host = cranelift_native::builder().ok().map(|b| b.triple().clone()).filter(|t| t.to_string() == triple);
        let mut builder = match host {
            Some(host) => isa::lookup(host).map_err(|e| error(&e))?,
            None if NAMES.iter().any(|(_, t)| *t == triple) => isa::lookup_by_name(triple).map_err(|e| error(&e))?,
            None => return Err(error(&"code for it can be made there only")),
        };
        for flag in flags {
            builder.enable(flag).map_err(|e| error(&format!("`{flag}`: {e}")))?;
        }
        Target::of(&builder)
    }

    /// The most lanes of a tile whose sums registers hold: eight or more vectors, and some are left.
    pub fn lanes(&self) -> usize {
        if self.wide() || self.triple().starts_with("aarch64") { 64 } else { 48 }
    }

    /// Vectors of 256 bits, by the calling convention that they are written for.
    fn wide(&self) -> bool {
        self.has("has_avx2") && self.has("has_bmi1") && self.isa.default_call_conv() == CallConv::SystemV
    }

    /// Products are added to numbers in one instruction, in an inference where multiplying is allowed.
    fn fuses(&self, region: Region) -> bool {
        self.has("has_fma") && matches!(region, Region::Encoder | Region::Residue)
    }

    fn has(&self, name: &str) -> bool {
        self.isa.isa_flags().iter().any(|f| f.name == name && f.as_bool() == Some(true))
    }

    /// The instruction sets beyond the base that code may use.
    pub fn flags(&self) -> Vec<String> {
        self.isa.isa_flags().iter().filter(|f| f.as_bool() == Some(true)).map(|f| f.name.to_owned()).collect()
    }

    fn of(builder: &isa::Builder) -> Result<Target, CodeError> {
        let mut flags = settings::builder();
        let verify = if cfg!(debug_assertions) { "true" } else { "false" };
        let wanted = [("opt_level", "speed"), ("enable_verifier", verify), ("is_pic", "false"), ("unwind_info", "false")];
        for (name, value) in wanted {
            flags.set(name, value).map_err(|e| CodeError(e.to_string()))?;
        }
        let isa = builder.finish(settings::Flags::new(flags)).map_err(|e| CodeError(e.to_string()))?;
        Ok(Target { isa })
    }

    /// Architecture, vendor, system.
    pub fn triple(&self) -> String {
        self.isa.triple().to_string()
    }

    /// Cranelift's description of the instruction set.
    pub fn isa(&self) -> OwnedTargetIsa {
        self.isa.clone()
    }
}

/// A function of an [`Image`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// First byte.
    pub start: usize,
    /// Bytes, constants behind its code included.
    pub size: usize,
    /// Where in the network it belongs: whether it may multiply.
    pub region: Region,
    /// What it computes, for people: paths of nodes.
    pub label: String,
}

/// The machine code of a program: position-independent, complete, the same wherever it is kept or run.
///
/// Its functions, in C:
/// `int init(void *context, void *memory, const void *weights)`: connects the three; 1 if the weights are those of another program;
/// `void reset(void *context)`: forgets all time steps;
/// `void enter(void *context, const float *input, int64_t samples, int64_t steps)`: takes a batch in;
/// `void drive_N(void *context)`: takes part in loop N;
/// `void step(void *context)`: runs all loops on one thread;
/// `void leave(void *context, float *logits)`: hands the logits out;
/// `int run(void *context, const float *input, int64_t samples, float *logits)`: all of that, for all time steps;
/// `int feed(...)`: the same for one more time step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// How they must be aligned.
    pub align: u64,
    /// The functions, in order.
    pub functions: Vec<Symbol>,
    /// Architecture, vendor, system.
    pub triple: String,
    /// Samples there is room for.
    pub batch: usize,
    /// Bytes of a context.
    pub context: usize,
    /// Bytes of memory a context works in.
    pub memory: usize,
    /// Bytes of the weights, with their header.
    pub weights: usize,
    /// What the header of weights for this program says.
    pub id: u64,
}

/// Bytes of the header of weights: eight for the program's number, the rest zero.
pub const HEADER: usize = 64;

impl Image {
    /// The function of this name.
    pub fn function(&self, name: &str) -> Option<&Symbol> {
        self.functions.iter().find(|f| f.name == name)
    }
}

/// A function that is to be written.
pub(super) enum Body {
    Kernel(usize),
    /// What the lanes of a kernel do, by its number and its own.
    Lanes(usize, usize),
    Drive(usize),
    Init,
    Reset,
    Enter,
    Leave,
    Step,
    Run {
        all: bool,
    },
}

/// What writing functions needs to know.
pub(super) struct Plant<'a> {
    pub(super) program: &'a Program,
    pub(super) plan: Plan,
    pub(super) batch: usize,
    pub(super) id: u64,
    pub(super) target: &'a Target,
    /// Where each loop's addresses start in the context, in bytes.
    pub(super) tables: Vec<i32>,
    pub(super) bodies: Vec<(String, Body)>,
    /// What the lanes of each kernel do, where that is not Cranelift's.
    pub(super) lanes: Vec<Vec<Lanes>>,
}

/// A function before calls are resolved.
struct Piece {
    bytes: Vec<u8>,
    align: u64,
    calls: Vec<(usize, Reloc, i64, usize)>,
}

/// Compiles a program with room for this many samples.
///
/// # Errors
/// If the program cannot be compiled: too many time steps for a pass backwards; otherwise a bug of this module.
pub fn image(program: &Program, batch: usize, target: &Target) -> Result<Image, CodeError> {
    let plan = plan(program, batch);
    let mut bodies: Vec<(String, Body)> = (0..program.kernels.len()).map(|i| (format!("kernel_{i}"), Body::Kernel(i))).collect();
    let mut tables = Vec::new();
    let mut next = super::context::ARGS;
    for (i, (_, l)) in program.loops().enumerate() {
        bodies.push((format!("drive_{i}"), Body::Drive(i)));
        tables.push(next);
        next = i32::try_from(l.args.len()).ok().and_then(|n| n.checked_mul(8)?.checked_add(next)).ok_or_else(too_large)?;
    }
    bodies.extend([("init", Body::Init), ("reset", Body::Reset), ("enter", Body::Enter)].map(|(n, b)| (n.to_owned(), b)));
    bodies.extend(program.leave.iter().map(|_| ("leave".to_owned(), Body::Leave)));
    // Contractions of a library are called by whoever drives the program.
    if program.groups.iter().all(|g| g.contracts.is_empty()) {
        let rest = [("step", Body::Step), ("run", Body::Run { all: true }), ("feed", Body::Run { all: false })];
        let whole = program.leave.is_some();
        bodies.extend(rest.into_iter().filter(|(n, _)| whole || *n == "step").map(|(n, b)| (n.to_owned(), b)));
    }
    let lanes: Vec<Vec<Lanes>> = if target.wide() {
        let of = |(i, k): (usize, &Kernel)| {
            let region = region_of(program, i);
            super::lanes::found(&k.body, avx2::May { multiply: region != Region::Free, fuse: target.fuses(region) })
        };
        program.kernels.par_iter().enumerate().map(of).collect()
    } else {
        program.kernels.iter().map(|_| vec![]).collect()
    };
    for (kernel, own) in lanes.iter().enumerate() {
        bodies.extend((0..own.len()).map(|i| (format!("lanes_{kernel}_{i}"), Body::Lanes(kernel, i))));
    }
    let bytes = |elements: u128| usize::try_from(elements * 4).map_err(|_| too_large());
    let (memory, weights) = (bytes(plan.total)?, bytes(plan.weights)? + HEADER);
    let plant = Plant { program, id: digest(program), batch, plan, target, tables, bodies, lanes };
    let pieces: Vec<Piece> = (0..plant.bodies.len()).into_par_iter().map(|i| piece(&plant, i)).collect::<Result<_, _>>()?;
    let mut image = Image {
        bytes: Vec::new(),
        align: 64,
        functions: Vec::new(),
        triple: target.triple(),
        batch,
        context: (next as usize).next_multiple_of(64),
        memory,
        weights,
        id: plant.id,
    };
    for ((name, body), piece) in plant.bodies.iter().zip(&pieces) {
        let start = image.bytes.len().next_multiple_of(piece.align.max(64) as usize);
        image.bytes.resize(start, 0);
        image.bytes.extend_from_slice(&piece.bytes);
        let (region, label) = plant.purpose(body);
        image.functions.push(Symbol { name: name.clone(), start, size: piece.bytes.len(), region, label });
    }
    for (i, piece) in pieces.iter().enumerate() {
        for (offset, kind, addend, callee) in &piece.calls {
            let at = image.functions[i].start + offset;
            let to = image.functions[*callee].start;
            resolve(&mut image.bytes, at, to, *kind, *addend)?;
        }
    }
    Ok(image)
}

fn too_large() -> CodeError {
    CodeError("the program needs more memory than can be addressed".into())
}

/// A number for the program: weights that were prepared for another one are refused.
fn digest(program: &Program) -> u64 {
    let hash = crate::program::digest(program);
    hash.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// Writes the distance from a call to its callee.
fn resolve(bytes: &mut [u8], at: usize, to: usize, kind: Reloc, addend: i64) -> Result<(), CodeError> {
    let too_far = || CodeError("a call reaches too far".into());
    let far = |_| too_far();
    let distance = to as i64 + addend - at as i64;
    let field = bytes.get_mut(at..at + 4).ok_or_else(|| CodeError("a call outside the code".into()))?;
    let word = match kind {
        Reloc::X86CallPCRel4 => i32::try_from(distance).map_err(far)? as u32,
        Reloc::Arm64Call => {
            let words = i32::try_from(distance >> 2).map_err(far)?;
            // 26 bits, with a sign.
            if !(-(1 << 25)..1 << 25).contains(&words) {
                return Err(too_far());
            }
            u32::from_le_bytes([field[0], field[1], field[2], field[3]]) & 0xfc00_0000 | words as u32 & 0x03ff_ffff
        }
        other => return Err(CodeError(format!("the code is not position-independent: {other:?}"))),
    };
    field.copy_from_slice(&word.to_le_bytes());
    Ok(())
}

fn piece(plant: &Plant<'_>, index: usize) -> Result<Piece, CodeError> {
    let isa = &plant.target.isa;
    let body = &plant.bodies[index].1;
    if let Body::Lanes(kernel, i) = body {
        let bytes = plant.lanes[*kernel][*i].piece.bytes.clone();
        return Ok(Piece { bytes, align: 64, calls: vec![] });
    }
    let signature = plant.signature(body);
    let mut function = Function::with_name_signature(UserFuncName::user(0, index as u32), signature);
    let mut frontend = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut function, &mut frontend);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    builder.seal_block(entry);
    let params: Vec<Value> = builder.block_params(entry).to_vec();
    match body {
        Body::Kernel(i) => {
            let region = plant.region(*i);
            kernel(plant, *i, (region != Region::Free, plant.target.fuses(region)), builder, &params)?;
        }
        _ => drive::write(plant, body, builder, &params)?,
    }
    let names = function.params.user_named_funcs().clone();
    let mut context = Context::for_function(function);
    context.compile(&**isa, &mut ControlPlane::default()).map_err(|e| CodeError(format!("{:?}", e.inner)))?;
    let code = context.compiled_code().ok_or_else(|| CodeError("nothing was compiled".into()))?;
    let mut calls = Vec::new();
    for reloc in code.buffer.relocs() {
        let callee = match &reloc.target {
            FinalizedRelocTarget::ExternalName(ExternalName::User(name)) => callee(&names[*name]),
            _ => None,
        };
        let callee = callee.ok_or_else(|| CodeError(format!("the code is not position-independent: {:?}", reloc.kind)))?;
        calls.push((reloc.offset as usize, reloc.kind, reloc.addend, callee));
    }
    Ok(Piece { bytes: code.code_buffer().to_vec(), align: u64::from(code.buffer.alignment), calls })
}

/// Where in the network a kernel belongs; all its users belong there.
fn region_of(program: &Program, kernel: usize) -> Region {
    program.loops().find(|(_, l)| l.kernel.index() == kernel).map_or(Region::Free, |(_, l)| l.region)
}

fn callee(name: &UserExternalName) -> Option<usize> {
    (name.namespace == 0).then_some(name.index as usize)
}

impl Plant<'_> {
    fn signature(&self, body: &Body) -> Signature {
        let pointer = self.target.isa.pointer_type();
        let mut signature = Signature::new(self.convention());
        let (params, result): (&[_], bool) = match body {
            Body::Kernel(_) => (&[pointer, pointer, I64, I64, I64], false),
            Body::Lanes(..) | Body::Reset | Body::Step => (&[pointer], false),
            Body::Drive(_) => (&[pointer, I64, I64], false),
            Body::Init => (&[pointer, pointer, pointer], true),
            Body::Enter => (&[pointer, pointer, I64, I64], false),
            Body::Leave => (&[pointer, pointer], false),
            Body::Run { .. } => (&[pointer, pointer, I64, pointer], true),
        };
        signature.params.extend(params.iter().map(|t| AbiParam::new(*t)));
        signature.returns.extend(result.then_some(AbiParam::new(I32)));
        signature
    }

    fn convention(&self) -> CallConv {
        self.target.isa.default_call_conv()
    }

    /// Where in the network a function belongs, and what it computes.
    fn purpose(&self, body: &Body) -> (Region, String) {
        match body {
            Body::Kernel(i) | Body::Lanes(i, _) => {
                let mut users = self.program.loops().map(|(_, l)| l).filter(|l| l.kernel.index() == *i);
                let first = users.next();
                let more = users.count();
                let label = first.map_or(String::new(), |l| l.label.clone());
                let label = if more > 0 { format!("{label} and {more} more") } else { label };
                (self.region(*i), label)
            }
            Body::Drive(i) => (Region::Free, self.program.loops().nth(*i).map_or(String::new(), |(_, l)| l.label.clone())),
            _ => (Region::Free, String::new()),
        }
    }

    /// Where in the network a kernel belongs; all its users belong there.
    fn region(&self, kernel: usize) -> Region {
        region_of(self.program, kernel)
    }

    /// The number of a function.
    pub(super) fn number(&self, wanted: impl Fn(&Body) -> bool) -> Option<usize> {
        self.bodies.iter().position(|(_, b)| wanted(b))
    }

    /// Declares another function of the program.
    pub(super) fn import(&self, b: &mut FunctionBuilder<'_>, number: usize) -> FuncRef {
        let signature = self.signature(&self.bodies[number].1);
        let signature = b.import_signature(signature);
        let name: UserExternalNameRef = b.func.declare_imported_user_function(UserExternalName::new(0, number as u32));
        b.import_function(ExtFuncData { name: ExternalName::user(name), signature, colocated: true, patchable: false })
    }
}
