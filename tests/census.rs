//! The instruction census: on every model of the zoo made small (proof.rs: at full size), on planted multiplications, on the bytes that run.

use snnc_compiler::backend::clif::{Image, Symbol, Target, image};
use snnc_compiler::census::{Census, Wrong, census};
use snnc_compiler::check::{Checked, Verdict};
use snnc_compiler::flow::{Bin, Region, Un};
use snnc_compiler::fold::fold;
use snnc_compiler::fuse::{self, Expected, fuse_for};
use snnc_compiler::kernel::{Expr, Int, IntExpr, Kernel, Stmt, Var};
use snnc_compiler::lower::{self, Watch};
use snnc_compiler::program::Program;
use snnc_runtime::session::{Inference, inference_program, streaming_program};
use snnc_runtime::weights::Weights;
use snnc_tests::{small_zoo, zoo};

fn targets() -> [Target; 3] {
    [Target::host().unwrap(), Target::named("x86-64").unwrap(), Target::named("aarch64").unwrap()]
}

fn of(image: &Image) -> Census {
    census(&image.functions, &image.bytes, &image.triple).unwrap()
}

/// No multiplication outside encoder and residues; in a strict model there are no residues.
fn clean(name: &str, strict: bool, program: &Program, target: &Target) {
    let census = of(&image(program, 1, target).unwrap());
    assert_eq!(census.findings, vec![], "{name} for {}", census.triple);
    assert_eq!(census.of(Region::Free).1, 0, "{name}");
    assert_eq!(census.of(Region::Residue).0 == 0, strict, "{name} for {}", census.triple);
}

/// On every target.
pub(crate) fn multiplies_only_in_its_encoder(name: &str, checked: &Checked) {
    let strict = checked.findings().verdict == Verdict::Strict;
    for program in [inference_program, streaming_program] {
        let (_, program) = program(&fold(checked), Watch::Nothing);
        for target in targets() {
            clean(name, strict, &program, &target);
        }
    }
}

#[test]
fn every_small_model_multiplies_only_in_its_encoder_on_every_target() {
    for (name, checked) in small_zoo() {
        multiplies_only_in_its_encoder(&name, &checked);
        // However it is cut.
        let (flow, strict) = (lower::infer(&fold(&checked), Watch::Nothing), checked.findings().verdict == Verdict::Strict);
        for (threads, lanes) in [(1, 8), (8, 64)] {
            let expected = Expected { threads, lanes, ..Expected::default() };
            let program = fuse_for(&flow, fuse::Target::Infer, checked.graph().time, &expected);
            clean(&name, strict, &program, &Target::host().unwrap());
        }
    }
}

#[test]
fn the_code_that_runs_is_the_code_that_was_looked_at() {
    let checked = zoo("quickstart/digits", &[], None);
    let mut session = Inference::new(&checked, &Weights::initial(checked.graph(), 1), 2, Watch::Nothing).unwrap();
    session.run(&vec![0.5; 128], 2).unwrap();
    let (image, running) = (session.executable().image(), session.executable().code());
    assert_eq!(image.bytes, running);
    assert_eq!(census(&image.functions, running, &image.triple).unwrap().findings, vec![]);
}

/// The kernels of a loop outside the encoder.
fn free_kernel(program: &mut Program) -> &mut Kernel {
    let at = program.loops().find(|(_, l)| l.region == Region::Free).map(|(_, l)| l.kernel.index()).unwrap();
    &mut program.kernels[at]
}

