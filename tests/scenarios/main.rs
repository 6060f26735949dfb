//! Whole calls: real processes, real sockets of loopback, real peers. One binary, run one test at a time.

mod callers;
