//! The import graph of the workspace, file by file: no circle, and no import that runs upwards.
//!
//! An import is a path in the code that leads to another file. It stands in a `use`, an expression,
//! an attribute, or among the tokens of a macro. A path through a `pub use` imports the file that
//! defines the item. Test modules are not read.
//!
//! Neither `mod child;` nor `pub use child::Item;` is an import by itself. A parent depends on a
//! child as soon as its own code names an item of the child.
//!
//! Names are resolved without a compiler. Items that a macro generates belong to the file that
//! calls the macro.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::ext::IdentExt as _;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, ItemMod, ItemUse, Macro, Meta, UseTree, Visibility};

use crate::assert_none;
use crate::sources::{Sources, is_rust, repository};

/// The layers, from the ground up (docs/design.md 1). This is the one place that lists them.
///
/// A line is a layer, and each word of it a part: a file without its extension, or a folder. A file
/// belongs to the narrowest part that contains it. It may import its own part and the parts in the
/// lines above. Parts of one layer do not import each other.
///
/// An empty line begins another stack. A stack imports no other stack but the first, unless it is
/// one of [`COMPARES_STACKS`].
const LAYERS: &str = "
    protocol/src

    component/hot-path/src
    component/core/src
    component/runtime/src component/wasi/src
    component/authority/src component/cli/src component/http/src

    host/src/program host/src/private_file host/src/visible_text host/src/certificate
    host/src/secret
    host/src/token
    host/src/access
    host/src/command host/src/store/mod
    host/src/store host/src/observer
    host/src/observed_store host/src/audit host/src/sandbox
    host/src/authority
    host/src/async_authority
    host/src/metrics host/src/server host/src/client
    host/src/http
    host/src/http/api host/src/http/proxy
    host/src/http/main_listener host/src/http/recovery
    host/src/cli
    host/src/lib
    host/src/main host/influxdb3/src tests/bench/baseline/src tests/embed/rust/src
";

/// The part that measures the code of one stack beside that of another. Nothing imports it.
const COMPARES_STACKS: &str = "tests/bench/baseline/src";

/// Names of crates and modules, each with the parts that may import it, directly or re-exported.
const CONFINED: [(&str, &str); 10] = [
    ("bindings", "component/authority/src host/src/sandbox tests/embed/rust/src"),
    ("clap", "host/src/cli"),
    ("hyper", "host/src/client host/src/http host/src/server"),
    ("hyper_util", "host/src/client host/src/http/proxy host/src/server"),
    ("object_store", "host/src/store/object"),
    // Queries run on a copy of the tokens in memory. That file opens no other database.
    ("rusqlite", "host/src/store/sqlite host/src/http/api/sql/engine tests/bench/baseline/src/commits"),
    ("tokio_postgres", "host/src/store/postgres"),
    ("tokio_postgres_rustls", "host/src/store/postgres"),
    ("wasmtime", "host/src/sandbox tests/bench/baseline/src/check tests/embed/rust/src"),
    ("wit_bindgen", "component/authority/src component/cli/src component/http/src component/wasi/src"),
];

/// The workspace's Rust files as a graph.
#[derive(Debug, Default)]
struct Graph {
    /// Every file that belongs to a crate.
    files: BTreeSet<String>,
    imports: Vec<Import>,
}

/// A path in the code of a file that leads out of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: String,
    line: usize,
    /// As written.
    path: String,
    /// The file it leads to, or nothing for a crate from elsewhere.
    to: Option<String>,
    /// Every name on the way there, re-exports followed.
    names: Vec<String>,
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.to.as_deref().unwrap_or("another crate");
        write!(f, "{}:{}: imports {to} as {}", self.from, self.line, self.path)
    }
}

/// A module of a crate. Modules that are written within a file share its path.
#[derive(Debug)]
struct Module {
    file: String,
    parent: Option<usize>,
    children: HashMap<String, usize>,
    /// What is defined here.
    items: HashSet<String>,
    /// What is brought here by `use`: the name here, and its path.
    uses: HashMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
}

