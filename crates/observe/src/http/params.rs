//! Query parameters, read strictly: every name must be known and come once.
//!
//! A misspelled parameter that is ignored would give a wrong answer that looks
//! right, so it is an error that says what is accepted.

use std::str::FromStr;

use axum::extract::Query;
use axum::http::Uri;
use whodunit_api::Range;

use crate::query::QueryError;

/// Longest value that is repeated in an error.
const SHOWN_CHARS: usize = 60;

/// The parameters of one request.
#[derive(Debug)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// Reads the query of `uri`, which may have the parameters `known`.
    pub(crate) fn read(uri: &Uri, known: &[&str]) -> Result<Self, QueryError> {
        let wrong = |message: String| QueryError::BadRequest {
            message,
            hint: match known {
                [] => "this path takes no query parameters".to_owned(),
                _ => format!("accepted: {}", known.join(", ")),
            },
        };
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| wrong(format!("query: {error}")))?;
        for (i, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                return Err(wrong(format!("unknown query parameter `{}`", shown(name))));
            }
            if pairs[..i].iter().any(|(before, _)| before == name) {
                return Err(wrong(format!("query parameter `{name}` comes twice")));
            }
        }
        Ok(Self { pairs })
    }

    /// Returns the text of a parameter; an empty one counts as absent.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let (_, value) = self.pairs.iter().find(|(found, _)| found == name)?;
        (!value.is_empty()).then(|| value.clone())
    }

    /// Returns the text of a parameter that has to be there.
    pub(crate) fn required(&self, name: &str, expected: &str) -> Result<String, QueryError> {
        self.text(name)
            .ok_or_else(|| QueryError::parameter(name, format!("is missing: expected {expected}")))
    }

    /// Returns a number.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, QueryError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|_| QueryError::parameter(name, format!("`{}` is not a number", shown(&text))))
    }

    /// Returns a switch: `true` or `false`, absent means false.
    pub(crate) fn switch(&self, name: &str) -> Result<bool, QueryError> {
        match self.text(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => Err(QueryError::parameter(
                name,
                format!("`{}` is not true or false", shown(text)),
            )),
        }
    }

    /// Returns the time range: `since` and `until`.
    pub(crate) fn range(&self) -> Range {
        Range {
            since: self.text("since"),
            until: self.text("until"),
        }
    }
}

/// Returns `text` fit for an error: short, without control characters.
pub(crate) fn shown(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(SHOWN_CHARS)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Params, QueryError> {
        let uri: Uri = format!("/stat?{query}").parse().expect("a URI");
        Params::read(&uri, &["kind", "limit", "follow"])
    }

    #[track_caller]
    fn refuses<T: std::fmt::Debug>(found: Result<T, QueryError>, says: &str) {
        let detail = found.expect_err(says).detail();
        let all = format!("{} {}", detail.message, detail.hint);
        assert!(all.contains(says), "{all}");
    }

    #[test]
    fn parameters_are_read_strictly() {
        let params = read("kind=a%20b&limit=5&follow=true").expect("valid");
        assert_eq!(params.text("kind").as_deref(), Some("a b"));
        assert_eq!(params.number::<u32>("limit"), Ok(Some(5)));
        assert_eq!(params.switch("follow"), Ok(true));
        assert!(read("kind=&limit=").expect("valid").text("kind").is_none());
        refuses(read("knid=x"), "unknown query parameter `knid`");
        refuses(read("knid=x"), "accepted: kind, limit, follow");
        refuses(read("kind=a&kind=b"), "`kind` comes twice");
        let params = read("limit=-1&follow=yes").expect("valid");
        refuses(params.number::<u32>("limit"), "`limit`: `-1`");
        refuses(params.switch("follow"), "`follow`: `yes`");
        refuses(params.required("kind", "a kind"), "expected a kind");
    }
}
