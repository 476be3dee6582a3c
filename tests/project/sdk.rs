//! The public interface of the SDK, as `sdk/public-api.txt` lists it: a change of it shows in that file, where a reviewer sees it.
//!
//! The list is taken from the sources, since rustdoc's own (which cargo-semver-checks and cargo-public-api read) needs an unstable
//! compiler flag and a build of everything below the SDK. It has what is `pub` without bodies, comments and private fields. What
//! wit-bindgen generates is not in it: that follows from the WIT package, which `tests/conformance` compares with its releases.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, Field, Fields, ImplItem, Item, ItemMod, TraitItem, UseTree, Visibility, parse_quote};

use crate::{path, read};

const LIST: &str = "sdk/public-api.txt";

#[test]
fn the_public_interface_is_the_listed_one() {
    let mut list = String::from(
        "# The public interface of sluice-filter. SLUICE_BLESS=1 cargo test -p sluice --test project rewrites it.\n",
    );
    module(&mut list, "sluice_filter", &path("sdk/src/lib.rs"), false);
    if std::env::var_os("SLUICE_BLESS").is_some() {
        std::fs::write(path(LIST), &list).expect("the list can be written");
    }
    let listed = read(LIST);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (listed_lines, lines) = (lines(&listed), lines(&list));
    let lost: Vec<_> = listed_lines.difference(&lines).collect();
    let new: Vec<_> = lines.difference(&listed_lines).collect();
    assert!(
        list == listed,
        "{LIST} is not what the SDK has. SLUICE_BLESS=1 rewrites it; what is lost or changed breaks filters and needs a new minor \
         version and a line in CHANGELOG.md.\nlost: {lost:#?}\nnew: {new:#?}"
    );
}

/// Lists a file and the modules below it. Of a hidden module only exported macros count.
fn module(list: &mut String, name: &str, file: &Path, hidden: bool) {
    let source = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let parsed = syn::parse_file(&source).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let folder = match file.file_stem().expect("a file").to_str() {
        Some("lib" | "mod") => file.parent().expect("a folder").to_owned(),
        _ => file.with_extension(""),
    };
    items(list, name, &folder, parsed.items, hidden);
}

fn items(list: &mut String, name: &str, folder: &Path, all: Vec<Item>, hidden: bool) {
    let re_exported: BTreeSet<String> = all.iter().filter_map(re_exported_module).collect();
    writeln!(list, "\n// {name}").expect("a string");
    for item in &all {
        if let Some(text) = public(item, hidden) {
            writeln!(list, "{}", text.trim_end()).expect("a string");
        }
    }
    for item in all {
        let Item::Mod(inner) = item else { continue };
        let inside = inner.ident.to_string();
        let hidden = hidden || is_hidden(&inner.attrs);
        if is_test(&inner.attrs) || !(is_public(&inner.vis) || re_exported.contains(&inside)) {
            continue;
        }
        let name = format!("{name}::{inside}");
        match inner {
            ItemMod { content: Some((_, content)), .. } => items(list, &name, &folder.join(&inside), content, hidden),
            _ => module(list, &name, &file_of(folder, &inside), hidden),
        }
    }
}

fn file_of(folder: &Path, module: &str) -> PathBuf {
    let file = folder.join(format!("{module}.rs"));
    if file.exists() { file } else { folder.join(module).join("mod.rs") }
}

