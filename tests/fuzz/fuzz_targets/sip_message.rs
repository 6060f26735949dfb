//! Any datagram: our parser, and the way to the transaction layer and back.
#![no_main]

libfuzzer_sys::fuzz_target!(|raw: &[u8]| callbox::sip::transaction::fuzz_message(raw));
