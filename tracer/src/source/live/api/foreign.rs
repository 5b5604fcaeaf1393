//! Bytes of a server straight into what reads lists and watches. Asks no server.

use serde::de::DeserializeOwned;

use super::known::{Known, Verdict};
use super::split::{Items, Lines};
use super::watch::{Followed, Told};
use crate::source::live::kubernetes::Fact;

/// The facts of a watch whose bytes come `piece` at a time.
pub(in crate::source::live) fn watch<K: Followed>(bytes: &[u8], piece: usize) -> Vec<Fact> {
    let (mut lines, mut known, mut facts) = (Lines::default(), Known::default(), Vec::new());
    known.begin();
    for piece in bytes.chunks(piece.max(1)) {
        lines.push(piece);
        while let Some(line) = lines.next() {
            match Told::<K>::read(&line) {
                Told::Object { object, deleted, .. } => {
                    facts.extend(fact(&object, deleted, &mut known));
                }
                Told::Bookmark { end: true, .. } => {
                    facts.extend(known.swept().iter().map(K::gone));
                }
                _ => {}
            }
        }
    }
    facts
}

/// The facts of a page of a list whose bytes come `piece` at a time.
pub(in crate::source::live) fn list<K: Followed + DeserializeOwned>(
    bytes: &[u8],
    piece: usize,
) -> Vec<Fact> {
    let (mut items, mut known, mut facts) = (Items::default(), Known::default(), Vec::new());
    known.begin();
    for piece in bytes.chunks(piece.max(1)) {
        items.push(piece, |item| {
            if let Ok(object) = serde_json::from_slice::<K>(item) {
                facts.extend(fact(&object, false, &mut known));
            }
        });
    }
    facts
}

fn fact<K: Followed>(object: &K, deleted: bool, known: &mut Known) -> Option<Fact> {
    let (fact, weight, cut) = object.fact(deleted);
    cut?;
    if deleted {
        return known.forget(&object.identity()).then_some(fact);
    }
    match known.see(&object.identity(), weight) {
        Verdict::Tell => Some(fact),
        Verdict::Leave => None,
        Verdict::Drop => Some(K::gone(&object.identity())),
    }
}
