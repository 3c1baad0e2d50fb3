//! New paths, authorities and locations: pure text.

use super::RequestFacts;
use crate::model::host;
use crate::model::route::{PathChange, Redirect, RedirectPort, RequestMatch, StringMatch};
use std::borrow::Cow;

/// `path` (with its query) after a change by the rule whose block matched. A query that the change brings is the only one.
pub(super) fn changed(path: &str, change: &PathChange, block: Option<&RequestMatch>) -> String {
    let (bare, query) = match path.split_once('?') {
        Some((bare, query)) => (bare, Some(query)),
        None => (path, None),
    };
    let mut new = changed_bare(bare, change, block).into_owned();
    if !new.starts_with('/') {
        new.insert(0, '/');
    }
    if let Some(query) = query.filter(|_| !new.contains('?')) {
        new.push('?');
        new.push_str(query);
    }
    new
}

fn changed_bare<'a>(bare: &'a str, change: &'a PathChange, block: Option<&RequestMatch>) -> Cow<'a, str> {
    match change {
        PathChange::Full(path) => Cow::Borrowed(path),
        PathChange::Prefix(new) => match matched_prefix(bare, block) {
            Some(length) => Cow::Owned(format!("{new}{}", bare.get(length..).unwrap_or_default())),
            None => Cow::Borrowed(new),
        },
        PathChange::PrefixSegments(new) => {
            let length = matched_prefix(bare, block).unwrap_or(0);
            let rest = bare.get(length..).unwrap_or_default().trim_start_matches('/');
            let new = new.trim_end_matches('/');
            match rest {
                "" if new.is_empty() => Cow::Borrowed("/"),
                "" => Cow::Borrowed(new),
                rest => Cow::Owned(format!("{new}/{rest}")),
            }
        }
        PathChange::Regex(change) => change.pattern.replace_all(bare, &*change.replacement),
    }
}

/// Length of what the block's prefix took; `None` where it has no prefix.
fn matched_prefix(bare: &str, block: Option<&RequestMatch>) -> Option<usize> {
    match &block?.uri {
        Some(StringMatch::Prefix(prefix) | StringMatch::PathPrefix(prefix)) => {
            Some(prefix.len()).filter(|length| *length <= bare.len())
        }
        _ => None,
    }
}

/// The `Location` of a redirect.
pub(super) fn location(
    redirect: &Redirect,
    request: &RequestFacts<'_>,
    block: Option<&RequestMatch>,
) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(request.scheme);
    let (own_host, own_port) = split_authority(request.authority);
    let port = match redirect.port {
        RedirectPort::Number(port) => Some(port),
        RedirectPort::OfScheme => None,
        RedirectPort::OfRequest => Some(request.port),
        RedirectPort::OfAuthority if redirect.host.is_some() => None,
        // With another scheme the old one's own port means nothing.
        RedirectPort::OfAuthority => {
            own_port.filter(|p| scheme == request.scheme || !is_default(request.scheme, *p))
        }
    };
    let host = redirect.host.as_deref().unwrap_or(own_host);
    let path = match &redirect.path {
        Some(change) => changed(request.path, change, block),
        None => request.path.to_owned(),
    };
    match port.filter(|port| !is_default(scheme, *port)) {
        Some(port) => format!("{scheme}://{host}:{port}{path}"),
        None => format!("{scheme}://{host}{path}"),
    }
}

fn is_default(scheme: &str, port: u16) -> bool {
    matches!((scheme, port), ("http", 80) | ("https", 443))
}

/// Host and port of an authority; the brackets of IPv6 stay.
fn split_authority(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()) => {
            (host, port.parse().ok())
        }
        Some((host, "")) => (host, None),
        _ => (authority, None),
    }
}

