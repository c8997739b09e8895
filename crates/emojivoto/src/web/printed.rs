//! A request as Go prints its `http.Request` struct: the noise that fills the error log
//! of the original, field for field, and says nothing of what went wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::Request;
use http::{HeaderMap, Version, header};

use super::form::Form;

/// The printout.
pub(super) struct Printed {
    method: String,
    uri: String,
    version: Version,
    headers: String,
    body_bytes: u64,
    host: String,
    form: String,
    post: String,
    peer: SocketAddr,
}

impl Printed {
    /// Prints a request without form values.
    pub(super) fn new(request: &Request, peer: SocketAddr) -> Self {
        let text = |name| {
            request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let uri = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        Self {
            method: request.method().to_string(),
            uri: uri.to_owned(),
            version: request.version(),
            headers: headers(request.headers()),
            body_bytes: text(header::CONTENT_LENGTH)
                .and_then(|n| n.parse().ok())
                .unwrap_or(0),
            host: text(header::HOST).unwrap_or_default().to_owned(),
            form: "map[]".to_owned(),
            post: "map[]".to_owned(),
            peer,
        }
    }

    /// Adds the form values.
    pub(super) fn with_form(mut self, form: &Form) -> Self {
        self.form = map(&form.all);
        self.post = map(&form.post);
        self
    }
}

impl fmt::Display for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            method,
            uri,
            headers,
            body_bytes,
            host,
            form,
            post,
            peer,
            ..
        } = self;
        let (proto, minor) = match self.version {
            Version::HTTP_10 => ("HTTP/1.0", 0),
            _ => ("HTTP/1.1", 1),
        };
        let body = if *body_bytes == 0 {
            "{}".to_owned()
        } else {
            pointer()
        };
        let context = pointer();
        // Method, URL, Proto, ProtoMajor, ProtoMinor, Header, Body, GetBody, ContentLength,
        // TransferEncoding, Close, Host, Form, PostForm, MultipartForm, Trailer, RemoteAddr,
        // RequestURI, TLS, Cancel, Response, ctx.
        write!(
            f,
            "&{{{method} {uri} {proto} 1 {minor} {headers} {body} <nil> {body_bytes} [] false \
             {host} {form} {post} <nil> map[] {peer} {uri} <nil> <nil> <nil> {context}}}"
        )
    }
}

/// Stands where Go prints an address in its heap: different each time, and of no use.
fn pointer() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0xc0_0010_a000);
    format!("{:#x}", NEXT.fetch_add(0x140, Ordering::Relaxed))
}

/// Headers by canonical name. Credentials are not printed: no log needs them.
fn headers(headers: &HeaderMap) -> String {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        // Go keeps the host in a field of its own.
        if name == header::HOST {
            continue;
        }
        let secret = name == header::AUTHORIZATION
            || name == header::PROXY_AUTHORIZATION
            || name == header::COOKIE;
        let text = if secret {
            "[redacted]".to_owned()
        } else {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        values
            .entry(canonical(name.as_str()))
            .or_default()
            .push(text);
    }
    map(&values)
}

fn canonical(name: &str) -> String {
    let capitalized = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    name.split('-')
        .map(capitalized)
        .collect::<Vec<_>>()
        .join("-")
}

/// A map of lists: `map[choice:[:poop:]]`, sorted by key.
fn map(values: &BTreeMap<String, Vec<String>>) -> String {
    let entries: Vec<_> = values
        .iter()
        .map(|(name, values)| format!("{name}:[{}]", values.join(" ")))
        .collect();
    format!("map[{}]", entries.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_prints_as_gos_struct() {
        let request = Request::builder()
            .uri("/api/vote?choice=:poop:")
            .header("host", "web.example")
            .header("user-agent", "Go-http-client/1.1")
            .header("accept-encoding", "gzip")
            .header("cookie", "secret=1")
            .body(axum::body::Body::empty())
            .unwrap();
        let mut form = Form::default();
        form.all
            .insert("choice".to_owned(), vec![":poop:".to_owned()]);
        let printed = Printed::new(&request, "10.0.0.7:40312".parse().unwrap()).with_form(&form);
        let text = printed.to_string();
        let expected = "&{GET /api/vote?choice=:poop: HTTP/1.1 1 1 \
            map[Accept-Encoding:[gzip] Cookie:[[redacted]] User-Agent:[Go-http-client/1.1]] {} \
            <nil> 0 [] false web.example map[choice:[:poop:]] map[] <nil> map[] 10.0.0.7:40312 \
            /api/vote?choice=:poop: <nil> <nil> <nil> 0xc0";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with('}'), "{text}");
    }
}