/// A path as the code has it.
#[derive(Debug)]
struct Mention {
    module: usize,
    line: usize,
    path: Vec<String>,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Use,
    /// `pub use`, which other files may follow.
    Reexport,
    Path,
}

/// The way to a place.
#[derive(Debug, Default)]
struct Trail {
    /// Every name on it, re-exports followed.
    names: Vec<String>,
    visited: HashSet<(usize, String, bool)>,
}

/// Where a path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Module(usize),
    /// An item of this module, or part of one.
    Item(usize),
    /// A crate from elsewhere, a generic parameter, a type of the prelude.
    Elsewhere,
}

/// The crates of the workspace, before their paths are resolved.
#[derive(Debug, Default)]
struct Workspace {
    modules: Vec<Module>,
    /// Crates that others can import, by name.
    libraries: HashMap<String, usize>,
    mentions: Vec<Mention>,
}

impl Workspace {
    fn read(sources: &Sources) -> Self {
        let mut workspace = Self::default();
        for (path, manifest) in sources {
            let Some(folder) = path.strip_suffix("Cargo.toml") else { continue };
            let Some((_, package)) = manifest.split_once("[package]\n") else { continue };
            let name = package.lines().find_map(|line| quoted(line, "name")).expect("a package has a name");
            let named = manifest.lines().filter_map(|line| quoted(line, "path"));
            let roots: BTreeSet<_> = named.chain(["src/lib.rs", "src/main.rs"]).collect();
            for root in roots.into_iter().filter(|root| root.starts_with("src/") && is_rust(root)) {
                let file = format!("{folder}{root}");
                if sources.contains_key(&file) {
                    let module = workspace.read_file(sources, &file, None, &format!("{folder}src"));
                    if root == "src/lib.rs" {
                        workspace.libraries.insert(name.replace('-', "_"), module);
                    }
                }
            }
        }
        workspace
    }

    /// Reads a file and the modules that it declares. Their files stand in `folder`.
    fn read_file(&mut self, sources: &Sources, file: &str, parent: Option<usize>, folder: &str) -> usize {
        let syntax = syn::parse_file(&sources[file]).unwrap_or_else(|error| panic!("{file}: {error}"));
        let module = self.add_module(file, parent);
        let mut reader = Reader { sources, workspace: self, module, folder: folder.to_owned(), depth: 0 };
        reader.visit_file(&syntax);
        module
    }

    fn add_module(&mut self, file: &str, parent: Option<usize>) -> usize {
        self.modules.push(Module {
            file: file.to_owned(),
            parent,
            children: HashMap::new(),
            items: HashSet::new(),
            uses: HashMap::new(),
            globs: Vec::new(),
        });
        self.modules.len() - 1
    }

    /// Follows a path from a module.
    fn resolve(&self, from: usize, path: &[String], trail: &mut Trail) -> Place {
        trail.names.extend_from_slice(path);
        let mut place = Place::Module(from);
        for (index, name) in path.iter().enumerate() {
            let (is_first, is_last) = (index == 0, index + 1 == path.len());
            let Place::Module(module) = place else { break };
            place = match name.as_str() {
                "crate" => Place::Module(self.root(module)),
                "self" => place,
                "super" => Place::Module(self.modules[module].parent.expect("a module above")),
                "Self" | "*" => Place::Item(module),
                _ => match self.look_up(module, name, is_last, trail) {
                    Some(place) => place,
                    None if is_first => {
                        self.libraries.get(name).map_or(Place::Elsewhere, |root| Place::Module(*root))
                    }
                    None => Place::Item(module),
                },
            };
        }
        place
    }

