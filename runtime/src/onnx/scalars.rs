//! Element-wise work: maps, and recurrences over time.

use super::proto::{Attribute, FLOAT, Graph, Node, Tensor, ValueInfo};
use super::{Form, Lead, OnnxError, Steps, Value, Writer, node};
use snnc_compiler::flow::{Bin, Cmp, FlowId, Scalar, Un};
use snnc_compiler::types::Axis;
use std::collections::HashMap;

/// What a scan computes.
pub(super) struct Recurrence<'a> {
    pub(super) inputs: &'a [FlowId],
    pub(super) init: &'a [f64],
    pub(super) next: &'a [Scalar],
    pub(super) output: &'a Scalar,
    pub(super) reverse: bool,
}

/// The axes of a result in the order of its widest operand, so that little is transposed.
fn order(w: &Writer<'_>, id: FlowId, inputs: &[FlowId], recurs: bool) -> Result<Vec<Axis>, OnnxError> {
    let dims = w.flow.dims(id);
    let all = |get: &dyn Fn(&FlowId) -> bool| inputs.iter().any(get);
    let spans = dims.axes.iter().all(|a| all(&|i| w.flow.dims(*i).axis(&a.name) == Some(a)));
    let leads = (!dims.batch || all(&|i| w.flow.dims(*i).batch)) && (recurs || !dims.time || all(&|i| w.flow.dims(*i).time));
    if !spans || !leads {
        return w.unsupported(id, "it spreads a number over an axis");
    }
    let widest = inputs.iter().max_by_key(|i| (w.flow.dims(**i).batch, w.flow.dims(**i).elements()));
    let mut order = widest.map_or_else(Vec::new, |i| w.value(*i).axes.clone());
    order.extend(dims.axes.iter().filter(|a| order.iter().all(|b| b.name != a.name)).cloned().collect::<Vec<_>>());
    Ok(order)
}

pub(super) fn map(w: &mut Writer<'_>, id: FlowId, inputs: &[FlowId], body: &Scalar) -> Result<Value, OnnxError> {
    let dims = w.flow.dims(id).clone();
    let axes = order(w, id, inputs, false)?;
    let apart = |i: &FlowId| w.flow.dims(*i).batch != w.flow.dims(*i).time;
    let split = dims.time && dims.batch && inputs.iter().any(apart);
    let lead = if split { Lead::Split } else { Lead::Merged };
    let args: Vec<String> = inputs.iter().map(|i| w.operand(*i, lead, &axes)).collect();
    let varying: Vec<usize> = (0..inputs.len()).filter(|i| w.flow.dims(inputs[*i]).batch).collect();
    let body = match varying.as_slice() {
        [only] if !split => affine(body, *only).map_or_else(|| body.clone(), |line| line.scalar(*only)),
        _ => body.clone(),
    };
    let mut name = Element { w, args: &args, states: &[], known: HashMap::new(), id }.expr(&body)?;
    if split {
        let shape: Vec<i64> = [-1].into_iter().chain(axes.iter().map(|a| a.size as i64)).collect();
        name = w.reshape(&name, &shape);
    }
    Ok(Value { name, axes })
}

pub(super) fn scan(w: &mut Writer<'_>, id: FlowId, it: &Recurrence<'_>) -> Result<Value, OnnxError> {
    let axes = order(w, id, it.inputs, true)?;
    let varying = it.inputs.iter().position(|i| w.flow.dims(*i).time && w.flow.dims(*i).batch);
    // Without an operand that varies a `Scan` would not know how often.
    if let (Steps::Scan, Some(varying)) = (w.options.steps, varying) {
        return as_scan(w, id, it, axes, varying);
    }
    let mut states: Vec<String> = it.init.iter().map(|c| w.constant(*c)).collect();
    let mut steps = vec![String::new(); w.time];
    let time: Vec<usize> = if it.reverse { (0..w.time).rev().collect() } else { (0..w.time).collect() };
    for t in time {
        let args: Vec<String> = it.inputs.iter().map(|i| w.operand(*i, Lead::Step(t), &axes)).collect();
        let mut element = Element { w, args: &args, states: &states, known: HashMap::new(), id };
        steps[t] = element.expr(it.output)?;
        states = it.next.iter().map(|next| element.expr(next)).collect::<Result<_, _>>()?;
    }
    let all: Vec<&str> = steps.iter().map(String::as_str).collect();
    let name = w.op("Concat", &all, vec![Attribute::int("axis", 0)]);
    for (t, step) in steps.into_iter().enumerate() {
        w.forms.insert((id, Form::Step(t)), step);
    }
    Ok(Value { name, axes })
}

