//! Label selectors as kubectl's `-l` has them: text to expressions, with errors that point at the
//! place. What a selector matches is kube's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kube::core::{Expression, SelectorExt as _};

/// Longest name part of a key, and longest value.
const NAME_MAX: usize = 63;
/// Longest DNS prefix of a key.
const PREFIX_MAX: usize = 253;

/// Requirements on labels; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(kube::core::Selector);

impl Selector {
    /// Understands `=`, `==`, `!=`, `in (…)`, `notin (…)`, `key`, `!key`, joined by commas.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { text, at: 0 };
        let mut all = Vec::new();
        loop {
            all.push(parser.requirement()?);
            match parser.next() {
                None => break,
                Some(",") => {}
                Some(other) => return Err(parser.expected("`,` or an operator", other)),
            }
        }
        Ok(Self(all.into_iter().collect()))
    }

    /// `key=value` for all pairs.
    pub(super) fn of_labels(labels: BTreeMap<String, String>) -> Self {
        Self(labels.into_iter().collect())
    }

    /// Whether it asks for nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.0.selects_all()
    }

    /// Whether `labels` meet all requirements.
    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.matches(labels)
    }
}

impl From<kube::core::Selector> for Selector {
    fn from(selector: kube::core::Selector) -> Self {
        Self(selector)
    }
}

/// As the API takes it.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    /// The next word or symbol.
    fn next(&mut self) -> Option<&'a str> {
        let token = self.peek()?;
        self.at = self.text.len() - self.rest().len() + token.len();
        Some(token)
    }

    fn peek(&self) -> Option<&'a str> {
        let rest = self.rest();
        if rest.is_empty() {
            return None;
        }
        if let Some(found) = ["==", "!=", "=", "!", "(", ")", ",", "<", ">"]
            .into_iter()
            .find(|symbol| rest.starts_with(*symbol))
        {
            return rest.get(..found.len());
        }
        let end = rest.find(|c: char| c.is_whitespace() || "=!(),<>".contains(c));
        rest.get(..end.unwrap_or(rest.len()))
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default().trim_start()
    }

    fn requirement(&mut self) -> Result<Expression, String> {
        if self.peek() == Some("!") {
            self.next();
            return Ok(Expression::DoesNotExist(self.key()?));
        }
        let key = self.key()?;
        Ok(match self.peek() {
            None | Some(",") => Expression::Exists(key),
            Some("=" | "==") => {
                self.next();
                Expression::Equal(key, self.value()?)
            }
            Some("!=") => {
                self.next();
                Expression::NotEqual(key, self.value()?)
            }
            Some("in") => {
                self.next();
                let values = self.values()?;
                // The API has no way to write a list of nothing but the empty value.
                match values.iter().all(String::is_empty) {
                    true => Expression::Equal(key, String::new()),
                    false => Expression::In(key, values),
                }
            }
            Some("notin") => {
                self.next();
                let values = self.values()?;
                match values.iter().all(String::is_empty) {
                    true => Expression::NotEqual(key, String::new()),
                    false => Expression::NotIn(key, values),
                }
            }
            Some(other) => {
                self.next();
                return Err(self.expected("=, ==, !=, in, notin or `,`", other));
            }
        })
    }

    fn key(&mut self) -> Result<String, String> {
        let Some(key) = self.next() else { return Err(self.ended("a label's key")) };
        let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(p, n)| (Some(p), n));
        let prefix_ok = prefix.is_none_or(|prefix| {
            !prefix.is_empty()
                && prefix.len() <= PREFIX_MAX
                && prefix.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
        });
        if !prefix_ok || name.is_empty() || !is_name(name) {
            return Err(self.expected("a label's key", key));
        }
        Ok(key.to_owned())
    }

    fn value(&mut self) -> Result<String, String> {
        match self.peek() {
            None | Some("," | ")") => Ok(String::new()),
            Some(value) => {
                self.next();
                if !is_name(value) {
                    return Err(self.expected("a label's value", value));
                }
                Ok(value.to_owned())
            }
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        match self.next() {
            Some("(") => {}
            Some(other) => return Err(self.expected("`(`", other)),
            None => return Err(self.ended("`(`")),
        }
        if self.peek() == Some(")") {
            self.next();
            return Err(self.expected("a label's value", ")"));
        }
        let mut all = BTreeSet::new();
        loop {
            all.insert(self.value()?);
            match self.next() {
                Some(")") => return Ok(all),
                Some(",") => {}
                Some(other) => return Err(self.expected("`,` or `)`", other)),
                None => return Err(self.ended("`,` or `)`")),
            }
        }
    }

    /// For the token just taken.
    fn expected(&self, what: &str, found: &str) -> String {
        let start = self.at.saturating_sub(found.len());
        let column = self.text.get(..start).unwrap_or_default().chars().count() + 1;
        format!("expected {what}, found {found:?} at character {column}")
    }

    fn ended(&self, what: &str) -> String {
        format!("expected {what} at the end")
    }
}

