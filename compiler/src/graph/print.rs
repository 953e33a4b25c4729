//! The graph as stable text, in id order.

use super::Graph;
use std::fmt::Write;

/// One line per node: id, operator, operands, signal, path.
pub fn print(graph: &Graph) -> String {
    let mut out = format!("graph {} (T = {})\n", graph.name, graph.time);
    for id in graph.ids() {
        let node = graph.node(id);
        let operands: Vec<String> =
            node.inputs.iter().map(ToString::to_string).chain(node.params.iter().map(ToString::to_string)).collect();
        let mark = if node.encoder { " encoder" } else { "" };
        let _ = writeln!(out, "  {id} = {}({}) : {}{mark}  // {}", node.op.word(), operands.join(", "), node.signal, node.path);
    }
    let _ = writeln!(out, "  output {}", graph.output);
    for (i, param) in graph.params.iter().enumerate() {
        let axes: Vec<String> = param.axes.iter().map(|a| format!("{} = {}", a.name, a.size)).collect();
        let _ = writeln!(out, "  ${i} = {:?}[{}]  // {}", param.role, axes.join(", "), param.path);
    }
    out
}
