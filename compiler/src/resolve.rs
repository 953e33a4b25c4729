//! Trees to a [`Package`]: `use` followed, definitions linked, every name looked up once, expanded or not.
//!
//! Nothing is evaluated here, so an error in a branch that no variant takes is found all the same.

use crate::ops;
use crate::value::{FUNCTIONS, nearest};
use snnc_grammar::ast::{self, Arg, Args, Expr, ExprKind, Ident, Item, Module, Stmt, StmtKind};
use snnc_grammar::{Diagnostic, FileId, SourceMap, parse};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Finds the text of `use a::b`: the only way out of the compiler, given by its caller.
pub trait Loader {
    /// The name and bytes of the module `path` (such as `["blocks", "mixer"]`) as seen from the source `from`; `None`
    /// if there is none.
    fn load(&self, from: &str, path: &[String]) -> Option<(String, Vec<u8>)>;

    /// Module paths that exist, for suggestions.
    fn known(&self) -> Vec<String>;
}

/// A block or DAG together with the names its file knows.
#[derive(Debug)]
pub struct BlockDef {
    /// The definition.
    pub block: ast::Block,
    /// The file it stands in: its names are looked up there.
    pub file: FileId,
}

/// Everything a root file says and uses, linked.
#[derive(Debug, Clone)]
pub struct Package {
    /// The root file's doc comment.
    pub doc: String,
    /// The root file's models.
    pub models: Vec<Arc<ast::Model>>,
    /// The root file's variants.
    pub variants: Vec<ast::Variant>,
    /// The root file's recipes.
    pub recipes: Vec<ast::Recipe>,
    /// Place of `require strict`.
    pub strict: Option<snnc_grammar::Span>,
    /// Blocks by file and visible name.
    pub scopes: HashMap<FileId, BTreeMap<String, Arc<BlockDef>>>,
    /// The root file.
    pub root: FileId,
}

/// Loads a root file and all it uses, and links them.
///
/// # Errors
/// All syntax errors of all files, or else all naming errors.
pub fn resolve(sources: &mut SourceMap, root: FileId, loader: &dyn Loader) -> Result<Package, Vec<Diagnostic>> {
    let mut linker = Linker { loader, modules: BTreeMap::new(), by_path: HashMap::new(), errors: Vec::new() };
    linker.module(sources, root, &mut Vec::new());
    if !linker.errors.is_empty() {
        return Err(linker.errors);
    }
    let scopes = linker.scopes();
    let Linker { modules, mut errors, .. } = linker;
    for module in modules.values() {
        errors.extend(names(module, &scopes));
    }
    errors.extend(recursion(&scopes));
    let mut package =
        Package { doc: String::new(), models: vec![], variants: vec![], recipes: vec![], strict: None, scopes: HashMap::new(), root };
    if let Some(module) = modules.get(&root) {
        package.doc.clone_from(&module.doc);
        for item in &module.items {
            match item {
                Item::Model(m) => package.models.push(Arc::new(m.clone())),
                Item::Variant(v) => package.variants.push(v.clone()),
                Item::Recipe(r) => package.recipes.push(r.clone()),
                Item::RequireStrict(span) => package.strict = Some(*span),
                Item::Use(_) | Item::Block(_) => {}
            }
        }
    }
    package.scopes = scopes;
    if errors.is_empty() { Ok(package) } else { Err(errors) }
}

struct Linker<'a> {
    loader: &'a dyn Loader,
    modules: BTreeMap<FileId, Module>,
    by_path: HashMap<(FileId, String), FileId>,
    errors: Vec<Diagnostic>,
}

