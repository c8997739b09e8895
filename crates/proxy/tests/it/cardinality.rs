//! What clients choose is without bound: hosts, paths, user agents. What it costs is not.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::process::Process;

/// Requests in each direction; `CARDINALITY=500000` makes it a million in all.
const REQUESTS: usize = 10_000;

/// Requests that are sent before their answers are read.
const BATCH: usize = 50;

/// What the proxy may grow by over a million requests, and over the few of a usual run: all
/// that grows has reached its bound by then, at a third of this.
const GROWTH_MAX: u64 = 32 << 20;
const GROWTH_FEW_MAX: u64 = 12 << 20;

/// What a scrape may be.
const SCRAPE_MAX: usize = 2 << 20;

/// Series of requests and connections, those of the process itself aside.
const SERIES_MAX: usize = 10_000 + 200;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// Answers whatever has no body.
fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut writer, mut line) = (stream, String::new());
                while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
                    if line == "\r\n" && writer.write_all(ANSWER).is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

/// Starts a proxy of its own process and returns its ports: in, out, admin.
fn start(application: SocketAddr) -> Process {
    let listener = |name: &str, direction: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\nlisten = \"127.0.0.1:0\"\n\
             direction = \"{direction}\"\nprotocol = \"http1\"\nforward = \"{application}\"\n"
        )
    };
    let tables = format!(
        "[capture]\nheaders = [\"x-tenant\"]\n{}{}",
        listener("in", "inbound"),
        listener("out", "outbound")
    );
    Process::start(&tables, None)
}

/// Sends requests that have nothing in common, numbered from `first`.
fn send(address: SocketAddr, first: usize, count: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let (mut text, mut read) = (String::new(), vec![0; 64 << 10]);
    for batch in (first..first + count).step_by(BATCH) {
        text.clear();
        let end = (batch + BATCH).min(first + count);
        for n in batch..end {
            let _ = write!(
                text,
                "GET /a{n}/b-{n:x}?q={n} HTTP/1.1\r\nHost: h{n}.test\r\nUser-Agent: agent/{n}\r\n\
                 X-Tenant: t{n}\r\nTraceparent: 00-{n:032x}-{n:016x}-01\r\nX-Request-Id: {n}\r\n\r\n"
            );
        }
        stream.write_all(text.as_bytes()).unwrap();
        let mut answers = 0;
        // Each answer ends in its body, which comes nowhere else.
        while answers < end - batch {
            let length = stream.read(&mut read).unwrap();
            assert!(length > 0, "the connection ended");
            answers += read[..length].windows(2).filter(|two| two == b"hi").count();
        }
    }
}

fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[cfg(target_os = "linux")]
#[test]
fn hosts_paths_and_agents_without_end_cost_a_bounded_amount() {
    let requests = std::env::var("CARDINALITY").ok();
    let requests = requests.map_or(REQUESTS, |text| text.parse().expect("a number"));
    let process = start(application());
    let [inbound, outbound, admin] = process.addresses[..] else {
        panic!("three ports");
    };
    for address in [inbound, outbound] {
        send(address, 0, 100);
    }
    scrape(admin);
    let before = process.memory();
    for address in [inbound, outbound] {
        send(address, 100, requests);
    }
    let text = scrape(admin);
    let growth = process.memory().saturating_sub(before);
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    let told = format!(
        "{} requests: {} KiB more, scrape {} KiB, {series} series",
        requests * 2,
        growth >> 10,
        text.len() >> 10
    );
    // Shown when output is not captured.
    let _ = writeln!(std::io::stdout(), "{told}");
    let few = requests == REQUESTS;
    assert!(
        growth <= if few { GROWTH_FEW_MAX } else { GROWTH_MAX },
        "{told}"
    );
    assert!(text.len() <= SCRAPE_MAX, "{told}");
    assert!(series <= SERIES_MAX, "{told}");
    assert!(
        text.contains("overflow=\"true\"") || text.contains("[OTHER]"),
        "{told}"
    );
    let hits = text.lines().find(|line| {
        line.starts_with("whodunit_limit_hits_total{") && line.contains("\"label_values\"")
    });
    let hits = hits.unwrap_or_else(|| panic!("no counter: {told}"));
    assert!(!hits.ends_with(" 0"), "{hits}; {told}");
}
