//! Figures of the rooms that keep their own, read when Prometheus asks. Enters: a scrape; leaves: the media thread's and
//! the signalling's counts; and the signalling of a call, when an operator does.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use serde_json::json;

use super::certificates::Web;
use crate::base::trunk::TrunkName;
use crate::control::{DrainState, EngineCard, Orders, Readiness, TracedMessage, Traces};
use crate::engine::{self, Engine, EngineReport, EngineState};
use crate::media::{Histogram, Media};
use crate::sip::outbound::Lines;
use crate::sip::{Endpoint, Offence, Seen, TrunkStats};
use crate::telemetry;

/// Seconds; a frame lasts 0.02, and 0.005 is the bar that the media thread is held to.
const LATENESS: [f64; 10] = [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.04, 0.1, 0.5];

/// The media thread and the SIP endpoint.
pub(super) struct Rooms {
    pub(super) media: Media,
    pub(super) endpoint: Endpoint,
    pub(super) lines: Lines,
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rooms")
    }
}

impl Collector for Rooms {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let media = self.media.stats();
        let sip = self.endpoint.stats();
        let gauges = [
            ("media_sessions", "Calls with media", media.sessions),
            ("media_ports_used", "Port pairs in use", media.ports_used),
            ("media_ports", "Port pairs of the configured range", media.ports),
            ("sip_dialogs", "Dialogs, those that wait for the end of a BYE included", sip.dialogs),
            ("sip_transactions", "Transactions in progress", sip.transactions.running),
            ("sip_connections", "Open TCP and TLS connections", sip.transactions.connections),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let counters = [
            ("media_packets_received", "Datagrams received", media.received),
            ("media_packets_sent", "Datagrams sent", media.sent),
            ("media_send_errors", "Datagrams that the system refused to send", media.send_errors),
            ("media_stalls", "Times when the machine stood still for longer than 200 ms", media.stalls),
            ("sip_tls_handshakes_failed", "TLS handshakes that came to nothing", sip.transactions.handshakes_failed),
            ("sip_malformed", "Messages that were no SIP", sip.transactions.malformed),
            ("sip_dropped", "Messages dropped unread by admission", sip.transactions.dropped),
        ];
        for (name, help, value) in counters {
            ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        if let Some(expires) = self.endpoint.certificates().and_then(|tls| tls.expires()) {
            let help = "When our TLS certificate ends, since 1970";
            encode_time(&mut encoder, "sip_certificate_expiry_timestamp", help, expires)?;
        }
        let refused = sip.refused;
        let help = "Requests for a call that were refused before anybody was asked";
        let mut reasons = encoder.encode_descriptor("sip_refused", help, None, MetricType::Counter)?;
        for (reason, count) in [
            ("draining", refused.draining),
            ("full", refused.full),
            ("unacked", refused.unacked),
            ("unfit", refused.unfit),
        ] {
            ConstCounter::new(count).encode(reasons.encode_family(&[("reason", reason)])?)?;
        }
        self.encode_traffic(&mut encoder)?;
        self.encode_trunks(&mut encoder)?;
        self.encode_lines(&mut encoder)?;
        let help = "How late packets were sent";
        let lateness =
            encoder.encode_descriptor("media_send_lateness", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        encode_lateness(&media.lateness, lateness)
    }
}

/// For `/health`: what the metrics say of the trunks.
pub(super) fn trunks(endpoint: Endpoint, lines: Lines) -> Arc<dyn Fn() -> serde_json::Value + Send + Sync> {
    Arc::new(move || {
        let (trunks, _) = endpoint.trunk_stats();
        let reports = lines.report();
        let told = |(name, stats): (TrunkName, TrunkStats)| {
            let TrunkStats { calls, too_fast, too_many, wrong_password } = stats;
            let refused = json!({ "rate": too_fast, "full": too_many, "password": wrong_password });
            let report = reports.iter().find(|report| report.name == name);
            let registered = report.filter(|report| report.registered.is_some()).map(|report| report.is_registered());
            (name.as_str().to_owned(), json!({ "calls": calls, "refused": refused, "registered": registered }))
        };
        trunks.into_iter().map(told).collect::<serde_json::Map<_, _>>().into()
    })
}

/// A moment, in seconds since 1970.
fn encode_time(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, at: SystemTime) -> Result<(), fmt::Error> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let gauge = ConstGauge::new(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    gauge.encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?)
}

/// Every engine, as health tells it; none before they are started.
pub(super) fn engines(started: Arc<OnceLock<Engine>>) -> Arc<dyn Fn() -> Vec<EngineCard> + Send + Sync> {
    let card = |EngineReport { place, state, calls, .. }: EngineReport| {
        let (state, why) = match state {
            EngineState::Starting => ("starting", None),
            EngineState::Ready(_) => ("ready", None),
            EngineState::Lost { reason, .. } => ("lost", Some(reason)),
        };
        let roles = place.roles.iter().map(|role| engine::role_name(*role)).collect();
        EngineCard { name: place.name, card: place.card, roles, state, why, calls }
    };
    Arc::new(move || started.get().map(Engine::each).unwrap_or_default().into_iter().map(card).collect())
}

/// What is true of the box now.
pub(super) struct Here {
    pub(super) readiness: Readiness,
    pub(super) engine: Engine,
    pub(super) orders: Orders,
    pub(super) web: Web,
}

impl fmt::Debug for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Here")
    }
}