#[test]
fn multiplications_that_are_written_into_a_program_are_found() {
    let number = |value| Stmt::Store(snnc_compiler::kernel::Place { arg: 0, terms: vec![], offset: 0 }, value);
    let (x, i) = (|| Box::new(Expr::Steps), Int(999));
    let into = |e: IntExpr| vec![Stmt::LetInt(i, e), number(Expr::Scratch(0, i))];
    let plants: [(&str, Vec<Stmt>); 8] = [
        ("a multiplication", vec![number(Expr::Bin(Bin::Mul, x(), x()))]),
        ("a division", vec![number(Expr::Bin(Bin::Div, x(), x()))]),
        ("a root", vec![number(Expr::Un(Un::Sqrt, x()))]),
        ("a multiplication", vec![number(Expr::Un(Un::Exp, x()))]),
        ("a multiplication", vec![number(Expr::Un(Un::Ln, x()))]),
        ("a multiplication", vec![number(Expr::Random(3, vec![]))]),
        // On addresses: a division by a constant is a multiplication by its inverse.
        ("a multiplication", [vec![Stmt::LetInt(Int(998), IntExpr::Range)], into(IntExpr::Quotient(Int(998), 7))].concat()),
        ("a multiplication", vec![Stmt::Let(Var(999), Expr::Bin(Bin::Mul, x(), x())), number(Expr::Var(Var(999)))]),
    ];
    let (_, program) = inference_program(&fold(&zoo("quickstart/digits", &[("dim", "12")], None)), Watch::Nothing);
    for (how, stmts) in plants {
        let mut program = program.clone();
        let kernel = free_kernel(&mut program);
        kernel.scratch = kernel.scratch.max(1);
        kernel.body.extend(stmts);
        for target in targets() {
            let found = of(&image(&program, 1, &target).unwrap()).findings;
            let told = |w: &Wrong| *w == Wrong::Multiplies(how.to_owned());
            assert!(found.iter().any(|f| told(&f.wrong)), "{how} for {}: {found:?}", target.triple());
        }
    }
}

#[test]
fn an_encoder_that_is_not_declared_is_found() {
    let (_, program) = inference_program(&fold(&zoo("quickstart/digits", &[("dim", "12")], None)), Watch::Nothing);
    for target in targets() {
        let mut image = image(&program, 1, &target).unwrap();
        assert!(of(&image).of(Region::Encoder).1 > 0);
        image.functions.iter_mut().for_each(|f| f.region = Region::Free);
        assert!(of(&image).findings.iter().all(|f| matches!(f.wrong, Wrong::Multiplies(_))));
        assert!(!of(&image).findings.is_empty());
    }
}

/// One function of these bytes, and behind it one that only returns.
fn planted(triple: &str, code: &[u8], end: &[u8]) -> Vec<Wrong> {
    let symbol = |name: &str, start, size| Symbol { name: name.into(), start, size, region: Region::Free, label: String::new() };
    let own = [code, end].concat();
    let bytes = [&own, end].concat();
    let functions = [symbol("planted", 0, own.len()), symbol("other", own.len(), end.len())];
    census(&functions, &bytes, triple).unwrap().findings.into_iter().map(|f| f.wrong).collect()
}

