//! A small language of traffic, for tests.
//!
//! ```text
//! 100 x bot -> web GET /api/vote every 200ms
//!   web -> voting Voting/VotePoop pick 20% fails 100% tag choice=:poop:
//!   web -> voting Voting/VoteJoy  pick 80%
//! ```
//! A line is a call; what is indented below are the calls its callee makes, one
//! after the other, each time. `-` is a caller outside the mesh. Words after the route:
//! - `every 200ms`, `from 10s`: pace and beginning of the outermost calls
//! - `pick 20%`: of the siblings that have it, exactly one is made each time
//! - `takes 2ms`: time of its own
//! - `slows 500ms [after 60s] [on web-1] [share 20%]`: more time of its own
//! - `fails 20% [after 60s] [until 90s] [on web-1]`, or `fails 4`: the first four calls
//! - `by app|reset|refused|no_endpoints|timeout|cancel|404`: how it fails;
//!   `by hang`: neither it nor what waits for it ever ends
//! - `instances 2`, `versions v1,v2`: of the callee, in turns
//! - `outside`: the callee has no proxy
//! - `ignored`: the caller succeeds nevertheless; `retried`: its proxy tries again
//! - `tag name=value`: an attribute of the request the call is made for
//! - `traced`: the application passes trace ids along
//!
//! `{50}` in a route is one of 50 numbers. Chance is a function of the line and
//! the number of the call, so a text always means the same traffic.

use whodunit_model::redact::Attributes;
use whodunit_model::time::{parse_duration, parse_rfc3339};
use whodunit_model::{
    BootId, Cause, Kind, Origin, Outcome, Protocol, RequestId, RequestRecord, Rows, Side, Twin,
};

use crate::symbols::FastMap;
use crate::window::Window;

/// When all traffic begins.
pub(crate) fn began_us() -> i64 {
    parse_rfc3339("2026-01-31T14:02:00Z").unwrap()
}

/// Ten minutes from the beginning.
pub(crate) fn ten_minutes() -> Window {
    Window {
        from_us: began_us(),
        until_us: began_us() + 600_000_000,
    }
}

/// Time a message needs from one proxy to the other, µs.
const WIRE_US: i64 = 100;

#[derive(Clone, Default)]
struct When {
    share: f64,
    first: Option<u64>,
    after_us: i64,
    until_us: Option<i64>,
    on: String,
}

#[derive(Clone, Default)]
struct Line {
    depth: usize,
    times: u64,
    caller: String,
    callee: String,
    route: String,
    every_us: i64,
    from_us: i64,
    pick: Option<f64>,
    takes_us: i64,
    slows: Option<(i64, When)>,
    fails: Option<When>,
    by: String,
    instances: u64,
    versions: Vec<String>,
    outside: bool,
    ignored: bool,
    retried: bool,
    traced: bool,
    tag: Option<(String, String)>,
    children: Vec<usize>,
}

/// Makes the rows that proxies would have recorded of this traffic.
pub(crate) fn traffic(text: &str) -> Rows {
    records(text).into_iter().collect()
}

pub(crate) fn records(text: &str) -> Vec<RequestRecord> {
    let mut lines: Vec<Line> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(parse)
        .collect();
    let least = lines
        .iter()
        .map(|line| line.depth)
        .min()
        .unwrap_or_default();
    let mut open: Vec<usize> = Vec::new();
    let mut roots = Vec::new();
    for index in 0..lines.len() {
        let depth = (lines[index].depth - least) / 2;
        open.truncate(depth);
        match open.last() {
            Some(&parent) => lines[parent].children.push(index),
            None => roots.push(index),
        }
        open.push(index);
    }
    let mut world = World {
        lines,
        made: FastMap::default(),
        records: Vec::new(),
        next: 0,
    };
    for root in roots {
        for n in 0..world.lines[root].times {
            let line = &world.lines[root];
            let at_us = began_us() + line.from_us + line.every_us * i64::try_from(n).unwrap();
            let caller = match line.caller.as_str() {
                "-" => String::new(),
                caller => format!("{caller}-0"),
            };
            world.call(root, &caller, at_us, 0);
        }
    }
    world.records
}

