//! Exit codes and the errors that come with them.

use std::net::TcpListener;
use std::process::Stdio;

use tempfile::TempDir;

use crate::{run, stderr, stdout, whodunit};

/// An address where nothing listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}

#[track_caller]
fn check(args: &[&str], exit: i32, says: &[&str]) {
    let home = TempDir::new().expect("a directory");
    let output = run(whodunit(home.path()).args(args));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {text}");
    for part in says {
        assert!(
            text.contains(part),
            "{args:?} does not say {part:?}: {text}"
        );
    }
    assert_eq!(stdout(&output), "", "errors go to standard error only");
}

#[test]
fn a_server_that_is_not_there_is_4() {
    let addr = nowhere();
    let says = [
        "cannot reach the server",
        &addr,
        "nothing listens there",
        "whodunit demo",
    ];
    for command in [
        &["stat"][..],
        &["culprit"],
        &["routes"],
        &["edges"],
        &["top"],
        &["tap"],
        &["tap", "--follow"],
        &["check"],
        &["explain", "00064a7b3c5d1e-00000000000000aa-1f"],
        &[],
    ] {
        let args = [&["--addr", &addr][..], command].concat();
        check(&args, 4, &says);
    }
}

#[test]
fn a_wrong_command_line_is_2() {
    check(&["dance"], 2, &["dance"]);
    check(&["stat", "--color", "pink"], 2, &["pink", "auto"]);
    check(&["stat", "dog"], 2, &["`dog` is no kind", "workload"]);
    check(
        &["stat", "--since", "yesterday"],
        2,
        &["--since", "`yesterday`", "15m"],
    );
    check(
        &["stat", "--since", "5m", "--until", "15m"],
        2,
        &["no range"],
    );
    check(&["stat", "-n", "a", "-A"], 2, &["--namespace"]);
    check(&["stat", "-o", "short"], 2, &["no short output"]);
    check(
        &["stat", "--addr", "https://a"],
        2,
        &["https://a", "HOST:PORT"],
    );
    check(&["tap", "--status", "9xx"], 2, &["`9xx`", "--status"]);
    check(&["tap", "--not", "form=web"], 2, &["`form`", "from"]);
    check(&["tap", "--limit", "1000000"], 2, &["1000000"]);
    check(&["tap", "-f", "--until", "5m"], 2, &["--follow", "--until"]);
    check(
        &["explain", "42"],
        2,
        &["`42` is no request id", "tap -o wide"],
    );
    check(&["routes", "po/web-0"], 2, &["instance/web-0"]);
    check(&["serve", "--retention-age", "never"], 2, &["never"]);
    check(&["demo", "--rate", "0"], 2, &["above 0"]);
    check(&["demo", "--era", "2017"], 2, &["2018", "2019"]);
}

#[test]
fn data_that_is_not_there_is_1() {
    check(
        &["stat", "--data", "/nowhere/at/all"],
        1,
        &["/nowhere/at/all", "data directory"],
    );
    let home = TempDir::new().expect("a directory");
    let junk = home.path().join("junk.parquet");
    std::fs::write(&junk, b"PAR1 but not really").expect("a file");
    let junk = junk.to_str().expect("a path in UTF-8");
    check(&["culprit", "--data", junk], 1, &[junk]);
}

#[test]
fn a_data_directory_cannot_be_followed() {
    let home = TempDir::new().expect("a directory");
    let data = home.path().join("data");
    std::fs::create_dir_all(data.join("requests")).expect("a directory");
    let output = run(whodunit(home.path())
        .args(["tap", "-f", "--data"])
        .arg(&data));
    let text = stderr(&output);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{text}");
    assert!(text.contains("--data"), "{text}");
}

#[test]
fn a_broken_mesh_file_is_named_with_its_place() {
    let home = TempDir::new().expect("a directory");
    let file = home.path().join("mesh.toml");
    let file = file.to_str().expect("a path in UTF-8");
    check(&["run", "-f", file], 1, &[file]);
    std::fs::write(file, "namespace = \"a\"\n[service.web]\ncomand = \"x\"\n").expect("a file");
    check(&["run", "-f", file], 1, &["mesh.toml", "3", "comand"]);
}

#[test]
fn a_server_for_the_whole_world_is_refused() {
    let home = TempDir::new().expect("a directory");
    let data = home.path().join("data");
    let data = data.to_str().expect("a path in UTF-8");
    check(
        &[
            "serve",
            "--data",
            data,
            "--listen",
            "0.0.0.0:0",
            "--grpc-listen",
            "127.0.0.1:0",
        ],
        1,
        &["0.0.0.0", "loopback"],
    );
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("an address").to_string();
    check(
        &[
            "serve",
            "--data",
            data,
            "--listen",
            &addr,
            "--grpc-listen",
            "127.0.0.1:0",
        ],
        1,
        &[&addr, "another port"],
    );
}

#[test]
fn a_wrong_log_filter_is_2() {
    let home = TempDir::new().expect("a directory");
    let output = run(whodunit(home.path())
        .env("WHODUNIT_LOG", "whodunit=loudly")
        .arg("serve"));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("WHODUNIT_LOG"), "{text}");
}

#[test]
fn help_and_version_are_0() {
    let home = TempDir::new().expect("a directory");
    let output = run(whodunit(home.path()).arg("--help"));
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("Exit codes:"));
    let output = run(whodunit(home.path()).arg("--version"));
    assert_eq!(output.status.code(), Some(0));

    let addr = nowhere();
    let output = run(whodunit(home.path()).args(["version", "--addr", &addr]));
    assert_eq!(output.status.code(), Some(0));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        stdout(&output),
        format!("Client version: {version}\nServer version: not reachable\n")
    );
    let output = run(whodunit(home.path()).args(["version", "-o", "short"]));
    assert_eq!(stdout(&output), format!("{version}\n"));
}

#[test]
fn without_a_server_and_a_command_there_is_help() {
    let home = TempDir::new().expect("a directory");
    let folder = home.path().join("whodunit");
    std::fs::create_dir(&folder).expect("a directory");
    // The mesh of this process, whose server is gone.
    let state = format!(
        r#"{{"pid":{},"name":"demo","api":"{}","grpc":"127.0.0.1:1","app":null,"data":"/x","started_us":0}}"#,
        std::process::id(),
        nowhere(),
    );
    std::fs::write(folder.join("local.json"), state).expect("a file");
    let output = run(&mut whodunit(home.path()));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("Usage: whodunit"), "{text}");
    assert!(text.contains("`whodunit demo` starts one"), "{text}");
}

#[test]
fn completion_scripts_know_the_commands() {
    let home = TempDir::new().expect("a directory");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(whodunit(home.path()).args(["completion", shell]));
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(stdout(&output).contains("culprit"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let home = TempDir::new().expect("a directory");
    for args in [
        &["completion", "bash"][..],
        &["--help"],
        &["version", "--client"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let child = whodunit(home.path())
            .args(args)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(stderr(&output), "", "{args:?}");
    }
}
