"use strict";
// The drawing: nested groups in layers (Sugiyama, Tagawa, Toda 1981). Every open group is laid out alone, innermost first. An edge
// that enters or leaves it does so through a port on its upper or lower side, and passes other boxes in lanes of its own, so no edge
// runs through a box. All edges from one operation share a lane.

const ROW = 22, HEAD = 18, PAD = 12, BESIDE = 14, LANE = 9, GAP = 20;
const ruler = document.createElement("canvas").getContext("2d");
ruler.font = "11px system-ui, sans-serif";
const textWidth = (text) => Math.ceil(ruler.measureText(text).width);

/** The tree of paths: stages, blocks and bindings are groups, operations are leaves. `written` is in an order of computation. */
function tree(written) {
  const leaves = new Map();
  const group = (name, path, up, own) => {
    const g = { name, path, up, parts: [], count: own.length };
    const depth = path ? path.split(".").length : 0;
    const latest = new Map(), pieces = [], pieceOf = new Map();
    for (const w of own) {
      const segments = w.path.split(".");
      const leaf = segments.length === depth + 1;
      const key = segments[depth] + (leaf ? "/" : "");
      let piece = latest.get(key);
      const feeds = w.reads.map((r) => pieceOf.get(r)).filter((p) => p);
      // Two groups that feed each other cannot stand below one another: the later part of one is a box of its own.
      if (!piece || feeds.some((p) => p !== piece && reaches(piece, p))) {
        piece = { key, name: segments[depth], leaf, own: [], feeds: new Set() };
        latest.set(key, piece);
        pieces.push(piece);
      }
      piece.own.push(w);
      pieceOf.set(w.path, piece);
      for (const p of feeds) if (p !== piece) p.feeds.add(piece);
    }
    for (const p of pieces) {
      const of = pieces.filter((q) => q.key === p.key), title = of.length > 1 ? `${p.name} (${of.indexOf(p) + 1} of ${of.length})` : p.name;
      if (p.leaf) {
        const leaf = { name: title, path: p.own[0].path, node: p.own[0], up: g, count: 1 };
        g.parts.push(leaf);
        leaves.set(leaf.path, leaf);
      } else g.parts.push(group(title, (path ? path + "." : "") + p.name, g, p.own));
    }
    return g;
  };
  const reaches = (from, to) => {
    const seen = new Set([from]), todo = [from];
    while (todo.length) {
      const at = todo.pop();
      if (at === to) return true;
      for (const next of at.feeds) if (!seen.has(next)) { seen.add(next); todo.push(next); }
    }
    return false;
  };
  const root = group("", "", null, written);
  return { root, leaves };
}
function each(g, f) { f(g); if (g.parts) for (const p of g.parts) each(p, f); }

/** Gives every group that is shown open its `edges` {source, from, to}: from and to are parts of it, or null for its sides. */
function route({ root, leaves }, isOpen) {
  const shown = (leaf) => { let at = leaf; for (let g = leaf.up; g; g = g.up) if (!isOpen(g)) at = g; return at; };
  each(root, (g) => { if (g.parts) g.edges = new Map(); });
  let count = 0;
  const numbers = new Map();
  const number = (x) => { if (!x) return 0; if (!numbers.has(x)) numbers.set(x, ++count); return numbers.get(x); };
  const add = (g, source, from, to) => g.edges.set(`${number(source)}>${number(from)}>${number(to)}`, { source, from, to });
  for (const leaf of leaves.values()) {
    const to = shown(leaf);
    for (const read of leaf.node.reads) {
      if (!leaves.has(read)) continue;
      const from = shown(leaves.get(read));
      if (from === to) continue;
      const above = new Set();
      for (let g = from.up; g; g = g.up) above.add(g);
      let b = to;
      for (; !above.has(b.up); b = b.up) add(b.up, from, null, b);
      let a = from;
      for (; a.up !== b.up; a = a.up) add(a.up, from, a, null);
      add(b.up, from, a, b);
    }
  }
}

