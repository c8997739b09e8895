//! Clients that want to do harm, while a polite one measures what it gets.
//!
//! Each attack comes from several connections at once. The polite client may not fail, nor
//! wait for seconds; the proxy may not grow beyond its bounds, and lets go of what ended.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, sleep, timeout};

use crate::app::tcp;
use crate::frames::{
    DATA, END_HEADERS, END_STREAM, End, HEADERS, PING, PREFACE, RST_STREAM, Raw, SETTINGS, block,
    frame, head, request,
};
use crate::mesh::{DEADLINE, wait_for};
use crate::process::Process;

const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Longest that the polite client may wait: a stall of seconds is what attackers are after.
/// An answer takes about a millisecond.
const PATIENCE: Duration = Duration::from_secs(4);

/// Bytes of a large answer: more than all buffers on the way take.
const LARGE: usize = 64 << 20;

/// What the proxy may grow by while it is attacked.
const GROWTH_MAX: u64 = 16 << 20;

/// An application: `/large` is as large as it is slow to be read, everything else is small.
/// Returns how often it was asked.
async fn application() -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let address = tcp(move |mut stream| {
        let counted = counted.clone();
        async move {
            let mut bytes = Vec::new();
            while let Ok(1..) = stream.read_buf(&mut bytes).await {
                while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                    let head: Vec<u8> = bytes.drain(..end + 4).collect();
                    counted.fetch_add(1, Ordering::SeqCst);
                    if !head.starts_with(b"GET /large") {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
                    if stream.write_all(head.as_bytes()).await.is_err() {
                        return;
                    }
                    for _ in 0..LARGE >> 16 {
                        if stream.write_all(&[b'x'; 1 << 16]).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    })
    .await;
    (address, asked)
}

/// A proxy in front of it.
struct Front {
    process: Process,
    http1: SocketAddr,
    http2: SocketAddr,
    any: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Front {
    async fn start(descriptors: Option<u32>) -> Self {
        let (application, asked) = application().await;
        let mut tables = String::new();
        for protocol in ["http1", "http2", "detect"] {
            write!(
                tables,
                "[[listener]]\nname = \"{protocol}\"\nlisten = \"127.0.0.1:0\"\n\
                 direction = \"inbound\"\nprotocol = \"{protocol}\"\n\
                 forward = \"{application}\"\nforward_protocol = \"http1\"\n"
            )
            .unwrap();
        }
        let process = Process::start(&tables, descriptors);
        let [http1, http2, any, _] = process.addresses[..] else {
            panic!("four ports");
        };
        let this = Self {
            process,
            http1,
            http2,
            any,
            asked,
        };
        // Nothing that is needed once counts as growth.
        this.polite().after(30).await;
        this
    }

    /// Begins to send polite requests.
    fn polite(&self) -> Polite {
        let (stop, stopped) = watch::channel(false);
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let (http1, http2) = (self.http1, self.http2);
        let asking = tokio::spawn(async move {
            let mut kept = TcpStream::connect(http1).await.unwrap();
            let mut streams = Raw::connect(http2).await;
            let mut slowest = Duration::ZERO;
            for number in 0.. {
                if *stopped.borrow() {
                    break;
                }
                let start = Instant::now();
                match number % 3 {
                    0 => get(&mut kept).await,
                    1 => get(&mut TcpStream::connect(http1).await.unwrap()).await,
                    _ => {
                        let stream = 1 + 2 * (number / 3);
                        streams.send(&head(stream, true, &request("/"))).await;
                        assert_eq!(streams.end_of(stream).await, End::Status(200));
                    }
                }
                slowest = slowest.max(start.elapsed());
                counted.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(5)).await;
            }
            slowest
        });
        Polite {
            asked,
            asking,
            stop,
        }
    }

    /// Waits until nothing is left of an attack but connections to the application, which may
    /// be kept.
    async fn settled(&self, before: usize) {
        wait_for("the connections of the attack to end", || {
            (self.process.descriptors() <= before + 64).then_some(())
        })
        .await;
    }
}

/// A client that does nothing wrong.
struct Polite {
    asked: Arc<AtomicUsize>,
    asking: JoinHandle<Duration>,
    stop: watch::Sender<bool>,
}

impl Polite {
    /// Goes on for so many requests more, and tells how long the slowest took.
    async fn after(self, more: usize) -> Duration {
        let wanted = self.asked.load(Ordering::SeqCst) + more;
        wait_for("polite requests", || {
            let enough = self.asked.load(Ordering::SeqCst) >= wanted;
            (enough || self.asking.is_finished()).then_some(())
        })
        .await;
        self.stop.send_replace(true);
        self.asking.await.expect("every polite request is answered")
    }
}

async fn get(stream: &mut TcpStream) {
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        let read = timeout(DEADLINE, stream.read_buf(&mut answer)).await;
        let count = read.expect("an answer in time").expect("an answer");
        assert!(count > 0, "{:?}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

fn tell(what: &str, slowest: Duration, growth: u64) {
    let told = format!(
        "{what}: slowest polite request {slowest:?}, {} KiB more",
        growth >> 10
    );
    let _ = writeln!(std::io::stdout(), "{told}");
    assert!(slowest < PATIENCE, "{told}");
    assert!(growth < GROWTH_MAX, "{told}");
}

fn grown(front: &Front, before: u64) -> u64 {
    front.process.memory().saturating_sub(before)
}

/// Sends a begin, then a piece each half second for as long as anybody listens; returns when
/// the other side has hung up.
async fn dribble(to: SocketAddr, begin: Vec<u8>, piece: Vec<u8>) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(&begin).await.unwrap();
    let mut ticks = interval(Duration::from_millis(500));
    let mut buffer = [0; 1_024];
    loop {
        tokio::select! {
            _ = ticks.tick() => if stream.write_all(&piece).await.is_err() {
                return;
            },
            read = stream.read(&mut buffer) => if !matches!(read, Ok(1..)) {
                return;
            },
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_dribble_are_cut_off_and_bodies_cost_little() {
    let front = Front::start(None).await;
    let before = front.process.memory();
    let polite = front.polite();
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let open = frame(HEADERS, 0, 1, &[0x82]);
    let length = [0, 0x40, 0, HEADERS, END_HEADERS, 0, 0, 0, 1];
    let mut heads = JoinSet::new();
    let mut bodies = JoinSet::new();
    for _ in 0..50 {
        for (to, begin, piece) in [
            (
                front.http1,
                b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec(),
                &b"X: y\r\n"[..],
            ),
            (front.any, b"GET /".to_vec(), b"a"),
            (front.http1, b"G".to_vec(), b""),
            (front.http2, PREFACE[..10].to_vec(), b""),
            (front.http2, [&begun[..], &open].concat(), b""),
            (front.http2, [&begun[..], &length].concat(), &[0x82]),
        ] {
            heads.spawn(dribble(to, begin, piece.to_vec()));
        }
        let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
        bodies.spawn(dribble(front.http1, post.to_vec(), b"x".to_vec()));
        let post = head(
            1,
            false,
            &[
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", b"/"),
                (b":authority", b"a"),
            ],
        );
        let data = frame(DATA, 0, 1, b"x");
        bodies.spawn(dribble(front.http2, [begun.clone(), post].concat(), data));
    }
    let start = Instant::now();
    timeout(4 * DEADLINE, heads.join_all())
        .await
        .expect("they are cut off");
    let took = start.elapsed();
    let growth = grown(&front, before);
    let slowest = polite.after(10).await;
    let _ = writeln!(std::io::stdout(), "cut off after {took:?}");
    tell("dribbling", slowest, growth);
    let open = front.process.descriptors();
    drop(bodies);
    front.settled(open.saturating_sub(100)).await;
}

/// Asks for something large and reads nothing of it.
async fn stalled(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stall_cost_a_bounded_amount_each() {
    let front = Front::start(None).await;
    let get = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    let most = 0x7fff_ffff_u32.to_be_bytes();
    let settings = [&[0, 4][..], &most].concat();
    let mut streams = [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &settings),
        frame(WINDOW_UPDATE, 0, 0, &0x7ff0_0000_u32.to_be_bytes()),
    ]
    .concat();
    for i in 0..8 {
        streams.extend(head(1 + 2 * i, true, &request("/large")));
    }
    let none = [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
        head(1, true, &request("/large")),
    ];
    for (name, to, bytes, connections, readers) in [
        ("HTTP/1", front.http1, get, 100, 100),
        ("HTTP/2", front.http2, streams, 12, 96),
        (
            "HTTP/2 without a window",
            front.http2,
            none.concat(),
            100,
            100,
        ),
    ] {
        let before = front.process.memory();
        let open = front.process.descriptors();
        let asked = front.asked.load(Ordering::SeqCst);
        let mut held = Vec::new();
        for _ in 0..connections {
            held.push(stalled(to, &bytes).await);
        }
        wait_for("all to be asked for", || {
            (front.asked.load(Ordering::SeqCst) >= asked + readers).then_some(())
        })
        .await;
        let slowest = front.polite().after(100).await;
        let growth = grown(&front, before);
        let each = growth / readers as u64;
        let _ = writeln!(std::io::stdout(), "{name}: {} KiB each", each >> 10);
        // Some of it is what many connections at once leave behind, once.
        let own = growth.saturating_sub(4 << 20) / readers as u64;
        assert!(own <= 128 << 10, "{name}: {each} bytes each");
        tell(name, slowest, 0);
        drop(held);
        front.settled(open).await;
    }
}

/// How an attack went for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    /// The other side hung up.
    Ended,
    /// The other side takes no more.
    Held,
    /// All was sent, and the connection goes on.
    Alive,
}

/// Sends a begin, then the same again and again, as far as the other side takes it; reads
/// what comes, or nothing, and to the end if there must be one.
async fn flood(
    to: SocketAddr,
    (begin, again): (&[u8], &[u8]),
    bytes: usize,
    reads: bool,
    ends: bool,
) -> Went {
    let mut stream = TcpStream::connect(to).await.unwrap();
    if stream.write_all(begin).await.is_err() {
        return Went::Ended;
    }
    let many = again.repeat((16 << 10) / again.len() + 1);
    let (mut read, mut write) = stream.split();
    let patience = if ends {
        DEADLINE
    } else {
        Duration::from_millis(700)
    };
    let writing = async {
        let mut sent = 0;
        while sent < bytes {
            match timeout(patience, write.write_all(&many)).await {
                Ok(Ok(())) => sent += many.len(),
                Ok(Err(_)) => return Went::Ended,
                Err(_) => return Went::Held,
            }
        }
        if reads && ends {
            sleep(DEADLINE).await;
        }
        Went::Alive
    };
    let reading = async {
        let mut buffer = vec![0; 64 << 10];
        while reads && matches!(read.read(&mut buffer).await, Ok(1..)) {}
        if !reads {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = reading => Went::Ended,
        went = writing => went,
    }
}

/// Names an attack, what begins it and what is repeated, how often, whether the answers are
/// read, and whether the connection has to end.
type Flood = (&'static str, Vec<u8>, Vec<u8>, usize, bool, bool);

fn floods() -> Vec<Flood> {
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let post: Vec<(&[u8], &[u8])> = vec![
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"a"),
    ];
    let open = [begun.clone(), head(1, false, &post)].concat();
    let numbered = |from: u32, to: u32, one: &dyn Fn(u32) -> Vec<u8>| -> Vec<u8> {
        (from..to).flat_map(|i| one(1 + 2 * i)).collect()
    };
    let large = request("/large");
    let cancelled = |stream| {
        let reset = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        [head(stream, true, &large), reset].concat()
    };
    let broken = |stream| {
        let nothing = frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
        [head(stream, true, &large), nothing].concat()
    };
    let entry = [&block(&request("/"))[..], &[0x40, 1, b'a', 127, 0xa1, 0x1e]].concat();
    let entry = [entry, vec![b'b'; 4_000]].concat();
    let bomb = [entry, vec![0xbe; 12_000]].concat();
    let bombs = numbered(0, 50, &|stream| {
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb)
    });
    let toggles = [
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
        frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]),
    ];
    let held = numbered(0, 90, &|stream| head(stream, true, &large));
    let held = [begun.clone(), held].concat();
    let ping = frame(PING, 0, 0, &[0; 8]);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let size = 4 << 20;
    vec![
        ("pings", begun.clone(), ping.clone(), size, true, true),
        ("pings unread", begun.clone(), ping, size, false, true),
        (
            "settings",
            begun.clone(),
            settings.clone(),
            size,
            true,
            true,
        ),
        (
            "settings unread",
            begun.clone(),
            settings,
            size,
            false,
            true,
        ),
        (
            "windows up and down",
            held.clone(),
            toggles.concat(),
            size,
            false,
            true,
        ),
        (
            "windows of a byte",
            held,
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            size,
            false,
            true,
        ),
        (
            "unknown frames",
            begun.clone(),
            frame(0xb0, 0, 0, b"what?"),
            size,
            true,
            true,
        ),
        (
            "priorities",
            begun.clone(),
            frame(2, 0, 3, &[0, 0, 0, 1, 9]),
            size,
            true,
            true,
        ),
        (
            "empty data",
            open.clone(),
            frame(DATA, 0, 1, b""),
            size,
            true,
            true,
        ),
        (
            "padding",
            open.clone(),
            frame(DATA, 8, 1, &[255; 256]),
            size,
            true,
            false,
        ),
        (
            "data of a byte",
            open,
            frame(DATA, 0, 1, b"x"),
            size,
            true,
            false,
        ),
        (
            "continuations",
            [begun.clone(), frame(HEADERS, END_STREAM, 1, &[0x82])].concat(),
            frame(CONTINUATION, 0, 1, b""),
            size,
            true,
            true,
        ),
        (
            "large continuations",
            [begun.clone(), frame(HEADERS, END_STREAM, 1, &[0x82])].concat(),
            frame(CONTINUATION, 0, 1, &[0x00; 16_000]),
            size,
            true,
            true,
        ),
        (
            "resets",
            begun.clone(),
            numbered(0, 5_000, &cancelled),
            1,
            true,
            true,
        ),
        (
            "made to reset",
            begun.clone(),
            numbered(0, 5_000, &broken),
            1,
            true,
            true,
        ),
        ("bombs", begun, bombs, 1, true, true),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_their_connections_and_disturb_nobody() {
    let front = Front::start(None).await;
    let before = front.process.memory();
    let open = front.process.descriptors();
    for (name, begin, again, size, reads, ends) in floods() {
        let polite = front.polite();
        let asked = front.asked.load(Ordering::SeqCst);
        let attacks: JoinSet<_> = (0..4)
            .map(|_| {
                let (begin, again, to) = (begin.clone(), again.clone(), front.http2);
                async move { flood(to, (&begin, &again), size, reads, ends).await }
            })
            .collect();
        let went = attacks.join_all().await;
        let asking = polite.asked.clone();
        let slowest = polite.after(3).await;
        let count = asking.load(Ordering::SeqCst);
        tell(name, slowest, grown(&front, before));
        if ends {
            assert_eq!(went, [Went::Ended; 4], "{name}");
        }
        // What is given up at once does not reach the application again and again: each
        // connection may have as many streams as it was told, the polite one some too.
        let reached = front.asked.load(Ordering::SeqCst) - asked;
        let reached = reached.saturating_sub(count);
        assert!(reached <= 4 * 200, "{name}: {reached} requests");
        front.settled(open).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_without_end_are_refused_and_disturb_nobody() {
    let front = Front::start(None).await;
    let before = front.process.memory();
    let polite = front.polite();
    let field = [b"X-A: ".to_vec(), vec![b'y'; 1 << 20]].concat();
    let many = b"X-A: y\r\n".repeat(100_000);
    let target = [b"GET /".to_vec(), vec![b'y'; 1 << 20]].concat();
    let begin = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let extension = [b"1;a=".to_vec(), vec![b'y'; 1 << 20]].concat();
    let trailers = [b"0\r\n".to_vec(), many.clone()].concat();
    for (begin, more) in [
        (begin.clone(), field),
        (begin, many),
        (Vec::new(), target),
        (chunked.clone(), extension),
        (chunked, trailers),
    ] {
        let attacks: JoinSet<_> = (0..20)
            .map(|_| {
                let (begin, more, to) = (begin.clone(), more.clone(), front.http1);
                async move { flood(to, (&begin, &more), 1, true, true).await }
            })
            .collect();
        let went = attacks.join_all().await;
        let name = String::from_utf8_lossy(&more[..more.len().min(20)]).into_owned();
        assert!(
            went.iter().all(|went| *went == Went::Ended),
            "{name}: {went:?}"
        );
    }
    let growth = grown(&front, before);
    tell("heads without end", polite.after(10).await, growth);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_come_and_go_without_a_trace() {
    let front = Front::start(None).await;
    let (before, open) = (front.process.memory(), front.process.descriptors());
    let polite = front.polite();
    let pieces: [&[u8]; 4] = [b"", b"GET / HTTP/1.1\r\nHo", PREFACE, b"\x16\x03\x01\x02"];
    let mut churn = JoinSet::new();
    for i in 0..4 {
        let to = [front.http1, front.http2, front.any][i % 3];
        churn.spawn(async move {
            for number in 0..500 {
                let mut stream = TcpStream::connect(to).await.unwrap();
                let _ = stream.write_all(pieces[number % 4]).await;
                if number % 3 == 0 {
                    let socket = socket2::SockRef::from(&stream);
                    socket.set_linger(Some(Duration::ZERO)).unwrap();
                }
            }
        });
    }
    churn.join_all().await;
    let growth = grown(&front, before);
    tell("churn", polite.after(10).await, growth);
    front.settled(open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lack_of_descriptors_is_survived_without_haste() {
    let front = Front::start(Some(150)).await;
    let open = front.process.descriptors();
    let mut known = TcpStream::connect(front.http1).await.unwrap();
    get(&mut known).await;
    let mut held = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(front.http1).await.unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        held.push(stream);
    }
    wait_for("all descriptors to be taken", || {
        (front.process.descriptors() >= 145).then_some(())
    })
    .await;
    // Whoever was there before is served all the same.
    for _ in 0..20 {
        get(&mut known).await;
    }
    let busy = front.process.busy();
    sleep(Duration::from_secs(2)).await;
    let busy = front.process.busy() - busy;
    // A loop around what cannot be accepted would take all of the two seconds.
    assert!(busy < 60, "{busy} of 200 hundredths");
    drop(held);
    let slowest = front.polite().after(30).await;
    tell("no descriptors", slowest, 0);
    front.settled(open).await;
}
