//! Messages that are ambiguous in ways nobody listed: made by chance, the same ones each time.
//!
//! What reaches the other side must be read alike by every model. What an application is
//! asked is answered to the client that asked, and nothing else is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::dice::Dice;
use super::models::{Model, STRICT, What, agreed};
use crate::app::tcp;
use crate::mesh::{DEADLINE, Setup, at, end};
use crate::server::Server;

/// Messages of a run; `GENERATED=100000` makes it more.
const MESSAGES: usize = 4_000;

/// So many are under way at once, each on a listener and with an application of its own.
const LANES: usize = 8;

/// Models that have to agree.
const MODELS: usize = 60;

fn count() -> usize {
    let count = std::env::var("GENERATED").ok();
    count.map_or(MESSAGES, |text| text.parse().expect("a number"))
}

fn models() -> Vec<Model> {
    let mut dice = Dice::new(1);
    (0..MODELS).map(|_| Model::draw(&mut dice)).collect()
}

/// Makes messages; each choice is usually the plain one.
struct Maker {
    dice: Dice,
    /// How often a choice is an odd one, of a hundred.
    odd: usize,
}

impl Maker {
    fn new(seed: usize) -> Self {
        let mut dice = Dice::new(seed as u64 + 1_000);
        let odd = dice.pick(&[0, 2, 5, 10, 20]);
        Self { dice, odd }
    }

    fn choose(&mut self, plain: &str, odd: &[&str]) -> String {
        if self.dice.chance(self.odd) {
            self.dice.pick(odd).to_owned()
        } else {
            plain.to_owned()
        }
    }

    fn line_end(&mut self) -> String {
        self.choose(
            "\r\n",
            &["\n", "\r", "\r\r\n", "\n\r", "\r\n ", "\0\r\n", "\u{b}\r\n"],
        )
    }

    fn name(&mut self, name: &str) -> String {
        if !self.dice.chance(self.odd) {
            return name.to_owned();
        }
        match self.dice.below(14) {
            0 => name.to_lowercase(),
            1 => name.to_uppercase(),
            2 => format!("{name} "),
            3 => format!("{name}\t"),
            4 => format!(" {name}"),
            5 => name.replace('-', "_"),
            6 => name.replacen('-', "\0-", 1),
            7 => format!("{name}\0"),
            8 => format!("{name}\u{b}"),
            9 => format!("\u{b}{name}"),
            10 => format!("{name}\r"),
            11 => format!("X: y\n{name}"),
            12 => format!("X: y\r{name}"),
            _ => format!("X: y\r\n {name}"),
        }
    }

    fn length(&mut self, length: usize) -> String {
        if !self.dice.chance(self.odd) {
            return length.to_string();
        }
        match self.dice.below(22) {
            0 => format!("+{length}"),
            1 => format!("-{length}"),
            2 => format!("0{length}"),
            3 => format!("0x{length:x}"),
            4 => format!("{length} "),
            5 => format!("{length}\t"),
            6 => format!(" \t{length}"),
            7 => format!("{length},{length}"),
            8 => format!("{length}, {}", length + 1),
            9 => format!("{length};a=b"),
            10 => format!("{length}\u{b}"),
            11 => format!("{length}\0"),
            12 => format!("{length}.0"),
            13 => format!("{length} 0"),
            14 => format!("\"{length}\""),
            15 => format!("{}", (1_u128 << 64) + length as u128),
            16 => format!("{}", (1_u128 << 32) + length as u128),
            17 => (length / 2).to_string(),
            18 => (length + 7).to_string(),
            19 => "0".to_owned(),
            20 => String::new(),
            _ => format!("{length}\r\n 0"),
        }
    }

    fn coding(&mut self) -> String {
        self.choose(
            "chunked",
            &[
                "Chunked",
                "CHUNKED",
                "chunked ",
                "\tchunked",
                "\u{b}chunked",
                "chunked\u{c}",
                "chunked\0",
                "identity",
                "gzip, chunked",
                "chunked, identity",
                "chunked;q=1",
                ",chunked",
                "chunked,",
                "x chunked",
                "xchunked",
                "chunkedx",
                "\"chunked\"",
                "chun\u{0}ked",
                "chunked, chunked",
                "",
                "\r\n chunked",
                "chunked\r\n ,x",
                "identity, chunked, identity",
                "chunked\r",
                "cow",
            ],
        )
    }