/// Whether a host of a rule, perhaps `*.suffix` kept as `.suffix`, covers an authority.
#[must_use]
pub fn covers(pattern: &str, authority: &str) -> bool {
    let host = host::canonical(authority);
    match pattern.strip_prefix('*').unwrap_or(pattern) {
        "" => true,
        suffix if suffix.starts_with('.') => host.len() > suffix.len() && host.ends_with(suffix),
        exact => *exact == *host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::route::RegexChange;
    use crate::model::snapshot::Target;
    use crate::routing::HeaderView;
    use regex::Regex;

    struct NoHeaders;

    impl HeaderView for NoHeaders {
        fn joined(&self, _: &str) -> Option<Cow<'_, str>> {
            None
        }
    }

    fn block(uri: StringMatch) -> RequestMatch {
        RequestMatch {
            uri: Some(uri),
            ..RequestMatch::default()
        }
    }

    #[test]
    fn a_prefix_is_replaced_as_text_by_istio_and_by_segments_by_gateway_api() {
        let text = |from: &str, to: &str, path: &str| {
            changed(
                path,
                &PathChange::Prefix(to.into()),
                Some(&block(StringMatch::Prefix(from.into()))),
            )
        };
        assert_eq!(text("/demo/", "/", "/demo/x?q=1"), "/x?q=1");
        assert_eq!(text("/demo", "/", "/demo/x"), "//x");
        assert_eq!(text("/demo", "/new", "/demo"), "/new");
        let segments = |from: &str, to: &str, path: &str| {
            changed(
                path,
                &PathChange::PrefixSegments(to.into()),
                Some(&block(StringMatch::PathPrefix(from.into()))),
            )
        };
        // The table of HTTPPathModifier.replacePrefixMatch.
        for (from, to, path, new) in [
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo", "/xyz", "/foo/", "/xyz"),
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "", "/foo/", "/"),
            ("/foo", "", "/foo", "/"),
            ("/foo", "/", "/foo/bar", "/bar"),
            ("/foo", "/", "/foo", "/"),
            ("", "/new", "/a/b?c", "/new/a/b?c"),
        ] {
            assert_eq!(segments(from, to, path), new, "{from} {to} {path}");
        }
    }

    #[test]
    fn without_a_prefix_match_the_whole_path_is_replaced() {
        let exact = block(StringMatch::Exact("/a".into()));
        let change = PathChange::Prefix("/b".into());
        assert_eq!(changed("/a?x=1", &change, Some(&exact)), "/b?x=1");
        assert_eq!(changed("/a/b/c", &change, None), "/b");
        assert_eq!(changed("/a", &PathChange::Full("b".into()), None), "/b");
    }

    #[test]
    fn a_regex_rewrite_uses_its_groups() {
        let change = PathChange::Regex(RegexChange {
            pattern: Regex::new("^/service/([^/]+)(/.*)$").unwrap(),
            replacement: "${2}/instance/${1}".into(),
        });
        assert_eq!(
            changed("/service/foo/v1/api?q", &change, None),
            "/v1/api/instance/foo?q"
        );
    }

    #[test]
    fn a_location_keeps_what_the_redirect_does_not_name() {
        let facts = |authority: &'static str| RequestFacts {
            client: None,
            gateway: None,
            dialled: None,
            target: &Target::Unknown,
            port: 8080,
            method: "GET",
            scheme: "http",
            authority,
            path: "/a?b=c",
            headers: &NoHeaders,
        };
        let to = |redirect: Redirect, authority: &'static str| location(&redirect, &facts(authority), None);
        let host = |host: &str| Redirect {
            host: Some(host.into()),
            ..Redirect::default()
        };
        assert_eq!(to(host("x.org"), "y:81"), "http://x.org/a?b=c");
        assert_eq!(to(Redirect::default(), "y:81"), "http://y:81/a?b=c");
        let https = Redirect {
            scheme: Some("https".into()),
            port: RedirectPort::OfScheme,
            ..Redirect::default()
        };
        assert_eq!(to(https, "[::1]:81"), "https://[::1]/a?b=c");
        let of_request = Redirect {
            port: RedirectPort::OfRequest,
            ..host("z")
        };
        assert_eq!(to(of_request, "y"), "http://z:8080/a?b=c");
        let default_port = Redirect {
            port: RedirectPort::Number(80),
            ..host("z")
        };
        assert_eq!(to(default_port, "y"), "http://z/a?b=c");
    }

    #[test]
    fn a_host_pattern_covers_what_it_names() {
        for (pattern, authority, covered) in [
            ("*", "anything", true),
            ("*.example.com", "a.b.example.com:80", true),
            (".example.com", "example.com", false),
            ("a.com", "A.com:8080", true),
            ("a.com", "b.a.com", false),
        ] {
            assert_eq!(covers(pattern, authority), covered, "{pattern} {authority}");
        }
    }
}
