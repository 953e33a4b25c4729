"use strict";
const C = JSON.parse(document.getElementById("certificate").textContent);
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const grouped = (n) => String(n).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
const several = (n, one, more) => `${grouped(n)} ${n === 1 ? one : more || one + "s"}`;
const kind = (w) => w.signal.match(/^[a-z]+/)[0];
const FOLDS = {
  time: "tables over the time steps", compose: "maps composed, or spelt out for the terms of a sum", pool: "a convolution that looks through a pool",
  counts: "counts of a pool, added as often as they say",
};
const WORDS = {
  free: "nothing is multiplied", encoder: "multiplied, in the encoder", accumulate: "a weight is added for every spike",
  accumulate_count: "a weight is added as often as spikes were counted", and_count: "spikes meet spikes: AND, and count",
  masked_accumulate: "values are added where there is a spike", select: "a spike selects a value or a constant", compare: "comparisons",
  fold: "a constant factor, folded away", compose: "composed with the map before it", widen: "the convolution behind it looks through it", residue: "multiplied: a residue", shift: "a change of exponent",
};
const GOES = {
  before: "into the weights of the map before it", after: "into the weights of the map after it", neuron: "into threshold, bias and reset of the neuron that reads it",
  readers: "into all that read it", select: "selected where there is a spike", shift: "a change of exponent", encoder: "stays, in the encoder", residue: "stays: a residue",
};
function element(tag, parent, attributes, text) {
  const e = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [k, v] of Object.entries(attributes || {})) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  if (parent) parent.appendChild(e);
  return e;
}
const link = (parent, path) => element("a", parent, { href: "#" + encodeURIComponent(path), class: "path" }, path);

// The drawing. A small network is drawn whole; of a large one the outermost groups.
const byPath = new Map(C.written.map((w) => [w.path, w]));
const network = tree(C.written);
const depth = (g) => (g.up ? depth(g.up) + 1 : 0);
const open = new Set();
each(network.root, (g) => { if (g.parts && (C.written.length <= 80 || (depth(g) <= 1 && g.parts.length > 1 && g.parts.length <= 30))) open.add(g.path); });
const isOpen = (g) => !g.up || open.has(g.path);
const encodes = (g) => { let all = true; each(g, (l) => { if (l.node && l.node.how !== "encoder") all = false; }); return all; };
const leaks = (g) => { let any = false; each(g, (l) => { if (l.node && l.node.residue) any = true; }); return any; };
const as = {
  leaf: (l) => ({ class: "node" + (l.node.residue ? " bad" : ""), fill: "k-" + kind(l.node), hint: `${l.path}: ${l.node.signal}\n${WORDS[l.node.how]}` }),
  group: (g) => (encodes(g) ? "encoder" : "") + (!isOpen(g) && leaks(g) ? " bad" : ""),
};
function draw() {
  route(network, isOpen);
  layout(network.root, isOpen);
  const host = $("drawing"), { w, h } = network.root;
  host.textContent = "";
  const svg = element("svg:svg", host, { width: w + 2, height: h + 2, viewBox: `0 0 ${w + 2} ${h + 2}`, role: "img", "aria-label": "the network" });
  const marker = element("svg:marker", element("svg:defs", svg), { id: "arrow", viewBox: "0 0 6 6", refX: 1, refY: 3, markerWidth: 6, markerHeight: 6, orient: "auto", markerUnits: "userSpaceOnUse" });
  element("svg:path", marker, { d: "M0,0L6,3L0,6Z", class: "arrow" });
  const [boxes, edges, nodes] = [0, 1, 2].map(() => element("svg:g", svg));
  paint(network.root, { boxes, edges, nodes }, 1, 1, as, isOpen);
  mark();
}
let chosen = null;
function mark() {
  for (const e of document.querySelectorAll(".chosen")) e.classList.remove("chosen");
  if (chosen) for (const e of document.querySelectorAll(`.node[data-path="${CSS.escape(chosen)}"], .edge[data-from="${CSS.escape(chosen)}"]`)) e.classList.add("chosen");
}

