use expect_test::{Expect, expect};
use whodunit_model::{RequestId, RequestRecord, Rows, Side};

use super::*;

/// One line per kind of request: `COUNT good|bad name=value …`.
#[track_caller]
fn check(requests: &str, expected: Expect) {
    let mut rows = Rows::default();
    let mut compared = Vec::new();
    for line in requests.trim().lines() {
        let mut words = line.split_whitespace();
        let count: usize = words.next().unwrap().parse().unwrap();
        let bad = words.next().unwrap() == "bad";
        let record = record(words.map(|word| word.split_once('=').unwrap()));
        for _ in 0..count {
            compared.push(Compared {
                row: rows.len(),
                other: None,
                bad,
            });
            rows.push(&record);
        }
    }
    let found: String = attributes(&rows, &compared)
        .iter()
        .map(|set| {
            let terms: Vec<String> = set
                .terms
                .iter()
                .map(|term| format!("{}={}", term.name, term.value))
                .collect();
            let terms = terms.join(" and ");
            format!("{terms}: covers {:.2}, lift {:.2}\n", set.covered, set.lift)
        })
        .collect();
    expected.assert_eq(&found);
}

fn record<'a>(terms: impl Iterator<Item = (&'a str, &'a str)>) -> RequestRecord {
    let mut record = RequestRecord::new(RequestId::default(), Side::Inbound, 0);
    let mut captured = Attributes::default();
    for (name, value) in terms {
        match name {
            "route" => record.route = value.into(),
            "method" => record.method = value.into(),
            "instance" => record.dst.instance = value.into(),
            "version" => record.dst.version = value.into(),
            "caller" => record.src.workload = value.into(),
            _ => captured.push(name, value),
        }
    }
    record.attributes = captured.0.into();
    record
}

#[test]
fn the_choice_that_fails_is_found() {
    check(
        "
        40 bad choice=:poop: method=GET instance=web-0 version=v1
        30 good choice=:doughnut: method=GET instance=web-0 version=v1
        130 good choice=:joy: method=GET instance=web-0 version=v1
        ",
        expect![[r#"
            choice=:poop:: covers 1.00, lift 5.00
        "#]],
    );
}

#[test]
fn values_that_select_the_same_requests_are_one_set() {
    check(
        "
        20 bad instance=a-1 version=v2
        20 good instance=a-1 version=v2
        80 good instance=a-0 version=v1
        ",
        expect![[r#"
            instance=a-1 and version=v2: covers 1.00, lift 3.00
        "#]],
    );
}

#[test]
fn a_pair_is_named_when_neither_value_alone_explains_it() {
    check(
        "
        50 bad region=eu plan=free
        50 good region=eu plan=paid
        50 good region=us plan=free
        50 good region=us plan=paid
        ",
        expect![[r#"
            plan=free and region=eu: covers 1.00, lift 4.00
        "#]],
    );
}

#[test]
fn two_causes_give_two_sets() {
    check(
        "
        30 bad choice=a
        20 bad choice=b
        150 good choice=c
        ",
        expect![[r#"
            choice=a: covers 0.60, lift 4.00
            choice=b: covers 0.40, lift 4.00
        "#]],
    );
}

#[test]
fn nothing_is_named_when_failures_are_everywhere_alike() {
    check(
        "
        10 bad choice=a
        90 good choice=a
        11 bad choice=b
        89 good choice=b
        ",
        expect![""],
    );
    check("10 bad choice=a", expect![""]);
    check("2 bad choice=a\n10 good choice=b", expect![""]);
}

/// A small generator of numbers: the same sequence on each run.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

#[test]
fn planted_faults_are_found() {
    let mut found = 0;
    for fault in 0..60 {
        found += u32::from(planted_fault_is_found(fault));
    }
    assert!(found >= 59, "{found} of 60 planted faults were found");
}

/// 4,000 requests with six attributes, some of which follow others; one value or
/// a pair of values fails at 10 to 100 %, the rest at up to 1 %.
fn planted_fault_is_found(seed: u64) -> bool {
    let mut random = Sequence(seed * 7_919 + 17);
    let sizes = [3, 5, 12, 40, 4, 20];
    let pair = random.below(100) < 35;
    let first = random.below(6) as usize;
    let second = (first + 1 + random.below(5) as usize) % 6;
    // Common values, so that the cell has enough requests to tell.
    let (first_value, second_value) = (random.below(3), random.below(3));
    let rate = 10 + random.below(91);
    let background = random.below(11);
    let mut rows = Rows::default();
    let mut compared = Vec::new();
    for _ in 0..4_000 {
        let mut values = [0; 6];
        for (value, size) in values.iter_mut().zip(sizes) {
            // Low values are frequent.
            *value = random.below(size).min(random.below(size));
        }
        if random.below(10) < 7 {
            values[4] = values[0];
        }
        let hit = values[first] == first_value && (!pair || values[second] == second_value);
        let bad = if hit {
            random.below(100) < rate
        } else {
            random.below(1_000) < background
        };
        let mut captured = Attributes::default();
        for (index, value) in values.iter().enumerate() {
            captured.push(&format!("d{index}"), &format!("v{value}"));
        }
        let mut record = RequestRecord::new(RequestId::default(), Side::Inbound, 0);
        record.attributes = captured.0.into();
        compared.push(Compared {
            row: rows.len(),
            other: None,
            bad,
        });
        rows.push(&record);
    }
    let mut expected = vec![(first, first_value)];
    if pair {
        expected.push((second, second_value));
    }
    let mut expected: Vec<Term> = expected
        .into_iter()
        .map(|(index, value)| Term {
            name: format!("d{index}"),
            value: format!("v{value}"),
        })
        .collect();
    expected.sort();
    attributes(&rows, &compared)
        .first()
        .is_some_and(|set| set.terms == expected)
}
