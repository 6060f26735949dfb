//! Datagrams at the RTCP port of a call.

#![no_main]

use callbox::media::rtcp::{Fact, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut facts = 0;
    let read = parse(data, |fact| {
        if let Fact::Reception(block) = fact {
            std::hint::black_box(block.round_trip(0x1234_5678));
        }
        facts += 1;
    });
    assert!(read.is_err() || facts <= data.len() / 4);
});
