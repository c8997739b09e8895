//! Bad input gets one clear error that names the thing and the fix.

use std::fs;
use std::time::Duration;

use whodunit_e2e::mesh::Directory;
use whodunit_e2e::{http, until};

use crate::support::{alone, demo, wait_requests};

/// Runs a mesh.toml that cannot work; returns what was said.
#[track_caller]
fn refused(text: &str) -> String {
    let directory = Directory::new();
    let file = directory.path().join("mesh.toml");
    fs::write(&file, text).unwrap();
    let data = directory.data();
    let output = directory.whodunit([
        "run".as_ref(),
        "-f".as_ref(),
        file.as_os_str(),
        "--data".as_ref(),
        data.as_os_str(),
    ]);
    assert!(output.code == 1 || output.code == 2, "{output:?}");
    assert!(!output.stderr.contains("panicked"), "{output:?}");
    directory.wait_empty(Duration::from_secs(10));
    output.stderr
}

#[test]
fn a_broken_mesh_file_names_the_line() {
    let said = refused("namespace = \"x\"\n[service.web\ncommand = \"true\"\n");
    assert!(said.contains("mesh.toml:2"), "{said}");
    let said = refused("[service.web]\ncommand = \"true\"\nprot = 8080\n");
    assert!(
        said.contains("prot") && said.contains("mesh.toml:3"),
        "{said}"
    );
    let said = refused(
        "[service.web]\ncommand = \"sleep 9\"\ncalls = [\"votign\"]\n[service.voting]\ncommand = \"serve {port}\"\nport = 0\n",
    );
    assert!(said.contains("votign") && said.contains("voting"), "{said}");
    let said = refused("[service.web]\ncommand = \"no-such-binary-anywhere\"\n");
    assert!(said.contains("no-such-binary-anywhere"), "{said}");
    let directory = Directory::new();
    let output = directory.whodunit(["run", "-f", "/nonexistent/mesh.toml"]);
    assert!(
        output.stderr.contains("/nonexistent/mesh.toml"),
        "{output:?}"
    );
}

#[test]
fn an_unreadable_data_directory_is_named() {
    let directory = Directory::new();
    let file = directory.path().join("a-file");
    fs::write(&file, "not a directory").unwrap();
    let data = file.join("data");
    let output = directory.whodunit([
        "serve".as_ref(),
        "--listen".as_ref(),
        "127.0.0.1:0".as_ref(),
        "--grpc-listen".as_ref(),
        "127.0.0.1:0".as_ref(),
        "--data".as_ref(),
        data.as_os_str(),
    ]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("a-file"), "{output:?}");
}

#[test]
fn a_public_address_without_authentication_refuses_to_start() {
    let directory = Directory::new();
    let data = directory.data();
    let output = directory.whodunit([
        "serve".as_ref(),
        "--data".as_ref(),
        data.as_os_str(),
        "--listen".as_ref(),
        "0.0.0.0:0".as_ref(),
    ]);
    assert_ne!(output.code, 0, "{output:?}");
    assert!(output.stderr.contains("0.0.0.0"), "{output:?}");
}

#[test]
fn no_server_and_bad_usage_have_their_exit_codes() {
    let directory = Directory::new();
    let output = directory.whodunit(["stat", "deploy", "--addr", "127.0.0.1:1"]);
    assert_eq!(output.code, 4, "{output:?}");
    assert!(
        output.stderr.contains("whodunit demo"),
        "says what to do: {output:?}"
    );
    assert_eq!(directory.whodunit(["stat", "--no-such-flag"]).code, 2);
}

