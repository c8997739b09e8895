//! The emoji service: knows the list.

use std::sync::Arc;

use tonic::Status;

use crate::catalog::{self, Emoji, Era};
use crate::metrics::Metrics;
use crate::rpc::{self, Methods, RawRequest, RawResponse};
use crate::v1;

/// Full name of the gRPC service.
pub const SERVICE: &str = "emojivoto.v1.EmojiService";

/// The service's state: a list that never changes, and counters.
#[derive(Debug)]
pub struct EmojiService {
    list: &'static [Emoji],
    metrics: Arc<Metrics>,
}

impl EmojiService {
    /// Serves the list of an era.
    pub fn new(era: Era) -> Self {
        Self {
            list: catalog::list(era),
            metrics: Arc::new(Metrics::new(SERVICE)),
        }
    }

    /// The counters, for the metrics page.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// The answer to ListAll.
    pub fn list_all(&self) -> v1::ListAllEmojiResponse {
        v1::ListAllEmojiResponse {
            list: self.list.iter().map(message).collect(),
        }
    }

    /// The answer to FindByShortcode.
    pub fn find(&self, shortcode: &str) -> v1::FindByShortcodeResponse {
        let emoji = self
            .list
            .iter()
            .find(|emoji| emoji.shortcode == shortcode)
            .map(message);
        v1::FindByShortcodeResponse { emoji }
    }
}

fn message(emoji: &Emoji) -> v1::Emoji {
    v1::Emoji {
        unicode: emoji.unicode.to_owned(),
        shortcode: emoji.shortcode.to_owned(),
    }
}

impl Methods for EmojiService {
    const SERVICE: &'static str = SERVICE;

    async fn call(self: Arc<Self>, method: String, request: RawRequest) -> RawResponse {
        match method.as_str() {
            "ListAll" => {
                rpc::unary(request, move |_: v1::ListAllEmojiRequest| {
                    let this = Arc::clone(&self);
                    async move {
                        this.metrics
                            .measure("ListAll", async { Ok(this.list_all()) })
                            .await
                    }
                })
                .await
            }
            "FindByShortcode" => {
                rpc::unary(request, move |question: v1::FindByShortcodeRequest| {
                    let this = Arc::clone(&self);
                    async move {
                        let found = async { Ok::<_, Status>(this.find(&question.shortcode)) };
                        this.metrics.measure("FindByShortcode", found).await
                    }
                })
                .await
            }
            _ => rpc::unknown_method(SERVICE, &method),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn the_list_of_2019_is_2135_bytes_on_the_wire() {
        assert_eq!(EmojiService::new(Era::Y2019).list_all().encoded_len(), 2135);
    }

    #[test]
    fn an_unknown_emoji_is_absent() {
        let service = EmojiService::new(Era::Y2018);
        assert_eq!(service.find(":nobody:").emoji, None);
        assert_eq!(service.find(":poop:").emoji.unwrap().unicode, "\u{1F4A9}");
    }
}
