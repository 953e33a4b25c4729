//! A network as written, with its weights, as an ONNX model of standard operators: for other runtimes, and as a second opinion.
//!
//! It is made from the tensor primitives of an unfolded inference, so an operator of the language needs nothing here. Where a tensor
//! varies over time, its steps lie in the batch, the first of all samples first; neurons take them apart.

mod proto;
mod scalars;

use crate::weights::Weights;
use prost::Message;
use proto::{Attribute, Extent, Graph, Model, Node, OperatorSet, Tensor, ValueInfo};
use snnc_compiler::check::Checked;
use snnc_compiler::flow::{ConvPart, Def, Dims, Flow, FlowId, Sink, Source, Window};
use snnc_compiler::lower::infer_unfolded;
use snnc_compiler::types::Axis;
use std::collections::{HashMap, HashSet};
use thiserror::Error;

/// The operator set that models import.
pub const OPSET: i64 = 18;
/// The version of the file format.
const IR: i64 = 8;

/// How the recurrence of a neuron is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steps {
    /// Every time step by itself.
    #[default]
    Unrolled,
    /// As ONNX's `Scan`.
    Scan,
}

/// What a model is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Samples, if they are known: otherwise any number.
    pub batch: Option<usize>,
    /// Neurons.
    pub steps: Steps,
}

/// Why there is no model.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OnnxError {
    /// ONNX, or this export, cannot say it.
    #[error("`{0}` cannot be exported: {1}")]
    Unsupported(String, &'static str),
    /// Protocol buffers end at 2 GiB.
    #[error("the model has {0} bytes of weights, more than one ONNX file holds")]
    TooLarge(usize),
}

/// The file of a network: input `input` `[B, (T,) axes…]` in the order of its declaration, output `logits` `[B, K]`.
///
/// # Errors
/// If there is something in it that has no standard operator, or the file would be too large.
pub fn export(checked: &Checked, weights: &Weights, options: &Options) -> Result<Vec<u8>, OnnxError> {
    let size = weights.values.iter().map(|v| 4 * v.len()).sum();
    if size > (2 << 30) - (16 << 20) {
        return Err(OnnxError::TooLarge(size));
    }
    let flow = infer_unfolded(checked);
    let graph = checked.graph();
    let mut writer = Writer {
        flow: &flow,
        checked,
        weights,
        options: *options,
        time: graph.time,
        nodes: vec![],
        initializers: vec![],
        names: 0,
        values: vec![],
        forms: HashMap::new(),
        constants: HashMap::new(),
        label: String::new(),
    };
    let batch = |n: Option<usize>| n.map_or_else(|| Extent::Named("B".into()), |n| Extent::Known(n as i64));
    let signal = &graph.node(graph.input).signal;
    let mut dims = vec![batch(options.batch)];
    dims.extend(signal.varies.then_some(Extent::Known(graph.time as i64)));
    dims.extend(signal.axes.iter().map(|a| Extent::Known(a.size as i64)));
    let input = ValueInfo::floats("input", dims);
    for i in 0..flow.tensors.len() {
        let value = writer.tensor(FlowId::new(i))?;
        writer.values.push(value);
    }
    let logits = flow.sinks.iter().find(|(sink, _)| *sink == Sink::Logits).map(|(_, id)| *id);
    let logits = logits.ok_or_else(|| OnnxError::Unsupported(graph.name.clone(), "it has no logits"))?;
    let name = writer.values[logits.index()].name.clone();
    writer.nodes.push(node("Identity", &[&name], "logits"));
    let output = ValueInfo::floats("logits", vec![batch(options.batch), Extent::Known(graph.classes() as i64)]);
    let body =
        Graph { node: writer.nodes, name: graph.name.clone(), initializer: writer.initializers, input: vec![input], output: vec![output] };
    let model = Model {
        ir_version: IR,
        producer_name: "snnc".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(only_needed(body)),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
    };
    Ok(model.encode_to_vec())
}

