//! Questions, ready to compare: what was asked lately is held once, however often it passes. Knows
//! nothing of who asked.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::event::Dns;

/// Questions remembered; a power of two.
const LATELY: usize = 1024;

/// A question, ready to compare and cheap to clone.
#[derive(Clone, Debug, Eq)]
pub struct Asked {
    /// Name in lower case.
    pub name: Arc<str>,
    /// Type as text.
    pub qtype: Cow<'static, str>,
    /// Of both, keyed.
    hash: u64,
}

impl PartialEq for Asked {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.is(&other.name, &other.qtype)
    }
}

impl Hash for Asked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Ord for Asked {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.name, &self.qtype).cmp(&(&other.name, &other.qtype))
    }
}

impl PartialOrd for Asked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Asked {
    fn is(&self, name: &str, qtype: &str) -> bool {
        (std::ptr::eq(&raw const *self.name, name) || *self.name == *name) && self.qtype == qtype
    }
}

/// Makes questions. Those of two makers are never equal.
#[derive(Debug)]
pub(crate) struct Questions {
    hasher: RandomState,
    /// By the lower bits of their hash.
    lately: Vec<Option<Asked>>,
}

impl Default for Questions {
    fn default() -> Self {
        Self { hasher: RandomState::default(), lately: vec![None; LATELY] }
    }
}

impl Questions {
    /// What `dns` asks, or answers.
    pub(crate) fn of(&mut self, dns: &Dns) -> Option<Asked> {
        let question = dns.message.question.as_ref()?;
        let mut name = Cow::Borrowed(question.name.as_str());
        if name.bytes().fold(false, |upper, byte| upper | byte.is_ascii_uppercase()) {
            name.to_mut().make_ascii_lowercase();
        }
        let hash = self.hasher.hash_one((&*name, &*question.qtype));
        let place = usize::try_from(hash % LATELY as u64).ok()?;
        let lately = self.lately.get_mut(place)?;
        match lately {
            Some(known) if known.hash == hash && known.is(&name, &question.qtype) => {
                Some(known.clone())
            }
            _ => {
                let qtype = question.qtype.clone();
                let asked = Asked { name: Arc::from(&*name), qtype, hash };
                *lately = Some(asked.clone());
                Some(asked)
            }
        }
    }
}
