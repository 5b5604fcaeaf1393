//! DNS messages through hickory-proto, kept as far as they can be read. The only file that names
//! hickory; TCP framing is not its concern.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::{MX, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError, Restrict};

use super::name::{Room, plain};
use crate::digits;
use crate::event::{Answer, EdnsOptions, Message, Question};
use crate::text;

/// Why in [`Message::undecoded`] when the snap length, not the sender, cut the message.
pub const SNAPPED: &str = "truncated by snap length";

/// More than any real message holds, and few enough for a message made of compression pointers.
const RECORDS_MAX: usize = 1024;
/// Longest text of one answer's data.
const DATA_MAX: usize = 4096;
const HEADER: usize = 12;
/// Options of one OPT record.
const OPTIONS_MAX: usize = 64;
/// Largest message the two length bytes of DNS over TCP can announce.
const MESSAGE_MAX: usize = 65_535;

/// Why decoding stopped.
enum Stop {
    /// The bytes ended too early.
    End,
    /// The bytes are wrong.
    Bad(String),
}

impl From<DecodeError> for Stop {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::InsufficientBytes => Self::End,
            other => Self::Bad(text::visible(&other.to_string())),
        }
    }
}

/// The message in `payload`. `cut`: its end is missing because the capture cut it.
pub fn message(payload: &[u8], cut: bool) -> Message {
    let mut message = Message::default();
    let whole = payload.get(..MESSAGE_MAX).unwrap_or(payload);
    let mut decoder = BinDecoder::new(whole);
    if let Err(stop) = fill(&mut message, &mut decoder, whole) {
        let reason = match stop {
            Stop::End if cut => SNAPPED.to_owned(),
            Stop::End => "the message ends too early".to_owned(),
            Stop::Bad(why) => why,
        };
        note(&mut message, decoder.index(), reason);
    }
    message
}

/// Keeps the first trouble: later ones usually follow from it.
fn note(message: &mut Message, offset: usize, reason: String) {
    message.undecoded.get_or_insert((offset, reason));
}

