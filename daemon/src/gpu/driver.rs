//! NVIDIA's driver, asked. Enters: the library `libnvidia-ml` of the machine; leaves: readings of each card, critical errors
//! as they come. What a card or an older driver does not know is absent. Never here: a setting.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, EventSet, Nvml};

use super::card::{Identity, Reading};

/// `nvml.h`: `NVML_FI_DEV_REMAPPED_PENDING`, `NVML_FI_DEV_REMAPPED_FAILURE`.
const ROWS_PENDING: u32 = 144;
const ROWS_FAILED: u32 = 145;

/// `nvml.h`: `NVML_DEVICE_MIG_ENABLE`.
const MIG_ENABLED: u32 = 1;

/// The number of a critical error that the driver has no number for.
const UNKNOWN_XID: u64 = 999;

/// A look at a card, or at a slice of one.
#[derive(Clone, Default)]
pub(super) struct Look {
    /// The card's place in the driver's list.
    pub(super) index: u32,
    /// Which it is, if that can still be asked.
    pub(super) identity: Option<Identity>,
    /// None: it cannot be reached.
    pub(super) reading: Option<Reading>,
}

/// The library, loaded.
pub(super) struct Driver(Nvml);

impl Look {
    /// Whether it is of a card as a whole.
    pub(super) fn is_whole(&self) -> bool {
        self.identity.as_ref().is_none_or(|identity| identity.slice.is_none())
    }
}

impl Driver {
    /// Loads it.
    ///
    /// # Errors
    /// Why there is none, in the library's words.
    pub(super) fn load(library: &Path) -> Result<Self, NvmlError> {
        Nvml::builder().lib_path(library.as_os_str()).init().map(Self)
    }

    pub(super) fn version(&self) -> String {
        self.0.sys_driver_version().unwrap_or_default()
    }

    /// Every card, in the driver's order, each with its slices behind it.
    ///
    /// # Errors
    /// The driver does not answer.
    pub(super) fn look(&self) -> Result<Vec<Look>, NvmlError> {
        let mut looks = Vec::new();
        for index in 0..self.0.device_count()? {
            let Ok(card) = self.0.device_by_index(index) else {
                looks.push(Look { index, ..Look::default() });
                continue;
            };
            let whole = identity(&card, index).ok();
            looks.push(Look { index, identity: whole.clone(), reading: reading(&card).ok() });
            if card.mig_mode().is_ok_and(|mode| mode.current == MIG_ENABLED) {
                let pci = whole.map(|whole| whole.pci).unwrap_or_default();
                let slices = 0..card.mig_device_count().unwrap_or_default();
                looks.extend(slices.filter_map(|slice| {
                    let device = card.mig_device_by_index(slice).ok()?;
                    let identity = Identity { slice: Some(slice), pci: pci.clone(), ..identity(&device, index).ok()? };
                    Some(Look { index, identity: Some(identity), reading: reading(&device).ok() })
                }));
            }
        }
        Ok(looks)
    }

    /// The critical errors of these cards from now on; none if the driver tells of no card's.
    pub(super) fn listen(&self, cards: &[u32]) -> Option<Ears<'_>> {
        // A set that meets a card which it cannot take is gone, so each is tried with one of its own.
        let mut takes: Vec<&u32> = cards.iter().collect();
        takes.retain(|&index| self.0.create_event_set().ok().and_then(|set| self.add(set, index)).is_some());
        if takes.is_empty() {
            return None;
        }
        takes.into_iter().try_fold(self.0.create_event_set().ok()?, |set, index| self.add(set, index)).map(Ears)
    }

    fn add<'a>(&'a self, set: EventSet<'a>, index: &u32) -> Option<EventSet<'a>> {
        let card = self.0.device_by_index(*index).ok()?;
        card.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok()
    }
}

/// Critical errors as they come.
pub(super) struct Ears<'a>(EventSet<'a>);

impl Ears<'_> {
    /// The next one within `limit`: the card's UUID and the error's number.
    ///
    /// # Errors
    /// The driver cannot tell any more.
    pub(super) fn next(&self, limit: Duration) -> Result<Option<(String, u64)>, NvmlError> {
        match self.0.wait(u32::try_from(limit.as_millis()).unwrap_or(u32::MAX)) {
            Ok(event) => {
                let number = |xid| if let XidError::Value(number) = xid { number } else { UNKNOWN_XID };
                Ok(event.event_data.map(number).zip(event.device.uuid().ok()).map(|(xid, uuid)| (uuid, xid)))
            }
            Err(NvmlError::Timeout) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn identity(card: &Device<'_>, index: u32) -> Result<Identity, NvmlError> {
    let pci = card.pci_info().map(|pci| pci.bus_id).unwrap_or_default();
    Ok(Identity { index, slice: None, uuid: card.uuid()?, name: card.name().unwrap_or_default(), pci })
}

/// What is not told is absent; only a card that cannot be reached is an error.
fn told<T>(asked: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match asked {
        Err(error @ (NvmlError::GpuLost | NvmlError::Uninitialized)) => Err(error),
        asked => Ok(asked.ok()),
    }
}

fn reading(card: &Device<'_>) -> Result<Reading, NvmlError> {
    let memory = told(card.memory_info())?;
    let watts = |milliwatts: Option<u32>| milliwatts.map(|milliwatts| f64::from(milliwatts) / 1000.0);
    let rows = told(card.field_values_for(&[FieldId(ROWS_PENDING), FieldId(ROWS_FAILED)]))?.unwrap_or_default();
    let rows: BTreeMap<u32, bool> = rows.into_iter().filter_map(|row| row.ok()).filter_map(row).collect();
    let has = |field| rows.get(&field).copied().unwrap_or(false);
    Ok(Reading {
        memory_bytes: memory.as_ref().map(|memory| memory.total),
        memory_used_bytes: memory.as_ref().map(|memory| memory.used),
        utilization: told(card.utilization_rates())?.map(|rates| f64::from(rates.gpu) / 100.0),
        temperature_celsius: told(card.temperature(TemperatureSensor::Gpu))?,
        power_watts: watts(told(card.power_usage())?),
        power_limit_watts: watts(told(card.enforced_power_limit())?),
        slowed_by: told(card.current_throttle_reasons())?.map_or_else(Vec::new, slowed_by),
        ecc_errors: told(card.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile))?,
        rows_pending: has(ROWS_PENDING),
        rows_failed: has(ROWS_FAILED),
        processes: told(card.running_compute_processes())?
            .map_or_else(Vec::new, |all| all.iter().map(|one| one.pid).collect()),
    })
}

fn row(sample: nvml_wrapper::struct_wrappers::device::FieldValueSample) -> Option<(u32, bool)> {
    let set = match sample.value.ok()? {
        SampleValue::U32(value) => value != 0,
        SampleValue::U64(value) => value != 0,
        SampleValue::I64(value) => value != 0,
        SampleValue::F64(value) => value != 0.0,
    };
    Some((sample.field.0, set))
}

fn slowed_by(reasons: ThrottleReasons) -> Vec<&'static str> {
    let heat = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
    [(heat, "heat"), (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power"), (ThrottleReasons::HW_SLOWDOWN, "hardware")]
        .into_iter()
        .filter(|(reason, _)| reasons.intersects(*reason))
        .map(|(_, name)| name)
        .collect()
}
