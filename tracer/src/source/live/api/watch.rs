//! Follows one resource for ever: a list (streamed where the server can, else in pages), then the
//! watch; lists again when the server no longer knows our version. Pauses grow with every failure.

use std::borrow::Cow;
use std::collections::HashSet;
use std::marker::PhantomData;
use std::time::Duration;

use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout};

use super::bounds::Cut;
use super::health::{self, Trouble};
use super::known::{Identity, Known, OBJECTS_MAX, Verdict};
use super::list::{PAGE_WITHIN, Page, escaped};
use super::pace::Pace;
use super::reporter::Reporter;
use super::request::{self, Answer, Failure, PIECE_WITHIN, Status};
use super::slim::{Meta, Named};
use super::split::Lines;
use crate::source::live::kubernetes::Fact;

/// Objects asked for at a time.
const PAGE: u32 = 250;
/// More pages are no list of a cluster.
const PAGES_MAX: usize = 8192;
/// The server is asked to end a watch after this many seconds.
const WATCH_S: u32 = 50;
/// A watch that has not said anything for this long, not even its end, is dead.
const SILENT: Duration = Duration::from_secs(58);
/// A watch that lived this long was no failure.
const LIVED: Duration = Duration::from_secs(20);
/// Failures in a row that an API which has worked is forgiven in silence: servers restart.
const FORGIVEN: u32 = 3;

/// A resource that can be followed.
pub(in crate::source::live) trait Followed:
    DeserializeOwned + Send + Sync + 'static
{
    /// As in paths.
    const PLURAL: &'static str;
    /// API group; empty for the core.
    const GROUP: &'static str;
    /// Its metadata.
    fn meta(&self) -> &Meta;
    /// What tells it from others.
    fn identity(&self) -> Identity;
    /// What is told of it, the addresses it has, and what had to be cut.
    fn fact(&self, deleted: bool) -> (Fact, usize, Cut);
    /// What is told when only the name of what is gone is known.
    fn gone(identity: &Identity) -> Fact;
}

/// Which objects.
#[derive(Clone, Debug, Default)]
pub(in crate::source::live) struct Place {
    /// Only in this namespace.
    pub(in crate::source::live) namespace: Option<String>,
    /// Field selector.
    pub(in crate::source::live) fields: Option<String>,
}

/// The path of a resource, with `?` and the selector.
pub(in crate::source::live) fn target(group: &str, plural: &str, place: &Place) -> String {
    let mut target = match group {
        "" => "/api/v1".to_owned(),
        group => format!("/apis/{group}/v1"),
    };
    if let Some(namespace) = &place.namespace {
        target += &format!("/namespaces/{}", escaped(namespace));
    }
    target += &format!("/{plural}?");
    if let Some(fields) = &place.fields {
        target += &format!("fieldSelector={}&", escaped(fields));
    }
    target
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// What a line of a watch says.
pub(super) enum Told<K> {
    /// No line of a watch, or none with an object of this kind.
    Malformed,
    /// A type of line that this version does not know.
    Unknown,
    /// The server ends the watch.
    Refused(Failure),
    /// How far the watch is; `end`: the streamed list is whole.
    Bookmark { end: bool, version: Option<String> },
    /// An object that came in `bytes` bytes.
    Object { object: K, deleted: bool, bytes: usize },
}

impl<K: DeserializeOwned> Told<K> {
    /// Reads one line.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let Ok(line) = serde_json::from_slice::<Line<'_>>(bytes) else { return Self::Malformed };
        let raw = line.object.get();
        match &*line.r#type {
            "ERROR" => {
                let status: Status = serde_json::from_str(raw).unwrap_or_default();
                Self::Refused(status.failure())
            }
            "BOOKMARK" => {
                let Named { metadata } = serde_json::from_str(raw).unwrap_or_default();
                let end = metadata.annotations.and_then(|all| all.initial_events_end);
                let end = end.is_some_and(|end| end == "true");
                Self::Bookmark { end, version: metadata.resource_version }
            }
            kind @ ("ADDED" | "MODIFIED" | "DELETED") => match serde_json::from_str(raw) {
                Ok(object) => Self::Object { object, deleted: kind == "DELETED", bytes: raw.len() },
                Err(_) => Self::Malformed,
            },
            _ => Self::Unknown,
        }
    }
}

/// What could not be told, since it was last said.
#[derive(Debug, Default)]
struct Refuse {
    malformed: u64,
    oversize: u64,
    left: u64,
}

