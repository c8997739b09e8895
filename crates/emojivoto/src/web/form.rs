//! Form values of a request as Go's `FormValue` finds them: in the body of a POST, PUT or
//! PATCH first, then in the query. What cannot be decoded is left out.

use std::collections::BTreeMap;

use axum::body::Body;
use http::request::Parts;
use http::{Method, header};

/// Longest body that is searched for values. A longer one counts as empty.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The values, by name.
#[derive(Debug, Default)]
pub(super) struct Form {
    /// Body and query, body first.
    pub(super) all: BTreeMap<String, Vec<String>>,
    /// Body alone.
    pub(super) post: BTreeMap<String, Vec<String>>,
}

impl Form {
    /// The first value of this name, or an empty text.
    pub(super) fn value(&self, name: &str) -> &str {
        self.all
            .get(name)
            .and_then(|values| values.first())
            .map_or("", String::as_str)
    }

    fn add_post(&mut self, name: String, value: String) {
        self.post
            .entry(name.clone())
            .or_default()
            .push(value.clone());
        self.all.entry(name).or_default().push(value);
    }
}

/// Reads the values of a request.
pub(super) async fn read(head: &Parts, body: Body) -> Form {
    let mut form = Form::default();
    if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
        let kind = head
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX)
            .await
            .unwrap_or_default();
        for (name, value) in body_values(kind.unwrap_or_default(), &bytes) {
            form.add_post(name, value);
        }
    }
    for (name, value) in pairs(head.uri.query().unwrap_or_default().as_bytes()) {
        form.all.entry(name).or_default().push(value);
    }
    form
}

fn body_values(kind: &str, body: &[u8]) -> Vec<(String, String)> {
    let (media, parameters) = kind.split_once(';').unwrap_or((kind, ""));
    match media.trim().to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" => pairs(body),
        "multipart/form-data" => match parameter(parameters, "boundary") {
            Some(boundary) => parts(&boundary, body),
            None => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The pairs of `a=1&b=2`; those with a broken escape or a semicolon are left out.
fn pairs(text: &[u8]) -> Vec<(String, String)> {
    text.split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty() && !pair.contains(&b';'))
        .filter_map(|pair| {
            let end = pair
                .iter()
                .position(|byte| *byte == b'=')
                .unwrap_or(pair.len());
            let value = pair.get(end + 1..).unwrap_or_default();
            Some((decoded(&pair[..end])?, decoded(value)?))
        })
        .collect()
}

fn decoded(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => hex(*rest.next()?)? << 4 | hex(*rest.next()?)?,
            byte => *byte,
        });
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// The fields of a multipart body, without uploaded files.
fn parts(boundary: &str, body: &[u8]) -> Vec<(String, String)> {
    let body = String::from_utf8_lossy(body);
    let delimiter = format!("--{boundary}");
    let mut values = Vec::new();
    for part in body.split(delimiter.as_str()).skip(1) {
        let Some((head, content)) = part.split_once("\r\n\r\n") else {
            continue;
        };
        let disposition = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-disposition")
                .then_some(value)
        });
        let parameters = disposition
            .and_then(|value| value.split_once(';'))
            .map(|(_, rest)| rest);
        let Some(parameters) = parameters else {
            continue;
        };
        if parameter(parameters, "filename").is_some() {
            continue;
        }
        if let Some(name) = parameter(parameters, "name") {
            let content = content.strip_suffix("\r\n").unwrap_or(content);
            values.push((name, content.to_owned()));
        }
    }
    values
}

/// A parameter of a header value, such as `boundary` in `; boundary="x"`.
fn parameter(text: &str, name: &str) -> Option<String> {
    text.split(';').find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim()
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(method: &str, uri: &str, kind: &str, body: &str) -> Form {
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header(header::CONTENT_TYPE, kind)
            .body(())
            .unwrap();
        let head = request.into_parts().0;
        let body = Body::from(body.to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(read(&head, body))
    }

    const ENCODED: &str = "application/x-www-form-urlencoded";

    #[track_caller]
    fn check(method: &str, uri: &str, kind: &str, body: &str, expected: &str) {
        assert_eq!(form(method, uri, kind, body).value("choice"), expected);
    }

    #[test]
    fn the_query_is_searched() {
        check("GET", "/api/vote?choice=:joy:", "", "", ":joy:");
        check(
            "GET",
            "/api/vote?x=1&choice=%3Ajoy%3a&choice=b",
            "",
            "",
            ":joy:",
        );
        check("GET", "/api/vote?choice=a+b", "", "", "a b");
        check("GET", "/api/vote", "", "", "");
        check("GET", "/api/vote?choice", "", "", "");
    }

    #[test]
    fn the_body_of_a_post_comes_first() {
        check("POST", "/api/vote", ENCODED, "choice=%3Ajoy%3A", ":joy:");
        check("POST", "/api/vote?choice=b", ENCODED, "choice=a", "a");
        check("POST", "/api/vote?choice=b", "text/plain", "choice=a", "b");
        check("GET", "/api/vote?choice=b", ENCODED, "choice=a", "b");
    }

    #[test]
    fn a_multipart_field_is_found() {
        let kind = "multipart/form-data; boundary=\"xyz\"";
        let body = "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n\
                    no\r\n--xyz\r\ncontent-disposition: form-data; name=\"choice\"\r\n\r\n:joy:\r\n\
                    --xyz--\r\n";
        check("POST", "/api/vote", kind, body, ":joy:");
        check("POST", "/api/vote", "multipart/form-data", body, "");
    }

    #[test]
    fn what_cannot_be_decoded_is_left_out() {
        check("GET", "/api/vote?choice=%zz&choice=ok", "", "", "ok");
        check("GET", "/api/vote?choice=a;b", "", "", "");
        check("GET", "/api/vote?choice=%4", "", "", "");
        let long = format!("choice={}", "a".repeat(BODY_BYTES_MAX));
        check("POST", "/api/vote", ENCODED, &long, "");
    }
}
