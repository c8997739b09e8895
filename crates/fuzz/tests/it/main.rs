//! Mutated bytes over real sockets: whatever clients and applications say, connections end,
//! every request is accounted for, and the next one is served.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use whodunit_fuzz::{HTTP1_WORDS, HTTP2_SEEDS, HTTP2_WORDS, Random, target};
use whodunit_proxy::{Config, Proxy, Running};

/// Connections per test; `FUZZ_SOCKETS` asks for more.
const ROUNDS: u64 = 400;

/// Clients at one time.
const CLIENTS: usize = 8;

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(30);

fn rounds() -> u64 {
    let text = std::env::var("FUZZ_SOCKETS").ok();
    text.map_or(ROUNDS, |text| text.parse().expect("a number"))
}

/// An application that says what it is told to, once per connection, and hangs up.
struct Application {
    address: SocketAddr,
    says: Arc<Mutex<Vec<u8>>>,
}

const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

impl Application {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let says = Arc::new(Mutex::new(GOOD.to_vec()));
        let told = says.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let says = told.lock().expect("no panic").clone();
                thread::spawn(move || answer(stream, &says));
            }
        });
        Self { address, says }
    }

    fn say(&self, bytes: &[u8]) {
        *self.says.lock().expect("no panic") = bytes.to_vec();
    }
}

/// Waits for the end of a head, answers, and reads until the proxy has ended.
fn answer(mut stream: TcpStream, says: &[u8]) {
    let (mut buffer, mut seen) = ([0; 4_096], Vec::new());
    // Whatever goes wrong here is for the proxy to bear.
    let _ = stream.set_read_timeout(Some(DEADLINE));
    while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => seen.extend_from_slice(&buffer[..length]),
        }
    }
    let _ = stream.write_all(says);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = io::copy(&mut stream, &mut io::sink());
}

fn start(application: &Application, protocol: &str) -> (Running, SocketAddr) {
    let text = format!(
        "[workload]\nnamespace = \"n\"\nname = \"w\"\ninstance = \"w-0\"\n\
         [[listener]]\nname = \"in\"\nlisten = \"127.0.0.1:0\"\ndirection = \"inbound\"\n\
         protocol = \"{protocol}\"\nforward = \"{}\"\n[shutdown]\ngrace_ms = 500\n",
        application.address
    );
    let config = Config::parse(&text, Path::new("proxy.toml")).expect("valid");
    let proxy = Proxy::start(config).expect("starts");
    let address = proxy.listener("in").expect("is there");
    (proxy, address)
}

/// Sends bytes, ends, and returns what comes back before the other side ends.
fn converse(proxy: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut answer = Vec::new();
    // The proxy may hang up before it has read all.
    if stream.write_all(bytes).is_ok() {
        let _ = stream.shutdown(Shutdown::Write);
    }
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
        // A reset is an end, too.
        _ => Ok(answer),
    }
}

/// Runs rounds on several connections at a time.
fn each_round(round: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= rounds() {
                        return;
                    }
                    round(number);
                }
            });
        }
    });
}

/// Every request that began has ended, and is in the accounts once.
fn accounted(proxy: &Running) -> u64 {
    let begin = Instant::now();
    loop {
        let counters = proxy.counters();
        let dropped = counters.dropped_abandoned + counters.dropped_queue_full;
        if counters.in_flight == 0 && proxy.open_connections() == 0 {
            assert_eq!(
                counters.started,
                counters.recorded + dropped,
                "{counters:?}"
            );
            return counters.started;
        }
        assert!(begin.elapsed() < DEADLINE, "still open: {counters:?}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn mutated_http1_requests_are_answered_or_refused_and_accounted_for() {
    let application = Application::start();
    let (proxy, address) = start(&application, "http1");
    let seeds = target("http1_request").expect("is there").seeds;
    each_round(|round| {
        let input = Random::new(round).input(seeds, HTTP1_WORDS);
        let answer = converse(address, &input)
            .unwrap_or_else(|error| panic!("round {round}: {error}: {}", input.escape_ascii()));
        let begin = &answer[..answer.len().min(9)];
        assert!(
            b"HTTP/1.1 ".starts_with(begin) || begin == b"HTTP/1.0 ",
            "round {round}: {}",
            answer.escape_ascii()
        );
    });
    assert!(accounted(&proxy) > rounds() / 4);
    let answer = converse(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("an end");
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        answer.escape_ascii()
    );
    proxy.shutdown();
}

#[test]
fn mutated_http1_responses_are_passed_on_or_refused_and_accounted_for() {
    let application = Application::start();
    let (proxy, address) = start(&application, "http1");
    let seeds = target("http1_response").expect("is there").seeds;
    for round in 0..rounds() {
        let says = Random::new(round).input(seeds, HTTP1_WORDS);
        application.say(&says);
        let answer = converse(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap_or_else(|error| panic!("round {round}: {error}: {}", says.escape_ascii()));
        // Who was promised an answer gets one, if not the application's.
        assert!(
            answer.starts_with(b"HTTP/1.1 "),
            "round {round}: {} became {}",
            says.escape_ascii(),
            answer.escape_ascii()
        );
    }
    assert_eq!(accounted(&proxy), rounds());
    proxy.shutdown();
}

#[test]
fn mutated_http2_connections_end_and_are_accounted_for() {
    let application = Application::start();
    let (proxy, address) = start(&application, "http2");
    each_round(|round| {
        let input = Random::new(round).input(HTTP2_SEEDS, HTTP2_WORDS);
        converse(address, &input)
            .unwrap_or_else(|error| panic!("round {round}: {error}: {}", input.escape_ascii()));
    });
    assert!(accounted(&proxy) > rounds() / 4);
    proxy.shutdown();
}