fn fill(message: &mut Message, decoder: &mut BinDecoder<'_>, whole: &[u8]) -> Result<(), Stop> {
    if whole.len() < HEADER {
        return Err(Stop::End);
    }
    let id = u16(decoder)?;
    let flags = u16(decoder)?;
    let counts = [u16(decoder)?, u16(decoder)?, u16(decoder)?, u16(decoder)?].map(usize::from);
    message.id = id;
    message.response = flags & 0x8000 != 0;
    message.opcode = flags.to_be_bytes()[0] >> 3 & 0x0f;
    message.truncated = flags & 0x0200 != 0;
    message.rcode = flags & 0x000f;

    let [questions, answers, authorities, additionals] = counts;
    for number in 0..questions.min(RECORDS_MAX) {
        let name = name(decoder, whole)?;
        let qtype = u16(decoder)?;
        u16(decoder)?; // class
        if number == 0 {
            message.question = Some(Question { name, qtype: type_text(qtype.into()) });
        }
    }
    let total = answers + authorities + additionals;
    for number in 0..total.min(RECORDS_MAX) {
        let section = if number < answers {
            Section::Answer
        } else if number < answers + authorities {
            Section::Authority
        } else {
            Section::Additional
        };
        resource(message, decoder, whole, section)?;
    }
    if questions.max(total) > RECORDS_MAX {
        return Err(Stop::Bad(format!("more than {RECORDS_MAX} records")));
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Answer,
    Authority,
    Additional,
}

/// One resource record; of those that are no answers only OPT and an authority's SOA matter. Data
/// that cannot be read costs this record only.
fn resource(
    message: &mut Message,
    decoder: &mut BinDecoder<'_>,
    whole: &[u8],
    section: Section,
) -> Result<(), Stop> {
    let name = match section {
        Section::Answer => owner(message, decoder, whole)?,
        _ => {
            skip_name(decoder, whole)?;
            String::new()
        }
    };
    let rtype = RecordType::from(u16(decoder)?);
    let class = u16(decoder)?;
    let ttl = decoder.read_u32()?.unverified();
    let len = u16(decoder)?;
    let start = decoder.index();
    let data = decoder.read_slice(len.into())?.unverified();
    if rtype == RecordType::OPT {
        message.edns = true;
        // RFC 6891 section 6.1.3: the upper eight bits of the RCODE stand in the TTL.
        message.rcode = message.rcode & 0x000f | u16::from(ttl.to_be_bytes()[0]) << 4;
        message.udp_size = class;
        message.dnssec_ok = ttl & 0x8000 != 0;
        if !data.is_empty() {
            message.options = Some(Box::new(options(data)));
        }
    } else if rtype == RecordType::SOA && section == Section::Authority {
        // RFC 2308 section 5: the lesser of the record's TTL and its last field.
        let minimum = data.last_chunk().map(|minimum| u32::from_be_bytes(*minimum));
        message.negative_ttl = minimum.map(|minimum| minimum.min(ttl));
    } else if section == Section::Answer {
        let text = match address_text(rtype, data) {
            Some(text) => Ok(text),
            None => rdata(whole, start, rtype, len).map(|rdata| data_text(&rdata, data)),
        };
        match text {
            Ok(data) => message.answers.push(Answer { name, rtype: type_text(rtype), ttl, data }),
            Err(Stop::Bad(why)) => note(message, start, why),
            Err(Stop::End) => note(message, start, format!("{rtype} data ends too early")),
        }
    }
    Ok(())
}

/// RFC 6891 section 6.1.2, as far as whole options go.
fn options(mut data: &[u8]) -> EdnsOptions {
    const EXTENDED_ERROR: u16 = 15;
    let mut options = EdnsOptions::default();
    while let Some(([a, b, c, d], rest)) = data.split_first_chunk() {
        let (code, len) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
        let Some((value, rest)) = rest.split_at_checked(len.into()) else { break };
        data = rest;
        if options.codes.len() >= OPTIONS_MAX {
            break;
        }
        options.codes.push(code);
        if code == EXTENDED_ERROR
            && let Some((info, told)) = value.split_first_chunk()
        {
            let told = String::from_utf8_lossy(told.get(..DATA_MAX).unwrap_or(told));
            options.errors.push((u16::from_be_bytes(*info), cap(text::visible(&told))));
        }
    }
    options
}

/// A name and its text; most are plain.
fn name(decoder: &mut BinDecoder<'_>, whole: &[u8]) -> Result<String, Stop> {
    if let Some((text, used)) = plain(whole, decoder.index(), &mut Room::default()) {
        decoder.read_slice(used)?;
        return Ok(text.to_owned());
    }
    Ok(name_text(&Name::read(decoder)?))
}

/// The name that an answer is about: as a rule a pointer to the one asked for.
fn owner(message: &Message, decoder: &mut BinDecoder<'_>, whole: &[u8]) -> Result<String, Stop> {
    const TO_THE_QUESTION: [u8; 2] = [0xc0, HEADER as u8];
    if let Some(question) = &message.question
        && whole.get(decoder.index()..).is_some_and(|rest| rest.starts_with(&TO_THE_QUESTION))
    {
        decoder.read_slice(TO_THE_QUESTION.len())?;
        return Ok(question.name.clone());
    }
    name(decoder, whole)
}

/// A name that nobody wants to know.
fn skip_name(decoder: &mut BinDecoder<'_>, whole: &[u8]) -> Result<(), Stop> {
    match plain(whole, decoder.index(), &mut Room::default()) {
        Some((_, used)) => decoder.read_slice(used).map(drop)?,
        None => Name::read(decoder).map(drop)?,
    }
    Ok(())
}

/// Addresses, which most answers are.
fn address_text(rtype: RecordType, data: &[u8]) -> Option<String> {
    match rtype {
        RecordType::A => {
            let ip = Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?);
            Some(digits::ipv4(ip).as_str().to_owned())
        }
        RecordType::AAAA => Some(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string()),
        _ => None,
    }
}

