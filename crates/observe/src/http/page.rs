//! The page at `/`: what this is, the verdict now, and what to try. No script.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::http::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use axum::response::{Html, IntoResponse};
use whodunit_api::culprit::{Culprit, CulpritQuery};
use whodunit_api::status::Status;

use super::params::Params;
use super::{Answer, App};

/// Nothing but the page's own style may load.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.6 system-ui,sans-serif;max-width:44rem;margin:4rem auto;padding:0 1.25rem}\
h1{font-size:1.3rem;margin:0}\
.verdict{font-size:1.5rem;line-height:1.35;margin:2rem 0 .5rem}\
.quiet{opacity:.7;font-size:.9rem}\
pre{padding:.9rem 1rem;border:1px solid #8884;border-radius:.4rem;overflow:auto}\
a{color:inherit}";

/// Answers `/`.
pub(super) async fn page(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    Params::read(&uri, &[])?;
    let (verdict, status) = app
        .ask(|queries, now_us| {
            let verdict = queries.culprit(&CulpritQuery::default(), now_us);
            Ok((verdict, queries.status()))
        })
        .await?;
    let says = match &verdict {
        Ok(verdict) => sentence(verdict),
        Err(error) => error.to_string(),
    };
    let mut response = Html(render(&says, &status)).into_response();
    let policy = HeaderValue::from_static(POLICY);
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

fn sentence(verdict: &Culprit) -> String {
    match verdict.checked.requests {
        0 => "No request in the last ten minutes.".to_owned(),
        _ => verdict.says.clone(),
    }
}

fn render(says: &str, status: &Status) -> String {
    let (says, base) = (escape(says), whodunit_api::BASE);
    let (version, grpc) = (escape(&status.version), escape(&status.grpc));
    let data = escape(&status.data_dir);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
<title>Whodunit</title><style>{STYLE}</style></head><body>\
<h1>Whodunit</h1>\
<p class=\"quiet\">The forensic service mesh: every request is recorded, and the culprit is named.</p>\
<p class=\"verdict\">{says}</p>\
<p class=\"quiet\">Verdict on the last ten minutes, as of this answer. \
{records} records in {data}.</p>\
<h2>Ask from a terminal</h2>\
<pre>whodunit                 the verdict, with evidence\n\
whodunit stat workload   golden signals of each workload\n\
whodunit routes          golden signals of each route\n\
whodunit edges           who calls whom\n\
whodunit tap --failed    the failed requests themselves\n\
whodunit explain ID      one request, both sides, and the calls it made\n\
whodunit check           is the mesh itself well?</pre>\
<h2>Or over HTTP</h2>\
<p><a href=\"{base}/culprit\">culprit</a> · \
<a href=\"{base}/stat?kind=workload\">stat</a> · \
<a href=\"{base}/routes\">routes</a> · \
<a href=\"{base}/edges\">edges</a> · \
<a href=\"{base}/top\">top</a> · \
<a href=\"{base}/tap?limit=20\">tap</a> · \
<a href=\"{base}/check\">check</a> · \
<a href=\"{base}/status\">status</a> · \
<a href=\"/metrics\">metrics</a></p>\
<p class=\"quiet\">Version {version}. Proxies report to {grpc}.</p>\
</body></html>\n",
        records = status.records,
    )
}

/// Escapes text for HTML, attributes included.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_recorded_becomes_markup() {
        let status = Status {
            data_dir: "/<b>".to_owned(),
            ..Status::default()
        };
        let page = render("<script>alert('1')</script>", &status);
        assert!(!page.contains("<script"), "{page}");
        assert!(!page.contains("<b>"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)"), "{page}");
    }
}
