//! A telephone line in simulated time: callers that speak at given milliseconds, an engine with given delays, a playout
//! that sends a frame every 20 ms. A scenario of a minute runs in well under a millisecond of real time.

mod config;
mod errand;
mod faults;
mod kept;
mod properties;
mod recall;
mod recorded;
mod retrieval;
mod scenarios;
mod sim;
mod transfer;
