//! Pseudonyms of labels: as long as the label, made from a keyed hash, the same for the same label
//! whatever its case. Keeps a bounded table so that two labels do not fall together; knows no
//! structure above a label.

use std::collections::{HashMap, HashSet};

use ring::hmac;

use super::public;

/// Labels remembered.
const CAP: usize = 65_536;
/// Longest label remembered; DNS has none over 63 bytes.
const LABEL_MAX: usize = 255;
/// Tries to find a pseudonym that no other label has.
const TRIES: u32 = 256;
/// Lengths up to this use digits too: there are few words of few letters.
const SHORT: usize = 4;

const CONSONANTS: &[u8] = b"bcdfghjklmnpqrstvwxz";
const VOWELS: &[u8] = b"aeiou";
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const LETTERS_DIGITS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// How well labels were kept apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Times a label got a pseudonym that another label has: all of that length were taken.
    pub labels: u64,
    /// Times a label was looked at after the table was full: not known to be kept apart.
    pub unchecked: u64,
}

pub(super) struct Pseudonyms {
    key: hmac::Key,
    known: HashMap<Box<[u8]>, Box<[u8]>>,
    used: HashSet<Box<[u8]>>,
    shared: Shared,
}

impl Pseudonyms {
    pub(super) fn new(key: &[u8]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            known: HashMap::new(),
            used: HashSet::new(),
            shared: Shared::default(),
        }
    }

    pub(super) fn shared(&self) -> Shared {
        self.shared
    }

    /// The pseudonym of `label`, in the same case where letters meet letters; words that name
    /// nobody, addresses and wildcards stay.
    pub(super) fn label(&mut self, label: &[u8]) -> Vec<u8> {
        let plain = label.to_ascii_lowercase();
        if plain.is_empty() || plain == b"*" || public::is_label(&plain) || is_address(&plain) {
            return label.to_vec();
        }
        // RFC 8552: an underscore marks a service or protocol, not a host.
        if let Some(rest) = label.strip_prefix(b"_") {
            return [b"_".as_slice(), &self.label(rest)].concat();
        }
        let mut pseudonym = self.of(&plain);
        for (letter, original) in pseudonym.iter_mut().zip(label) {
            if original.is_ascii_uppercase() {
                letter.make_ascii_uppercase();
            }
        }
        pseudonym
    }

    fn of(&mut self, plain: &[u8]) -> Vec<u8> {
        if let Some(known) = self.known.get(plain) {
            return known.to_vec();
        }
        let first = self.candidate(plain, 0);
        if self.known.len() >= CAP || plain.len() > LABEL_MAX {
            self.shared.unchecked += u64::from(plain.len() <= LABEL_MAX);
            return first;
        }
        let free = |candidate: &Vec<u8>| {
            candidate != plain
                && !public::is_label(candidate)
                && !self.used.contains(candidate.as_slice())
        };
        let mut candidates = (0..TRIES).map(|number| self.candidate(plain, number));
        let chosen = candidates.find(free).unwrap_or_else(|| {
            self.shared.labels += 1;
            first
        });
        self.used.insert(chosen.clone().into());
        self.known.insert(plain.into(), chosen.clone().into());
        chosen
    }

    /// The `number`th word for `plain`.
    fn candidate(&self, plain: &[u8], number: u32) -> Vec<u8> {
        let mut word = Vec::with_capacity(plain.len());
        let mut block = 0u32;
        while word.len() < plain.len() {
            let mut hash = hmac::Context::with_key(&self.key);
            hash.update(&number.to_be_bytes());
            hash.update(&block.to_be_bytes());
            hash.update(plain);
            for byte in hash.sign().as_ref().iter().take(plain.len() - word.len()) {
                let letters = letters(plain.len(), word.len());
                let letter = letters.get(usize::from(*byte) % letters.len());
                word.push(letter.copied().unwrap_or(b'x'));
            }
            block += 1;
        }
        word
    }
}

