//! What is known of a card, and what of it is a fault. Enters: readings, critical errors (XID) so far; leaves: sentences for
//! whoever looks after the box. Never here: the driver.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// Which card it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
pub struct Identity {
    /// Its place in the driver's list, which may be another one after a restart of the machine.
    pub index: u32,
    /// Of a slice (MIG): its number on that card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<u32>,
    /// Its name for ever, `GPU-…`; of a slice `MIG-…`.
    pub uuid: String,
    /// What it is sold as.
    pub name: String,
    /// Where it sits, as in `lspci`.
    pub pci: String,
}

impl Identity {
    /// Its number, as `nvidia-smi` writes it: `0`, or `0:1` for a slice.
    #[must_use]
    pub fn number(&self) -> String {
        self.slice.map_or_else(|| self.index.to_string(), |slice| format!("{}:{slice}", self.index))
    }
}

/// What the driver read from it; what a card does not tell is absent.
#[derive(Clone, PartialEq, Debug, Default, Serialize, ToSchema)]
pub struct Reading {
    /// Memory in all.
    pub memory_bytes: Option<u64>,
    /// Memory that is taken, by whatever runs there.
    pub memory_used_bytes: Option<u64>,
    /// Share of the time in which it computed, 0 to 1.
    pub utilization: Option<f64>,
    /// Of the chip, °C.
    pub temperature_celsius: Option<u32>,
    /// Watts.
    pub power_watts: Option<f64>,
    /// Watts that it may take at most.
    pub power_limit_watts: Option<f64>,
    /// Why it is slower than it could be: `heat`, `power`, `hardware`. Its ordinary limit of power is none of them.
    pub slowed_by: Vec<&'static str>,
    /// Memory errors that could not be corrected, since the driver was loaded.
    pub ecc_errors: Option<u64>,
    /// Broken memory waits for the next reset to be replaced by spare memory.
    pub rows_pending: bool,
    /// There is no spare memory left for what is broken.
    pub rows_failed: bool,
    /// Processes that compute on it.
    pub processes: Vec<u32>,
}

/// A card, as it was seen last.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct Card {
    /// Which.
    #[serde(flatten)]
    pub identity: Identity,
    /// Absent: it cannot be reached.
    #[serde(flatten)]
    pub reading: Option<Reading>,
    /// Critical errors since the daemon started: how often each number came.
    pub xids: BTreeMap<u64, u64>,
    /// The last of them that was the card's own.
    #[serde(skip)]
    pub last_xid: Option<u64>,
    /// What is wrong with it, a sentence each; none if nothing is.
    pub faults: Vec<String>,
}

impl Card {
    /// Judges what was seen.
    #[must_use]
    pub fn new(identity: Identity, reading: Option<Reading>, xids: BTreeMap<u64, u64>) -> Self {
        let faults = faults(reading.as_ref(), &xids);
        Self { identity, reading, xids, last_xid: None, faults }
    }
}

/// Errors of a program, which say nothing of the card (as in NVIDIA's device plugin for Kubernetes, `health.go`).
const OF_PROGRAMS: [u64; 6] = [13, 31, 43, 45, 68, 109];

/// Whether the card, and not a program on it, is what failed.
#[must_use]
pub fn is_of_the_card(xid: u64) -> bool {
    !OF_PROGRAMS.contains(&xid)
}

/// What an XID means, after NVIDIA's catalogue "XID Errors".
pub(super) fn meaning(xid: u64) -> &'static str {
    match xid {
        48 => "memory error that cannot be corrected",
        61 | 62 => "the card's own controller stopped",
        63 => "broken memory is replaced at the next reset",
        64 => "broken memory could not be replaced",
        74 => "an NVLink failed",
        79 => "the card has fallen off the bus",
        92 => "many memory errors that could be corrected",
        94 | 95 => "memory error that ended programs",
        119 | 120 => "the card's firmware does not answer",
        154 => "the driver wants the card to be reset",
        _ => "see NVIDIA's catalogue of XID errors",
    }
}

fn faults(reading: Option<&Reading>, xids: &BTreeMap<u64, u64>) -> Vec<String> {
    let mut faults = Vec::new();
    let Some(reading) = reading else {
        faults.push("it cannot be reached: restart the machine; if that does not help, the card is broken".to_owned());
        return faults;
    };
    let of_the_card = xids.keys().filter(|xid| is_of_the_card(**xid));
    faults.extend(of_the_card.map(|xid| format!("XID {xid}: {}; reset it, or restart the machine", meaning(*xid))));
    if let Some(errors) = reading.ecc_errors.filter(|errors| *errors > 0) {
        faults.push(format!("{errors} memory errors that could not be corrected; reset it when nothing runs on it"));
    }
    if reading.rows_failed {
        faults.push("no spare memory is left for what is broken: replace the card".to_owned());
    } else if reading.rows_pending {
        faults.push("broken memory waits to be replaced; reset it when nothing runs on it".to_owned());
    }
    if !reading.slowed_by.is_empty() {
        faults.push(format!("it is slowed down by {}", reading.slowed_by.join(" and ")));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(reading: Option<Reading>, xids: &[u64]) -> Vec<String> {
        Card::new(Identity::default(), reading, xids.iter().map(|xid| (*xid, 1)).collect()).faults
    }

    #[test]
    fn what_programs_do_wrong_is_no_fault_of_the_card() {
        assert_eq!(card(Some(Reading::default()), &OF_PROGRAMS), [""; 0]);
        let seen = card(Some(Reading::default()), &[31, 79, 777]);
        assert!(seen.len() == 2 && seen[0].starts_with("XID 79: the card has fallen off the bus"), "{seen:?}");
        assert!(seen[1].contains("NVIDIA's catalogue"), "{seen:?}");
    }

    #[test]
    fn each_thing_that_is_wrong_is_said_once() {
        let worn = Reading { ecc_errors: Some(3), rows_pending: true, rows_failed: true, ..Reading::default() };
        assert_eq!(card(Some(worn), &[]).len(), 2);
        let hot = Reading { ecc_errors: Some(0), slowed_by: vec!["heat", "power"], ..Reading::default() };
        assert_eq!(card(Some(hot), &[]), ["it is slowed down by heat and power"]);
        assert!(card(None, &[48])[0].starts_with("it cannot be reached"));
    }
}