// The side: of nothing chosen the whole, of an operation how it is done.
const executed = new Map(C.executed.map((e) => [e.path, e]));
const rates = new Map(C.measured ? C.measured.rates : []);
function rowsOf(table, rows) {
  for (const [name, n] of rows) if (n) { const row = element("tr", table); element("td", row, {}, name); element("td", row, { class: "n" }, grouped(n)); }
}
function overview() {
  chosen = null;
  mark();
  const side = $("side"), T = C.totals;
  side.textContent = "";
  element("h1", side, {}, "Per inference of one sample");
  rowsOf(element("table", side), [
    ["additions of weights, if all neurons fired at all steps", T.accumulates], ["comparisons", T.comparisons], ["ANDs of spikes with spikes", T.and_counts],
    ["additions of values where there may be a spike", T.masked_accumulates], ["selections by a spike", T.selections], ["changes of exponents", T.shifts],
    ["multiplications of the encoder", T.encoder_macs], ["multiplications of residues", T.residue_multiplications],
    ...(C.measured ? [[`additions of weights on ${C.measured.samples} pictures of ${C.measured.data}, at the mean firing rates`, Math.round(C.measured.accumulates)]] : []),
  ]);
  const residues = C.written.filter((w) => w.residue);
  element("h2", side, {}, residues.length ? several(residues.length, "residue") : "No residues");
  for (const w of residues) { link(side, w.path); element("p", side, {}, w.residue); }
  const goes = new Map();
  for (const w of C.written) if (w.factor) goes.set(w.factor.destination, (goes.get(w.factor.destination) || 0) + 1);
  if (goes.size) {
    element("h2", side, {}, "Where constant factors go");
    rowsOf(element("table", side), [...goes].sort((a, b) => b[1] - a[1]).map(([to, n]) => [GOES[to], n]));
  }
  if (C.choices.length) element("h2", side, {}, "Folds that cost something");
  for (const c of C.choices) { link(side, c.path); element("p", side, {}, chosenAs(c)); }
}
function choose(path) {
  const w = byPath.get(path);
  if (!w) return overview();
  chosen = path;
  let closed = false;
  for (let g = network.leaves.get(path).up; g; g = g.up) if (!isOpen(g)) { open.add(g.path); closed = true; }
  if (closed) draw();
  mark();
  const side = $("side");
  side.textContent = "";
  element("a", side, { href: "#" }, "← the whole network");
  element("h1", side, {}, w.path);
  const list = element("dl", side);
  const say = (name, text) => { element("dt", list, {}, name); return element("dd", list, {}, text); };
  say("operator", w.operator);
  say("result", w.signal);
  say("done as", WORDS[w.how]);
  if (w.multiplications) say("as written", several(w.multiplications, "multiplication"));
  const e = executed.get(path);
  if (e && e.how !== "free") say("executed", grouped(e.count) + (e.how.startsWith("accumulate") ? " additions at most" : " times at most") + (e.bound > 1 ? `, each value up to ${e.bound} times` : ""));
  if (rates.has(path)) say("measured", (100 * rates.get(path)).toFixed(2) + " % of the possible spikes are there");
  if (w.table !== null) say("over time", w.how === "compare" ? `the leak of ${w.table} is gone: thresholds of every step take its place` : `held ${w.table}^-t times as large at step t`);
  for (const c of C.choices.filter((c) => c.path === path)) say("fold", chosenAs(c));
  if (w.residue) say("residue", w.residue).className = "bad";
  if (w.reads.length) { const reads = say("reads", ""); for (const r of w.reads) link(reads, r); }
  element("h2", side, {}, "Source");
  element("p", side, {}, w.place);
  element("pre", side, {}, w.text);
  if (w.factor) {
    element("h2", side, {}, "Constant factor");
    element("pre", side, {}, w.factor.value);
    const p = element("p", side, {}, GOES[w.factor.destination] + (w.factor.into ? ": " : ""));
    if (w.factor.into) link(p, w.factor.into);
  }
  const own = C.prepare.filter((p) => p.parameter.startsWith(path + "."));
  if (own.length) element("h2", side, {}, "Folded parameters");
  for (const p of own) {
    element("p", side, {}, `${p.parameter} (${grouped(p.elements)})`);
    element("pre", side, {}, p.expression.length > 2000 ? p.expression.slice(0, 2000) + " …" : p.expression);
  }
}
function chosenAs(c) {
  const text = c.weights ? `${FOLDS[c.fold]}: ${several(c.weights, "weight")} more` : `${FOLDS[c.fold]}: ${several(c.bytes, "byte")}`;
  return text + (c.instead ? `; ${FOLDS[c.instead.fold]} would take ${grouped(c.instead.bytes)} bytes instead of ${grouped(c.bytes)}` : "");
}
function hash() { choose(decodeURIComponent(location.hash.slice(1))); }
function press(target) {
  const node = target.closest(".node"), group = target.closest(".group");
  if (node) { location.hash = encodeURIComponent(node.dataset.path); choose(node.dataset.path); }
  else if (group) {
    const path = group.dataset.group;
    if (!open.delete(path)) open.add(path);
    draw();
    const again = document.querySelector(`.group[data-group="${CSS.escape(path)}"]`);
    if (again) again.focus({ preventScroll: true });
  }
}
$("drawing").addEventListener("click", (event) => press(event.target));
$("drawing").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { press(event.target); event.preventDefault(); } });
const set = (all) => { each(network.root, (g) => { if (g.parts && all) open.add(g.path); }); if (!all) open.clear(); draw(); };
$("more").addEventListener("click", () => set(true));
$("less").addEventListener("click", () => set(false));
addEventListener("hashchange", hash);