/// The private module beside it that a `pub use` takes from.
fn re_exported_module(item: &Item) -> Option<String> {
    match item {
        Item::Use(found) if is_public(&found.vis) => match &found.tree {
            UseTree::Path(path) => Some(path.ident.to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// What of an item is public, as code.
fn public(item: &Item, hidden: bool) -> Option<String> {
    if let Item::Macro(found) = item {
        let exported = found.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export"));
        return match &found.ident {
            Some(ident) if exported && !is_hidden(&found.attrs) => Some(format!("macro_rules! {ident}")),
            Some(_) if !exported && !hidden => {
                Some(signatures(found.mac.tokens.clone())).filter(|text| !text.is_empty())
            }
            _ => None,
        };
    }
    if hidden {
        return None;
    }
    let mut item = item.clone();
    let kept = match &mut item {
        Item::Fn(found) if is_public(&found.vis) => {
            keep_api(&mut found.attrs);
            found.block = parse_quote!({});
            true
        }
        Item::Struct(found) if is_public(&found.vis) => {
            keep_api(&mut found.attrs);
            without_private(&mut found.fields);
            true
        }
        Item::Enum(found) if is_public(&found.vis) => {
            keep_api(&mut found.attrs);
            for variant in &mut found.variants {
                keep_api(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| keep_api(&mut field.attrs));
            }
            true
        }
        Item::Trait(found) if is_public(&found.vis) => {
            keep_api(&mut found.attrs);
            found.items.iter_mut().for_each(bare);
            true
        }
        Item::Type(found) if is_public(&found.vis) => {
            keep_api(&mut found.attrs);
            true
        }
        Item::Const(found) if is_public(&found.vis) => {
            keep_api(&mut found.attrs);
            true
        }
        Item::Use(found) if is_public(&found.vis) => {
            keep_api(&mut found.attrs);
            true
        }
        Item::Impl(found) if !is_test(&found.attrs) => {
            keep_api(&mut found.attrs);
            if found.trait_.is_some() {
                found.items.clear();
            } else {
                found.items.retain_mut(is_public_member);
            }
            found.trait_.is_some() || !found.items.is_empty()
        }
        _ => false,
    };
    kept.then(|| prettyplease::unparse(&syn::File { shebang: None, attrs: Vec::new(), items: vec![item] }))
}

/// Whether a member of an `impl` is public; its body goes.
fn is_public_member(member: &mut ImplItem) -> bool {
    match member {
        ImplItem::Fn(found) => {
            keep_api(&mut found.attrs);
            found.block = parse_quote!({});
            is_public(&found.vis)
        }
        ImplItem::Const(found) => {
            keep_api(&mut found.attrs);
            is_public(&found.vis)
        }
        // One that makes members by a macro: the macro's own are listed.
        _ => true,
    }
}

/// A member of a trait without comments and body; that there is a body stays to be seen.
fn bare(member: &mut TraitItem) {
    match member {
        TraitItem::Fn(found) => {
            keep_api(&mut found.attrs);
            if found.default.is_some() {
                found.default = Some(parse_quote!({}));
            }
        }
        TraitItem::Type(found) => keep_api(&mut found.attrs),
        TraitItem::Const(found) => keep_api(&mut found.attrs),
        _ => {}
    }
}

/// Private fields become one, of no type: that there are some says that nobody else can make the value.
fn without_private(fields: &mut Fields) {
    let mut private = 0;
    let mut keep = |field: Field| {
        let public = is_public(&field.vis);
        private += usize::from(!public);
        public.then(|| Field { attrs: Vec::new(), ..field })
    };
    match fields {
        Fields::Named(named) => {
            named.named = std::mem::take(&mut named.named).into_iter().filter_map(&mut keep).collect();
            if private > 0 {
                named.named.push(parse_quote!(_private: ()));
            }
        }
        Fields::Unnamed(unnamed) => {
            unnamed.unnamed = std::mem::take(&mut unnamed.unnamed).into_iter().filter_map(&mut keep).collect();
            if private > 0 {
                unnamed.unnamed.push(parse_quote!(()));
            }
        }
        Fields::Unit => {}
    }
}

/// The `pub fn` of a macro's rules, each up to its body.
fn signatures(tokens: TokenStream) -> String {
    let mut found = String::new();
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        if let TokenTree::Group(group) = token {
            found.push_str(&signatures(group.stream()));
        }
        let is = |at: usize, word: &str| matches!(tokens.get(at), Some(TokenTree::Ident(ident)) if ident == word);
        if is(at, "pub") && is(at + 1, "fn") {
            let body =
                |token: &&TokenTree| !matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
            let signature: TokenStream = tokens[at..].iter().take_while(body).cloned().collect();
            found.push_str(&format!("{signature}\n"));
        }
    }
    found
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Of attributes, those that change what users can do with an item.
fn keep_api(attributes: &mut Vec<Attribute>) {
    const KEPT: [&str; 5] = ["derive", "non_exhaustive", "must_use", "cfg", "deprecated"];
    attributes.retain(|attribute| KEPT.iter().any(|kept| attribute.path().is_ident(kept)));
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    has(attributes, "doc", "hidden")
}

fn is_test(attributes: &[Attribute]) -> bool {
    has(attributes, "cfg", "test")
}

fn has(attributes: &[Attribute], name: &str, word: &str) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident(name)
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_token_stream().to_string() == word)
    })
}