impl Collector for Here {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let draining = self.orders.drain().borrow().state != DrainState::Open;
        let waiting = i64::try_from(self.engine.waiting()).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("ready", "1 if calls are answered", i64::from(self.readiness.is_ready())),
            ("draining", "1 if new calls are refused because an operator wants it", i64::from(draining)),
            ("engine_queue_requests", "Requests that wait for the engine", waiting),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        if let Some(expires) = self.web.expires() {
            let help = "When the certificate of HTTP ends, since 1970";
            encode_time(&mut encoder, "http_certificate_expiry_timestamp", help, expires)?;
        }
        let each = self.engine.each().into_iter();
        let usage = |EngineReport { place, process, .. }| Some((place.name, process.and_then(telemetry::process)?));
        let used: Vec<(String, (f64, f64))> = each.filter_map(usage).collect();
        let help = "Memory in RAM of an engine's process";
        let unit = Some(&Unit::Bytes);
        let mut memory = encoder.encode_descriptor("engine_resident_memory", help, unit, MetricType::Gauge)?;
        for (name, (bytes, _)) in &used {
            ConstGauge::new(*bytes).encode(memory.encode_family(&[("engine", name.as_str())])?)?;
        }
        let help = "Processor time of an engine's process, user and system";
        let mut cpu = encoder.encode_descriptor("engine_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
        for (name, (_, seconds)) in &used {
            ConstCounter::new(*seconds).encode(cpu.encode_family(&[("engine", name.as_str())])?)?;
        }
        Ok(())
    }
}

impl Rooms {
    /// Messages of both directions.
    fn encode_traffic(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let traffic = self.endpoint.traffic();
        let directions = [(false, "received"), (true, "sent")];
        let mut requests = encoder.encode_descriptor("sip_requests", "SIP requests", None, MetricType::Counter)?;
        for (sent, direction) in directions {
            for (method, count) in traffic.requests(sent) {
                let labels = [("direction", direction), ("method", method)];
                ConstCounter::new(count).encode(requests.encode_family(&labels)?)?;
            }
        }
        let mut responses = encoder.encode_descriptor("sip_responses", "SIP responses", None, MetricType::Counter)?;
        for (sent, direction) in directions {
            for (class, count) in traffic.responses(sent) {
                let labels = [("direction", direction), ("class", class)];
                ConstCounter::new(count).encode(responses.encode_family(&labels)?)?;
            }
        }
        let help = "SIP messages that had been there a moment before: the other side did not hear, or was not heard";
        let mut repeated = encoder.encode_descriptor("sip_retransmissions", help, None, MetricType::Counter)?;
        for (sent, direction) in directions {
            let counter = ConstCounter::new(traffic.repetitions(sent));
            counter.encode(repeated.encode_family(&[("direction", direction)])?)?;
        }
        Ok(())
    }

