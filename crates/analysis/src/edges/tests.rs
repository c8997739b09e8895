use expect_test::expect;

use super::*;
use crate::traffic::{ten_minutes, traffic};

#[test]
fn each_pair_of_workloads_is_an_edge() {
    let rows = traffic(
        "
        20 x bot -> web GET /vote
          web -> voting Voting/Vote fails 5
          web -> bank.example POST /transfer outside
        10 x - -> web GET /vote from 77ms
        4 x bot -> gone GET /x from 5s fails 4 by no_endpoints
        ",
    );
    let found: String = edges(&rows, ten_minutes())
        .iter()
        .map(|row| {
            format!(
                "`{}` -> {} {} failed {} secured {} p50 {:?} network {:?}\n",
                row.src,
                row.dst,
                row.requests,
                row.failed,
                row.secured,
                row.latency.p50_us,
                row.network_p50_us
            )
        })
        .collect();
    expect![[r#"
        `` -> web 10 failed 0 secured false p50 Some(1000) network None
        `bot` -> gone 4 failed 4 secured false p50 Some(1200) network None
        `bot` -> web 20 failed 5 secured false p50 Some(3600) network Some(200)
        `web` -> bank.example 15 failed 0 secured false p50 Some(1200) network None
        `web` -> voting 20 failed 5 secured false p50 Some(1200) network Some(200)
    "#]]
    .assert_eq(&found);
}

#[test]
fn an_edge_is_secured_when_every_call_was() {
    let mut rows = traffic("3 x bot -> web GET /a");
    for row in 0..rows.len() {
        rows.tls[row] = TlsState::Mutual;
        let identity = match rows.side[row] {
            Side::Inbound => "bot.example",
            Side::Outbound => "web.example",
        };
        rows.peer_identity[row] = rows.strings.intern(identity);
    }
    let secured = |rows: &Rows| {
        let edge = edges(rows, ten_minutes()).remove(0);
        (edge.secured, edge.client_id, edge.server_id)
    };
    let (client, server) = ("bot.example".to_owned(), "web.example".to_owned());
    assert_eq!(secured(&rows), (true, client.clone(), server.clone()));
    rows.tls[3] = TlsState::Disabled;
    assert_eq!(secured(&rows), (false, client, server));
}