/** Gives a part its width and height, the places of its ports (`ins`, `outs`: x by source), and what is in it its place. */
function layout(g, isOpen) {
  g.ins = new Map();
  g.outs = new Map();
  if (g.node || !isOpen(g)) {
    g.label = g.node ? g.name : "▸ " + g.name;
    g.note = g.node ? "" : g.count === 1 ? "1 operation" : `${g.count} operations`;
    g.w = textWidth(g.label) + (g.note ? 8 + textWidth(g.note) : 0) + 16;
    g.h = ROW;
    return;
  }
  for (const p of g.parts) layout(p, isOpen);
  const edges = [...g.edges.values()];
  const level = new Map(g.parts.map((p) => [p, 0]));
  // Parts stand in an order of computation, so one look at each is enough.
  const into = new Map(g.parts.map((p) => [p, []]));
  for (const e of edges) if (e.from && e.to) into.get(e.to).push(e.from);
  for (const p of g.parts) for (const q of into.get(p)) level.set(p, Math.max(level.get(p), level.get(q) + 1));
  const last = Math.max(0, ...level.values()) + 1;
  // Rows 0 to last + 1: ports above, the parts, ports below.
  const rows = Array.from({ length: last + 2 }, () => []);
  for (const p of g.parts) rows[level.get(p) + 1].push({ part: p, w: p.w });
  const boxOf = new Map(rows.flat().map((b) => [b.part, b]));
  const nets = new Map();
  for (const e of edges) {
    if (!nets.has(e.source)) nets.set(e.source, { source: e.source, from: e.from, to: new Set() });
    nets.get(e.source).to.add(e.to);
  }
  const lines = [];
  for (const net of nets.values()) {
    const rowOf = (part, side) => (part ? level.get(part) + 1 : side);
    const start = rowOf(net.from, 0), ends = [...net.to].map((p) => [rowOf(p, last + 1), p]);
    let at = net.from ? { box: boxOf.get(net.from), port: net.from.outs.get(net.source) } : null;
    const lane = (row) => { const box = { lane: net.source, w: 0 }; rows[row].push(box); return { box, port: 0 }; };
    if (!at) at = lane(0);
    const deepest = Math.max(...ends.map((e) => e[0]));
    for (let row = start + 1; row <= deepest; row++) {
      for (const [, p] of ends.filter((e) => e[0] === row && e[1])) lines.push({ row: row - 1, a: at, b: { box: boxOf.get(p), port: p.ins.get(net.source) }, source: net.source, part: p });
      if (row < deepest || net.to.has(null)) { const next = lane(row); lines.push({ row: row - 1, a: at, b: next, source: net.source }); at = next; }
    }
  }
  const port = (end) => (end.box.part ? (end.port === undefined ? end.box.part.w / 2 : end.port) : 0);
  for (const row of rows) for (const b of row) b.up = [], b.down = [];
  for (const l of lines) l.a.box.down.push(l), l.b.box.up.push(l);
  // Places: in turn downwards and upwards each box goes where its lines are straight, as far as its neighbours let it; a pull to
  // the middle keeps long chains from drifting off.
  for (const row of rows) { let x = -row.reduce((sum, b) => sum + b.w + BESIDE, -BESIDE) / 2; for (const b of row) { b.x = x; x += b.w + BESIDE; } }
  const wish = (b, lists) => {
    let n = b.part ? 0.5 : 0, sum = -n * b.w / 2;
    for (const l of lists) { const own = l.a.box === b ? l.a : l.b, other = own === l.a ? l.b : l.a; sum += other.box.x + port(other) - port(own); n++; }
    return n ? sum / n : b.x;
  };
  const settle = (row, pick, sort) => {
    for (const b of row) b.wish = wish(b, pick(b));
    if (sort) row.sort((p, q) => p.wish + p.w / 2 - q.wish - q.w / 2);
    place(row);
  };
  for (let turn = 0; turn < 8; turn++) {
    const sort = turn < 6;
    for (let i = 1; i < rows.length; i++) settle(rows[i], (b) => b.up, sort);
    for (let i = rows.length - 2; i >= 0; i--) settle(rows[i], (b) => b.down, sort);
  }
  for (let turn = 0; turn < 3; turn++) for (const row of rows) settle(row, (b) => b.up.concat(b.down), false);
  const boxes = rows.flat();
  const left = Math.min(...boxes.map((b) => b.x)), title = g.up ? textWidth("▾ " + g.name) + 16 : 0;
  // What enters keeps clear of the title.
  const entry = Math.min(...rows[0].map((b) => b.x)), shift = Math.max(PAD - left, g.up && rows[0].length ? title + 4 - entry : 0);
  for (const b of boxes) b.x += shift;
  g.w = Math.max(title, ...boxes.map((b) => b.x + b.w)) + PAD;
  let y = g.up ? HEAD : 0;
  rows.forEach((row, i) => {
    row.top = i === 0 ? 0 : y;
    for (const b of row) if (b.part) y = Math.max(y, row.top + b.part.h);
    row.bottom = y;
    const far = Math.max(0, ...lines.filter((l) => l.row === i).map((l) => Math.abs(l.a.box.x + port(l.a) - l.b.box.x - port(l.b))));
    if (i < rows.length - 1) y += (i === 0 && !row.length) || (i === rows.length - 2 && !rows[i + 1].length) ? PAD / 2 : GAP + Math.min(30, far / 12);
  });
  g.h = y;
  for (const b of boxes) if (b.part) { b.part.x = b.x; b.part.y = rows[level.get(b.part) + 1].top; }
  for (const b of rows[0]) g.ins.set(b.lane, b.x);
  for (const b of rows[last + 1]) g.outs.set(b.lane, b.x);
  g.lines = lines.map((l) => ({
    source: l.source, x1: l.a.box.x + port(l.a), y1: l.a.box.part ? rows[l.row].top + l.a.box.part.h : rows[l.row].top, leave: rows[l.row].bottom,
    x2: l.b.box.x + port(l.b), y2: rows[l.row + 1].top, arrow: l.part && (l.part.node || !isOpen(l.part)),
  }));
}
/** Least squares of the distances to the wishes, in this order and without overlaps (pools of adjacent violators). */
function place(row) {
  const pools = [];
  let before = 0;
  row.forEach((b, i) => {
    const p = row[i - 1];
    if (p) before += p.w + (p.part || b.part ? BESIDE : LANE);
    b.before = before;
    let pool = { sum: b.wish - before, n: 1 };
    while (pools.length && pools[pools.length - 1].sum / pools[pools.length - 1].n > pool.sum / pool.n) { const o = pools.pop(); pool = { sum: o.sum + pool.sum, n: o.n + pool.n }; }
    pools.push(pool);
  });
  let i = 0;
  for (const pool of pools) for (let k = 0; k < pool.n; k++, i++) row[i].x = row[i].before + pool.sum / pool.n;
}

