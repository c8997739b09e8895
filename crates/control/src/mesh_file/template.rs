//! Texts with placeholders, checked when the file is read and filled in when
//! the mesh starts.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;

use super::error::{list, nearest};

/// Placeholders that need no further name.
const PLAIN: [&str; 6] = ["data", "folder", "index", "instance", "port", "self"];

/// Names that a service cannot have, because placeholders have them.
pub(super) const RESERVED: [&str; 7] =
    ["data", "env", "folder", "index", "instance", "port", "self"];

/// A text whose placeholders are all known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Placeholder),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Placeholder {
    Port,
    NamedPort(String),
    Itself(Piece),
    Callee(String, Piece),
    Instance,
    Index,
    Data,
    Folder,
    Env {
        name: String,
        default: Option<String>,
    },
}

/// How much of an address is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Whole,
    Host,
    Port,
}

/// How placeholders are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// `{port}`; `{{` and `}}` stand for single braces. Used in the mesh file.
    Braces,
    /// `{{port}}`; `{{{{` stands for two braces. Used in template files, most
    /// of which are full of single braces.
    DoubleBraces,
}

/// What the placeholders of one service may name.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// What the service calls.
    pub calls: &'a [String],
    /// Names of its further ports.
    pub ports: &'a BTreeMap<String, u16>,
    /// All services and externals of the mesh, for better errors.
    pub known: &'a [String],
}

/// A placeholder that cannot be used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceholderError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
    /// The bytes of the text that are meant.
    pub span: Range<usize>,
}

/// The values of one instance.
pub struct Values<'a> {
    /// Port the application listens on, if it listens at all.
    pub port: Option<u16>,
    /// Further ports of the application.
    pub ports: &'a BTreeMap<String, u16>,
    /// Where the instance's inbound proxy listens.
    pub itself: Option<SocketAddr>,
    /// Where the instance's outbound proxy listens for each callee.
    pub callees: &'a BTreeMap<String, SocketAddr>,
    /// Name of the instance.
    pub instance: &'a str,
    /// Number of the instance, 0 is the first.
    pub index: u16,
    /// Folder of the instance's own.
    pub data: &'a Path,
    /// Folder of the mesh file.
    pub folder: &'a Path,
    /// Looks up environment variables of the launcher.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// A value that is missing when the mesh starts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The environment variable is not set.
    #[error(
        "environment variable `{0}` is not set; set it, or give a default with `{{env:{0}:-VALUE}}`"
    )]
    NoVariable(String),
    /// The value was not given; the mesh file's own checks make this impossible.
    #[error("there is no value for `{{{0}}}`")]
    NoValue(String),
}

impl Template {
    /// Makes a text without placeholders.
    #[must_use]
    pub fn literal(text: &str) -> Self {
        Self {
            parts: vec![Part::Text(text.to_owned())],
        }
    }