    /// Finds what a name means in a module. If a module and an item share it, the item is meant at
    /// the end of a path, and the module before.
    fn look_up(&self, module: usize, name: &str, is_last: bool, trail: &mut Trail) -> Option<Place> {
        if !trail.visited.insert((module, name.to_owned(), is_last)) {
            return None;
        }
        let scope = &self.modules[module];
        let child = scope.children.get(name).map(|child| Place::Module(*child));
        let item = scope.items.contains(name).then_some(Place::Item(module));
        let (first, last) = if is_last { (item, child) } else { (child, item) };
        let brought = || Some(self.resolve(module, scope.uses.get(name)?, &mut *trail));
        first.or_else(brought).or(last).or_else(|| {
            scope.globs.iter().find_map(|glob| match self.resolve(module, glob, &mut Trail::default()) {
                Place::Module(other) => self.look_up(other, name, is_last, trail),
                _ => None,
            })
        })
    }

    fn root(&self, module: usize) -> usize {
        self.modules[module].parent.map_or(module, |parent| self.root(parent))
    }

    fn is_below(&self, module: usize, ancestor: usize) -> bool {
        self.modules[module]
            .parent
            .is_some_and(|parent| parent == ancestor || self.is_below(parent, ancestor))
    }

    fn graph(&self) -> Graph {
        let files = self.modules.iter().map(|module| module.file.clone()).collect();
        let imports: BTreeSet<_> = self.mentions.iter().filter_map(|mention| self.import(mention)).collect();
        Graph { files, imports: imports.into_iter().collect() }
    }

    fn import(&self, mention: &Mention) -> Option<Import> {
        let mut trail = Trail::default();
        let is_name = mention.how == How::Path && mention.path.len() == 1;
        let to = match (self.resolve(mention.module, &mention.path, &mut trail), mention.how) {
            // A module is imported where a path leads through it.
            (Place::Module(_), How::Use | How::Reexport) => return None,
            // A variable or a method of that name.
            (Place::Module(_) | Place::Elsewhere, _) if is_name => return None,
            (Place::Elsewhere, _) => None,
            (Place::Item(module), How::Reexport) if self.is_below(module, mention.module) => return None,
            (Place::Item(module) | Place::Module(module), _) => Some(self.modules[module].file.clone()),
        };
        let from = self.modules[mention.module].file.clone();
        let is_import = to.as_ref() != Some(&from);
        is_import.then(|| Import {
            from,
            line: mention.line,
            path: mention.path.join("::"),
            to,
            names: trail.names,
        })
    }
}

/// The value of `key = "value"`, if the line is that.
fn quoted<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.trim_start().strip_prefix('=')?.trim().strip_prefix('"')?.strip_suffix('"')
}

/// Collects what a file defines and mentions.
struct Reader<'a> {
    sources: &'a Sources,
    workspace: &'a mut Workspace,
    module: usize,
    /// Where the files of child modules stand.
    folder: String,
    /// How many blocks of code are around. What they define is no item of the module.
    depth: usize,
}

