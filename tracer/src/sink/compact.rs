//! serde's data model as compact JSON, as serde_json writes it, with every character that a terminal
//! could obey as `\uXXXX`. Names of fields are written as they are: they are ours, and most of the
//! output. Knows no types.

use serde::Serialize;
use serde::ser::{self, SerializeMap, SerializeStruct, Serializer};
use serde_json::Error;

use crate::text::is_visible;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes one value.
pub(super) struct Compact<'a>(pub(super) &'a mut Vec<u8>);

/// The rest of an array or object, and what ends it.
pub(super) struct Rest<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
    end: &'static str,
}

impl<'a> Compact<'a> {
    fn put(self, text: &[u8]) -> Result<(), Error> {
        self.0.extend_from_slice(text);
        Ok(())
    }

    fn begin(self, begin: &[u8], end: &'static str) -> Result<Rest<'a>, Error> {
        self.0.extend_from_slice(begin);
        Ok(Rest { out: self.0, first: true, end })
    }

    /// `{"variant":`
    fn variant(self, variant: &str) -> Self {
        self.0.push(b'{');
        name(self.0, variant);
        self
    }
}

/// `"text":`
fn name(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\":");
}

fn number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if is_plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        text.chars().for_each(|c| character(out, c));
    }
    out.push(b'"');
}

/// Nothing but visible ASCII that stands for itself. Eight bytes at a time: most of the output is text.
fn is_plain(text: &[u8]) -> bool {
    let odd = |byte: &u8| !matches!(byte, b' '..=b'~') | matches!(byte, b'"' | b'\\');
    let Some(last) = text.last_chunk() else { return !text.iter().any(odd) };
    // What is left over is looked at together with bytes before it, once more.
    let (words, _) = text.as_chunks();
    words.iter().chain([last]).fold(0, |all, word| all | odd_bytes(*word)) == 0
}

/// Not 0 if one of the bytes is a control character, `"`, `\` or not ASCII. (Of a word with such a
/// byte, bits of others may be set, too.)
fn odd_bytes(word: [u8; 8]) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    // The highest bit of each byte that is less than `limit`, if none is above 0x7f.
    let less = |word: u64, limit| word.wrapping_sub(each(limit)) & !word;
    let word = u64::from_ne_bytes(word);
    // DEL gets the highest bit with one more.
    let high = word | word.wrapping_add(each(1));
    let quote = less(word ^ each(b'"'), 1) | less(word ^ each(b'\\'), 1);
    (high | less(word, b' ') | quote) & each(0x80)
}

fn character(out: &mut Vec<u8>, c: char) {
    let short = match c {
        '"' | '\\' => u8::try_from(c).ok(),
        '\u{8}' => Some(b'b'),
        '\u{c}' => Some(b'f'),
        '\n' => Some(b'n'),
        '\r' => Some(b'r'),
        '\t' => Some(b't'),
        _ => None,
    };
    if let Some(short) = short {
        out.extend_from_slice(&[b'\\', short]);
    } else if is_visible(c) {
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.extend_from_slice(b"\\u");
            let digits = [12, 8, 4, 0].map(|shift| HEX[usize::from(*unit >> shift & 0xf)]);
            out.extend_from_slice(&digits);
        }
    }
}

impl<'a> Serializer for Compact<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Rest<'a>;
    type SerializeTuple = Rest<'a>;
    type SerializeTupleStruct = Rest<'a>;
    type SerializeTupleVariant = Rest<'a>;
    type SerializeMap = Rest<'a>;
    type SerializeStruct = Rest<'a>;
    type SerializeStructVariant = Rest<'a>;

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.put(if value { b"true" } else { b"false" })
    }

    fn serialize_i8(self, value: i8) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Error> {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Error> {
        number(self.0, value);
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<(), Error> {
        self.serialize_u64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), Error> {
        self.serialize_u64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), Error> {
        self.serialize_u64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), Error> {
        number(self.0, value);
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        serde_json::to_writer(self.0, &value)
    }

    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        serde_json::to_writer(self.0, &value)
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        string(self.0, value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        self.collect_seq(value)
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.put(b"null")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.put(b"null")
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Error> {
        self.put(b"null")
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        let inner = self.variant(variant);
        value.serialize(Compact(inner.0))?;
        inner.put(b"}")
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Rest<'a>, Error> {
        self.begin(b"[", "]")
    }

    fn serialize_tuple(self, _len: usize) -> Result<Rest<'a>, Error> {
        self.begin(b"[", "]")
    }

    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Rest<'a>, Error> {
        self.begin(b"[", "]")
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Rest<'a>, Error> {
        self.variant(variant).begin(b"[", "]}")
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Rest<'a>, Error> {
        self.begin(b"{", "}")
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Rest<'a>, Error> {
        self.begin(b"{", "}")
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Rest<'a>, Error> {
        self.variant(variant).begin(b"{", "}}")
    }
}

