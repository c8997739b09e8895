//! Secrets never leave the proxy.

use std::fs;
use std::path::Path;

use whodunit_e2e::http;

use crate::support::{alone, demo, wait_requests};

const SECRETS: [&str; 7] = [
    "s3cr3tBearerT0ken",
    "s3cr3tSess1onCookie",
    "s3cr3tQueryValue",
    "s3cr3tBareQuery",
    "s3cr3tApiKey",
    "4929173200112233",
    "s3cr3tInTheForm",
];

#[test]
fn seeded_secrets_are_nowhere_on_disk() {
    let _alone = alone();
    let mesh = demo(&[]);
    let app = mesh.address("app");
    let authorization = format!("Bearer {}", SECRETS[0]);
    let cookie = format!("session={}", SECRETS[1]);
    let headers = [
        ("authorization", authorization.as_str()),
        ("cookie", cookie.as_str()),
        ("x-api-key", SECRETS[4]),
        ("x-request-id", SECRETS[0]),
    ];
    let target = format!("/cards/{}?token={}&{}", SECRETS[5], SECRETS[2], SECRETS[3]);
    for _ in 0..5 {
        http::request(app, "GET", &target, &headers, "").unwrap();
        let vote = format!("/api/vote?choice=:joy:&token={}", SECRETS[2]);
        http::request(
            app,
            "POST",
            &vote,
            &headers,
            &format!("password={}", SECRETS[6]),
        )
        .unwrap();
    }
    wait_requests(&mesh, "web", 20);
    let tap = mesh.whodunit([
        "tap",
        "deploy/web",
        "--since",
        "10m",
        "--limit",
        "1000",
        "-o",
        "json",
    ]);
    assert!(tap.stdout.contains("/cards/"), "the requests are recorded");
    for secret in SECRETS {
        assert!(!tap.stdout.contains(secret), "{secret} in tap");
    }
    let directory = mesh.stop();
    let mut looked_at = 0;
    search(directory.path(), &mut looked_at);
    assert!(looked_at >= 10, "only {looked_at} files");
}

fn search(path: &Path, looked_at: &mut usize) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap().flatten() {
            search(&entry.path(), looked_at);
        }
        return;
    }
    // Pipes and sockets hold nothing.
    let Ok(bytes) = fs::read(path) else { return };
    *looked_at += 1;
    for secret in SECRETS {
        let found = bytes
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(!found, "{secret} in {}", path.display());
    }
}
