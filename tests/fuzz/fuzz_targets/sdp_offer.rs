//! Any offer: what is answered must be readable by the offerer.
#![no_main]

use callbox::sip::sdp::{LocalMedia, negotiate, read_answer};

libfuzzer_sys::fuzz_target!(|offer: &str| {
    let local = LocalMedia::new(([192, 0, 2, 1], 20_000).into(), 1);
    if let Ok((answer, _)) = negotiate(offer, &local) {
        let theirs = LocalMedia::new(([192, 0, 2, 2], 30_000).into(), 2);
        assert!(read_answer(&answer, &theirs).is_ok());
    }
});
