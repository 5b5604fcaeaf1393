//! Answers cut into objects as their bytes arrive, so that memory holds one object and not the list:
//! lines of a watch, items of a list. An object that is too long is skipped and counted.

use bytes::{Bytes, BytesMut};

/// Most bytes of one object; etcd takes requests up to 1.5 MiB, the largest objects are below 3 MB.
pub(super) const OBJECT_MAX: usize = 4 << 20;
/// Most bytes of a list around its items.
const FRAME_MAX: usize = 64 << 10;

/// Lines of a watch.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: BytesMut,
    // Bytes already looked at without finding an end.
    seen: usize,
    skipping: bool,
    skipped: u64,
}

impl Lines {
    /// Takes what has arrived.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole line.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        loop {
            let fresh = self.buffer.get(self.seen..).unwrap_or_default();
            let Some(at) = fresh.iter().position(|byte| *byte == b'\n') else {
                self.seen = self.buffer.len();
                if self.seen > OBJECT_MAX {
                    self.skipped += u64::from(!self.skipping);
                    self.skipping = true;
                }
                if self.skipping {
                    self.buffer = BytesMut::new();
                    self.seen = 0;
                }
                return None;
            };
            let line = self.buffer.split_to(self.seen + at + 1).freeze();
            self.seen = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if line.len() > OBJECT_MAX {
                self.skipped += 1;
            } else if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }

    /// Whether bytes of a line wait for its end.
    pub(super) fn is_inside(&self) -> bool {
        !self.buffer.is_empty() || self.skipping
    }

    /// Lines that were too long, since the last call.
    pub(super) fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }
}

/// Items of a list.
#[derive(Debug, Default)]
pub(in crate::source::live) struct Items {
    depth: usize,
    in_string: bool,
    escaped: bool,
    key: Vec<u8>,
    in_items: bool,
    item: Vec<u8>,
    skipping: bool,
    skipped: u64,
    frame: Vec<u8>,
    frame_full: bool,
    ended: bool,
}

impl Items {
    /// Takes what has arrived; `found` gets each whole item.
    pub(in crate::source::live) fn push(&mut self, piece: &[u8], mut found: impl FnMut(&[u8])) {
        for byte in piece {
            self.step(*byte, &mut found);
        }
    }

    fn step(&mut self, byte: u8, found: &mut impl FnMut(&[u8])) {
        let in_item = self.in_items && self.depth > 2;
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ if self.depth == 1 && self.key.len() < 16 => self.key.push(byte),
                _ => {}
            }
            return self.keep(byte, in_item);
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 {
                    self.key.clear();
                }
            }
            b'{' | b'[' => {
                if self.depth == 1 && byte == b'[' && self.key == b"items" {
                    self.in_items = true;
                    self.keep(byte, false);
                    self.depth = 2;
                    return;
                }
                self.depth += 1;
                let in_item = self.in_items && self.depth > 2;
                return self.keep(byte, in_item);
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.keep(byte, in_item);
                if in_item && self.depth == 2 {
                    self.finish_item(found);
                } else if self.depth < 2 {
                    self.in_items = false;
                }
                self.ended |= self.depth == 0;
                return;
            }
            _ => {}
        }
        self.keep(byte, in_item);
    }

    fn keep(&mut self, byte: u8, in_item: bool) {
        if in_item {
            if self.item.len() < OBJECT_MAX {
                self.item.push(byte);
            } else {
                self.skipping = true;
            }
        } else if !self.in_items || self.depth != 2 {
            if self.frame.len() < FRAME_MAX {
                self.frame.push(byte);
            } else {
                self.frame_full = true;
            }
        }
    }

    fn finish_item(&mut self, found: &mut impl FnMut(&[u8])) {
        if std::mem::take(&mut self.skipping) {
            self.skipped += 1;
            self.item = Vec::new();
        } else {
            found(&self.item);
            self.item.clear();
        }
    }

    /// The list without its items; `None` when its end has not come, or it is too long.
    pub(in crate::source::live) fn frame(&self) -> Option<&[u8]> {
        (self.ended && !self.frame_full).then_some(&self.frame)
    }

    /// Items that were too long.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn split(text: &str, step: usize) -> (Vec<Value>, Option<Value>) {
        let mut items = Items::default();
        let mut found = Vec::new();
        for piece in text.as_bytes().chunks(step.max(1)) {
            items.push(piece, |item| found.push(serde_json::from_slice(item).unwrap()));
        }
        let frame = items.frame().map(|frame| serde_json::from_slice(frame).unwrap());
        (found, frame)
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<i32>().prop_map(|number| json!(number)),
            "[\\PC\"\\\\{}\\[\\]]{0,8}".prop_map(|text| json!(text)),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z\"]{1,6}|items", inner, 0..4)
                    .prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_list_comes_apart_wherever_it_is_cut(
            bodies in prop::collection::vec(any_json(), 0..5),
            metadata in any_json(),
            step in 1..64usize,
            pretty: bool,
        ) {
            let items: Vec<Value> = bodies.into_iter().map(|body| json!({ "a": body })).collect();
            let list = json!({ "kind": "List", "items": items, "metadata": { "x": metadata } });
            let text = if pretty { format!("{list:#}") } else { list.to_string() };
            let (found, frame) = split(&text, step);
            prop_assert_eq!(&found, &items);
            let expected = json!({ "kind": "List", "items": [], "metadata": { "x": metadata } });
            prop_assert_eq!(frame, Some(expected));
        }

        #[test]
        fn rubbish_is_no_list(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let mut items = Items::default();
            items.push(&bytes, |_| {});
            let mut lines = Lines::default();
            lines.push(&bytes);
            while lines.next().is_some() {}
        }
    }

    #[test]
    fn a_list_without_its_end_has_no_frame() {
        assert_eq!(split(r#"{"items":[{"a":1},{"b"#, 3).1, None);
    }

    #[test]
    fn what_is_too_long_is_skipped_and_the_rest_is_not() {
        let big = "x".repeat(OBJECT_MAX + 1);
        let mut items = Items::default();
        let mut found = Vec::new();
        let text = format!(r#"{{"items":[{{"a":1}},{{"b":"{big}"}},{{"c":2}}]}}"#);
        items.push(text.as_bytes(), |item| found.push(item.to_vec()));
        assert_eq!(found, [br#"{"a":1}"#.to_vec(), br#"{"c":2}"#.to_vec()]);
        assert_eq!(items.skipped(), 1);

        let mut lines = Lines::default();
        let mut got = Vec::new();
        for piece in format!("one\n\n{big}\ntwo\n{big}").as_bytes().chunks(100_000) {
            lines.push(piece);
            got.extend(std::iter::from_fn(|| lines.next()));
            assert!(lines.buffer.len() <= OBJECT_MAX + 100_000);
        }
        assert_eq!(got, ["one\n", "two\n"]);
        assert_eq!(lines.take_skipped(), 2);
        assert!(lines.is_inside());
    }
}
