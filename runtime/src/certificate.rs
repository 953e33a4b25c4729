//! The certificate: what an inference does, operation by operation, how each multiplication of the network as written goes away,
//! and what the machine code consists of; enough to derive it again and compare.

use crate::artifact::ArtifactError;
use crate::data::Dataset;
use crate::energy::{self, Done, Layer};
use crate::reference::{additions, all_fire};
use crate::session::{Inference, fits_counted, streaming_program};
use crate::weights::Weights;
use ndarray::ArrayD;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};
use snnc_compiler::backend::clif::{Target, image};
use snnc_compiler::census::{Census, census};
use snnc_compiler::check::{Checked, Destination, FoldPlan, How};
use snnc_compiler::flow::power_of_two;
use snnc_compiler::fold::{Expr, Folded, fold};
use snnc_compiler::fuse::Expected;
use snnc_compiler::graph::{Graph, Node};
use snnc_compiler::lower::Watch;
use snnc_compiler::ops::{Multiplication, Selection};
use snnc_compiler::program::digest;
use snnc_compiler::text::hex;
use snnc_compiler::types::NodeId;
use snnc_grammar::{SourceMap, Span};
use std::collections::BTreeSet;

/// The form of a certificate; docs/schemas/certificate.schema.json describes it.
pub const SCHEMA: u64 = 1;

/// The whole certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// [`SCHEMA`].
    pub schema: u64,
    /// The version of snnc.
    pub snnc: String,
    /// Which network.
    pub subject: Subject,
    /// `strict`, `admitted` or `violated`.
    pub verdict: String,
    /// What it rests on.
    pub hashes: Hashes,
    /// Sums over all operations.
    pub totals: Totals,
    /// The network as written, node by node, and what becomes of each.
    pub written: Vec<Written>,
    /// What is executed, operation by operation.
    pub executed: Vec<Executed>,
    /// Folds that cost memory, and what they were chosen before.
    pub choices: Vec<Chosen>,
    /// What is computed once per set of weights, and may multiply.
    pub prepare: Vec<Prepared>,
    /// Spikes counted on data.
    pub measured: Option<Measured>,
    /// What the code was made for, and every instruction of it.
    pub code: Code,
}

/// Which network, as the command line named it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// The file or model of the zoo, and the variant.
    pub model: String,
    /// The variant's name.
    pub name: String,
    /// Parameters that were set: `name=value`.
    pub set: Vec<String>,
    /// Time steps that were set.
    pub time: Option<usize>,
    /// Time steps.
    pub steps: usize,
    /// Trained values.
    pub parameters: u64,
}

/// SHA-256 of everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hashes {
    /// Every source that was read, by name.
    pub sources: Vec<(String, String)>,
    /// The program that was compiled.
    pub program: String,
    /// The machine code.
    pub code: String,
    /// The weights: path and values of every parameter.
    pub weights: Option<String>,
    /// The folded weights as they lie in memory.
    pub folded_weights: Option<String>,
}

/// Counts per inference of one sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Multiply-accumulates of the encoder.
    pub encoder_macs: u64,
    /// The encoder's part of all operations as written.
    pub encoder_share: f64,
    /// Residues.
    pub residues: u64,
    /// Multiplications that they do.
    pub residue_multiplications: u64,
    /// Additions of weights if every neuron fired at every step.
    pub accumulates: u64,
    /// ANDs of spikes with spikes.
    pub and_counts: u64,
    /// Additions of values where there may be a spike.
    pub masked_accumulates: u64,
    /// Comparisons.
    pub comparisons: u64,
    /// Selections of a constant or a value by a spike.
    pub selections: u64,
    /// Changes of exponents.
    pub shifts: u64,
    /// Parameters of the network as written.
    pub weights_written: u64,
    /// Values that the folded network keeps.
    pub weights_folded: u64,
    /// Weights that folds add.
    pub extra_weights: u64,
}

/// A node as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Its path.
    pub path: String,
    /// Its operator.
    pub operator: String,
    /// `file:line:column`.
    pub place: String,
    /// What is written there.
    pub text: String,
    /// Kind and axes of its result.
    pub signal: String,
    /// The paths it reads.
    pub reads: Vec<String>,
    /// How it is done: `free`, `encoder`, `accumulate`, `accumulate_count`, `and_count`, `masked_accumulate`, `select`, `compare`, `fold`,
    /// `compose`, `widen` (a pool that the convolution behind it looks through), `residue`.
    pub how: String,
    /// Multiplications if it were run as written.
    pub multiplications: u64,
    /// Its constant factor, and where that goes.
    pub factor: Option<Factor>,
    /// Under `fold(time)`: the leak ρ, if the folded program holds this value ρ^-t times as large at step t, from 0; for a neuron the
    /// leak that went into tables.
    pub table: Option<f64>,
    /// For a residue: the rule it breaks.
    pub residue: Option<String>,
}

