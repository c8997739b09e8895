//! Interim responses on their way to an HTTP/2 client.
//!
//! An HTTP/1 client has a connection that they can be written to at once; a stream of HTTP/2
//! belongs to the task that serves it. What is passed here while that task asks for the
//! response is taken by it as soon as it has asked, so that nothing of it ever waits.

use std::cell::RefCell;

use http::{Response, StatusCode};

use crate::h1::ResponseHead;
use crate::limits::Limit;

/// Most that wait for the task at a time.
const WAITING_MAX: usize = Limit::Interim.count();

thread_local! {
    static WAITING: RefCell<Vec<Response<()>>> = const { RefCell::new(Vec::new()) };
}

/// Passes the interim response of an endpoint on; `100 Continue` is ours to say.
pub(crate) fn pass(response: Response<()>) {
    if response.status() != StatusCode::CONTINUE {
        wait(response);
    }
}

/// Passes one of an HTTP/1 endpoint on.
pub(crate) fn pass_head(head: ResponseHead) {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.fields.into_map();
    pass(response);
}

/// Asks a client that waits for it to go on with its body.
pub(super) fn go_on() {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::CONTINUE;
    wait(response);
}

fn wait(response: Response<()>) {
    WAITING.with_borrow_mut(|waiting| {
        if waiting.len() < WAITING_MAX {
            waiting.push(response);
        }
    });
}

/// Takes what waits.
pub(super) fn take() -> Vec<Response<()>> {
    WAITING.with_borrow_mut(std::mem::take)
}