/// What may stand at a place of a word: such that people can say it, if it is long enough.
fn letters(len: usize, at: usize) -> &'static [u8] {
    match (len <= SHORT, at % 2) {
        (true, _) if at == 0 => LETTERS,
        (true, _) => LETTERS_DIGITS,
        (false, 0) => CONSONANTS,
        (false, _) => VOWELS,
    }
}

/// `10-244-1-10` and `ip-10-0-0-7`: addresses are kept everywhere.
fn is_address(label: &[u8]) -> bool {
    let label = label.strip_prefix(b"ip-").unwrap_or(label);
    let octet = |part: &[u8]| {
        part.iter().all(u8::is_ascii_digit)
            && std::str::from_utf8(part).is_ok_and(|part| part.parse::<u8>().is_ok())
    };
    label.split(|byte| *byte == b'-').count() == 4 && label.split(|b| *b == b'-').all(octet)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(names: &mut Pseudonyms, label: &str) -> String {
        String::from_utf8(names.label(label.as_bytes())).unwrap()
    }

    #[test]
    fn the_same_label_has_the_same_pseudonym_in_any_case() {
        let mut names = Pseudonyms::new(b"key");
        let plain = text(&mut names, "critical-app");
        assert_eq!(plain.len(), "critical-app".len());
        assert_ne!(plain, "critical-app");
        let mixed = text(&mut names, "CRITICAL-app");
        assert_eq!(mixed.to_ascii_lowercase(), plain);
        assert_eq!(&mixed[..8], plain[..8].to_ascii_uppercase());
        assert_eq!(text(&mut Pseudonyms::new(b"key"), "critical-app"), plain);
        assert_ne!(text(&mut Pseudonyms::new(b"other"), "critical-app"), plain);
    }

    #[test]
    fn what_names_nobody_stays() {
        let mut names = Pseudonyms::new(b"key");
        for label in ["svc", "SVC", "_tcp", "_http", "*", "", "10-244-1-10", "ip-10-0-0-7"] {
            assert_eq!(text(&mut names, label), label);
        }
        for label in ["300-244-1-10", "10-0-0", "svc-1", "+1-2-3-4"] {
            assert_ne!(text(&mut names, label), label);
        }
        let service = text(&mut names, "_secret");
        assert_eq!(service, format!("_{}", text(&mut names, "secret")));
    }

    #[test]
    fn labels_stay_apart_as_long_as_there_is_room() {
        let mut names = Pseudonyms::new(b"key");
        let two = |n: u32| {
            format!("{}{}", (b'a' + (n / 26) as u8) as char, (b'a' + (n % 26) as u8) as char)
        };
        let all: HashSet<_> = (0..600).map(|n| text(&mut names, &two(n))).collect();
        let kept = (0..600).filter(|n| public::is_label(two(*n).as_bytes())).count();
        assert!(kept > 5 && all.len() == 600, "{} of 600", all.len());
        assert_eq!(names.shared(), Shared::default());
        for byte in 0..=255u8 {
            assert_eq!(names.label(&[byte]).len(), 1);
        }
        assert!(names.shared().labels > 0, "there are only so many words of one letter");
    }

    #[test]
    fn the_table_is_bounded() {
        let mut names = Pseudonyms::new(b"key");
        for n in 0..CAP + 10 {
            names.label(format!("label-{n}").as_bytes());
        }
        assert_eq!(names.known.len(), CAP);
        assert_eq!(names.shared().unchecked, 10);
        let late = format!("label-{}", CAP + 5);
        assert_eq!(text(&mut names, &late), text(&mut Pseudonyms::new(b"key"), &late));
        names.label(&[b'x'; 100_000]);
    }

    proptest! {
        #[test]
        fn any_label(label in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut names = Pseudonyms::new(b"key");
            let pseudonym = names.label(&label);
            prop_assert_eq!(pseudonym.len(), label.len());
            prop_assert_eq!(names.label(&label), pseudonym);
        }
    }
}
