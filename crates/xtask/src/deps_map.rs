//! Dependencies between our crates point down only.
//!
//! Two maps say what is allowed. The table below bounds what a crate may ever
//! use. The fenced `deps` block in ARCHITECTURE.md says what it uses today, for
//! people to read; it has to match the manifests exactly, so it stays true.

use std::{collections::BTreeMap, fs, io};

use anyhow::{Context, Result, bail};

use crate::{
    program,
    workspace::{Crate, Workspace},
};

/// What one crate of ours may use of the others; names are folders of `crates/`.
struct Allowed {
    name: &'static str,
    deps: &'static [&'static str],
    /// More that its tests may use.
    dev_deps: &'static [&'static str],
}

const fn allow(name: &'static str, deps: &'static [&'static str]) -> Allowed {
    Allowed {
        name,
        deps,
        dev_deps: &[],
    }
}

/// Lowest crates first. `emojivoto` stands in for somebody else's application and
/// `e2e` for a user, so neither may see inside the product.
const ALLOWED: &[Allowed] = &[
    allow("model", &[]),
    allow("wire", &["model"]),
    allow("api", &[]),
    allow("identity", &[]),
    allow("flight", &["model"]),
    allow("store", &["model", "flight"]),
    allow("analysis", &["model"]),
    allow("proxy", &["model", "wire", "identity", "flight"]),
    allow("control", &["model", "wire", "identity"]),
    allow(
        "observe",
        &[
            "model", "wire", "api", "flight", "store", "analysis", "control",
        ],
    ),
    allow("launch", &["model", "identity", "control"]),
    allow("cli", &["api", "model", "control", "observe", "launch"]),
    allow("emojivoto", &[]),
    Allowed {
        name: "e2e",
        deps: &[],
        dev_deps: &["api", "model"],
    },
    // Beside the load it makes it stands in for the server that takes records, and for the
    // one that certifies.
    allow("bench", &["wire", "identity"]),
    allow("fuzz", &["model", "flight", "control", "proxy"]),
    // The proxy in it is built with another network.
    allow("sim", &["model", "wire", "flight", "control", "proxy"]),
    allow("codegen", &["model"]),
    allow("xtask", &[]),
];

/// The document that carries the map.
const DOCUMENT: &str = "ARCHITECTURE.md";

/// Compares the manifests with both maps and lists every difference.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut problems = against_table(&workspace.crates, ALLOWED);
    let document = workspace.root.join(DOCUMENT);
    match fs::read_to_string(&document) {
        Ok(text) => match parse_block(&text) {
            Ok(map) => problems.extend(against_document(&workspace.crates, &map)),
            Err(problem) => problems.push(problem),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            problems.push(format!(
                "{DOCUMENT} is missing, and with it the map of dependencies"
            ));
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", document.display())),
    }
    if problems.is_empty() {
        let edges: usize = workspace
            .crates
            .iter()
            .map(|(name, found)| used(name, found).len())
            .sum();
        return program::say(&format!("{} crates, {edges} edges", workspace.crates.len()));
    }
    bail!(
        "the dependency map does not hold:\n  {}\nthe manifests say:\n{}",
        problems.join("\n  "),
        render(&workspace.crates)
    );
}

/// What the document draws: what a crate is built on, and what its tests use.
fn used(name: &str, found: &Crate) -> Vec<String> {
    let mut used = [found.deps.as_slice(), found.dev_deps.as_slice()].concat();
    used.sort();
    used.dedup();
    used.retain(|dep| dep != name);
    used
}

/// Draws the block as it would be right, lowest crates first.
fn render(crates: &BTreeMap<String, Crate>) -> String {
    let rank = |name: &str| ALLOWED.iter().position(|allowed| allowed.name == name);
    let mut names: Vec<&String> = crates.keys().collect();
    names.sort_by_key(|name| rank(name).unwrap_or(usize::MAX));
    let line = |name: &String| {
        let line = format!("{name:<9} -> {}", used(name, &crates[name]).join(" "));
        format!("{}\n", line.trim_end())
    };
    let lines: String = names.into_iter().map(line).collect();
    format!("```text deps\n{lines}```")
}

fn against_table(crates: &BTreeMap<String, Crate>, table: &[Allowed]) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, found) in crates {
        let Some(allowed) = table.iter().find(|allowed| allowed.name == name) else {
            problems.push(format!(
                "crates/{name} is not in the table in crates/xtask/src/deps_map.rs: add it there"
            ));
            continue;
        };
        let may = |dep: &String| allowed.deps.contains(&dep.as_str());
        let tests_may = |dep: &String| may(dep) || allowed.dev_deps.contains(&dep.as_str());
        for dep in found.deps.iter().filter(|dep| !may(dep)) {
            problems.push(format!("{name} must not depend on {dep}"));
        }
        // A crate may name itself as a dev-dependency to turn on a feature for its tests.
        for dep in found
            .dev_deps
            .iter()
            .filter(|dep| *dep != name && !tests_may(dep))
        {
            problems.push(format!("the tests of {name} must not depend on {dep}"));
        }
    }
    problems
}

fn against_document(
    crates: &BTreeMap<String, Crate>,
    map: &BTreeMap<String, Vec<String>>,
) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, found) in crates {
        let Some(drawn) = map.get(name) else {
            let deps = used(name, found).join(" ");
            let line = format!("{name} -> {deps}");
            problems.push(format!("{DOCUMENT} lacks the line `{}`", line.trim_end()));
            continue;
        };
        let used = used(name, found);
        for dep in used.iter().filter(|dep| !drawn.contains(dep)) {
            problems.push(format!("{name} uses {dep}, but {DOCUMENT} does not say so"));
        }
        for dep in drawn.iter().filter(|dep| !used.contains(dep)) {
            problems.push(format!(
                "{DOCUMENT} says that {name} uses {dep}, but it does not"
            ));
        }
    }
    for name in map.keys().filter(|name| !crates.contains_key(*name)) {
        problems.push(format!(
            "{DOCUMENT} draws {name}, but there is no crates/{name}"
        ));
    }
    problems
}

