//! Turns the process that `ip netns exec` started in a room into the one that belongs there.
//!
//! It is in the network namespace and a mount namespace of its own already. What is left: its
//! own name resolution, and for a proxy the user id by which its connections are told.

use std::process::ExitCode;

/// The argument that makes the executable go on as another one inside a room.
pub const ENTER_COMMAND: &str = "__enter";

/// Is the whole of the hidden command [`ENTER_COMMAND`]: `HOSTS RESOLV UID PROGRAM
/// [ARGUMENT]…`. Returns only if that cannot be started; a UID of 0 stays who it is.
#[must_use]
pub fn enter_main() -> ExitCode {
    use std::io::Write as _;
    let arguments: Vec<_> = std::env::args_os().skip(2).collect();
    let why = enter(&arguments);
    let _nobody_reads = writeln!(std::io::stderr(), "whodunit {ENTER_COMMAND}: {why}");
    ExitCode::FAILURE
}

/// Returns why it failed; it does not return otherwise.
#[cfg(target_os = "linux")]
fn enter(arguments: &[std::ffi::OsString]) -> String {
    use std::os::unix::process::CommandExt as _;
    use std::path::Path;
    use std::process::Command;

    let [hosts, resolv, uid, program, rest @ ..] = arguments else {
        return "expected HOSTS RESOLV UID PROGRAM [ARGUMENT]…".to_owned();
    };
    for (ours, name) in [(hosts, "/etc/hosts"), (resolv, "/etc/resolv.conf")] {
        // What is not there cannot be hidden; nobody reads it either.
        if !Path::new(name).exists() {
            continue;
        }
        if let Err(error) = rustix::mount::mount_bind(ours, name) {
            return format!("cannot put {} in place of {name}: {error}", ours.display());
        }
    }
    let Some(uid) = uid.to_str().and_then(|uid| uid.parse::<u32>().ok()) else {
        return "expected a number as UID".to_owned();
    };
    let mut command = Command::new(program);
    command.args(rest);
    if uid > 0 {
        if let Err(error) = keep_access_to_files() {
            return format!("cannot become user {uid}: {error}");
        }
        command.uid(uid).gid(uid);
    }
    format!("cannot start {}: {}", program.display(), command.exec())
}

#[cfg(not(target_os = "linux"))]
fn enter(_: &[std::ffi::OsString]) -> String {
    "only Linux has network namespaces".to_owned()
}

/// Leaves what will be another user with one right of root's: to use the files of the mesh,
/// which lie in folders that are root's alone.
#[cfg(target_os = "linux")]
fn keep_access_to_files() -> rustix::io::Result<()> {
    use rustix::thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
        configure_capability_in_ambient_set, set_capabilities, set_capabilities_secure_bits,
    };
    let have = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            inheritable: CapabilitySet::DAC_OVERRIDE,
            ..have
        },
    )?;
    configure_capability_in_ambient_set(CapabilitySet::DAC_OVERRIDE, true)?;
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
}
