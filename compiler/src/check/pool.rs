//! An average pool of spikes and the convolution behind it: one convolution of the spikes with every tap repeated over the
//! pool's window, or additions of counts. Where both are possible the one that takes less memory wins.

use super::rules::real_operand::MAX_COUNT;
use super::{Choice, Context, Destination, How};
use crate::flow::Window;
use crate::ops::Linearity;
use crate::types::{Kind, NodeId, Signal};

/// A pool that a convolution can look through.
pub(crate) struct Through {
    /// The steps from the pool to the convolution, the pool first.
    steps: Vec<NodeId>,
    /// What both look through together.
    window: Window,
    /// How many times as many weights that takes.
    times: u64,
}

/// The pool before a convolution, if the convolution can read the pool's operand in its place.
fn through(cx: &Context<'_>, conv: NodeId) -> Option<Through> {
    let node = cx.graph.node(conv);
    let Linearity::Map { window, .. } = node.op.linearity() else { return None };
    node.op.widened(window)?;
    let mut at = *node.inputs.first()?;
    let mut steps = Vec::new();
    loop {
        cx.only_reader(at)?;
        let pool = cx.graph.node(at);
        steps.insert(0, at);
        match pool.op.linearity() {
            Linearity::Identity => at = *pool.inputs.first()?,
            Linearity::WindowSum(Some(first)) if !pool.encoder => {
                let operand = *pool.inputs.first()?;
                let taken = matches!(cx.plan[at.index()].factor, None | Some(Destination::After(_)));
                if !taken || cx.plan[operand.index()].signal.kind != Kind::Spike || cx.plan[at.index()].selects {
                    return None;
                }
                let size = ["H", "W"].map(|n| cx.graph.node(operand).signal.size(n).unwrap_or(1));
                let whole = first.then(&window, size, false)?;
                let area = |w: &Window| (w.kernel[0] * w.kernel[1]) as u64;
                return Some(Through { steps, window: whole, times: area(&whole) / area(&window).max(1) });
            }
            _ => return None,
        }
    }
}

/// Lets a convolution look through the pool before it, if that takes less memory than counts, or counts are too large.
pub(super) fn plan(cx: &mut Context<'_>, conv: NodeId) {
    let Some(through) = through(cx, conv) else { return };
    let pool = cx.graph.node(through.steps[0]);
    let weights = cx.graph.node(conv).params.first().map_or(0, |p| cx.graph.param(*p).elements() as u64);
    let extra = weights * (through.times - 1);
    let steps = if pool.signal.varies { cx.graph.time as u64 } else { 1 };
    let counts = pool.signal.elements() as u64 * steps;
    let countable = pool.signal.bound <= MAX_COUNT;
    let wide = extra < counts || !countable;
    let path = cx.graph.node(conv).path.clone();
    let other = |fold: &str, values: u64| Some((fold.to_owned(), 4 * values));
    if !wide {
        cx.choices.push(Choice { fold: "counts".into(), path, weights: 0, bytes: 4 * counts, instead: other("pool", extra) });
        return;
    }
    cx.choices.push(Choice {
        fold: "pool".into(),
        path,
        weights: extra,
        bytes: 4 * extra,
        instead: other("counts", counts).filter(|_| countable),
    });
    cx.plan[conv.index()].window = Some(through.window);
    for id in through.steps {
        let signal = &cx.graph.node(id).signal;
        let scaled = cx.plan[pool.inputs[0].index()].signal.scaled;
        let spikes = Signal { kind: Kind::Spike, bound: 1, scaled, ..signal.clone() };
        let plan = &mut cx.plan[id.index()];
        (plan.how, plan.signal) = (How::Widen(conv), spikes);
    }
}
