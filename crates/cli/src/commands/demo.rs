//! `whodunit demo`: Emojivoto with a mesh around it, and the verdict by itself.

pub(crate) mod watch;

use std::path::Path;

use clap::Args;
use whodunit_control::mesh_file::{self, Mesh};
use whodunit_launch::state;

use super::run::{self, ServerArgs, Story};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::logging;
use crate::output::Stop;
use crate::session::Session;

/// The mesh of the demo.
const MESH: &str = include_str!("../../../../examples/emojivoto/mesh.toml");

/// Name of the demo: of its data directory, and in the file that commands find it by.
const NAME: &str = "demo";

const EXAMPLES: &str = "\
Examples:
  whodunit demo                    As in the talk, five votes a second
  whodunit demo --rate 1           At the talk's own pace
  whodunit demo --fault none       Nothing is broken, and nobody is accused
  whodunit demo --fault env-only   Only one instance of voting fails
  whodunit demo --era 2019         The application of a year later

Four processes that know nothing of the mesh (web, emoji, voting, vote-bot), one proxy beside
each, and the server. The verdict is printed as soon as there is one. Ctrl-C stops all in
order. Records are kept from one demo to the next; `emojivoto faults` lists the faults.";

/// Flags of `demo`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Votes per second [default: 5]
    #[arg(long, value_name = "VOTES", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Year whose application and bot run: 2018 (the talk) or 2019
    #[arg(long, value_name = "YEAR", value_parser = ["2018", "2019"])]
    era: Option<String>,
    /// Start of the random numbers: same seed, same votes
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// What is broken: poop, slow-voting, env-only, flaky or none
    #[arg(long, value_name = "FAULT")]
    fault: Option<String>,
    /// Port of the application; a taken one is replaced by a free one
    #[arg(long)]
    port: Option<u16>,
    #[command(flatten)]
    server: ServerArgs,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 10_000.0 => Ok(rate),
        _ => Err("a rate is a number of votes per second above 0, at most 10000".to_owned()),
    }
}

/// Runs the demo until it is told to stop.
pub(crate) async fn run(args: &DemoArgs, session: &Session) -> Result<Exit, Stop> {
    logging::start("warn")?;
    refuse_second().await?;
    let mesh = mesh(args)?;
    let options = run::options(NAME, &args.server, session).await?;
    run::supervise(mesh, options, &Story::Demo, session).await
}

/// A second demo would be a second answer to every question: it says where the first one is.
async fn refuse_second() -> Result<(), Failure> {
    let Some(other) = state::read(&state::default_path()).filter(|other| other.name == NAME) else {
        return Ok(());
    };
    let client = Client::new(&other.api.to_string())?;
    let answers = client
        .get::<whodunit_api::status::Status>("/status", &())
        .await;
    if answers.is_err() {
        // It is on its way up or down: the lock of its data directory decides.
        return Ok(());
    }
    let app = match &other.app {
        Some(app) => format!("its application is {app}, "),
        None => String::new(),
    };
    Err(Failure::failed(
        "a demo runs already",
        format!("process {}; {app}its API http://{}", other.pid, other.api),
    )
    .fix(format!(
        "`whodunit culprit` and every other command reach it; `kill {}` stops it",
        other.pid
    )))
}

/// Returns the built-in mesh with the flags in it.
fn mesh(args: &DemoArgs) -> Result<Mesh, Failure> {
    let mut mesh = mesh_file::parse(MESH, Path::new("emojivoto (built in)"))
        .map_err(|error| Failure::failed("", "").text(error.to_string()))?;
    let rate = args.rate.map(|rate| rate.to_string());
    let seed = args.seed.map(|seed| seed.to_string());
    // Variable, value, and the services that read it.
    let settings: [(&str, Option<&str>, &[&str]); 4] = [
        ("REQUEST_RATE", rate.as_deref(), &["vote-bot"]),
        (
            "EMOJIVOTO_ERA",
            args.era.as_deref(),
            &["emoji", "voting", "vote-bot"],
        ),
        ("EMOJIVOTO_SEED", seed.as_deref(), &["voting", "vote-bot"]),
        ("EMOJIVOTO_FAULT", args.fault.as_deref(), &["voting"]),
    ];
    for (variable, value, services) in settings {
        let Some(value) = value else { continue };
        for name in services {
            service(&mut mesh, name)?.set_env(variable, value);
        }
    }
    if let Some(port) = args.port {
        service(&mut mesh, "web")?.port = Some(port);
    }
    if args.fault.as_deref() == Some("env-only") {
        // One instance of several is what this fault is about.
        let voting = service(&mut mesh, "voting")?;
        voting.instances = voting.instances.max(2);
    }
    Ok(mesh)
}

fn service<'a>(mesh: &'a mut Mesh, name: &str) -> Result<&'a mut mesh_file::Service, Failure> {
    mesh.service_mut(name)
        .ok_or_else(|| Failure::failed("the built-in mesh is broken", format!("no service {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> DemoArgs {
        DemoArgs {
            rate: None,
            era: None,
            seed: None,
            fault: None,
            port: None,
            server: ServerArgs::default(),
        }
    }

    #[test]
    fn the_built_in_mesh_is_emojivoto() {
        let mesh = mesh(&args()).expect("the built-in mesh is a mesh");
        let names: Vec<&str> = mesh.services.iter().map(|s| s.name.as_str()).collect();
        for name in ["web", "emoji", "voting", "vote-bot"] {
            assert!(names.contains(&name), "{names:?}");
        }
    }

    #[test]
    fn flags_become_environment() {
        let mut mesh = mesh(&DemoArgs {
            rate: Some(20.0),
            era: Some("2019".to_owned()),
            seed: Some(7),
            fault: Some("env-only".to_owned()),
            port: Some(8088),
            ..args()
        })
        .expect("the built-in mesh is a mesh");
        assert_eq!(mesh.service_mut("web").and_then(|web| web.port), Some(8088));
        assert_eq!(mesh.service_mut("voting").map(|v| v.instances), Some(2));
        let bot = mesh.service_mut("vote-bot").expect("there is a bot");
        for variable in ["REQUEST_RATE", "EMOJIVOTO_ERA", "EMOJIVOTO_SEED"] {
            assert!(bot.env.contains_key(variable), "{variable}");
        }
    }

    #[test]
    fn rates_have_bounds() {
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "NaN", "inf", "fast", "1e9"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
