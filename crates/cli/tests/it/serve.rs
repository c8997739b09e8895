//! The server as a command: it starts, answers, stops, and leaves readable data behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};

use tempfile::TempDir;
use whodunit_api::stat::StatRow;
use whodunit_api::status::Status;

use crate::{run, stderr, stdout, whodunit};

/// A running server; killed if the test does not stop it.
struct Serving {
    child: Child,
    log: BufReader<ChildStderr>,
    addr: String,
}

fn serve(home: &TempDir) -> Command {
    let mut command = whodunit(home.path());
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--grpc-listen",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(home.path().join("data"));
    command
}

impl Serving {
    fn start(home: &TempDir) -> Self {
        let mut child = serve(home)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        while !line.contains("server is ready") {
            line.clear();
            let read = log.read_line(&mut line).expect("the log is readable");
            assert!(read > 0, "the server ended before it was ready");
        }
        let addr = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("http="));
        let addr = addr.expect("the log names the address").to_owned();
        Self { child, log, addr }
    }

    fn stop(mut self) -> Option<i32> {
        let terminate = ["-TERM", &self.child.id().to_string()];
        let sent = Command::new("kill").args(terminate).status();
        assert!(sent.is_ok_and(|status| status.success()));
        let mut rest = String::new();
        self.log
            .read_to_string(&mut rest)
            .expect("the log is readable");
        assert!(!rest.contains("ERROR"), "{rest}");
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Both fail for a server that was stopped in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_answers_and_leaves_readable_data_behind() {
    let home = TempDir::new().expect("a directory");
    let server = Serving::start(&home);
    let ask = |args: &[&str]| {
        let mut command = whodunit(home.path());
        run(command.args(["--addr", &server.addr]).args(args))
    };

    let version = ask(&["version", "-o", "json"]);
    let version: serde_json::Value = serde_json::from_slice(&version.stdout).expect("JSON");
    assert_eq!(version["server"], env!("CARGO_PKG_VERSION"));
    let empty = ask(&["stat"]);
    assert_eq!(empty.status.code(), Some(0), "{}", stderr(&empty));
    assert!(
        stdout(&empty).contains("No workloads found"),
        "{}",
        stdout(&empty)
    );
    let rows = ask(&["stat", "-o", "json"]);
    let rows: Vec<StatRow> = serde_json::from_slice(&rows.stdout).expect("an array");
    assert!(rows.is_empty());
    let verdict = ask(&["culprit", "--exit-code"]);
    assert_eq!(verdict.status.code(), Some(0), "{}", stderr(&verdict));
    let says = stdout(&verdict);
    assert!(says.starts_with("NOTHING STANDS OUT"), "{says}");
    let check = ask(&["check"]);
    assert!(
        stdout(&check).contains("Status check results are"),
        "{}",
        stdout(&check)
    );
    let unknown = ask(&["explain", "00064a7b3c5d1e-00000000000000aa-1f"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", stderr(&unknown));

    let second = run(&mut serve(&home));
    assert_eq!(second.status.code(), Some(1), "{}", stderr(&second));
    assert!(stderr(&second).contains("in use"), "{}", stderr(&second));

    assert_eq!(server.stop(), Some(0));
    let mut at_rest = whodunit(home.path());
    let at_rest = run(at_rest
        .args(["stat", "--data"])
        .arg(home.path().join("data")));
    assert_eq!(at_rest.status.code(), Some(0), "{}", stderr(&at_rest));
    assert!(
        stdout(&at_rest).contains("No workloads found"),
        "{}",
        stdout(&at_rest)
    );
}

#[test]
fn the_status_names_the_grpc_address() {
    let home = TempDir::new().expect("a directory");
    let server = Serving::start(&home);
    // `run --server` learns from it where proxies are to connect.
    let ask = || {
        let mut stream = TcpStream::connect(&server.addr)?;
        let head = format!("host: {}\r\nconnection: close\r\n\r\n", server.addr);
        stream.write_all(b"GET /api/whodunit/v1/status HTTP/1.1\r\n")?;
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    let answer: std::io::Result<String> = ask();
    let answer = answer.expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let status: Status = serde_json::from_str(body).expect("a status");
    assert!(status.grpc.parse::<SocketAddr>().is_ok(), "{status:?}");
    assert_eq!(server.stop(), Some(0));
}
