//! What cargo knows about this workspace: where it is and who depends on whom.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::program;

/// The workspace as `cargo metadata` describes it.
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Where cargo puts what it builds.
    pub(crate) target: PathBuf,
    /// Our crates by folder name, in alphabetical order.
    pub(crate) crates: BTreeMap<String, Crate>,
}

/// One crate of ours.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Crate {
    /// The package name, which is what `cargo -p` takes.
    pub(crate) package: String,
    /// Folder names of our crates it is built on, sorted.
    pub(crate) deps: Vec<String>,
    /// Folder names of our crates that only its tests use, sorted.
    pub(crate) dev_deps: Vec<String>,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
        let json = program::output(
            program::cargo()
                .args([
                    "metadata",
                    "--no-deps",
                    "--format-version=1",
                    "--manifest-path",
                ])
                .arg(manifest),
        )?;
        let json = serde_json::from_slice(&json).context("read the answer of `cargo metadata`")?;
        Self::parse(&json).context("the answer of `cargo metadata` has an unknown form")
    }

    /// Reads the answer of `cargo metadata --no-deps`.
    fn parse(metadata: &Value) -> Option<Self> {
        let packages = metadata["packages"].as_array()?;
        let folder_of = |package: &Value| -> Option<String> {
            let manifest = Path::new(package["manifest_path"].as_str()?);
            Some(manifest.parent()?.file_name()?.to_str()?.to_owned())
        };
        let mut folders = BTreeMap::new();
        for package in packages {
            folders.insert(package["name"].as_str()?, folder_of(package)?);
        }
        let mut crates = BTreeMap::new();
        for package in packages {
            let name = package["name"].as_str()?;
            let mut found = Crate {
                package: name.to_owned(),
                ..Crate::default()
            };
            for dependency in package["dependencies"].as_array()? {
                // Only a dependency with a path is ours; a namesake from the registry is not.
                let ours = dependency["path"].is_string();
                let Some(folder) = folders.get(dependency["name"].as_str()?).filter(|_| ours)
                else {
                    continue;
                };
                match dependency["kind"].as_str() {
                    Some("dev") => found.dev_deps.push(folder.clone()),
                    _ => found.deps.push(folder.clone()),
                }
            }
            for list in [&mut found.deps, &mut found.dev_deps] {
                list.sort();
                list.dedup();
            }
            crates.insert(folders[name].clone(), found);
        }
        Some(Self {
            root: metadata["workspace_root"].as_str()?.into(),
            target: metadata["target_directory"].as_str()?.into(),
            crates,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn crates_are_named_by_folder_and_foreign_dependencies_left_out() {
        let workspace = Workspace::parse(&json!({
            "workspace_root": "/src",
            "target_directory": "/src/target",
            "packages": [
                {
                    "name": "whodunit",
                    "manifest_path": "/src/crates/cli/Cargo.toml",
                    "dependencies": [
                        { "name": "whodunit-model", "kind": null, "path": "/src/crates/model" },
                        { "name": "whodunit-model", "kind": "dev", "path": "/src/crates/model" },
                        { "name": "serde", "kind": null },
                    ],
                },
                {
                    "name": "whodunit-model",
                    "manifest_path": "/src/crates/model/Cargo.toml",
                    "dependencies": [{ "name": "whodunit", "kind": null }],
                },
            ],
        }))
        .unwrap();
        assert_eq!(workspace.root, Path::new("/src"));
        assert_eq!(workspace.target, Path::new("/src/target"));
        let expected = Crate {
            package: "whodunit".into(),
            deps: vec!["model".into()],
            dev_deps: vec!["model".into()],
        };
        assert_eq!(workspace.crates["cli"], expected);
        assert_eq!(workspace.crates["model"].deps, Vec::<String>::new());
    }

    #[test]
    fn an_answer_of_another_form_is_refused() {
        assert!(Workspace::parse(&json!({ "packages": [{ "name": 1 }] })).is_none());
        assert!(Workspace::parse(&json!([])).is_none());
    }
}
