//! Any WWW-Authenticate or Authorization: what we write in answer, we can read.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| callbox::sip::digest::fuzz(text));