// The texts.
const T = C.totals;
$("name").textContent = `${C.subject.name} (T = ${C.subject.steps}, ${grouped(C.subject.parameters)} parameters) `;
element("span", $("name"), { class: "verdict " + C.verdict }, C.verdict);
const outside = C.code.census.findings.length;
const claims = {
  strict: "For all inputs and all weights, an inference multiplies nothing outside its encoder.",
  admitted: "An inference multiplies outside its encoder only where the source admits it.",
  violated: "An inference multiplies outside its encoder.",
};
$("claim").textContent = `${claims[C.verdict]} The encoder does ${(100 * T.encoder_share).toFixed(2)} % of all operations as written. ` +
  (outside ? `${several(outside, "instruction")} of the machine code should not be there.` : "In the machine code no instruction outside encoder and residues multiplies, and none calls or jumps to code outside this certificate.");
$("prepare").textContent = `${C.prepare.filter((p) => p.multiplies).length} of ${several(C.prepare.length, "folded parameter")} are products of those as written; ${several(T.weights_folded, "value")}, of ${grouped(T.weights_written)} trained ones.` +
  (T.extra_weights ? ` Folds add ${several(T.extra_weights, "weight")}.` : "");
const functions = C.code.census.functions, count = (f) => Object.values(f.instructions).reduce((a, b) => a + b, 0);
const region = (r) => functions.filter((f) => f.region === r);
const sum = (list, f) => list.reduce((n, x) => n + f(x), 0);
$("census").textContent = `${several(C.code.bytes, "byte")} for ${C.code.triple}${C.code.flags.length ? " with " + C.code.flags.map((f) => f.replace("has_", "")).join(", ") : ""}: ` +
  `${sum(region("free"), (f) => f.multiplications)} of ${grouped(sum(region("free"), count))} instructions outside the encoder multiply; ` +
  `${sum(region("encoder"), (f) => f.multiplications)} of ${grouped(sum(region("encoder"), count))} in it, ${sum(region("residue"), (f) => f.multiplications)} of ${grouped(sum(region("residue"), count))} in residues.`;
const all = new Map();
for (const f of region("free")) for (const [m, n] of Object.entries(f.instructions)) all.set(m, (all.get(m) || 0) + n);
$("functions").style.width = "auto";
{ const row = element("tr", $("functions")); element("th", row, {}, "instruction outside the encoder"); element("th", row, {}, "how often"); }
rowsOf($("functions"), [...all].sort((a, b) => b[1] - a[1]));
const hashes = [...C.hashes.sources.map(([n, h]) => ["source " + n, h]), ["program", C.hashes.program], ["machine code", C.hashes.code], ["weights", C.hashes.weights], ["folded weights", C.hashes.folded_weights]];
for (const [n, h] of hashes) if (h) { const row = element("tr", $("hashes")); element("td", row, {}, n); element("td", row, {}).appendChild(element("code", null, {}, h)); }
draw();
hash();
document.body.dataset.ready = Math.round(performance.now());
