//! `emojivoto faults`: what can break, and switching it in a running voting service.

use std::io::Write;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use http::{Method, StatusCode};

use crate::faults::{State, TABLE, find, ground_truth};
use crate::http_client::HttpClient;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Examples:\n  emojivoto faults\n  emojivoto faults -o json\n  \
    emojivoto faults set slow-voting --addr 127.0.0.1:8801"
)]
pub(super) struct FaultsArgs {
    #[command(subcommand)]
    action: Option<Action>,

    /// Form of the list: json says, per fault, who is to blame and what to expect
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    output: Form,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// For people
    Table,
    /// The ground truth, for programs
    Json,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Switch the fault of a running voting service
    Set {
        /// Name of the fault; none repairs everything
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Show which fault a running voting service has
    Show {
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Args)]
struct Target {
    /// Loopback address and PROM_PORT of the voting service
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8801")]
    addr: String,
}

pub(super) async fn run(args: FaultsArgs) -> anyhow::Result<()> {
    let text = match (args.action, args.output) {
        (None, Form::Table) => table(),
        (None, Form::Json) => {
            let json = serde_json::to_string_pretty(&ground_truth()).context("print the faults")?;
            format!("{json}\n")
        }
        (Some(Action::Set { name, target }), _) => {
            let fault = find(&name)?;
            let state = ask(&target, Method::PUT, &format!("/faults/{}", fault.name)).await?;
            format!(
                "voting at {} now has the fault {}\n",
                target.addr, state.active
            )
        }
        (Some(Action::Show { target }), _) => {
            let state = ask(&target, Method::GET, "/faults").await?;
            let State {
                active, instance, ..
            } = state;
            format!(
                "voting at {}, instance {instance}, has the fault {active}\n",
                target.addr
            )
        }
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("write the answer")
}

fn table() -> String {
    let mut lines = vec![["NAME", "DEFAULT", "WHAT BREAKS"].map(str::to_owned)];
    for fault in TABLE {
        let default = fault
            .default_of
            .map_or("-".to_owned(), |era| format!("era {era}"));
        lines.push([fault.name.to_owned(), default, fault.description.to_owned()]);
    }
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let (name_width, default_width) = (width(0), width(1));
    lines
        .iter()
        .map(|[name, default, what]| {
            format!("{name:name_width$}  {default:default_width$}  {what}\n")
        })
        .collect()
}

async fn ask(target: &Target, method: Method, path: &str) -> anyhow::Result<State> {
    let addr = &target.addr;
    let mut client = HttpClient::new(addr, None).context("--addr is not valid")?;
    let (status, body) = client
        .request(method, path)
        .await
        .with_context(|| format!("ask the voting service at {addr} (its PROM_PORT)"))?;
    if status != StatusCode::OK {
        let text = String::from_utf8_lossy(&body);
        bail!("{addr} answered {status}: {}", text.trim());
    }
    serde_json::from_slice(&body)
        .with_context(|| format!("read the answer of {addr}: is it a voting service?"))
}
