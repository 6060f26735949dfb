//! Any offer: what is answered must be readable by the offerer.
#![no_main]

use callbox::sip::sdp::{Encryption, LocalMedia, negotiate, read_answer};

libfuzzer_sys::fuzz_target!(|offer: &str| {
    for encryption in [Encryption::Off, Encryption::Optional, Encryption::Required] {
        let local = LocalMedia { encryption, ..LocalMedia::new(([192, 0, 2, 1], 20_000).into(), 1) };
        if let Ok((answer, media)) = negotiate(offer, &local) {
            let mut theirs = LocalMedia::new(([192, 0, 2, 2], 30_000).into(), 2);
            theirs.numbers.opus = media.payload_type;
            // Keys answer those that they were offered, and these are another's.
            if media.crypto.is_none() {
                assert!(read_answer(&answer, &theirs).is_ok());
            }
        }
    }
});
