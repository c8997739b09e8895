//! The verdict as text: the answer first, then what supports it, then how to check it.

use std::fmt::Write as _;

use whodunit_api::culprit::{AttributeSet, Checked, Culprit, Named, Symptom, Victim};
use whodunit_api::edges::EdgeRow;
use whodunit_model::route::short as short_route;
use whodunit_model::time::parse_rfc3339;

use crate::figures::{count, counted, length, part, share};
use crate::text::{pad, safe, width, wrap};
use crate::view::{Tone, View};

/// Between two columns of the drawing.
const GAP: usize = 4;

/// More victims than this are counted, not listed.
const VICTIMS_MAX: usize = 8;

/// One hop of the drawing: what is called, and how it fares.
struct Step {
    says: String,
    below: String,
    guilty: bool,
}

/// Prints the verdict in one line.
pub(crate) fn short(answer: &Culprit, view: &View) -> String {
    let says = safe(&answer.says).into_owned();
    let (word, tone) = headline(&answer.verdict);
    format!("{}: {says}\n", view.paint(tone, &word.to_lowercase()))
}

/// Prints the verdict. `calls` says who called whom, to draw the way to the culprit.
pub(crate) fn render(answer: &Culprit, calls: &[EdgeRow], view: &View) -> String {
    let mut out = String::new();
    head(answer, view, &mut out);
    if answer.culprit.is_some() || answer.symptom.is_some() {
        path(answer, calls, view, &mut out);
        numbers(answer, view, &mut out);
        victims(answer, view, &mut out);
        attributes(answer, view, &mut out);
    }
    evidence(answer, view, &mut out);
    runners_up(answer, view, &mut out);
    examples(answer, view, &mut out);
    checked(&answer.checked, view, &mut out);
    out
}

fn headline(verdict: &str) -> (&'static str, Tone) {
    match verdict {
        "culprit" => ("CULPRIT", Tone::Alarm),
        "probably" => ("PROBABLY", Tone::Alarm),
        "leads" => ("LEADS", Tone::Warn),
        _ => ("NOTHING STANDS OUT", Tone::Good),
    }
}

fn head(answer: &Culprit, view: &View, out: &mut String) {
    let (word, tone) = headline(&answer.verdict);
    out.push_str(&view.paint(tone, word));
    if let Some(culprit) = &answer.culprit {
        let _ = write!(out, "  {}", view.paint(Tone::Strong, &named(culprit)));
    }
    if answer.verdict != "nothing" && !answer.verdict.is_empty() {
        let confidence = format!("confidence {:.2}", answer.confidence);
        let _ = write!(out, "  {}", view.paint(Tone::Quiet, &confidence));
    }
    out.push_str("\n\n");
    paragraph(&answer.says, view, out);
}

/// `voting VotePoop`, with instance and version where only one of several is concerned.
fn named(culprit: &Named) -> String {
    let mut text = safe(&culprit.workload).into_owned();
    if !culprit.route.is_empty() {
        let _ = write!(text, " {}", safe(short_route(&culprit.route)));
    }
    if let Some(instance) = &culprit.instance {
        let _ = write!(text, ", instance {}", safe(instance));
    }
    if let Some(version) = &culprit.app_version {
        let _ = write!(text, ", version {}", safe(version));
    }
    text
}

fn paragraph(text: &str, view: &View, out: &mut String) {
    for line in wrap(&safe(text), view.text_width() - 2) {
        let _ = writeln!(out, "  {line}");
    }
}

fn section(title: &str, view: &View, out: &mut String) {
    let _ = writeln!(out, "\n{}", view.paint(Tone::Strong, title));
}