/// Reads the data of a record inside its own bounds; compression pointers still reach back.
fn rdata(whole: &[u8], start: usize, rtype: RecordType, len: u16) -> Result<RData, Stop> {
    let bounded = whole.get(..start + usize::from(len)).ok_or(Stop::End)?;
    let at = u16::try_from(start).map_err(|_| Stop::End)?;
    let mut decoder = BinDecoder::new(bounded).clone(at);
    Ok(RData::read(&mut decoder, rtype, Restrict::new(len))?)
}

fn u16(decoder: &mut BinDecoder<'_>) -> Result<u16, DecodeError> {
    Ok(decoder.read_u16()?.unverified())
}

fn type_text(rtype: RecordType) -> Cow<'static, str> {
    match rtype {
        RecordType::Unknown(number) => format!("TYPE{number}").into(),
        RecordType::ZERO => "TYPE0".into(),
        known => <&'static str>::from(known).into(),
    }
}

/// Presentation format (RFC 1035 section 5.1) without the final dot; the root is ".".
fn name_text(name: &Name) -> String {
    let mut out = String::with_capacity(name.len());
    for (number, label) in name.iter().enumerate() {
        if number > 0 {
            out.push('.');
        }
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if label.iter().all(plain) {
            out.push_str(std::str::from_utf8(label).unwrap_or_default());
            continue;
        }
        for byte in label {
            push_presented(&mut out, *byte, b'.');
        }
    }
    if out.is_empty() {
        out.push('.');
    }
    out
}

/// A printable byte as itself, `special` and the backslash with a backslash, others as `\DDD`.
fn push_presented(out: &mut String, byte: u8, special: u8) {
    if byte == special || byte == b'\\' {
        out.push('\\');
        out.push(char::from(byte));
    } else if byte.is_ascii_graphic() || byte == b' ' && special != b'.' {
        out.push(char::from(byte));
    } else {
        let _ = write!(out, "\\{byte:03}"); // writing to a String cannot fail
    }
}

fn data_text(rdata: &RData, raw: &[u8]) -> String {
    let text = match rdata {
        RData::A(address) => address.0.to_string(),
        RData::AAAA(address) => address.0.to_string(),
        RData::CNAME(name) => name_text(&name.0),
        RData::NS(name) => name_text(&name.0),
        RData::PTR(name) => name_text(&name.0),
        RData::MX(MX { preference, exchange, .. }) => {
            format!("{preference} {}", name_text(exchange))
        }
        RData::SRV(SRV { priority, weight, port, target, .. }) => {
            format!("{priority} {weight} {port} {}", name_text(target))
        }
        RData::SOA(soa) => soa_text(soa),
        RData::TXT(txt) => txt_text(txt),
        RData::HTTPS(_) | RData::SVCB(_) | RData::CAA(_) | RData::NAPTR(_) => {
            let mut out = String::new();
            match write!(out, "{rdata}") {
                Ok(()) => text::visible(&out),
                Err(_) => generic(raw),
            }
        }
        _ => generic(raw),
    };
    cap(text)
}

fn soa_text(soa: &SOA) -> String {
    format!(
        "{} {} {} {} {} {} {}",
        name_text(&soa.mname),
        name_text(&soa.rname),
        soa.serial,
        soa.refresh,
        soa.retry,
        soa.expire,
        soa.minimum
    )
}

fn txt_text(txt: &TXT) -> String {
    let mut out = String::new();
    for part in &txt.txt_data {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push('"');
        for byte in part.iter().take(DATA_MAX) {
            push_presented(&mut out, *byte, b'"');
        }
        out.push('"');
    }
    out
}

/// Data of a type without a presentation format (RFC 3597).
fn generic(raw: &[u8]) -> String {
    let mut out = format!("\\# {}", raw.len());
    for (number, byte) in raw.iter().take(DATA_MAX).enumerate() {
        let _ = write!(out, "{}{byte:02x}", if number == 0 { " " } else { "" });
    }
    out
}