#[test]
fn junk_on_every_port_harms_nothing() {
    let _alone = alone();
    let mesh = demo(&[]);
    wait_requests(&mesh, "web", 10);
    let mut ports = Vec::new();
    for entry in fs::read_dir(mesh.directory().data().join("run"))
        .unwrap()
        .flatten()
    {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let listens = text
            .lines()
            .filter(|line| line.trim_start().starts_with("listen"));
        ports.extend(
            listens.filter_map(|line| line.split('"').nth(1)?.parse::<std::net::SocketAddr>().ok()),
        );
    }
    assert!(ports.len() >= 8, "listeners of four proxies: {ports:?}");
    ports.push(mesh.address("api"));
    ports.push(mesh.address("grpc"));
    let junk: [&[u8]; 6] = [
        b"\x00\x01\x02\x03\xff\xfe\xfd\xfc",
        b"GET\t/ HTTP/9.9\r\nHost: a\r\nHost: b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\xff\xff\x00\x00\x00\x00\x00\x00junkjunkjunk",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\n\r\n\r\n",
    ];
    for port in &ports {
        for bytes in junk {
            let _ = junk_to(*port, bytes);
        }
    }
    // Everything still works, and nobody panicked.
    assert_eq!(
        http::get(mesh.address("app"), "/api/list").unwrap().status,
        200
    );
    let check = mesh.json(&["check"]);
    assert_eq!(
        check["proxies"].as_array().map(Vec::len),
        Some(4),
        "{check:#}"
    );
    for entry in fs::read_dir(mesh.directory().data().join("logs"))
        .unwrap()
        .flatten()
    {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        assert!(
            !text.contains("panicked"),
            "{}: {text}",
            entry.path().display()
        );
    }
    for path in [
        "stat?kind=",
        "stat?kind=x&since=tuesday",
        "tap?filter={",
        "tap?limit=-1",
        "explain?id=x",
        "culprit?since=9999999d",
        "nonsense",
        "stat?what=1",
    ] {
        let answer = http::get(mesh.address("api"), &format!("/api/whodunit/v1/{path}")).unwrap();
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
        assert!(answer.body.contains("\"message\""), "{path}: {answer:?}");
    }
    let evil = [("host", "evil.example")];
    let answer = http::request(
        mesh.address("api"),
        "GET",
        "/api/whodunit/v1/status",
        &evil,
        "",
    )
    .unwrap();
    assert_eq!(answer.status, 403, "{answer:?}");
    let origin = [("origin", "https://evil.example")];
    let answer = http::request(
        mesh.address("api"),
        "GET",
        "/api/whodunit/v1/status",
        &origin,
        "",
    )
    .unwrap();
    assert_eq!(answer.status, 403, "{answer:?}");
    mesh.stop();
}

fn junk_to(address: std::net::SocketAddr, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    stream.write_all(bytes)?;
    let mut answer = [0; 1024];
    let _ = stream.read(&mut answer)?;
    Ok(())
}

#[test]
fn damaged_files_are_skipped_and_counted() {
    let _alone = alone();
    let mesh = demo(&["--rate", "50"]);
    wait_requests(&mesh, "web", 100);
    let directory = mesh.stop();
    // Tear the end of the log and cut a Parquet file, if there is one, in half.
    let log = directory.data().join("log");
    let mut logs: Vec<_> = fs::read_dir(&log)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    logs.sort();
    let last = logs
        .iter()
        .rev()
        .find(|path| fs::metadata(path).unwrap().len() > 64)
        .unwrap();
    let bytes = fs::read(last).unwrap();
    fs::write(last, &bytes[..bytes.len() - 7]).unwrap();
    let hour = directory.data().join("requests/v1/date=2020-01-01/hour=00");
    fs::create_dir_all(&hour).unwrap();
    fs::write(hour.join("half.parquet"), b"PAR1 and then nothing").unwrap();

    let mesh = crate::support::demo_in(directory, &["--rate", "50"]);
    let row = until(
        "the history before the tear",
        Duration::from_secs(20),
        || {
            let row = crate::support::stat_row(&mesh, "workload", "web", "10m");
            (row["requests"].as_u64()? >= 90).then_some(row)
        },
    );
    assert_eq!(row["name"], "web");
    let check = mesh.whodunit(["check", "-o", "json"]);
    assert!(check.stdout.contains("damaged"), "{check:?}");
    mesh.stop();
}
