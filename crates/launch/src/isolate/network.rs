//! Makes and removes namespaces, links and rules, by the programs `ip` and `nft`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use whodunit_control::mesh_file::Mesh;

use super::rooms::inside;
use super::{GATEWAY, Isolation, OR, Room, Run, Tools};
use crate::error::LaunchError;

/// Where the kernel's namespaces have their names.
pub(super) const NAMESPACES: &str = "/run/netns";

/// Whether this machine passes on what is not for itself.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Marks the table of a run that switched forwarding on.
const FORWARDED: &str = ".forwarded";

/// All that was made for a mesh; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    run: Run,
    tools: Tools,
}

impl Network {
    /// Makes the network of a mesh, with `rooms` as they are numbered. Returns it with what
    /// does not work in it.
    ///
    /// # Errors
    /// When the system refuses; what was made until then is removed.
    pub(crate) fn make(
        isolation: &Isolation,
        mesh: &Mesh,
        rooms: &[&Room],
    ) -> Result<(Self, Vec<String>), LaunchError> {
        clear_leftovers(&isolation.tools);
        let network = Self {
            run: isolation.run,
            tools: isolation.tools.clone(),
        };
        let own = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let (resolv, resolver) = isolation.resolv(&own);
        let own = fs::read_to_string("/etc/hosts").unwrap_or_default();
        let hosts = isolation.hosts(mesh, rooms) + &own;
        write_public(&isolation.hosts, &hosts)?;
        write_public(&isolation.resolv, &resolv)?;
        let forwards = network.make_hub(resolver)?;
        for (number, room) in rooms.iter().enumerate() {
            network.make_room(number, room)?;
        }
        let mut lacks = Vec::new();
        if let Err(error) = forwards {
            lacks.push(format!(
                "instances reach this machine but nothing beyond: cannot switch forwarding on \
                 ({FORWARDING}: {error})"
            ));
        }
        Ok((network, lacks))
    }

    /// Makes the hub and its link to this machine. What comes back says whether this machine
    /// passes on what goes beyond it.
    fn make_hub(&self, resolver: Option<Ipv4Addr>) -> Result<io::Result<()>, LaunchError> {
        let (hub, link) = (self.run.namespace("hub"), self.run.link_name());
        let (here, there) = self.run.link_ends();
        self.ip(&[&format!("netns add {hub}")])?;
        self.ip(&[
            &format!("link add {link} type veth peer name up0 netns {hub}"),
            &format!("addr add {here}/30 dev {link}"),
            &format!("link set {link} up"),
        ])?;
        self.ip_in(
            &hub,
            &[
                "link set lo up",
                &format!("addr add {there}/30 dev up0"),
                "link set up0 up",
                &format!("route add default via {here}"),
                "link add br0 type bridge",
                &format!("addr add {GATEWAY}/16 dev br0"),
                "link set br0 up",
            ],
        )?;
        let forward = || fs::write(FORWARDING, "1");
        let forwards = inside(&Path::new(NAMESPACES).join(&hub), forward);
        let what = format!("cannot switch forwarding on in the hub ({FORWARDING})");
        let forwards = forwards.and_then(|written| written);
        forwards.map_err(|error| refused(&what, &error))?;
        let rules = "table ip whodunit {\n\tchain out {\n\
                     \t\ttype nat hook postrouting priority 100; policy accept;\n\
                     \t\toifname \"up0\" masquerade\n\t}\n}\n";
        self.nft(Some(&hub), rules)?;
        // The loopback interface of this machine, for those who come by this link.
        let local = format!("/proc/sys/net/ipv4/conf/{link}/route_localnet");
        let what = format!("cannot write {local}");
        fs::write(&local, "1").map_err(|error| refused(&what, &error))?;
        let was_off = fs::read_to_string(FORWARDING).is_ok_and(|text| text.trim() == "0");
        let switched = if was_off {
            fs::write(FORWARDING, "1")
        } else {
            Ok(())
        };
        // Whoever ends last of those who need it switches it off again.
        let tables = tables(&self.tools);
        let mut others = tables.iter().filter_map(|name| whose(name));
        let forwarded = switched.is_ok() && (was_off || others.any(|(_, forwarded)| forwarded));
        self.nft(None, &host_rules(self.run, resolver, forwarded))?;
        Ok(switched)
    }

