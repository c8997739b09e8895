//! Generates Rust from the `.proto` files and pages of the documentation from tables in
//! the code, into files that are committed.
//!
//! Nothing else needs a protobuf compiler: not the product's build, and not a
//! machine that only changes Rust. `cargo xtask codegen` runs this program;
//! `--check` compares the committed files with what would be written, and
//! touches nothing. The compiler is protox, so no `protoc` has to be installed.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

/// A crate with `.proto` files in `proto/` and their Rust in `src/generated/`,
/// one file per protobuf package.
struct Protocol {
    folder: &'static str,
    /// Whether clients and servers are generated beside the messages.
    services: bool,
}

const PROTOCOLS: &[Protocol] = &[
    Protocol {
        folder: "crates/wire",
        services: true,
    },
    // Its hundred methods differ in name only, so it routes them by hand.
    Protocol {
        folder: "crates/emojivoto",
        services: false,
    },
];

/// Texts by file name.
type Files = BTreeMap<String, String>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        [] => for_each(write).and_then(|()| each_page(false)),
        ["--check"] => for_each(check).and_then(|()| each_page(true)),
        _ => {
            let _ = writeln!(io::stderr(), "usage: cargo xtask codegen [--check]");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does something with each protocol's folder and files, and prints what it says.
fn for_each(act: fn(&Path, &Files) -> Result<String>) -> Result<()> {
    let root = root()?;
    for protocol in PROTOCOLS {
        let folder = root.join(protocol.folder);
        let files = generate(&folder.join("proto"), protocol.services)
            .with_context(|| format!("generate the code of {}", protocol.folder))?;
        let said = act(&folder.join("src/generated"), &files)?;
        writeln!(io::stdout(), "{}: {said}", protocol.folder)
            .context("print to standard output")?;
    }
    Ok(())
}

/// Pages of the documentation that are generated, by path in the repository.
fn pages() -> [(&'static str, String); 2] {
    [
        ("docs/causes.md", whodunit_model::answer::page()),
        ("docs/limits.md", whodunit_model::limit::page()),
    ]
}

/// Writes the pages, or with `check` fails when one is not what would be written.
fn each_page(check: bool) -> Result<()> {
    let root = root()?;
    for (name, text) in pages() {
        let path = root.join(name);
        let committed = match fs::read_to_string(&path) {
            Ok(committed) => committed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let said = if committed == text {
            "current"
        } else if check {
            bail!(
                "stale; run `cargo xtask codegen` and commit what it changes: {}",
                first_difference(name, &committed, &text)
            );
        } else {
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            "changed"
        };
        writeln!(io::stdout(), "{name}: {said}").context("print to standard output")?;
    }
    Ok(())
}

/// Returns the folder of the repository.
fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize()
        .with_context(|| format!("find {}", root.display()))
}

/// Compiles every `.proto` file under a folder.
fn generate(protos: &Path, services: bool) -> Result<Files> {
    let mut sources = Vec::new();
    find_protos(protos, &mut sources)?;
    if sources.is_empty() {
        bail!("no .proto file under {}", protos.display());
    }
    // Folders are read in any order; the output must not depend on it.
    sources.sort();
    // Not `context`: protox's own message names file, line and column.
    let descriptors =
        protox::compile(&sources, [protos]).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let out = tempfile::tempdir().context("make a temporary folder")?;
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .out_dir(out.path())
        .compile_fds(descriptors)
        .context("turn descriptors into Rust")?;
    read_all(out.path())
}

fn find_protos(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry
            .with_context(|| format!("read {}", folder.display()))?
            .path();
        if path.is_dir() {
            find_protos(&path, found)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            found.push(path);
        }
    }
    Ok(())
}

/// Reads the files of a folder; a folder that is absent has none.
fn read_all(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
    };
    for entry in entries {
        let path = entry
            .with_context(|| format!("read {}", folder.display()))?
            .path();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        files.insert(name, text);
    }
    Ok(files)
}

/// Makes the folder hold exactly these files, and leaves what is right untouched
/// so that cargo builds nothing again.
fn write(folder: &Path, files: &Files) -> Result<String> {
    let committed = read_all(folder)?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let mut changed = 0;
    for (name, text) in files
        .iter()
        .filter(|(name, text)| committed.get(*name) != Some(text))
    {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        changed += 1;
    }
    for name in committed.keys().filter(|name| !files.contains_key(*name)) {
        let path = folder.join(name);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        changed += 1;
    }
    Ok(format!("{} files, {changed} changed", files.len()))
}

/// Fails when the folder does not hold exactly these files.
fn check(folder: &Path, files: &Files) -> Result<String> {
    let problems = differences(&read_all(folder)?, files);
    if !problems.is_empty() {
        bail!(
            "{} is stale; run `cargo xtask codegen` and commit what it changes:\n  {}",
            folder.display(),
            problems.join("\n  ")
        );
    }
    Ok(format!("{} files, current", files.len()))
}

/// Says where committed files differ from generated ones, one line per file.
fn differences(committed: &Files, generated: &Files) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, new) in generated {
        match committed.get(name) {
            None => problems.push(format!("{name} is missing")),
            Some(old) if old != new => problems.push(first_difference(name, old, new)),
            Some(_) => {}
        }
    }
    for name in committed
        .keys()
        .filter(|name| !generated.contains_key(*name))
    {
        problems.push(format!("{name} comes from no .proto file"));
    }
    problems
}

fn first_difference(name: &str, old: &str, new: &str) -> String {
    let mut old_lines = old.lines();
    let mut new_lines = new.lines();
    let mut number = 1;
    loop {
        match (old_lines.next(), new_lines.next()) {
            (Some(old), Some(new)) if old == new => number += 1,
            (None, None) => return format!("{name}: line ends differ"),
            (old, new) => {
                let shown = |line: Option<&str>| {
                    line.map_or_else(|| "nothing".to_owned(), |line| format!("`{}`", line.trim()))
                };
                let (old, new) = (shown(old), shown(new));
                return format!("{name}:{number}: has {old}, should have {new}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