/// One resource being followed.
pub(in crate::source::live) struct Watch<K> {
    client: Client,
    target: String,
    reporter: Reporter,
    known: Known,
    // Where the watch goes on; none: list first.
    version: Option<String>,
    streaming: bool,
    paging: bool,
    listed: bool,
    // Something came in this round.
    good: bool,
    pace: Pace,
    // Code of the latest failure.
    failed_last: u16,
    refuse: Refuse,
    reported: HashSet<Trouble>,
    born: Instant,
    kind: PhantomData<fn() -> K>,
}

impl<K: Followed> Watch<K> {
    /// Asks nothing yet.
    pub(in crate::source::live) fn new(client: Client, place: &Place, reporter: Reporter) -> Self {
        Self {
            client,
            target: target(K::GROUP, K::PLURAL, place),
            reporter,
            known: Known::default(),
            version: None,
            streaming: true,
            paging: true,
            listed: false,
            good: false,
            pace: Pace::default(),
            failed_last: 0,
            refuse: Refuse::default(),
            reported: HashSet::new(),
            born: Instant::now(),
            kind: PhantomData,
        }
    }

    /// Never ends.
    pub(in crate::source::live) async fn follow(mut self) {
        loop {
            let begun = Instant::now();
            self.good = false;
            let done = self.round().await;
            let lived = begun.elapsed();
            let pause = match done {
                Ok(()) => self.pace.after_end(lived),
                Err(failure) => {
                    tracing::debug!("Kubernetes API, {}: {failure}", K::PLURAL);
                    // A server that is back and has forgotten our version works: no long pause.
                    let back = failure.code() == 410 && self.failed_last != 410;
                    if back || self.good && lived >= LIVED {
                        self.pace.reset();
                    }
                    self.failed_last = failure.code();
                    let pause = self.pace.after(&failure);
                    self.tell_failure(&failure).await;
                    pause
                }
            };
            sleep(pause).await;
        }
    }

    async fn round(&mut self) -> Result<(), Failure> {
        if self.version.is_none() {
            if self.streaming {
                return self.streamed().await;
            }
            self.paged().await?;
        }
        let watch = format!(
            "{}watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_S}&resourceVersion={}",
            self.target,
            escaped(self.version.as_deref().unwrap_or_default())
        );
        let done = match request::get(&self.client, &watch).await {
            Ok(answer) => self.read(answer, false).await,
            Err(failure) => Err(failure),
        };
        // Expired, from the future (a restored etcd), or no version at all to this server.
        if let Err(Failure::Refused { code, .. }) = &done
            && !matches!(code, 401 | 403 | 429 | 500..504)
        {
            self.version = None;
        }
        done
    }

    /// The list as a watch that begins with everything there is.
    async fn streamed(&mut self) -> Result<(), Failure> {
        let target = format!(
            "{}watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_S}&sendInitialEvents=true\
             &resourceVersionMatch=NotOlderThan&resourceVersion=0",
            self.target
        );
        self.known.begin();
        let done = match request::get(&self.client, &target).await {
            Ok(answer) => self.read(answer, true).await,
            Err(failure) => Err(failure),
        };
        if let (Err(failure), None) = (&done, &self.version) {
            // Servers before 1.32, and some after it, cannot; others are only in trouble. Pages are
            // tried next, and after them the stream again.
            self.streaming = matches!(failure.code(), 401 | 403 | 410 | 429);
        } else if done.as_ref().is_err_and(|failure| failure.code() == 410) {
            self.version = None;
        }
        done
    }

