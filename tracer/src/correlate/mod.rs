//! Events to transactions, lookups and connections, with bounded state that expires by record time.
//! Formats nothing and judges nothing.

use crate::event::Event;
use crate::identify::Identifier;

/// What the correlator concluded.
#[derive(Clone, Debug)]
pub enum Conclusion {}

/// The correlator.
#[derive(Debug, Default)]
pub struct Correlator {}

impl Correlator {
    /// Takes an event in; appends what became certain.
    pub fn observe(&mut self, event: &Event, who: &Identifier, done: &mut Vec<Conclusion>) {
        let _ = (event, who, done);
    }

    /// The input ended: what is open is undecided.
    pub fn finish(&mut self, who: &Identifier, done: &mut Vec<Conclusion>) {
        let _ = (who, done);
    }
}
