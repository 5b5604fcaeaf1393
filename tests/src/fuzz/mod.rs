//! Fuzz targets: foreign bytes in, and what must hold whatever they are. Plain functions, so that
//! cargo-fuzz drives them (`cargo xtask fuzz`) and the suite runs their seeds without it.

pub mod files;
pub mod stream;
pub mod text;
pub mod whole;
pub mod wire;

use tracer::decode::Decoder;
use tracer::event::{Body, Event, Message};
use tracer::record::Record;

/// A way in.
#[derive(Clone, Copy)]
pub struct Target {
    /// As in `fuzz/fuzz_targets` and `fuzz/seeds`.
    pub name: &'static str,
    /// Panics when something does not hold.
    pub run: fn(&[u8]),
}

/// All of them, in the order of the outside world: the kernel, the wire, files, text, and the whole.
pub const TARGETS: [Target; 15] = [
    Target { name: "ring", run: wire::ring },
    Target { name: "packet", run: wire::packet },
    Target { name: "dns", run: wire::dns },
    Target { name: "tcp", run: wire::tcp },
    Target { name: "pcap", run: files::pcap },
    Target { name: "pcapng", run: files::pcapng },
    Target { name: "scap", run: files::scap },
    Target { name: "capture", run: files::capture },
    Target { name: "cgroup_path", run: text::cgroup_path },
    Target { name: "resolv_conf", run: text::resolv_conf },
    Target { name: "kubernetes", run: text::kubernetes },
    Target { name: "context", run: text::context },
    Target { name: "filter", run: text::filter },
    Target { name: "redact", run: whole::redact },
    Target { name: "pipeline", run: whole::pipeline },
];

/// Takes numbers and pieces off the front of the fuzzer's bytes; zero and nothing at their end.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.piece(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    pub(crate) fn piece(&mut self, len: usize) -> &'a [u8] {
        let (piece, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        piece
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Nothing in `text` that a terminal could obey.
pub(crate) fn assert_visible(text: &str) {
    let odd = text.chars().find(|c| !tracer::text::is_visible(*c));
    assert_eq!(odd, None, "{text:?}");
}

/// What every DNS message that was read promises; `len`: bytes it was read from.
pub(crate) fn check_message(message: &Message, len: usize) {
    if let Some((offset, why)) = &message.undecoded {
        assert!(*offset <= len, "{offset} of {len}");
        assert_visible(why);
    }
    if let Some(question) = &message.question {
        assert_visible(&question.name);
        assert_visible(&question.qtype);
    }
    assert!(message.answers.len() <= 1024);
    for answer in &message.answers {
        assert_visible(&answer.name);
        assert_visible(&answer.rtype);
        assert_visible(&answer.data);
        assert!(answer.data.len() <= 4 << 12, "{} bytes", answer.data.len());
    }
    assert_visible(&message.rcode_name());
}

/// What every event promises.
pub(crate) fn check_event(event: &Event) {
    if let Body::Dns(dns) = &event.body {
        check_message(&dns.message, dns.payload.len());
        assert!(dns.payload.len() <= dns.original_len as usize, "{dns:?}");
    }
}

/// Through the decoder: events or an error, each as it should be.
pub(crate) fn decode(decoder: &mut Decoder, record: &Record) -> Vec<Event> {
    let mut events = Vec::new();
    if let Err(error) = decoder.decode(&mut record.clone(), &mut events) {
        assert!(events.is_empty(), "{error}: {events:?}");
        assert!(error.to_string().len() < 4096);
    }
    events.iter().for_each(check_event);
    events
}