/// Without what nothing reads.
fn only_needed(mut graph: Graph) -> Graph {
    fn reads(node: &Node, into: &mut HashSet<String>) {
        into.extend(node.input.iter().cloned());
        for attribute in &node.attribute {
            attribute.g.iter().flat_map(|g| &g.node).for_each(|inner| reads(inner, into));
        }
    }
    let mut needed: HashSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let mut kept: Vec<Node> = vec![];
    for node in graph.node.into_iter().rev() {
        if node.output.iter().any(|o| needed.contains(o)) {
            reads(&node, &mut needed);
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    graph.initializer.retain(|t| needed.contains(&t.name));
    graph
}

fn node(op: &str, inputs: &[&str], output: &str) -> Node {
    let input = inputs.iter().map(|i| (*i).to_owned()).collect();
    Node { input, output: vec![output.to_owned()], name: output.to_owned(), op_type: op.to_owned(), attribute: vec![] }
}

/// A tensor of the flow: time steps and samples as one leading dim if it varies over either, then these axes.
#[derive(Clone, Debug)]
struct Value {
    name: String,
    axes: Vec<Axis>,
}

/// Other forms of a tensor that were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    /// Time steps and samples as two dims.
    Split,
    /// A time step.
    Step(usize),
}

struct Writer<'a> {
    flow: &'a Flow,
    checked: &'a Checked,
    weights: &'a Weights,
    options: Options,
    time: usize,
    nodes: Vec<Node>,
    initializers: Vec<Tensor>,
    names: usize,
    values: Vec<Value>,
    forms: HashMap<(FlowId, Form), String>,
    constants: HashMap<String, String>,
    label: String,
}

/// The dims of an operand before its axes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lead {
    /// None but what the tensor has: for one that varies over nothing, or is taken for a time step.
    Step(usize),
    /// Time steps and samples as one.
    Merged,
    /// As two.
    Split,
}