/// Reads the block that opens with ```` ```text deps ````: one `crate -> dep dep`
/// line per crate, nothing after the arrow when it uses none of ours.
fn parse_block(document: &str) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut lines = document.lines().zip(1..);
    if !lines.any(|(line, _)| line.trim_end() == "```text deps") {
        return Err(format!(
            "{DOCUMENT} has no block that opens with ```text deps"
        ));
    }
    let mut map = BTreeMap::new();
    for (line, number) in lines {
        let line = line.trim();
        if line == "```" {
            return Ok(map);
        }
        if line.is_empty() {
            continue;
        }
        let Some((name, deps)) = line.split_once("->") else {
            return Err(format!(
                "{DOCUMENT}:{number}: expected `crate -> dep dep`, found `{line}`"
            ));
        };
        let name = name.trim().to_owned();
        let deps = deps.split_whitespace().map(str::to_owned).collect();
        if map.insert(name.clone(), deps).is_some() {
            return Err(format!("{DOCUMENT}:{number}: {name} is there twice"));
        }
    }
    Err(format!("{DOCUMENT}: the deps block does not end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One crate per line: `name -> dep dep | dev_dep`.
    fn crates(text: &str) -> BTreeMap<String, Crate> {
        let words = |list: &str| list.split_whitespace().map(str::to_owned).collect();
        let line = |line: &str| {
            let (name, rest) = line.split_once("->").unwrap();
            let (deps, dev_deps) = rest.split_once('|').unwrap_or((rest, ""));
            let found = Crate {
                package: String::new(),
                deps: words(deps),
                dev_deps: words(dev_deps),
            };
            (name.trim().to_owned(), found)
        };
        text.trim().lines().map(line).collect()
    }

    #[track_caller]
    fn check_table(text: &str, expected: &[&str]) {
        assert_eq!(against_table(&crates(text), ALLOWED), expected);
    }

    #[track_caller]
    fn check_document(text: &str, document: &str, expected: &[&str]) {
        let map = parse_block(&format!("# Map\n\n```text deps\n{document}\n```\n")).unwrap();
        assert_eq!(against_document(&crates(text), &map), expected);
    }

    #[test]
    fn edges_that_point_down_pass() {
        check_table(
            "model ->\nstore -> flight model | model\ne2e -> | api model",
            &[],
        );
    }

    #[test]
    fn edges_that_point_up_are_named() {
        check_table(
            "model -> store\nproxy -> store",
            &[
                "model must not depend on store",
                "proxy must not depend on store",
            ],
        );
    }

    #[test]
    fn tests_may_use_more_only_where_the_table_says_so() {
        check_table(
            "e2e -> api | observe",
            &[
                "e2e must not depend on api",
                "the tests of e2e must not depend on observe",
            ],
        );
        check_table("model -> | model", &[]);
    }

    #[test]
    fn a_crate_that_the_table_does_not_know_is_refused() {
        check_table(
            "utils ->",
            &["crates/utils is not in the table in crates/xtask/src/deps_map.rs: add it there"],
        );
    }

    #[test]
    fn the_table_has_no_cycle() {
        for (index, allowed) in ALLOWED.iter().enumerate() {
            for dep in allowed.deps {
                let above = ALLOWED[..index].iter().any(|earlier| earlier.name == *dep);
                assert!(
                    above,
                    "{} uses {dep}, which is not above it in the table",
                    allowed.name
                );
            }
        }
    }

    #[test]
    fn the_document_must_say_exactly_what_the_manifests_say() {
        check_document("model ->\nwire -> model", "model ->\nwire  -> model", &[]);
        check_document("api ->\ne2e -> | api", "api ->\ne2e -> api", &[]);
        check_document(
            "api ->\nmodel ->\nwire -> model",
            "model -> api\nwire ->\nold ->",
            &[
                "ARCHITECTURE.md lacks the line `api ->`",
                "ARCHITECTURE.md says that model uses api, but it does not",
                "wire uses model, but ARCHITECTURE.md does not say so",
                "ARCHITECTURE.md draws old, but there is no crates/old",
            ],
        );
    }

    #[test]
    fn the_block_that_a_failure_shows_is_the_right_one() {
        let crates = crates("api ->\ncli -> api model\nmodel ->\nother -> model");
        let block = render(&crates);
        assert_eq!(
            block,
            "```text deps\n\
             model     ->\n\
             api       ->\n\
             cli       -> api model\n\
             other     -> model\n\
             ```"
        );
        let map = parse_block(&block).unwrap();
        assert_eq!(against_document(&crates, &map), Vec::<String>::new());
    }

    #[test]
    fn a_block_that_is_missing_or_broken_is_an_error_with_its_line() {
        let error = |text: &str| parse_block(text).unwrap_err();
        assert_eq!(
            error(""),
            "ARCHITECTURE.md has no block that opens with ```text deps"
        );
        assert_eq!(
            error("```text deps\nmodel\n```\n"),
            "ARCHITECTURE.md:2: expected `crate -> dep dep`, found `model`"
        );
        assert_eq!(
            error("```text deps\nmodel ->\nmodel ->\n```\n"),
            "ARCHITECTURE.md:3: model is there twice"
        );
        assert_eq!(
            error("```text deps\nmodel ->\n"),
            "ARCHITECTURE.md: the deps block does not end"
        );
    }
}
