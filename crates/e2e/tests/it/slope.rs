//! The lines that the soak lays through what it reads.

use whodunit_e2e::slope::{Line, drifts, leaks};

const MIB: f64 = 1_048_576.0;

/// Samples of an hour, one per half minute: `at` hours to a value.
fn hour(value: impl Fn(f64, usize) -> f64) -> Line {
    let samples = (0..120).map(|n| {
        let at = n as f64 / 120.0;
        (at, value(at, n))
    });
    Line::through(&samples.collect::<Vec<_>>()).expect("enough samples")
}

/// Noise that repeats and is on average zero.
fn noise(n: usize) -> f64 {
    [0.4, -0.9, 0.7, -0.2, 0.1, -0.5, 0.8, -0.4][n % 8]
}

#[test]
fn a_line_finds_slope_and_mean() {
    let line = hour(|at, _| 10.0 + 4.0 * at);
    assert!((line.slope - 4.0).abs() < 1e-9, "{line:?}");
    assert!(line.error < 1e-9, "{line:?}");
    assert!((line.mean - 12.0).abs() < 0.1, "{line:?}");
    assert!((hour(|at, _| -3.0 * at).sure() + 3.0).abs() < 1e-6);
}

#[test]
fn too_few_samples_say_nothing() {
    assert_eq!(Line::through(&[]), None);
    assert_eq!(Line::through(&[(0.0, 1.0), (1.0, 2.0)]), None);
    assert_eq!(Line::through(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
}

#[test]
fn a_leak_is_told_from_noise() {
    let leaking = |at: f64, n| 20.0 * MIB + 2.0 * MIB * at + noise(n) * MIB;
    assert!(leaks(&hour(leaking), 1.0, MIB));
    let steady = |_: f64, n| 20.0 * MIB + noise(n) * MIB;
    assert!(!leaks(&hour(steady), 1.0, MIB));
    let slow = |at: f64, n| 20.0 * MIB + 0.5 * MIB * at + noise(n) * MIB;
    assert!(!leaks(&hour(slow), 1.0, MIB));
    let shrinking = |at: f64, _| 20.0 * MIB - 5.0 * MIB * at;
    assert!(!leaks(&hour(shrinking), 1.0, MIB));
}

#[test]
fn a_short_run_fails_for_large_leaks_only() {
    let line = hour(|at, _| 20.0 * MIB + 5.0 * MIB * at);
    // Within six minutes that is half of what an hour may add.
    assert!(!leaks(&line, 0.1, MIB));
    assert!(leaks(&line, 0.5, MIB));
}

#[test]
fn counts_may_move_a_little() {
    let descriptors = |per_hour: f64| hour(move |at, n| 100.0 + per_hour * at + noise(n));
    assert!(!drifts(&descriptors(3.0), 1.0, 0.05, 2.0));
    assert!(drifts(&descriptors(9.0), 1.0, 0.05, 2.0));
    assert!(drifts(&descriptors(-20.0), 1.0, 0.05, 2.0));
    // Of three threads one may come and go.
    assert!(!drifts(&hour(|at, _| 3.0 + at), 1.0, 0.05, 2.0));
}
