//! The fuzz targets of `tests/fuzz`, run over what they have learnt, by any compiler: what was found once stays found. The
//! targets are compiled as they are; here is what `libfuzzer-sys` gives them otherwise.

extern crate self as libfuzzer_sys;

use std::path::{Path, PathBuf};

#[macro_export]
macro_rules! fuzz_target {
    (|$data:ident: &[u8]| $body:expr) => {
        pub(crate) fn run($data: &[u8]) {
            $body;
        }
    };
    (|$data:ident: &str| $body:expr) => {
        pub(crate) fn run(data: &[u8]) {
            if let Ok($data) = std::str::from_utf8(data) {
                $body;
            }
        }
    };
}

macro_rules! targets {
    ($($name:ident $path:literal),* $(,)?) => {
        $(
            #[path = $path]
            #[allow(unused_attributes, unused_imports, reason = "a target is the root of a crate elsewhere")]
            mod $name;
        )*
        const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::run)),*];
    };
}

targets![
    sip_digest "../../tests/fuzz/fuzz_targets/sip_digest.rs",
    rtcp_packet "../../tests/fuzz/fuzz_targets/rtcp_packet.rs",
    rtp_packet "../../tests/fuzz/fuzz_targets/rtp_packet.rs",
    sdp_offer "../../tests/fuzz/fuzz_targets/sdp_offer.rs",
    sip_message "../../tests/fuzz/fuzz_targets/sip_message.rs",
    srtp_packet "../../tests/fuzz/fuzz_targets/srtp_packet.rs",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz").join(name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()).collect()
}

#[test]
fn every_target_survives_what_it_has_learnt() {
    let (mut named, mut here): (Vec<_>, Vec<_>) =
        (TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect(), vec![]);
    for path in files(&folder("fuzz_targets")) {
        here.push(path.file_stem().unwrap().to_string_lossy().into_owned());
    }
    named.sort();
    here.sort();
    assert_eq!(named, here, "every target is named in `targets!`");
    for (name, run) in TARGETS {
        let inputs = files(&folder("corpus").join(name));
        assert!(inputs.len() >= 3, "the corpus of {name} is empty");
        for input in inputs {
            let bytes = std::fs::read(&input).unwrap();
            // Also cut off and with a bit turned, as the network has it.
            for end in [bytes.len(), bytes.len() / 2, bytes.len().saturating_sub(1)] {
                let mut bytes = bytes[..end].to_vec();
                run(&bytes);
                if let Some(byte) = bytes.get_mut(end / 3) {
                    *byte ^= 0x10;
                    run(&bytes);
                }
            }
        }
    }
}