impl Reader<'_> {
    fn here(&mut self) -> &mut Module {
        &mut self.workspace.modules[self.module]
    }

    fn mention(&mut self, line: usize, path: Vec<String>, how: How) {
        self.workspace.mentions.push(Mention { module: self.module, line, path, how });
    }

    fn define(&mut self, name: &Ident) {
        if self.depth == 0 {
            self.here().items.insert(name.unraw().to_string());
        }
    }

    fn read_use(&mut self, prefix: &[String], tree: &UseTree, how: How) {
        let with = |name: &Ident| [prefix, &[name.unraw().to_string()]].concat();
        let (name, path, line) = match tree {
            UseTree::Path(tree) => return self.read_use(&with(&tree.ident), &tree.tree, how),
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.read_use(prefix, tree, how));
            }
            UseTree::Glob(glob) => {
                self.mention(glob.star_token.span.start().line, [prefix, &["*".to_owned()]].concat(), how);
                return self.here().globs.push(prefix.to_vec());
            }
            UseTree::Name(tree) if tree.ident == "self" => {
                (prefix.last().cloned().unwrap_or_default(), prefix.to_vec(), tree.ident.span().start().line)
            }
            UseTree::Name(tree) => {
                (tree.ident.unraw().to_string(), with(&tree.ident), tree.ident.span().start().line)
            }
            UseTree::Rename(tree) if tree.ident == "self" => {
                (tree.rename.unraw().to_string(), prefix.to_vec(), tree.ident.span().start().line)
            }
            UseTree::Rename(tree) => {
                (tree.rename.unraw().to_string(), with(&tree.ident), tree.ident.span().start().line)
            }
        };
        self.mention(line, path.clone(), how);
        self.here().uses.insert(name, path);
    }

    /// Finds paths among tokens that follow no grammar: the arguments of macros and attributes.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<Ident> = Vec::new();
        // How many colons stand behind the last name.
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.finish(&mut path);
                    }
                    path.push(name);
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Punct(_) => colons = 0,
                TokenTree::Group(group) => {
                    self.finish(&mut path);
                    colons = 0;
                    self.read_tokens(group.stream());
                }
                TokenTree::Literal(literal) => {
                    let is_function = path.last().is_some_and(|key| key.to_string().ends_with("with"));
                    self.finish(&mut path);
                    colons = 0;
                    if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string())
                        && let Ok(inner) = text.parse_with(syn::Path::parse_mod_style)
                        && (is_function || inner.segments.len() > 1)
                    {
                        let names = inner.segments.iter().map(|segment| segment.ident.unraw().to_string());
                        // It may be a module, which a name by itself is not elsewhere.
                        let path = ["self".to_owned()].into_iter().chain(names).collect();
                        self.mention(literal.span().start().line, path, How::Path);
                    }
                }
            }
        }
        self.finish(&mut path);
    }

    fn finish(&mut self, path: &mut Vec<Ident>) {
        if let Some(first) = path.first() {
            let line = first.span().start().line;
            let names = path.iter().map(|name| name.unraw().to_string()).collect();
            self.mention_path(line, names);
        }
        path.clear();
    }

    /// A name by itself leads out of the file only if a `use` brings it here.
    fn mention_path(&mut self, line: usize, path: Vec<String>) {
        if path.len() > 1 || !matches!(path[0].as_str(), "crate" | "self" | "super" | "Self") {
            self.mention(line, path, How::Path);
        }
    }
}

