//! The console: one page and what it is made of, built into the program. Enters: a path; leaves: a file. Never here: data;
//! the page asks the API for them, with the token of whoever looks.

use axum::Router;
use axum::http::header;
use axum::routing::get;

/// Nothing but what this box serves: no inline script, no style, no frame, no form that goes elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      media-src blob:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// Path, kind, content.
const FILES: [(&str, &str, &str); 12] = [
    ("/", "text/html; charset=utf-8", include_str!("console/index.html")),
    ("/console/style.css", "text/css; charset=utf-8", include_str!("console/style.css")),
    ("/console/icon.svg", "image/svg+xml", include_str!("console/icon.svg")),
    ("/console/main.js", SCRIPT, include_str!("console/main.js")),
    ("/console/api.js", SCRIPT, include_str!("console/api.js")),
    ("/console/box.js", SCRIPT, include_str!("console/box.js")),
    ("/console/dom.js", SCRIPT, include_str!("console/dom.js")),
    ("/console/events.js", SCRIPT, include_str!("console/events.js")),
    ("/console/known.js", SCRIPT, include_str!("console/known.js")),
    ("/console/live.js", SCRIPT, include_str!("console/live.js")),
    ("/console/past.js", SCRIPT, include_str!("console/past.js")),
    ("/console/turns.js", SCRIPT, include_str!("console/turns.js")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Its paths.
pub(super) fn paths<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, content)| {
        let about = [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, POLICY)];
        router.route(path, get(move || async move { (about, content) }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_needs_nothing_from_elsewhere() {
        let bytes: usize = FILES.iter().map(|(_, _, content)| content.len()).sum();
        assert!(bytes < 300_000, "{bytes}");
        for (path, _, content) in FILES {
            let icon = path.ends_with(".svg");
            assert!(icon || (!content.contains("http://") && !content.contains("https://")), "{path}");
            assert!(
                !content.contains("innerHTML") && !content.contains("eval("),
                "{path}: words of callers are no markup"
            );
        }
        // What the page names is there.
        let named: Vec<&str> = FILES[0].2.split('"').filter(|word| word.starts_with("/console/")).collect();
        assert!(named.len() > 5);
        for name in named {
            assert!(FILES.iter().any(|(path, ..)| *path == name), "{name}");
        }
    }
}
