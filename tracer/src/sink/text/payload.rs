//! A DNS message beneath its event: decoded, and in hex with the printable bytes beside it. Other
//! payload in hex alone, arguments of a command as words.

use std::fmt::Write as _;

use serde_json::Value;

use crate::report::EventLine;
use crate::text::{escape, visible};

const ROW: usize = 16;

/// What else is told of an event, not an event itself.
pub(super) fn is_data(of: &EventLine) -> bool {
    of.payload.is_some() && matches!(of.kind.as_str(), "arguments" | "data")
}

/// Lines for an event that carries its payload, indented; none for others.
pub(super) fn lines(of: &EventLine) -> Vec<String> {
    let Some(payload) = &of.payload else { return Vec::new() };
    match of.kind.as_str() {
        "arguments" => return vec![arguments(&bytes(payload))],
        "data" => return dumped(of, &bytes(payload), Vec::new()),
        _ => {}
    }
    let arg = |name: &str| of.args.get(name).unwrap_or(&Value::Null);
    let response = arg("response") == &Value::Bool(true);
    let mut head = format!(
        "    {} id {}",
        if response { "response" } else { "query" },
        arg("id").as_u64().unwrap_or_default()
    );
    head.extend(arg("rcode").as_str().map(|rcode| format!(" {}", visible(rcode))));
    let (name, qtype) = (arg("question").as_str(), arg("qtype").as_str());
    if let (Some(name), Some(qtype)) = (name, qtype) {
        head.push_str(&format!(": {} {}", visible(qtype), visible(name)));
    }
    let flags = [("truncated", "truncated"), ("edns", "EDNS")];
    for (_, word) in flags.into_iter().filter(|(name, _)| arg(name) == &Value::Bool(true)) {
        head.push_str(&format!(", {word}"));
    }
    let mut lines = vec![head];
    for answer in arg("answers").as_array().into_iter().flatten() {
        let text = |key: &str| visible(answer[key].as_str().unwrap_or("-"));
        let ttl = answer["ttl"].as_u64().unwrap_or_default();
        lines.push(format!("      {} {ttl} {} {}", text("name"), text("type"), text("data")));
    }
    if let Some(why) = arg("undecoded")["reason"].as_str() {
        let offset = arg("undecoded")["offset"].as_u64().unwrap_or_default();
        lines.push(format!("      from byte {offset}: {}", visible(why)));
    }
    dumped(of, &bytes(payload), lines)
}

/// `lines` and the bytes in hex.
fn dumped(of: &EventLine, bytes: &[u8], mut lines: Vec<String>) -> Vec<String> {
    for (row, chunk) in bytes.chunks(ROW).enumerate() {
        lines.push(dump(row * ROW, chunk));
    }
    let size = of.args.get("size").and_then(Value::as_u64).unwrap_or_default();
    let missing = size.saturating_sub(bytes.len() as u64);
    if missing > 0 {
        lines.push(format!("    … {missing} more bytes were not captured"));
    }
    lines
}

/// The words of a command, those with spaces in quotes.
fn arguments(bytes: &[u8]) -> String {
    let mut line = "    arguments".to_owned();
    for word in bytes.strip_suffix(b"\0").unwrap_or(bytes).split(|byte| *byte == 0) {
        let word = escape(word);
        let quoted = word.is_empty() || word.contains(' ');
        let _ = if quoted { write!(line, " '{word}'") } else { write!(line, " {word}") };
    }
    line
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).unwrap_or_default() as u8;
    let pairs = hex.as_bytes().chunks_exact(2);
    pairs.map(|pair| pair.iter().fold(0, |byte, c| byte << 4 | digit(*c))).collect()
}

fn dump(offset: usize, chunk: &[u8]) -> String {
    let mut hex = String::new();
    for (n, byte) in chunk.iter().enumerate() {
        hex.push_str(if n == ROW / 2 { "  " } else { " " });
        hex.push_str(&format!("{byte:02x}"));
    }
    let shown = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '.' };
    let text: String = chunk.iter().map(shown).collect();
    format!("    {offset:04x} {hex:<49}  |{text}|")
}
