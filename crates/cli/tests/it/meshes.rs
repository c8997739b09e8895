//! Running a mesh as a command: what its output may go through.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::whodunit;

#[test]
fn a_mesh_goes_on_when_nobody_reads_its_output_any_more() {
    let home = tempfile::tempdir().expect("a folder");
    // Nothing passes through a proxy here, so none is started; it only has to be found.
    let proxy = ("WHODUNIT_PROXY_BIN", "/bin/false");
    let mesh = home.path().join("mesh.toml");
    let lives = home.path().join("lives");
    // Each life ends when its file is taken away, which makes the launcher say so.
    let text = "[server]\nlisten = '127.0.0.1:0'\ngrpc_listen = '127.0.0.1:0'\n\
         [service.a]\nshell = true\nbackoff = '10ms'\n\
         command = 'touch here; echo life >> lives; while [ -e here ]; do sleep 0.05; done'\n";
    fs::write(&mesh, text).expect("a file");
    let mut child = whodunit(home.path())
        .env(proxy.0, proxy.1)
        .args(["run", "--data"])
        .arg(home.path().join("data"))
        .arg("-f")
        .arg(&mesh)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut printed = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.starts_with("a-0 ready") {
        line.clear();
        let read = printed
            .read_line(&mut line)
            .expect("the output is readable");
        assert!(read > 0, "the mesh ended before it was ready");
    }
    drop(printed);
    // Lives after the last reader has gone: all but the first begin after a failed write.
    let deadline = Instant::now() + Duration::from_secs(60);
    for wanted in 2..=4 {
        let _gone = fs::remove_file(home.path().join("here"));
        while fs::read_to_string(&lives)
            .unwrap_or_default()
            .lines()
            .count()
            < wanted
        {
            assert!(Instant::now() < deadline, "life {wanted} never began");
            let ended = child.try_wait().expect("the child is ours");
            assert!(ended.is_none(), "the mesh ended: {ended:?}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
    let terminate = ["-TERM", &child.id().to_string()];
    let sent = Command::new("kill").args(terminate).status();
    assert!(sent.is_ok_and(|status| status.success()));
    let ended = child.wait().expect("the child ends");
    assert_eq!(ended.code(), Some(0));
}
