use std::time::Duration;

use whodunit_model::Filter;
use whodunit_model::filter::Field;

use super::*;
use crate::Cursor;

#[test]
fn a_follower_sees_each_row_once_in_the_order_of_arrival() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 10, NOW)).unwrap();
    let mut cursor = store.cursor_now();
    assert!(!store.wait_ingested(cursor, Duration::from_millis(1)));
    append(&store, 2, &batch(50, 10, NOW)).unwrap();
    append(&store, 3, &batch(20, 10, NOW)).unwrap();
    assert!(store.wait_ingested(cursor, Duration::ZERO));
    let voting = Filter::text(Field::To, "voting");
    let mut seen = Vec::new();
    loop {
        let followed = store.follow(cursor, &voting, 2).unwrap();
        assert_eq!(followed.lost, 0);
        seen.extend(followed.rows.id.iter().map(|id| id.n));
        assert_eq!(followed.cursors.len(), followed.rows.len());
        let text = followed.cursor.to_string();
        cursor = text.parse::<Cursor>().unwrap();
        if !followed.more {
            break;
        }
    }
    assert_eq!(seen, [51, 54, 57, 21, 24, 27]);
    store.flush().unwrap();
    append(&store, 4, &batch(90, 1, NOW)).unwrap();
    let followed = store.follow(cursor, &Filter::All, 100).unwrap();
    assert_eq!(followed.rows.id[0].n, 90);
    assert_eq!(followed.rows.len(), 1);
}

#[test]
fn a_follower_in_another_thread_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    let cursor = store.cursor_now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.wait_ingested(cursor, Duration::from_secs(30)));
        append(&store, 1, &batch(0, 1, NOW)).unwrap();
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn a_follower_that_is_too_slow_is_told_how_much_it_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Options {
        follow_rows: 10_000,
        ..quiet(dir.path())
    })
    .unwrap();
    let cursor = store.cursor_now();
    for sequence in 0..5u32 {
        let rows = batch(sequence * 5_000, 5_000, NOW);
        append(&store, u64::from(sequence) + 1, &rows).unwrap();
    }
    let followed = store.follow(cursor, &Filter::All, 100_000).unwrap();
    assert_eq!(followed.lost, 15_000);
    assert_eq!(followed.rows.len(), 10_000);
    assert_eq!(followed.cursor, store.cursor_now());
}

#[test]
fn a_cursor_of_an_earlier_run_stands_for_the_start_of_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(quiet(dir.path())).unwrap();
    append(&store, 1, &batch(0, 10, NOW)).unwrap();
    let cursor = store.cursor_now();
    let store = reopen(store);
    append(&store, 2, &batch(10, 5, NOW)).unwrap();
    let followed = store.follow(cursor, &Filter::All, 100).unwrap();
    assert_eq!(followed.rows.len(), 5);
    assert_eq!(followed.lost, 0);
    for junk in ["", "x", "1-", "-1", "zz-1"] {
        assert!(junk.parse::<Cursor>().is_err(), "{junk}");
    }
}
