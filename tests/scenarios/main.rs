//! Whole calls, with real peers.
