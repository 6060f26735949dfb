//! `callbox-engine`: loads models, warms them up, serves a Unix socket.

fn main() {}
