//! Names of parameters in published checkpoints: rules kept as data under `zoo/checkpoints`.

use serde::Deserialize;
use snnc_compiler::graph::Graph;
use std::collections::BTreeMap;

/// A naming scheme.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Its name, as `--layout` takes it.
    pub name: String,
    /// The pattern whose distinct matches `{k}` numbers.
    pub number: Option<String>,
    /// The rules; the first that fits counts.
    #[serde(default)]
    pub rule: Vec<Rule>,
}

/// One rule: `{i}`, `{j}` and `{leaf}` of `ours` may be used in `theirs`.
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
    /// The models it is for; empty for all.
    #[serde(default)]
    pub models: Vec<String>,
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

    /// The published names of every parameter of a graph, the first being the main one; our own path where no rule fits.
    pub fn names(&self, graph: &Graph) -> Vec<Vec<String>> {
        let numbers = self.numbers(graph);
        graph.params.iter().map(|p| self.name(&graph.model, &p.path, &numbers)).collect()
    }

    /// The published names of every node of a graph, such as its neurons.
    pub fn node_names(&self, graph: &Graph) -> Vec<String> {
        let numbers = self.numbers(graph);
        graph.nodes.iter().map(|n| self.name(&graph.model, &n.path, &numbers).swap_remove(0)).collect()
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

    fn name(&self, model: &str, path: &str, numbers: &BTreeMap<String, usize>) -> Vec<String> {
        for rule in self.rule.iter().filter(|r| r.models.is_empty() || r.models.iter().any(|m| m == model)) {
            let Some(mut found) = captures(&rule.ours, path) else { continue };
            if let Some(pattern) = &self.number
                && let Some(k) = prefix(pattern, path).and_then(|p| numbers.get(p))
            {
                found.insert("k".into(), k.to_string());
            }
            return [&rule.theirs].into_iter().chain(&rule.aliases).map(|t| fill(t, &found)).collect();
        }
        vec![path.to_owned()]
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
    found.iter().fold(template.to_owned(), |t, (name, value)| t.replace(&format!("{{{name}}}"), value))
}