impl<'a> Visit<'a> for Reader<'_> {
    fn visit_item(&mut self, item: &'a Item) {
        let (attributes, name) = match item {
            Item::Const(item) => (&item.attrs, Some(&item.ident)),
            Item::Enum(item) => (&item.attrs, Some(&item.ident)),
            Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
            Item::Impl(item) => (&item.attrs, None),
            Item::Macro(item) => (&item.attrs, item.ident.as_ref()),
            Item::Mod(item) => (&item.attrs, None),
            Item::Static(item) => (&item.attrs, Some(&item.ident)),
            Item::Struct(item) => (&item.attrs, Some(&item.ident)),
            Item::Trait(item) => (&item.attrs, Some(&item.ident)),
            Item::Type(item) => (&item.attrs, Some(&item.ident)),
            Item::Union(item) => (&item.attrs, Some(&item.ident)),
            Item::Use(item) => (&item.attrs, None),
            _ => return visit::visit_item(self, item),
        };
        if is_for_tests(attributes) {
            return;
        }
        if let Some(name) = name {
            self.define(name);
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item(&mut self, item: &'a ImplItem) {
        if !matches!(item, ImplItem::Fn(function) if is_for_tests(&function.attrs)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        let name = item.ident.unraw().to_string();
        let folder = format!("{}/{name}", self.folder);
        let child = if let Some((_, items)) = &item.content {
            let (file, parent) = (self.here().file.clone(), self.module);
            let child = self.workspace.add_module(&file, Some(parent));
            let mut reader =
                Reader { sources: self.sources, workspace: self.workspace, module: child, folder, depth: 0 };
            for item in items {
                reader.visit_item(item);
            }
            child
        } else {
            let files = [format!("{folder}.rs"), format!("{folder}/mod.rs")];
            let file = files.iter().find(|file| self.sources.contains_key(*file));
            let file = file.unwrap_or_else(|| panic!("no file of the module {folder}"));
            self.workspace.read_file(self.sources, file, Some(self.module), &folder)
        };
        self.here().children.insert(name, child);
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        let how = if matches!(item.vis, Visibility::Inherited) { How::Use } else { How::Reexport };
        self.read_use(&[], &item.tree, how);
    }

    fn visit_block(&mut self, block: &'a syn::Block) {
        self.depth += 1;
        visit::visit_block(self, block);
        self.depth -= 1;
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|segment| segment.ident.unraw().to_string()).collect();
        self.mention_path(path.segments[0].ident.span().start().line, names);
        visit::visit_path(self, path);
    }

    /// `pub(super)` limits the use of an item, and is no use itself.
    fn visit_vis_restricted(&mut self, _: &'a syn::VisRestricted) {}

    fn visit_macro(&mut self, call: &'a Macro) {
        self.visit_path(&call.path);
        self.read_tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'a Attribute) {
        match &attribute.meta {
            Meta::List(list) => self.read_tokens(list.tokens.clone()),
            Meta::NameValue(_) | Meta::Path(_) => {}
        }
    }
}

/// Whether an item is there in tests alone.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let Meta::List(list) = &attribute.meta else { return false };
        let condition = list.tokens.to_string();
        attribute.path().is_ident("cfg") && (condition == "test" || condition.starts_with("all (test"))
    })
}

impl Graph {
    fn read(sources: &Sources) -> Self {
        Workspace::read(sources).graph()
    }

    /// The first import of each file by each other, without other crates.
    fn arrows(&self) -> BTreeMap<&str, BTreeMap<&str, &Import>> {
        let mut arrows: BTreeMap<&str, BTreeMap<&str, &Import>> = BTreeMap::new();
        for import in &self.imports {
            if let Some(to) = &import.to {
                arrows.entry(&import.from).or_default().entry(to).or_insert(import);
            }
        }
        arrows
    }

    /// The shortest circle through each file that is in one, each circle once.
    fn circles(&self) -> Vec<Vec<&Import>> {
        let arrows = self.arrows();
        let mut circles: BTreeMap<BTreeSet<&str>, Vec<&Import>> = BTreeMap::new();
        for start in arrows.keys() {
            if let Some(circle) = shortest_circle(&arrows, start) {
                circles.entry(circle.iter().map(|import| import.from.as_str()).collect()).or_insert(circle);
            }
        }
        circles.into_values().collect()
    }

    /// Imports that run against the layers, and files that have no place among them.
    fn violations(&self, layers: &Layers) -> Vec<String> {
        let mut violations = Vec::new();
        for file in &self.files {
            if layers.place(file).is_none() {
                violations.push(format!("{file}: stands in no layer"));
            }
        }
        for import in self.arrows().values().flat_map(BTreeMap::values) {
            let to = import.to.as_deref().expect("an arrow leads to a file");
            if let (Some(above), Some(below)) = (layers.place(&import.from), layers.place(to)) {
                let direction = match () {
                    () if above.part == below.part => continue,
                    () if above.stack == below.stack && above.layer > below.layer => continue,
                    () if above.stack != below.stack && below.stack == 0 => continue,
                    () if import.from.starts_with(COMPARES_STACKS) => continue,
                    () if above.stack != below.stack => "into another stack",
                    () if above.layer == below.layer => "sideways",
                    () => "upwards",
                };
                violations.push(format!("{import}, {direction}"));
            }
        }
        violations
    }