impl Writer<'_> {
    fn unsupported<T>(&self, id: FlowId, why: &'static str) -> Result<T, OnnxError> {
        Err(OnnxError::Unsupported(self.flow.get(id).label.clone(), why))
    }

    fn fresh(&mut self) -> String {
        self.names += 1;
        if self.label.is_empty() { format!("t{}", self.names) } else { format!("{}/{}", self.label, self.names) }
    }

    /// A node with one result.
    fn op(&mut self, op: &str, inputs: &[&str], attribute: Vec<Attribute>) -> String {
        let name = self.fresh();
        self.nodes.push(Node { attribute, ..node(op, inputs, &name) });
        name
    }

    fn ints(&mut self, values: &[i64]) -> String {
        let key = format!("{values:?}");
        if let Some(known) = self.constants.get(&key) {
            return known.clone();
        }
        let name = format!("ints/{}", self.constants.len());
        self.initializers.push(Tensor::ints(&name, values));
        self.constants.insert(key, name.clone());
        name
    }

    fn constant(&mut self, value: f64) -> String {
        let key = format!("{value:?}");
        if let Some(known) = self.constants.get(&key) {
            return known.clone();
        }
        let name = format!("constant/{}", self.constants.len());
        self.initializers.push(Tensor::floats(&name, &[], [value as f32]));
        self.constants.insert(key, name.clone());
        name
    }

    fn reshape(&mut self, name: &str, shape: &[i64]) -> String {
        let shape = self.ints(shape);
        self.op("Reshape", &[name, &shape], vec![])
    }

    fn transpose(&mut self, name: &str, order: &[usize]) -> String {
        if order.iter().enumerate().all(|(i, o)| i == *o) {
            return name.to_owned();
        }
        self.op("Transpose", &[name], vec![Attribute::ints("perm", order.iter().map(|o| *o as i64).collect())])
    }

    fn value(&self, id: FlowId) -> &Value {
        &self.values[id.index()]
    }

    /// A tensor in another form than merged.
    fn form(&mut self, id: FlowId, form: Form) -> String {
        if let Some(known) = self.forms.get(&(id, form)) {
            return known.clone();
        }
        let Value { name, axes } = self.value(id).clone();
        let dims = self.flow.dims(id).clone();
        let made = match form {
            Form::Split => {
                let shape: Vec<i64> = [self.time as i64, -1].into_iter().chain(axes.iter().map(|a| a.size as i64)).collect();
                self.reshape(&name, &shape)
            }
            Form::Step(_) => {
                let steps: Vec<String> = (0..self.time).map(|_| self.fresh()).collect();
                let mut split = node("Split", &[&name], "");
                (split.name, split.output) = (self.fresh(), steps.clone());
                split.attribute = vec![Attribute::int("axis", 0), Attribute::int("num_outputs", self.time as i64)];
                self.nodes.push(split);
                for (t, step) in steps.into_iter().enumerate() {
                    // Parameters that vary over time have no samples.
                    let step = if dims.batch { step } else { self.reshape(&step, &sizes(&axes)) };
                    self.forms.insert((id, Form::Step(t)), step);
                }
                return self.form(id, form);
            }
        };
        self.forms.insert((id, form), made.clone());
        made
    }

    /// An operand for element-wise work on axes in this order: what it lacks has extent 1.
    fn operand(&mut self, id: FlowId, lead: Lead, order: &[Axis]) -> String {
        let dims = self.flow.dims(id).clone();
        let (mut name, leading) = match lead {
            Lead::Step(t) if dims.time => (self.form(id, Form::Step(t)), usize::from(dims.batch)),
            Lead::Split if dims.time && dims.batch => (self.form(id, Form::Split), 2),
            _ => (self.value(id).name.clone(), usize::from(dims.batch || dims.time)),
        };
        let axes = self.value(id).axes.clone();
        let wanted: Vec<Axis> = order.iter().filter(|a| axes.iter().any(|b| b.name == a.name)).cloned().collect();
        if wanted.iter().map(|a| &a.name).ne(axes.iter().map(|a| &a.name)) {
            let moved = wanted.iter().map(|a| leading + axes.iter().position(|b| b.name == a.name).unwrap_or(0));
            let moved: Vec<usize> = (0..leading).chain(moved).collect();
            name = self.transpose(&name, &moved);
        }
        // Axes that it lacks behind its first one; a parameter's time steps stand before the samples.
        let first = if leading > 0 {
            0
        } else {
            order.iter().position(|a| wanted.first().is_some_and(|w| w.name == a.name)).unwrap_or(order.len())
        };
        let full: Vec<i64> = order[first..].iter().map(|a| wanted.iter().find(|w| w.name == a.name).map_or(1, |w| w.size as i64)).collect();
        let steps_only = lead == Lead::Split && dims.time && !dims.batch;
        if full.len() != wanted.len() || steps_only {
            let mut shape: Vec<i64> = match (leading, steps_only) {
                (0, _) => vec![],
                (_, true) => vec![self.time as i64, 1],
                (2, _) => vec![self.time as i64, -1],
                _ => vec![-1],
            };
            shape.extend(&full);
            name = self.reshape(&name, &shape);
        }
        name
    }

    fn tensor(&mut self, id: FlowId) -> Result<Value, OnnxError> {
        let flow = self.flow;
        let tensor = flow.get(id);
        self.label.clone_from(&tensor.label);
        match &tensor.def {
            Def::Source(source) => self.source(id, *source),
            Def::Map { inputs, body } => scalars::map(self, id, inputs, body),
            Def::Scan { inputs, init, next, outputs, reverse } => {
                scalars::scan(self, id, &scalars::Recurrence { inputs, init, next, output: &outputs[0], reverse: *reverse })
            }
            Def::Reduce { input, max } => self.reduce(id, *input, *max),
            Def::Product { a, b, a_labels, b_labels, out_labels } => self.product(id, (*a, a_labels), (*b, b_labels), out_labels),
            Def::Conv { a, b, part: ConvPart::Result, window } => self.conv(id, *a, *b, *window),
            Def::Pool { input, max, window } => self.pool(id, *input, *max, *window),
            Def::Concat { parts, axis } => {
                let axes = self.value(parts[0]).axes.clone();
                let place = axes.iter().position(|a| a.name == *axis).unwrap_or(0);
                let mut names = vec![];
                let mut result = axes.clone();
                result[place].size = 0;
                for part in parts {
                    let own: Vec<Axis> = axes.iter().filter_map(|a| flow.dims(*part).axis(&a.name).cloned()).collect();
                    result[place].size += own[place].size;
                    names.push(self.widened(*part, &tensor.dims, &own)?);
                }
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let leading = usize::from(tensor.dims.batch || tensor.dims.time);
                let name = self.op("Concat", &names, vec![Attribute::int("axis", (leading + place) as i64)]);
                Ok(Value { name, axes: result })
            }
            Def::Slice { of, axis, start } => {
                let mut axes = self.value(*of).axes.clone();
                let place = axes.iter().position(|a| a.name == *axis).unwrap_or(0);
                axes[place].size = tensor.dims.axis(axis).map_or(0, |a| a.size);
                let leading = usize::from(tensor.dims.batch || tensor.dims.time);
                let end = start + axes[place].size;
                let bounds = [*start as i64, end as i64, (leading + place) as i64].map(|n| self.ints(&[n]));
                let source = self.value(*of).name.clone();
                let name = self.op("Slice", &[&source, &bounds[0], &bounds[1], &bounds[2]], vec![]);
                Ok(Value { name, axes })
            }
            Def::Reshape { of, from, to } => {
                let Value { name, axes } = self.value(*of).clone();
                // The axes that go side by side, at the place of the first.
                let first = axes.iter().position(|a| from.contains(&a.name)).unwrap_or(0);
                let mut order: Vec<Axis> = axes.iter().filter(|a| !from.contains(&a.name)).cloned().collect();
                let gone: Vec<Axis> = from.iter().filter_map(|n| axes.iter().find(|a| a.name == *n).cloned()).collect();
                let place = axes[..first].iter().filter(|a| !from.contains(&a.name)).count();
                order.splice(place..place, gone);
                let leading = usize::from(tensor.dims.batch || tensor.dims.time);
                let moved = order.iter().map(|a| leading + axes.iter().position(|b| b.name == a.name).unwrap_or(0));
                let moved: Vec<usize> = (0..leading).chain(moved).collect();
                let name = self.transpose(&name, &moved);
                order.splice(place..place + from.len(), to.iter().cloned());
                let shape: Vec<i64> = (0..leading).map(|_| -1).chain(sizes(&order)).collect();
                let name = self.reshape(&name, &shape);
                Ok(Value { name, axes: order })
            }
            Def::Conv { .. } | Def::PoolGrad { .. } | Def::Overflow { .. } | Def::Masked { .. } | Def::Transpose { .. } => {
                self.unsupported(id, "it belongs to training")
            }
        }
    }

    /// A tensor merged over time steps if `dims` vary over them, with its axes in this order.
    fn widened(&mut self, id: FlowId, dims: &Dims, order: &[Axis]) -> Result<String, OnnxError> {
        let own = self.flow.dims(id).clone();
        let name = self.operand(id, Lead::Merged, order);
        if !own.batch && dims.batch {
            return self.unsupported(id, "a parameter is part of a concat");
        }
        if own.time || !dims.time {
            return Ok(name);
        }
        let all = vec![name.as_str(); self.time];
        Ok(self.op("Concat", &all, vec![Attribute::int("axis", 0)]))
    }

    fn source(&mut self, id: FlowId, source: Source) -> Result<Value, OnnxError> {
        let dims = self.flow.dims(id).clone();
        match source {
            Source::Input => {
                let graph = self.checked.graph();
                let axes = graph.node(graph.input).signal.axes.clone();
                if !dims.time {
                    return Ok(Value { name: "input".into(), axes });
                }
                let order: Vec<usize> = [1, 0].into_iter().chain(2..axes.len() + 2).collect();
                let name = self.transpose("input", &order);
                let shape: Vec<i64> = [-1].into_iter().chain(sizes(&axes)).collect();
                let name = self.reshape(&name, &shape);
                Ok(Value { name, axes })
            }
            Source::Param(param) => {
                let graph = self.checked.graph();
                let param_of = graph.param(param);
                let values = self.weights.array::<f32>(graph, param);
                let name = param_of.path.clone();
                self.initializers.push(Tensor::floats(&name, values.shape(), values.iter().copied()));
                let axes = param_of.axes[usize::from(dims.time)..].to_vec();
                Ok(Value { name, axes })
            }
            _ => self.unsupported(id, "it belongs to training"),
        }
    }

    /// Sums (or takes the largest) over what the result lacks.
    fn reduce(&mut self, id: FlowId, input: FlowId, max: bool) -> Result<Value, OnnxError> {
        let (from, to) = (self.flow.dims(input).clone(), self.flow.dims(id).clone());
        if from.batch != to.batch {
            return self.unsupported(id, "it sums over samples");
        }
        let over_time = from.time && !to.time;
        let lead = if over_time && from.batch { Lead::Split } else { Lead::Merged };
        let axes = self.value(input).axes.clone();
        let name = self.operand(input, lead, &axes);
        let leading = if lead == Lead::Split { 2 } else { usize::from(from.batch || from.time) };
        let gone = axes.iter().enumerate().filter(|(_, a)| to.axis(&a.name).is_none()).map(|(i, _)| (leading + i) as i64);
        let gone: Vec<i64> = over_time.then_some(0).into_iter().chain(gone).collect();
        let gone = self.ints(&gone);
        let name = self.op(if max { "ReduceMax" } else { "ReduceSum" }, &[&name, &gone], vec![Attribute::int("keepdims", 0)]);
        Ok(Value { name, axes: axes.into_iter().filter(|a| to.axis(&a.name).is_some()).collect() })
    }

    fn conv(&mut self, id: FlowId, a: FlowId, b: FlowId, window: Window) -> Result<Value, OnnxError> {
        let flow = self.flow;
        let axes = pictures(flow.dims(a));
        if axes.len() != 3 || flow.dims(b).time || flow.dims(b).batch {
            return self.unsupported(id, "only pictures are convolved, with weights that are the same for all time steps");
        }
        let x = self.operand(a, Lead::Merged, &axes);
        let order: Vec<Axis> = ["out", "in", "kh", "kw"].iter().filter_map(|n| flow.dims(b).axis(n).cloned()).collect();
        let w = self.operand(b, Lead::Merged, &order);
        let name = self.op("Conv", &[&x, &w], geometry(window));
        Ok(Value { name, axes: pictures(flow.dims(id)) })
    }

    fn pool(&mut self, id: FlowId, input: FlowId, max: bool, window: Window) -> Result<Value, OnnxError> {
        let flow = self.flow;
        let axes = pictures(flow.dims(input));
        if axes.len() != 3 {
            return self.unsupported(id, "only pictures are pooled");
        }
        let x = self.operand(input, Lead::Merged, &axes);
        let mut attributes = geometry(window);
        let mut name = if max {
            self.op("MaxPool", &[&x], attributes)
        } else {
            attributes.push(Attribute::int("count_include_pad", 1));
            self.op("AveragePool", &[&x], attributes)
        };
        if !max {
            let taps = self.constant((window.kernel[0] * window.kernel[1]) as f64);
            name = self.op("Mul", &[&name, &taps], vec![]);
        }
        Ok(Value { name, axes: pictures(flow.dims(id)) })
    }

    /// Labels in the order of a tensor as a product reads it, and the tensor.
    fn labelled(&mut self, id: FlowId, labels: &[String], split: bool) -> (String, Vec<(String, i64)>) {
        let dims = self.flow.dims(id).clone();
        let axes = self.value(id).axes.clone();
        let name = self.operand(id, if split { Lead::Split } else { Lead::Merged }, &axes);
        let named: HashMap<String, &String> = dims.labels().into_iter().zip(labels).collect();
        let steps = self.time as i64;
        // A product may sum over time steps.
        let t = named.get("T").map_or_else(|| "T".to_owned(), |l| (*l).clone());
        let mut all = match (dims.time, dims.batch) {
            (true, true) if !split => vec![("BT".to_owned(), -1)],
            (true, true) => vec![(t, steps), ("B".to_owned(), -1)],
            // As an operand it has an extent of 1 for samples.
            (true, false) if split => vec![(t, steps), ("-".to_owned(), 1)],
            (true, false) => vec![(t, steps)],
            (false, true) => vec![("B".to_owned(), -1)],
            (false, false) => vec![],
        };
        all.extend(axes.iter().map(|a| (named.get(&a.name).map_or_else(|| a.name.clone(), |l| (*l).clone()), a.size as i64)));
        (name, all)
    }

    fn product(
        &mut self,
        id: FlowId,
        (a, a_labels): (FlowId, &[String]),
        (b, b_labels): (FlowId, &[String]),
        out_labels: &[String],
    ) -> Result<Value, OnnxError> {
        let flow = self.flow;
        let (da, db) = (flow.dims(a), flow.dims(b));
        // Samples and steps stay one dim where both operands have both, or one of them neither.
        let whole = |d: &Dims| d.time == d.batch;
        let both = (da.time, da.batch) == (db.time, db.batch) || !db.time && !db.batch || !da.time && !da.batch;
        let along = |d: &Dims, labels: &[String]| d.time && !labels.iter().any(|l| l == "T");
        let over_time = along(da, a_labels) || along(db, b_labels) || along(flow.dims(id), out_labels);
        let split = (over_time || !(both && whole(da) && whole(db))) && (da.time && da.batch || db.time && db.batch);
        let (a_name, a_all) = self.labelled(a, a_labels, split);
        let (b_name, b_all) = self.labelled(b, b_labels, split);
        let out: Vec<String> = if split || over_time || !(flow.dims(id).time && flow.dims(id).batch) {
            out_labels.to_vec()
        } else {
            ["BT".to_owned()].into_iter().chain(out_labels.iter().filter(|l| *l != "B" && *l != "T").cloned()).collect()
        };
        let kept = |l: &String| out.contains(l);
        let (in_a, in_b) = (|l: &String| a_all.iter().any(|(x, _)| x == l), |l: &String| b_all.iter().any(|(x, _)| x == l));
        let summed: Vec<&(String, i64)> = a_all.iter().filter(|(l, _)| in_b(l) && !kept(l)).collect();
        if a_all.iter().any(|(l, _)| !in_b(l) && !kept(l) && l != "-") || b_all.iter().any(|(l, _)| !in_a(l) && !kept(l) && l != "-") {
            return self.unsupported(id, "it sums over an axis of one operand alone");
        }
        let shared: Vec<&(String, i64)> = a_all.iter().filter(|(l, _)| in_b(l) && kept(l)).collect();
        let of_a: Vec<&(String, i64)> = a_all.iter().filter(|(l, _)| !in_b(l) && kept(l)).collect();
        let of_b: Vec<&(String, i64)> = b_all.iter().filter(|(l, _)| !in_a(l) && kept(l)).collect();
        let at = a_all.iter().position(|(l, _)| summed.first().is_some_and(|(s, _)| s == l));
        let mut result: Vec<(String, i64)>;
        let name;
        if let (true, [only], [made], Some(at)) = (shared.is_empty() && b_all.len() == 2, &summed[..], &of_b[..], at) {
            // Weights, as a matrix: what is summed over stays at its place.
            result = a_all.clone();
            result[at] = (*made).clone();
            let last = at + 1 == a_all.len();
            let first_is_summed = b_all[0].0 == only.0;
            let weights = if first_is_summed == last { b_name } else { self.transpose(&b_name, &[1, 0]) };
            if last {
                name = self.op("MatMul", &[&a_name, &weights], vec![]);
            } else {
                // What follows becomes one dim.
                let tail: i64 = a_all[at + 1..].iter().map(|(_, n)| n).product();
                let plain = at + 2 == a_all.len();
                let shape: Vec<i64> = a_all[..=at].iter().map(|(_, n)| *n).chain([tail]).collect();
                let x = if plain { a_name } else { self.reshape(&a_name, &shape) };
                let y = self.op("MatMul", &[&weights, &x], vec![]);
                let shape: Vec<i64> = result.iter().map(|(_, n)| *n).collect();
                name = if plain { y } else { self.reshape(&y, &shape) };
            }
        } else {
            let matrix = |e: &mut Self, name: &str, all: &[(String, i64)], order: [&[&(String, i64)]; 3]| {
                let places: Vec<usize> =
                    order.iter().flat_map(|g| g.iter()).filter_map(|(l, _)| all.iter().position(|(x, _)| x == l)).collect();
                let dummies = (0..all.len()).filter(|i| !places.contains(i));
                let places: Vec<usize> = dummies.chain(places.iter().copied()).collect();
                let name = e.transpose(name, &places);
                let mut shape: Vec<i64> = order[0].iter().map(|(_, n)| *n).collect();
                shape
                    .extend(order[1..].iter().map(|g| if g.iter().any(|(_, n)| *n < 0) { -1 } else { g.iter().map(|(_, n)| n).product() }));
                e.reshape(&name, &shape)
            };
            let x = matrix(self, &a_name, &a_all, [&shared, &of_a, &summed]);
            let y = matrix(self, &b_name, &b_all, [&shared, &summed, &of_b]);
            let z = self.op("MatMul", &[&x, &y], vec![]);
            result = shared.iter().chain(&of_a).chain(&of_b).map(|l| (*l).clone()).collect();
            let shape: Vec<i64> = result.iter().map(|(_, n)| *n).collect();
            name = self.reshape(&z, &shape);
        }
        // Time steps and samples first, merged.
        let steps = flow.dims(id).labels().iter().position(|l| l == "T").map_or("T", |i| out_labels[i].as_str());
        let leads = ["BT", steps, "B"];
        let leading: Vec<usize> = leads.iter().filter_map(|l| result.iter().position(|(x, _)| x == l)).collect();
        let order: Vec<usize> = leading.iter().copied().chain((0..result.len()).filter(|i| !leading.contains(i))).collect();
        let mut name = self.transpose(&name, &order);
        let axes: Vec<(String, i64)> = order[leading.len()..].iter().map(|i| result[*i].clone()).collect();
        if leading.len() == 2 {
            let shape: Vec<i64> = [-1].into_iter().chain(axes.iter().map(|(_, n)| *n)).collect();
            name = self.reshape(&name, &shape);
        }
        // The result's own axes may be called otherwise than its labels.
        let own: HashMap<&String, String> = out_labels.iter().zip(flow.dims(id).labels()).collect();
        let axes = axes.iter().map(|(l, n)| Axis::new(own.get(l).map_or(l.as_str(), String::as_str), *n as usize)).collect();
        Ok(Value { name, axes })
    }
}

fn sizes(axes: &[Axis]) -> Vec<i64> {
    axes.iter().map(|a| a.size as i64).collect()
}

/// Channels, rows and columns.
fn pictures(dims: &Dims) -> Vec<Axis> {
    let mut axes = dims.axes.clone();
    axes.sort_by_key(|a| ["H", "W"].iter().position(|n| *n == a.name).map_or(0, |i| i + 1));
    axes
}

fn geometry(window: Window) -> Vec<Attribute> {
    let pair = |n: [usize; 2]| n.map(|x| x as i64).to_vec();
    let pads = [window.pad[0], window.pad[0], window.pad[1], window.pad[1]].map(|x| x as i64).to_vec();
    vec![
        Attribute::ints("kernel_shape", pair(window.kernel)),
        Attribute::ints("strides", pair(window.stride)),
        Attribute::ints("pads", pads),
    ]
}