#[test]
fn every_kind_of_multiplication_in_machine_code_is_found() {
    let multiplies = |how: &str| vec![Wrong::Multiplies(how.to_owned())];
    let x86: [(&[u8], Vec<Wrong>); 26] = [
        (&[0x48, 0x0f, 0xaf, 0xc1], multiplies("a multiplication")), // imul rax, rcx
        (&[0x48, 0xf7, 0xe1], multiplies("a multiplication")),       // mul rcx
        (&[0xc4, 0xe2, 0xfb, 0xf6, 0xc1], multiplies("a multiplication")), // mulx rax, rax, rcx
        (&[0x48, 0xf7, 0xf9], multiplies("a division")),             // idiv rcx
        (&[0x48, 0xf7, 0xf1], multiplies("a division")),             // div rcx
        (&[0x0f, 0x59, 0xc1], multiplies("a multiplication")),       // mulps xmm0, xmm1
        (&[0xf3, 0x0f, 0x59, 0xc1], multiplies("a multiplication")), // mulss xmm0, xmm1
        (&[0xf2, 0x0f, 0x59, 0xc1], multiplies("a multiplication")), // mulsd xmm0, xmm1
        (&[0xc5, 0xfc, 0x59, 0xc1], multiplies("a multiplication")), // vmulps ymm0, ymm0, ymm1
        (&[0x0f, 0x5e, 0xc1], multiplies("a division")),             // divps xmm0, xmm1
        (&[0xc4, 0xe2, 0x71, 0xb8, 0xc2], multiplies("a fused multiply-add")), // vfmadd231ps xmm0, xmm1, xmm2
        (&[0xc4, 0xe2, 0x71, 0xbc, 0xc2], multiplies("a fused multiply-add")), // vfnmadd231ps
        (&[0x0f, 0x53, 0xc1], multiplies("a reciprocal")),           // rcpps xmm0, xmm1
        (&[0x0f, 0x52, 0xc1], multiplies("a root")),                 // rsqrtps xmm0, xmm1
        (&[0x0f, 0x51, 0xc1], multiplies("a root")),                 // sqrtps xmm0, xmm1
        (&[0x66, 0x0f, 0x3a, 0x40, 0xc1, 0xff], multiplies("a dot product")), // dpps xmm0, xmm1, 255
        (&[0x66, 0x0f, 0xf5, 0xc1], multiplies("a dot product")),    // pmaddwd xmm0, xmm1
        (&[0x66, 0x0f, 0x38, 0x40, 0xc1], multiplies("a multiplication")), // pmulld xmm0, xmm1
        (&[0xd8, 0xc9], multiplies("a multiplication")),             // fmul st(1)
        (&[0xe8, 0x40, 0x00, 0x00, 0x00], vec![Wrong::CallsOut]),    // call somewhere
        (&[0xff, 0xd0], vec![Wrong::CallsOut]),                      // call rax
        (&[0xff, 0xe0], vec![Wrong::Computed]),                      // jmp rax
        (&[0xeb, 0x01], vec![Wrong::Leaves]),                        // jmp over the end
        (&[0x0f, 0xa2], vec![Wrong::Unlisted]),                      // cpuid
        (&[0x50], vec![Wrong::Unlisted]),                            // push rax, to which the return would go
        (&[0xc2, 0x08, 0x00], vec![Wrong::Unlisted]),                // ret 8
    ];
    for (code, wrong) in x86 {
        assert_eq!(planted("x86_64-unknown-linux-gnu", code, &[0xc3]), wrong, "{code:x?}");
    }
    // A constant that would be a multiplication is none if no branch leads there: jmp over imul.
    assert_eq!(planted("x86_64-unknown-linux-gnu", &[0xeb, 0x04, 0x48, 0x0f, 0xaf, 0xc1], &[0xc3]), vec![]);
    // And an instruction that hides in another one's bytes is found where it is jumped into: jmp into mov eax, imm32.
    let hidden = planted("x86_64-unknown-linux-gnu", &[0x74, 0x01, 0xb8, 0x0f, 0xaf, 0xc1, 0x90], &[0xc3]);
    assert_eq!(hidden, multiplies("a multiplication"));

    let arm: [(u32, Vec<Wrong>); 16] = [
        (0x9b01_7c00, multiplies("a multiplication")),     // mul x0, x0, x1
        (0x9b01_0800, multiplies("a multiplication")),     // madd x0, x0, x1, x2
        (0x9bc1_7c00, multiplies("a multiplication")),     // umulh x0, x0, x1
        (0x9ac1_0800, multiplies("a division")),           // udiv x0, x0, x1
        (0x6e21_dc00, multiplies("a multiplication")),     // fmul v0.4s, v0.4s, v1.4s
        (0x1e21_0800, multiplies("a multiplication")),     // fmul s0, s0, s1
        (0x4e21_cc00, multiplies("a fused multiply-add")), // fmla v0.4s, v0.4s, v1.4s
        (0x1f01_0800, multiplies("a fused multiply-add")), // fmadd s0, s0, s1, s2
        (0x6e21_fc00, multiplies("a division")),           // fdiv v0.4s, v0.4s, v1.4s
        (0x6ea1_f800, multiplies("a root")),               // fsqrt v0.4s, v0.4s
        (0x4ea1_d800, multiplies("a reciprocal")),         // frecpe v0.4s, v0.4s
        (0x4e81_9400, multiplies("a dot product")),        // sdot v0.4s, v0.16b, v1.16b
        (0x4ea1_9c00, multiplies("a multiplication")),     // mul v0.4s, v0.4s, v1.4s
        (0xd61f_0000, vec![Wrong::Computed]),              // br x0
        (0xd63f_0000, vec![Wrong::CallsOut]),              // blr x0
        (0xd65f_0020, vec![Wrong::Unlisted]),              // ret x1
    ];
    for (word, wrong) in arm {
        let found = planted("aarch64-unknown-linux-gnu", &word.to_le_bytes(), &0xd65f_03c0u32.to_le_bytes());
        assert_eq!(found, wrong, "{word:x}");
    }
    assert!(census(&[], &[], "riscv64gc-unknown-linux-gnu").is_err());
}
