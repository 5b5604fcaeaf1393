//! What is in a capture, without concluding anything: times, hosts, pods, counts, loss, versions, and
//! whether its tail is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use serde::Serialize;

use super::{Item, Mark, Reader, Section, Stored, What};
use crate::capture_error::{CaptureError, CaptureErrorKind};
use crate::context::{Host, Loss, LossStage, Pod, Role, Scope};
use crate::record::{Record, RecordKind, Timestamp};
use crate::report::Ts;
use crate::text;

/// Most hosts and pods listed.
const LISTED_MAX: usize = 10_000;

/// What is in a capture.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Info {
    /// Version of this object.
    pub schema: u32,
    /// `svctrace`, `pcap`, `pcapng` or `scap`.
    pub format: String,
    /// Version of svctrace's format, `major.minor`; of the first section.
    pub format_version: Option<String>,
    /// Which recording it is of, by the time of its first record; of the first section.
    pub recording: Option<Ts>,
    /// Files of a ring: place of this one, from 0.
    pub index: Option<u32>,
    /// The earlier part of the recording is not needed to understand this one.
    pub stands_alone: bool,
    /// The recording ends as it should.
    pub complete: bool,
    /// It goes on in another file.
    pub continues: bool,
    /// What is wrong, and at which byte.
    pub damage: Option<Damage>,
    /// First record that is not part of a snapshot.
    pub first_ts: Option<Ts>,
    /// Last record.
    pub last_ts: Option<Ts>,
    /// Numbers of these.
    pub first_number: Option<u64>,
    /// Numbers of these.
    pub last_number: Option<u64>,
    /// Machines.
    pub hosts: Vec<HostInfo>,
    /// Pods that were traced or named, as `namespace/name`.
    pub pods: BTreeSet<String>,
    /// Traced cgroups with their role.
    pub scopes: BTreeMap<String, Role>,
    /// Records by kind, snapshots left out.
    pub records: BTreeMap<String, u64>,
    /// Repeated facts.
    pub snapshot_records: u64,
    /// Records lost while recording, by stage.
    pub lost: BTreeMap<LossStage, u64>,
    /// Blocks and records this version does not know.
    pub skipped: u64,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostInfo {
    /// Its boot.
    pub boot_id: String,
    /// Kubernetes node.
    pub node: Option<String>,
    /// Host name.
    pub hostname: String,
    /// Kernel release.
    pub kernel: String,
    /// Architecture.
    pub arch: String,
    /// svctrace that recorded.
    pub version: String,
}

/// Where a capture cannot be read on.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    /// Bytes from the start of the decompressed capture.
    pub offset: u64,
    /// Only its tail is missing; all before it is whole.
    pub tail_missing: bool,
    /// What is wrong.
    pub what: String,
}

impl Info {
    /// Reads a capture of svctrace to its end.
    pub fn read(reader: impl Read) -> Self {
        let mut info = Self { schema: 1, format: "svctrace".to_owned(), ..Self::default() };
        match Reader::new(reader) {
            Ok(mut reader) => {
                for item in reader.by_ref() {
                    match item {
                        Ok(Item::Section(section)) => info.section(section),
                        Ok(Item::Mark(mark)) => info.mark(mark),
                        Ok(Item::Record(stored)) => info.record(&stored),
                        Err(error) => info.damage(&error),
                    }
                }
                let skipped = reader.skipped();
                info.skipped = skipped.blocks + skipped.records;
            }
            Err(error) => info.damage(&error),
        }
        info
    }

    /// Reads a capture of another tool to its end.
    pub fn of_records(
        format: &str,
        records: impl Iterator<Item = Result<Record, CaptureError>>,
    ) -> Self {
        let mut info = Self {
            schema: 1,
            format: format.to_owned(),
            stands_alone: true,
            complete: true,
            ..Self::default()
        };
        for record in records {
            match record {
                Ok(record) => info.record(&Stored { record, snapshot: false }),
                Err(error) => info.damage(&error),
            }
        }
        info
    }

    fn damage(&mut self, error: &CaptureError) {
        self.complete = false;
        self.damage = Some(Damage {
            offset: error.offset,
            tail_missing: matches!(error.kind, CaptureErrorKind::TailMissing),
            what: text::visible(&error.kind.to_string()),
        });
    }

    fn section(&mut self, section: Section) {
        if self.format_version.is_none() {
            self.format_version = Some(format!("{}.{}", section.major, section.minor));
            self.index = Some(section.index);
            self.recording = Some(Ts(Timestamp(section.recording)));
        }
    }

    fn mark(&mut self, mark: Mark) {
        match mark.what {
            What::Snapshot if self.first_number.is_none() => {
                self.stands_alone = mark.missing == 0;
            }
            What::End => self.complete = true,
            What::Continues => (self.complete, self.continues) = (true, true),
            What::Snapshot | What::Other(_) => {}
        }
    }

    fn record(&mut self, stored: &Stored) {
        let record = &stored.record;
        self.fact(stored);
        if stored.snapshot {
            self.snapshot_records += 1;
            return;
        }
        *self.records.entry(format!("{:?}", record.kind)).or_default() += 1;
        self.first_number.get_or_insert(record.number);
        self.last_number = Some(record.number);
        let at = record.at;
        let earliest = self.first_ts.map_or(at, |first: Ts| first.0.min(at));
        let latest: Timestamp = self.last_ts.map_or(at, |last: Ts| last.0.max(at));
        (self.first_ts, self.last_ts) = (Some(Ts(earliest)), Some(Ts(latest)));
    }

    fn fact(&mut self, stored: &Stored) {
        let body = &stored.record.body;
        match stored.record.kind {
            RecordKind::Host => {
                let Ok(host) = serde_json::from_slice::<Host>(body) else { return };
                let clean = |word: &str| text::visible(word);
                let host = HostInfo {
                    boot_id: clean(&host.boot_id),
                    node: host.node.as_deref().map(clean),
                    hostname: clean(&host.hostname),
                    kernel: clean(&host.kernel),
                    arch: clean(&host.arch),
                    version: clean(&host.version),
                };
                if !self.hosts.contains(&host) && self.hosts.len() < LISTED_MAX {
                    self.hosts.push(host);
                }
            }
            RecordKind::Pod => {
                let Ok(pod) = serde_json::from_slice::<Pod>(body) else { return };
                if self.pods.len() < LISTED_MAX {
                    self.pods.insert(text::visible(&format!("{}/{}", pod.namespace, pod.name)));
                }
            }
            RecordKind::Scope => {
                let Ok(scope) = serde_json::from_slice::<Scope>(body) else { return };
                if self.scopes.len() < LISTED_MAX {
                    self.scopes.insert(text::visible(&scope.path), scope.role);
                }
            }
            RecordKind::Loss if !stored.snapshot => {
                let Ok(loss) = serde_json::from_slice::<Loss>(body) else { return };
                let lost = self.lost.entry(loss.stage).or_default();
                *lost = lost.saturating_add(loss.count);
            }
            _ => {}
        }
    }
}