/// Draws the way from the users to the culprit, on two lines if they fit, else as a tree.
fn path(answer: &Culprit, calls: &[EdgeRow], view: &View, out: &mut String) {
    let steps = steps(answer, calls, view);
    if steps.len() < 2 {
        return;
    }
    out.push('\n');
    let arrow = format!(" {} ", view.arrow());
    let widths: Vec<usize> = steps
        .iter()
        .map(|step| width(&step.says).max(width(&step.below)))
        .collect();
    let total = 2 + widths.iter().sum::<usize>() + width(&arrow) * (steps.len() - 1);
    if total <= view.text_width() {
        let (mut above, mut below) = (String::new(), String::new());
        for (i, (step, columns)) in steps.iter().zip(&widths).enumerate() {
            if i > 0 {
                above.push_str(&arrow);
                below.push_str(&pad("", width(&arrow)));
            }
            let spaces = pad("", columns - width(&step.says));
            above.push_str(&view.paint(step.tone(), &step.says));
            above.push_str(&spaces);
            let spaces = pad("", columns - width(&step.below));
            below.push_str(&view.paint(Tone::Quiet, &step.below));
            below.push_str(&spaces);
        }
        let _ = writeln!(out, "  {}\n  {}", above.trim_end(), below.trim_end());
        return;
    }
    for (depth, step) in steps.iter().enumerate() {
        let lead = match depth {
            0 => "  ".to_owned(),
            _ => format!("  {}{} ", "  ".repeat(depth - 1), view.arrow()),
        };
        let says = view.paint(step.tone(), &step.says);
        let below = view.paint(Tone::Quiet, &step.below);
        let _ = writeln!(out, "{}", format!("{lead}{says}  {below}").trim_end());
    }
}

impl Step {
    const fn tone(&self) -> Tone {
        if self.guilty { Tone::Bad } else { Tone::Plain }
    }
}

fn steps(answer: &Culprit, calls: &[EdgeRow], view: &View) -> Vec<Step> {
    let Some(culprit) = &answer.culprit else {
        return Vec::new();
    };
    let slow = is_slow(answer);
    let step = |workload: &str, route: &str, failed: u64, requests: u64, guilty: bool| {
        let mut says = safe(workload).into_owned();
        if !route.is_empty() {
            let _ = write!(says, " {}", safe(short_route(route)));
        }
        if guilty {
            let _ = write!(says, " {}", view.culprit());
        }
        Step {
            says,
            below: of(failed, requests, slow),
            guilty,
        }
    };
    let way = way(answer, culprit, calls);
    let top = way
        .last()
        .map_or(&culprit.workload, |victim| &victim.workload);
    let mut steps: Vec<Step> = callers(top, answer, calls)
        .map(|says| step(&says, "", 0, 0, false))
        .into_iter()
        .collect();
    for v in way.into_iter().rev() {
        steps.push(step(&v.workload, &v.route, v.failed, v.requests, false));
    }
    let c = culprit;
    steps.push(step(&c.workload, &c.route, c.failed, c.requests, true));
    steps
}

/// The victims on one way up from the culprit: each called the one before it. Where it is
/// not known who calls whom, only a single victim is sure to be on it.
fn way<'a>(answer: &'a Culprit, culprit: &'a Named, calls: &[EdgeRow]) -> Vec<&'a Victim> {
    let victims = &answer.victims;
    if calls.is_empty() {
        return victims
            .iter()
            .take(1)
            .filter(|_| victims.len() == 1)
            .collect();
    }
    let mut way: Vec<&Victim> = Vec::new();
    let mut callee = [&culprit.workload, &culprit.service];
    for victim in victims {
        let calls_it = |edge: &EdgeRow| {
            edge.src == victim.workload && callee.contains(&&edge.dst) && edge.failed > 0
        };
        if way.len() < VICTIMS_MAX && calls.iter().any(calls_it) {
            way.push(victim);
            callee = [&victim.workload, &victim.workload];
        }
    }
    way
}