/** Draws a part at its place. `as` says what a leaf and a group look like. */
function paint(g, layers, ox, oy, as, isOpen) {
  const x = ox + (g.x || 0), y = oy + (g.y || 0);
  if (g.node) {
    const look = as.leaf(g), box = element("svg:g", layers.nodes, { class: look.class, "data-path": g.path, tabindex: "0", role: "button" });
    element("svg:title", box, {}, look.hint);
    element("svg:rect", box, { x, y, width: g.w, height: g.h, rx: 4, class: look.fill });
    element("svg:text", box, { x: x + g.w / 2, y: y + 15, "text-anchor": "middle" }, g.label);
    return;
  }
  if (g.up) {
    const open = isOpen(g), box = element("svg:g", open ? layers.boxes : layers.nodes, { class: "group" + (open ? "" : " closed"), "data-group": g.path, tabindex: "0", role: "button" });
    element("svg:rect", box, { x, y, width: g.w, height: g.h, rx: 6, class: as.group(g) });
    const text = element("svg:text", box, { x: x + 8, y: y + (open ? 14 : 15) }, open ? "▾ " + g.name : g.label);
    if (!open) element("svg:tspan", text, { class: "note", dx: 8 }, g.note);
  }
  if (!isOpen(g)) return;
  for (const l of g.lines) {
    const bend = (l.y2 - l.leave) / 2, end = l.arrow ? l.y2 - 5 : l.y2;
    const path = `M${x + l.x1},${y + l.y1}V${y + l.leave}C${x + l.x1},${y + l.leave + bend} ${x + l.x2},${y + l.y2 - bend} ${x + l.x2},${y + end}`;
    element("svg:path", layers.edges, { class: "edge", "data-from": l.source.path, d: path, ...(l.arrow ? { "marker-end": "url(#arrow)" } : {}) });
  }
  for (const p of g.parts) paint(p, layers, x, y, as, isOpen);
}
