//! The API's own description. Enters: what each path says of itself; leaves: one OpenAPI document, with what all paths of a
//! group have in common added here: who may, and how it is refused.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Type;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ObjectBuilder, OpenApi as Document, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi, ToSchema};

use super::Shared;
use super::who::Need;

/// What went wrong (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// `about:blank`: the status says what kind it is.
    r#type: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// One sentence about what to do.
    detail: String,
}

/// The part that no path says.
#[derive(OpenApi)]
#[openapi(
    info(title = "Callbox", description = "What operators ask a running callboxd, and have it do."),
    components(schemas(ProblemBody)),
    modifiers(&Token),
    tags(
        (name = "health", description = "How the box is; open to everybody who reaches it"),
        (name = "calls", description = "Calls that are up, and those that were"),
        (name = "recordings", description = "Their audio"),
        (name = "cache", description = "Questions whose answer is known"),
        (name = "knowledge", description = "Documents that agents know"),
        (name = "adapters", description = "Adapters of the language model, which agents answer with"),
        (name = "privacy", description = "What there is of one person"),
        (name = "events", description = "What happens, as it happens"),
        (name = "reports", description = "What some time looked like"),
        (name = "box", description = "Agents, models, and the daemon itself"),
        (name = "tokens", description = "Who may use the API, and who did"),
    )
)]
pub(super) struct Base;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut Document) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Made by `callbox token create`; over the control socket none is needed"))
            .build();
        document.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(bearer));
    }
}

/// The document, for whoever wants to write a client.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "health",
    responses((status = 200, description = "This document", body = Object)))]
pub(super) async fn document(State(shared): State<Shared>) -> Json<Document> {
    Json((*shared.document).clone())
}

/// Every operation of a document, by path and method.
pub(super) fn operations(document: &mut Document) -> impl Iterator<Item = (&String, &'static str, &mut Operation)> {
    document.paths.paths.iter_mut().flat_map(|(path, item)| {
        [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("delete", &mut item.delete),
            ("patch", &mut item.patch),
        ]
        .into_iter()
        .filter_map(move |(method, operation)| Some((path, method, operation.as_mut()?)))
    })
}

/// Adds what all operations of a group have in common.
pub(super) fn complete(document: &mut Document, need: Option<Need>) {
    for (_, method, operation) in operations(document) {
        let asks = operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty());
        let brings = operation.request_body.is_some();
        let mut refusals = vec![];
        if let Some(need) = need {
            refusals.push((403, "Not with this token, or not on this listener"));
            refusals.push((503, "Not now: the database, the engine or the daemon itself cannot"));
            if let Need::Scope(scope) = need {
                refusals.push((401, "It takes a token"));
                refusals.push((429, "Too many wrong tokens from this address"));
                let wanted = SecurityRequirement::new("token", [scope.as_str()]);
                operation.security = Some(vec![wanted]);
            }
        }
        if asks || brings || method == "post" {
            refusals.push((400, "What was asked for makes no sense"));
        }
        if need.is_some() && method != "get" {
            refusals.push((408, "The body did not come in time"));
            refusals.push((413, "The body is too long"));
        }
        if brings {
            refusals.push((415, "The body is not JSON"));
        }
        if method == "post" {
            refusals.push((409, "A request with this Idempotency-Key is being carried out"));
            refusals.push((422, "The Idempotency-Key was used for another request"));
            let key = ParameterBuilder::new()
                .name(super::again::NAME)
                .parameter_in(ParameterIn::Header)
                .description(Some("Whoever asks again with the same key gets the first answer, for a day"))
                .schema(Some(
                    ObjectBuilder::new()
                        .schema_type(Type::String)
                        .min_length(Some(1))
                        .max_length(Some(255))
                        .pattern(Some("^[!-~]+$")),
                ))
                .build();
            operation.parameters.get_or_insert_default().push(RefOr::T(key));
        }
        for (status, description) in refusals {
            let known = operation.responses.responses.entry(status.to_string());
            known.or_insert_with(|| RefOr::T(ResponseBuilder::new().description(description).build()));
        }
        for (status, response) in &mut operation.responses.responses {
            if let RefOr::T(response) = response
                && status.as_str() >= "400"
                && response.content.is_empty()
            {
                told_as_problem(response);
            }
        }
    }
}

fn told_as_problem(response: &mut Response) {
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    response.content.insert("application/problem+json".to_owned(), RefOr::T(problem));
}
