//! What one file declares and names, read with `syn`.

use std::collections::HashSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Meta, UseTree};

use crate::tidy::tokens;

/// A path as written, without generics: `["crate", "a", "B"]`.
pub(super) type Path = Vec<String>;

/// A name that a `use` brings in.
pub(super) struct Use {
    /// The name in this module.
    pub name: String,
    /// What it stands for.
    pub path: Path,
    /// Whether others may take it from here: then it is a dependency only where it is also used.
    pub is_public: bool,
    /// Line, from 1.
    pub line: usize,
}

/// A module: a file, or `mod name { .. }` inside one. Test code is left out.
#[derive(Default)]
pub(super) struct Source {
    /// Names of what is defined here, modules aside.
    pub items: HashSet<String>,
    /// Modules in files of their own.
    pub files: Vec<String>,
    /// Modules written out.
    pub inline: Vec<(String, Source)>,
    /// Names brought in.
    pub uses: Vec<Use>,
    /// Modules of which all names are brought in.
    pub globs: Vec<Path>,
    /// Every path in the code, with its line.
    pub paths: Vec<(Path, usize)>,
}

impl Source {
    /// Reads a file. Errors with line and reason if it is not Rust.
    pub(super) fn read(text: &str) -> Result<Self, (usize, String)> {
        let file = syn::parse_file(text).map_err(|e| (e.span().start().line, e.to_string()))?;
        let mut reader = Reader::default();
        reader.visit_file(&file);
        Ok(reader.source)
    }
}

#[derive(Default)]
struct Reader {
    source: Source,
}

impl Reader {
    /// All names of a `use`, each with its whole path.
    fn uses(&mut self, tree: &UseTree, prefix: &[String], is_public: bool) {
        let whole = |last: &dyn ToString| [prefix, &[last.to_string()]].concat();
        let mut bind = |name: String, path: Path, line: usize| {
            let path = if path.last().is_some_and(|last| last == "self") { prefix.to_vec() } else { path };
            let name = if name == "self" { path.last().cloned().unwrap_or_default() } else { name };
            self.source.uses.push(Use { name, path, is_public, line });
        };
        match tree {
            UseTree::Path(path) => self.uses(&path.tree, &whole(&path.ident), is_public),
            UseTree::Name(name) => {
                bind(name.ident.to_string(), whole(&name.ident), name.ident.span().start().line);
            }
            UseTree::Rename(rename) => {
                bind(rename.rename.to_string(), whole(&rename.ident), rename.ident.span().start().line);
            }
            UseTree::Glob(_) => self.source.globs.push(prefix.to_vec()),
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.uses(tree, prefix, is_public));
            }
        }
    }

    /// A path in code. A single name in small letters may be a variable: it counts where it
    /// `is_called`.
    fn path(&mut self, path: &syn::Path, is_called: bool) {
        let names: Path = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let is_variable = names.len() == 1 && names[0].starts_with(char::is_lowercase) && !is_called;
        if path.leading_colon.is_none() && !is_variable {
            self.source.paths.push((names, path.segments[0].ident.span().start().line));
        }
    }

    /// Paths in the tokens of a macro: `a::b`, `$crate::a`, and single names of types.
    fn tokens(&mut self, stream: TokenStream) {
        let mut path: Path = Vec::new();
        let mut line = 0;
        // What the next name does: 0 begins a path, 1 and 2 are colons behind one, 3 is a field's.
        let mut colons = 0;
        for tree in stream {
            match tree {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.token_path(std::mem::take(&mut path), line);
                        line = ident.span().start().line;
                    }
                    if colons != 3 {
                        path.push(ident.to_string());
                    }
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() && colons < 2 => {
                    colons += 1;
                }
                TokenTree::Punct(punct) => {
                    self.token_path(std::mem::take(&mut path), line);
                    colons = if punct.as_char() == '.' { 3 } else { 0 };
                }
                TokenTree::Group(group) => {
                    self.token_path(std::mem::take(&mut path), line);
                    colons = 0;
                    self.tokens(group.stream());
                }
                TokenTree::Literal(_) => colons = 0,
            }
        }
        self.token_path(path, line);
    }

    fn token_path(&mut self, path: Path, line: usize) {
        if path.len() > 1 || path.iter().any(|name| name.starts_with(char::is_uppercase)) {
            self.source.paths.push((path, line));
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name) = head(item);
        if attributes.iter().any(is_test) {
            return;
        }
        match item {
            Item::Use(item) => {
                let is_public = !matches!(item.vis, syn::Visibility::Inherited);
                return self.uses(&item.tree, &[], is_public);
            }
            Item::Mod(module) => {
                let name = module.ident.to_string();
                let Some((_, items)) = &module.content else { return self.source.files.push(name) };
                let mut inner = Self::default();
                items.iter().for_each(|item| inner.visit_item(item));
                return self.source.inline.push((name, inner.source));
            }
            _ => {}
        }
        self.source.items.extend(name.map(ToString::to_string));
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !function.attrs.iter().any(is_test) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.path(path, false);
        visit::visit_path(self, path);
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(function) = &*call.func {
            self.path(&function.path, true);
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.path(&mac.path, true);
        self.tokens(mac.tokens.clone());
        visit::visit_macro(self, mac);
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.tokens(list.tokens.clone());
        visit::visit_meta_list(self, list);
    }

    /// Who may see a thing is no dependency.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

/// Attributes and name of an item.
fn head(item: &Item) -> (&[Attribute], Option<&syn::Ident>) {
    match item {
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
        _ => (&[], None),
    }
}

fn is_test(attribute: &Attribute) -> bool {
    match &attribute.meta {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) => list.path.is_ident("cfg") && tokens::is_test_condition(list.tokens.clone()),
        Meta::NameValue(_) => false,
    }
}