/// Where a constant factor goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    /// The factor, in terms of parameters.
    pub value: String,
    /// `before`, `after`, `neuron`, `readers`, `select`, `shift`, `encoder`, `residue`.
    pub destination: String,
    /// The path of what takes it, where that is one.
    pub into: Option<String>,
}

/// An operation that is executed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Executed {
    /// Its path.
    pub path: String,
    /// Its operator.
    pub operator: String,
    /// How it is done, as in [`Written::how`].
    pub how: String,
    /// How often, per inference of one sample, at most.
    pub count: u64,
    /// Spikes that one value of its operand counts at most.
    pub bound: u64,
    /// Comparisons.
    pub comparisons: u64,
    /// Changes of exponents: of a factor that is a power of two, or of a membrane that leaks by one.
    pub shifts: u64,
}

/// A fold that costs memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chosen {
    /// `time` (tables over the time steps), `compose` (maps of the terms of a sum), `pool` (a convolution through the pool before it),
    /// or `counts` (the pool's counts are added as often as they say).
    pub fold: String,
    /// The map it is about.
    pub path: String,
    /// Weights that it adds.
    pub weights: u64,
    /// Bytes that it adds: those weights', or those of counts per sample.
    pub bytes: u64,
    /// The other way that there was.
    pub instead: Option<Other>,
}

/// A way that was not taken, because it costs more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    /// As in [`Chosen::fold`].
    pub fold: String,
    /// Bytes that it would add.
    pub bytes: u64,
}

/// A folded parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// Its path.
    pub parameter: String,
    /// Its values.
    pub elements: u64,
    /// How it is computed from the parameters as written.
    pub expression: String,
    /// Something in that is multiplied, divided, or a root.
    pub multiplies: bool,
}

/// What was counted on data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The data set.
    pub data: String,
    /// Samples of its test set.
    pub samples: usize,
    /// Additions per inference of one sample: of each layer's worst case the part that its operand's firing rate is, and all biases.
    pub accumulates: f64,
    /// Firing rate of what each layer reads.
    pub rates: Vec<(String, f64)>,
}

/// The machine code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Architecture, vendor, system.
    pub triple: String,
    /// Instruction sets beyond the base.
    pub flags: Vec<String>,
    /// Samples that a context of it has room for.
    pub batch: usize,
    /// Bytes.
    pub bytes: usize,
    /// Every instruction.
    pub census: Census,
}

/// What a certificate is made from.
#[derive(Debug)]
pub struct Input<'a> {
    /// As the command line named it.
    pub model: &'a str,
    /// Parameters that were set.
    pub set: Vec<String>,
    /// Time steps that were set.
    pub time: Option<usize>,
    /// All sources.
    pub sources: &'a SourceMap,
    /// The network.
    pub checked: &'a Checked,
    /// Its weights.
    pub weights: Option<&'a Weights>,
    /// Data to count spikes on, and how many samples.
    pub data: Option<(&'a Dataset, usize)>,
    /// What the code is made for.
    pub target: &'a Target,
    /// Samples that a context of it has room for.
    pub batch: usize,
}

impl Input<'_> {
    /// The name of a source as seen from the model's own folder, so that a certificate holds wherever the model lies.
    fn named<'n>(&self, name: &'n str) -> &'n str {
        let own = self.sources.iter().next().map_or("", |(_, s)| s.name.as_str());
        let folder = own.rfind('/').map_or("", |n| &own[..=n]);
        // The zoo's are the same everywhere.
        if own.starts_with('<') { name } else { name.strip_prefix(folder).unwrap_or(name) }
    }

    fn place(&self, span: Span) -> String {
        let place = self.sources.place(span);
        self.named(&place).to_owned()
    }
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// If the text is none of this form, or says something twice.
    pub fn read(text: &str) -> Result<Certificate, String> {
        #[derive(Deserialize)]
        struct Form {
            schema: Option<u64>,
        }
        let form: Form = serde_json::from_str(text).map_err(|e| e.to_string())?;
        match form.schema {
            None => return Err("it has no `schema`".into()),
            Some(SCHEMA) => {}
            Some(other) => return Err(format!("it has the form {other}, and this snnc reads form {SCHEMA}")),
        }
        serde_json::from_str::<Once>(text).map_err(|e| e.to_string())?;
        serde_json::from_str(text).map_err(|e| e.to_string())
    }
}