    /// Makes the room of an instance.
    fn make_room(&self, number: usize, room: &Room) -> Result<(), LaunchError> {
        let (hub, name) = (
            self.run.namespace("hub"),
            self.run.namespace(&room.instance),
        );
        self.ip(&[&format!("netns add {name}")])?;
        self.ip_in(
            &name,
            &[
                "link set lo up",
                &format!("link add eth0 type veth peer name room{number} netns {hub}"),
                &format!("addr add {}/16 dev eth0", room.address),
                "link set eth0 up",
                &format!("route add default via {GATEWAY}"),
            ],
        )?;
        self.ip_in(&hub, &[&format!("link set room{number} master br0 up")])?;
        self.nft(Some(&name), &room.redirect.ruleset())
    }

    fn ip(&self, lines: &[&str]) -> Result<(), LaunchError> {
        run(&self.tools.ip, &["-batch", "-"], &lines.join("\n")).map(drop)
    }

    fn ip_in(&self, namespace: &str, lines: &[&str]) -> Result<(), LaunchError> {
        let arguments = ["-netns", namespace, "-batch", "-"];
        run(&self.tools.ip, &arguments, &lines.join("\n")).map(drop)
    }

    fn nft(&self, namespace: Option<&str>, rules: &str) -> Result<(), LaunchError> {
        let nft = self.tools.nft.display().to_string();
        match namespace {
            None => run(&self.tools.nft, &["-f", "-"], rules),
            Some(name) => {
                let arguments = ["netns", "exec", name, &nft, "-f", "-"];
                run(&self.tools.ip, &arguments, rules)
            }
        }
        .map(drop)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let run = self.run;
        clear(&self.tools, &|found| found == run);
    }
}

/// Returns the rules for this machine: what leads to its loopback interface and to the world.
fn host_rules(run: Run, resolver: Option<Ipv4Addr>, forwarded: bool) -> String {
    let (link, (here, there)) = (run.link_name(), run.link_ends());
    let mut rules = format!(
        "table ip {} {{\n\tchain in {{\n\
         \t\ttype nat hook prerouting priority -100; policy accept;\n",
        table(run, forwarded)
    );
    if let Some(resolver) = resolver {
        for protocol in ["udp", "tcp"] {
            // Writing to a string cannot fail.
            let _ = writeln!(
                rules,
                "\t\tiifname \"{link}\" ip daddr {here} {protocol} dport 53 dnat to {resolver}"
            );
        }
    }
    let _ = write!(
        rules,
        "\t\tiifname \"{link}\" ip daddr {here} dnat to 127.0.0.1\n\t}}\n\tchain out {{\n\
         \t\ttype nat hook postrouting priority 100; policy accept;\n\
         \t\tip saddr {there} oifname != {{ \"lo\", \"{link}\" }} masquerade\n\t}}\n}}\n"
    );
    rules
}

/// Returns the name of the table of a run.
fn table(run: Run, forwarded: bool) -> String {
    let mark = if forwarded { FORWARDED } else { "" };
    format!("{run}{mark}").replace('-', "_").replace('.', "__")
}

/// Returns whose table this is, and whether forwarding goes with it.
fn whose(table: &str) -> Option<(Run, bool)> {
    let name = table.replace("__", ".").replace('_', "-");
    let run = name.parse().ok()?;
    Some((run, name.ends_with(FORWARDED)))
}

/// Removes what launchers left that are dead.
pub(crate) fn clear_leftovers(tools: &Tools) {
    clear(tools, &|run| !run.is_alive());
}

