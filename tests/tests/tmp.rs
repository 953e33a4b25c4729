#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]
use snnc_grammar::SourceMap; use snnc_compiler::*; use snnc_runtime::library::*;
#[test] fn a() {
  for (f, names) in [("mixer/mlp_spe", vec!["MlpSpeT","MlpSpeS","MlpSpeB"]),("mixer/mlp_spe_published",vec!["MlpSpeTPublished","MlpSpeSPublished","MlpSpeBPublished"]),("mixer/mlp",vec!["MlpS"]),("mixer/mlp_published",vec!["MlpSPublished"]),("quickstart/digits",vec!["Digits"])] {
   for n in names {
    let mut s = SourceMap::default(); let id = open(&mut s, f).unwrap();
    let show = |s:&SourceMap, ds: Vec<snnc_grammar::Diagnostic>| { for d in ds { let mut o=String::new(); miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor()).with_width(100).render_report(&mut o, &d.report(s)).unwrap(); println!("{o}"); } };
    let p = match resolve::resolve(&mut s, id, &Library) { Ok(p)=>p, Err(e)=>{show(&s,e); panic!()} };
    let i = graph::instantiate(&mut s, &p, Some(n), &Default::default()).unwrap();
    let g = match graph::build(&p,&i){ Ok(g)=>g, Err(e)=>{show(&s,e); panic!()} };
    println!("{n} {} nodes {} params", g.nodes.len(), g.trained());
    if n=="Digits" { println!("{}", graph::print(&g)); }
    let c = check::check(g);
    println!("{} residues {} share {}", c.findings().verdict, c.findings().residues.len(), c.findings().encoder_share());
    show(&s, c.findings().diagnostics.clone());
    let f = fold::fold(&c);
    if n=="Digits" { println!("{}", graph::print(&f.graph)); }
   }
  }
}