/// JSON in which no key stands twice: readers disagree on which of the two counts.
pub(crate) struct Once;

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Once)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = Once;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_str<E>(self, _: &str) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_unit<E>(self) -> Result<Once, E> {
        Ok(Once)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Once, A::Error> {
        while list.next_element::<Once>()?.is_some() {}
        Ok(Once)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some((key, _)) = map.next_entry::<String, Once>()? {
            if seen.contains(&key) {
                return Err(A::Error::custom(format!("`{key}` stands in it twice")));
            }
            seen.insert(key);
        }
        Ok(Once)
    }
}

/// SHA-256 over path and values of every parameter.
fn weights_hash(checked: &Checked, weights: &Weights) -> String {
    let mut hash = Sha256::new();
    for (param, values) in checked.graph().params.iter().zip(&weights.values) {
        hash.update(param.path.as_bytes());
        hash.update((values.len() as u64).to_le_bytes());
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        hash.update(&bytes);
    }
    hex(&hash.finalize())
}

/// The word for how something is done.
pub fn how_word(how: How) -> &'static str {
    match how {
        How::Free => "free",
        How::Encoder => "encoder",
        How::Accumulate => "accumulate",
        How::AccumulateCount(_) => "accumulate_count",
        How::AndCount => "and_count",
        How::MaskedAccumulate => "masked_accumulate",
        How::Select => "select",
        How::Compare => "compare",
        How::Fold => "fold",
        How::Compose(_) => "compose",
        How::Widen(_) => "widen",
        How::Residue => "residue",
    }
}

/// Derives the certificate of a network.
///
/// # Errors
/// If the network cannot be folded, compiled, or run.
pub fn certify(input: &Input<'_>) -> Result<Certificate, ArtifactError> {
    let checked = input.checked;
    let (graph, findings) = (checked.graph(), checked.findings());
    let folded = fold(checked);
    let (_, program) = streaming_program(&folded, Watch::Nothing);
    let image = image(&program, input.batch, input.target)?;
    let census = census(&image.functions, &image.bytes, &image.triple)?;
    let mut folded_weights = None;
    if let Some(weights) = input.weights {
        let session = Inference::expecting(checked, weights, 1, (Watch::Nothing, true), Expected::default())?;
        let mut hash = Sha256::new();
        let bytes: Vec<u8> = session.executable().weights().iter().flat_map(|x| x.to_le_bytes()).collect();
        hash.update(&bytes);
        folded_weights = Some(hex(&hash.finalize()));
    }
    let written = written(input, checked.plan());
    let executed = executed(&folded)?;
    let measured = measured(input, &folded, &executed)?;
    let prepare: Vec<Prepared> = folded
        .graph
        .params
        .iter()
        .zip(&folded.prepare)
        .map(|(param, expr)| Prepared {
            parameter: param.path.clone(),
            elements: param.elements() as u64,
            expression: expr.text(&folded.originals),
            multiplies: multiplies(expr),
        })
        .collect();
    let choices = checked.plan().choices.iter().map(|c| Chosen {
        fold: c.fold.clone(),
        path: c.path.clone(),
        weights: c.weights,
        bytes: c.bytes,
        instead: c.instead.clone().map(|(fold, bytes)| Other { fold, bytes }),
    });
    let choices = choices.collect();
    let sum = |how: &str| executed.iter().filter(|e| e.how == how).map(|e| e.count).sum::<u64>();
    let totals = Totals {
        encoder_macs: sum("encoder"),
        encoder_share: findings.encoder_share(),
        residues: findings.residues.len() as u64,
        residue_multiplications: findings.residues.iter().map(|r| r.multiplications).sum(),
        accumulates: sum("accumulate") + sum("accumulate_count"),
        and_counts: sum("and_count"),
        masked_accumulates: sum("masked_accumulate"),
        comparisons: executed.iter().map(|e| e.comparisons).sum(),
        selections: sum("select"),
        shifts: executed.iter().map(|e| e.shifts).sum(),
        weights_written: graph.trained(),
        weights_folded: prepare.iter().map(|p| p.elements).sum(),
        extra_weights: checked.plan().extra_weights(),
    };
    let sources = input.sources.iter().filter(|(_, s)| !s.argument());
    Ok(Certificate {
        schema: SCHEMA,
        snnc: env!("CARGO_PKG_VERSION").into(),
        subject: Subject {
            model: input.model.into(),
            name: graph.name.clone(),
            set: input.set.clone(),
            time: input.time,
            steps: graph.time,
            parameters: graph.trained(),
        },
        verdict: findings.verdict.to_string(),
        hashes: Hashes {
            sources: sources.map(|(_, s)| (input.named(&s.name).to_owned(), hex(&Sha256::digest(s.text.as_bytes())))).collect(),
            program: hex(&digest(&program)),
            code: hex(&Sha256::digest(&image.bytes)),
            weights: input.weights.map(|w| weights_hash(checked, w)),
            folded_weights,
        },
        totals,
        written,
        executed,
        choices,
        prepare,
        measured,
        code: Code { triple: image.triple.clone(), flags: input.target.flags(), batch: image.batch, bytes: image.bytes.len(), census },
    })
}

