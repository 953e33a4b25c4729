//! Spikes that pick a constant: what they are worth, and that of the step where values are held in tables.

use super::{Expr, Folder};
use crate::check::How;
use crate::ops::select::Select;
use crate::ops::{Linearity, Op, Selection, ramp};
use crate::types::{Axis, NodeId, STEPS};

impl Folder<'_> {
    /// The operands of a node as it needs them: where spikes pick what they are worth, or a step's constant, they do so once
    /// for all readers.
    pub(super) fn operands(&mut self, id: NodeId) -> Vec<NodeId> {
        let (old, plan) = (self.old, &self.plan[id.index()]);
        let node = old.node(id);
        let maps = matches!(node.op.linearity(), Linearity::Map { .. });
        let own = plan.factor == Some(crate::check::Destination::Select) && node.op.selection() != Selection::Neuron;
        let mut inputs = Vec::new();
        for (i, input) in node.inputs.iter().enumerate() {
            let new = self.map[input.index()];
            let worth = self.carries[input.index()].scale.clone().filter(|_| plan.selects);
            let ramp = plan.ramp.filter(|r| !maps && !own && r.operand.is_none_or(|k| k == i));
            let ramp = ramp.filter(|_| self.plan[input.index()].ramp.is_none() || old.node(*input).op.selection() == Selection::Neuron);
            let table = ramp.map(|r| Expr::List(r.table(old.time), STEPS.into()));
            let key = (*input, worth.is_some(), ramp.map(|r| r.leak.to_bits()));
            if worth.is_none() && table.is_none() {
                inputs.push(new);
                continue;
            }
            let known = self.selected.get(&key).copied();
            let picked = known.unwrap_or_else(|| match (worth, table) {
                (None, Some(table)) if old.node(*input).encoder => self.ramp(*input, new, table),
                (worth, table) => {
                    let value = worth.into_iter().chain(table).reduce(|a, b| a * b).unwrap_or(Expr::Const(1.0));
                    self.select(*input, new, value)
                }
            });
            self.selected.insert(key, picked);
            inputs.push(picked);
        }
        inputs
    }

    /// What the encoder gives, held in a table.
    fn ramp(&mut self, old: NodeId, value: NodeId, table: Expr) -> NodeId {
        let param = self.param(format!("{}.steps", self.old.node(old).path), vec![Axis::new(STEPS, self.old.time)], table);
        let new = self.push(old, Op::Ramp(ramp::Ramp), vec![value], vec![param], false);
        self.nodes[new.index()].path.push_str(".steps");
        *self.how.last_mut().unwrap_or(&mut How::Encoder) = How::Encoder;
        new
    }

    /// The constant that spikes are worth, where they are.
    pub(super) fn select(&mut self, old: NodeId, spikes: NodeId, worth: Expr) -> NodeId {
        let signal = self.nodes[spikes.index()].signal.clone();
        let mut names = Vec::new();
        worth.axes(&mut names);
        let mut axes: Vec<Axis> = signal.axes.iter().filter(|a| names.contains(&a.name)).cloned().collect();
        if names.iter().any(|n| n == STEPS) {
            axes.insert(0, Axis::new(STEPS, self.old.time));
        }
        let name = if axes.first().is_some_and(|a| a.name == STEPS) { "steps" } else { "worth" };
        let mut path = format!("{}.{name}", self.old.node(old).path);
        for n in 2.. {
            if self.nodes.iter().all(|node| node.path != path) {
                break;
            }
            path = format!("{}.{name}#{n}", self.old.node(old).path);
        }
        let param = self.param(path.clone(), axes.clone(), worth);
        let new = self.push(old, Op::Select(Select { axes }), vec![spikes], vec![param], false);
        self.nodes[new.index()].path = path;
        *self.how.last_mut().unwrap_or(&mut How::Select) = How::Select;
        new
    }
}
