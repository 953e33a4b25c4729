//! The graph as stable text, in id order: everything it holds but places in the source.

use super::Graph;
use crate::ops::Op;
use serde_json::Value;
use std::fmt::Write;

/// One line per node: id, operator with its settings, operands, signal, path.
pub fn print(graph: &Graph) -> String {
    let mut out = format!("graph {} (T = {})\n", graph.name, graph.time);
    for id in graph.ids() {
        let node = graph.node(id);
        let operands: Vec<String> =
            node.inputs.iter().map(ToString::to_string).chain(node.params.iter().map(ToString::to_string)).collect();
        let mark = if node.encoder { " encoder" } else { "" };
        let (word, settings) = (node.op.word(), settings(&node.op));
        let _ = writeln!(out, "  {id} = {word}({}) : {}{mark}  // {}{settings}", operands.join(", "), node.signal, node.path);
    }
    let _ = writeln!(out, "  output {}", graph.output);
    for (i, param) in graph.params.iter().enumerate() {
        let axes: Vec<String> = param.axes.iter().map(|a| format!("{} = {}", a.name, a.size)).collect();
        let _ = writeln!(out, "  ${i} = {:?}[{}] from {:?}  // {}", param.role, axes.join(", "), param.init, param.path);
    }
    out
}

/// ` {bias = false, channels = 48}`; nothing for an operator without settings. What signals and parameters say is left out.
fn settings(op: &Op) -> String {
    // An enum's value is an object with the variant's name as its only key.
    let value = serde_json::to_value(op).unwrap_or_default();
    let mut fields = value.as_object().and_then(|o| o.values().next()?.as_object().cloned()).unwrap_or_default();
    ["signal", "init", "bias_init"].iter().for_each(|said| drop(fields.remove(*said)));
    if fields.is_empty() { String::new() } else { format!(" {}", text(&Value::Object(fields))) }
}

fn text(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Object(fields) => match (fields.get("name"), fields.get("size"), fields.len()) {
            // An axis, as the language writes it.
            (Some(Value::String(name)), Some(size), 2) => format!("{name} = {size}"),
            _ => format!("{{{}}}", list(fields.iter().map(|(k, v)| format!("{k} = {}", text(v))).collect())),
        },
        Value::Array(items) => format!("[{}]", list(items.iter().map(text).collect())),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}
