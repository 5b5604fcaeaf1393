//! Where a packet stands among the fragments of a datagram. The codec's own iterator over IPv6
//! extension headers reads past the end of packets that were cut inside one (etherparse 0.21), so
//! they are walked here, every header checked.

use etherparse::{
    IpAuthHeaderSlice, IpFragOffset, Ipv6FragmentHeaderSlice, Ipv6RawExtHeaderSlice, LaxIpSlice,
    ip_number,
};

/// A fragment's place (RFC 791, RFC 8200 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// Identification of the datagram.
    pub(crate) id: u32,
    /// Offset of its payload.
    pub(crate) offset: IpFragOffset,
    /// Others follow.
    pub(crate) more: bool,
}

/// The packet's place; `None` for IPv6 without a fragment header.
pub(crate) fn of(ip: &LaxIpSlice<'_>) -> Option<Fragment> {
    match ip {
        LaxIpSlice::Ipv4(v4) => {
            let header = v4.header();
            Some(Fragment {
                id: u32::from(header.identification()),
                offset: header.fragments_offset(),
                more: header.more_fragments(),
            })
        }
        LaxIpSlice::Ipv6(v6) => {
            let (mut next, mut rest) = (v6.header().next_header(), v6.extensions().slice());
            loop {
                let (following, length) = match next {
                    ip_number::IPV6_HOP_BY_HOP
                    | ip_number::IPV6_ROUTE
                    | ip_number::IPV6_DEST_OPTIONS => {
                        let header = Ipv6RawExtHeaderSlice::from_slice(rest).ok()?;
                        (header.next_header(), header.slice().len())
                    }
                    ip_number::AUTH => {
                        let header = IpAuthHeaderSlice::from_slice(rest).ok()?;
                        (header.next_header(), header.slice().len())
                    }
                    ip_number::IPV6_FRAG => {
                        let header = Ipv6FragmentHeaderSlice::from_slice(rest).ok()?;
                        return Some(Fragment {
                            id: header.identification(),
                            offset: header.fragment_offset(),
                            more: header.more_fragments(),
                        });
                    }
                    _ => return None,
                };
                next = following;
                rest = rest.get(length..)?;
            }
        }
    }
}

/// Only a datagram's first fragment has a transport header.
pub(crate) fn is_later(ip: &LaxIpSlice<'_>) -> bool {
    of(ip).is_some_and(|fragment| fragment.offset.value() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv6 header with `next` and what follows it.
    fn packet(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        bytes[4..6].copy_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend([0; 32]);
        bytes.extend(rest);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Fragment> {
        of(&LaxIpSlice::from_slice(bytes).unwrap().0)
    }

    #[test]
    fn behind_other_headers() {
        let options = [44, 0, 1, 4, 0, 0, 0, 0];
        let fragment = [17, 0, 0x01, 0x69, 0, 0, 0x12, 0x34];
        let found = read(&packet(60, &[options, fragment].concat())).unwrap();
        assert_eq!((found.id, found.offset.value(), found.more), (0x1234, 45, true));
        assert_eq!(read(&packet(17, &[0; 8])), None);
    }

    #[test]
    fn headers_cut_anywhere_are_no_fragment() {
        let headers = [[44, 0, 1, 4, 0, 0, 0, 0], [17, 0, 0, 8, 0, 0, 0, 1]].concat();
        for end in 0..headers.len() {
            assert_eq!(read(&packet(60, &headers[..end])), None, "{end}");
        }
        // Hop-by-hop must come first; the codec stops there, and so do we.
        assert_eq!(read(&packet(60, &[0, 0, 1, 4, 0, 0, 0, 0])), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes(next in 0_u8..61, rest in proptest::collection::vec(0_u8..64, 0..64)) {
            let _ = read(&packet(next, &rest));
        }
    }
}
