//! What the kernel says about processes: run time and memory.

use std::fs;

/// Run time of all threads of the processes so far, nanoseconds.
///
/// A thread that has ended is not counted any more; a proxy's live as long as it does.
pub(crate) fn run_time_ns(processes: &[u32]) -> u64 {
    let threads = |process: &u32| fs::read_dir(format!("/proc/{process}/task"));
    let all = processes.iter().flat_map(threads).flatten().flatten();
    all.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Resident memory of the processes, bytes.
pub(crate) fn resident_bytes(processes: &[u32]) -> u64 {
    let status = |process: &u32| fs::read_to_string(format!("/proc/{process}/status")).ok();
    let all = processes.iter().filter_map(status);
    all.filter_map(|text| {
        let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    })
    .map(|kib| kib * 1024)
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_memory_and_run_time() {
        let own = [std::process::id()];
        assert!(resident_bytes(&own) > 0);
        let mut sum = 0_u64;
        while run_time_ns(&own) == 0 {
            sum = sum.wrapping_mul(31).wrapping_add(7);
        }
        assert!(run_time_ns(&[u32::MAX]) == 0, "{sum}");
    }
}
