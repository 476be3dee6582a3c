//! The OpenAPI 3.1 document of the admin listener, made from its table of endpoints.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::endpoint::{Content, Endpoint, Parameter};
use super::problem::{self, Problem};

pub(super) fn document(endpoints: &[Endpoint]) -> Value {
    // OpenAPI 3.1 schemas are JSON Schema of 2020-12.
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for endpoint in endpoints {
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[&*endpoint.method.as_str().to_ascii_lowercase()] = operation(endpoint, &mut generator);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a gateway is and does. The key `token` of the table `[admin]` is needed to change something.",
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Value {
    let content = match &endpoint.content {
        Content::Text(kind) => json!({ (*kind): { "schema": { "type": "string" } } }),
        Content::Json(schema) => json!({ (super::JSON): { "schema": schema(generator) } }),
    };
    let problem = json!({ (problem::CONTENT): { "schema": generator.subschema_for::<Problem>() } });
    let mut responses = Map::new();
    responses.insert("200".into(), json!({ "description": "Done.", "content": content }));
    for (status, description) in &endpoint.problems {
        responses.insert(status.as_str().to_owned(), json!({ "description": description, "content": problem }));
    }
    responses.insert("default".into(), json!({ "description": "Any other problem.", "content": problem }));
    let in_path = names(endpoint.path)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let in_query = endpoint.parameters.iter().map(|Parameter { name, description, example, required }| {
        let schema = json!({ "type": "string", "example": example });
        json!({ "name": name, "in": "query", "required": required, "description": description, "schema": schema })
    });
    let parameters: Vec<Value> = in_path.chain(in_query).collect();
    let mut operation = json!({
        "operationId": operation_id(endpoint),
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(request) = &endpoint.request {
        let content = json!({ (super::JSON): { "schema": (request.schema)(generator), "example": request.example } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    if endpoint.is_guarded() {
        operation["security"] = json!([{ "token": [] }]);
    }
    operation
}

/// The names in braces of a path.
fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

/// Such as `get_api_v1_upstreams_name`.
fn operation_id(endpoint: &Endpoint) -> String {
    let words = endpoint.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(endpoint.method.as_str().to_ascii_lowercase())
        .chain(words.map(str::to_owned))
        .collect::<Vec<_>>()
        .join("_")
}
