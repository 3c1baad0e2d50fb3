//! CORS as Envoy's filter does it: a preflight is answered here, an actual request's answer is dressed.

use super::RequestFacts;
use super::conditions::holds;
use crate::model::route::{Cors, RouteApi, StringMatch};
use std::borrow::Cow;
use std::sync::Arc;

/// Response fields to set; what the destination said of them goes.
pub type Fields = Vec<(&'static str, String)>;

/// What a policy means for a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No `Origin`, or not one that is allowed.
    NotConcerned,
    /// A preflight, to be answered with 200 and these.
    Preflight(Fields),
    /// The answer gets these.
    Dress(Fields),
}

/// Applies a policy. A preflight is an `OPTIONS` with `Origin` and `Access-Control-Request-Method` (Fetch § 3.2.2).
pub(super) fn judge(cors: &Cors, api: RouteApi, request: &RequestFacts<'_>) -> Verdict {
    let field = |name: &str| request.headers.joined(name).filter(|v| !v.is_empty());
    let Some(origin) = field("origin") else {
        return Verdict::NotConcerned;
    };
    let allowed = cors.allow_origins.iter().any(|wanted| admits(wanted, &origin));
    let asked = if request.method == "OPTIONS" {
        field("access-control-request-method")
    } else {
        None
    };
    match (asked, allowed) {
        (None, true) => Verdict::Dress(actual(cors, origin)),
        (None, false) => Verdict::NotConcerned,
        (Some(_), false) if cors.forward_unmatched => Verdict::NotConcerned,
        (Some(_), false) => Verdict::Preflight(Fields::new()),
        (Some(method), true) => {
            let headers = field("access-control-request-headers");
            Verdict::Preflight(preflight(cors, api, origin, &method, headers))
        }
    }
}

/// Exactly `*` is every origin.
fn admits(wanted: &StringMatch, origin: &str) -> bool {
    matches!(wanted, StringMatch::Exact(all) if &**all == "*") || holds(wanted, origin)
}

fn actual(cors: &Cors, origin: Cow<'_, str>) -> Fields {
    let mut fields = allow(cors, origin);
    fields.extend(exposed(cors));
    fields
}

/// In preflights as well: browsers do not ask for it there, but Envoy says it, and the Gateway API's suite wants it.
fn exposed(cors: &Cors) -> Option<(&'static str, String)> {
    let names = &cors.expose_headers;
    (!names.is_empty()).then(|| ("access-control-expose-headers", names.join(",")))
}

fn preflight(
    cors: &Cors,
    api: RouteApi,
    origin: Cow<'_, str>,
    method: &str,
    headers: Option<Cow<'_, str>>,
) -> Fields {
    let mut fields = allow(cors, origin);
    // With credentials `*` is a name like any other to a browser (Fetch § 3.2.5). HTTPRoute asks for what was requested
    // to be listed instead; Istio sends what is written.
    let echo = |list: &[Arc<str>], asked: Option<&str>| {
        let every = list.iter().any(|name| &**name == "*");
        match asked {
            Some(asked) if every && cors.allow_credentials && api == RouteApi::Gateway => asked.to_owned(),
            _ => list.join(","),
        }
    };
    if !cors.allow_methods.is_empty() {
        let value = echo(&cors.allow_methods, Some(method));
        fields.push(("access-control-allow-methods", value));
    }
    if !cors.allow_headers.is_empty() {
        let value = echo(&cors.allow_headers, headers.as_deref());
        fields.push(("access-control-allow-headers", value));
    }
    fields.extend(exposed(cors));
    if let Some(age) = cors.max_age {
        fields.push(("access-control-max-age", age.as_secs().to_string()));
    }
    fields
}

