//! Names of parameters in published checkpoints: rules kept as data under `zoo/checkpoints`.

use serde::Deserialize;
use snnc_compiler::graph::{Graph, Param};
use std::collections::BTreeMap;

/// A naming scheme.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Its name, as `--layout` takes it.
    pub name: String,
    /// The pattern whose distinct matches `{k}` numbers.
    pub number: Option<String>,
    /// Entries of published files that are no part of the network.
    #[serde(default)]
    pub unused: Vec<Unused>,
    /// The rules for every model.
    #[serde(default)]
    pub rule: Vec<Rule>,
    /// Rules for some models only; they count before the others.
    #[serde(default)]
    pub family: Vec<Family>,
}

/// Rules for some models.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// The models.
    pub models: Vec<String>,
    /// Their rules; the first that fits counts.
    pub rule: Vec<Rule>,
}

/// An entry that published files have and the network does not use: dropped when read, written with its first value.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unused {
    /// The published name.
    pub name: String,
    /// Our path of a parameter of the same shape; there is one entry for each that fits.
    pub like: String,
    /// The value of all its elements.
    pub value: f32,
}

/// One rule: `{i}`, `{j}` and `{leaf}` of `ours` may be used in `theirs`, and `{i+1}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Our path.
    pub ours: String,
    /// The published name.
    pub theirs: String,
    /// Further names of the same tensor.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Names of it in older files: read, not written.
    #[serde(default)]
    pub legacy: Vec<String>,
    /// Axes of extent 1 that the published weight has behind ours.
    #[serde(default)]
    pub ones: usize,
    /// The published tensor has one axis where ours has several.
    #[serde(default)]
    pub flat: bool,
}

/// A parameter as a published file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its names; a file has the tensor under each of them.
    pub names: Vec<String>,
    /// Its names in older files.
    pub legacy: Vec<String>,
    /// Its extents.
    pub shape: Vec<usize>,
}

impl Entry {
    /// The names of today, then those of older files.
    pub fn all(&self) -> impl Iterator<Item = &String> {
        self.names.iter().chain(&self.legacy)
    }
}