    /// Each trunk, and those who belong to none.
    fn encode_trunks(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (trunks, offences) = self.endpoint.trunk_stats();
        let help = "Messages refused for what their source did";
        let mut reasons = encoder.encode_descriptor("sip_offences", help, None, MetricType::Counter)?;
        for (offence, count) in Offence::ALL.iter().zip(offences) {
            ConstCounter::new(count).encode(reasons.encode_family(&[("reason", offence.as_str())])?)?;
        }
        if trunks.is_empty() {
            return Ok(());
        }
        let mut calls = encoder.encode_descriptor("trunk_calls", "Calls of a trunk", None, MetricType::Gauge)?;
        for (name, stats) in &trunks {
            let gauge = ConstGauge::new(i64::try_from(stats.calls).unwrap_or(i64::MAX));
            gauge.encode(calls.encode_family(&[("trunk", name.as_str())])?)?;
        }
        let help = "Messages of a trunk that were refused: too fast for its rate, too many calls, a wrong password";
        let mut refused = encoder.encode_descriptor("trunk_refused", help, None, MetricType::Counter)?;
        for (name, stats) in &trunks {
            for (reason, count) in
                [("rate", stats.too_fast), ("full", stats.too_many), ("password", stats.wrong_password)]
            {
                let labels = [("trunk", name.as_str()), ("reason", reason)];
                ConstCounter::new(count).encode(refused.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl Rooms {
    /// Whether trunks can be used for calls out, and are registered.
    fn encode_lines(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let reports = self.lines.report();
        let registrations: Vec<_> = reports.iter().filter(|report| report.registered.is_some()).collect();
        if !registrations.is_empty() {
            let help = "Whether the registration of a trunk is valid";
            let mut family = encoder.encode_descriptor("trunk_registered", help, None, MetricType::Gauge)?;
            for report in registrations {
                let gauge = ConstGauge::new(i64::from(report.is_registered()));
                gauge.encode(family.encode_family(&[("trunk", report.name.as_str())])?)?;
            }
        }
        let hosts = || reports.iter().flat_map(|report| report.hosts.iter().map(move |host| (&report.name, host)));
        if hosts().any(|(_, host)| host.up.is_some()) {
            let help = "Whether a host of a trunk answered the last OPTIONS";
            let mut family = encoder.encode_descriptor("trunk_host_up", help, None, MetricType::Gauge)?;
            for (trunk, host) in hosts() {
                let Some(up) = host.up else { continue };
                let labels = [("host", host.host.as_str()), ("trunk", trunk.as_str())];
                ConstGauge::new(i64::from(up)).encode(family.encode_family(&labels)?)?;
            }
            let (name, help) = ("trunk_host_response", "How long a host of a trunk took to answer the last OPTIONS");
            let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
            for (trunk, host) in hosts() {
                let Some(took) = host.took else { continue };
                let labels = [("host", host.host.as_str()), ("trunk", trunk.as_str())];
                ConstGauge::new(took.as_secs_f64()).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// The signalling of calls, as `control` shows it.
pub(super) fn traces(endpoint: Endpoint) -> Traces {
    Traces::new(move |call| endpoint.trace(call).into_iter().map(traced).collect())
}

fn traced(seen: Seen) -> TracedMessage {
    let since = seen.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    TracedMessage {
        at_us: u64::try_from(since.as_micros()).unwrap_or(u64::MAX),
        sent: seen.sent,
        transport: seen.flow.transport.name().to_owned(),
        local: seen.flow.local,
        peer: seen.flow.peer,
        message: String::from_utf8_lossy(&seen.bytes).into_owned(),
    }
}

fn encode_lateness(
    lateness: &Histogram,
    mut encoder: prometheus_client::encoding::MetricEncoder<'_>,
) -> Result<(), fmt::Error> {
    let (mut buckets, mut sum, mut before) = (LATENESS.map(|bound| (bound, 0_u64)).to_vec(), 0.0, 0);
    buckets.push((f64::MAX, 0));
    for (bound, count) in lateness.cumulative() {
        let (new, bound) = (count - before, bound.as_secs_f64());
        before = count;
        #[expect(clippy::cast_precision_loss, reason = "a sum of seconds, to a bucket's width")]
        let share = new as f64;
        sum += share * bound;
        if let Some((_, in_bucket)) = buckets.iter_mut().find(|(limit, _)| bound <= *limit) {
            *in_bucket += new;
        }
    }
    encoder.encode_histogram::<NoLabelSet>(sum, before, &buckets, None)
}