/// Who calls the first hop: the users, as far as they are in the mesh.
fn callers(callee: &str, answer: &Culprit, calls: &[EdgeRow]) -> Option<String> {
    let involved = |name: &str| answer.victims.iter().any(|victim| victim.workload == name);
    let mut names: Vec<&str> = calls
        .iter()
        .filter(|edge| edge.dst == callee && !involved(&edge.src))
        .map(|edge| match edge.src.as_str() {
            "" => "callers outside the mesh",
            name => name,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    match names[..] {
        [] => None,
        [one] => Some(one.to_owned()),
        [first, ..] => Some(format!("{first} and {} more", names.len() - 1)),
    }
}

fn is_slow(answer: &Culprit) -> bool {
    answer
        .symptom
        .as_ref()
        .is_some_and(|symptom| symptom.signal == "latency")
}

/// `66 of 320 failed`; nothing where nothing was counted.
fn of(failed: u64, requests: u64, slow: bool) -> String {
    if requests == 0 {
        return String::new();
    }
    let verb = if slow { "slow" } else { "failed" };
    format!("{} of {} {verb}", count(failed), count(requests))
}

/// Three numbers: how bad at the culprit, how bad for users, and since when.
fn numbers(answer: &Culprit, view: &View, out: &mut String) {
    let mut boxes: Vec<(String, String)> = Vec::new();
    let verb = if is_slow(answer) { "is slow" } else { "fails" };
    if let Some(c) = &answer.culprit {
        let what = if c.route.is_empty() {
            &c.workload
        } else {
            &c.route
        };
        boxes.push((
            part(c.failed, c.requests),
            format!("of {} {verb}", safe(short_route(what))),
        ));
    }
    if let Some(s) = &answer.symptom {
        let what = format!(
            "of {} {} {verb}",
            safe(&s.service),
            safe(short_route(&s.route))
        );
        boxes.push((part(s.failed, s.requests), what));
        boxes.push(since(s, &answer.checked, view));
    }
    if boxes.is_empty() {
        return;
    }
    out.push('\n');
    let widths: Vec<usize> = boxes
        .iter()
        .map(|(above, below)| width(above).max(width(below)))
        .collect();
    let total = 2 + widths.iter().sum::<usize>() + GAP * (boxes.len() - 1);
    if total > view.text_width() {
        for (number, what) in &boxes {
            let _ = writeln!(out, "  {} {what}", view.paint(Tone::Strong, number));
        }
        return;
    }
    let (mut above, mut below) = (String::from("  "), String::from("  "));
    for ((number, what), columns) in boxes.iter().zip(&widths) {
        above.push_str(&view.paint(Tone::Strong, number));
        above.push_str(&pad("", columns - width(number) + GAP));
        below.push_str(&pad(what, columns + GAP));
    }
    let _ = writeln!(out, "{}\n{}", above.trim_end(), below.trim_end());
}

fn since(symptom: &Symptom, checked: &Checked, view: &View) -> (String, String) {
    let since_text = view.clock.moment_text(&symptom.since);
    let (at, end) = match &symptom.until {
        None => (format!("since {since_text}"), &checked.until),
        Some(until) => {
            let until_text = view.clock.moment_text(until);
            (format!("{since_text} to {until_text}"), until)
        }
    };
    if symptom.since_recording_began {
        return (at, "when recording began".to_owned());
    }
    let lasted = parse_rfc3339(end)
        .zip(parse_rfc3339(&symptom.since))
        .map_or_else(String::new, |(until, since)| {
            format!("for {}", length(until - since))
        });
    (safe(&at).into_owned(), lasted)
}

fn victims(answer: &Culprit, view: &View, out: &mut String) {
    if answer.victims.is_empty() {
        return;
    }
    section("Who suffers", view, out);
    let slow = is_slow(answer);
    let shown = &answer.victims[..answer.victims.len().min(VICTIMS_MAX)];
    let name =
        |workload: &str, route: &str| format!("{} {}", safe(workload), safe(short_route(route)));
    let columns = shown
        .iter()
        .map(|victim| width(&name(&victim.workload, &victim.route)))
        .fold(0, usize::max);
    for victim in shown {
        let name = pad(&name(&victim.workload, &victim.route), columns);
        let line = format!(
            "  {name}  {} ({})",
            of(victim.failed, victim.requests, slow),
            part(victim.failed, victim.requests)
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let more = answer.victims.len() - shown.len();
    if more > 0 {
        let _ = writeln!(out, "  and {more} more: -o json lists them");
    }
}

fn attributes(answer: &Culprit, view: &View, out: &mut String) {
    let sets: Vec<&AttributeSet> = answer
        .attributes
        .iter()
        .filter(|set| !is_said(set, answer))
        .collect();
    if sets.is_empty() {
        return;
    }
    let verb = if is_slow(answer) { "slow" } else { "failed" };
    section(
        &format!("What the {verb} requests have in common"),
        view,
        out,
    );
    for set in sets {
        let terms: Vec<String> = set
            .terms
            .iter()
            .map(|term| format!("{}={}", safe(&term.name), safe(&term.value)))
            .collect();
        let mut line = format!("  {}", view.paint(Tone::Strong, &terms.join(" and ")));
        if !set.workload.is_empty() {
            let _ = write!(line, "  at {}", safe(&set.workload));
        }
        let _ = write!(line, ": {} of the {verb} ones", share(set.covered));
        if set.lift.is_finite() && set.lift > 0.0 {
            let _ = write!(
                line,
                "; {:.1} times likelier to fail than the rest",
                set.lift
            );
        }
        let _ = writeln!(out, "{line}");
    }
}

/// That the culprit's route fails is the verdict itself.
fn is_said(set: &AttributeSet, answer: &Culprit) -> bool {
    answer.culprit.as_ref().is_some_and(|culprit| {
        set.workload == culprit.workload
            && set
                .terms
                .iter()
                .all(|term| term.name == "route" && term.value == culprit.route)
    })
}

fn evidence(answer: &Culprit, view: &View, out: &mut String) {
    if answer.evidence.is_empty() {
        return;
    }
    let title = if answer.culprit.is_some() {
        "Why, and how to check it"
    } else {
        "What was seen, and how to check it"
    };
    section(title, view, out);
    for item in &answer.evidence {
        for (i, line) in wrap(&safe(&item.says), view.text_width() - 4)
            .iter()
            .enumerate()
        {
            let lead = if i == 0 { view.bullet() } else { " " };
            let _ = writeln!(out, "  {lead} {line}");
        }
        if !item.command.is_empty() {
            let command = safe(&item.command).into_owned();
            let _ = writeln!(out, "      {}", view.paint(Tone::Quiet, &command));
        }
    }
}

fn runners_up(answer: &Culprit, view: &View, out: &mut String) {
    if answer.runners_up.is_empty() {
        return;
    }
    section("Who else was suspected", view, out);
    for other in &answer.runners_up {
        let mut text = safe(&other.workload).into_owned();
        if !other.route.is_empty() {
            let _ = write!(text, " {}", safe(short_route(&other.route)));
        }
        let _ = write!(
            text,
            " ({:.2}): {}",
            other.confidence,
            safe(&other.lost_because)
        );
        for (i, line) in wrap(&text, view.text_width() - 4).iter().enumerate() {
            let lead = if i == 0 { view.bullet() } else { " " };
            let _ = writeln!(out, "  {lead} {line}");
        }
    }
}

fn examples(answer: &Culprit, view: &View, out: &mut String) {
    if answer.examples.is_empty() {
        return;
    }
    section("Examples", view, out);
    for id in &answer.examples {
        let command = format!("whodunit explain {}", safe(id));
        let _ = writeln!(out, "  {}", view.paint(Tone::Quiet, &command));
    }
}

fn checked(checked: &Checked, view: &View, out: &mut String) {
    let line = format!(
        "Checked {} of {}, {}.",
        counted(checked.requests, "request"),
        counted(checked.services, "service"),
        view.clock.range_text(&checked.from, &checked.until)
    );
    let _ = writeln!(out, "\n{}", view.paint(Tone::Quiet, &safe(&line)));
    if checked.requests == 0 {
        let hint = "No requests were recorded in that time: `whodunit check` says whether the \
                    proxies are well, --since looks further back.";
        for line in wrap(hint, view.text_width()) {
            let _ = writeln!(out, "{}", view.paint(Tone::Quiet, &line));
        }
    }
}

#[cfg(test)]
mod tests;
