//! Meshes that cannot be brought up: one clear error, and nothing left running.

use std::fs;
use std::net::TcpListener;

use expect_test::expect;
use whodunit_launch::LaunchError;

use crate::bench::{Bench, app, mark, marked};

/// Returns the error of a mesh, with the test's folder written as FOLDER.
async fn refused(mesh: &str) -> String {
    refused_in(tempfile::tempdir().unwrap(), mesh).await
}

async fn refused_in(folder: tempfile::TempDir, mesh: &str) -> String {
    let path = folder.path().display().to_string();
    let (outcome, _) = Bench::start_in(folder, mesh).ended().await;
    format!("{}\n", outcome.expect_err("should be refused")).replace(&path, "FOLDER")
}

#[tokio::test]
async fn a_missing_program_is_named_with_its_line() {
    let error = refused("[service.web]\ncommand = './no-such-program {port}'\n").await;
    expect![[r#"
        FOLDER/mesh.toml:2:11: service `web`: there is no program `./no-such-program`
        help: install it, or write its whole path into `command`
    "#]]
    .assert_eq(&error);
    let error = refused("[service.web]\ncommand = 'no-such-program {port}'\n").await;
    assert!(
        error.contains("there is no program `no-such-program` in "),
        "{error}"
    );
    assert!(error.contains(", PATH\n"), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_be_run_is_told_from_a_missing_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tool"), "#!/bin/sh\n").unwrap();
    let error = refused_in(folder, "[service.web]\ncommand = './tool {port}'\n").await;
    expect![[r#"
        FOLDER/mesh.toml:2:11: service `web`: FOLDER/./tool is not an executable file
        help: `chmod +x` it, or put its interpreter before it in `command`
    "#]]
    .assert_eq(&error);
}

#[tokio::test]
async fn a_working_folder_that_is_missing_is_named_before_anything_starts() {
    let error = refused(&app("web", "working_dir = 'nowhere'")).await;
    expect![[r#"
        FOLDER/mesh.toml: `working_dir` of service `web`: cannot use the folder FOLDER/nowhere: No such file or directory (os error 2)
        help: create it, or correct `working_dir`; a relative path starts from the mesh file's folder
    "#]]
    .assert_eq(&error);
    let error = refused(&app("web", "working_dir = '{folder}/mesh.toml/x'")).await;
    assert!(error.contains("`working_dir` of service `web`"), "{error}");
}

#[tokio::test]
async fn a_program_may_start_in_the_folder_of_its_instance() {
    let mut bench = Bench::start(&app("web", "working_dir = '{data}'"));
    bench.all_ready().await;
    bench.stopped().await;
}

#[tokio::test]
async fn a_program_that_dies_at_once_is_shown_with_its_last_words() {
    let mut bench = Bench::start(
        "[service.web]\nshell = true\nbackoff = '1ms'\n\
         command = 'echo starting; echo \"bind: no such device\" >&2; exit 7'\n",
    );
    let pid = bench.starting("web-0").await;
    let mark = std::panic::catch_unwind(|| mark(pid)).ok();
    let (outcome, remains) = bench.ended().await;
    let path = remains.folder.path().display().to_string();
    let error = format!("{}\n", outcome.unwrap_err()).replace(&path, "FOLDER");
    expect![[r#"
        web-0 did not start: exit code 7
          | starting
          | bind: no such device
        help: all it printed is in FOLDER/data/logs/web-0.log
    "#]]
    .assert_eq(&error);
    assert_eq!(
        remains
            .seen
            .iter()
            .filter(|line| *line == "starting web-0")
            .count(),
        5
    );
    if let Some(mark) = mark {
        assert_eq!(marked(&mark), Vec::<u32>::new());
    }
}

#[tokio::test]
async fn a_program_that_never_becomes_ready_is_given_up() {
    let error = refused(
        "[service.web]\ncommand = 'sleep 1000'\nstart_timeout = '200ms'\n\
         live = 'tcp://127.0.0.1:9'\nready = 'tcp://127.0.0.1:9'\n",
    )
    .await;
    assert!(
        error.starts_with(
            "web-0 did not start: not ready within 200ms: cannot connect to 127.0.0.1:9"
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_hard_wired_port_that_is_taken_cannot_be_replaced() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = refused(&format!(
        "[service.web]\ncommand = 'sleep 1'\napp_port = {port}\n"
    ))
    .await;
    let start = format!("service `web`: port {port} of the application (`app_port`) is taken");
    assert!(error.starts_with(&start), "{error}");
}

#[tokio::test]
async fn what_is_missing_in_templates_and_environment_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("conf.in"), "a\nlisten {{prot}};\n").unwrap();
    let files = "[[service.web.files]]\ntemplate = 'conf.in'\npath = 'conf'\n";
    let error = refused_in(folder, &app("web", files)).await;
    expect![[r#"
        FOLDER/conf.in:2:8: unknown placeholder `{{prot}}`
        help: did you mean `{{port}}`? there are `data`, `env:NAME`, `folder`, `index`, `instance`, `port`, `port:NAME` and `self`; write `{{{{` for `{{` itself
    "#]]
    .assert_eq(&error);

    let error = refused(&app("web", files)).await;
    expect![[r#"
        cannot read the template FOLDER/conf.in: No such file or directory (os error 2)
    "#]]
    .assert_eq(&error);

    let error = refused(&app("web", "env.A = '{env:NOT_SET_ANYWHERE}'")).await;
    expect![[r#"
        FOLDER/mesh.toml: service `web`, `env.A`: environment variable `NOT_SET_ANYWHERE` is not set; set it, or give a default with `{env:NOT_SET_ANYWHERE:-VALUE}`
    "#]]
    .assert_eq(&error);
}

#[tokio::test]
async fn checks_and_externals_without_an_address_are_named() {
    let error = refused(&app("web", "ready = 'http://example.invalid:80/'")).await;
    assert!(
        error.contains("`ready` of service `web` asks \"http://example.invalid:80/\""),
        "{error}"
    );
    let error = refused(&format!(
        "{}[external.db]\naddress = 'db.invalid:1'\n",
        app("web", "")
    ))
    .await;
    let start =
        "FOLDER/mesh.toml:7:11: cannot find the address of external `db`, \"db.invalid:1\": ";
    assert!(error.starts_with(start), "{error}");
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("data"), "not a folder").unwrap();
    let error = refused_in(folder, &app("web", "")).await;
    assert!(
        error.starts_with("cannot create the folder FOLDER/data: "),
        "{error}"
    );
    assert!(error.ends_with("with --data DIR\n"), "{error}");
}

#[tokio::test]
async fn a_second_start_says_how_to_reach_the_first() {
    let mut bench = Bench::start(&app("web", ""));
    bench.all_ready().await;
    let mesh =
        whodunit_control::mesh_file::parse(&app("web", ""), &bench.folder.path().join("mesh.toml"))
            .unwrap();
    let (sender, _events) = tokio::sync::mpsc::channel(8);
    let (_handle, stop) = whodunit_launch::Stop::manual();
    let options = crate::bench::options(bench.folder.path());
    let error = whodunit_launch::run(mesh, options, sender, stop)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        LaunchError::AlreadyRunning { state: Some(_), .. }
    ));
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("test runs already (pid {})", std::process::id())),
        "{text}"
    );
    assert!(
        text.contains("\n  API          http://127.0.0.1:"),
        "{text}"
    );
    bench.stopped().await;
}