    /// The first import of each confined name in each file that may not import it.
    fn trespasses(&self, confined: &[(&str, &str)]) -> Vec<String> {
        let mut violations = Vec::new();
        for (name, parts) in confined {
            let is_allowed = |file: &str| parts.split_whitespace().any(|part| contains(part, file));
            let mut files = BTreeSet::new();
            for import in self.imports.iter().filter(|import| !is_allowed(&import.from)) {
                if import.names.iter().any(|found| found == name) && files.insert(&import.from) {
                    violations.push(format!("{import}: `{name}` belongs to {parts}"));
                }
            }
        }
        violations
    }
}

fn shortest_circle<'a>(
    arrows: &BTreeMap<&'a str, BTreeMap<&'a str, &'a Import>>,
    start: &'a str,
) -> Option<Vec<&'a Import>> {
    let mut arrived: HashMap<&str, &Import> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for (to, import) in arrows.get(file).into_iter().flatten() {
            if !arrived.contains_key(to) {
                arrived.insert(to, import);
                queue.push_back(to);
            }
        }
    }
    let mut circle = vec![*arrived.get(start)?];
    while circle[circle.len() - 1].from != start {
        circle.push(arrived[circle[circle.len() - 1].from.as_str()]);
    }
    circle.reverse();
    Some(circle)
}

/// Where a file stands. The ground is the stack 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position<'a> {
    stack: usize,
    layer: usize,
    part: &'a str,
}

/// Every part and its position.
struct Layers<'a>(Vec<Position<'a>>);

impl<'a> Layers<'a> {
    fn parse(text: &'a str) -> Self {
        let mut positions = Vec::new();
        let mut stack = 0;
        for (layer, line) in text.trim().lines().enumerate() {
            stack += usize::from(line.trim().is_empty());
            positions.extend(line.split_whitespace().map(|part| Position { stack, layer, part }));
        }
        Self(positions)
    }

    /// The position of the narrowest part that contains the file.
    fn place(&self, file: &str) -> Option<Position<'a>> {
        let parts = self.0.iter().filter(|position| contains(position.part, file));
        parts.max_by_key(|position| position.part.len()).copied()
    }
}

