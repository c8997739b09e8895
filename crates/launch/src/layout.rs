//! Where things lie in the data directory, next to what the server stores there.

use std::path::{Path, PathBuf};

/// The folders of one data directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    data: PathBuf,
}

impl Layout {
    pub(crate) fn new(data: PathBuf) -> Self {
        Self { data }
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Files that matter while the mesh runs.
    pub(crate) fn run(&self) -> PathBuf {
        self.data.join("run")
    }

    /// What processes print.
    pub(crate) fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }

    pub(crate) fn log(&self, instance: &str) -> PathBuf {
        self.logs().join(format!("{instance}.log"))
    }

    /// An instance's own folder: `{data}` in the mesh file.
    pub(crate) fn instance(&self, instance: &str) -> PathBuf {
        self.data.join("apps").join(instance)
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.run().join("LOCK")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.run().join("local.json")
    }

    pub(crate) fn topology(&self) -> PathBuf {
        self.run().join("topology.json")
    }

    pub(crate) fn proxy_config(&self, instance: &str) -> PathBuf {
        self.run().join(format!("{instance}.proxy.toml"))
    }

    /// What certifies the proxies of the mesh.
    pub(crate) fn identity(&self) -> PathBuf {
        self.data.join("identity")
    }

    /// What proves to the server whom a proxy stands beside.
    pub(crate) fn token(&self, instance: &str) -> PathBuf {
        self.run().join(format!("{instance}.token"))
    }

    /// The certificate that a proxy keeps over a restart.
    pub(crate) fn certificate(&self, instance: &str) -> PathBuf {
        self.run().join(format!("{instance}.pem"))
    }

    /// What the server said last to the proxy of an instance.
    pub(crate) fn snapshot(&self, instance: &str) -> PathBuf {
        self.run().join(format!("{instance}.snapshot"))
    }

    /// The key that stands in for what may not be recorded in clear. It stays
    /// the same from run to run, so that equal values are told to be equal.
    pub(crate) fn key(&self) -> PathBuf {
        self.run().join("redaction.key")
    }
}
