//! Every code has a case: the source, and the report as a user sees it.

use snnc_compiler::check::check;
use snnc_compiler::graph::{Settings, build, instantiate};
use snnc_compiler::resolve::resolve;
use snnc_compiler::{explain, recipe};
use snnc_grammar::{Diagnostic, SourceMap};
use snnc_runtime::library::Library;
use snnc_tests::render;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/errors")
}

/// Everything that is found wrong with a file.
fn findings(path: &Path) -> (SourceMap, Vec<Diagnostic>) {
    let mut sources = SourceMap::default();
    let text = std::fs::read_to_string(path).unwrap();
    // Names relative to the suite, so that snapshots do not hang on the machine.
    std::env::set_current_dir(folder()).unwrap();
    let file = sources.add(path.file_name().unwrap().to_string_lossy(), text);
    let mut all = Vec::new();
    let result = resolve(&mut sources, file, &Library).and_then(|package| {
        all.extend(recipe::errors(&package));
        let instance = instantiate(&mut sources, &package, None, &Settings::default())?;
        build(&package, &instance)
    });
    match result {
        Ok(graph) => all.extend(check(graph).findings().diagnostics.iter().cloned()),
        Err(errors) => all.extend(errors),
    }
    (sources, all)
}

/// `resolve.duplicate-section` is a case of `resolve::duplicate`.
fn code(stem: &str) -> Option<String> {
    let (stage, name) = stem.split_once('.')?;
    Some(format!("{stage}::{}", name.split('-').next()?))
}

#[test]
fn every_case_gives_its_code_and_its_report() {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let Some(code) = code(&stem) else { continue };
        let (sources, found) = findings(&path);
        assert!(found.iter().any(|d| d.code == code), "{stem} gives {:?}", found.iter().map(|d| d.code).collect::<Vec<_>>());
        let source = std::fs::read_to_string(&path).unwrap();
        insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "snapshots/errors", omit_expression => true }, {
            insta::assert_snapshot!(stem, format!("{source}\n---\n{}", render(&sources, &found)));
        });
    }
}

#[test]
fn every_code_has_a_page_and_a_case() {
    // These need bytes or a command line, and are cases of the command line's suite.
    let elsewhere = [
        "syntax::encoding",
        "syntax::too_large",
        "io::read",
        "build::setting",
        "recipe::unknown",
        "policy::file",
        "policy::verdict",
        "policy::encoder_share",
    ];
    let cases: BTreeSet<String> =
        std::fs::read_dir(folder()).unwrap().filter_map(|e| code(&e.unwrap().path().file_stem().unwrap().to_string_lossy())).collect();
    let pages: BTreeSet<String> = explain::pages().map(|(c, _)| c.to_owned()).collect();
    for page in &pages {
        assert!(cases.contains(page) || elsewhere.contains(&page.as_str()), "no case for {page}");
    }
    for case in &cases {
        assert!(pages.contains(case), "no page for {case}");
    }
    // Codes as they stand in the source.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for folder in ["grammar/src", "compiler/src", "runtime/src"] {
        for file in walk(&root.join(folder)) {
            for part in std::fs::read_to_string(&file).unwrap().split('"').skip(1).step_by(2) {
                let stages = ["syntax", "resolve", "build", "shape", "recipe", "check", "io"];
                let is_code = part
                    .split_once("::")
                    .is_some_and(|(s, n)| stages.contains(&s) && !n.is_empty() && n.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
                assert!(!is_code || pages.contains(part), "{} uses the code {part}, which has no page", file.display());
            }
        }
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}