/// Letters, digits, `-`, `_`, `.`; a letter or digit at both ends; possibly empty.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    text.len() <= NAME_MAX
        && ends.into_iter().flatten().all(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_operator() {
        let pod = labels(&[("app", "web"), ("tier", "front"), ("example.com/in", "")]);
        for (text, takes) in [
            ("app=web", true),
            ("app == web,tier=front", true),
            ("app=web,tier=back", false),
            ("app!=web", false),
            ("none != web", true),
            ("app in (web, api)", true),
            ("app in(api)", false),
            ("app notin (api,x),app", true),
            ("app notin (web)", false),
            ("none notin (web)", true),
            ("app", true),
            ("none", false),
            ("!none", true),
            ("! app", false),
            ("example.com/in=", true),
            ("example.com/in in (,x)", true),
            ("in=x", false),
        ] {
            let selector = Selector::parse(text).unwrap();
            assert_eq!(selector.matches(&pod), takes, "{text}");
            assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector, "{text}");
        }
    }

    #[test]
    fn errors_point_at_the_place() {
        for (text, says) in [
            ("", "a label's key at the end"),
            ("app=web,", "a label's key at the end"),
            ("app in (web", "`,` or `)` at the end"),
            ("app in web", "`(`, found \"web\" at character 8"),
            ("app in ()", "value, found \")\" at character 9"),
            ("app=web tier=x", "found \"tier\" at character 9"),
            ("app>3", "found \">\" at character 4"),
            ("app=we b", "found \"b\" at character 8"),
            ("-app=x", "found \"-app\" at character 1"),
            ("app=w\u{e4}b", "character 5"),
            ("EXAMPLE/x=y", "found \"EXAMPLE/x\""),
            ("a=b=c", "found \"=\" at character 4"),
            ("a=(b)", "value, found \"(\" at character 3"),
        ] {
            let told = Selector::parse(text).unwrap_err();
            assert!(told.contains(says), "{text}: {told}");
        }
        assert!(Selector::parse(&"a".repeat(64)).is_err());
    }

    fn expression() -> impl Strategy<Value = String> {
        let word = "[a-z][a-z0-9._-]{0,8}[a-z0-9]";
        (word, prop::collection::vec(word, 1..4), 0..6).prop_map(|(key, values, operator)| {
            let (one, all) = (&values[0], values.join(" , "));
            match operator {
                0 => format!("{key}={one}"),
                1 => format!(" {key} == {one}"),
                2 => format!("{key}!={one} "),
                3 => format!("{key} in ({all})"),
                4 => format!("{key} notin ( {all} )"),
                _ => format!("!{key}"),
            }
        })
    }

    proptest! {
        #[test]
        fn anything_parses_or_is_refused(text in "[a-z=!(),<> \u{e4}/.-]{0,40}") {
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
            }
        }

        #[test]
        fn written_again_it_is_the_same(parts in prop::collection::vec(expression(), 1..5)) {
            let selector = Selector::parse(&parts.join(",")).unwrap();
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