impl Linker<'_> {
    fn module(&mut self, sources: &mut SourceMap, file: FileId, stack: &mut Vec<(String, FileId)>) {
        let module = match parse(sources, file) {
            Ok(module) => module,
            Err(errors) => return self.errors.extend(errors),
        };
        let from = sources.get(file).map(|s| s.name.clone()).unwrap_or_default();
        stack.push((from.clone(), file));
        for item in &module.items {
            let Item::Use(used) = item else { continue };
            let mut path: Vec<String> = used.path.iter().map(|i| i.name.clone()).collect();
            if used.names.is_none() {
                path.pop();
            }
            let shown = path.join("::");
            let Some((name, bytes)) = self.loader.load(&from, &path) else {
                let mut error =
                    Diagnostic::error("resolve::unknown_module", used.span, format!("there is no module `{shown}`"), "used here");
                let known = self.loader.known();
                if let Some(near) = nearest(&shown, known.iter().map(String::as_str)) {
                    error = error.help(format!("did you mean `{near}`?"));
                } else {
                    error = error.help(format!("a module is a `.snn` file beside this one, or of the library: {}", known.join(", ")));
                }
                self.errors.push(error);
                continue;
            };
            if let Some(at) = stack.iter().position(|(n, _)| *n == name) {
                let cycle: Vec<&str> = stack[at..].iter().map(|(n, _)| n.as_str()).chain([name.as_str()]).collect();
                let message = format!("files use each other in a cycle: {}", cycle.join(" -> "));
                self.errors.push(
                    Diagnostic::error("resolve::use_cycle", used.span, message, "closes the cycle")
                        .help("move what both need into a third file"),
                );
                continue;
            }
            let known = sources.iter().find(|(_, s)| s.name == name).map(|(id, _)| id);
            let id = match known {
                Some(id) => id,
                None => match snnc_grammar::decode(&bytes) {
                    Ok(text) => {
                        let id = sources.add(name, text);
                        self.module(sources, id, stack);
                        id
                    }
                    Err(mut error) => {
                        error.labels.insert(0, snnc_grammar::Label { span: used.span, text: "used here".into() });
                        error.labels.truncate(1);
                        self.errors.push(error);
                        continue;
                    }
                },
            };
            self.by_path.insert((file, shown), id);
        }
        stack.pop();
        self.modules.insert(file, module);
    }

    /// The blocks each file can name: its own and the imported ones.
    fn scopes(&mut self) -> HashMap<FileId, BTreeMap<String, Arc<BlockDef>>> {
        let mut own: HashMap<FileId, BTreeMap<String, Arc<BlockDef>>> = HashMap::new();
        for (file, module) in &self.modules {
            let mut seen: BTreeMap<&str, &Ident> = BTreeMap::new();
            let scope = own.entry(*file).or_default();
            for item in &module.items {
                let name = match item {
                    Item::Model(m) => &m.name,
                    Item::Variant(v) => &v.name,
                    Item::Block(b) => &b.name,
                    Item::Recipe(_) | Item::Use(_) | Item::RequireStrict(_) => continue,
                };
                if let Some(first) = seen.insert(&name.name, name) {
                    self.errors.push(
                        Diagnostic::error(
                            "resolve::duplicate",
                            name.span,
                            format!("`{}` is defined twice", name.name),
                            "defined again here",
                        )
                        .label(first.span, "first defined here"),
                    );
                }
                if let Item::Block(b) = item {
                    scope.insert(b.name.name.clone(), Arc::new(BlockDef { block: b.clone(), file: *file }));
                }
            }
        }
        let mut scopes = own.clone();
        for (file, module) in &self.modules {
            for item in &module.items {
                let Item::Use(used) = item else { continue };
                let (path, names): (&[Ident], &[Ident]) = match (&used.names, used.path.as_slice()) {
                    (Some(names), path) => (path, names),
                    (None, [path @ .., last]) => (path, std::slice::from_ref(last)),
                    (None, []) => continue,
                };
                let shown = path.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join("::");
                let Some(target) = self.by_path.get(&(*file, shown.clone())).and_then(|id| own.get(id)) else { continue };
                for name in names {
                    let Some(def) = target.get(&name.name) else {
                        let mut error = Diagnostic::error(
                            "resolve::unknown_name",
                            name.span,
                            format!("`{shown}` has no block `{}`", name.name),
                            "not found",
                        );
                        if let Some(near) = nearest(&name.name, target.keys().map(String::as_str)) {
                            error = error.help(format!("did you mean `{near}`?"));
                        }
                        self.errors.push(error);
                        continue;
                    };
                    let scope = scopes.entry(*file).or_default();
                    if let Some(other) = scope.insert(name.name.clone(), def.clone()) {
                        self.errors.push(
                            Diagnostic::error(
                                "resolve::duplicate",
                                name.span,
                                format!("`{}` is defined twice", name.name),
                                "imported here",
                            )
                            .label(other.block.name.span, "and defined here"),
                        );
                    }
                }
            }
        }
        scopes
    }
}

