//! The live screen: draws, listens for keys, and always gives the terminal back.

use std::io::{self, Write};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode, size,
};
use crossterm::{execute, queue};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use whodunit_api::top::{Top, TopQuery};

use super::{State, frame};
use crate::failure::{Exit, Failure};
use crate::output::{self, Stop};
use crate::source::Source;
use crate::view::View;

/// Between two questions to the server.
const REFRESH: Duration = Duration::from_secs(1);

/// How long the thread that reads keys waits before it looks whether anybody still listens.
const KEYS_PATIENCE: Duration = Duration::from_millis(100);

/// Keys typed ahead; more are dropped.
const KEYS_MAX: usize = 32;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Quit,
    Pause,
    Sort,
    Routes,
    Help,
    Redraw,
}

/// Gives the terminal back, however the command ends.
struct Screen;

impl Screen {
    fn open() -> io::Result<Self> {
        enable_raw_mode()?;
        let screen = Self;
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody left to tell if the terminal is gone.
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// Shows the answer and refreshes it until the user quits.
pub(super) async fn run(
    source: &Source,
    mut query: TopQuery,
    mut answer: Top,
    view: &View,
) -> Result<Exit, Stop> {
    let trouble = |error| output::stop(error);
    let mut state = State {
        routes: query.routes,
        ..State::default()
    };
    let mut terminated = terminated().map_err(trouble)?;
    let screen = Screen::open().map_err(trouble)?;
    let mut keys = keys();
    let mut ticks = interval_at(Instant::now() + REFRESH, REFRESH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut view = view.clone();

    let exit = loop {
        draw(&answer, &state, &mut view).map_err(trouble)?;
        let asks = tokio::select! {
            key = keys.recv() => match key {
                Some(Key::Quit) | None => break Exit::Ok,
                Some(key) => apply(key, &mut state),
            },
            _ = ticks.tick() => !state.paused,
            _ = terminated.recv() => break Exit::Interrupted,
        };
        if !asks {
            continue;
        }
        query.routes = state.routes;
        // A slow server must not keep the user from quitting.
        let asked = tokio::select! {
            asked = source.top(&query) => asked,
            quit = quit_key(&mut keys, &mut state) => break quit,
            _ = terminated.recv() => break Exit::Interrupted,
        };
        match asked {
            Ok(new) => {
                answer = new;
                state.trouble = None;
            }
            Err(failure) => state.trouble = Some(says(&failure)),
        }
    };
    drop(screen);
    Ok(exit)
}

fn says(failure: &Failure) -> String {
    format!(
        "{}: {} (the numbers below are old)",
        failure.what, failure.why
    )
}

/// Changes what the key asks for; says whether the server has to be asked anew.
fn apply(key: Key, state: &mut State) -> bool {
    match key {
        Key::Pause => state.paused = !state.paused,
        Key::Sort => state.order = state.order.next(),
        Key::Help => state.help = !state.help,
        Key::Routes => {
            state.routes = !state.routes;
            return true;
        }
        Key::Quit | Key::Redraw => {}
    }
    false
}

/// Waits for the key that quits; the others take effect with the next answer.
async fn quit_key(keys: &mut mpsc::Receiver<Key>, state: &mut State) -> Exit {
    while let Some(key) = keys.recv().await {
        if key == Key::Quit {
            break;
        }
        apply(key, state);
    }
    Exit::Ok
}

/// Draws in place: each line is overwritten, so that nothing flickers.
fn draw(answer: &Top, state: &State, view: &mut View) -> io::Result<()> {
    let (columns, rows) = size()?;
    view.width = Some(usize::from(columns));
    let mut out = io::stdout().lock();
    for (row, line) in (0..rows).zip(frame(answer, state, usize::from(rows), view)) {
        queue!(out, MoveTo(0, row))?;
        out.write_all(line.as_bytes())?;
        queue!(out, Clear(ClearType::UntilNewLine))?;
    }
    out.flush()
}

/// Reads keys on a thread of its own: a terminal can only be waited for by blocking.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let key = match event::poll(KEYS_PATIENCE) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            match key {
                Ok(Event::Key(key)) => {
                    if let Some(key) = meaning(key) {
                        let _ = sender.try_send(key);
                    }
                }
                Ok(Event::Resize(..)) => {
                    let _ = sender.try_send(Key::Redraw);
                }
                Ok(_) => {}
                // The terminal is gone: dropping the sender quits.
                Err(_) => return,
            }
        }
    });
    receiver
}

fn meaning(key: KeyEvent) -> Option<Key> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') if control => Some(Key::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char(' ') => Some(Key::Pause),
        KeyCode::Char('s') => Some(Key::Sort),
        KeyCode::Char('r') => Some(Key::Routes),
        KeyCode::Char('?' | 'h') => Some(Key::Help),
        _ => None,
    }
}

fn terminated() -> io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_what_the_last_line_says() {
        let press = |code, modifiers| meaning(KeyEvent::new(code, modifiers));
        let plain = KeyModifiers::NONE;
        assert_eq!(press(KeyCode::Char('q'), plain), Some(Key::Quit));
        assert_eq!(press(KeyCode::Esc, plain), Some(Key::Quit));
        assert_eq!(
            press(KeyCode::Char('c'), KeyModifiers::CONTROL),
            Some(Key::Quit)
        );
        assert_eq!(press(KeyCode::Char('c'), plain), None);
        assert_eq!(press(KeyCode::Char(' '), plain), Some(Key::Pause));
        assert_eq!(press(KeyCode::Char('s'), plain), Some(Key::Sort));
        assert_eq!(press(KeyCode::Char('r'), plain), Some(Key::Routes));
        assert_eq!(press(KeyCode::Char('?'), plain), Some(Key::Help));

        let mut state = State::default();
        assert!(!apply(Key::Pause, &mut state));
        assert!(state.paused);
        assert!(
            apply(Key::Routes, &mut state),
            "new groups need a new answer"
        );
        assert!(!apply(Key::Sort, &mut state));
        assert_eq!(state.order, super::super::Order::Failures);
    }
}
