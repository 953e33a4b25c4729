//! What every graph must satisfy; a failure is a bug of the compiler, not of its user.

use super::Graph;
use std::collections::HashSet;

/// Checks operand order, arities, signals and the uniqueness of paths.
///
/// # Panics
/// In debug builds and tests, naming the pass, if the graph is malformed.
pub fn verify(graph: &Graph, pass: &str) {
    if !cfg!(debug_assertions) {
        return;
    }
    let mut paths = HashSet::new();
    for id in graph.ids() {
        let node = graph.node(id);
        assert!(node.inputs.iter().all(|i| *i < id), "{pass}: {id} reads a later node");
        assert!(node.params.iter().all(|p| p.index() < graph.params.len()), "{pass}: {id} has an unknown parameter");
        assert!(paths.insert(&node.path), "{pass}: two nodes are called {}", node.path);
        let signals = graph.input_signals(node);
        match node.op.infer(&signals, graph.time) {
            Ok(signal) => assert_eq!(signal, node.signal, "{pass}: {id} {} has another signal than its operator gives", node.path),
            Err(problem) => panic!("{pass}: {id} {}: {}", node.path, problem.message),
        }
    }
    assert!(graph.output.index() < graph.nodes.len(), "{pass}: no output");
}