fn cap(mut text: String) -> String {
    if text.len() > DATA_MAX {
        let end = (0..=DATA_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message as Hickory, OpCode, Query, ResponseCode};
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, CNAME, SVCB};
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    /// A response with several kinds of data, EDNS and an extended RCODE.
    fn response() -> Vec<u8> {
        let mut message = Hickory::response(4711, OpCode::Query);
        let www = name("wWw.Example.Org.");
        message.add_query(Query::query(www.clone(), RecordType::A));
        let target = name("target.example.org.");
        let svcb = SVCB::new(1, target.clone(), vec![]);
        for data in [
            RData::CNAME(CNAME(target.clone())),
            RData::A(A::new(192, 0, 2, 7)),
            RData::MX(MX::new(10, target.clone())),
            RData::TXT(TXT::from_bytes(vec![b"say \"hi\"\x1b", b"b"])),
            RData::SRV(SRV::new(1, 2, 80, target)),
            RData::SVCB(svcb),
        ] {
            message.add_answer(Record::from_rdata(www.clone(), 30, data));
        }
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        message.set_edns(edns);
        message.metadata.response_code = ResponseCode::BADVERS;
        message.to_vec().unwrap()
    }

    #[test]
    fn reads_a_response() {
        let message = message(&response(), false);
        assert_eq!(message.undecoded, None);
        assert_eq!((message.id, message.response, message.opcode), (4711, true, 0));
        assert_eq!((message.edns, message.rcode), (true, 16));
        assert_eq!((message.udp_size, message.dnssec_ok, message.options), (1232, false, None));
        let question = message.question.unwrap();
        assert_eq!((question.name.as_str(), &*question.qtype), ("wWw.Example.Org", "A"));
        let data: Vec<_> = message.answers.iter().map(|a| (&*a.rtype, a.data.as_str())).collect();
        assert_eq!(
            data,
            [
                ("CNAME", "target.example.org"),
                ("A", "192.0.2.7"),
                ("MX", "10 target.example.org"),
                ("TXT", "\"say \\\"hi\\\"\\027\" \"b\""),
                ("SRV", "1 2 80 target.example.org"),
                ("SVCB", "1 target.example.org."),
            ]
        );
    }

    #[test]
    fn cut_is_not_malformed() {
        let whole = response();
        for len in 0..whole.len() {
            let cut = message(&whole[..len], true);
            assert_eq!(cut.undecoded.map(|(_, why)| why).as_deref(), Some(SNAPPED), "{len}");
            let torn = message(&whole[..len], false);
            assert!(torn.undecoded.is_some_and(|(at, why)| at <= len && why != SNAPPED), "{len}");
        }
        let question = message(&whole[..60], true).question;
        assert_eq!(question.unwrap().name, "wWw.Example.Org");
    }

    #[test]
    fn names_never_carry_raw_bytes() {
        let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x05a.b\\\x1b\x03c \xff\0\xff\x00\0\x01");
        let question = message(&query, false).question.unwrap();
        assert_eq!(question.name, "a\\.b\\\\\\027.c\\032\\255");
        assert_eq!(question.qtype, "TYPE65280");
        let root = message(&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1], false);
        assert_eq!(root.question.unwrap(), Question { name: ".".into(), qtype: "NS".into() });
    }

    #[test]
    fn one_bad_answer_costs_itself_only() {
        let mut message = Hickory::response(1, OpCode::Query);
        let owner = name("a.");
        let good = RData::A(A::new(10, 0, 0, 1));
        message.add_query(Query::query(owner.clone(), RecordType::A));
        message.add_answer(Record::from_rdata(owner.clone(), 1, good.clone()));
        message.add_answer(Record::from_rdata(owner, 1, good));
        let mut bytes = message.to_vec().unwrap();
        // Turn the first answer's type into AAAA, for which four bytes are too few.
        let first = 12 + 3 + 4 + 2;
        bytes[first..first + 2].copy_from_slice(&28u16.to_be_bytes());
        let message = super::message(&bytes, false);
        assert_eq!(message.answers.len(), 1);
        assert!(message.undecoded.is_some());
    }

    #[test]
    fn bounded_on_pointer_chains() {
        // Names whose pointers all lead through one long chain of pointers.
        let mut bytes = vec![0, 0, 0x80, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
        bytes.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0x3f, 0x00]);
        bytes.push(0);
        let mut at = u16::try_from(bytes.len() - 1).unwrap();
        while at < 0x3ff0 {
            bytes.extend((0xc000 | at).to_be_bytes());
            at = u16::try_from(bytes.len() - 2).unwrap();
        }
        while bytes.len() < 65_500 {
            bytes.extend((0xc000 | at).to_be_bytes());
            bytes.extend([0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        assert!(message(&bytes, false).undecoded.is_some());
    }

    #[test]
    fn absence_and_its_time() {
        let mut nx = Hickory::response(1, OpCode::Query);
        let (zone, host) = (name("example.org."), name("ns.example.org."));
        nx.add_query(Query::query(name("a.example.org."), RecordType::A));
        let soa = RData::SOA(SOA::new(host, zone.clone(), 1, 2, 3, 4, 60));
        nx.add_authority(Record::from_rdata(zone, 30, soa));
        assert_eq!(message(&nx.to_vec().unwrap(), false).negative_ttl, Some(30));
    }

    #[test]
    fn options_and_extended_errors() {
        // DO, a cookie (10), an extended error (15) with a text that would like to be more, and an
        // option that is cut.
        let mut bytes = vec![0, 1, 0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        bytes.extend([0, 41, 4, 208, 0, 0, 0x80, 0]);
        let mut data = vec![0, 10, 0, 2, 1, 2, 0, 15, 0, 6, 0, 22];
        data.extend(b"no\x1b!");
        data.extend([0, 8, 0, 9, 1]);
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(&data);
        let message = message(&bytes, false);
        assert_eq!((message.edns, message.udp_size, message.dnssec_ok), (true, 1232, true));
        let options = message.options.unwrap();
        assert_eq!(options.codes, [10, 15]);
        assert_eq!(options.errors.len(), 1);
        assert_eq!(options.errors[0].0, 22);
        assert!(options.errors[0].1.starts_with("no") && !options.errors[0].1.contains('\x1b'));
        let name = crate::event::extended_error_name;
        assert_eq!(
            (name(22), name(15), name(31)),
            (Some("No Reachable Authority"), Some("Blocked"), None)
        );
    }

    fn sane(message: &Message) {
        let texts = message
            .question
            .iter()
            .flat_map(|q| [q.name.as_str(), &q.qtype])
            .chain(message.answers.iter().flat_map(|a| [a.name.as_str(), &a.rtype, &a.data]))
            .chain(message.undecoded.iter().map(|(_, why)| why.as_str()));
        for text in texts {
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert!(text.len() <= DATA_MAX + 3);
        }
    }

    /// Labels, pointers and ends, so that most of it is a name.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let label = "[a-zA-Z0-9_.-]{1,63}".prop_map(|label| {
            [vec![u8::try_from(label.len()).unwrap()], label.into_bytes()].concat()
        });
        let pointer = (0u8..3, any::<u8>()).prop_map(|(high, low)| vec![0xc0 | high, low]);
        let piece = prop_oneof![4 => label, 1 => pointer, 2 => Just(vec![0])];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        /// What is told of plain names without the codec is what the codec tells.
        #[test]
        fn plain_names(bytes in pieces(), start in any::<prop::sample::Index>()) {
            let start = start.index(bytes.len() + 1);
            let at = u16::try_from(start).unwrap();
            let mut decoder = BinDecoder::new(&bytes).clone(at);
            let name = Name::read(&mut decoder);
            if let Some((text, used)) = plain(&bytes, start, &mut Room::default()) {
                prop_assert_eq!(text, name_text(&name.unwrap()));
                prop_assert_eq!(start + used, decoder.index());
            }
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..1500), cut: bool) {
            sane(&message(&bytes, cut));
        }

        #[test]
        fn mutated(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            len in any::<prop::sample::Index>(),
        ) {
            let mut bytes = response();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            sane(&message(&bytes, false));
            bytes.truncate(len.index(bytes.len() + 1));
            sane(&message(&bytes, true));
        }

        /// Random data under every record type, inside a well-formed frame.
        #[test]
        fn any_data(rtype in 0u16..260, data in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = vec![0, 1, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, b'a', 0];
            bytes.extend(rtype.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 9]);
            bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(data);
            sane(&message(&bytes, false));
        }
    }
}
