//! Requests that become others in HTTP/1 in ways nobody listed: made by chance, the same ones
//! each time.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::task::JoinSet;

use crate::conformance_h1::dice::Dice;
use crate::conformance_h1::generated::{Heard, all_listening, check, count, front, listening};
use crate::conformance_h1::maker::latin;
use crate::frames::{DATA, END_STREAM, End, PREFACE, Raw, SETTINGS, frame, head};
use crate::mesh::{Pair, end};

/// Makes requests; each choice is usually the plain one.
struct Maker {
    dice: Dice,
    odd: usize,
}

impl Maker {
    fn new(seed: usize) -> Self {
        let mut dice = Dice::new(seed as u64 + 5_000_000);
        let odd = dice.pick(&[0, 2, 4, 8, 15]);
        Self { dice, odd }
    }

    fn choose(&mut self, plain: &str, odd: &[&str]) -> String {
        if self.dice.chance(self.odd) {
            self.dice.pick(odd).to_owned()
        } else {
            plain.to_owned()
        }
    }

    fn value(&mut self, plain: &str) -> String {
        if !self.dice.chance(self.odd) {
            return plain.to_owned();
        }
        let more = self.dice.pick(&[
            "\r\nContent-Length: 0",
            "\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n",
            "\nTransfer-Encoding: chunked",
            "\rX: y",
            "\0",
            " ",
            "\t",
            " HTTP/1.1\r\nHost: b\r\nX:",
            ",",
            "\u{b}",
            "\u{7f}",
            "\u{e9}",
            "#x",
            "?",
        ]);
        if self.dice.chance(50) {
            format!("{plain}{more}")
        } else {
            format!("{more}{plain}")
        }
    }

    fn name(&mut self, plain: &str) -> String {
        if !self.dice.chance(self.odd) {
            return plain.to_owned();
        }
        match self.dice.below(9) {
            0 => plain.to_uppercase(),
            1 => format!("{plain} "),
            2 => format!(" {plain}"),
            3 => format!("{plain}:"),
            4 => format!("{plain}\r\nx"),
            5 => format!("{plain}\0"),
            6 => plain.replace('-', "_"),
            7 => format!("x: y\r\n{plain}"),
            _ => String::new(),
        }
    }

