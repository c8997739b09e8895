//! Software that none of us wrote: nginx in front of httpbin.

use std::time::Duration;

use whodunit_e2e::{http, until};

use crate::support::{alone, example, installed, stat_row, verdict_when};

#[test]
fn nginx_and_httpbin_are_seen_through() {
    if !installed(&["nginx", "gunicorn"]) {
        return;
    }
    let _alone = alone();
    let mesh = example("httpbin", &[]);
    let app = mesh.address("app");
    for _ in 0..30 {
        assert_eq!(http::get(app, "/get").unwrap().status, 200);
        assert_eq!(http::get(app, "/status/500").unwrap().status, 500);
    }
    let slow = http::get(app, "/delay/3").unwrap();
    assert_eq!(slow.status, 200);

    until(
        "every request to be recorded",
        Duration::from_secs(20),
        || {
            let row = stat_row(&mesh, "workload", "httpbin", "10m");
            (row["requests"].as_u64()? >= 61).then_some(())
        },
    );
    let nginx = stat_row(&mesh, "workload", "nginx", "10m");
    assert_eq!(nginx["failed"], 30, "{nginx}");
    let httpbin = stat_row(&mesh, "workload", "httpbin", "10m");
    assert_eq!(httpbin["failed"], 30, "{httpbin}");
    assert!(
        httpbin["latency_ms_p99"].as_f64().unwrap() >= 3_000.0,
        "{httpbin}"
    );

    let tap = mesh.json(&[
        "tap",
        "deploy/httpbin",
        "--since",
        "10m",
        "--min-latency",
        "2s",
    ]);
    let records = tap["records"].as_array().unwrap();
    assert!(!records.is_empty(), "{tap:#}");
    assert!(
        records
            .iter()
            .all(|record| record["path"].as_str().unwrap().starts_with("/delay/"))
    );
    // The request was open for more than a second, and that was visible.
    let open = mesh.json(&["tap", "deploy/httpbin", "--since", "10m", "--open"]);
    assert!(!open["records"].as_array().unwrap().is_empty(), "{open:#}");

    let verdict = verdict_when(&mesh, "httpbin", |verdict| verdict["verdict"] == "culprit");
    assert_eq!(verdict["culprit"]["workload"], "httpbin", "{verdict:#}");
    assert_eq!(verdict["culprit"]["route"], "GET /status/{}", "{verdict:#}");
    assert_eq!(verdict["symptom"]["service"], "nginx", "{verdict:#}");
    mesh.stop();
}
