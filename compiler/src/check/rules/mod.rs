//! The rules, one file each: what they refuse, why, and what mends it.

pub(super) mod leak;
pub(super) mod real_operand;
pub(super) mod real_product;
pub(super) mod transcendental;
pub(super) mod unfoldable_scale;

use super::{Context, Residue};
use crate::types::NodeId;

/// The names of all rules, as `allow` takes them.
pub const RULES: [&str; 5] = ["real_operand", "real_product", "transcendental", "unfoldable_scale", "leak"];

/// A residue at a node; its code is `check::` and the rule's name.
pub(super) fn residue(cx: &Context<'_>, code: &'static str, id: NodeId, message: String, label: String, help: &str) -> Box<Residue> {
    let rule = code.trim_start_matches("check::");
    debug_assert!(RULES.contains(&rule), "{rule} is not among the rules");
    let node = cx.graph.node(id);
    let steps = if node.signal.varies { cx.graph.time as u64 } else { 1 };
    let each = node.signal.elements() as u64 * steps;
    // A map's biases are added.
    let biases = if node.params.len() > 1 { each } else { 0 };
    let products = cx.graph.work(id).saturating_sub(biases).max(each);
    Box::new(Residue {
        rule,
        code,
        node: id,
        path: node.path.clone(),
        multiplications: products,
        admitted: false,
        message,
        span: node.span,
        label,
        help: help.to_owned(),
        remedies: vec![],
    })
}
