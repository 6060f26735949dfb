//! OTLP over HTTP (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP", binary protobuf). Enters: spans; leaves: one request, and what its answer
//! means. Never here: another address than the one that was configured.

use std::fs;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message as _;
use tokio::time::timeout;

use super::export::{Sent, Way};
use super::{Span, SpanKind, Value};
use crate::base::CallId;
use crate::config::Collector;

/// How long a collector may take for a batch.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of its answer.
const MOST: usize = 64 << 10;

/// A collector, by HTTP.
pub(super) struct Post {
    client: Client<HttpConnector, Full<Bytes>>,
    to: Uri,
    resource: Resource,
}

impl Post {
    pub(super) fn new(collector: &Collector) -> Self {
        let mut about = vec![text("service.name", "callbox"), text("service.version", env!("CARGO_PKG_VERSION"))];
        // Which of several boxes it is.
        if let Ok(host) = fs::read_to_string("/proc/sys/kernel/hostname") {
            about.push(text("host.name", host.trim()));
        }
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            to: collector.traces().clone(),
            resource: Resource { attributes: about, ..Resource::default() },
        }
    }

    async fn ask(&self, body: Vec<u8>) -> Result<(StatusCode, Bytes), String> {
        let request = Request::post(self.to.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("callbox/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body.into()))
            .map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| root(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST).collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    }
}

/// What is at the bottom of an error: the rest only says that something failed.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

impl Way for Post {
    async fn send(&self, spans: &[Span]) -> Sent {
        let body = request(self.resource.clone(), spans).encode_to_vec();
        match timeout(PATIENCE, self.ask(body)).await {
            Err(_) => Sent::Away("it does not answer".to_owned()),
            Ok(Err(why)) => Sent::Away(why),
            Ok(Ok((status, answer))) => judge(status, &answer),
        }
    }
}

/// Which answers are worth another attempt says the specification ("Retryable Response Codes").
fn judge(status: StatusCode, answer: &[u8]) -> Sent {
    match status.as_u16() {
        200..=299 => {
            // An answer that cannot be read was a good one all the same.
            let partial = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
            let rejected = partial.map_or(0, |partial| partial.rejected_spans);
            Sent::Taken(usize::try_from(rejected).unwrap_or_default())
        }
        429 | 502 | 503 | 504 => Sent::Away(format!("it says {status}")),
        _ => Sent::Refused(format!("it says {status}")),
    }
}

/// The trace of a call is named like the call, behind zeros.
fn trace(call: CallId) -> Vec<u8> {
    u128::from(call.0).to_be_bytes().to_vec()
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Any::StringValue(value.to_owned()))
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn request(resource: Resource, spans: &[Span]) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: "callboxd".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = spans.iter().map(span).collect();
    let scopes = vec![otlp::ScopeSpans { scope: Some(scope), spans, ..otlp::ScopeSpans::default() }];
    let resources =
        otlp::ResourceSpans { resource: Some(resource), scope_spans: scopes, ..otlp::ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resources] }
}

fn span(span: &Span) -> otlp::Span {
    let nanos = |us: i64| u64::try_from(us).unwrap_or_default().saturating_mul(1000);
    let kind = match span.kind {
        SpanKind::Server => otlp::span::SpanKind::Server,
        SpanKind::Client => otlp::span::SpanKind::Client,
        SpanKind::Internal => otlp::span::SpanKind::Internal,
    };
    let attribute = |(key, value): &(&'static str, Value)| match value {
        Value::Text(value) => text(key, value),
        Value::Number(number) => pair(key, Any::IntValue(*number)),
    };
    let failed = span
        .failure
        .as_ref()
        .map(|why| otlp::Status { message: why.clone(), code: otlp::status::StatusCode::Error.into() });
    otlp::Span {
        trace_id: trace(span.call),
        span_id: span.id.0.to_vec(),
        parent_span_id: span.parent.map(|parent| parent.0.to_vec()).unwrap_or_default(),
        name: span.name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: nanos(span.times_us.0),
        end_time_unix_nano: nanos(span.times_us.1),
        attributes: span.attributes.iter().map(attribute).collect(),
        status: failed,
        ..otlp::Span::default()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    #[test]
    fn answers_mean_what_the_specification_says() {
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: String::new() };
        let partial = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        for (status, answer, taken) in [(200, &[][..], 0), (200, &partial[..], 3), (202, b"{\"no\":\"protobuf\"}", 0)] {
            assert_eq!(judge(StatusCode::from_u16(status).expect("a status"), answer), Sent::Taken(taken));
        }
        for (status, away) in [(429, true), (503, true), (400, false), (404, false), (500, false), (301, false)] {
            let judged = judge(StatusCode::from_u16(status).expect("a status"), &[]);
            assert_eq!(matches!(judged, Sent::Away(_)), away, "{status}: {judged:?}");
            assert_eq!(matches!(judged, Sent::Refused(_)), !away, "{status}: {judged:?}");
        }
    }
}