/// What spikes cause on data: of every operation, its part of the worst case that the firing rate of its operand is, and all biases.
fn measured(input: &Input<'_>, folded: &Folded, executed: &[Executed]) -> Result<Option<Measured>, ArtifactError> {
    let (Some(weights), Some((data, samples))) = (input.weights, input.data) else { return Ok(None) };
    let energy = energy::measure(input.checked, weights, data, samples).map_err(|e| match e {
        energy::EnergyError::Session(e) => ArtifactError::Session(e),
        energy::EnergyError::Rates { reason, path, .. } => ArtifactError::Object { path, reason },
    })?;
    let spiking: Vec<&Layer> = energy.layers.iter().filter(|l| l.done == Done::Ac).collect();
    let counts = counted(&folded.graph)?;
    let additions = |layer: &&Layer| {
        let (node, done) = folded.graph.nodes.iter().zip(executed).find(|(_, e)| e.path == layer.path)?;
        let steps = if node.signal.varies { folded.graph.time as u64 } else { 1 };
        let biases = biases(node, node.signal.elements() as u64 * steps) as f64;
        // A rate is of the largest count; at the border of a pool, or beside spikes, less is possible.
        let most = node.inputs.first().and_then(|i| counts[i.index()].as_ref()?.mean()).filter(|_| layer.bound > 1);
        let rate = most.map_or(layer.rate, |most| layer.rate * layer.bound as f64 / most);
        Some((done.count as f64 - biases) * rate + biases)
    };
    Ok(Some(Measured {
        data: data.name.to_owned(),
        samples: samples.min(data.test.labels.len()),
        accumulates: spiking.iter().filter_map(additions).sum(),
        rates: spiking.iter().map(|l| (l.path.clone(), l.rate)).collect(),
    }))
}

fn written(input: &Input<'_>, plan: &FoldPlan) -> Vec<Written> {
    let graph = input.checked.inference();
    let path = |id: NodeId| graph.node(id).path.clone();
    graph
        .ids()
        .map(|id| {
            let (node, plan) = (graph.node(id), &plan.nodes[id.index()]);
            let products = node.op.multiplies(&graph.input_signals(node));
            let value = products.iter().find_map(|m| match m {
                Multiplication::Factor { value, .. } => Some(match (value, node.op.affine(&node.params)) {
                    (Some(v), _) => format!("{v}"),
                    (None, Some((scale, _))) => scale.text(&graph.params),
                    (None, None) => String::new(),
                }),
                _ => None,
            });
            let (destination, into) = match plan.factor {
                None => (None, None),
                Some(Destination::Before(to)) => (Some("before"), Some(to)),
                Some(Destination::After(to)) => (Some("after"), Some(to)),
                Some(Destination::Neuron(to)) => (Some("neuron"), Some(to)),
                Some(Destination::Readers) => (Some("readers"), None),
                Some(Destination::Select) => (Some("select"), None),
                Some(Destination::Shift) => (Some("shift"), None),
                Some(Destination::Encoder) => (Some("encoder"), None),
                Some(Destination::Residue) => (Some("residue"), None),
            };
            let steps = if node.signal.varies { graph.time as u64 } else { 1 };
            let each = node.signal.elements() as u64 * steps;
            let multiplications = products.iter().map(|m| match m {
                Multiplication::Weights | Multiplication::Dot => graph.work(id),
                _ => each,
            });
            Written {
                path: node.path.clone(),
                operator: node.op.word().into(),
                place: input.place(node.span),
                text: input.sources.text(node.span).chars().take(200).collect(),
                signal: node.signal.to_string(),
                reads: node.inputs.iter().map(|i| path(*i)).collect(),
                how: how_word(plan.how).into(),
                multiplications: multiplications.sum(),
                factor: value.zip(destination).map(|(value, destination)| Factor {
                    value,
                    destination: destination.into(),
                    into: into.map(path),
                }),
                table: plan.ramp.map(|r| r.leak),
                residue: input.checked.findings().residues.iter().find(|r| r.node == id).map(|r| r.rule.to_owned()),
            }
        })
        .collect()
}