/// Whether a file belongs to a part. The file `part.rs` is one with the folder `part`.
fn contains(part: &str, file: &str) -> bool {
    file.strip_prefix(part).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn describe(circles: &[Vec<&Import>]) -> Vec<String> {
    let line = |import: &&Import| format!("    {import}");
    let lines = |circle: &Vec<&Import>| circle.iter().map(line).collect::<Vec<_>>().join("\n");
    circles.iter().map(|circle| format!("a circle of {} files:\n{}", circle.len(), lines(circle))).collect()
}

#[test]
fn imports_have_no_circle() {
    let graph = Graph::read(&repository());
    println!(
        "{} files, {} imports of one by another",
        graph.files.len(),
        graph.arrows().values().flatten().count()
    );
    assert_none(&describe(&graph.circles()), "no file imports itself through others");
}

#[test]
fn imports_run_downwards() {
    let graph = Graph::read(&repository());
    assert_none(
        &graph.violations(&Layers::parse(LAYERS)),
        "imports follow the layers of tests/house/layers.rs",
    );
}

#[test]
fn layers_name_existing_files() {
    let graph = Graph::read(&repository());
    let layers = Layers::parse(LAYERS);
    let is_empty =
        |part: &&str| !graph.files.iter().any(|file| layers.place(file).is_some_and(|at| at.part == *part));
    let empty: Vec<_> = LAYERS.split_whitespace().filter(is_empty).map(str::to_owned).collect();
    assert_none(&empty, "every part of the layers has a file");
}

#[test]
fn confined_names_stay_in_their_parts() {
    let graph = Graph::read(&repository());
    assert_none(&graph.trespasses(&CONFINED), "frameworks and bindings stay where they belong");
}

/// The checks, held against small crates that are made up.
#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[package]\nname = \"a-crate\"\n";

    fn graph(files: &[(&str, &str)]) -> Graph {
        let sources = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        Graph::read(&sources.chain([("a/Cargo.toml".to_owned(), MANIFEST.to_owned())]).collect())
    }

    /// Every import of one file by another, as `from:line to`, without the folder.
    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let graph = graph(files);
        let short = |file: &str| file.trim_start_matches("a/src/").to_owned();
        let imports = graph.imports.iter().filter_map(|import| Some((import, import.to.as_ref()?)));
        imports.map(|(import, to)| format!("{}:{} {}", short(&import.from), import.line, short(to))).collect()
    }

    #[test]
    fn use_of_an_item_is_an_import() {
        let files = [
            ("a/src/lib.rs", "mod one;\nmod two;\n"),
            ("a/src/one.rs", "use std::fmt;\n\nuse crate::two::{Item, deep::Deep};\n"),
            ("a/src/two.rs", "pub mod deep;\npub struct Item;\n"),
            ("a/src/two/deep.rs", "pub struct Deep;\n"),
        ];
        assert_eq!(arrows(&files), ["one.rs:3 two.rs", "one.rs:3 two/deep.rs"]);
    }

    #[test]
    fn inline_path_is_an_import() {
        let files = [
            ("a/src/lib.rs", "mod one;\nmod two;\n"),
            ("a/src/one.rs", "use crate::two;\nfn f() -> super::two::Item {\n    two::new()\n}\n"),
            ("a/src/two.rs", "pub struct Item;\npub fn new() -> Item { Item }\n"),
        ];
        assert_eq!(arrows(&files), ["one.rs:2 two.rs", "one.rs:3 two.rs"]);
    }

    #[test]
    fn macro_and_attribute_arguments_are_read() {
        let one = "#[derive(Serialize)]\n#[serde(with = \"two\")]\nstruct A;\nuse crate::two;\n\
                   fn f() { println!(\"{}\", crate::two::ITEM); }\n";
        let files = [
            ("a/src/lib.rs", "mod one;\nmod two;\n"),
            ("a/src/one.rs", one),
            ("a/src/two.rs", "pub const ITEM: u8 = 1;\n"),
        ];
        assert_eq!(arrows(&files), ["one.rs:2 two.rs", "one.rs:5 two.rs"]);
    }

    #[test]
    fn reexported_item_leads_to_its_definition() {
        let files = [
            ("a/src/lib.rs", "mod one;\nmod two;\npub use two::Deep;\n"),
            ("a/src/one.rs", "use crate::Deep;\nuse crate::two::Deep as Same;\n"),
            ("a/src/two/mod.rs", "mod deep;\nmod glob;\npub use deep::Deep;\npub use glob::*;\n"),
            ("a/src/two/deep.rs", "use super::Other;\npub struct Deep;\n"),
            ("a/src/two/glob.rs", "pub struct Other;\n"),
        ];
        let expected = ["one.rs:1 two/deep.rs", "one.rs:2 two/deep.rs", "two/deep.rs:1 two/glob.rs"];
        assert_eq!(arrows(&files), expected);
    }

    #[test]
    fn reexported_item_in_use_is_an_import() {
        let files = [
            ("a/src/lib.rs", "mod one;\npub use one::Item;\nfn f(_: Item) {}\n"),
            ("a/src/one.rs", "pub struct Item;\n"),
        ];
        assert_eq!(arrows(&files), ["lib.rs:3 one.rs"]);
    }

    #[test]
    fn test_modules_import_nothing() {
        let files = [
            ("a/src/lib.rs", "mod one;\nmod two;\n"),
            ("a/src/one.rs", "#[cfg(test)]\nmod tests {\n    use crate::two::Item;\n}\n"),
            ("a/src/two.rs", "pub struct Item;\n"),
        ];
        assert_eq!(arrows(&files), [""; 0]);
    }

    #[test]
    fn circle_of_three_is_reported_by_line() {
        let graph = graph(&[
            ("a/src/lib.rs", "mod one;\nmod two;\nmod three;\n"),
            ("a/src/one.rs", "\nuse crate::two::Two;\npub struct One;\n"),
            ("a/src/two.rs", "pub struct Two;\nfn f() { super::three::g() }\n"),
            ("a/src/three.rs", "pub fn g() {\n    let _ = crate::one::One;\n}\n"),
        ]);
        let expected = "a circle of 3 files:\n    \
            a/src/one.rs:2: imports a/src/two.rs as crate::two::Two\n    \
            a/src/two.rs:2: imports a/src/three.rs as super::three::g\n    \
            a/src/three.rs:2: imports a/src/one.rs as crate::one::One";
        assert_eq!(describe(&graph.circles()), [expected]);
    }

    #[test]
    fn circle_of_parent_and_child_is_reported() {
        let graph = graph(&[
            ("a/src/lib.rs", "mod one;\n"),
            ("a/src/one/mod.rs", "mod child;\npub const LIMIT: u8 = 1;\nfn f() { child::g() }\n"),
            ("a/src/one/child.rs", "use super::LIMIT;\npub fn g() {}\n"),
        ]);
        assert_eq!(graph.circles().len(), 1);
    }

    #[test]
    fn declared_and_shown_child_makes_no_circle() {
        let graph = graph(&[
            ("a/src/lib.rs", "mod one;\n"),
            ("a/src/one/mod.rs", "mod child;\npub use child::Child;\npub const LIMIT: u8 = 1;\n"),
            ("a/src/one/child.rs", "use super::LIMIT;\npub struct Child;\n"),
        ]);
        assert_eq!(describe(&graph.circles()), [""; 0]);
    }

    #[test]
    fn import_against_the_layers_is_reported() {
        let files = [
            ("a/src/lib.rs", "mod low;\nmod high;\nmod beside;\nmod lost;\n"),
            ("a/src/low.rs", "use crate::high::High;\n"),
            ("a/src/high/mod.rs", "pub struct High;\nuse crate::low::Low;\nmod inner;\n"),
            ("a/src/high/inner.rs", "use super::High;\nuse crate::beside::B;\n"),
            ("a/src/beside.rs", "pub struct B;\n"),
            ("a/src/lost.rs", ""),
            ("b/Cargo.toml", "[package]\nname = \"b\"\n"),
            ("b/src/lib.rs", "use ground::G;\nuse a_crate::X;\n"),
            ("g/Cargo.toml", "[package]\nname = \"ground\"\n"),
            ("g/src/lib.rs", "pub struct G;\n"),
        ];
        let layers = Layers::parse("g/src\n\na/src/low\na/src/high a/src/beside\na/src/lib\n\nb/src\n");
        let expected = [
            "a/src/lost.rs: stands in no layer",
            "a/src/high/inner.rs:2: imports a/src/beside.rs as crate::beside::B, sideways",
            "a/src/low.rs:1: imports a/src/high/mod.rs as crate::high::High, upwards",
            "b/src/lib.rs:2: imports a/src/lib.rs as a_crate::X, into another stack",
        ];
        assert_eq!(graph(&files).violations(&layers), expected);
    }

    #[test]
    fn confined_name_elsewhere_is_reported() {
        let files = [
            ("a/src/lib.rs", "mod engine;\nmod other;\n"),
            ("a/src/engine.rs", "pub use wasmtime;\nuse wasmtime::Engine;\n"),
            ("a/src/other.rs", "fn f(_: crate::engine::wasmtime::Engine) {}\n"),
        ];
        let expected = "a/src/other.rs:1: imports another crate as crate::engine::wasmtime::Engine: `wasmtime` \
                        belongs to a/src/engine";
        assert_eq!(graph(&files).trespasses(&[("wasmtime", "a/src/engine")]), [expected]);
    }
}
