//! A page of a list, item by item as it arrives.

use std::time::Duration;

use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::request::{self, Answer, Failure, PIECE_WITHIN};
use super::split::Items;

/// What a list says about itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::source::live) struct ListMeta {
    pub(in crate::source::live) resource_version: Option<String>,
    /// Asks for the next page.
    pub(in crate::source::live) r#continue: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Frame {
    metadata: ListMeta,
}

/// A page that is being read.
pub(in crate::source::live) struct Page {
    answer: Answer,
    items: Items,
    malformed: u64,
}

impl Page {
    /// Asks for it.
    pub(in crate::source::live) async fn get(
        client: &Client,
        target: &str,
    ) -> Result<Self, Failure> {
        let answer = request::get(client, target).await?;
        Ok(Self { answer, items: Items::default(), malformed: 0 })
    }

    /// The next objects with their lengths, possibly none yet; `None` at the end.
    pub(in crate::source::live) async fn next<K: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<Vec<(K, usize)>>, Failure> {
        let Some(piece) = self.answer.piece(PIECE_WITHIN).await? else { return Ok(None) };
        let mut found = Vec::new();
        let mut malformed = 0;
        self.items.push(&piece, |item| match serde_json::from_slice(item) {
            Ok(object) => found.push((object, item.len())),
            Err(_) => malformed += 1,
        });
        self.malformed += malformed;
        Ok(Some(found))
    }

    /// Items that were no objects of this kind, and items that were too long.
    pub(in crate::source::live) fn bad(&self) -> (u64, u64) {
        (self.malformed, self.items.skipped())
    }

    /// After the last item: where the next page is, and the version of all of them.
    pub(in crate::source::live) fn end(self) -> Result<ListMeta, Failure> {
        let frame = self.items.frame();
        let frame = frame.ok_or_else(|| Failure::Broken("a list ends before its end".into()))?;
        let frame: Frame = serde_json::from_slice(frame)
            .map_err(|_| Failure::Broken("a list that is none".into()))?;
        let mut meta = frame.metadata;
        meta.r#continue = meta.r#continue.filter(|token| !token.is_empty());
        Ok(meta)
    }
}

/// Longest time for one page.
pub(super) const PAGE_WITHIN: Duration = Duration::from_secs(120);

/// For a value in a query.
pub(in crate::source::live) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
