//! Tells the story of a running mesh: what starts, where it answers, what
//! dies, and in the demo the verdict as soon as there is one.
//!
//! On a terminal a spinner shows what is going on and only what matters stays;
//! elsewhere every event is one plain line.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use whodunit_control::mesh_file::Mesh;
use whodunit_launch::{Event, Options};

use super::super::culprit;
use super::super::demo::watch::{self, Watcher};
use crate::failure::{Exit, Failure};
use crate::output::{self, Stop};
use crate::session::Session;
use crate::view::{Tone, View};

/// Events waiting to be printed. A terminal that hangs loses events, never the mesh.
const EVENTS_MAX: usize = 1_024;

/// Between two movements of the spinner.
const SPIN: Duration = Duration::from_millis(100);

/// What is told around the events.
#[derive(Clone, Debug)]
pub(crate) enum Story {
    /// A mesh of this name.
    Mesh(String),
    /// The demo, which watches for the verdict.
    Demo,
}

/// Runs the mesh and prints what happens, until it is told to stop.
pub(crate) async fn supervise(
    mesh: Mesh,
    options: Options,
    story: &Story,
    session: &Session,
) -> Result<Exit, Stop> {
    let data = options.data.clone();
    let stopped = whodunit_launch::Stop::on_signals()
        .map_err(|error| Failure::chain("cannot listen for signals", &error))?;
    let (sender, mut events) = mpsc::channel(EVENTS_MAX);
    let mut teller = Teller {
        view: &session.view,
        story,
        data: data.display().to_string(),
        spinner: spinner(session.view.terminal, story),
        names_server: false,
        silent: false,
    };
    let mut verdicts = None;
    let mut running = std::pin::pin!(whodunit_launch::run(mesh, options, sender, stopped));
    let ended = loop {
        tokio::select! {
            biased;
            Some(event) = events.recv() => {
                if let Event::AllReady { api, .. } = &event
                    && matches!(story, Story::Demo)
                    && verdicts.is_none()
                {
                    verdicts = Some(Watcher::start(api)?);
                }
                teller.event(&event);
            }
            Some(verdict) = next(&mut verdicts) => teller.verdict(&verdict),
            ended = &mut running => break ended,
        }
    };
    drop(verdicts);
    while let Ok(event) = events.try_recv() {
        teller.event(&event);
    }
    teller.spinner.finish_and_clear();
    match ended {
        Ok(_) => {
            teller.say("Stopped. Nothing is left running.\n");
            Ok(Exit::Ok)
        }
        Err(error) => Err(Failure::failed("", "").text(error.to_string()).into()),
    }
}

async fn next(verdicts: &mut Option<Watcher>) -> Option<watch::Said> {
    match verdicts {
        Some(watcher) => watcher.next().await,
        None => None,
    }
}

fn spinner(terminal: bool, story: &Story) -> ProgressBar {
    if !terminal {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        spinner.set_style(style);
    }
    spinner.set_message(match story {
        Story::Demo => "starting Emojivoto and its mesh".to_owned(),
        Story::Mesh(name) => format!("starting {name}"),
    });
    spinner.enable_steady_tick(SPIN);
    spinner
}

struct Teller<'a> {
    view: &'a View,
    story: &'a Story,
    data: String,
    spinner: ProgressBar,
    /// Commands do not find this mesh by themselves.
    names_server: bool,
    /// Nobody reads any more.
    silent: bool,
}

impl Teller<'_> {
    /// Prints text that stays. When nobody reads any more the mesh goes on in silence: who
    /// started it may have wanted to know no more than where it answers.
    fn say(&mut self, text: &str) {
        if self.silent {
            return;
        }
        self.silent = self.spinner.suspend(|| output::write(text)).is_err();
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::AllReady { app, api, .. } => {
                self.spinner.finish_and_clear();
                let text = welcome(app.as_deref(), api, &self.data, self.names_server, self);
                self.say(&text);
                return;
            }
            Event::StateFileHeld { .. } => self.names_server = true,
            _ => {}
        }
        let text = crate::text::safe(&event.to_string()).into_owned();
        if self.view.terminal && passes_by(event) {
            self.spinner.set_message(text);
            return;
        }
        let mut out = self.view.paint(tone(event), &text) + "\n";
        if let Event::Exited { last_lines, .. } = event {
            for line in last_lines {
                let line = format!("    {}", crate::text::safe(line));
                let _ = writeln!(out, "{}", self.view.paint(Tone::Quiet, &line));
            }
        }
        self.say(&out);
    }

    fn verdict(&mut self, said: &watch::Said) {
        let text = match said {
            watch::Said::Verdict(verdict, calls) => {
                format!("\n{}", culprit::render(verdict, calls, self.view))
            }
            watch::Said::Quiet(verdict) => format!(
                "\nNothing stands out so far, {} checked. Still watching.\n",
                crate::figures::counted(verdict.checked.requests, "request")
            ),
        };
        self.say(&text);
    }
}

