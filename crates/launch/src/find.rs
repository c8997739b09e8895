//! Finds programs.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Folders that have servers on some systems and are not in everybody's PATH.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Returns the executable that `program` names: a path if it has a slash,
/// relative to `working_dir`; else the first in `folders`, in PATH, and in the
/// system's own folders.
pub(crate) fn program(program: &str, folders: &[PathBuf], working_dir: &Path) -> Option<PathBuf> {
    if program.contains('/') {
        let path = working_dir.join(program);
        return is_executable(&path).then_some(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    in_folders(program, folders, &path)
}

fn in_folders(program: &str, folders: &[PathBuf], path: &OsStr) -> Option<PathBuf> {
    let first = folders.iter().cloned();
    let system = SYSTEM_FOLDERS.iter().map(PathBuf::from);
    first
        .chain(std::env::split_paths(path).filter(|folder| folder.is_absolute()))
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_order_and_only_if_they_can_run() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        for folder in [&first, &second] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("tool"), "#!/bin/sh\n").unwrap();
        }
        let allow = |path: &Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let folders = [first.clone()];
        let path = second.clone().into_os_string();
        assert_eq!(in_folders("tool", &folders, &path), None);
        allow(&second.join("tool"));
        assert_eq!(
            in_folders("tool", &folders, &path),
            Some(second.join("tool"))
        );
        allow(&first.join("tool"));
        assert_eq!(
            in_folders("tool", &folders, &path),
            Some(first.join("tool"))
        );
        assert_eq!(
            program("./a/tool", &[], folder.path()),
            Some(folder.path().join("./a/tool"))
        );
        assert_eq!(program("./c/tool", &[], folder.path()), None);
        assert_eq!(
            program("a", &[folder.path().to_owned()], folder.path()),
            None
        );
    }
}
