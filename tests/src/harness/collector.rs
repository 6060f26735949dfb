//! A collector of traces that stands in for an operator's: it takes what OTLP says, and keeps it. Enters: spans over HTTP;
//! leaves: the same.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

type Kept = Arc<Mutex<Vec<Result<(ExportTraceServiceRequest, Bytes), String>>>>;

/// It listens until it is dropped.
pub struct Collector {
    kept: Kept,
    task: JoinHandle<()>,
}

impl Collector {
    /// Listens.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub async fn listen(address: SocketAddr) -> anyhow::Result<Self> {
        let kept = Kept::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&kept));
        let listener = TcpListener::bind(address).await.context("a collector's address")?;
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap_or_default() });
        Ok(Self { kept, task })
    }

    /// Everything that it was sent, as bytes: for words that must not be in there.
    ///
    /// # Errors
    /// If something was sent that is no OTLP.
    pub fn requests(&self) -> anyhow::Result<Vec<(ExportTraceServiceRequest, Bytes)>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().cloned().map(|request| request.map_err(anyhow::Error::msg)).collect()
    }

    /// All spans.
    ///
    /// # Errors
    /// As [`Collector::requests`].
    pub fn spans(&self) -> anyhow::Result<Vec<Span>> {
        let requests = self.requests()?.into_iter().flat_map(|(request, _)| request.resource_spans);
        Ok(requests.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(State(kept): State<Kept>, headers: HeaderMap, body: Bytes) -> (StatusCode, Vec<u8>) {
    let protobuf = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/x-protobuf");
    let read = match ExportTraceServiceRequest::decode(body.clone()) {
        Ok(request) if protobuf => Ok((request, body)),
        Ok(_) => Err(format!("not said to be protobuf: {headers:?}")),
        Err(error) => Err(error.to_string()),
    };
    let status = if read.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(read);
    (status, ExportTraceServiceResponse::default().encode_to_vec())
}

/// An attribute, as text.
#[must_use]
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}