/// Says whether an event only shows that work goes on.
const fn passes_by(event: &Event) -> bool {
    matches!(
        event,
        Event::Starting { .. }
            | Event::Ready { .. }
            | Event::ServerReady { .. }
            | Event::Stopped { killed: false, .. }
    )
}

const fn tone(event: &Event) -> Tone {
    match event {
        Event::Exited { .. } => Tone::Bad,
        Event::PortReplaced { .. }
        | Event::Unready { .. }
        | Event::Restarting { .. }
        | Event::StateFileHeld { .. }
        | Event::Warning { .. }
        | Event::Stopped { killed: true, .. } => Tone::Warn,
        _ => Tone::Plain,
    }
}

/// Where everything is, and what to try.
fn welcome(
    app: Option<&str>,
    api: &str,
    data: &str,
    names_server: bool,
    teller: &Teller<'_>,
) -> String {
    let view = teller.view;
    let title = match teller.story {
        Story::Demo => "Emojivoto is running, with a mesh around it.".to_owned(),
        Story::Mesh(name) => format!("{name} is running, with a mesh around it."),
    };
    let mut out = format!("\n{}\n\n", view.paint(Tone::Strong, &title));
    if let Some(app) = app {
        let _ = writeln!(out, "  Application  {app}");
    }
    let _ = writeln!(out, "  API          {api}");
    let _ = writeln!(out, "  Data         {data}");
    let _ = writeln!(out, "\nTry in another terminal:");
    let addr = match api.trim_start_matches("http://").parse::<SocketAddr>() {
        Ok(addr) if names_server => format!(" --addr {addr}"),
        _ => String::new(),
    };
    for command in ["stat deploy", "tap --failed --follow", "culprit"] {
        let command = format!("whodunit {command}{addr}");
        let _ = writeln!(out, "  {}", view.paint(Tone::Strong, &command));
    }
    let last = match teller.story {
        Story::Demo => "Watching for the verdict. Ctrl-C stops everything.",
        Story::Mesh(_) => "Ctrl-C stops everything.",
    };
    let _ = writeln!(out, "\n{last}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn teller<'a>(view: &'a View, story: &'a Story) -> Teller<'a> {
        Teller {
            view,
            story,
            data: "/data".to_owned(),
            spinner: ProgressBar::hidden(),
            names_server: false,
            silent: false,
        }
    }

    #[test]
    fn the_demo_says_where_everything_is_and_what_to_try() {
        let view = View::plain();
        let teller = teller(&view, &Story::Demo);
        let app = Some("http://127.0.0.1:8080");
        expect![[r#"

            Emojivoto is running, with a mesh around it.

              Application  http://127.0.0.1:8080
              API          http://127.0.0.1:7070
              Data         /data

            Try in another terminal:
              whodunit stat deploy
              whodunit tap --failed --follow
              whodunit culprit

            Watching for the verdict. Ctrl-C stops everything.
        "#]]
        .assert_eq(&welcome(
            app,
            "http://127.0.0.1:7070",
            "/data",
            false,
            &teller,
        ));
    }

    #[test]
    fn a_mesh_that_is_not_found_by_itself_names_its_server() {
        let view = View::plain();
        let story = Story::Mesh("shop".to_owned());
        let teller = teller(&view, &story);
        let text = welcome(None, "http://127.0.0.1:4001", "/data", true, &teller);
        assert!(
            text.contains("whodunit culprit --addr 127.0.0.1:4001\n"),
            "{text}"
        );
        assert!(text.contains("shop is running"), "{text}");
        assert!(!text.contains("Application"), "{text}");
    }
}