/// Blocks that contain themselves.
fn recursion(scopes: &HashMap<FileId, BTreeMap<String, Arc<BlockDef>>>) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    let mut files: Vec<_> = scopes.keys().copied().collect();
    files.sort();
    let mut done: BTreeSet<snnc_grammar::Span> = BTreeSet::new();
    for file in files {
        for def in scopes.get(&file).into_iter().flat_map(BTreeMap::values).filter(|d| d.file == file) {
            let mut stack: Vec<(Arc<BlockDef>, Vec<Ident>)> = vec![(def.clone(), callees(&def.block))];
            let mut on_path = vec![def.block.name.clone()];
            // Depth first; `done` blocks are known to be free of cycles.
            while let Some((current, next)) = stack.last_mut() {
                let Some(callee) = next.pop() else {
                    done.insert(current.block.name.span);
                    stack.pop();
                    on_path.pop();
                    continue;
                };
                let Some(target) = scopes.get(&current.file).and_then(|s| s.get(&callee.name)) else { continue };
                if let Some(at) = on_path.iter().position(|i| i.span == target.block.name.span) {
                    let cycle: Vec<&str> = on_path[at..].iter().map(|i| i.name.as_str()).chain([callee.name.as_str()]).collect();
                    if at == 0 {
                        let message = format!("a block contains itself: {}", cycle.join(" -> "));
                        errors.push(
                            Diagnostic::error("resolve::recursion", callee.span, message, "this use closes the cycle")
                                .label(target.block.name.span, "of this block"),
                        );
                    }
                    continue;
                }
                if !done.contains(&target.block.name.span) {
                    on_path.push(target.block.name.clone());
                    let calls = callees(&target.block);
                    stack.push((target.clone(), calls));
                }
            }
        }
    }
    errors
}

/// All callees and stage names of a block, those of its parameters' defaults included.
fn callees(block: &ast::Block) -> Vec<Ident> {
    let mut found = Vec::new();
    let mut note = |e: &Expr| match &e.kind {
        ExprKind::Call(c) => found.push(c.callee.clone()),
        ExprKind::Name(n) => found.push(Ident { name: n.clone(), span: e.span }),
        _ => {}
    };
    block.formals.iter().filter_map(|f| f.default.as_ref()).for_each(|e| walk(e, &mut note));
    block.body.iter().for_each(|stmt| each_expr(stmt, &mut note));
    found
}

/// Calls `f` on every expression in a statement, outermost first.
pub(crate) fn each_expr<'a>(stmt: &'a Stmt, f: &mut dyn FnMut(&'a Expr)) {
    match &stmt.kind {
        StmtKind::Param(p) => p.default.iter().for_each(|e| walk(e, f)),
        StmtKind::Time(_, e) | StmtKind::Neuron(_, e) | StmtKind::Share(_, e) | StmtKind::Bind(_, e) => walk(e, f),
        StmtKind::Yield(e) | StmtKind::Output(e) => walk(e, f),
        StmtKind::Input(_, ty) | StmtKind::Nodes(_, ty) => ty.axes.iter().for_each(|a| walk(&a.size, f)),
        StmtKind::Require(c, m) => {
            walk(c, f);
            m.iter().for_each(|e| walk(e, f));
        }
        StmtKind::For { from, to, .. } => {
            walk(from, f);
            to.iter().for_each(|e| walk(e, f));
        }
        StmtKind::If { arms, .. } => arms.iter().for_each(|(condition, _)| walk(condition, f)),
        StmtKind::Encoder(_) => {}
        StmtKind::Section { index, .. } => index.iter().for_each(|e| walk(e, f)),
        StmtKind::Edge { chain, .. } => walk(chain, f),
    }
    for inner in stmt.bodies().into_iter().flatten() {
        each_expr(inner, f);
    }
}

fn walk<'a>(e: &'a Expr, f: &mut dyn FnMut(&'a Expr)) {
    f(e);
    match &e.kind {
        ExprKind::List(items) => items.iter().for_each(|i| walk(i, f)),
        ExprKind::Unary(_, a) => walk(a, f),
        ExprKind::Binary(_, a, b) | ExprKind::Index(a, b) => {
            walk(a, f);
            walk(b, f);
        }
        ExprKind::Call(c) => walk_args(&c.args, f),
        ExprKind::Pipe(head, stages) => {
            walk(head, f);
            stages.iter().for_each(|s| walk(s, f));
        }
        ExprKind::Int(_) | ExprKind::Float(_) | ExprKind::Str(_) | ExprKind::Bool(_) | ExprKind::Name(_) => {}
    }
}

fn walk_args<'a>(args: &'a Args, f: &mut dyn FnMut(&'a Expr)) {
    for arg in &args.list {
        match arg {
            Arg::Plain(e) | Arg::Named(_, e) => walk(e, f),
            Arg::Arrow(_, to, _) => to.iter().filter_map(|d| d.size.as_ref()).for_each(|e| walk(e, f)),
        }
    }
}

