use super::*;

const PROTO: &str = r#"
syntax = "proto3";
package votes.v1;
message Vote { string shortcode = 1; }
service Votes { rpc Cast(Vote) returns (Vote); }
"#;

fn folder_with(name: &str, text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), text).unwrap();
    folder
}

fn files(list: &[(&str, &str)]) -> Files {
    list.iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect()
}

#[test]
fn messages_are_generated_with_services_or_without() {
    let protos = folder_with("votes.proto", PROTO);
    let with = generate(protos.path(), true).unwrap();
    assert_eq!(with.keys().collect::<Vec<_>>(), ["votes.v1.rs"]);
    assert!(with["votes.v1.rs"].contains("pub struct Vote"));
    assert!(with["votes.v1.rs"].contains("pub mod votes_client"));
    let without = generate(protos.path(), false).unwrap();
    assert!(without["votes.v1.rs"].contains("pub struct Vote"));
    assert!(!without["votes.v1.rs"].contains("votes_client"));
}

#[test]
fn a_broken_proto_is_an_error_that_names_the_place() {
    let protos = folder_with(
        "votes.proto",
        "syntax = \"proto3\";\nmessage Vote { nonsense }",
    );
    let error = format!("{:#}", generate(protos.path(), true).unwrap_err());
    assert!(error.contains("votes.proto:2"), "{error}");
}

#[test]
fn a_folder_without_protos_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(generate(folder.path(), true).is_err());
}

#[test]
fn what_write_leaves_is_what_check_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let generated = folder.path().join("src/generated");
    let old = files(&[("old.rs", "gone\n"), ("votes.v1.rs", "a\nb\n")]);
    let new = files(&[("votes.v1.rs", "a\nc\n")]);
    assert!(check(&generated, &old).is_err());
    assert_eq!(write(&generated, &old).unwrap(), "2 files, 2 changed");
    assert_eq!(check(&generated, &old).unwrap(), "2 files, current");
    let error = check(&generated, &new).unwrap_err().to_string();
    assert!(error.contains("run `cargo xtask codegen`"), "{error}");
    assert_eq!(write(&generated, &new).unwrap(), "1 files, 2 changed");
    assert_eq!(check(&generated, &new).unwrap(), "1 files, current");
    assert_eq!(write(&generated, &new).unwrap(), "1 files, 0 changed");
}

#[test]
fn differences_name_the_file_and_the_first_line() {
    let committed = files(&[("a.rs", "one\ntwo\n"), ("b.rs", "same\n"), ("old.rs", "")]);
    let generated = files(&[("a.rs", "one\n  three\n"), ("b.rs", "same\n"), ("c.rs", "")]);
    assert_eq!(
        differences(&committed, &generated),
        [
            "a.rs:2: has `two`, should have `three`",
            "c.rs is missing",
            "old.rs comes from no .proto file",
        ]
    );
    assert_eq!(
        differences(
            &files(&[("a.rs", "one\n")]),
            &files(&[("a.rs", "one\ntwo\n")])
        ),
        ["a.rs:2: has nothing, should have `two`"]
    );
}
