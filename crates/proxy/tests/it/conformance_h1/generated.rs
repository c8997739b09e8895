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
use super::maker::Maker;
use super::models::{Model, STRICT, What, agreed};
use crate::app::tcp;
use crate::mesh::{DEADLINE, Pair, Setup, at, end};
use crate::server::Server;

/// Messages of a run; `GENERATED=100000` makes it more.
const MESSAGES: usize = 4_000;

/// So many are under way at once, each on a listener and with an application of its own.
const LANES: usize = 8;

/// Models that have to agree.
const MODELS: usize = 60;

pub(crate) fn count() -> usize {
    let count = std::env::var("GENERATED").ok();
    count.map_or(MESSAGES, |text| text.parse().expect("a number"))
}

pub(crate) fn models() -> Vec<Model> {
    let mut dice = Dice::new(1);
    (0..MODELS).map(|_| Model::draw(&mut dice)).collect()
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
pub(crate) type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// An application that reads requests to the letter, and answers each with its number.
pub(crate) async fn listening() -> (SocketAddr, Heard) {
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
                    if all[index].starts_with(b"PRI * HTTP/2.0\r\n") {
                        // It is asked whether it speaks HTTP/2, and does not.
                        all[index].clear();
                        return;
                    }
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

/// As many applications as there are lanes.
pub(crate) async fn all_listening() -> (Vec<SocketAddr>, Vec<Heard>) {
    let mut all = (Vec::new(), Vec::new());
    for _ in 0..LANES {
        let (address, heard) = listening().await;
        all.0.push(address);
        all.1.push(heard);
    }
    all
}

/// What the sender of a number was answered.
pub(crate) trait Answered: std::fmt::Debug {
    /// Says whether these requests were answered so.
    fn fits(&self, number: usize, asked: &[String]) -> bool;
}

impl Answered for Vec<String> {
    fn fits(&self, _: usize, asked: &[String]) -> bool {
        self == asked
    }
}

impl Answered for usize {
    fn fits(&self, number: usize, asked: &[String]) -> bool {
        // Nothing was hidden anywhere that may come out.
        *self == asked.len()
            && asked
                .iter()
                .all(|word| !word.contains(&format!("h{number}")))
    }
}

/// Says what is wrong with what applications were asked, given the answers that the sender of
/// each number got.
pub(crate) fn check<T: Answered>(heard: &[Heard], answers: &BTreeMap<usize, T>) -> Vec<String> {
    let models = models();
    let mut wrong = Vec::new();
    let mut asked = BTreeMap::<usize, Vec<String>>::new();
    let all = heard.iter().flat_map(|heard| heard.lock().unwrap().clone());
    for bytes in all {
        match agreed(&bytes, What::Requests, &models) {
            Ok(messages) => {
                for message in messages {
                    let is_digit = |c: char| c.is_ascii_digit();
                    let digits = message.word.trim_start_matches(|c| !is_digit(c));
                    let digits = digits.split(|c| !is_digit(c)).next();
                    let number = digits.and_then(|digits| digits.parse().ok());
                    let number = number.unwrap_or_else(|| panic!("{message:?}"));
                    asked.entry(number).or_default().push(message.word);
                }
            }
            Err(why) => wrong.push(why),
        }
    }
    for (number, answers) in answers {
        let asked = asked.remove(number).unwrap_or_default();
        if !answers.fits(*number, &asked) {
            wrong.push(format!("{number}: {asked:?} was answered {answers:?}"));
        }
    }
    wrong.extend(
        asked
            .values()
            .map(|asked| format!("nobody asked {asked:?}")),
    );
    wrong
}

/// A proxy with a listener for each of these applications, which speak HTTP/1.
pub(crate) async fn front(
    protocol: &str,
    applications: &[SocketAddr],
) -> (whodunit_proxy::Running, Vec<SocketAddr>) {
    let server = Server::start().await;
    let mut setup = Setup::new("web", &server);
    let name = |i: usize| format!("lane{i}");
    for (i, address) in applications.iter().enumerate() {
        let forward = format!("forward = \"{address}\"\nforward_protocol = \"http1\"");
        setup = setup.listener(&name(i), "inbound", protocol, &forward);
    }
    let proxy = setup.start();
    let lanes = (0..applications.len()).map(|i| at(&proxy, &name(i)));
    let lanes = lanes.collect();
    (proxy, lanes)
}

/// Sends so many messages, each on one of these lanes.
async fn run(lanes: Vec<SocketAddr>, heard: &[Heard], count: usize) {
    let mut running = JoinSet::new();
    let step = lanes.len();
    for (lane, to) in lanes.into_iter().enumerate() {
        running.spawn(async move {
            let mut answers = BTreeMap::new();
            for number in (lane..count).step_by(step) {
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
    let mut wrong = check(heard, &answers);
    for text in &mut wrong {
        let number = text
            .split(':')
            .next()
            .and_then(|number| number.parse().ok());
        if let Some(number) = number {
            let bytes = Maker::new(number).requests(number);
            text.push_str(&format!(" of {:?}", String::from_utf8_lossy(&bytes)));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    // Both have to happen, or the messages are no test.
    let forwarded = answers
        .values()
        .filter(|answers| !answers.is_empty())
        .count();
    assert!(
        (count / 10..count * 9 / 10).contains(&forwarded),
        "{forwarded}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_made_by_chance_are_read_alike_or_refused() {
    let (applications, heard) = all_listening().await;
    let (proxy, lanes) = front("http1", &applications).await;
    run(lanes, &heard, count()).await;
    crate::sending::conserved(&proxy).await;
    end(proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_made_by_chance_are_read_alike_behind_a_pair() {
    let (application, heard) = listening().await;
    let pair = Pair::start("http1", application).await;
    run(vec![pair.address()], &[heard], count() / 4).await;
    pair.end().await;
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
    let (proxy, lanes) = front("http1", &applications).await;
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