/// Removes all of some runs. What is gone already is no failure, and a failure to remove is
/// for the next run to repair.
fn clear(tools: &Tools, wanted: &dyn Fn(Run) -> bool) {
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    let mut others = BTreeSet::new();
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let Ok(whose) = name.parse::<Run>() else {
            continue;
        };
        if !wanted(whose) {
            others.insert(whose);
            continue;
        }
        for process in processes(tools, name) {
            let _already_gone = kill_process(process, Signal::KILL);
        }
        let _gone = run(&tools.ip, &["netns", "del", name], "");
    }
    for name in tables(tools) {
        let Some((found, forwarded)) = whose(&name).filter(|(found, _)| wanted(*found)) else {
            continue;
        };
        // A namespace that something still holds keeps its end of the link.
        let _gone = run(&tools.ip, &["link", "del", &found.link_name()], "");
        let _gone = run(&tools.nft, &["delete", "table", "ip", &name], "");
        if forwarded && others.is_empty() {
            let _best_effort = fs::write(FORWARDING, "0");
        }
    }
}

/// Returns the names of this machine's own tables.
fn tables(tools: &Tools) -> Vec<String> {
    let listed = run(&tools.nft, &["list", "tables", "ip"], "").unwrap_or_default();
    let names = listed
        .lines()
        .filter_map(|line| line.strip_prefix("table ip "));
    names.map(|name| name.trim().to_owned()).collect()
}

/// Returns the processes in a namespace.
fn processes(tools: &Tools, namespace: &str) -> Vec<Pid> {
    let found = run(&tools.ip, &["netns", "pids", namespace], "").unwrap_or_default();
    let ids = found.lines().filter_map(|line| line.trim().parse().ok());
    ids.filter_map(Pid::from_raw).collect()
}

/// Runs a program to its end, and returns what it printed.
fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String, LaunchError> {
    let name = program.file_name().unwrap_or_default().display();
    let command = format!("`{name} {}`", arguments.join(" "));
    let failed = |error: io::Error| refused(&format!("cannot run {command}"), &error);
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // Whoever ends before having read all of it says why.
        let _ = pipe.write_all(input.as_bytes());
        let _ = pipe.write_all(b"\n");
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().take(3).map(str::trim).collect();
    Err(refused(&format!("{command} failed"), &said.join("; ")))
}

fn refused(what: &str, why: &dyn std::fmt::Display) -> LaunchError {
    LaunchError::Isolate {
        what: format!("{what}: {why}"),
        fix: format!(
            "in a container it takes `--privileged`, and the kernel needs veth, bridge and \
             nf_tables; {OR}"
        ),
    }
}

/// Writes a file that every user may read, as applications may be any.
fn write_public(path: &Path, text: &str) -> Result<(), LaunchError> {
    use std::os::unix::fs::PermissionsExt as _;
    let public = || {
        fs::write(path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))
    };
    let why = match public() {
        Ok(()) => return Ok(()),
        Err(why) => why,
    };
    Err(LaunchError::File {
        what: "write",
        path: path.to_owned(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_known_by_their_names() {
        let run: Run = "whodunit-17-4711-300".parse().unwrap();
        for forwarded in [true, false] {
            assert_eq!(whose(&table(run, forwarded)), Some((run, forwarded)));
        }
        assert_eq!(whose("filter"), None);
        assert_eq!(whose("whodunit_1"), None);
    }

    #[test]
    fn the_rules_lead_to_the_loopback_interface_and_to_the_world() {
        let run: Run = "whodunit-17-4711-300".parse().unwrap();
        let resolver = Some(Ipv4Addr::new(127, 0, 0, 53));
        let expected = "\
table ip whodunit_17_4711_300__forwarded {
\tchain in {
\t\ttype nat hook prerouting priority -100; policy accept;
\t\tiifname \"whodunit300\" ip daddr 198.19.4.177 udp dport 53 dnat to 127.0.0.53
\t\tiifname \"whodunit300\" ip daddr 198.19.4.177 tcp dport 53 dnat to 127.0.0.53
\t\tiifname \"whodunit300\" ip daddr 198.19.4.177 dnat to 127.0.0.1
\t}
\tchain out {
\t\ttype nat hook postrouting priority 100; policy accept;
\t\tip saddr 198.19.4.178 oifname != { \"lo\", \"whodunit300\" } masquerade
\t}
}
";
        assert_eq!(host_rules(run, resolver, true), expected);
    }
}
