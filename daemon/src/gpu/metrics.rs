//! Cards as metrics. Enters: what was seen last; leaves: samples, for as long as it was seen. Never here: a question to the
//! driver.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::{Card, Gpus, Reading};

impl fmt::Debug for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gpus")
    }
}

type Asked = fn(&Reading) -> Option<f64>;

#[expect(clippy::cast_precision_loss, reason = "bytes and counts, to a part in 2^52")]
fn number(value: u64) -> f64 {
    value as f64
}

/// What is read: name, help, unit, value.
fn readings() -> [(&'static str, &'static str, Option<Unit>, Asked); 9] {
    let watts = || Some(Unit::Other("watts".to_owned()));
    let celsius = || Some(Unit::Celsius);
    [
        ("gpu_memory", "Memory of a card", Some(Unit::Bytes), |seen| seen.memory_bytes.map(number)),
        ("gpu_memory_used", "Memory of a card that is taken", Some(Unit::Bytes), |seen| {
            seen.memory_used_bytes.map(number)
        }),
        ("gpu_utilization", "Share of the time in which it computed", Some(Unit::Other("ratio".to_owned())), |seen| {
            seen.utilization
        }),
        ("gpu_temperature", "Of the chip", celsius(), |seen| seen.temperature_celsius.map(f64::from)),
        ("gpu_power", "What it takes", watts(), |seen| seen.power_watts),
        ("gpu_power_limit", "What it may take at most", watts(), |seen| seen.power_limit_watts),
        ("gpu_ecc_errors", "Memory errors that could not be corrected, since the driver was loaded", None, |seen| {
            seen.ecc_errors.map(number)
        }),
        ("gpu_slowed", "1 if heat, power or a fault slows it down", None, |seen| {
            Some(f64::from(u8::from(!seen.slowed_by.is_empty())))
        }),
        ("gpu_processes", "Processes that compute on it", None, |seen| Some(number(seen.processes.len() as u64))),
    ]
}

impl Collector for Gpus {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let seen = self.seen();
        let Some(driver) = seen.driver else { return Ok(()) };
        let label = |card: &Card| [("gpu", card.identity.number())];
        // What slices have is their card's: nothing is to be counted twice.
        let whole = || seen.cards.iter().filter(|card| card.identity.slice.is_none());
        let mut info = encoder.encode_descriptor("gpu_info", "Which cards there are", None, MetricType::Gauge)?;
        for Card { identity, .. } in &seen.cards {
            let labels = [
                ("gpu", identity.number()),
                ("uuid", identity.uuid.clone()),
                ("name", identity.name.clone()),
                ("driver", driver.clone()),
            ];
            ConstGauge::new(1.0).encode(info.encode_family(&labels)?)?;
        }
        let help = "1 if nothing is wrong with it";
        let mut healthy = encoder.encode_descriptor("gpu_healthy", help, None, MetricType::Gauge)?;
        for card in whole() {
            let value = f64::from(u8::from(card.faults.is_empty()));
            ConstGauge::new(value).encode(healthy.encode_family(&label(card))?)?;
        }
        for (name, help, unit, asked) in readings() {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for card in whole() {
                if let Some(value) = card.reading.as_ref().and_then(asked) {
                    ConstGauge::new(value).encode(family.encode_family(&label(card))?)?;
                }
            }
        }
        let mut xids = encoder.encode_descriptor("gpu_xid", "Critical errors", None, MetricType::Counter)?;
        for card in whole() {
            for (xid, count) in &card.xids {
                let labels = [("gpu", card.identity.number()), ("xid", xid.to_string())];
                ConstCounter::new(*count).encode(xids.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