/// See [`all_fire`]; of a network whose counts this machine can hold.
fn counted(graph: &Graph) -> Result<Vec<Option<ArrayD<f64>>>, ArtifactError> {
    fits_counted(graph)?;
    Ok(all_fire(graph))
}

fn executed(folded: &Folded) -> Result<Vec<Executed>, ArtifactError> {
    let graph = &folded.graph;
    let mut list = Vec::new();
    let counted = folded.how.iter().any(|how| matches!(how, How::AccumulateCount(_)));
    let counts = if counted { self::counted(graph)? } else { vec![] };
    for (id, how) in graph.ids().zip(&folded.how) {
        let node = graph.node(id);
        let steps = if node.signal.varies { graph.time as u64 } else { 1 };
        let each = node.signal.elements() as u64 * steps;
        let bound = if let How::AccumulateCount(n) = how { *n } else { 1 };
        let comparisons = if node.encoder { 0 } else { node.op.comparisons(&graph.input_signals(node), &node.signal) * steps };
        let (how, count) = match how {
            // A factor that stays is a power of two.
            _ if !node.encoder && is_shift(node, graph) => ("shift", each),
            How::Encoder => ("encoder", graph.work(id).max(each)),
            How::AccumulateCount(_) if let Some(read) = node.inputs.first().and_then(|i| counts.get(i.index())?.as_ref()) => {
                (how_word(*how), additions(graph, id, read).saturating_add(biases(node, each)))
            }
            How::Accumulate | How::AccumulateCount(_) => {
                let around = node.op.around(&graph.input_signals(node), &node.signal).saturating_mul(steps);
                let weights = graph.work(id) - around - biases(node, each);
                (how_word(*how), weights.saturating_mul(bound).saturating_add(biases(node, each)))
            }
            How::AndCount | How::MaskedAccumulate => (how_word(*how), graph.work(id)),
            How::Residue => ("residue", graph.work(id).saturating_sub(biases(node, each)).max(each)),
            How::Select => ("select", each),
            _ if node.op.selection() != Selection::None => ("compare", comparisons),
            _ => ("free", each),
        };
        let leaks = !node.encoder
            && how != "residue"
            && node.op.multiplies(&graph.input_signals(node)).iter().any(|m| matches!(m, Multiplication::Leak(_)));
        // Instead of a leak an operand is doubled, at every step as often as there were steps before.
        let doublings = u64::from(node.op.doublings()) * node.signal.elements() as u64 * (steps * (steps - 1) / 2);
        let shifts = if how == "shift" || (how == "compare" && leaks) { each } else { doublings };
        list.push(Executed {
            path: node.path.clone(),
            operator: node.op.word().into(),
            how: how.into(),
            count,
            bound,
            comparisons,
            shifts,
        });
    }
    Ok(list)
}

/// Biases that a map adds: once for each of its results, whatever is counted.
fn biases(node: &Node, each: u64) -> u64 {
    if node.params.len() > 1 { each } else { 0 }
}

fn is_shift(node: &Node, graph: &Graph) -> bool {
    let shift = |m: &Multiplication| matches!(m, Multiplication::Factor { value: Some(factor), .. } if power_of_two(*factor).is_some());
    node.op.multiplies(&graph.input_signals(node)).iter().any(shift)
}

