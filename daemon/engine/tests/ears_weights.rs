//! Checkpoints: a small one is read as torch wrote it, a broken one is an error.

use std::path::Path;

use callbox_engine::weights::tensors::{Tensors, parse};
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

fn small() -> Vec<u8> {
    std::fs::read(path()).expect("committed")
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ears/small.pt")
}

#[test]
fn halves_transposed_matrices_and_views_are_read() {
    let tensors = Tensors::open(&path()).expect("a checkpoint");
    assert_eq!(tensors.read("plain", &[2, 3]).expect("there"), [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]);
    assert_eq!(tensors.read("transposed", &[2, 3]).expect("there"), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    assert_eq!(tensors.read("view", &[3]).expect("there"), [4.0, 5.0, 6.0]);
    assert!(tensors.read("view", &[4]).is_err());
    assert!(tensors.read("absent", &[3]).is_err());
}

#[test]
fn a_cut_checkpoint_is_an_error() {
    let bytes = small();
    for len in 0..bytes.len() {
        assert!(parse(&bytes[..len]).is_err(), "cut to {len}");
    }
}

#[test]
fn a_tower_of_tuples_is_an_error() {
    // The pickle is stored as it is, and the archive's checksums are not looked at: replace it by a program.
    let mut bytes = small();
    let start = bytes.windows(3).position(|w| w == b"\x80\x02}").expect("the pickle");
    bytes[start..start + 2].copy_from_slice(b")\x85");
    for byte in &mut bytes[start + 1..start + 200] {
        *byte = 0x85;
    }
    assert!(parse(&bytes).is_err());
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = small();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(entries) = parse(&bytes) {
            prop_assert!(entries.values().all(|entry| entry.bytes.end <= bytes.len()));
        }
    }

    #[test]
    fn changed_headers_never_panic(changes in prop::collection::vec((0_usize..120, any::<u8>()), 0..6), cut in 0_usize..200) {
        let view = TensorView::new(Dtype::F16, vec![2, 3], &[0; 12]).expect("whole");
        let mut bytes = safetensors::serialize([("a", view)], None).expect("a file");
        let last = bytes.len() - 1;
        for (at, byte) in changes {
            bytes[at.min(last)] = byte;
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        if let Ok(entries) = parse(&bytes) {
            prop_assert!(entries.values().all(|entry| entry.bytes.end <= bytes.len()));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(parse(&bytes).is_err());
        prop_assert!(parse(&[b"PK\x03\x04".as_slice(), &bytes].concat()).is_err());
    }
}