impl Layout {
    /// The built-in layout of this name.
    ///
    /// # Errors
    /// A message that lists the layouts there are.
    pub fn named(name: &str) -> Result<Layout, String> {
        let known: Vec<&str> = snnc_zoo::CHECKPOINTS.iter().map(|(n, _)| *n).collect();
        let text = snnc_zoo::CHECKPOINTS
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, text)| *text)
            .ok_or_else(|| format!("there is no layout `{name}`; there are: {}", known.join(", ")))?;
        toml::from_str(text).map_err(|e| format!("the layout `{name}` is malformed: {e}"))
    }

    /// What a published file has for every parameter of a graph; our own path where no rule fits.
    pub fn entries(&self, graph: &Graph) -> Vec<Entry> {
        let numbers = self.numbers(graph);
        let entry = |p: &Param| {
            let Some((rule, found)) = self.rule(&graph.model, &p.path, &numbers) else {
                return Entry { names: vec![p.path.clone()], legacy: vec![], shape: p.shape() };
            };
            let mut shape = p.shape();
            if rule.flat && !shape.is_empty() {
                shape = vec![shape.iter().product()];
            }
            if shape.len() > 1 {
                shape.extend(vec![1; rule.ones]);
            }
            let names = [&rule.theirs].into_iter().chain(&rule.aliases).map(|t| fill(t, &found)).collect();
            Entry { names, legacy: rule.legacy.iter().map(|t| fill(t, &found)).collect(), shape }
        };
        graph.params.iter().map(entry).collect()
    }

    /// Whether most parameters of a graph have a rule.
    pub fn fits(&self, graph: &Graph) -> bool {
        let numbers = self.numbers(graph);
        graph.params.iter().filter(|p| self.rule(&graph.model, &p.path, &numbers).is_some()).count() * 2 > graph.params.len()
    }

    /// What a published file has beside the network's parameters: name, extents, value.
    pub fn unused(&self, graph: &Graph) -> Vec<(String, Vec<usize>, f32)> {
        let pairs = self.unused.iter().flat_map(|unused| graph.params.iter().map(move |p| (unused, p)));
        pairs.filter_map(|(unused, p)| Some((fill(&unused.name, &captures(&unused.like, &p.path)?), p.shape(), unused.value))).collect()
    }

    /// The published names of every node of a graph, such as its neurons.
    pub fn node_names(&self, graph: &Graph) -> Vec<String> {
        let numbers = self.numbers(graph);
        let name = |path: &String| {
            self.rule(&graph.model, path, &numbers).map_or_else(|| path.clone(), |(rule, found)| fill(&rule.theirs, &found))
        };
        graph.nodes.iter().map(|n| name(&n.path)).collect()
    }

    /// What `{k}` is for every match of the numbering pattern. Nodes are in program order, so first appearances number
    /// the blocks as the network runs them.
    fn numbers(&self, graph: &Graph) -> BTreeMap<String, usize> {
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        if let Some(pattern) = &self.number {
            for node in &graph.nodes {
                if let Some(prefix) = prefix(pattern, &node.path) {
                    let next = numbers.len();
                    numbers.entry(prefix.to_owned()).or_insert(next);
                }
            }
        }
        numbers
    }

    /// The rule for a path, and what its placeholders stand for.
    fn rule(&self, model: &str, path: &str, numbers: &BTreeMap<String, usize>) -> Option<(&Rule, BTreeMap<String, String>)> {
        let own = self.family.iter().filter(|f| f.models.iter().any(|m| m == model)).flat_map(|f| &f.rule);
        let (rule, mut found) = own.chain(&self.rule).filter_map(|rule| Some((rule, captures(&rule.ours, path)?))).next()?;
        if let Some(pattern) = &self.number
            && let Some(k) = prefix(pattern, path).and_then(|p| numbers.get(p))
        {
            found.insert("k".into(), k.to_string());
        }
        Some((rule, found))
    }
}

/// The part of the path that a pattern matches from its start.
fn prefix<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let segments = pattern.matches('.').count() + 1;
    let end = path.match_indices('.').nth(segments - 1).map_or(path.len(), |(i, _)| i);
    captures(pattern, &path[..end]).map(|_| &path[..end])
}

/// What the placeholders of a pattern stand for, if it matches: digits, or for `{leaf}` a word.
fn captures(pattern: &str, text: &str) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let (mut pattern, mut text) = (pattern, text);
    loop {
        let Some(open) = pattern.find('{') else { return (pattern == text).then_some(found) };
        let close = pattern.find('}')?;
        text = text.strip_prefix(&pattern[..open])?;
        let name = &pattern[open + 1..close];
        let fits = |c: char| if name == "leaf" { c.is_ascii_alphanumeric() || c == '_' } else { c.is_ascii_digit() };
        let end = text.find(|c| !fits(c)).unwrap_or(text.len());
        if end == 0 {
            return None;
        }
        found.insert(name.to_owned(), text[..end].to_owned());
        (pattern, text) = (&pattern[close + 1..], &text[end..]);
    }
}

fn fill(template: &str, found: &BTreeMap<String, String>) -> String {
    let mut text = template.to_owned();
    for (name, value) in found {
        text = text.replace(&format!("{{{name}}}"), value);
        // `{i+2}`: published indices may count from another number.
        while let Some(at) = text.find(&format!("{{{name}+")) {
            let Some(end) = text[at..].find('}').map(|n| at + n) else { break };
            let more: usize = text[at + name.len() + 2..end].parse().unwrap_or(0);
            let sum = value.parse::<usize>().map_or_else(|_| value.clone(), |n| (n + more).to_string());
            text.replace_range(at..=end, &sum);
        }
    }
    text
}