fn as_scan(w: &mut Writer<'_>, id: FlowId, it: &Recurrence<'_>, axes: Vec<Axis>, whole: usize) -> Result<Value, OnnxError> {
    let args: Vec<String> = it.inputs.iter().map(|i| w.operand(*i, Lead::Split, &axes)).collect();
    let varies: Vec<bool> = it.inputs.iter().map(|i| w.flow.dims(*i).time).collect();
    let samples = w.op("Shape", &[&args[whole]], vec![Attribute::int("start", 1), Attribute::int("end", 2)]);
    let extents: Vec<i64> = axes.iter().map(|a| a.size as i64).collect();
    let extents = w.ints(&extents);
    let shape = w.op("Concat", &[&samples, &extents], vec![Attribute::int("axis", 0)]);
    let mut starts = vec![];
    for start in it.init {
        let value = Attribute::tensor("value", Tensor::floats("", &[1], [*start as f32]));
        starts.push(w.op("ConstantOfShape", &[&shape], vec![value]));
    }
    let outer = std::mem::take(&mut w.nodes);
    let (mut inputs, mut inside, mut read) = (vec![], vec![], starts.clone());
    let mut given = |w: &mut Writer<'_>| {
        let name = w.fresh();
        inputs.push(ValueInfo::of_any_shape(&name));
        name
    };
    let states: Vec<String> = it.init.iter().map(|_| given(w)).collect();
    for (arg, varies) in args.iter().zip(&varies) {
        if *varies {
            inside.push(given(w));
            read.push(arg.clone());
        } else {
            inside.push(arg.clone());
        }
    }
    let mut element = Element { w, args: &inside, states: &states, known: HashMap::new(), id };
    let output = element.expr(it.output)?;
    let next: Vec<String> = it.next.iter().map(|next| element.expr(next)).collect::<Result<_, _>>()?;
    // A graph's results have names of their own.
    let mut results = vec![];
    for name in next.iter().chain([&output]) {
        let own = w.op("Identity", &[name], vec![]);
        results.push(ValueInfo { name: own, ..inputs[0].clone() });
    }
    let body = std::mem::replace(&mut w.nodes, outer);
    let scanned = varies.iter().filter(|v| **v).count();
    let body = Graph { node: body, name: format!("{} step", w.label), initializer: vec![], input: inputs, output: results };
    let mut attribute = vec![Attribute::graph("body", body), Attribute::int("num_scan_inputs", scanned as i64)];
    if it.reverse {
        attribute.push(Attribute::ints("scan_input_directions", vec![1; scanned]));
        attribute.push(Attribute::ints("scan_output_directions", vec![1]));
    }
    let read: Vec<&str> = read.iter().map(String::as_str).collect();
    let outputs: Vec<String> = (0..it.next.len() + 1).map(|_| w.fresh()).collect();
    let split = outputs.last().cloned().unwrap_or_default();
    w.nodes.push(Node { output: outputs, attribute, ..node("Scan", &read, &split) });
    let shape: Vec<i64> = [-1].into_iter().chain(axes.iter().map(|a| a.size as i64)).collect();
    let name = w.reshape(&split, &shape);
    w.forms.insert((id, Form::Split), split);
    Ok(Value { name, axes })
}

/// An element of a map or scan.
struct Element<'w, 'a, 'e> {
    w: &'w mut Writer<'a>,
    args: &'e [String],
    states: &'e [String],
    /// What was written already.
    known: HashMap<String, String>,
    id: FlowId,
}

