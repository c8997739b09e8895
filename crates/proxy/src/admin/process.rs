//! What the kernel says about this process; nothing where there is no `/proc`.

use std::fs;

use crate::metrics::Process;

/// Ticks per second of CPU times in `/proc`: fixed in Linux's interface to programs.
const TICKS: f64 = 100.0;

/// Reads `/proc/self`.
pub(crate) fn read() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    Process {
        cpu_s: cpu_s(&stat),
        resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1_024),
        virtual_bytes: field(&status, "VmSize:").map(|kib| kib * 1_024),
        threads: field(&status, "Threads:"),
        open_fds: fs::read_dir("/proc/self/fd")
            .ok()
            .map(|entries| entries.count() as u64),
        max_fds: limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok()),
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// User and system time are the 14th and 15th field; the second may contain spaces.
fn cpu_s(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_names_with_spaces() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 120 0 0 0 150 50 0 0 20 0 1 0 9";
        assert_eq!(cpu_s(stat), Some(2.0));
        assert_eq!(cpu_s("junk"), None);
        assert_eq!(field("Name:\tx\nVmRSS:\t   12 kB\n", "VmRSS:"), Some(12));
    }
}
