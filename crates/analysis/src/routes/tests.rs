use expect_test::expect;

use super::*;
use crate::traffic::{ten_minutes, traffic};

#[test]
fn failing_routes_come_first_then_those_that_take_most_time() {
    let rows = traffic(
        "
        20 x bot -> web GET /list takes 1ms
        20 x bot -> web GET /heavy from 50ms takes 30ms
        20 x bot -> web GET /vote from 90ms
          web -> voting Voting/Vote fails 12
        30 x bot -> web GET /down from 7ms fails 3 by refused
        ",
    );
    let found: String = routes(&rows, ten_minutes())
        .iter()
        .map(|row| {
            format!(
                "{} {} ({}) {} failed {} {} p50 {:?} total {}\n",
                row.workload,
                row.route,
                row.service,
                row.requests,
                row.failed,
                row.cause,
                row.latency.p50_us,
                row.total_us
            )
        })
        .collect();
    expect![[r#"
        web GET /vote (web) 20 failed 12 app_http_5xx p50 Some(2200) total 44000
        voting Voting/Vote (voting) 20 failed 12 app_grpc_status p50 Some(1000) total 20000
        web GET /down (web) 30 failed 3 connect_refused p50 Some(1000) total 30600
        web GET /heavy (web) 20 failed 0 none p50 Some(30000) total 600000
        web GET /list (web) 20 failed 0 none p50 Some(1000) total 20000
    "#]]
    .assert_eq(&found);
}
