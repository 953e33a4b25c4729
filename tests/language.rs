//! Properties of the language: what is printed parses to the same tree, and no text whatever stops the compiler.

use proptest::prelude::*;
use snnc_compiler::check::check;
use snnc_compiler::graph::{Settings, build, instantiate};
use snnc_compiler::resolve::resolve;
use snnc_grammar::{SourceMap, parse, print};
use snnc_runtime::library::Library;

fn items(text: &str) -> Option<String> {
    let mut sources = SourceMap::default();
    let file = sources.add("t.snn", text);
    parse(&sources, file).ok().map(|m| format!("{:?}", m.items))
}

fn printed(text: &str) -> Option<String> {
    let mut sources = SourceMap::default();
    let file = sources.add("t.snn", text);
    parse(&sources, file).ok().map(|m| print(&m, text))
}

#[test]
fn printing_the_zoo_changes_no_tree_and_twice_changes_nothing() {
    for (name, text) in snnc_zoo::MODELS.iter().chain(snnc_zoo::BLOCKS) {
        let once = printed(text).unwrap();
        assert_eq!(items(text), items(&once), "{name}");
        assert_eq!(printed(&once).unwrap(), once, "{name}");
        assert_eq!(once, **text, "{name} is not formatted");
    }
}

/// Takes a text as far as it goes; must not panic.
fn compile(text: &str) {
    let mut sources = SourceMap::default();
    let file = sources.add("t.snn", text);
    let graph = resolve(&mut sources, file, &Library).and_then(|package| {
        let set = vec![("depths".to_owned(), "[1, 1]".to_owned())];
        let instance = instantiate(&mut sources, &package, None, &Settings { set, time: None })?;
        build(&package, &instance)
    });
    if let Ok(graph) = graph {
        check(graph);
    }
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[a-z][a-z0-9]{0,3}x".prop_map(|s| s),
        (0i64..1000).prop_map(|i| i.to_string()),
        (0.0f64..1e6).prop_map(|f| format!("{f:?}")),
        Just("true".to_owned()),
        Just("\"a \\\" b\"".to_owned()),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            (inner.clone(), prop_oneof!["\\+", "-", "\\*", "/", "%", "<<", "&&", "\\|\\|"], inner.clone())
                .prop_map(|(a, o, b)| format!("({a}) {o} {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("f({a}, K = {b}, C, D -> E = 3)")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}][{a}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} |> g |> h({b}))")),
            inner.clone().prop_map(|a| format!("-({a})")),
            inner.prop_map(|a| format!("concat(C; {a}, !zx)")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn printing_and_parsing_again_gives_the_same_tree(e in expression(), f in expression()) {
        let text = format!("model M {{ // c\n a = {e}\n\n stage q[{f}] {{ yield {f} }} if {e} {{ }} else {{ b = {f} }} }}");
        let tree = items(&text);
        prop_assert!(tree.is_some(), "{}", text);
        let once = printed(&text).unwrap();
        prop_assert_eq!(&tree, &items(&once), "{}", once);
        prop_assert_eq!(printed(&once).unwrap(), once);
    }

    #[test]
    fn byte_edits_of_the_zoo_never_panic(which in 0usize..100, edits in prop::collection::vec((any::<u32>(), any::<u8>(), 0u8..3), 1..6)) {
        let (_, text) = snnc_zoo::MODELS[which % snnc_zoo::MODELS.len()];
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte, kind) in edits {
            let at = at as usize % bytes.len();
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        compile(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn token_edits_of_the_zoo_never_panic(which in 0usize..100, edits in prop::collection::vec((any::<u32>(), any::<u32>(), 0u8..3), 1..4)) {
        let (_, text) = snnc_zoo::MODELS[which % snnc_zoo::MODELS.len()];
        let mut tokens: Vec<&str> = text.split_inclusive([' ', '(', ')', ',', '\n']).collect();
        for (a, b, kind) in edits {
            let (a, b) = (a as usize % tokens.len(), b as usize % tokens.len());
            match kind {
                0 => tokens.swap(a, b),
                1 => tokens[a] = tokens[b],
                _ => drop(tokens.remove(a)),
            }
        }
        compile(&tokens.concat());
    }

    #[test]
    fn comments_and_blank_lines_anywhere_are_put_in_order_once(
        which in 0usize..100,
        edits in prop::collection::vec((any::<u32>(), prop::sample::select(vec!["\n", "\n\n\n", " // c\n", "\n// c\n", "\n\n  // c\n\n"])), 1..5),
    ) {
        let (_, text) = snnc_zoo::MODELS[which % snnc_zoo::MODELS.len()];
        let mut tokens: Vec<String> = text.split_inclusive([' ', '(', ')', ',', '\n']).map(str::to_owned).collect();
        for (at, what) in edits {
            let at = at as usize % tokens.len();
            // Not inside a comment or a string.
            let before = tokens[..at].concat();
            let line = before.rsplit('\n').next().unwrap_or_default();
            if !line.contains("//") && line.matches('"').count() % 2 == 0 {
                tokens.insert(at, what.to_owned());
            }
        }
        if let Some(once) = printed(&tokens.concat()) {
            prop_assert_eq!(printed(&once), Some(once.clone()));
            prop_assert_eq!(once.matches("// c").count(), tokens.concat().matches("// c").count());
        }
    }

    #[test]
    fn any_text_at_all(text in "\\PC{0,200}") {
        compile(&text);
    }
}