fn parse(text: &str) -> Line {
    let depth = text.len() - text.trim_start().len();
    let mut words = text.split_whitespace().peekable();
    let mut line = Line {
        depth,
        times: 1,
        every_us: 200_000,
        takes_us: 1_000,
        by: "app".to_owned(),
        instances: 1,
        ..Line::default()
    };
    if let Some(times) = words.peek().and_then(|word| word.parse().ok()) {
        line.times = times;
        words.next();
        assert_eq!(words.next(), Some("x"), "{text}");
    }
    line.caller = words.next().unwrap().to_owned();
    assert_eq!(words.next(), Some("->"), "{text}");
    line.callee = words.next().unwrap().to_owned();
    line.route = words.next().unwrap().to_owned();
    if ["GET", "POST"].contains(&line.route.as_str()) {
        line.route = format!("{} {}", line.route, words.next().unwrap());
    }
    let duration = |word: Option<&str>| parse_duration(word.unwrap()).unwrap();
    let percent = |word: &str| {
        word.strip_suffix('%')
            .map(|n| n.parse::<f64>().unwrap() / 100.0)
    };
    let mut last = "";
    while let Some(word) = words.next() {
        let conditions = |line: &mut Line, last: &str, change: &dyn Fn(&mut When)| match last {
            "slows" => change(&mut line.slows.as_mut().unwrap().1),
            _ => change(line.fails.as_mut().unwrap()),
        };
        match word {
            "every" => line.every_us = duration(words.next()),
            "from" => line.from_us = duration(words.next()),
            "pick" => line.pick = percent(words.next().unwrap()),
            "takes" => line.takes_us = duration(words.next()),
            "slows" => {
                last = word;
                let when = When {
                    share: 1.0,
                    ..When::default()
                };
                line.slows = Some((duration(words.next()), when));
            }
            "fails" => {
                last = word;
                let amount = words.next().unwrap();
                line.fails = Some(When {
                    share: percent(amount).unwrap_or(1.0),
                    first: amount.parse().ok(),
                    ..When::default()
                });
            }
            "share" => {
                let share = percent(words.next().unwrap()).unwrap();
                conditions(&mut line, last, &|when| when.share = share);
            }
            "after" => {
                let after_us = duration(words.next());
                conditions(&mut line, last, &|when| when.after_us = after_us);
            }
            "until" => {
                let until_us = duration(words.next());
                conditions(&mut line, last, &|when| when.until_us = Some(until_us));
            }
            "on" => {
                let on = words.next().unwrap().to_owned();
                conditions(&mut line, last, &|when| when.on.clone_from(&on));
            }
            "by" => line.by = words.next().unwrap().to_owned(),
            "instances" => line.instances = words.next().unwrap().parse().unwrap(),
            "versions" => {
                line.versions = words
                    .next()
                    .unwrap()
                    .split(',')
                    .map(str::to_owned)
                    .collect();
            }
            "outside" => line.outside = true,
            "ignored" => line.ignored = true,
            "retried" => line.retried = true,
            "traced" => line.traced = true,
            "tag" => {
                let (name, value) = words.next().unwrap().split_once('=').unwrap();
                line.tag = Some((name.to_owned(), value.to_owned()));
            }
            other => panic!("`{other}` in `{text}`"),
        }
    }
    line
}

struct World {
    lines: Vec<Line>,
    /// Calls made so far per line, and per callee.
    made: FastMap<(bool, usize), u64>,
    records: Vec<RequestRecord>,
    next: u32,
}

/// What the caller gets.
struct Answer {
    end_us: i64,
    failed: bool,
    /// There is none.
    hangs: bool,
}