fn allow(cors: &Cors, origin: Cow<'_, str>) -> Fields {
    let mut fields = vec![("access-control-allow-origin", origin.into_owned())];
    if cors.allow_credentials {
        fields.push(("access-control-allow-credentials", "true".to_owned()));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::Target;
    use crate::routing::HeaderView;
    use std::time::Duration;

    struct Headers(&'static [(&'static str, &'static str)]);

    impl HeaderView for Headers {
        fn joined(&self, name: &str) -> Option<Cow<'_, str>> {
            let found = self.0.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| Cow::Borrowed(*v))
        }
    }

    fn policy() -> Cors {
        Cors {
            allow_origins: vec![StringMatch::Exact("https://a.example".into())],
            allow_methods: vec!["GET".into(), "POST".into()],
            allow_headers: vec!["x-one".into(), "x-two".into()],
            expose_headers: vec!["x-out".into()],
            max_age: Some(Duration::from_secs(86_400)),
            allow_credentials: false,
            forward_unmatched: true,
        }
    }

    fn judged(
        cors: &Cors,
        api: RouteApi,
        method: &str,
        headers: &'static [(&'static str, &'static str)],
    ) -> Verdict {
        let facts = RequestFacts {
            client: None,
            gateway: None,
            dialled: None,
            target: &Target::Unknown,
            port: 80,
            method,
            scheme: "http",
            authority: "a",
            path: "/",
            headers: &Headers(headers),
        };
        judge(cors, api, &facts)
    }

    const PREFLIGHT: &[(&str, &str)] = &[
        ("origin", "https://a.example"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-three"),
    ];

    #[test]
    fn a_preflight_is_answered_with_everything_that_is_allowed() {
        let Verdict::Preflight(fields) = judged(&policy(), RouteApi::Istio, "OPTIONS", PREFLIGHT) else {
            panic!("no preflight");
        };
        let wanted = [
            ("access-control-allow-origin", "https://a.example"),
            ("access-control-allow-methods", "GET,POST"),
            ("access-control-allow-headers", "x-one,x-two"),
            ("access-control-expose-headers", "x-out"),
            ("access-control-max-age", "86400"),
        ];
        assert_eq!(fields, wanted.map(|(n, v)| (n, v.to_owned())));
    }

    #[test]
    fn an_actual_request_gets_its_answer_dressed_and_a_strange_origin_nothing() {
        let credentials = Cors {
            allow_credentials: true,
            ..policy()
        };
        let known = &[("origin", "https://a.example")];
        let wanted = [
            ("access-control-allow-origin", "https://a.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-out"),
        ];
        assert_eq!(
            judged(&credentials, RouteApi::Istio, "GET", known),
            Verdict::Dress(wanted.map(|(n, v)| (n, v.to_owned())).to_vec())
        );
        let strange = &[("origin", "https://b.example")];
        assert_eq!(
            judged(&policy(), RouteApi::Istio, "GET", strange),
            Verdict::NotConcerned
        );
        assert_eq!(
            judged(&policy(), RouteApi::Istio, "GET", &[]),
            Verdict::NotConcerned
        );
        assert!(matches!(
            judged(&policy(), RouteApi::Istio, "OPTIONS", known),
            Verdict::Dress(_)
        ));
    }

    #[test]
    fn a_preflight_of_a_strange_origin_goes_on_or_is_answered_with_nothing() {
        let strange: &[(&str, &str)] = &[
            ("origin", "https://b.example"),
            ("access-control-request-method", "PUT"),
        ];
        assert_eq!(
            judged(&policy(), RouteApi::Istio, "OPTIONS", strange),
            Verdict::NotConcerned
        );
        let ignoring = Cors {
            forward_unmatched: false,
            ..policy()
        };
        assert_eq!(
            judged(&ignoring, RouteApi::Istio, "OPTIONS", strange),
            Verdict::Preflight(Fields::new())
        );
    }

    #[test]
    fn a_star_is_every_origin_and_with_credentials_what_was_asked_for_by_gateway_api() {
        let all = Cors {
            allow_origins: vec![StringMatch::Exact("*".into())],
            allow_methods: vec!["*".into()],
            allow_headers: vec!["*".into()],
            allow_credentials: true,
            max_age: None,
            ..policy()
        };
        let value = |api, name: &str| match judged(&all, api, "OPTIONS", PREFLIGHT) {
            Verdict::Preflight(fields) => fields.into_iter().find(|(n, _)| *n == name).map(|(_, v)| v),
            _ => None,
        };
        let (methods, headers) = ("access-control-allow-methods", "access-control-allow-headers");
        assert_eq!(value(RouteApi::Gateway, methods).as_deref(), Some("PUT"));
        assert_eq!(value(RouteApi::Gateway, headers).as_deref(), Some("x-three"));
        assert_eq!(value(RouteApi::Istio, methods).as_deref(), Some("*"));
        let origin = value(RouteApi::Istio, "access-control-allow-origin");
        assert_eq!(origin.as_deref(), Some("https://a.example"));
    }
}