    fn host(&mut self) -> String {
        let host = self.choose(
            "a",
            &[
                "b", "a, b", "a b", "u@a", "a:", "a:80", "a:x", "", "a\0", "a/", "a#", "[::1",
                "a;b", "a\\b", "a\u{b}", "a\t",
            ],
        );
        let name = self.name("Host");
        format!("{name}: {host}{}", self.line_end())
    }

    /// The bytes of a body in chunks, with trailers.
    fn chunks(&mut self, body: &str) -> String {
        let mut text = String::new();
        let cut = self.dice.below(body.len() + 1);
        for piece in [&body[..cut], &body[cut..]] {
            if piece.is_empty() {
                continue;
            }
            let size = piece.len();
            let size = if self.dice.chance(self.odd) {
                match self.dice.below(14) {
                    0 => format!("0x{size:x}"),
                    1 => format!("+{size:x}"),
                    2 => format!("-{size:x}"),
                    3 => format!(" {size:x}"),
                    4 => format!("{size:x} "),
                    5 => format!("{size:X}"),
                    6 => format!("0000000000000000000{size:x}"),
                    7 => format!("{:x}", (1_u128 << 64) + size as u128),
                    8 => format!("{:x}", (1_u128 << 32) + size as u128),
                    9 => format!("{size:x}\0"),
                    10 => format!("{size:x},"),
                    11 => format!("{:x}", size + 2),
                    12 => format!("\r\n{size:x}"),
                    _ => format!("{:x}", size - 1),
                }
            } else {
                format!("{size:x}")
            };
            let extension = self.choose(
                "",
                &[
                    ";",
                    ";a",
                    ";a=b",
                    ";a=\"b\"",
                    ";a=\"\r\n\"",
                    ";\n",
                    ";\r",
                    " ;a",
                    ";a;\0",
                    "\t",
                ],
            );
            let end = self.line_end();
            let after = self.choose(
                "\r\n",
                &["", "\n", "\r", "xx", "\r\n\r\n", "x\r\n", "\r\r\n"],
            );
            text += &format!("{size}{extension}{end}{piece}{after}");
        }
        let last = self.choose("0", &["00", "0;a", "0 ", "-0", "0x0", "0\0", "", "g", "1"]);
        let trailer = self.choose(
            "",
            &[
                "X-Sum: 1\r\n",
                "Content-Length: 5\r\n",
                "Transfer-Encoding: chunked\r\n",
                "Host: b\r\n",
                "X\r\n",
                " X: y\r\n",
                "X: y\n",
                "X: y\r\n z\r\n",
                "X : y\r\n",
                "X: \0\r\n",
            ],
        );
        text + &format!("{last}{}{trailer}{}", self.line_end(), self.line_end())
    }

    /// Fields that frame a body, and the body.
    fn framed(&mut self, hidden: &str) -> (String, String) {
        let body = self
            .dice
            .pick(&["", "ab", hidden, "0\r\n\r\n", "x=1\r\n"])
            .to_owned();
        let fields = self.dice.below(10);
        let (lengths, codings) = match fields {
            0 => (0, 0),
            1..=3 => (1, 0),
            4..=6 => (0, 1),
            _ if self.dice.chance(self.odd) => (1 + self.dice.below(2), 1 + self.dice.below(2)),
            7 => (1, 0),
            _ => (0, 1),
        };
        let coded = codings > 0 && !self.dice.chance(self.odd);
        let body = if coded { self.chunks(&body) } else { body };
        // A length that fits what there is, or only the first chunk line.
        let fitting = if codings > 0 && self.dice.chance(50) {
            body.find("\r\n").map_or(0, |at| at + 2)
        } else {
            body.len()
        };
        let mut lines = Vec::new();
        for _ in 0..lengths {
            let (name, value) = (self.name("Content-Length"), self.length(fitting));
            let colon = self.choose(": ", &[":", ":\t", " : ", "=", "::"]);
            lines.push(format!("{name}{colon}{value}{}", self.line_end()));
        }
        for _ in 0..codings {
            let (name, value) = (self.name("Transfer-Encoding"), self.coding());
            let colon = self.choose(": ", &[":", ":\t", " : ", "=", "::"]);
            lines.push(format!("{name}{colon}{value}{}", self.line_end()));
        }
        if lines.len() > 1 && self.dice.chance(50) {
            lines.reverse();
        }
        let other = self.choose(
            "",
            &[
                "X: y\r\n z\r\n",
                "Connection: content-length\r\n",
                "Connection: transfer-encoding\r\n",
                "Connection: close\r\n",
                "Expect: 100-continue\r\n",
                "X\r\n",
                ": y\r\n",
                "X: \0\r\n",
                "\r\n",
                " Content-Length: 3\r\n",
                "Upgrade: h2c\r\nConnection: upgrade\r\n",
                "Keep-Alive: timeout=5\r\n",
            ],
        );
        lines.insert(self.dice.below(lines.len() + 1), other);
        (lines.concat(), body)
    }

