//! Link layers: finds the IP packet in a frame. Looks no further than that.

use etherparse::{EtherType, Ethernet2Slice, SingleVlanSlice, ether_type};

/// Tags in front of a packet.
const TAGS_MAX: usize = 4;
const SLL_HEADER: usize = 16;
const SLL2_HEADER: usize = 20;

/// What a frame holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// From the IP header on; anything may follow the packet.
    Ip(&'a [u8]),
    /// Something else, or too short.
    Other,
    /// This link type is not known.
    UnknownLink,
}

/// `link`: a `LINKTYPE_*` number.
pub(super) fn content(link: u32, frame: &[u8]) -> Content<'_> {
    let tagged = |tag: usize, header: usize| {
        let tag = frame.get(tag..)?.first_chunk().map(|tag| EtherType(u16::from_be_bytes(*tag)))?;
        behind_tags(tag, frame.get(header..)?)
    };
    let ip = match link {
        1 => Ethernet2Slice::from_slice_without_fcs(frame)
            .ok()
            .and_then(|frame| behind_tags(frame.ether_type(), frame.payload_slice())),
        113 => tagged(14, SLL_HEADER),
        276 => tagged(0, SLL2_HEADER),
        // Null and loop: four bytes of address family, whose numbers differ from system to system.
        0 | 108 => frame.get(4..),
        12 | 14 | 101 | 228 | 229 => Some(frame),
        _ => return Content::UnknownLink,
    };
    let looks_so = |ip: &&[u8]| matches!(ip.first().map(|first| first >> 4), Some(4 | 6));
    ip.filter(looks_so).map_or(Content::Other, Content::Ip)
}

fn behind_tags(mut kind: EtherType, mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..=TAGS_MAX {
        match kind {
            ether_type::IPV4 | ether_type::IPV6 => return Some(rest),
            ether_type::VLAN_TAGGED_FRAME
            | ether_type::PROVIDER_BRIDGING
            | ether_type::VLAN_DOUBLE_TAGGED_FRAME => {
                let tag = SingleVlanSlice::from_slice(rest).ok()?;
                (kind, rest) = (tag.ether_type(), tag.payload_slice());
            }
            _ => return None,
        }
    }
    None
}
