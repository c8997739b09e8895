use expect_test::expect;

use super::*;
use crate::traffic::{records, ten_minutes, traffic};

fn shown(rows: &Rows, grouping: Grouping) -> String {
    top(rows, ten_minutes(), grouping)
        .iter()
        .map(|row| {
            format!(
                "`{}` -> {} {} {} {} best {} worst {} last {} success {}\n",
                row.source,
                row.destination,
                row.method,
                row.path,
                row.count,
                row.best_us,
                row.worst_us,
                row.last_us,
                row.success
            )
        })
        .collect()
}

#[test]
fn the_busiest_come_first_and_queries_do_not_matter() {
    let mut made = records(
        "
        10 x bot -> web GET /vote takes 2ms slows 5ms after 1s
          web -> voting Voting/Vote fails 5
        30 x - -> web GET /users/7 from 33ms
        ",
    );
    for (n, record) in made.iter_mut().enumerate() {
        if &*record.path == "/vote" {
            record.path = format!("/vote?n={n}").into();
        }
        if &*record.path == "/users/7" {
            record.route = "GET /users/{}".into();
        }
    }
    let rows: Rows = made.into_iter().collect();
    expect![[r#"
        `` -> web GET /users/7 30 best 1000 worst 1000 last 1000 success 1
        `bot` -> web GET /vote 10 best 3200 worst 8200 last 8200 success 0.5
        `web` -> voting POST Voting/Vote 10 best 1000 worst 1000 last 1000 success 0.5
    "#]]
    .assert_eq(&shown(&rows, Grouping::Path));
    expect![[r#"
        `` -> web GET GET /users/{} 30 best 1000 worst 1000 last 1000 success 1
        `bot` -> web GET GET /vote 10 best 3200 worst 8200 last 8200 success 0.5
        `web` -> voting POST Voting/Vote 10 best 1000 worst 1000 last 1000 success 0.5
    "#]]
    .assert_eq(&shown(&rows, Grouping::Route));
}

#[test]
fn the_answer_is_bounded() {
    let rows = traffic("3000 x - -> web GET /page/{900} every 1ms");
    assert_eq!(top(&rows, ten_minutes(), Grouping::Path).len(), ROWS_MAX);
}
