//! The server is gone, and no request fails for it.

use std::process::Command;

use whodunit_e2e::mesh::binary_path;

use crate::support::alone;

#[test]
fn no_request_fails_while_the_server_is_gone_and_no_record_is_lost() {
    let _alone = alone();
    // A short outage at a low rate; `cargo xtask bench outage` is the long one.
    let output = Command::new(binary_path("bench-outage"))
        .args(["--seconds", "5", "--rate", "200", "--patience", "20"])
        .output()
        .expect("bench-outage starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{why}");
    assert!(said.contains("failed requests"), "{said}");
}
