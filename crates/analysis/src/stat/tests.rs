use expect_test::{Expect, expect};
use whodunit_model::RequestRecord;

use super::*;
use crate::traffic::{began_us, records, traffic};

/// The first twenty seconds of some traffic.
fn window() -> Window {
    Window {
        from_us: began_us(),
        until_us: began_us() + 20_000_000,
    }
}

#[track_caller]
fn check(rows: &Rows, by: &str, expected: Expect) {
    let found: String = stat(rows, window(), By::from_name(by).unwrap())
        .iter()
        .map(|row| {
            format!(
                "{}/{}/{} {} failed {} client {} success {:?} rps {} p50 {:?} p99 {:?} open {} meshed {}/{}\n",
                row.namespace,
                row.workload,
                row.name,
                row.requests,
                row.failed,
                row.client_errors,
                row.success,
                row.rps,
                row.latency.p50_us,
                row.latency.p99_us,
                row.open,
                row.instances_meshed,
                row.instances
            )
        })
        .collect();
    expected.assert_eq(&found);
}

const SHOP: &str = "
40 x bot -> web GET /buy every 100ms
  web -> pay Pay/Charge instances 2 fails 10 takes 4ms
  web -> bank.example POST /transfer outside takes 7ms
20 x - -> web GET /nothing from 3s fails 100% by 404
";

#[test]
fn workloads_that_only_call_are_listed_too() {
    check(
        &traffic(SHOP),
        "workload",
        expect![[r#"
        emojivoto/bot/bot 0 failed 0 client 0 success None rps 0 p50 None p99 None open 0 meshed 1/1
        emojivoto/pay/pay 40 failed 10 client 0 success Some(0.75) rps 2 p50 Some(4000) p99 Some(4000) open 0 meshed 2/2
        emojivoto/web/web 60 failed 10 client 20 success Some(0.8333333333333334) rps 3 p50 Some(5200) p99 Some(12400) open 0 meshed 1/1
    "#]],
    );
}

#[test]
fn callees_outside_the_mesh_are_services() {
    check(
        &traffic(SHOP),
        "service",
        expect![[r#"
        emojivoto//bank.example 30 failed 0 client 0 success Some(1.0) rps 1.5 p50 Some(7200) p99 Some(7200) open 0 meshed 0/0
        emojivoto//pay 40 failed 10 client 0 success Some(0.75) rps 2 p50 Some(4000) p99 Some(4000) open 0 meshed 2/2
        emojivoto//web 60 failed 10 client 20 success Some(0.8333333333333334) rps 3 p50 Some(5200) p99 Some(12400) open 0 meshed 1/1
    "#]],
    );
}

#[test]
fn instances_and_routes_and_namespaces_are_told_apart() {
    check(
        &traffic(SHOP),
        "instance",
        expect![[r#"
        emojivoto/bot/bot-0 0 failed 0 client 0 success None rps 0 p50 None p99 None open 0 meshed 1/1
        emojivoto/pay/pay-0 20 failed 5 client 0 success Some(0.75) rps 1 p50 Some(4000) p99 Some(4000) open 0 meshed 1/1
        emojivoto/pay/pay-1 20 failed 5 client 0 success Some(0.75) rps 1 p50 Some(4000) p99 Some(4000) open 0 meshed 1/1
        emojivoto/web/web-0 60 failed 10 client 20 success Some(0.8333333333333334) rps 3 p50 Some(5200) p99 Some(12400) open 0 meshed 1/1
    "#]],
    );
    check(
        &traffic(SHOP),
        "route",
        expect![[r#"
        emojivoto/bank.example/POST /transfer 30 failed 0 client 0 success Some(1.0) rps 1.5 p50 Some(7200) p99 Some(7200) open 0 meshed 0/0
        emojivoto/pay/Pay/Charge 40 failed 10 client 0 success Some(0.75) rps 2 p50 Some(4000) p99 Some(4000) open 0 meshed 2/2
        emojivoto/web/GET /buy 40 failed 10 client 0 success Some(0.75) rps 2 p50 Some(12400) p99 Some(12400) open 0 meshed 1/1
        emojivoto/web/GET /nothing 20 failed 0 client 20 success Some(1.0) rps 1 p50 Some(1000) p99 Some(1000) open 0 meshed 1/1
    "#]],
    );
    check(
        &traffic(SHOP),
        "namespace",
        expect![[r#"
        emojivoto//emojivoto 130 failed 20 client 20 success Some(0.8461538461538461) rps 6.5 p50 Some(5200) p99 Some(12400) open 0 meshed 4/4
    "#]],
    );
}

#[test]
fn the_window_is_half_open() {
    let mut record = records("1 x - -> web GET /a").remove(0);
    let at = |record: &mut RequestRecord, at_us| {
        record.at_us = at_us;
        let rows: Rows = [record.clone()].into_iter().collect();
        stat(&rows, window(), By::Workload).len()
    };
    assert_eq!(at(&mut record, window().from_us - 1), 0);
    assert_eq!(at(&mut record, window().from_us), 1);
    assert_eq!(at(&mut record, window().until_us - 1), 1);
    assert_eq!(at(&mut record, window().until_us), 0);
}

#[test]
fn open_requests_count_until_they_end() {
    let mut made = records("2 x bot -> web GET /slow");
    let observe = |record: &RequestRecord, after_us| {
        let mut open = record.clone();
        open.kind = Kind::Open;
        open.outcome = whodunit_model::Outcome::Pending;
        open.at_us += after_us;
        open
    };
    // The first request is seen open twice on both sides and has not ended; the second has.
    let mut rows: Vec<RequestRecord> = Vec::new();
    for record in &made[..2] {
        rows.push(observe(record, 1_000_000));
        rows.push(observe(record, 10_000_000));
    }
    rows.push(observe(&made[2], 1_000_000));
    rows.extend(made.split_off(2));
    check(
        &rows.into_iter().collect(),
        "workload",
        expect![[r#"
        emojivoto/bot/bot 0 failed 0 client 0 success None rps 0 p50 None p99 None open 0 meshed 1/1
        emojivoto/web/web 1 failed 0 client 0 success Some(1.0) rps 0.05 p50 Some(1000) p99 Some(1000) open 1 meshed 1/1
    "#]],
    );
}

#[test]
fn probes_are_not_counted() {
    let mut made = records("3 x - -> web GET /live");
    for record in &mut made {
        record.probe = true;
    }
    check(&made.into_iter().collect(), "workload", expect![[""]]);
}
