//! Software that none of us wrote: nginx in front of httpbin.

use std::path::PathBuf;
use std::time::Duration;

use whodunit_e2e::mesh::{Directory, Mesh};
use whodunit_e2e::{http, until};

use crate::support::{alone, stat_row, verdict_when};

/// Says what is missing; none if the example can run.
fn missing() -> Option<String> {
    let mut missing = Vec::new();
    for program in ["nginx", "gunicorn"] {
        if find(program).is_none() {
            missing.push(program);
        }
    }
    (!missing.is_empty()).then(|| missing.join(", "))
}

fn find(program: &str) -> Option<PathBuf> {
    let venv = std::env::var_os("WHODUNIT_TEST_VENV").map(|venv| PathBuf::from(venv).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    let places = venv
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(sbin);
    places
        .map(|place| place.join(program))
        .find(|file| file.is_file())
}

#[test]
fn nginx_and_httpbin_are_seen_through() {
    if let Some(missing) = missing() {
        // `cargo xtask test` installs these; without them there is nothing to run.
        assert!(std::env::var_os("CI").is_none(), "not installed: {missing}");
        println!("skipped: install {missing}, or run `cargo xtask test`");
        return;
    }
    let _alone = alone();
    let directory = Directory::new();
    let data = directory.data();
    let file = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/httpbin/mesh.toml"
    ));
    let args = [
        "run".into(),
        "-f".into(),
        file.into_os_string(),
        "--data".into(),
        data.into_os_string(),
    ];
    let mesh = Mesh::start(directory, args);
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