impl Element<'_, '_, '_> {
    fn expr(&mut self, e: &Scalar) -> Result<String, OnnxError> {
        let name = match e {
            Scalar::Arg(i) => return Ok(self.args[*i].clone()),
            Scalar::State(i) => return Ok(self.states[*i].clone()),
            Scalar::Const(c) => return Ok(self.w.constant(*c)),
            Scalar::Steps => return Ok(self.w.constant(self.w.time as f64)),
            Scalar::Hyper(_) | Scalar::Random(_) | Scalar::Batch => return self.w.unsupported(self.id, "it belongs to training"),
            Scalar::Un(..) | Scalar::Bin(..) | Scalar::Select(..) => format!("{e:?}"),
        };
        if let Some(known) = self.known.get(&name) {
            return Ok(known.clone());
        }
        let made = self.write(e)?;
        self.known.insert(name, made.clone());
        Ok(made)
    }

    fn write(&mut self, e: &Scalar) -> Result<String, OnnxError> {
        match e {
            Scalar::Un(Un::Shift(k), a) => {
                let (a, factor) = (self.expr(a)?, self.w.constant(0.5f64.powi(i32::from(*k))));
                Ok(self.w.op("Mul", &[&a, &factor], vec![]))
            }
            Scalar::Un(f, a) => {
                let a = self.expr(a)?;
                let op = match f {
                    Un::Neg => "Neg",
                    Un::Abs => "Abs",
                    Un::Sqrt => "Sqrt",
                    Un::Exp => "Exp",
                    Un::Ln => "Log",
                    Un::Shift(_) | Un::Doubled(_) => unreachable!("above, and of folded networks"),
                };
                Ok(self.w.op(op, &[&a], vec![]))
            }
            Scalar::Bin(f, a, b) => {
                let (a, b) = (self.expr(a)?, self.expr(b)?);
                let op = match f {
                    Bin::Add => "Add",
                    Bin::Sub => "Sub",
                    Bin::Mul => "Mul",
                    Bin::Div => "Div",
                    Bin::Min => "Min",
                    Bin::Max => "Max",
                    Bin::BitAnd | Bin::BitXor => return self.w.unsupported(self.id, "it works on the bits of numbers"),
                };
                Ok(self.w.op(op, &[&a, &b], vec![]))
            }
            Scalar::Select(cmp, parts) => {
                let [a, b, x, y] = &**parts;
                let (a, b) = (self.expr(a)?, self.expr(b)?);
                let op = match cmp {
                    Cmp::Ge => "GreaterOrEqual",
                    Cmp::Gt => "Greater",
                    Cmp::Eq => "Equal",
                };
                let holds = match self.known.get(&format!("{op} {a} {b}")) {
                    Some(known) => known.clone(),
                    None => {
                        let made = self.w.op(op, &[&a, &b], vec![]);
                        self.known.insert(format!("{op} {a} {b}"), made.clone());
                        made
                    }
                };
                if let (Scalar::Const(1.0), Scalar::Const(0.0)) = (x, y) {
                    return Ok(self.w.op("Cast", &[&holds], vec![Attribute::int("to", i64::from(FLOAT))]));
                }
                let (x, y) = (self.expr(x)?, self.expr(y)?);
                Ok(self.w.op("Where", &[&holds, &x, &y], vec![]))
            }
            _ => self.expr(e),
        }
    }
}

/// A function `scale · x + shift` of one input; what is not there is 1 and 0.
struct Line {
    scale: Option<Scalar>,
    shift: Option<Scalar>,
}

impl Line {
    /// As one product and one sum, which runtimes take into the layer before.
    fn scalar(self, input: usize) -> Scalar {
        let scaled = match self.scale {
            Some(scale) => Scalar::Arg(input) * scale,
            None => Scalar::Arg(input),
        };
        match self.shift {
            Some(shift) => scaled + shift,
            None => scaled,
        }
    }
}

fn reads(e: &Scalar, input: usize) -> bool {
    match e {
        Scalar::Arg(i) => *i == input,
        Scalar::Un(_, a) => reads(a, input),
        Scalar::Bin(_, a, b) => reads(a, input) || reads(b, input),
        Scalar::Select(_, parts) => parts.iter().any(|p| reads(p, input)),
        _ => false,
    }
}

fn affine(e: &Scalar, input: usize) -> Option<Line> {
    let join = |f: Bin, a: Option<Scalar>, b: Option<Scalar>| match (f, a, b) {
        (_, a, None) => a,
        (Bin::Sub, None, Some(b)) => Some(-b),
        (_, None, b) => b,
        (f, Some(a), Some(b)) => Some(a.bin(f, b)),
    };
    match e {
        Scalar::Arg(i) if *i == input => Some(Line { scale: None, shift: None }),
        Scalar::Bin(f @ (Bin::Add | Bin::Sub), a, b) => match (reads(a, input), reads(b, input)) {
            (true, false) => {
                let line = affine(a, input)?;
                Some(Line { shift: join(*f, line.shift, Some((**b).clone())), ..line })
            }
            (false, true) if *f == Bin::Add => {
                let line = affine(b, input)?;
                Some(Line { shift: join(*f, line.shift, Some((**a).clone())), ..line })
            }
            _ => None,
        },
        Scalar::Bin(f @ (Bin::Mul | Bin::Div), a, b) => {
            let (of, by) = match (reads(a, input), reads(b, input), f) {
                (true, false, _) => (a, b),
                (false, true, Bin::Mul) => (b, a),
                _ => return None,
            };
            let line = affine(of, input)?;
            let scale = match (line.scale, f) {
                (None, Bin::Mul) => (**by).clone(),
                (None, _) => Scalar::Const(1.0).bin(Bin::Div, (**by).clone()),
                (Some(scale), f) => scale.bin(*f, (**by).clone()),
            };
            let shift = line.shift.map(|shift| shift.bin(*f, (**by).clone()));
            Some(Line { scale: Some(scale), shift })
        }
        _ => None,
    }
}
