//! A proxy as a process of its own, whose memory and descriptors can be looked at.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;

pub(crate) struct Process {
    child: Child,
    /// The addresses of the listeners in their order, then that of the admin.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts a proxy with these tables and an admin address; `descriptors` bounds how many it
    /// may have open.
    pub(crate) fn start(tables: &str, descriptors: Option<u32>) -> Self {
        let config = format!(
            "[workload]\nnamespace = \"n\"\nname = \"w\"\ninstance = \"w-0\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n{tables}"
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.toml");
        std::fs::write(&path, &config).unwrap();
        let program = env!("CARGO_BIN_EXE_whodunit-proxy");
        let mut command = match descriptors {
            None => Command::new(program),
            Some(most) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {most} && exec \"$@\"")]);
                shell.args(["sh", program]);
                shell
            }
        };
        let command = command.arg("--config").arg(&path).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut addresses = Vec::new();
        while addresses.len() <= config.matches("[[listener]]").count() {
            let line = lines.next().expect("it never listens").unwrap();
            if line.contains("listening") || line.contains("admin") {
                let rest = line.split("address=").nth(1).expect("an address");
                let address = rest.split_whitespace().next().expect("an address");
                addresses.push(address.parse::<SocketAddr>().expect("an address"));
            }
        }
        thread::spawn(move || lines.for_each(drop));
        Self { child, addresses }
    }

    /// Bytes of memory that it has.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(self.path("status")).unwrap();
        let mut lines = status.lines();
        let line = lines.find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    }

    /// Descriptors that it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(self.path("fd")).unwrap().count()
    }

    /// Hundredths of a second for which it was busy.
    pub(crate) fn busy(&self) -> u64 {
        let stat = std::fs::read_to_string(self.path("stat")).unwrap();
        let fields = stat.rsplit(')').next().unwrap();
        let times = fields.split_whitespace().skip(11).take(2);
        times.map(|time| time.parse::<u64>().unwrap()).sum()
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }
}
