//! Conclusions to findings: cause, cost, evidence, remedy. Reads no events of its own.