    /// One request as fields, the pieces of its body, and trailers.
    fn request(&mut self, number: usize) -> (Vec<(String, String)>, Vec<String>, Vec<String>) {
        let hidden = format!("GET /h{number} HTTP/1.1\r\nHost: a\r\n\r\n");
        let method = self.dice.pick(&["GET", "POST", "PUT", "DELETE"]);
        let method = self.choose(
            method,
            &["CONNECT", "TRACE", "get", "G T", "", "PRI", "OPTIONS"],
        );
        let path = self.choose(
            &format!("/m{number}"),
            &["http://b/", "//b/", "*", "", "\\"],
        );
        let path = if path.contains(&number.to_string()) {
            path
        } else {
            format!("{path}{number}")
        };
        let scheme = self.choose("http", &["https", "ftp", "", "http:", "http\r\n"]);
        let odd_hosts = ["b", "a, b", "u@a", "a:", "a:80", "", "a b", "[::1", "a/"];
        let authority = self.choose("a", &odd_hosts);
        let mut fields = vec![
            (":method".to_owned(), self.value(&method)),
            (":scheme".to_owned(), self.value(&scheme)),
            (":authority".to_owned(), self.value(&authority)),
            (":path".to_owned(), self.value(&path)),
        ];
        let bodies = [
            "",
            "ab",
            &hidden,
            "0\r\n\r\n",
            &format!("0\r\n\r\n{hidden}"),
        ];
        let body = self.dice.pick(&bodies.map(str::len));
        let body = bodies
            .iter()
            .find(|text| text.len() == body)
            .unwrap()
            .to_string();
        if self.dice.chance(40) {
            let length = body.len();
            let off = [
                length + 1,
                length.saturating_sub(1),
                0,
                length + hidden.len(),
            ];
            let length = if self.dice.chance(self.odd) {
                self.dice.pick(&off)
            } else {
                length
            };
            let length = self.value(&length.to_string());
            fields.push((self.name("content-length"), length));
        }
        for (name, value) in [
            ("host", "a"),
            ("host", "b"),
            ("content-length", "0"),
            ("content-length", "+2"),
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "identity"),
            ("te", "trailers"),
            ("te", "chunked"),
            ("connection", "keep-alive, content-length"),
            ("keep-alive", "1"),
            ("proxy-connection", "close"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("trailer", "content-length"),
            (":path", "/other"),
            (":status", "200"),
            ("x-plain", "y"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
        ] {
            if self.dice.chance(self.odd / 2 + 1) {
                fields.push((self.name(name), self.value(value)));
            }
        }
        if self.dice.chance(self.odd) {
            let (from, to) = (self.dice.below(fields.len()), self.dice.below(fields.len()));
            fields.swap(from, to);
        }
        if self.dice.chance(self.odd / 2) {
            let index = self.dice.below(fields.len());
            fields.remove(index);
        }
        let cut = self.dice.below(body.len() + 1);
        let pieces = [&body[..cut], &body[cut..]].map(str::to_owned);
        let trailers = self.choose(
            "",
            &[
                "x-sum",
                "content-length",
                "transfer-encoding",
                "host",
                ":path",
                "X-A",
                "x\r\n\r\n",
            ],
        );
        let trailers = if trailers.is_empty() {
            vec![]
        } else {
            vec![trailers]
        };
        (fields, pieces.to_vec(), trailers)
    }

    /// The same as frames.
    fn frames(&mut self, number: usize, stream: u32) -> Vec<u8> {
        let (fields, pieces, trailers) = self.request(number);
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (latin(name), latin(value)))
            .collect();
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (&name[..], &value[..]))
            .collect();
        let bodyless = trailers.is_empty() && pieces.concat().is_empty() && self.dice.chance(80);
        let mut bytes = head(stream, bodyless, &fields);
        if bodyless {
            return bytes;
        }
        for (i, piece) in pieces.iter().enumerate() {
            let last = i + 1 == pieces.len() && trailers.is_empty();
            let flags = if last { END_STREAM } else { 0 };
            let piece = piece.as_bytes();
            if self.dice.chance(20) {
                let padded = [&[3][..], piece, &[0; 3]].concat();
                bytes.extend(frame(DATA, flags | 8, stream, &padded));
            } else {
                bytes.extend(frame(DATA, flags, stream, piece));
            }
        }
        if !trailers.is_empty() {
            let trailers = latin(&trailers[0]);
            bytes.extend(head(stream, true, &[(&trailers, b"5")]));
        }
        bytes
    }
}

/// Sends a few requests on a connection, as far as it goes on; returns how many were answered
/// with 200.
async fn ask(to: SocketAddr, number: usize) -> usize {
    let mut maker = Maker::new(number);
    let mut client = Raw::bare(to).await;
    // Without a dynamic table, what comes back can be read.
    let settings = frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
    client.send(&[PREFACE.to_vec(), settings].concat()).await;
    let mut fine = 0;
    for i in 0..=u32::try_from(maker.dice.below(3)).unwrap() {
        let stream = 1 + 2 * i;
        client.send(&maker.frames(number, stream)).await;
        match client.end_of(stream).await {
            End::Status(200) => fine += 1,
            End::Status(_) | End::Reset(_) => {}
            End::GoAway(_) | End::Closed => break,
        }
    }
    fine
}

/// Sends so many requests, each on one of these lanes.
async fn run(lanes: Vec<SocketAddr>, heard: &[Heard], count: usize) {
    let mut running = JoinSet::new();
    let step = lanes.len();
    for (lane, to) in lanes.into_iter().enumerate() {
        running.spawn(async move {
            let mut answers = Vec::new();
            for number in (lane..count).step_by(step) {
                answers.push((number, ask(to, number).await));
            }
            answers
        });
    }
    let answers: BTreeMap<_, _> = running.join_all().await.into_iter().flatten().collect();
    let wrong = check(heard, &answers);
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    // Both have to happen, or the requests are no test.
    let total = answers.values().filter(|fine| **fine > 0).count();
    assert!((count / 10..count * 99 / 100).contains(&total), "{total}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_made_by_chance_become_one_each_or_are_refused() {
    let (applications, heard) = all_listening().await;
    let (proxy, lanes) = front("http2", &applications).await;
    run(lanes, &heard, count()).await;
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_made_by_chance_become_one_each_behind_a_pair() {
    let (application, heard) = listening().await;
    let pair = Pair::start("http2", application).await;
    run(vec![pair.address()], &[heard], count() / 4).await;
    pair.end().await;
}
