//! Promises that hold for any rows: no panic, and no influence of their order.

use proptest::prelude::*;
use whodunit_model::{
    BootId, Cause, Kind, Origin, Outcome, Protocol, RequestId, RequestRecord, Rows, Side, Twin,
};

use crate::culprit::{Level, Options, culprit};
use crate::traffic::{records, ten_minutes};
use crate::window::Window;
use crate::{calltree, edges, routes, stat, top};

fn one_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(all)
}

/// Times as clocks give them, and as no clock should.
fn time() -> impl Strategy<Value = i64> {
    prop_oneof![
        10 => 0i64..2_000_000,
        1 => any::<i64>(),
        1 => one_of(&[i64::MIN, i64::MAX, -1, 0]),
    ]
}

const NAMES: &[&str] = &["", "a", "b", "c"];
const ROUTES: &[&str] = &["", "GET /x", "S/M", "it's"];

/// A record that a proxy might write, or never should.
fn any_record() -> impl Strategy<Value = RequestRecord> {
    let numbers = (0u32..40, time(), time(), time(), time());
    let words = (
        one_of(Kind::ALL),
        one_of(Side::ALL),
        one_of(Twin::ALL),
        one_of(Outcome::ALL),
        one_of(Cause::ALL),
        one_of(Origin::ALL),
        one_of(Protocol::ALL),
    );
    let names = (
        one_of(NAMES),
        one_of(NAMES),
        one_of(NAMES),
        one_of(NAMES),
        one_of(NAMES),
        one_of(ROUTES),
        one_of(&["", "choice=a", "choice=b&choice=c", "%%%&=", "x"]),
    );
    let rest = (
        any::<bool>(),
        any::<u16>(),
        any::<Option<u8>>(),
        0u128..4,
        any::<u64>(),
    );
    (numbers, words, names, rest).prop_map(|(numbers, words, names, rest)| {
        let (n, start, at, latency, duration) = numbers;
        let id = RequestId {
            start_us: i64::from(n),
            boot: BootId(1),
            n,
        };
        let mut record = RequestRecord::new(id, words.1, start);
        (record.at_us, record.latency_us, record.duration_us) = (at, latency, duration);
        (record.kind, record.twin, record.outcome) = (words.0, words.2, words.3);
        (record.cause, record.origin, record.protocol) = (words.4, words.5, words.6);
        record.src.workload = names.0.into();
        record.src.instance = names.1.into();
        record.dst.workload = names.2.into();
        record.dst.instance = names.3.into();
        record.service = names.4.into();
        record.route = names.5.into();
        record.attributes = names.6.into();
        record.probe = rest.0 && n % 7 == 0;
        (record.status, record.grpc_status) = (rest.1, rest.2);
        record.trace.trace_id = rest.3;
        (record.request_bytes, record.response_bytes) = (rest.4, rest.4);
        record
    })
}

/// Some real traffic with trouble of several kinds, to be shuffled.
const TROUBLED: &str = "
150 x bot -> web GET /vote every 20ms
  web -> emoji Emoji/Find takes 8ms
  web -> voting Voting/VotePoop pick 20% fails 100% tag choice=:poop: instances 2
  web -> voting Voting/Vote{9} pick 80% fails 10% after 1s tag choice=:any: takes 9ms
  web -> ads Ads/Show fails 30% ignored
60 x - -> shop GET /buy every 40ms
  shop -> pay Pay/Charge slows 90ms after 1s
    pay -> bank.example POST /transfer outside fails 20% by reset
  shop -> cart Cart/Get fails 30% retried
";