    /// Reads a text.
    pub fn parse(text: &str, syntax: Syntax, scope: Scope<'_>) -> Result<Self, PlaceholderError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let (open, close) = syntax.marks();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let at = text.len() - rest.len();
            if let Some(after) = syntax
                .escaped_open()
                .and_then(|mark| rest.strip_prefix(mark))
            {
                literal.push_str(open);
                rest = after;
            } else if syntax == Syntax::Braces && rest.starts_with("}}") {
                literal.push('}');
                rest = &rest[2..];
            } else if let Some(after) = rest.strip_prefix(open) {
                let Some(end) = after.find(close) else {
                    return Err(PlaceholderError {
                        message: format!("`{open}` opens a placeholder that does not end"),
                        help: format!(
                            "close it with `{close}`, or write `{open}{open}` for the mark itself"
                        ),
                        span: at..text.len(),
                    });
                };
                let span = at..at + open.len() + end + close.len();
                let placeholder = parse_placeholder(&after[..end], syntax, scope, span)?;
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                parts.push(Part::Value(placeholder));
                rest = &after[end + close.len()..];
            } else {
                literal.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts })
    }

    /// Fills in the values.
    pub fn render(&self, values: &Values<'_>) -> Result<String, RenderError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Value(placeholder) => text.push_str(&placeholder.value(values)?),
            }
        }
        Ok(text)
    }

    /// Whether the application's port is named.
    #[must_use]
    pub fn uses_port(&self) -> bool {
        self.parts.contains(&Part::Value(Placeholder::Port))
    }

    /// Returns what follows `http://{self}`, if the text begins so and the rest is fixed.
    pub(super) fn behind_itself(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [
                Part::Text(scheme),
                Part::Value(Placeholder::Itself(_)),
                rest @ ..,
            ] if scheme == "http://" => match rest {
                [] => Some(""),
                [Part::Text(path)] => Some(path),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the address of the inbound proxy is named.
    #[must_use]
    pub fn uses_itself(&self) -> bool {
        let is_itself = |part: &Part| matches!(part, Part::Value(Placeholder::Itself(_)));
        self.parts.iter().any(is_itself)
    }

    /// Returns the text before the first placeholder.
    #[must_use]
    pub fn literal_start(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// Whether nothing can come of it but the empty text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

impl Syntax {
    fn marks(self) -> (&'static str, &'static str) {
        match self {
            Self::Braces => ("{", "}"),
            Self::DoubleBraces => ("{{", "}}"),
        }
    }

    fn escaped_open(self) -> Option<&'static str> {
        match self {
            Self::Braces => Some("{{"),
            Self::DoubleBraces => Some("{{{{"),
        }
    }
}

fn parse_placeholder(
    inner: &str,
    syntax: Syntax,
    scope: Scope<'_>,
    span: Range<usize>,
) -> Result<Placeholder, PlaceholderError> {
    let inner = if syntax == Syntax::DoubleBraces {
        inner.trim()
    } else {
        inner
    };
    let error = |message, help| {
        Err(PlaceholderError {
            message,
            help,
            span: span.clone(),
        })
    };
    if let Some(name) = inner.strip_prefix("port:") {
        if scope.ports.contains_key(name) {
            return Ok(Placeholder::NamedPort(name.to_owned()));
        }
        let known = list(scope.ports.keys().map(String::as_str));
        return error(
            format!("`{{{inner}}}` names a port that is not in `ports`"),
            format!("add `ports = {{ {name} = 0 }}`; ports with names: {known}"),
        );
    }
    if let Some(variable) = inner.strip_prefix("env:") {
        let (name, default) = match variable.split_once(":-") {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (variable, None),
        };
        if name.is_empty() || name.contains(['=', '\0']) {
            return error(
                format!("`{{{inner}}}` names no environment variable"),
                "write `{env:NAME}` or `{env:NAME:-DEFAULT}`".to_owned(),
            );
        }
        return Ok(Placeholder::Env {
            name: name.to_owned(),
            default,
        });
    }
    match inner {
        "port" => return Ok(Placeholder::Port),
        "instance" => return Ok(Placeholder::Instance),
        "index" => return Ok(Placeholder::Index),
        "data" => return Ok(Placeholder::Data),
        "folder" => return Ok(Placeholder::Folder),
        _ => {}
    }
    let (name, piece) = match inner.rsplit_once('.') {
        Some((name, "host")) => (name, Piece::Host),
        Some((name, "port")) => (name, Piece::Port),
        _ => (inner, Piece::Whole),
    };
    if name == "self" {
        return Ok(Placeholder::Itself(piece));
    }
    if scope.calls.iter().any(|callee| callee == name) {
        return Ok(Placeholder::Callee(name.to_owned(), piece));
    }
    if scope.known.iter().any(|known| known == name) {
        return error(
            format!("`{{{inner}}}` names a service that this one does not call"),
            format!("add `{name}` to `calls`"),
        );
    }
    let mut names: Vec<&str> = scope
        .calls
        .iter()
        .map(String::as_str)
        .chain(PLAIN)
        .collect();
    let meant = nearest(name, names.iter().copied());
    names.extend(["port:NAME", "env:NAME"]);
    names.sort_unstable();
    let known = list(names);
    let (open, close) = syntax.marks();
    let meant = meant
        .map(|meant| format!("did you mean `{open}{meant}{close}`? "))
        .unwrap_or_default();
    let escape = syntax.escaped_open().unwrap_or_default();
    error(
        format!("unknown placeholder `{open}{inner}{close}`"),
        format!("{meant}there are {known}; write `{escape}` for `{open}` itself"),
    )
}

impl Placeholder {
    fn value(&self, values: &Values<'_>) -> Result<String, RenderError> {
        let missing = || RenderError::NoValue(self.to_string());
        Ok(match self {
            Self::Port => values.port.ok_or_else(missing)?.to_string(),
            Self::NamedPort(name) => values.ports.get(name).ok_or_else(missing)?.to_string(),
            Self::Itself(piece) => piece.of(values.itself.ok_or_else(missing)?),
            Self::Callee(name, piece) => piece.of(*values.callees.get(name).ok_or_else(missing)?),
            Self::Instance => values.instance.to_owned(),
            Self::Index => values.index.to_string(),
            Self::Data => values.data.display().to_string(),
            Self::Folder => values.folder.display().to_string(),
            Self::Env { name, default } => match ((values.env)(name), default) {
                (Some(value), _) => value,
                (None, Some(default)) => default.clone(),
                (None, None) => return Err(RenderError::NoVariable(name.clone())),
            },
        })
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port => f.write_str("port"),
            Self::NamedPort(name) => write!(f, "port:{name}"),
            Self::Itself(piece) => write!(f, "self{}", piece.suffix()),
            Self::Callee(name, piece) => write!(f, "{name}{}", piece.suffix()),
            Self::Instance => f.write_str("instance"),
            Self::Index => f.write_str("index"),
            Self::Data => f.write_str("data"),
            Self::Folder => f.write_str("folder"),
            Self::Env { name, .. } => write!(f, "env:{name}"),
        }
    }
}

impl Piece {
    fn of(self, address: SocketAddr) -> String {
        match self {
            Self::Whole => address.to_string(),
            Self::Host => address.ip().to_string(),
            Self::Port => address.port().to_string(),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Host => ".host",
            Self::Port => ".port",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope<'a>(
        calls: &'a [String],
        ports: &'a BTreeMap<String, u16>,
        known: &'a [String],
    ) -> Scope<'a> {
        Scope {
            calls,
            ports,
            known,
        }
    }

    fn render(text: &str, syntax: Syntax) -> Result<String, String> {
        let calls = ["emoji".to_owned()];
        let known = ["emoji".to_owned(), "voting".to_owned()];
        let ports = BTreeMap::from([("prom".to_owned(), 0)]);
        let template = Template::parse(text, syntax, scope(&calls, &ports, &known))
            .map_err(|error| format!("{}; {} @{:?}", error.message, error.help, error.span))?;
        let address = SocketAddr::from(([127, 0, 0, 1], 15_001));
        let values = Values {
            port: Some(9_000),
            ports: &BTreeMap::from([("prom".to_owned(), 9_001)]),
            itself: Some(SocketAddr::from(([127, 0, 0, 1], 8_080))),
            callees: &BTreeMap::from([("emoji".to_owned(), address)]),
            instance: "web-1",
            index: 1,
            data: Path::new("/data/web-1"),
            folder: Path::new("/mesh"),
            env: &|name| (name == "HOME").then(|| "/home/me".to_owned()),
        };
        template.render(&values).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(render(text, Syntax::Braces).as_deref(), Ok(expected));
    }

    #[test]
    fn placeholders_become_values() {
        check(
            "{port} {self} {emoji} {instance} {index}",
            "9000 127.0.0.1:8080 127.0.0.1:15001 web-1 1",
        );
        check("{data}/x {folder}/y", "/data/web-1/x /mesh/y");
        check(
            "{self.port} {emoji.host} {emoji.port}",
            "8080 127.0.0.1 15001",
        );
        check("{port:prom}", "9001");
        check("{env:HOME} {env:NOT_SET:-a b}", "/home/me a b");
        check("{env:NOT_SET:-}", "");
        check("{{port}} {{}} }", "{port} {} }");
        check("", "");
    }

    #[test]
    fn template_files_use_double_braces() {
        let rendered = render("server { listen {{ port }}; } {{{{ x", Syntax::DoubleBraces);
        assert_eq!(rendered.as_deref(), Ok("server { listen 9000; } {{ x"));
    }

    #[test]
    fn an_unset_variable_is_named() {
        let error = render("{env:NOT_SET}", Syntax::Braces).unwrap_err();
        assert!(
            error.starts_with("environment variable `NOT_SET` is not set"),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_known_is_refused_with_the_way_out() {
        expect_test::expect![[r#"
            unknown placeholder `{emjoi}`; did you mean `{emoji}`? there are `data`, `emoji`, `env:NAME`, `folder`, `index`, `instance`, `port`, `port:NAME` and `self`; write `{{` for `{` itself @2..9
            `{voting}` names a service that this one does not call; add `voting` to `calls` @0..8
            `{port:x}` names a port that is not in `ports`; add `ports = { x = 0 }`; ports with names: `prom` @0..8
            `{` opens a placeholder that does not end; close it with `}`, or write `{{` for the mark itself @1..5
            `{env:}` names no environment variable; write `{env:NAME}` or `{env:NAME:-DEFAULT}` @0..6
        "#]]
        .assert_eq(
            &["a {emjoi}", "{voting}", "{port:x}", "x{abc", "{env:}"]
                .map(|text| render(text, Syntax::Braces).unwrap_err() + "\n")
                .concat(),
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let ports = BTreeMap::new();
            for syntax in [Syntax::Braces, Syntax::DoubleBraces] {
                if let Err(error) = Template::parse(&text, syntax, scope(&[], &ports, &[])) {
                    prop_assert!(text.get(error.span).is_some());
                }
            }
        }

        #[test]
        fn text_without_braces_is_kept(text in "[^{}]{0,40}") {
            check(&text, &text);
        }
    }
}