impl World {
    fn call(&mut self, index: usize, caller: &str, at_us: i64, trace: u128) -> Answer {
        let n = {
            let made = self.made.entry((false, index)).or_default();
            *made += 1;
            *made - 1
        };
        let line = self.lines[index].clone();
        let answer = self.attempt(&line, index, n, caller, at_us, trace, false);
        if answer.failed && line.retried {
            return self.attempt(&line, index, n, caller, answer.end_us, trace, true);
        }
        Answer {
            failed: answer.failed && !line.ignored,
            ..answer
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one place, in tests")]
    fn attempt(
        &mut self,
        line: &Line,
        index: usize,
        n: u64,
        caller: &str,
        at_us: i64,
        trace: u128,
        again: bool,
    ) -> Answer {
        // Instances take turns per callee, whatever the route.
        let callee = self
            .lines
            .iter()
            .position(|l| l.callee == line.callee)
            .unwrap();
        let turn = self.made.entry((true, callee)).or_default();
        *turn += 1;
        let replica = (*turn - 1) % line.instances;
        let instance = format!("{}-{replica}", line.callee);
        if again {
            self.next -= 1;
        }
        let id = RequestId {
            start_us: if again {
                self.records.last().unwrap().id.start_us
            } else {
                at_us
            },
            boot: BootId(7),
            n: self.next,
        };
        self.next += 1;
        let trace = if line.traced && trace == 0 {
            u128::from(self.next)
        } else {
            trace
        };
        let holds = |when: &When, salt: u64| {
            let now = at_us - began_us();
            (when.on.is_empty() || when.on == instance)
                && now >= when.after_us
                && when.until_us.is_none_or(|until| now < until)
                && when.first.is_none_or(|first| n < first)
                && chance(index as u64 + salt, n) < when.share
        };
        let own_failure = !again && line.fails.as_ref().is_some_and(|when| holds(when, 100));
        let mut takes_us = line.takes_us;
        if let Some((more_us, when)) = &line.slows {
            takes_us += if holds(when, 200) { *more_us } else { 0 };
        }
        let mut hangs = own_failure && line.by == "hang";
        let reaches = !(own_failure && ["reset", "refused", "no_endpoints"].contains(&&*line.by));

        let inbound_at = at_us + WIRE_US;
        let mut now = inbound_at + takes_us / 2;
        let mut failed = false;
        let mut tags = Attributes::default();
        let picked = chance(index as u64 + 300, n);
        let mut bound = 0.0;
        for &child in &line.children {
            if let Some(share) = self.lines[child].pick {
                let chosen = bound <= picked && picked < bound + share;
                bound += share;
                if !chosen {
                    continue;
                }
            }
            if let Some((name, value)) = &self.lines[child].tag {
                tags.push(name, value);
            }
            if reaches && !hangs {
                let answer = self.call(child, &instance, now, trace);
                now = answer.end_us;
                failed |= answer.failed;
                hangs |= answer.hangs;
            }
            if failed || hangs {
                break;
            }
        }
        let end_us = now + takes_us - takes_us / 2;
        let inbound_us = end_us - inbound_at;

        let mut inbound = RequestRecord::new(id, Side::Inbound, inbound_at);
        inbound.src.namespace = "emojivoto".into();
        inbound.src.instance = caller.into();
        inbound.src.workload = caller.rsplit_once('-').map_or("", |(name, _)| name).into();
        inbound.dst.namespace = "emojivoto".into();
        inbound.dst.workload = line.callee.as_str().into();
        inbound.dst.instance = instance.as_str().into();
        if !line.versions.is_empty() {
            let version = usize::try_from(replica).unwrap() % line.versions.len();
            inbound.dst.version = line.versions[version].as_str().into();
        }
        inbound.service = line.callee.as_str().into();
        inbound.twin = if caller.is_empty() {
            Twin::No
        } else {
            Twin::Yes
        };
        if caller.is_empty() {
            inbound.src.namespace = "".into();
        }
        let http = line.route.contains(' ');
        inbound.protocol = if http {
            Protocol::Http1
        } else {
            Protocol::Grpc
        };
        inbound.method = if http {
            line.route.split(' ').next().unwrap()
        } else {
            "POST"
        }
        .into();
        inbound.route = numbered(&line.route, index, n).into();
        inbound.path = inbound.route.split(' ').next_back().unwrap().into();
        inbound.attributes = tags.0.into();
        inbound.status = 200;
        inbound.grpc_status = (!http).then_some(0);
        inbound.outcome = Outcome::Success;
        inbound.trace.trace_id = trace;
        let mut outbound = inbound.clone();
        outbound.side = Side::Outbound;
        outbound.start_at_us = at_us;
        let fail = |record: &mut RequestRecord, cause, origin| {
            record.outcome = Outcome::Failure;
            record.cause = cause;
            record.origin = origin;
            if origin == Origin::Server {
                if http {
                    record.status = 500;
                } else {
                    record.grpc_status = Some(2);
                }
            } else {
                record.status = 0;
                record.grpc_status = None;
            }
        };
        let app = if http {
            Cause::AppHttp5xx
        } else {
            Cause::AppGrpcStatus
        };
        if failed {
            fail(&mut inbound, app, Origin::Server);
            fail(&mut outbound, app, Origin::Server);
        } else if own_failure && !hangs {
            match line.by.as_str() {
                "app" => {
                    fail(&mut inbound, app, Origin::Server);
                    fail(&mut outbound, app, Origin::Server);
                }
                "reset" => {
                    outbound.twin = Twin::Unknown;
                    fail(&mut outbound, Cause::Reset, Origin::Network);
                }
                "refused" => {
                    outbound.twin = Twin::No;
                    fail(&mut outbound, Cause::ConnectRefused, Origin::Network);
                }
                "no_endpoints" => {
                    outbound.twin = Twin::No;
                    outbound.dst.workload = "".into();
                    outbound.dst.instance = "".into();
                    outbound.dst.version = "".into();
                    fail(&mut outbound, Cause::NoEndpoints, Origin::ClientProxy);
                }
                "timeout" => {
                    fail(&mut outbound, Cause::RequestTimeout, Origin::ClientProxy);
                    fail(&mut inbound, Cause::ClientCancelled, Origin::Client);
                }
                "cancel" => {
                    fail(&mut outbound, Cause::ClientCancelled, Origin::Client);
                    fail(&mut inbound, Cause::ClientCancelled, Origin::Client);
                }
                "404" => {
                    for record in [&mut inbound, &mut outbound] {
                        record.status = 404;
                        record.client_error = true;
                    }
                }
                other => panic!("fails by `{other}`"),
            }
        }
        let answer = Answer {
            end_us: end_us + WIRE_US,
            failed: outbound.outcome == Outcome::Failure,
            hangs,
        };
        let time = |record: &mut RequestRecord, duration_us: i64| {
            record.duration_us = duration_us;
            record.latency_us = duration_us;
            record.at_us = record.start_at_us + duration_us;
        };
        time(&mut inbound, inbound_us);
        time(&mut outbound, inbound_us + 2 * WIRE_US);
        if hangs {
            for record in [&mut inbound, &mut outbound] {
                record.kind = Kind::Open;
                record.outcome = Outcome::Pending;
                record.status = 0;
                record.grpc_status = None;
                time(record, 1_000_000);
            }
        }
        if again {
            outbound.attempts = 2;
        }
        if line.outside {
            outbound.twin = Twin::No;
            outbound.dst.workload = "".into();
            outbound.dst.instance = "".into();
        }
        if !caller.is_empty() {
            if line.retried && own_failure {
                outbound.kind = Kind::Attempt;
            }
            self.records.push(outbound);
        }
        if !line.outside && reaches {
            self.records.push(inbound);
        }
        answer
    }
}

/// A number between 0 and 1 that looks drawn.
fn chance(line: u64, n: u64) -> f64 {
    // The finalizer of splitmix64.
    let mut x = (line << 32 | n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    f64::from(u32::try_from(x >> 32).unwrap()) / f64::from(u32::MAX)
}

/// Replaces `{50}` by a number below 50.
fn numbered(route: &str, index: usize, n: u64) -> String {
    let Some((before, rest)) = route.split_once('{') else {
        return route.to_owned();
    };
    let (bound, after) = rest.split_once('}').unwrap();
    let bound: f64 = bound.parse().unwrap();
    let number = (chance(index as u64 + 400, n) * bound * 0.999_999).floor();
    format!("{before}{number}{after}")
}