impl Rest<'_> {
    fn comma(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
    }

    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.comma();
        value.serialize(Compact(self.out))
    }

    fn over(self) -> Result<(), Error> {
        self.out.extend_from_slice(self.end.as_bytes());
        Ok(())
    }
}

impl SerializeStruct for Rest<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.comma();
        name(self.out, key);
        value.serialize(Compact(self.out))
    }

    fn end(self) -> Result<(), Error> {
        self.over()
    }
}

impl SerializeMap for Rest<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        let mut text = Vec::new();
        key.serialize(Compact(&mut text))?;
        self.comma();
        // Numbers are names, too, in quotes.
        let quote: &[u8] = if text.starts_with(b"\"") { b"" } else { b"\"" };
        for part in [quote, &text, quote, b":"] {
            self.out.extend_from_slice(part);
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(Compact(self.out))
    }

    fn end(self) -> Result<(), Error> {
        self.over()
    }
}

/// Arrays by all the names that serde has for them.
macro_rules! array {
    ($($kind:ident $item:ident),*) => {$(
        impl ser::$kind for Rest<'_> {
            type Ok = ();
            type Error = Error;

            fn $item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.item(value)
            }

            fn end(self) -> Result<(), Error> {
                self.over()
            }
        }
    )*};
}

array!(
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
);

impl ser::SerializeStructVariant for Rest<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        SerializeStruct::serialize_field(self, key, value)
    }

    fn end(self) -> Result<(), Error> {
        self.over()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn compact(value: &impl Serialize) -> String {
        let mut out = Vec::new();
        value.serialize(Compact(&mut out)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[derive(Serialize)]
    enum Kinds {
        Unit,
        One(u8),
        Two(i64, char),
        Named { a: Option<f64>, b: () },
    }

    #[derive(Serialize)]
    struct Pair(u16, &'static str);

    #[test]
    fn every_kind_of_value_as_serde_json_has_it() {
        let by_number = BTreeMap::from([(7u32, vec![true, false]), (8, vec![])]);
        let value = (
            [Kinds::Unit, Kinds::One(255), Kinds::Two(i64::MIN, 'ü')],
            Kinds::Named { a: Some(0.1), b: () },
            Kinds::Named { a: None, b: () },
            Pair(9, "x"),
            by_number,
            (u64::MAX, -1.5e300, 1f32, f64::NAN),
        );
        assert_eq!(compact(&value), serde_json::to_string(&value).unwrap());
    }

    #[test]
    fn terminals_get_nothing_to_obey() {
        let text = "\u{1b}[31m \u{7f} \u{202e} \u{1f600} \u{e0001} \r\n\t\u{8}\u{c} \"\\ ü";
        let written = compact(&text);
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), json!(text));
        assert!(written.chars().all(is_visible), "{written}");
        assert!(written.contains("\\u001b[31m \\u007f \\u202e \u{1f600}"), "{written}");
    }

    #[test]
    fn every_odd_byte_is_seen_at_every_place() {
        for len in 0..40 {
            for (byte, at) in (0..=255).flat_map(|byte| (0..len).map(move |at| (byte, at))) {
                let mut text = vec![b'x'; len];
                text[at] = byte;
                let plain = matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
                assert_eq!(is_plain(&text), plain, "{byte} at {at} of {len}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_text(text: String, number: u64, negative: i32) {
            let key = format!("of {text}");
            let value = json!({ "a": [text, number, negative], key: null });
            let written = compact(&value);
            prop_assert!(written.chars().all(is_visible));
            prop_assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), value);
        }

        #[test]
        fn plain_text_as_serde_json_has_it(text in "[ -~\n\t\r\u{0}-\u{1f}]*") {
            prop_assert_eq!(compact(&text), serde_json::to_string(&text).unwrap());
        }
    }
}
