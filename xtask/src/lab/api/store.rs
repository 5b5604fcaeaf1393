//! The objects as of now and every change since the endpoint started, with resource versions.

use std::collections::BTreeMap;

use serde_json::json;

use crate::lab::objects::{self, Object};
use crate::lab::state::World;

/// One change, as a watch tells it.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) kind: &'static str,
    pub(super) object: Object,
    /// As it was.
    pub(super) before: Option<Object>,
    version: u64,
}

/// Objects, the log of changes, and the latest version.
#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<(&'static str, String, String), Object>,
    log: Vec<Change>,
    oldest: u64,
    /// Of the last change that was forgotten.
    forgotten: u64,
    version: u64,
}

impl Store {
    /// The lab as it is, with versions from `first` on: watches from before that have expired.
    pub(super) fn new(world: &World, first: u64) -> Self {
        let mut store = Self {
            objects: BTreeMap::new(),
            log: Vec::new(),
            oldest: first,
            forgotten: 0,
            version: first,
        };
        store.update(world);
        // What was there at the start is no news to a watch from that version.
        store.oldest = store.version;
        store.log.clear();
        store
    }

    /// Holds these, and nothing of how they came.
    pub(super) fn of(objects: Vec<Object>) -> Self {
        let (log, first) = (Vec::new(), 1000);
        let mut store =
            Self { objects: BTreeMap::new(), log, oldest: first, forgotten: 0, version: first };
        for object in objects {
            store.put(object);
        }
        store.compact();
        store
    }

    /// Adds or replaces an object.
    pub(super) fn put(&mut self, object: Object) {
        let old = self.objects.remove(&object.key());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        self.log(kind, object, old, true);
    }

    /// Takes an object away; false when there was none.
    pub(super) fn remove(&mut self, key: &(&'static str, String, String)) -> bool {
        let Some(old) = self.objects.remove(key) else { return false };
        self.log("DELETED", old.clone(), Some(old), false);
        true
    }

    /// Forgets all changes: watches from before now have expired.
    pub(super) fn compact(&mut self) {
        self.forgotten = self.log.last().map_or(self.forgotten, |change| change.version);
        self.log.clear();
        self.version += 1;
        self.oldest = self.version;
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Version of the last change that can no longer be told.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(super) fn oldest(&self) -> u64 {
        self.oldest
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    pub(super) fn changes_after(&self, version: u64) -> impl Iterator<Item = &Change> {
        self.log.iter().filter(move |change| change.version > version)
    }

    /// Takes over a new state of the lab; says whether anything differs.
    pub(super) fn update(&mut self, world: &World) -> bool {
        let before = self.version;
        let mut gone = std::mem::take(&mut self.objects);
        for object in objects::all(world) {
            let key = object.key();
            match gone.remove(&key) {
                Some(old) if same(&old, &object) => {
                    self.objects.insert(key, old);
                }
                Some(old) => self.log("MODIFIED", object, Some(old), true),
                None => self.log("ADDED", object, None, true),
            }
        }
        for object in gone.into_values() {
            self.log("DELETED", object.clone(), Some(object), false);
        }
        self.version != before
    }

    fn log(&mut self, kind: &'static str, mut object: Object, before: Option<Object>, stays: bool) {
        self.version += 1;
        if let Some(metadata) = object.body.get_mut("metadata") {
            metadata["resourceVersion"] = json!(self.version.to_string());
        }
        if stays {
            self.objects.insert(object.key(), object.clone());
        }
        self.log.push(Change { kind, object, before, version: self.version });
    }
}

/// Equal but for the resource version, which a fresh object does not have.
fn same(old: &Object, new: &Object) -> bool {
    let mut old = old.clone();
    if let Some(metadata) = old.body.get_mut("metadata").and_then(|value| value.as_object_mut()) {
        metadata.remove("resourceVersion");
    }
    old == *new
}