    /// One request or a few, of number `number`, with one hidden in a body.
    fn requests(&mut self, number: usize) -> Vec<u8> {
        let hidden = format!("GET /h{number} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut text = String::new();
        for _ in 0..=self.dice.below(2) {
            text += &self.choose("", &["\r\n", "\r\n\r\n", "\n", " ", "\0", "\r"]);
            let method = self.dice.pick(&["GET", "POST", "PUT", "DELETE"]);
            let method = self.choose(
                method,
                &[
                    "get", "TRACE", "CONNECT", "G T", "GE\0T", "POST\t", "PRI", "OPTIONS",
                ],
            );
            let target =
                match self.choose("/", &["http://a/", "http://b/", "//", "a", "https://a/"]) {
                    form if form == "a" => format!("{number}"),
                    form => format!("{form}m{number}"),
                };
            let target =
                target + &self.choose("", &["#x", " x", "\0", "?a=b c", "\t", "\u{e9}", "?"]);
            let version = self.choose(
                "HTTP/1.1",
                &[
                    "HTTP/1.0",
                    "HTTP/1.1 ",
                    "http/1.1",
                    "HTTP/1.01",
                    "HTTP/2.0",
                    "",
                    "HTTP/0.9",
                ],
            );
            let space = self.choose(" ", &["  ", "\t", "\u{b}", "\r"]);
            let end = self.line_end();
            let mut hosts = self.host();
            if self.dice.chance(self.odd) {
                hosts = self
                    .dice
                    .pick(&["", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n"])
                    .into();
            }
            let (fields, body) = self.framed(&hidden);
            let fields = if self.dice.chance(50) {
                hosts + &fields
            } else {
                fields + &hosts
            };
            let last = self.line_end();
            text += &format!("{method}{space}{target}{space}{version}{end}{fields}{last}{body}");
        }
        if self.dice.chance(50) {
            text += &format!("GET /m{number} HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        latin(&text)
    }

    /// A response, with what may be taken for another one in it or behind it.
    fn response(&mut self) -> Vec<u8> {
        let hidden = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden";
        let mut text = self.choose(
            "",
            &[
                "HTTP/1.1 100 Continue\r\n\r\n",
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
                "HTTP/1.1 103 Hints\r\nContent-Length: 5\r\n\r\n",
                "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
                "HTTP/1.1 102 Processing\r\nTransfer-Encoding: chunked\r\n\r\n",
                "\r\n",
            ],
        );
        let line = self.choose(
            "HTTP/1.1 200 OK",
            &[
                "HTTP/1.0 200 OK",
                "HTTP/1.1 204 No Content",
                "HTTP/1.1 304 Not Modified",
                "HTTP/1.1 200",
                "HTTP/1.1  200 OK",
                "HTTP/1.1 2000 OK",
                "HTTP/1.1 099 OK",
                "200 OK",
                "HTTP/2 200 OK",
                "HTTP/1.1 200 O\0K",
                "HTTP/1.1 205 Reset",
                "HTTP/1.1\t200 OK",
                "HTTP/1.1 500 No",
                "HTTP/1.1 1xx OK",
                "HTTP/1.1 199 Odd",
                "http/1.1 200 OK",
            ],
        );
        let end = self.line_end();
        let (fields, body) = self.framed(hidden);
        let last = self.line_end();
        text += &format!("{line}{end}{fields}{last}{body}");
        if self.dice.chance(30) {
            text += hidden;
        }
        latin(&text)
    }
}

/// Each character as one byte.
fn latin(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect()
}

/// Sends bytes in a few pieces and reads all that comes back.
async fn exchange(to: SocketAddr, bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let cut = if dice.chance(50) {
        0
    } else {
        dice.below(bytes.len() + 1)
    };
    for piece in [&bytes[..cut], &bytes[cut..]] {
        // The other side may hang up before it has read everything.
        let _ = stream.write_all(piece).await;
        tokio::task::yield_now().await;
    }
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    let shown = || String::from_utf8_lossy(bytes).into_owned();
    let _ = read.unwrap_or_else(|_| panic!("no end after {:?}", shown()));
    answer
}

/// The bytes of each connection that reached an application.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// An application that reads requests to the letter, and answers each with its number.
async fn listening() -> (SocketAddr, Heard) {
    let heard = Heard::default();
    let keep = heard.clone();
    let address = tcp(move |mut stream| {
        let heard = keep.clone();
        async move {
            let index = {
                let mut all = heard.lock().unwrap();
                all.push(Vec::new());
                all.len() - 1
            };
            let (mut buffer, mut answered) = (vec![0; 16 << 10], 0);
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let asked = {
                    let mut all = heard.lock().unwrap();
                    all[index].extend_from_slice(&buffer[..count]);
                    STRICT.read(&all[index], What::Requests)
                };
                for request in &asked[answered..] {
                    let word = &request.word;
                    let length = word.len();
                    let answer =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{word}");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
                answered = asked.len();
            }
        }
    })
    .await;
    (address, heard)
}

/// A proxy with a listener for each of these applications.
async fn front(applications: &[SocketAddr]) -> (whodunit_proxy::Running, Vec<SocketAddr>) {
    let server = Server::start().await;
    let mut setup = Setup::new("web", &server);
    let name = |i: usize| format!("lane{i}");
    for (i, address) in applications.iter().enumerate() {
        let forward = format!("forward = \"{address}\"");
        setup = setup.listener(&name(i), "inbound", "http1", &forward);
    }
    let proxy = setup.start();
    let lanes = (0..applications.len()).map(|i| at(&proxy, &name(i)));
    let lanes = lanes.collect();
    (proxy, lanes)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_made_by_chance_are_read_alike_or_refused() {
    let mut applications = Vec::new();
    let mut heard = Vec::new();
    for _ in 0..LANES {
        let (address, keeps) = listening().await;
        applications.push(address);
        heard.push(keeps);
    }
    let (proxy, lanes) = front(&applications).await;
    let mut running = JoinSet::new();
    for (lane, to) in lanes.into_iter().enumerate() {
        running.spawn(async move {
            let mut answers = BTreeMap::new();
            for number in (lane..count()).step_by(LANES) {
                let mut maker = Maker::new(number);
                let bytes = maker.requests(number);
                let answer = exchange(to, &bytes, &mut maker.dice).await;
                let answer = STRICT.read(&answer, What::Responses);
                let fine = answer.into_iter().filter(|answer| answer.word == "200");
                let words = fine.map(|answer| String::from_utf8(answer.body).unwrap());
                answers.insert(number, words.collect::<Vec<_>>());
            }
            answers
        });
    }
    let answers: BTreeMap<usize, Vec<String>> =
        running.join_all().await.into_iter().flatten().collect();
    let models = models();
    let mut wrong = Vec::new();
    let mut asked = BTreeMap::<usize, Vec<String>>::new();
    for bytes in heard.iter().flat_map(|heard| heard.lock().unwrap().clone()) {
        match agreed(&bytes, What::Requests, &models) {
            Ok(messages) => {
                for message in messages {
                    let digits = message
                        .word
                        .trim_start_matches(|c: char| !c.is_ascii_digit());
                    let digits = digits.split(|c: char| !c.is_ascii_digit()).next();
                    let number = digits.and_then(|digits| digits.parse().ok());
                    let number = number.unwrap_or_else(|| panic!("{message:?}"));
                    asked.entry(number).or_default().push(message.word);
                }
            }
            Err(why) => wrong.push(why),
        }
    }
    for (number, answers) in &answers {
        let asked = asked.get(number).cloned().unwrap_or_default();
        if asked != *answers {
            let bytes = Maker::new(*number).requests(*number);
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            wrong.push(format!(
                "{number}: {asked:?} was answered {answers:?}: {shown:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    // Both have to happen, or the messages are no test.
    let forwarded = answers
        .values()
        .filter(|answers| !answers.is_empty())
        .count();
    assert!(
        (count() / 10..count() * 9 / 10).contains(&forwarded),
        "{forwarded}"
    );
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

/// An application that answers `/N` with response N, and everything else with `fine`.
async fn answering() -> SocketAddr {
    tcp(|mut stream| async move {
        let mut head = Vec::new();
        let mut odd = false;
        loop {
            // Whoever waits for more of an odd answer waits in vain, and not for long.
            let patience = if odd {
                Duration::from_millis(100)
            } else {
                DEADLINE
            };
            let Ok(Ok(byte)) = timeout(patience, stream.read_u8()).await else {
                return;
            };
            head.push(byte);
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
            let target = text.split(' ').nth(1).unwrap_or_default();
            let number = target[1..].parse::<usize>().ok();
            let answer = number.map_or_else(
                || b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine".to_vec(),
                |number| Maker::new(number).response(),
            );
            if stream.write_all(&answer).await.is_err() {
                return;
            }
            odd |= number.is_some();
            if number.is_some_and(|number| number % 2 == 0) {
                return;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_made_by_chance_are_read_alike_and_answer_one_request() {
    let mut applications = Vec::new();
    for _ in 0..LANES {
        applications.push(answering().await);
    }
    let (proxy, lanes) = front(&applications).await;
    let models = Arc::new(models());
    let mut running = JoinSet::new();
    for (lane, to) in lanes.into_iter().enumerate() {
        let models = models.clone();
        running.spawn(async move {
            let mut wrong = Vec::new();
            let mut passed = 0;
            for number in (lane..count() / 4).step_by(LANES) {
                let mut dice = Dice::new(number as u64);
                let ask = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
                let both = ask(&format!("/{number}")) + &ask("/next");
                let got = exchange(to, both.as_bytes(), &mut dice).await;
                let fresh = exchange(to, ask("/other").as_bytes(), &mut dice).await;
                let said = Maker::new(number).response();
                let mut complain = |why: String| {
                    let said = String::from_utf8_lossy(&said).into_owned();
                    wrong.push(format!("{number}: {why}, of {said:?}"));
                };
                let messages = match agreed(&got, What::Responses, &models) {
                    Ok(messages) => messages,
                    Err(why) => {
                        complain(why);
                        continue;
                    }
                };
                let last: Vec<_> = messages
                    .iter()
                    .filter(|m| !m.word.starts_with('1'))
                    .collect();
                match last[..] {
                    // What broke off ends the connection.
                    [] => {}
                    [first] => passed += usize::from(first.word == "200"),
                    [first, second] => {
                        passed += usize::from(first.word == "200");
                        if second.body != b"fine" {
                            complain(format!("the next got {second:?}"));
                        }
                    }
                    _ => complain(format!("{} answers", last.len())),
                }
                let fresh = agreed(&fresh, What::Responses, &models).unwrap_or_default();
                if !matches!(&fresh[..], [one] if one.body == b"fine") {
                    complain(format!("another client got {fresh:?}"));
                }
            }
            (wrong, passed)
        });
    }
    let (mut wrong, mut passed) = (Vec::new(), 0);
    for (more, count) in running.join_all().await {
        wrong.extend(more);
        passed += count;
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    let count = count() / 4;
    assert!((count / 10..count * 9 / 10).contains(&passed), "{passed}");
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[test]
fn the_models_disagree_on_what_is_made() {
    let models = models();
    let ambiguous = |what: What, made: &dyn Fn(usize) -> Vec<u8>| {
        let odd = |number: &usize| agreed(&made(*number), what, &models).is_err();
        (0..1_000).filter(odd).count()
    };
    let requests = ambiguous(What::Requests, &|number| {
        Maker::new(number).requests(number)
    });
    let responses = ambiguous(What::Responses, &|number| Maker::new(number).response());
    assert!(requests > 200 && responses > 200, "{requests}, {responses}");
    let plain = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
    assert_eq!(
        agreed(plain, What::Requests, &models).unwrap()[0].body,
        b"ab"
    );
    let plain = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    assert_eq!(
        agreed(plain, What::Responses, &models).unwrap()[0].body,
        b"ab"
    );
}
