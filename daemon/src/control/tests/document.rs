//! The document and the paths are one.

use super::*;

#[test]
fn every_path_is_documented_and_every_document_is_a_path() {
    let house = house();
    let (_, text) = house.ask("GET", "/api/v1/openapi.json", None, None);
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let socket = house.folder.path().join("control.sock");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() >= 20, "{}", paths.len());
    for (path, item) in paths {
        let sample = path.replace("{id}", "ab").replace("{name}", "nobody").replace("{kind}", "summary");
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let documented = item.get(method.to_lowercase()).is_some();
            // What a task would have to carry out is known to be there by its 503 or 400; a stream does not end.
            if documented
                && (path.ends_with("/events")
                    || path.ends_with("drain")
                    || path.ends_with("reload")
                    || path.ends_with("log-level")
                    || path.contains("/adapters"))
            {
                continue;
            }
            let (status, answer) = raw(&socket, method, &sample, None);
            assert_eq!(status != 405, documented, "{method} {path}: {status}");
            if documented {
                let told = &item[method.to_lowercase()]["responses"][status.to_string()];
                assert!(told.is_object(), "{method} {path} answers {status}, which is not documented: {answer}");
            }
        }
        for (method, operation) in item.as_object().expect("methods") {
            for field in ["operationId", "responses", "tags", "summary"] {
                assert!(!operation[field].is_null(), "{method} {path} has no {field}");
            }
            for (status, response) in operation["responses"].as_object().expect("responses") {
                let wrong = status.as_str() >= "400" && !path.starts_with("/health");
                let problem = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(problem.is_string(), wrong, "{method} {path} {status}");
            }
        }
    }
    // What is named in the document is in it.
    for rest in text.split("\"$ref\":\"").skip(1) {
        let name = rest.split('"').next().expect("a name").trim_start_matches("#/");
        assert!(document.pointer(&format!("/{name}")).is_some(), "{name}");
    }
}

#[test]
fn operators_pages_name_every_path() {
    let page = include_str!("../../../../docs/api.md");
    let house = house();
    for path in house.unix("/api/v1/openapi.json")["paths"].as_object().expect("paths").keys() {
        assert!(page.contains(&format!("`{path}`")), "{path} is not in docs/api.md");
    }
}
