//! The API's description (OpenAPI 3.1), made from the table of routes and the types of its handlers.

use std::collections::BTreeMap;

use axum::http::Method;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::auth::Needs;
use super::body::Media;
use super::error::{Code, ErrorView};
use super::job_request::NAME_PATTERN;
use super::routes::Route;

/// The refusals of every route.
const ALWAYS: &[Code] = &[
    Code::InvalidRequest,
    Code::HeadTooLarge,
    Code::MissingHost,
    Code::Misdirected,
    Code::InternalError,
];

/// The refusals of every route of the API itself.
const API: &[Code] = &[Code::InvalidQuery];

/// The refusals of every route that needs to know its caller, if there are tokens.
const KNOWN: &[Code] = &[Code::Unauthorized, Code::TooManyFailures, Code::RateLimited];

/// Those of every route that not every token is good for.
const ALLOWED: &[Code] = &[Code::Forbidden];

/// The refusals of every route that changes something.
const WRITING: &[Code] = &[Code::CrossSite];

/// The refusals of every route that takes a body.
const WITH_BODY: &[Code] = &[
    Code::InvalidBody,
    Code::InvalidJson,
    Code::UnknownField,
    Code::MissingField,
    Code::InvalidField,
    Code::BodyTimeout,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::UnsupportedEncoding,
    Code::ServerBusy,
];

/// What the description says first.
const ABOUT: &str = "A durable job server whose counts are exact. An answer to a change leaves \
                     when the change is on disk. Clients must ignore fields that they do not know.";

/// The description as JSON text.
pub(super) fn describe(table: &[Route]) -> String {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in table {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation(route, &mut schemas);
    }
    let description = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tallyd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "paths": paths,
        "components": {
            "schemas": schemas.take(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "password": {"type": "http", "scheme": "basic"},
            },
        },
    });
    description.to_string()
}

/// Gathers the schemas of what comes in and of what goes out.
struct Schemas {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        Self {
            requests: settings.clone().for_deserialize().into_generator(),
            answers: settings.for_serialize().into_generator(),
        }
    }

    fn take(mut self) -> Map<String, Value> {
        let mut all = self.answers.take_definitions(true);
        all.append(&mut self.requests.take_definitions(true));
        all
    }
}

/// What one route takes and answers.
fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.summary,
        "responses": responses(route, schemas),
    });
    if route.needs != Needs::Nothing {
        let mut security = vec![json!({}), json!({"token": []})];
        if route.needs.lets_users() {
            security.push(json!({"password": []}));
        }
        operation["security"] = security.into();
    }
    let parameters = parameters(route, schemas);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if !route.takes.is_empty() {
        let content: Map<_, _> = route
            .takes
            .iter()
            .map(|(media, schema)| {
                (media.name().to_owned(), json!({"schema": schema(&mut schemas.requests)}))
            })
            .collect();
        operation["requestBody"] = json!({"content": content});
    }
    operation
}

/// The variable parts of the path, and the query.
fn parameters(route: &Route, schemas: &mut Schemas) -> Vec<Value> {
    let mut parameters: Vec<_> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let schema = match name {
                "id" => json!({"type": "string", "format": "uuid"}),
                _ => json!({"type": "string", "pattern": NAME_PATTERN}),
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    let Some(query) = route.query else { return parameters };
    let settings = schemas.requests.settings().clone().with(|settings| {
        settings.inline_subschemas = true;
    });
    let schema = query(&mut settings.into_generator());
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten()
    {
        parameters.push(json!({"name": name, "in": "query", "schema": schema}));
    }
    parameters
}

/// The answers and refusals by status.
fn responses(route: &Route, schemas: &mut Schemas) -> Map<String, Value> {
    let mut responses = Map::new();
    for (code, content) in &route.answers {
        let description = match code {
            201 => "created",
            204 => "done",
            _ => "as asked",
        };
        let response = responses.entry(code.to_string());
        let response = response.or_insert_with(|| json!({"description": description}));
        if let Some(content) = content {
            let schema = (content.schema)(&mut schemas.answers);
            response["content"][content.media] = json!({"schema": schema});
        }
    }
    let with_body = if route.takes.is_empty() { &[] } else { WITH_BODY };
    let writing = if route.method == Method::GET { &[] } else { WRITING };
    let mut refusals = BTreeMap::<u16, Vec<&str>>::new();
    let api = if route.path.starts_with("/v1/") { API } else { &[] };
    let known = if route.needs == Needs::Nothing { &[] } else { KNOWN };
    let allowed = if matches!(route.needs, Needs::Nothing | Needs::Token) { &[] } else { ALLOWED };
    let all = [route.refusals, route.store, with_body, writing, api, known, allowed, ALWAYS];
    for code in all.into_iter().flatten() {
        refusals.entry(code.status().as_u16()).or_default().push(code.name());
    }
    let error = schemas.answers.subschema_for::<ErrorView<'_>>();
    for (status, names) in refusals {
        let response = json!({
            "description": names.join(", "),
            "content": {Media::Json.name(): {"schema": error}},
        });
        responses.insert(status.to_string(), response);
    }
    responses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::routes;

    fn description() -> Value {
        serde_json::from_str(&describe(&routes::table())).expect("JSON")
    }

    /// Every `$ref` in a value.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_described_and_every_reference_leads_somewhere() {
        let description = description();
        for route in routes::table() {
            let method = route.method.as_str().to_lowercase();
            let operation = &description["paths"][route.path][&method];
            assert_eq!(operation["operationId"], route.name);
        }
        let mut found = Vec::new();
        references(&description, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("local");
            assert!(description.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn requests_refuse_unknown_fields_and_answers_do_not() {
        let schemas = &description()["components"]["schemas"];
        assert_eq!(schemas["CreateJob"]["additionalProperties"], false);
        assert_eq!(schemas["CreateJob"]["required"], json!(["kind"]));
        assert!(schemas["Job"].get("additionalProperties").is_none());
        for field in ["id", "payload", "result", "last_error"] {
            let required = schemas["Job"]["required"].as_array().expect("a list");
            assert!(required.contains(&field.into()), "{field}: {required:?}");
        }
    }

    #[test]
    fn the_query_of_a_list_is_described() {
        let parameters = &description()["paths"]["/v1/jobs"]["get"]["parameters"];
        let names: Vec<_> =
            parameters.as_array().into_iter().flatten().map(|p| p["name"].clone()).collect();
        assert_eq!(names, ["cursor", "kind", "limit", "queue", "state"]);
    }
}