/// Everything the crate answers, as text.
fn all_answers(rows: &Rows, window: Window) -> String {
    let mut text = format!("{:#?}\n", culprit(rows, window, &Options::default()));
    for by in ["workload", "instance", "service", "namespace", "route"] {
        let by = stat::By::from_name(by).unwrap();
        text += &format!("{:#?}\n", stat::stat(rows, window, by));
    }
    text += &format!("{:#?}\n", routes::routes(rows, window));
    text += &format!("{:#?}\n", edges::edges(rows, window));
    text += &format!("{:#?}\n", top::top(rows, window, top::Grouping::Path));
    if let Some(id) = rows.id.iter().min() {
        let tree = calltree::tree(rows, *id);
        for hop in &tree.hops {
            text += &format!(
                "{} {:?} {:?} {} {}\n",
                hop.id, hop.parent, hop.linked_by, hop.offset_us, hop.self_us
            );
        }
        text += &tree.says;
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_rows_panic(records in prop::collection::vec(any_record(), 0..120), from in time(), until in time()) {
        let rows: Rows = records.into_iter().collect();
        let window = Window { from_us: from, until_us: until };
        let _ = all_answers(&rows, window);
        let answers = all_answers(&rows, Window::ALL);
        prop_assert!(!answers.is_empty());
    }

    #[test]
    fn no_order_matters(
        (mut records, seed) in (prop::collection::vec(any_record(), 0..60), any::<u64>())
    ) {
        let rows: Rows = records.clone().into_iter().collect();
        shuffle(&mut records, seed);
        let shuffled: Rows = records.into_iter().collect();
        prop_assert_eq!(all_answers(&rows, Window::ALL), all_answers(&shuffled, Window::ALL));
    }
}

fn shuffle(records: &mut [RequestRecord], mut seed: u64) {
    for last in (1..records.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let other = usize::try_from((seed >> 33) % (last as u64 + 1)).unwrap();
        records.swap(last, other);
    }
}

#[test]
fn the_order_of_rows_does_not_matter() {
    let mut records = records(TROUBLED);
    let answer = |records: &[RequestRecord]| {
        let rows: Rows = records.iter().cloned().collect();
        all_answers(&rows, ten_minutes())
    };
    let expected = answer(&records);
    for seed in 0..10 {
        shuffle(&mut records, seed);
        assert_eq!(answer(&records), expected);
    }
}

/// The talk's traffic without its fault, drawn in 50 ways: nobody is accused.
#[test]
fn fifty_quiet_runs_accuse_nobody() {
    for run in 0..50 {
        let takes = 1 + run % 7;
        let text = format!(
            "
            {} x vote-bot -> web GET /api/vote every {}ms takes {takes}ms
              web -> emoji Emoji/Find takes 2ms slows 15ms share 10%
              web -> voting Voting/Vote{{100}} takes {takes}ms slows 12ms after 5s share 5%
            ",
            100 + run * 7,
            20 + run
        );
        let verdict = culprit(
            &crate::traffic::traffic(&text),
            ten_minutes(),
            &Options::default(),
        );
        assert_eq!(verdict.level, Level::Nothing, "{text}{}", verdict.says);
    }
}

/// The talk's traffic with VotePoop failing, cut off soon after the 20th failure.
#[test]
fn fifty_runs_name_vote_poop() {
    for run in 0..50 {
        let text = format!(
            "
            {} x vote-bot -> web GET /api/vote every {}ms
              web -> emoji Emoji/Find takes 2ms
              web -> voting Voting/VotePoop pick 20% fails 100% takes {}ms tag choice=:poop:
              web -> voting Voting/Vote{{100}} pick 80% takes 2ms tag choice=:any:
            ",
            100 + run * 3,
            1 + run,
            1 + run % 9,
        );
        let verdict = culprit(
            &crate::traffic::traffic(&text),
            ten_minutes(),
            &Options::default(),
        );
        assert_eq!(verdict.level, Level::Culprit, "{text}{}", verdict.says);
        let named = verdict.culprit.unwrap();
        assert_eq!(
            (named.workload.as_str(), named.route.as_str()),
            ("voting", "Voting/VotePoop")
        );
    }
}

/// A hundred thousand rows with trouble: bounded work, also without optimization.
#[test]
fn many_rows_are_judged_quickly() {
    let text = TROUBLED
        .replace("150 x", "12000 x")
        .replace("60 x", "4000 x");
    let rows: Rows = records(&text).into_iter().collect();
    assert!(rows.len() > 90_000, "{} rows", rows.len());
    let window = Window::ALL;
    let began = std::time::Instant::now();
    let verdict = culprit(&rows, window, &Options::default());
    let took = began.elapsed();
    assert_eq!(verdict.level, Level::Culprit);
    // Measured on two busy cores: 40 ms optimized, about a second without.
    assert!(took.as_secs() < 20, "{} rows took {took:?}", rows.len());
}
