//! Where traces of calls are sent, as the owner writes it. Enters: `[telemetry]`; leaves: an address that can be asked. Never
//! here: a connection.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is told to programs of the owner's.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// The collector that traces of calls are sent to (OTLP over HTTP); absent, nothing is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Collector>,
}

/// A collector of OpenTelemetry; written `http://HOST:PORT`, with a path if its paths begin with one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Collector {
    written: String,
    traces: Uri,
}

impl Collector {
    /// Where it takes traces.
    #[must_use]
    pub const fn traces(&self) -> &Uri {
        &self.traces
    }
}

impl FromStr for Collector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("https:") {
            return Err(format!(
                "`{text}`: TLS is not spoken here; run a collector on this machine that sends on, and name it with http:"
            ));
        }
        let wrong = || format!("`{text}` is no address of a collector: write it as in \"http://127.0.0.1:4318\"");
        let base: Uri = text.parse().map_err(|_| wrong())?;
        let named = base.host().is_some_and(|host| !host.is_empty()) && !text.contains('@');
        if base.scheme_str() != Some("http") || !named || base.query().is_some() {
            return Err(wrong());
        }
        let traces = format!("{}/v1/traces", text.trim_end_matches('/')).parse().map_err(|_| wrong())?;
        Ok(Self { written: text.to_owned(), traces })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Serialize for Collector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Collector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_an_address_and_nothing_else() {
        for (written, asked) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://[::1]:4318/", "http://[::1]:4318/v1/traces"),
            ("http://collector.lan/otlp/", "http://collector.lan/otlp/v1/traces"),
        ] {
            let collector: Collector = written.parse().expect(written);
            assert_eq!((collector.traces().to_string().as_str(), collector.to_string().as_str()), (asked, written));
        }
        for wrong in ["", "127.0.0.1:4318", "grpc://a:4317", "http://", "http://a?b=c", "http://a:b@c", "http://a b"] {
            assert!(wrong.parse::<Collector>().expect_err(wrong).contains("http://127.0.0.1:4318"), "{wrong}");
        }
        assert!("https://a".parse::<Collector>().expect_err("TLS").contains("TLS is not spoken here"));
    }
}
