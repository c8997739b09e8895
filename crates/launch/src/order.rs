//! The order of starting: what is called before those who call it.

use std::collections::BTreeMap;

use whodunit_control::mesh_file::Service;

#[derive(Clone, Copy)]
enum Depth {
    Unknown,
    /// Being worked out: whoever calls it closes a circle.
    Open,
    Known(usize),
}

/// Returns the numbers of the services in steps: all that a service calls is
/// in an earlier step, but for calls that close a circle.
pub(crate) fn steps(services: &[Service]) -> Vec<Vec<usize>> {
    let numbers: BTreeMap<&str, usize> = services
        .iter()
        .enumerate()
        .map(|(i, service)| (service.name.as_str(), i))
        .collect();
    let calls: Vec<Vec<usize>> = services
        .iter()
        .map(|service| {
            // Externals have no number: they are there already.
            service
                .calls
                .iter()
                .filter_map(|name| numbers.get(name.as_str()).copied())
                .collect()
        })
        .collect();
    let mut depths = vec![Depth::Unknown; services.len()];
    let mut steps: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for service in 0..services.len() {
        steps
            .entry(depth(&calls, service, &mut depths))
            .or_default()
            .push(service);
    }
    steps.into_values().collect()
}

/// Goes as deep as the longest chain of calls; the mesh file bounds the number of services.
fn depth(calls: &[Vec<usize>], service: usize, depths: &mut [Depth]) -> usize {
    if let Depth::Known(depth) = depths[service] {
        return depth;
    }
    depths[service] = Depth::Open;
    let mut deepest = 0;
    for &callee in &calls[service] {
        if !matches!(depths[callee], Depth::Open) {
            deepest = deepest.max(depth(calls, callee, depths) + 1);
        }
    }
    depths[service] = Depth::Known(deepest);
    deepest
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use whodunit_control::mesh_file::parse;

    use super::*;

    /// `mesh` has one service per line: `name: callee callee`.
    #[track_caller]
    fn check(mesh: &str, expected: &[&[&str]]) {
        let mut text = String::new();
        for line in mesh.trim().lines() {
            let (name, calls) = line.trim().split_once(':').unwrap();
            let calls: Vec<&str> = calls.split_whitespace().collect();
            text += &format!("[service.{name}]\ncommand = \"x {{port}}\"\ncalls = {calls:?}\n");
        }
        let mesh = parse(&text, Path::new("mesh.toml")).unwrap();
        let name = |i: &usize| mesh.services[*i].name.clone();
        let found: Vec<Vec<String>> = steps(&mesh.services)
            .iter()
            .map(|step| step.iter().map(name).collect())
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_called_comes_first() {
        check(
            "
            bot: web
            web: emoji voting
            emoji:
            voting:
            ",
            &[&["emoji", "voting"], &["web"], &["bot"]],
        );
    }

    #[test]
    fn circles_are_cut_where_they_close() {
        check("a: b\nb: a", &[&["b"], &["a"]]);
        check("a: a", &[&["a"]]);
        check("a: b\nb: c\nc: a d\nd:", &[&["d"], &["c"], &["b"], &["a"]]);
    }

    #[test]
    fn services_that_no_one_calls_start_at_once() {
        check("a:\nb: c\nc:", &[&["a", "c"], &["b"]]);
    }
}