/// Whether computing an expression multiplies.
fn multiplies(expr: &Expr) -> bool {
    match expr {
        Expr::Mul(..) | Expr::Div(..) | Expr::Sqrt(_) | Expr::Then(..) => true,
        Expr::Add(a, b) | Expr::Sub(a, b) | Expr::Sign(a, b) | Expr::Magnitude(a, b) => multiplies(a) || multiplies(b),
        Expr::Sum(a, _) | Expr::Rename(a, ..) => multiplies(a),
        Expr::Const(_) | Expr::List(..) | Expr::Ones(_) | Expr::Param(..) => false,
    }
}

/// What differs between a certificate and what was derived anew, one line each; what the certificate alone has (a measurement, a
/// hash of weights) is derived anew by the caller or is not compared.
pub fn differences(given: &Certificate, derived: &Certificate) -> Vec<String> {
    let mut lines = Vec::new();
    let mut differs = |what: String, a: &dyn std::fmt::Display, b: &dyn std::fmt::Display| {
        lines.push(format!("{what}: the certificate says {a}, derived {b}"));
    };
    if given.snnc != derived.snnc {
        differs("version of snnc".into(), &given.snnc, &derived.snnc);
    }
    if given.verdict != derived.verdict {
        differs("verdict".into(), &given.verdict, &derived.verdict);
    }
    for (name, hash) in &derived.hashes.sources {
        match given.hashes.sources.iter().find(|(n, _)| n == name) {
            Some((_, theirs)) if theirs == hash => {}
            Some((_, theirs)) => {
                let same = given.hashes.program == derived.hashes.program;
                let note = if same { "; the program is the same" } else { "" };
                differs(format!("source {name}{note}"), &short(theirs), &short(hash));
            }
            None => differs("sources".into(), &"nothing of it", name),
        }
    }
    for (i, (name, _)) in given.hashes.sources.iter().enumerate() {
        let again = given.hashes.sources[..i].iter().any(|(n, _)| n == name);
        if again || !derived.hashes.sources.iter().any(|(n, _)| n == name) {
            differs("sources".into(), name, &if again { "it once" } else { "nothing of it" });
        }
    }
    let hashes = [
        ("hash of the program", Some(&given.hashes.program), Some(&derived.hashes.program)),
        ("hash of the machine code", Some(&given.hashes.code), Some(&derived.hashes.code)),
        ("hash of the weights", given.hashes.weights.as_ref(), derived.hashes.weights.as_ref()),
        ("hash of the folded weights", given.hashes.folded_weights.as_ref(), derived.hashes.folded_weights.as_ref()),
    ];
    for (what, a, b) in hashes {
        match (a, b) {
            (Some(a), Some(b)) if a != b => differs(what.into(), &short(a), &short(b)),
            (None, Some(_)) => differs(what.into(), &"none", &"one"),
            _ => {}
        }
    }
    // All else, field by field, by its text.
    let text = |c: &Certificate| {
        let mut c = c.clone();
        (c.snnc, c.verdict) = (String::new(), String::new());
        c.hashes = Hashes { sources: vec![], program: String::new(), code: String::new(), weights: None, folded_weights: None };
        c.subject.model = String::new();
        serde_json::to_value(c).unwrap_or_default()
    };
    compare("", &text(given), &text(derived), &mut lines);
    lines
}

fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// Compares two values; lists by the `path`, `parameter` or `name` of their entries, or by place.
fn compare(at: &str, a: &serde_json::Value, b: &serde_json::Value, lines: &mut Vec<String>) {
    use serde_json::Value;
    let label = |v: &Value, i: usize| {
        let name = ["path", "parameter", "name"].iter().find_map(|k| v.get(k).and_then(Value::as_str));
        name.map_or_else(|| format!("[{i}]"), |n| format!("[{n}]"))
    };
    match (a, b) {
        _ if a == b => {}
        (Value::Object(x), Value::Object(y)) => {
            let mut keys: Vec<&String> = x.keys().chain(y.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let inner = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                compare(&inner, x.get(key).unwrap_or(&Value::Null), y.get(key).unwrap_or(&Value::Null), lines);
            }
        }
        (Value::Array(x), Value::Array(y)) => {
            for i in 0..x.len().max(y.len()) {
                let (p, q) = (x.get(i).unwrap_or(&Value::Null), y.get(i).unwrap_or(&Value::Null));
                compare(&format!("{at}{}", label(if p.is_null() { q } else { p }, i)), p, q, lines);
            }
        }
        _ => lines.push(format!("{at}: the certificate says {a}, derived {b}")),
    }
}
