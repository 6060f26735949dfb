//! Packets that somebody who has the key has sealed, delivered in any order, twice, or changed on the way: what was not
//! changed and is new is opened to what it was, what was changed or has come before is refused. The first octet chooses
//! the suite; then each packet has four octets (which one, what becomes of it, where, how long) and its payload.

#![no_main]

use std::collections::HashSet;

use callbox::media::srtp::{MasterKey, OVERHEAD, Opener, Progress, Sealer, Suite};
use libfuzzer_sys::fuzz_target;

const HEADER: usize = 12;

fuzz_target!(|data: &[u8]| {
    let Some((first, mut rest)) = data.split_first() else { return };
    let suite = [Suite::AesCm80, Suite::AesCm32, Suite::AesGcm128, Suite::AesGcm256][usize::from(first & 3)];
    let key = MasterKey::new(suite, vec![9; suite.octets()]).expect("as long as it must be");
    let (sealer, mut opener) = (Sealer::new(&key), Opener::new(&key, Progress::default()));
    // Close to where the sequence number wraps.
    let (mut highest, mut opened) = ([65_400_u64; 2], HashSet::new());
    while let Some(([which, fate, place, length], after)) = rest.split_first_chunk::<4>() {
        let (payload, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        let report = fate & 2 != 0;
        let highest = &mut highest[usize::from(report)];
        let index = *highest - 60 + u64::from(which % 120);
        let mut packet = vec![0; HEADER + payload.len() + OVERHEAD];
        let plain = HEADER + payload.len();
        packet[0] = 0x80;
        packet[1] = if report { 201 } else { 0 };
        packet[2..4].copy_from_slice(&(index as u16).to_be_bytes());
        packet[4..HEADER].fill(3);
        packet[HEADER..plain].copy_from_slice(payload);
        let before = packet[..plain].to_vec();
        let sealed = match report {
            true => sealer.seal_rtcp(&mut packet, plain, index as u32),
            false => sealer.seal(&mut packet, plain, index),
        };
        packet.truncate(sealed);
        let changed = fate & 1 != 0;
        if changed {
            let at = usize::from(*place) % packet.len();
            packet[at] ^= 1 << (fate >> 5);
        }
        let result = match report {
            true => opener.open_rtcp(&mut packet),
            false => opener.open(&mut packet),
        };
        match result {
            Ok(plain) => {
                assert!(!changed && plain == before, "opened to something else");
                assert!(opened.insert((report, index)), "opened twice");
                *highest = index.max(*highest);
            }
            Err(_) => assert!(changed || opened.contains(&(report, index)) || index <= *highest, "refused"),
        }
    }
});
