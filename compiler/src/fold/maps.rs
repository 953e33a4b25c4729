//! Maps: rescaled by what their operand carries and by what they take from behind, composed with the maps behind
//! them, and through the pool before them.

use super::{Carry, Expr, Folder, plus};
use crate::check::How;
use crate::flow::Window;
use crate::ops::{Linearity, Op, linear, merge};
use crate::types::{Axis, NodeId, STEPS};

/// A map as it is put together: y = weight x + bias.
struct Map {
    weight: Expr,
    bias: Option<Expr>,
    window: Window,
    output_axis: String,
    outputs: usize,
}

impl Map {
    /// y ← scale · y + shift / summed.
    fn scaled(&mut self, scale: Option<Expr>, shift: Option<Expr>, summed: f64) {
        let own = |e: Expr| e.renamed(&self.output_axis, "out");
        if let Some(scale) = scale.map(own) {
            self.weight = self.weight.clone() * scale.clone();
            self.bias = self.bias.take().map(|b| b * scale);
        }
        if let Some(shift) = shift.map(own) {
            self.bias = Some(plus(self.bias.take(), shift * Expr::Const(1.0 / summed)));
        }
    }
}

impl Folder<'_> {
    /// A map with all that it takes.
    pub(super) fn linear_map(&mut self, id: NodeId, input: NodeId, carry: &Carry, input_axis: &str, output_axis: &str) -> NodeId {
        let node = self.old.node(id);
        let plan = &self.plan[id.index()];
        let mut axes: Vec<Axis> = self.old.param(node.params[0]).axes.clone();
        let names: Vec<String> = axes.iter().map(|a| a.name.clone()).collect();
        let Linearity::Map { window, .. } = node.op.linearity() else { return input };
        let mut map = Map {
            weight: Expr::Param(node.params[0], names.clone()),
            bias: node.params.get(1).map(|p| Expr::Param(*p, vec!["out".into()])),
            window,
            output_axis: output_axis.to_owned(),
            outputs: axes[0].size,
        };
        if let Some(shift) = &carry.shift {
            let constant = (map.weight.clone() * shift.renamed(input_axis, "in")).sum(&names[1..]);
            map.bias = Some(plus(map.bias, constant));
        }
        if let Some(scale) = &carry.scale {
            map.weight = map.weight * scale.renamed(input_axis, "in");
        }
        for step in self.steps.remove(&id).unwrap_or_default() {
            map.scaled(step.scale, step.shift, step.summed);
            if let Some(second) = step.map {
                self.compose(&mut map, second, step.summed);
            }
        }
        if let Some(wide) = plan.window {
            map.weight = self.through_pool(map.weight, id);
            map.window = wide;
        }
        axes[0].size = map.outputs;
        axes.iter_mut().filter(|a| a.name == "kh").for_each(|a| a.size = map.window.kernel[0]);
        axes.iter_mut().filter(|a| a.name == "kw").for_each(|a| a.size = map.window.kernel[1]);
        let mut out = vec![Axis::new("out", map.outputs)];
        if let Some(ramp) = plan.ramp {
            let table = Expr::List(ramp.table(self.old.time), STEPS.into());
            map.weight = map.weight * table.clone();
            map.bias = map.bias.map(|b| b * table);
            axes.insert(0, Axis::new(STEPS, self.old.time));
            out.insert(0, Axis::new(STEPS, self.old.time));
        }
        let mut params = vec![self.param(format!("{}.weight", node.path), axes, map.weight)];
        if let Some(bias) = map.bias {
            params.push(self.param(format!("{}.bias", node.path), out, bias));
        }
        let op = mapped(&node.op, params.len() > 1, &map.output_axis, map.outputs);
        let op = op.widened(map.window).unwrap_or(op);
        let new = self.push(id, op, vec![input], params, false);
        // Time steps are no axis of a signal.
        if map.output_axis == "T" || self.nodes[new.index()].signal.size(&map.output_axis).is_some() {
            return new;
        }
        // A convolution's channels stay called so; composed with a map to another axis they are renamed behind it.
        let rename = merge::Merge { from: vec![Axis::new(output_axis, map.outputs)], to: map.output_axis };
        let renamed = self.push(id, Op::Merge(rename), vec![new], vec![], false);
        self.nodes[renamed.index()].path.push_str(".renamed");
        *self.how.last_mut().unwrap_or(&mut How::Free) = How::Free;
        renamed
    }

    /// W = W₂ W₁, b = W₂ b₁ + b₂ / n, with the shared axis called `mid`.
    fn compose(&mut self, map: &mut Map, second: NodeId, summed: f64) {
        let next = self.old.node(second);
        let Linearity::Map { output_axis, window, .. } = next.op.linearity() else { return };
        let param = self.old.param(next.params[0]);
        let names: Vec<String> = param.axes.iter().map(|a| if a.name == "in" { "mid".into() } else { a.name.clone() }).collect();
        let w2 = Expr::Param(next.params[0], names.clone());
        let stride = map.window.stride;
        map.weight = Expr::then(map.weight.renamed("out", "mid"), w2.clone(), stride);
        map.bias = map.bias.take().map(|b| (w2 * b.renamed("out", "mid")).sum(&names[1..]));
        if let Some(p) = next.params.get(1) {
            let own = Expr::Param(*p, vec!["out".into()]) * Expr::Const(1.0 / summed);
            map.bias = Some(plus(map.bias.take(), own));
        }
        map.outputs = param.axes[0].size;
        map.output_axis = output_axis;
        // What is summed behind zeros around it was refused by the checker.
        map.window = map.window.then(&window, [1, 1], true).unwrap_or(map.window);
    }

    /// Every tap of a weight once for every place of the pool's window.
    fn through_pool(&self, weight: Expr, conv: NodeId) -> Expr {
        let mut at = self.old.node(conv).inputs[0];
        let pool = loop {
            let node = self.old.node(at);
            match node.op.linearity() {
                Linearity::WindowSum(Some(window)) => break window,
                _ => at = node.inputs[0],
            }
        };
        let ones = Expr::Ones(vec![("kh".into(), pool.kernel[0]), ("kw".into(), pool.kernel[1])]);
        Expr::then(ones, weight, pool.stride)
    }
}

/// A map with another bias and other outputs.
fn mapped(op: &Op, bias: bool, output_axis: &str, outputs: usize) -> Op {
    match op {
        Op::Linear(l) => Op::Linear(linear::Linear { bias, to: Axis::new(output_axis, outputs), ..l.clone() }),
        Op::Conv(c) => Op::Conv(crate::ops::conv::Conv { bias, channels: outputs, ..c.clone() }),
        other => other.clone(),
    }
}