/// No more than this many naming errors are reported.
const MAX_ERRORS: usize = 100;

/// Every name of a module that means nothing.
fn names(module: &Module, scopes: &HashMap<FileId, BTreeMap<String, Arc<BlockDef>>>) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    let empty = BTreeMap::new();
    let scope = scopes.get(&module.file).unwrap_or(&empty);
    let models: Vec<&ast::Model> = module.items.iter().filter_map(|i| if let Item::Model(m) = i { Some(m) } else { None }).collect();
    let variants = module.items.iter().filter_map(|i| if let Item::Variant(v) = i { Some(v.name.name.as_str()) } else { None });
    let mut targets: Vec<&str> = models.iter().map(|m| m.name.name.as_str()).collect();
    let model_names = targets.clone();
    targets.extend(variants);
    for item in &module.items {
        let (body, formals): (&[Stmt], &[ast::Formal]) = match item {
            Item::Model(m) => (&m.body, &[]),
            Item::Block(b) => (&b.body, &b.formals),
            Item::Variant(v) => {
                unknown(&v.model.callee, "model", &model_names, &mut errors);
                continue;
            }
            Item::Recipe(r) => {
                unknown(&r.model, "model", &targets, &mut errors);
                continue;
            }
            Item::Use(_) | Item::RequireStrict(_) => continue,
        };
        // Bindings are visible in the whole body, as at run time; being used before being bound is found when expanding.
        let mut bound: BTreeSet<String> = formals.iter().map(|f| f.name.name.clone()).collect();
        collect_bound(body, &mut bound);
        let mut known: BTreeSet<&str> = bound.iter().map(String::as_str).collect();
        known.extend(scope.keys().map(String::as_str));
        for name in ops::names().chain(FUNCTIONS).chain(["identity", "T"]) {
            known.insert(name);
        }
        let mut check = |name: &str, span, what: &str| {
            let axis = name.starts_with(|c: char| c.is_ascii_uppercase());
            if known.contains(name) || (axis && what == "name") || errors.len() >= MAX_ERRORS {
                return;
            }
            let mut error =
                Diagnostic::error("resolve::unknown_name", span, format!("there is no {what} `{name}`"), "not found in this scope");
            if let Some(near) = nearest(name, known.iter().copied()) {
                error = error.help(format!("did you mean `{near}`?"));
            }
            errors.push(error);
        };
        let mut each = |e: &Expr| match &e.kind {
            ExprKind::Name(n) => check(n, e.span, "name"),
            ExprKind::Call(c) => check(&c.callee.name, c.callee.span, "operator or block"),
            _ => {}
        };
        formals.iter().filter_map(|f| f.default.as_ref()).for_each(|e| walk(e, &mut each));
        body.iter().for_each(|stmt| each_expr(stmt, &mut each));
    }
    errors
}

fn unknown(name: &Ident, what: &str, known: &[&str], errors: &mut Vec<Diagnostic>) {
    if known.contains(&name.name.as_str()) {
        return;
    }
    let mut error =
        Diagnostic::error("resolve::unknown_name", name.span, format!("there is no {what} `{}`", name.name), "not found in this file");
    if let Some(near) = nearest(&name.name, known.iter().copied()) {
        error = error.help(format!("did you mean `{near}`?"));
    }
    errors.push(error);
}

fn collect_bound(body: &[Stmt], bound: &mut BTreeSet<String>) {
    for stmt in body {
        match &stmt.kind {
            StmtKind::Param(f) => {
                bound.insert(f.name.name.clone());
            }
            StmtKind::Time(name, _)
            | StmtKind::Input(name, _)
            | StmtKind::Neuron(name, _)
            | StmtKind::Share(name, _)
            | StmtKind::Bind(name, _) => {
                bound.insert(name.name.clone());
            }
            StmtKind::Nodes(names, _) => bound.extend(names.iter().map(|n| n.name.clone())),
            StmtKind::For { pattern, .. } => bound.extend(pattern.iter().map(|n| n.name.clone())),
            StmtKind::If { .. } | StmtKind::Encoder(_) | StmtKind::Section { .. } => {}
            StmtKind::Yield(_) | StmtKind::Output(_) | StmtKind::Require(..) | StmtKind::Edge { .. } => {}
        }
        stmt.bodies().into_iter().for_each(|body| collect_bound(body, bound));
    }
}
