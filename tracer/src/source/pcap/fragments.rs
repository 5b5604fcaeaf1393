//! IP fragments to whole packets, with bounded state: what waits too long or is too much is dropped
//! and counted.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use etherparse::defrag::IpDefragBuf;
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, LaxIpSlice};

use crate::fragment::{self, Fragment};
use crate::record::Timestamp;

/// As long as Linux waits.
const WAIT_NS: u64 = 30_000_000_000;
/// Packets under way.
const PACKETS_MAX: usize = 256;

type Key = (IpAddr, IpAddr, u32, u8);

struct Pending {
    buffer: IpDefragBuf,
    begun: Timestamp,
}

/// Packets under way.
#[derive(Default)]
pub(super) struct Fragments {
    pending: BTreeMap<Key, Pending>,
    /// Oldest first; may name finished ones.
    order: VecDeque<(Timestamp, Key)>,
    /// Packets given up.
    lost: u64,
}

impl Fragments {
    /// Takes a fragment; the whole packet from its IP header on when it was the last missing one.
    pub(super) fn add(&mut self, ip: &LaxIpSlice<'_>, at: Timestamp) -> Option<Vec<u8>> {
        self.expire(at);
        let Fragment { id, offset, more } = fragment::of(ip)?;
        let payload = ip.payload();
        let key = (ip.source_addr(), ip.destination_addr(), id, payload.ip_number.0);
        if payload.incomplete {
            self.lost += 1; // cut at the snap length: the hole can never be filled
            return None;
        }
        let order = &mut self.order;
        let pending = self.pending.entry(key).or_insert_with(|| {
            order.push_back((at, key));
            let buffer = IpDefragBuf::new(payload.ip_number, Vec::new(), Vec::new());
            Pending { buffer, begun: at }
        });
        if pending.buffer.add(offset, more, payload.payload).is_err() {
            self.pending.remove(&key);
            self.lost += 1;
            return None;
        }
        if !pending.buffer.is_complete() {
            return None;
        }
        let whole = self.pending.remove(&key)?;
        let (bytes, _) = whole.buffer.take_bufs();
        let packet = whole_packet(ip, payload.ip_number, &bytes);
        self.lost += u64::from(packet.is_none()); // longer than a packet can be
        packet
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.order.front().copied() {
            if now.since(at) < WAIT_NS && self.order.len() < PACKETS_MAX {
                break;
            }
            self.order.pop_front();
            if self.pending.get(&key).is_some_and(|pending| pending.begun == at) {
                self.pending.remove(&key);
                self.lost += 1;
            }
        }
    }

    /// Nothing follows: how many packets never became whole.
    pub(super) fn finish(&mut self) -> u64 {
        let waiting = std::mem::take(&mut self.pending).len() as u64;
        std::mem::take(&mut self.lost) + waiting
    }
}

/// A header without fragmentation in front of the reassembled payload.
fn whole_packet(ip: &LaxIpSlice<'_>, protocol: IpNumber, payload: &[u8]) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(payload.len() + 40);
    match ip {
        LaxIpSlice::Ipv4(v4) => {
            let old = v4.header();
            let length = u16::try_from(payload.len()).ok()?;
            let ttl = old.ttl();
            let mut header =
                Ipv4Header::new(length, ttl, protocol, old.source(), old.destination()).ok()?;
            header.identification = old.identification();
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut packet).ok()?;
        }
        LaxIpSlice::Ipv6(v6) => {
            let old = v6.header();
            let header = Ipv6Header {
                traffic_class: old.traffic_class(),
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: u16::try_from(payload.len()).ok()?,
                next_header: protocol,
                hop_limit: old.hop_limit(),
                source: old.source(),
                destination: old.destination(),
            };
            header.write(&mut packet).ok()?;
        }
    }
    packet.extend_from_slice(payload);
    Some(packet)
}