    async fn paged(&mut self) -> Result<(), Failure> {
        // Whatever comes of it, the next list is tried the other way if this one fails.
        self.streaming = true;
        self.known.begin();
        let limit = if self.paging { format!("limit={PAGE}") } else { String::new() };
        let mut target = format!("{}{limit}", self.target);
        for _ in 0..PAGES_MAX {
            let read = timeout(PAGE_WITHIN, self.page(&target)).await;
            let meta = match read.unwrap_or(Err(Failure::Silent(PAGE_WITHIN))) {
                Err(failure) if failure.code() == 410 => {
                    // The pages take longer than the server remembers: all at once.
                    (self.paging, self.streaming) = (false, false);
                    return Err(failure);
                }
                other => other?,
            };
            match meta.r#continue {
                Some(token) => {
                    target = format!("{}{limit}&continue={}", self.target, escaped(&token))
                }
                None => {
                    self.version = meta.resource_version;
                    self.streaming = false;
                    self.complete().await;
                    return Ok(());
                }
            }
        }
        Err(Failure::Broken("a list without an end".into()))
    }

    async fn page(&mut self, target: &str) -> Result<super::list::ListMeta, Failure> {
        let mut page = Page::get(&self.client, target).await?;
        while let Some(objects) = page.next::<K>().await? {
            for (object, bytes) in objects {
                self.see(&object, bytes).await;
            }
        }
        let (malformed, oversize) = page.bad();
        self.refuse.malformed += malformed;
        self.refuse.oversize += oversize;
        page.end()
    }

    /// Reads lines until the server ends the watch. `listing`: until the bookmark that says so,
    /// these are the list.
    async fn read(&mut self, mut answer: Answer, mut listing: bool) -> Result<(), Failure> {
        let mut lines = Lines::default();
        let mut heard = Instant::now();
        loop {
            let within = if listing { PIECE_WITHIN } else { SILENT };
            let left = within.saturating_sub(heard.elapsed());
            let piece = match answer.piece(left).await {
                Err(Failure::Silent(_)) => return Err(Failure::Silent(within)),
                other => other?,
            };
            let Some(piece) = piece else { break };
            lines.push(&piece);
            while let Some(line) = lines.next() {
                heard = Instant::now();
                listing = self.line(&line, listing).await?;
            }
            self.refuse.oversize += lines.take_skipped();
            if !listing {
                self.tell_refuse().await;
            }
        }
        match (listing, lines.is_inside()) {
            (true, _) => Err(Failure::Broken("a list ends before its end".into())),
            (_, true) => Err(Failure::Broken("a watch ends within an object".into())),
            _ => Ok(()),
        }
    }

    /// Takes in a line; says whether the list still goes on.
    async fn line(&mut self, bytes: &[u8], listing: bool) -> Result<bool, Failure> {
        let version = match Told::<K>::read(bytes) {
            Told::Malformed => {
                self.refuse.malformed += 1;
                return Ok(listing);
            }
            Told::Unknown => return Ok(listing),
            Told::Refused(failure) => return Err(failure),
            Told::Bookmark { end, version } => {
                if listing && end {
                    self.version = version;
                    self.complete().await;
                    return Ok(false);
                }
                version
            }
            Told::Object { object, deleted, bytes } => {
                if deleted {
                    self.lose(&object, bytes).await;
                } else {
                    self.see(&object, bytes).await;
                }
                object.meta().resource_version.clone()
            }
        };
        self.good = true;
        if !listing && let Some(version) = version {
            self.version = Some(version);
        }
        Ok(listing)
    }

    async fn see(&mut self, object: &K, bytes: usize) {
        let (fact, weight, Some(cut)) = object.fact(false) else {
            self.refuse.malformed += 1;
            return;
        };
        self.refuse.oversize += cut;
        let identity = object.identity();
        match self.known.see(&identity, weight) {
            Verdict::Tell => self.reporter.tell(fact, bytes).await,
            Verdict::Leave => self.refuse.left += 1,
            Verdict::Drop => {
                self.refuse.left += 1;
                self.reporter.tell(K::gone(&identity), bytes).await;
            }
        }
    }

    async fn lose(&mut self, object: &K, bytes: usize) {
        if let (fact, _, Some(_)) = object.fact(true)
            && self.known.forget(&object.identity())
        {
            self.reporter.tell(fact, bytes).await;
        }
    }

    /// The list is whole.
    async fn complete(&mut self) {
        self.good = true;
        for identity in self.known.swept() {
            self.reporter.tell(K::gone(&identity), 0).await;
        }
        if !self.listed {
            self.listed = true;
            let (count, ms) = (self.known.len(), self.born.elapsed().as_millis());
            tracing::info!("Kubernetes API: {count} {} known after {ms} ms", K::PLURAL);
            self.reporter.tell(Fact::Listed(K::PLURAL), 0).await;
        }
        self.tell_refuse().await;
    }

    async fn tell_failure(&mut self, failure: &Failure) {
        let trouble = health::of(failure, K::PLURAL);
        let blip =
            trouble == Trouble::Unavailable && self.listed && self.pace.failures() <= FORGIVEN;
        if !blip {
            self.tell_trouble(trouble, &failure.to_string()).await;
        }
    }

    /// Says what was left out or cut.
    async fn tell_refuse(&mut self) {
        let Refuse { malformed, oversize, left } = std::mem::take(&mut self.refuse);
        if malformed > 0 {
            self.tell_trouble(Trouble::Malformed(K::PLURAL), &malformed.to_string()).await;
        }
        if oversize > 0 {
            self.tell_trouble(Trouble::Oversize(K::PLURAL), &oversize.to_string()).await;
        }
        if left > 0 {
            let most = self.known.len().min(OBJECTS_MAX);
            self.tell_trouble(Trouble::TooMany(K::PLURAL), &most.to_string()).await;
        }
    }

    async fn tell_trouble(&mut self, trouble: Trouble, detail: &str) {
        if self.reported.insert(trouble.clone()) {
            let words = health::words(&trouble, K::GROUP, detail);
            self.reporter.tell(Fact::Trouble(trouble, words), 0).await;
        }
    }
}
