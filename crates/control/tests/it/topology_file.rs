//! The state file: what a good one changes, and what a bad one does not.

use crate::{StateFile, eventually, wait_for};

#[tokio::test]
async fn the_topology_follows_the_file() {
    let file = StateFile::new();
    let discovery = file.follow();
    let mut topology = discovery.watch();
    eventually("the missing file is noticed", || {
        discovery.health().error.is_some()
    })
    .await;
    assert!(discovery.topology().is_none());

    file.put("web 1\nvoting 2");
    let found = wait_for(&mut topology, Option::is_some).await;
    assert_eq!(found.services.len(), 2);
    assert_eq!(discovery.health().error, None);

    file.put("web 1");
    let is_one = |t: &Option<_>| {
        t.as_ref()
            .is_some_and(|t: &std::sync::Arc<whodunit_model::Topology>| t.services.len() == 1)
    };
    let found = wait_for(&mut topology, is_one).await;
    assert_eq!(found.services.keys().next().unwrap().name, "web");
}

#[tokio::test]
async fn a_bad_file_keeps_the_last_state_and_is_named() {
    let file = StateFile::new();
    file.put("web 1");
    let discovery = file.follow();
    let mut topology = discovery.watch();
    let before = wait_for(&mut topology, Option::is_some).await;

    for bad in ["{\"services\": [", "{\"servces\": []}", "junk"] {
        let refused = discovery.health().refused;
        file.put_text(bad);
        eventually("the bad file is noticed", || {
            discovery.health().refused > refused
        })
        .await;
        let error = discovery.health().error.expect("an error");
        assert!(
            error.contains(&file.path().display().to_string()),
            "{error}"
        );
        assert_eq!(discovery.topology(), Some(before.clone()));
    }

    std::fs::remove_file(file.path()).unwrap();
    eventually("the removal is noticed", || {
        discovery
            .health()
            .error
            .is_some_and(|error| error.contains("read topology file"))
    })
    .await;
    assert_eq!(discovery.topology(), Some(before));

    file.put("web 1");
    eventually("the good file is noticed", || {
        discovery.health().error.is_none()
    })
    .await;
}
