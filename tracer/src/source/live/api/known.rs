//! What was told of one resource, so that what was deleted while the watch was away can be told as
//! deleted, and so that no cluster is too large for memory.

use std::collections::HashMap;

/// Most objects of one resource.
pub(super) const OBJECTS_MAX: usize = 16_384;
/// Most addresses of all of them.
pub(super) const WEIGHT_MAX: usize = 65_536;

/// What tells an object from others of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::source::live) struct Identity {
    pub(in crate::source::live) namespace: Box<str>,
    pub(in crate::source::live) name: Box<str>,
    /// Empty for kinds that go by name.
    pub(in crate::source::live) uid: Box<str>,
}

#[derive(Debug)]
struct Told {
    list: u64,
    weight: usize,
}

/// Identities told so far, with the list that had them last.
#[derive(Debug, Default)]
pub(super) struct Known {
    told: HashMap<Identity, Told>,
    weight: usize,
    list: u64,
}

/// What to do with an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Tell it.
    Tell,
    /// No room, and it was not told before.
    Leave,
    /// No room any more: it was told, and has to be told as gone.
    Drop,
}

impl Known {
    /// A list begins.
    pub(super) fn begin(&mut self) {
        self.list += 1;
    }

    /// An object with this many addresses is there.
    pub(super) fn see(&mut self, identity: &Identity, weight: usize) -> Verdict {
        let old = self.told.get(identity).map(|told| told.weight);
        let others = self.weight - old.unwrap_or(0);
        let full = old.is_none() && self.told.len() >= OBJECTS_MAX;
        if full || others + weight > WEIGHT_MAX {
            self.forget(identity);
            return if old.is_some() { Verdict::Drop } else { Verdict::Leave };
        }
        self.weight = others + weight;
        self.told.insert(identity.clone(), Told { list: self.list, weight });
        Verdict::Tell
    }

    /// It is gone; false when it was never told.
    pub(super) fn forget(&mut self, identity: &Identity) -> bool {
        let told = self.told.remove(identity);
        self.weight -= told.as_ref().map_or(0, |told| told.weight);
        told.is_some()
    }

    /// The list is complete: what it did not have is gone.
    pub(super) fn swept(&mut self) -> Vec<Identity> {
        let list = self.list;
        let gone: Vec<Identity> =
            self.told.iter().filter(|at| at.1.list != list).map(|at| at.0.clone()).collect();
        for identity in &gone {
            self.forget(identity);
        }
        gone
    }

    /// How many are told.
    pub(super) fn len(&self) -> usize {
        self.told.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Identity {
        Identity { name: name.into(), ..Identity::default() }
    }

    #[test]
    fn what_a_list_lacks_is_gone() {
        let mut known = Known::default();
        known.begin();
        for name in ["a", "b", "c"] {
            assert_eq!(known.see(&named(name), 1), Verdict::Tell);
        }
        assert!(known.swept().is_empty());
        assert!(known.forget(&named("c")) && !known.forget(&named("c")));
        known.begin();
        known.see(&named("b"), 1);
        assert_eq!(known.swept(), [named("a")]);
        assert_eq!((known.len(), known.weight), (1, 1));
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let mut known = Known::default();
        assert_eq!(known.see(&named("a"), WEIGHT_MAX - 1), Verdict::Tell);
        assert_eq!(known.see(&named("b"), 1), Verdict::Tell);
        assert_eq!(known.see(&named("c"), 1), Verdict::Leave);
        assert_eq!(known.see(&named("b"), 2), Verdict::Drop);
        assert_eq!(known.see(&named("c"), 1), Verdict::Tell);
        assert_eq!(known.see(&named("a"), 0), Verdict::Tell);
        for number in 0..OBJECTS_MAX - 2 {
            assert_eq!(known.see(&named(&number.to_string()), 0), Verdict::Tell);
        }
        assert_eq!(known.see(&named("d"), 0), Verdict::Leave);
        assert_eq!(known.see(&named("a"), 0), Verdict::Tell);
    }
}
