//! Makes HTTP/1 messages by chance.

use super::dice::Dice;

/// Makes messages; each choice is usually the plain one.
pub(super) struct Maker {
    pub(super) dice: Dice,
    /// How often a choice is an odd one, of a hundred.
    odd: usize,
}

impl Maker {
    pub(super) fn new(seed: usize) -> Self {
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
    pub(super) fn requests(&mut self, number: usize) -> Vec<u8> {
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
    pub(super) fn response(&mut self) -> Vec<u8> {
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
pub(crate) fn latin(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect()
}
