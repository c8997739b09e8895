//! What a command is about: `KIND` or `KIND/NAME`, as in kubectl.

use std::fmt;
use std::str::FromStr;

use crate::failure::Failure;

/// A kind of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Deployment, statefulset, process group.
    Workload,
    /// Pod or process.
    Instance,
    /// The name callers use.
    Service,
    /// Namespace.
    Namespace,
    /// Route.
    Route,
}

impl Kind {
    /// The name the API uses.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Instance => "instance",
            Self::Service => "service",
            Self::Namespace => "namespace",
            Self::Route => "route",
        }
    }
}

impl FromStr for Kind {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "workload" | "workloads" | "wl" | "deploy" | "deployment" | "deployments" | "sts"
            | "statefulset" | "statefulsets" | "ds" | "daemonset" | "daemonsets" => Self::Workload,
            "instance" | "instances" | "po" | "pod" | "pods" => Self::Instance,
            "service" | "services" | "svc" => Self::Service,
            "namespace" | "namespaces" | "ns" => Self::Namespace,
            "route" | "routes" => Self::Route,
            _ => return Err(TargetError(text.to_owned())),
        })
    }
}

/// A kind, or one thing of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The kind.
    pub(crate) kind: Kind,
    /// The name, if one thing is meant.
    pub(crate) name: Option<String>,
}

impl FromStr for Target {
    type Err = TargetError;

    /// Splits at the first slash: names of routes contain slashes themselves.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        match text.split_once('/') {
            None => Ok(Self {
                kind: text.parse()?,
                name: None,
            }),
            Some((kind, name)) => Ok(Self {
                kind: kind.parse().map_err(|_| TargetError(text.to_owned()))?,
                name: Some(name.to_owned()).filter(|name| !name.is_empty()),
            }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}/{name}", self.kind.name()),
            None => f.write_str(self.kind.name()),
        }
    }
}

/// Not a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetError(String);

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds =
            "workload (deploy, sts, ds), instance (po), service (svc), namespace (ns) or route";
        match self.0.split_once('/') {
            Some((kind, _)) => write!(f, "`{kind}` is no kind: it is {kinds}"),
            None => write!(
                f,
                "`{}` is no kind: say KIND or KIND/NAME, for example workload/web; KIND is {kinds}",
                self.0
            ),
        }
    }
}

impl std::error::Error for TargetError {}

/// `KIND/NAME` or `KIND NAME`, as arguments.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct TargetArgs {
    /// What is meant: KIND or KIND/NAME. KIND is workload (deploy, sts, ds), instance (po),
    /// service (svc), namespace (ns) or route
    #[arg(value_name = "KIND[/NAME]")]
    target: Option<String>,

    /// The name, if not given after a slash
    #[arg(value_name = "NAME", hide = true)]
    name: Option<String>,
}

impl TargetArgs {
    /// Returns the target, if any was named.
    ///
    /// # Errors
    /// When the first word is no kind.
    pub(crate) fn target(&self) -> Result<Option<Target>, Failure> {
        let Some(text) = &self.target else {
            return Ok(None);
        };
        let mut target: Target = text.parse().map_err(usage)?;
        if target.name.is_none() {
            target.name.clone_from(&self.name);
        }
        Ok(Some(target))
    }

    /// Returns the target of a command that shows calls of workloads and services; there a
    /// name alone will do.
    ///
    /// # Errors
    /// When another kind is named, or something that is none.
    pub(crate) fn caller_or_callee(&self, command: &str) -> Result<Option<Target>, Failure> {
        if let (Some(name), None) = (&self.target, &self.name)
            && !name.contains('/')
            && name.parse::<Kind>().is_err()
        {
            return Ok(Some(Target {
                kind: Kind::Workload,
                name: Some(name.clone()),
            }));
        }
        let target = self.target()?;
        match &target {
            Some(target) if matches!(target.kind, Kind::Instance | Kind::Route) => {
                Err(Failure::usage(format!("{command} of `{target}`"))
                    .why("calls are grouped by workload, service and namespace here")
                    .fix(format!(
                        "name one of these, as in `whodunit {command} workload/web`, or use \
                         `whodunit stat {target}`"
                    )))
            }
            _ => Ok(target),
        }
    }
}

fn usage(error: TargetError) -> Failure {
    Failure::usage(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found = match text.parse::<Target>() {
            Ok(target) => target.to_string(),
            Err(error) => error.to_string(),
        };
        assert!(found.starts_with(expected), "{text}: {found}");
    }

    #[test]
    fn kinds_have_the_aliases_of_kubectl() {
        check("deploy/web", "workload/web");
        check("sts", "workload");
        check("po/web-0", "instance/web-0");
        check("svc/voting", "service/voting");
        check("ns", "namespace");
        check("route/GET /api/vote", "route/GET /api/vote");
        check("Workloads", "workload");
    }

    #[test]
    fn a_name_alone_will_do_where_calls_are_shown() {
        let args = |words: &[&str]| TargetArgs {
            target: words.first().map(|word| (*word).to_owned()),
            name: words.get(1).map(|word| (*word).to_owned()),
        };
        let check = |words: &[&str], expected: &str| {
            let found = match args(words).caller_or_callee("routes") {
                Ok(target) => target.map_or_else(String::new, |target| target.to_string()),
                Err(failure) => failure.what,
            };
            assert_eq!(found, expected, "{words:?}");
        };
        check(&[], "");
        check(&["voting"], "workload/voting");
        check(&["svc/voting"], "service/voting");
        check(&["deploy", "voting"], "workload/voting");
        check(&["deploy"], "workload");
        check(&["po/web-0"], "routes of `instance/web-0`");
        assert!(args(&["voting"]).target().is_err(), "elsewhere it will not");
    }

    #[test]
    fn what_is_no_kind_is_named() {
        check("web", "`web` is no kind: say KIND or KIND/NAME");
        check("dog/web", "`dog` is no kind");
    }
}
